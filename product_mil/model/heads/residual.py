"""An image classifier, and a joint correction of what it says of a product's images."""

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
from product_mil.model.heads.pooling import Pooled, linear, pool_mean, pool_slices
from product_mil.model.heads.spec import PLACES, HeadSpec
from product_mil.model.layers import initializers
from product_mil.model.packing import Packing

RELEVANCE_HEADS = 16  # at most; each weighs its own slice of the embedding
RELEVANCE_SCALE = 100.0  # Adam moves weights by the learning rate, which alone would be too slow


class ResidualParts(NamedTuple):
    """What a `ResidualHead` adds up."""

    geometric: Float[Array, "S p k"]  # mean of the images' log-probabilities
    correction: Float[Array, "S p k"]  # logits of the images together
    image_logits: Float[Array, "S n k"]
    log_probs: Float[Array, "S n k"]  # of images, as prediction computes them; no gradient
    pooled: Pooled  # what the correction is computed from


class ResidualHead(Head):
    """The averaged model's image classifier, and a joint correction of its geometric mean.

    The image classifier learns from its own image-level loss exactly as in `ProbabilitiesHead`.
    The product's logits are the mean of its log-probabilities, as it would predict them (no
    dropout, gradient stopped), plus a correction: logits of the mean embedding, which start at 0
    and learn only what the images one by one do not explain.

    `trust` says how much of the correction counts in prediction, for products with one image and
    with several; `train.trust` fits it on validation products. With 0 the head is the geometric
    mean of the averaged model. Training always sees the whole correction.
    """

    trains_images: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        dropout_rate: float,
        position_embedding: bool,
        count_embedding: bool,
        rngs: nnx.Rngs,
    ):
        self.dropout_rate = dropout_rate
        self.classify_image = classifier(dim, classes, rngs)
        self.places = PlaceEmbedding(dim, position=position_embedding, count=count_embedding)
        self.correct = linear(dim, classes, initializers.zeros, rngs)
        # A statistic of the data, not a parameter: no gradient ever moves it.
        self.trust = nnx.BatchStat(jnp.asarray(np.ones(2, np.float32)))

    def pool(
        self, x: Float[Array, "S n d"], log_probs: Float[Array, "S n k"], packing: Packing
    ) -> Pooled:
        """The embedding that the correction reads: the mean, whatever the images look like."""
        del log_probs
        return pool_mean(x, packing)

    def parts(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> ResidualParts:
        """The geometric mean and its correction, before they are added."""
        # The key itself goes to the images, as in `ProbabilitiesHead`: the same dropout there.
        product_key = None if key is None else jax.random.fold_in(key, 1)
        image_logits = self.classify_image(dropout(x, self.dropout_rate, key))  # S n k
        log_probs = jax.lax.stop_gradient(jax.nn.log_softmax(self.classify_image(x)))
        pooled = self.pool(self.places(x, packing), log_probs, packing)
        correction = self.correct(dropout(pooled.embedding, self.dropout_rate, product_key))
        return ResidualParts(packing.mean(log_probs), correction, image_logits, log_probs, pooled)

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Classify each image, then correct their geometric mean."""
        parts = self.parts(x, packing, key)
        attention = parts.pooled.attention
        if key is not None:
            logits = parts.geometric + parts.correction
            return HeadOutput(logits, parts.image_logits, attention)
        several = (packing.image_counts() > 1).astype(jnp.int32)
        trust = self.trust[...][several][..., None]  # S p 1
        logits = parts.geometric + trust * parts.correction
        of_images = parts.log_probs * packing.uniform_attention()[..., None]  # S n k
        assert parts.pooled.terms is not None
        corrections = shares_of_layer(self.correct, parts.pooled.terms, packing)
        contributions = centred(of_images + packing.spread(trust) * corrections)
        return HeadOutput(logits, parts.image_logits, attention, contributions)


class PosteriorAttentionHead(ResidualHead):
    """A `ResidualHead` whose correction pools by attention that reads each image's posterior.

    The score of an image is linear in the probabilities that the image classifier gives it. So
    `relevance.kernel[k, h]` can be read: how much an image that looks like category k counts in
    slice h of the embedding, where only differences between categories matter. It starts at 0,
    so that pooling starts as the mean. An image's score depends on no other image.
    """

    def __init__(self, dim: int, classes: int, *, rngs: nnx.Rngs, **settings: Any):
        super().__init__(dim, classes, rngs=rngs, **settings)
        heads = math.gcd(dim, RELEVANCE_HEADS)  # equal slices for any embedding
        self.relevance = nnx.Linear(
            classes, heads, use_bias=False, kernel_init=initializers.zeros, rngs=rngs
        )

    def pool(
        self, x: Float[Array, "S n d"], log_probs: Float[Array, "S n k"], packing: Packing
    ) -> Pooled:
        """The mean weighted by relevance, slice by slice; attention is the slices' mean."""
        scores = RELEVANCE_SCALE * self.relevance(jnp.exp(log_probs))  # S n heads
        return pool_slices(x, packing.softmax(scores), packing)


_CLASS_AXES = {"classify_image": -1, "correct": -1}

SPECS = (
    HeadSpec(
        "residual",
        ResidualHead,
        "geometric mean of the images, corrected jointly",
        settings=PLACES,
        class_axes=_CLASS_AXES,
    ),
    HeadSpec(
        "posterior_attention",
        PosteriorAttentionHead,
        "geometric mean of the images, corrected by attention over them",
        settings=PLACES,
        class_axes={**_CLASS_AXES, "relevance": 0},
        attends=True,
    ),
)
