"""The averaged model, with which joint heads are compared: it classifies each image by itself."""

from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model.heads.common import Head, HeadOutput, classifier, dropout
from product_mil.model.heads.spec import HeadSpec
from product_mil.model.packing import Packing


class ProbabilitiesHead(Head):
    """The averaged model: classify each image, then take the mean of the probabilities."""

    trains_products: ClassVar[bool] = False
    trains_images: ClassVar[bool] = True

    def __init__(self, dim: int, classes: int, *, dropout_rate: float, rngs: nnx.Rngs):
        self.dropout_rate = dropout_rate
        self.classify = classifier(dim, classes, rngs)

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Product logits are the logarithm of the averaged probabilities."""
        image_logits = self.classify(dropout(x, self.dropout_rate, key))  # S n k
        log_probs = jax.nn.log_softmax(image_logits)
        logits = packing.log_mean_exp(log_probs)  # S p k
        return HeadOutput(logits, image_logits, packing.uniform_attention())


SPEC = HeadSpec(
    "probabilities",
    ProbabilitiesHead,
    "each image classified, probabilities averaged",
    averages=True,
)
