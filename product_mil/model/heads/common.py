"""What a head says, and the parts that several heads have."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model.heads.pooling import linear
from product_mil.model.layers import initializers
from product_mil.model.packing import Packing

# Places and counts from here on share one embedding; Cdiscount's products have at most 4 images.
MAX_PLACES = 8


class HeadOutput(NamedTuple):
    """What a head says of a packed batch.

    `contributions` is given at inference by heads whose logits are a sum over a product's images.
    Over the images of a product the contributions add up to its logits minus their mean over the
    classes, which give the same probabilities.
    """

    logits: Float[Array, "S p k"]  # of products; softmax gives the probabilities
    image_logits: Float[Array, "S n k"] | None  # of single images, where the head has them
    attention: Float[Array, "S n"]  # share of each image in its product; 0 for padding
    contributions: Float[Array, "S n k"] | None = None  # of each image; 0 for padding


class Head(nnx.Module):
    """Embeddings of packed images to one categorical distribution a product.

    A head never learns which net made the embeddings. It says what its loss is taken of: products,
    the images one by one, or both.
    """

    trains_products: ClassVar[bool] = True
    trains_images: ClassVar[bool] = False

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Classify products; `key` turns dropout on, None means inference."""
        raise NotImplementedError


def dropout(x: Float[Array, "*e d"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*e d"]:
    """Inverted dropout (Srivastava et al. 2014); the identity without a key."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


class PlaceEmbedding(nnx.Module):
    """Adds what an image's place in its product, and the number of images, say; starts at 0."""

    def __init__(self, dim: int, *, position: bool, count: bool):
        zeros = np.zeros((MAX_PLACES, dim), np.float32)
        self.position = nnx.Param(jnp.asarray(zeros)) if position else None
        self.count = nnx.Param(jnp.asarray(zeros)) if count else None

    def __call__(self, x: Float[Array, "S n d"], packing: Packing) -> Float[Array, "S n d"]:
        """Add the embeddings that are on."""
        if self.position is not None:
            x = x + self.position[...][jnp.minimum(packing.image_index, MAX_PLACES - 1)]
        if self.count is not None:
            counts = packing.spread(packing.image_counts()).astype(jnp.int32)
            x = x + self.count[...][jnp.clip(counts - 1, 0, MAX_PLACES - 1)]
        return x


def classifier(dim: int, classes: int, rngs: nnx.Rngs) -> nnx.Linear:
    """The last layer; small random weights, so that training starts near the uniform guess."""
    return linear(dim, classes, initializers.normal(0.01), rngs)


def shares_of_layer(
    layer: nnx.Linear, terms: Float[Array, "S n d"], packing: Packing
) -> Float[Array, "S n k"]:
    """What each image adds to the layer's output for the sum of a product's `terms`.

    The bias is divided evenly among the product's images.
    """
    assert layer.bias is not None
    bias = packing.uniform_attention()[..., None] * layer.bias[...][None, None]  # S n k
    return terms @ layer.kernel[...] + bias


def centred(logits: Float[Array, "*e k"]) -> Float[Array, "*e k"]:
    """The logits minus their mean over the classes; their softmax is the same."""
    return logits - logits.mean(-1, keepdims=True)
