"""The heads that sit on a backbone's embeddings: Pr(Y | x1..xn) of packed products.

A head maps embeddings `[S, n, d]` of packed images to one categorical distribution a product.
It never learns which backbone made them. `key` turns dropout on; None means inference.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model import initializers
from product_mil.model.packing import Packing
from product_mil.model.pooling import Pooling, build_pooling, linear

# Places and counts from here on share one embedding; Cdiscount's products have at most 4 images.
MAX_PLACES = 8

# The layers of heads whose last axis is the classes.
CLASS_LAYERS = ("classify", "classify_image", "correct")


class HeadOutput(NamedTuple):
    """What a head says of a packed batch."""

    logits: Float[Array, "S p k"]  # of products; softmax gives the probabilities
    image_logits: Float[Array, "S n k"] | None  # of single images, where the head has them
    attention: Float[Array, "S n"]  # share of each image in its product; 0 for padding


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
            x = x + self.position[...][jnp.minimum(packing.position, MAX_PLACES - 1)]
        if self.count is not None:
            counts = packing.spread(packing.image_counts()).astype(jnp.int32)
            x = x + self.count[...][jnp.clip(counts - 1, 0, MAX_PLACES - 1)]
        return x


def classifier(dim: int, classes: int, rngs: nnx.Rngs) -> nnx.Linear:
    """The last layer; small random weights, so that training starts near the uniform guess."""
    return linear(dim, classes, initializers.normal(0.01), rngs)


class ProbabilitiesHead(nnx.Module):
    """The averaged rival: classify each image, then take the mean of the probabilities."""

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
        pooled, attention = self.pooling(self.places(x, packing), packing)
        logits = self.classify(dropout(pooled, self.dropout_rate, key))  # S p k
        return HeadOutput(logits, None, attention)


class ResidualParts(NamedTuple):
    """What a `ResidualHead` adds up."""

    geometric: Float[Array, "S p k"]  # mean of the images' log-probabilities
    correction: Float[Array, "S p k"]  # logits of the images together
    image_logits: Float[Array, "S n k"]


class ResidualHead(nnx.Module):
    """The averaged model's image classifier, and a joint correction of its geometric mean.

    The image classifier learns from its own image-level loss exactly as in `ProbabilitiesHead`.
    The product's logits are the mean of its log-probabilities, as it would predict them (no
    dropout, gradient stopped), plus a correction: logits of the mean embedding, which start at 0
    and learn only what the images one by one do not explain. Attention in place of the mean
    overfits there (docs/heads.md).

    `trust` says how much of the correction counts in prediction, for products with one image and
    with several; `train.trust` fits it on validation products. With 0 the head is the geometric
    mean of the averaged model. Training always sees the whole correction.
    """

    trains_products: ClassVar[bool] = True
    trains_images: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        places: PlaceEmbedding,
        dropout_rate: float,
        rngs: nnx.Rngs,
    ):
        self.dropout_rate = dropout_rate
        self.classify_image = classifier(dim, classes, rngs)
        self.places = places
        self.correct = linear(dim, classes, initializers.zeros, rngs)
        # A statistic of the data, not a parameter: no gradient ever moves it.
        self.trust = nnx.BatchStat(jnp.asarray(np.ones(2, np.float32)))

    def parts(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> ResidualParts:
        """The geometric mean and its correction, before they are added."""
        # The key itself goes to the images, as in `ProbabilitiesHead`: the same dropout there.
        product_key = None if key is None else jax.random.fold_in(key, 1)
        image_logits = self.classify_image(dropout(x, self.dropout_rate, key))  # S n k
        as_predicted = jax.nn.log_softmax(self.classify_image(x))
        geometric = packing.mean(jax.lax.stop_gradient(as_predicted))
        pooled = packing.mean(self.places(x, packing))  # S p d
        correction = self.correct(dropout(pooled, self.dropout_rate, product_key))  # S p k
        return ResidualParts(geometric, correction, image_logits)

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Classify each image, then correct their geometric mean."""
        parts = self.parts(x, packing, key)
        correction = parts.correction
        if key is None:
            several = (packing.image_counts() > 1).astype(jnp.int32)
            correction = correction * self.trust[...][several][..., None]
        logits = parts.geometric + correction
        return HeadOutput(logits, parts.image_logits, packing.uniform_attention())


Head = ProbabilitiesHead | PooledHead | ResidualHead


def build_head(
    pooling: str,
    *,
    dim: int,
    classes: int,
    attention_heads: int,
    attention_dim: int,
    dropout_rate: float,
    position_embedding: bool,
    count_embedding: bool,
    rngs: nnx.Rngs,
) -> Head:
    """The head called `pooling`.

    Raises:
        ValueError: no such pooling, or `attention_heads` does not divide `dim`.
    """
    if pooling == "probabilities":
        return ProbabilitiesHead(dim, classes, dropout_rate=dropout_rate, rngs=rngs)
    places = PlaceEmbedding(dim, position=position_embedding, count=count_embedding)
    if pooling == "residual":
        return ResidualHead(dim, classes, places=places, dropout_rate=dropout_rate, rngs=rngs)
    pool = build_pooling(
        pooling, dim=dim, attention_heads=attention_heads, attention_dim=attention_dim, rngs=rngs
    )
    return PooledHead(
        dim, classes, places=places, pooling=pool, dropout_rate=dropout_rate, rngs=rngs
    )
