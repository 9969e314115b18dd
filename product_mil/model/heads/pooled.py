"""One embedding for the product, then one classifier."""

from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model.heads.common import (
    HeadOutput,
    PlaceEmbedding,
    centred,
    classifier,
    dropout,
    shares_of_layer,
)
from product_mil.model.heads.pooling import Pooling
from product_mil.model.packing import Packing


class PooledHead(nnx.Module):
    """Pool a product's embeddings, then one linear layer."""

    trains_products: ClassVar[bool] = True
    trains_images: ClassVar[bool] = False

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        places: PlaceEmbedding,
        pooling: Pooling,
        dropout_rate: float,
        rngs: nnx.Rngs,
    ):
        self.dropout_rate = dropout_rate
        self.places = places
        self.pooling = pooling
        self.classify = classifier(dim, classes, rngs)

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Pool, then classify."""
        pooled = self.pooling(self.places(x, packing), packing)
        logits = self.classify(dropout(pooled.embedding, self.dropout_rate, key))  # S p k
        contributions = None
        if key is None and pooled.terms is not None:
            contributions = centred(shares_of_layer(self.classify, pooled.terms, packing))
        return HeadOutput(logits, None, pooled.attention, contributions)
