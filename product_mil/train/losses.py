"""Losses as (sum, count), divided once over the whole global batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from product_mil.batch import Slots
from product_mil.model import segments
from product_mil.model.heads import HeadOutput


class Sum(NamedTuple):
    """A sum over items and their number."""

    total: Float[Array, ""]
    items: Float[Array, ""]

    def mean(self) -> Float[Array, ""]:
        """The mean, 0 over nothing."""
        return self.total / jnp.maximum(self.items, 1)


def cross_entropy(
    logits: Float[Array, "*e k"], label: Int[Array, "*e"], smoothing: float
) -> Float[Array, "*e"]:
    """-log p of the label, mixed with the uniform distribution (Szegedy et al. 2016).

    A negative label stands for class 0 and has to be masked by the caller.
    """
    log_probs = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_probs, jnp.maximum(label, 0)[..., None], -1)[..., 0]
    return -(1 - smoothing) * of_label - smoothing * log_probs.mean(-1)


def masked_sum(values: Float[Array, "*e"], mask: Bool[Array, "*e"]) -> Sum:
    """Sum and count where the mask is true; what lies elsewhere cannot touch either."""
    return Sum(jnp.where(mask, values, 0).sum(), mask.sum().astype(values.dtype))


def product_loss(output: HeadOutput, slots: Slots, smoothing: float) -> Sum:
    """Cross-entropy of products that have a label and at least one readable image."""
    label = jnp.asarray(slots.label)
    has_image = segments.image_counts(slots.segment, label.shape[1]) > 0
    return masked_sum(cross_entropy(output.logits, label, smoothing), (label >= 0) & has_image)


def image_loss(output: HeadOutput, slots: Slots, smoothing: float) -> Sum:
    """Cross-entropy of each image against its product's label.

    Raises:
        ValueError: the head has no image logits.
    """
    if output.image_logits is None:
        raise ValueError("this head has no image logits")
    label = segments.spread(jnp.asarray(slots.label) + 1, slots.segment) - 1  # padding: -1
    return masked_sum(cross_entropy(output.image_logits, label, smoothing), label >= 0)
