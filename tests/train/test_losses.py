from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.batch import Slots
from product_mil.model.heads.common import HeadOutput
from product_mil.train.losses import (
    Target,
    cross_entropy,
    group_cross_entropy,
    image_loss,
    masked_sum,
    product_loss,
    target_loss,
)

K = 5
# Shard 0: products of 1 and 2 images, one without any, one unlabelled; shard 1: one product.
SEGMENT = jnp.asarray([[0, 1, 1, 3, 4], [4, 0, 4, 0, 4]], jnp.int32)
LABEL = jnp.asarray([[2, 0, 1, -1], [4, -1, -1, -1]], jnp.int32)
SLOTS = Slots(SEGMENT, jnp.zeros((2, 5), jnp.int32), LABEL)
RNG = np.random.default_rng(0)
OUTPUT: Any = HeadOutput(
    jnp.asarray(RNG.normal(size=(2, 4, K)), jnp.float32),
    jnp.asarray(RNG.normal(size=(2, 5, K)), jnp.float32),
    jnp.zeros((2, 5)),
)


def by_hand(logits: Any, label: Any, smoothing: float) -> float:
    logits = np.asarray(logits, np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    target = (1 - smoothing) * np.eye(K)[label] + smoothing / K
    return float(-(target * np.log(probabilities)).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_product_loss_by_hand(smoothing: float) -> None:
    """Without products that lack an image or a label."""
    found = product_loss(OUTPUT, SLOTS, Target(smoothing))
    wanted = [
        by_hand(OUTPUT.logits[s, p], LABEL[s, p], smoothing) for s, p in ((0, 0), (0, 1), (1, 0))
    ]
    np.testing.assert_allclose(found.total, sum(wanted), rtol=1e-6)
    assert found.items == 3
    np.testing.assert_allclose(found.mean(), np.mean(wanted), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_image_loss_by_hand(smoothing: float) -> None:
    found = image_loss(OUTPUT, SLOTS, Target(smoothing))
    images = [(0, 0, 2), (0, 1, 0), (0, 2, 0), (1, 1, 4), (1, 3, 4)]
    wanted = [by_hand(OUTPUT.image_logits[s, j], label, smoothing) for s, j, label in images]
    np.testing.assert_allclose(found.total, sum(wanted), rtol=1e-6)
    assert found.items == 5


def test_image_loss_by_attention_by_hand() -> None:
    attention = jnp.asarray([[1.0, 0.8, 0.2, 1.0, 0.0], [0.0, 0.7, 0.0, 0.3, 0.0]])
    output = OUTPUT._replace(attention=attention)
    images = [(0, 0, 2, 1.0), (0, 1, 0, 1.6), (0, 2, 0, 0.4), (1, 1, 4, 1.4), (1, 3, 4, 0.6)]
    wanted = [w * by_hand(output.image_logits[s, j], label, 0) for s, j, label, w in images]
    found = image_loss(output, SLOTS, Target(), by_attention=jnp.asarray(True))
    np.testing.assert_allclose(found.total, sum(wanted), rtol=1e-6)
    assert found.items == 5
    equal = image_loss(output, SLOTS, Target(), by_attention=jnp.asarray(False))
    np.testing.assert_allclose(equal.total, image_loss(output, SLOTS, Target()).total, rtol=1e-6)


def test_attention_learns_nothing_from_the_loss_that_it_weights() -> None:
    def total(attention: jax.Array) -> jax.Array:
        output = OUTPUT._replace(attention=attention)
        return image_loss(output, SLOTS, Target(), by_attention=jnp.asarray(True)).total

    np.testing.assert_array_equal(jax.grad(total)(jnp.full((2, 5), 0.5)), 0)


def test_unlabelled_and_padding_have_no_weight() -> None:
    def total(output: HeadOutput) -> jax.Array:
        return (
            product_loss(output, SLOTS, Target(0.1)).total
            + image_loss(output, SLOTS, Target(0.1)).total
        )

    gradient = jax.grad(total)(OUTPUT)
    for s in range(2):
        for product in range(4):
            moved = bool(np.any(gradient.logits[s, product]))
            assert moved == ((s, product) in ((0, 0), (0, 1), (1, 0)))
        for image in range(5):
            moved = bool(np.any(gradient.image_logits[s, image]))
            assert moved == ((s, image) in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 3)))
    poisoned = OUTPUT._replace(
        logits=OUTPUT.logits.at[0, 3].set(jnp.nan),
        image_logits=OUTPUT.image_logits.at[0, 3].set(jnp.nan).at[1, 0].set(jnp.inf),
    )
    assert total(poisoned) == total(OUTPUT)


def test_nothing_labelled_gives_zero() -> None:
    slots = SLOTS._replace(label=jnp.full((2, 4), -1, jnp.int32))
    for loss in (product_loss(OUTPUT, slots, Target()), image_loss(OUTPUT, slots, Target())):
        assert loss.mean() == 0
        assert loss.items == 0


def test_sums_of_shards_add_up() -> None:
    whole = product_loss(OUTPUT, SLOTS, Target())
    parts = [
        product_loss(
            jax.tree.map(lambda x, s=s: x[s : s + 1], OUTPUT),
            Slots(*(x[s : s + 1] for x in SLOTS)),
            Target(),
        )
        for s in range(2)
    ]
    np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-6)
    assert sum(part.items for part in parts) == whole.items


def test_head_without_image_logits() -> None:
    with pytest.raises(ValueError, match="no image logits"):
        image_loss(OUTPUT._replace(image_logits=None), SLOTS, Target())


def test_masked_sum_of_nothing() -> None:
    empty = masked_sum(jnp.asarray([jnp.nan, 2.0]), jnp.asarray([False, False]))
    assert empty.total == 0
    assert empty.mean() == 0


def test_large_logits_are_finite() -> None:
    logits = jnp.asarray([1e4, 0.0, -1e4])
    assert np.isfinite(cross_entropy(logits, jnp.asarray(2), 0.1))


GROUPS = np.asarray([[0, 0, 0, 1, 1], [0, 0, 1, 2, 2]], np.int32)  # of 3 levels
DEEP = np.asarray([[0, 0, 0, 0, 0], *GROUPS[[0, 1, 1]], [0, 1, 2, 3, 3]], np.int32)  # of 6 levels


def summed_by_hand(logits: Any, label: int, groups: np.ndarray) -> float:
    probabilities = np.exp(np.asarray(logits, np.float64))
    probabilities /= probabilities.sum()
    return -float(
        np.log(sum(p for p, g in zip(probabilities, groups, strict=True) if g == groups[label]))
    )


def test_loss_of_the_levels_by_hand() -> None:
    """The label's loss and, weighted, that of the sums over its groups at levels 1 and 2."""
    target = Target(0.1, level_weights=(0.5, 0.25), groups=GROUPS)
    wanted = [
        by_hand(logits, label, 0.1)
        + 0.5 * summed_by_hand(logits, label, GROUPS[0])
        + 0.25 * summed_by_hand(logits, label, GROUPS[1])
        for logits, label in (
            (OUTPUT.logits[s, p], int(LABEL[s, p])) for s, p in ((0, 0), (0, 1), (1, 0))
        )
    ]
    np.testing.assert_allclose(product_loss(OUTPUT, SLOTS, target).total, sum(wanted), rtol=1e-6)
    only = Target(level_weights=(0.0, 2.0), groups=GROUPS)
    images = [(0, 0, 2), (0, 1, 0), (0, 2, 0), (1, 1, 4), (1, 3, 4)]
    wanted = [
        by_hand(OUTPUT.image_logits[s, j], label, 0.0)
        + 2 * summed_by_hand(OUTPUT.image_logits[s, j], label, GROUPS[1])
        for s, j, label in images
    ]
    np.testing.assert_allclose(image_loss(OUTPUT, SLOTS, only).total, sum(wanted), rtol=1e-6)


@pytest.mark.parametrize("groups", [DEEP[:0], GROUPS[:1], DEEP[:3], DEEP])
def test_losses_of_trees_of_other_depths(groups: np.ndarray) -> None:
    """1, 2, 4 and 6 levels, of which the last is the label's own."""
    weights = (0.5, 0.25, 2.0, 0.0, 1.0)[: len(groups)]
    target = Target(0.1, level_weights=weights, groups=groups)
    logits = jnp.asarray([0.3, -1.0, 2.0, 0.5, -0.2])
    for label in range(K):
        wanted = by_hand(logits, label, 0.1) + sum(
            weight * summed_by_hand(logits, label, level)
            for weight, level in zip(weights, groups, strict=True)
        )
        found = target_loss(logits, jnp.asarray(label), target)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_gradient_of_the_levels() -> None:
    """By hand, p_j - [j in group] p_j / P(group); no NaN where all the rest is impossible."""
    logits = jnp.asarray([0.3, -1.0, 2.0, 0.5, -0.2])
    probabilities = np.asarray(jax.nn.softmax(logits), np.float64)
    for label in range(K):
        for groups in GROUPS:
            found = jax.grad(
                lambda x, label=label, groups=groups: group_cross_entropy(
                    jax.nn.log_softmax(x), jnp.asarray(label), groups
                )
            )(logits)
            same = groups == groups[label]
            within = np.where(same, probabilities, 0) / probabilities[same].sum()
            np.testing.assert_allclose(found, probabilities - within, atol=1e-6)
    target = Target(level_weights=(1.0, 1.0), groups=GROUPS)
    extreme = jnp.asarray([1e4, 0.0, -1e4, -1e4, -1e4])
    for label in range(K):
        gradient = jax.grad(lambda x, label=label: target_loss(x, jnp.asarray(label), target))
        assert np.isfinite(gradient(extreme)).all()


def test_adjusted_logits_by_hand() -> None:
    """The loss of softmax(logits + tau log prior), also at the levels."""
    adjustment = np.log(np.asarray([0.5, 0.2, 0.2, 0.05, 0.05], np.float32))
    plain = Target(level_weights=(0.5, 0.0), groups=GROUPS)
    for label in range(K):
        logits = OUTPUT.logits[0, label % 4]
        np.testing.assert_allclose(
            target_loss(logits, jnp.asarray(label), plain._replace(adjustment=adjustment)),
            target_loss(logits + adjustment, jnp.asarray(label), plain),
            rtol=1e-6,
        )


def test_off_is_bit_equal() -> None:
    """Zero weights and no adjustment give the very program of the label's loss alone."""
    for target in (Target(0.1), Target(0.1, None, (0.0, 0.0), GROUPS)):
        found = product_loss(OUTPUT, SLOTS, target)
        values = cross_entropy(OUTPUT.logits, LABEL, 0.1)
        mask = jnp.asarray([[True, True, False, False], [True, False, False, False]])
        assert found.total == masked_sum(values, mask).total
        traced = str(jax.make_jaxpr(lambda x, t=target: target_loss(x, LABEL, t))(OUTPUT.logits))
        plain = str(jax.make_jaxpr(lambda x: cross_entropy(x, LABEL, 0.1))(OUTPUT.logits))
        assert traced == plain


def test_levels_need_groups() -> None:
    with pytest.raises(ValueError, match="needs the groups"):
        target_loss(OUTPUT.logits, LABEL, Target(level_weights=(1.0, 0.0)))
