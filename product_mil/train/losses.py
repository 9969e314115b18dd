"""Losses as sums with counts, which are divided once, over the whole batch of all devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from product_mil.batch import Slots
from product_mil.model.heads.common import HeadOutput
from product_mil.model.packing import packing_of


class Sum(NamedTuple):
    """A sum over items, and the number of items."""

    total: Float[Array, ""]
    items: Float[Array, ""]

    def mean(self) -> Float[Array, ""]:
        """The mean; 0 without items."""
        return self.out_of(self.items)

    def out_of(self, items: Num[Array, ""]) -> Float[Array, ""]:
        """What these items contribute to the mean over a larger number of items."""
        return self.total / jnp.maximum(items, 1)


class Target(NamedTuple):
    """Settings of the loss besides the label, which are all off by default.

    `adjustment` is added to the logits in the loss only. If it is tau times the logarithm of the
    class frequencies, the model learns logits as for balanced classes (Menon et al. 2021, equation
    10). `level_weights` are the weights of more terms, the cross-entropies of the groups at each
    level above that of the classes. The probability of a group is the sum over its classes.
    """

    smoothing: float = 0.0
    adjustment: Float[np.ndarray, " k"] | None = None
    level_weights: tuple[float, ...] = ()
    groups: Int[np.ndarray, "levels k"] | None = None  # of each class, at the level of each weight


def target_loss(
    logits: Float[Array, "*e k"], label: Int[Array, "*e"], target: Target
) -> Float[Array, "*e"]:
    """The loss of each item. The caller has to mask items whose label is negative.

    Raises:
        ValueError: there are level weights, but no groups.
    """
    if target.adjustment is not None:
        adjustment = jnp.asarray(target.adjustment, logits.dtype)
        logits = logits + adjustment.reshape((1,) * (logits.ndim - 1) + (-1,))
    loss = cross_entropy(logits, label, target.smoothing)
    if any(target.level_weights):
        if target.groups is None:
            raise ValueError("a loss at the levels of the tree needs the groups of the classes")
        log_probs = jax.nn.log_softmax(logits)
        for weight, groups in zip(target.level_weights, target.groups, strict=True):
            if weight:
                loss = loss + weight * group_cross_entropy(log_probs, label, groups)
    return loss


def group_cross_entropy(
    log_probs: Float[Array, "*e k"], label: Int[Array, "*e"], groups: Int[np.ndarray, " k"]
) -> Float[Array, "*e"]:
    """-log of the summed probability of all classes in the label's group."""
    of_class = jnp.asarray(groups)
    own = of_class[jnp.maximum(label, 0)][..., None]
    same = own == of_class.reshape((1,) * (log_probs.ndim - 1) + (-1,))
    # The sum is never empty, since it has the class of the label.
    return -jax.nn.logsumexp(jnp.where(same, log_probs, -jnp.inf), -1)


def cross_entropy(
    logits: Float[Array, "*e k"], label: Int[Array, "*e"], smoothing: float
) -> Float[Array, "*e"]:
    """The cross-entropy of the label, smoothed by the uniform distribution (Szegedy et al. 2016).

    A negative label counts as class 0, and has to be masked by the caller.
    """
    log_probs = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_probs, jnp.maximum(label, 0)[..., None], -1)[..., 0]
    return -(1 - smoothing) * of_label - smoothing * log_probs.mean(-1)


def masked_sum(values: Float[Array, "*e"], mask: Bool[Array, "*e"]) -> Sum:
    """Sum and count of the values where the mask is true; the others have no influence."""
    return Sum(jnp.where(mask, values, 0).sum(), mask.sum().astype(values.dtype))


def learned_products(slots: Slots) -> Bool[Array, "S p"]:
    """Which products have a label and at least one readable image."""
    return (jnp.asarray(slots.label) >= 0) & (packing_of(slots).image_counts() > 0)


def image_labels(slots: Slots) -> Int[Array, "S n"]:
    """The label of each image's product; -1 for padding, and if the product has none."""
    return packing_of(slots).spread(jnp.asarray(slots.label) + 1) - 1


def product_loss(output: HeadOutput, slots: Slots, target: Target) -> Sum:
    """The loss of products that have a label and at least one readable image."""
    label = jnp.asarray(slots.label)
    return masked_sum(target_loss(output.logits, label, target), learned_products(slots))


def image_loss(
    output: HeadOutput,
    slots: Slots,
    target: Target,
    by_attention: bool | Bool[Array, ""] = False,
) -> Sum:
    """The loss of each image with the label of its product.

    With `by_attention`, each image is weighted by its attention relative to uniform attention, so
    the weights of a product's images add up to their number. No gradient goes into the attention.

    Raises:
        ValueError: the head has no image logits.
    """
    if output.image_logits is None:
        raise ValueError("this head has no image logits")
    packing, label = packing_of(slots), image_labels(slots)
    loss = target_loss(output.image_logits, label, target)
    if by_attention is not False:
        relative = jax.lax.stop_gradient(output.attention) * packing.spread(packing.image_counts())
        loss = loss * jnp.where(by_attention, relative, 1)
    return masked_sum(loss, label >= 0)
