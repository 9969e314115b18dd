"""The prior, which predicts the frequencies of the classes without looking at any image."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from product_mil.model.classifier import Arrays, Model
from product_mil.model.heads.prior import LOG_PRIOR
from product_mil.model.spec import BackboneSpec

NO_BACKBONE = "none"  # its name among the backbones


class NoBackbone(nnx.Module):
    """A backbone that gives every image the same embedding."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        del rngs, dtype

    def __call__(self, pixels: Array, **_: Any) -> Float[Array, "b 1"]:
        """Embed every image as 0."""
        return jnp.zeros((pixels.shape[0], 1), jnp.float32)


def with_log_prior(model: Model, log_prior: Float[np.ndarray, " k"]) -> Model:
    """The model with these logarithms of frequencies."""
    parameters: Arrays = {**model.parameters, LOG_PRIOR: jnp.asarray(log_prior)}
    return Model(model.structure, parameters, model.statistics)


SPEC = BackboneSpec(NO_BACKBONE, NoBackbone, embedding_dim=1, image_size_px=180)
