"""One embedding for the product, then one classifier."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model.heads.common import (
    Head,
    HeadOutput,
    PlaceEmbedding,
    centred,
    classifier,
    dropout,
    shares_of_layer,
)
from product_mil.model.heads.pooling import (
    GatedAttention,
    MaxPooling,
    MeanPooling,
    Pooling,
    SelfAttention,
)
from product_mil.model.heads.spec import ATTENTION, PLACES, HeadSpec
from product_mil.model.packing import Packing


class PooledHead(Head):
    """Pool a product's embeddings, then one linear layer."""

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


def _over(pooling: Callable[..., Pooling]) -> Callable[..., PooledHead]:
    """A builder of heads that pool in this way; `attention` goes to the pooling."""

    def build(
        dim: int,
        classes: int,
        *,
        dropout_rate: float,
        position_embedding: bool,
        count_embedding: bool,
        rngs: nnx.Rngs,
        **attention: Any,
    ) -> PooledHead:
        places = PlaceEmbedding(dim, position=position_embedding, count=count_embedding)
        pool = pooling(dim, rngs=rngs, **attention)
        return PooledHead(
            dim, classes, places=places, pooling=pool, dropout_rate=dropout_rate, rngs=rngs
        )

    return build


SPECS = (
    HeadSpec(
        "mean",
        _over(MeanPooling),
        "mean of the images' embeddings, then classified",
        settings=PLACES,
    ),
    HeadSpec(
        "max",
        _over(MaxPooling),
        "elementwise maximum of the embeddings, then classified",
        settings=PLACES,
        attends=True,
    ),
    HeadSpec(
        "gated_attention",
        _over(GatedAttention),
        "attention over the images, then classified",
        settings=ATTENTION + PLACES,
        attends=True,
    ),
    HeadSpec(
        "transformer",
        _over(SelfAttention),
        "images attend to each other, then classified",
        settings=ATTENTION + PLACES,
        attends=True,
    ),
)
