"""The floor of every comparison: the frequencies of the classes in training, whatever is shown."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model.classifier import Arrays, Model
from product_mil.model.heads import HeadOutput
from product_mil.model.packing import Packing
from product_mil.model.spec import BackboneSpec

NO_BACKBONE = "none"  # its name among the backbones
LOG_PRIOR = "head/log_prior"


class NoBackbone(nnx.Module):
    """Sees nothing of any photo."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        del rngs, dtype

    def __call__(self, pixels: Array, **_: Any) -> Float[Array, "b 1"]:
        """Embed every photo as 0."""
        return jnp.zeros((pixels.shape[0], 1), jnp.float32)


class PriorHead(nnx.Module):
    """Says the same of every product; nothing is learned step by step."""

    trains_products: ClassVar[bool] = False
    trains_images: ClassVar[bool] = False

    def __init__(self, classes: int):
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


def with_log_prior(model: Model, log_prior: Float[np.ndarray, " k"]) -> Model:
    """The model with these log-frequencies."""
    parameters: Arrays = {**model.parameters, LOG_PRIOR: jnp.asarray(log_prior)}
    return Model(model.structure, parameters, model.statistics)


SPEC = BackboneSpec("none", NoBackbone, embedding_dim=1, image_size_px=180)
