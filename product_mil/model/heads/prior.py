"""The floor of every comparison: the frequencies of the classes in training, whatever is shown."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model.heads.common import Head, HeadOutput
from product_mil.model.heads.spec import HeadSpec
from product_mil.model.packing import Packing

LOG_PRIOR = "head/log_prior"  # its path among the parameters


class PriorHead(Head):
    """Says the same of every product; nothing is learned step by step."""

    trains_products: ClassVar[bool] = False

    def __init__(self, dim: int, classes: int, *, dropout_rate: float, rngs: nnx.Rngs):
        del dim, dropout_rate, rngs
        self.log_prior = nnx.Param(jnp.asarray(np.full(classes, -np.log(classes), np.float32)))

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Log-frequencies as logits."""
        log_prior = self.log_prior[...]
        s, n = packing.segment.shape
        return HeadOutput(
            jnp.broadcast_to(log_prior, (s, packing.p, len(log_prior))),
            jnp.broadcast_to(log_prior, (s, n, len(log_prior))),
            packing.uniform_attention(),
        )


SPEC = HeadSpec(
    "prior",
    PriorHead,
    "class frequencies in training, whatever the images",
    class_axes={},
    takes_weights=False,
    is_counted=True,
)
