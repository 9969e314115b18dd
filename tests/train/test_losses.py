from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.batch import Slots
from product_mil.model.heads import HeadOutput
from product_mil.train.losses import cross_entropy, image_loss, masked_sum, product_loss

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
    found = product_loss(OUTPUT, SLOTS, smoothing)
    wanted = [
        by_hand(OUTPUT.logits[s, p], LABEL[s, p], smoothing) for s, p in ((0, 0), (0, 1), (1, 0))
    ]
    np.testing.assert_allclose(found.total, sum(wanted), rtol=1e-6)
    assert found.items == 3
    np.testing.assert_allclose(found.mean(), np.mean(wanted), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_image_loss_by_hand(smoothing: float) -> None:
    found = image_loss(OUTPUT, SLOTS, smoothing)
    images = [(0, 0, 2), (0, 1, 0), (0, 2, 0), (1, 1, 4), (1, 3, 4)]
    wanted = [by_hand(OUTPUT.image_logits[s, j], label, smoothing) for s, j, label in images]
    np.testing.assert_allclose(found.total, sum(wanted), rtol=1e-6)
    assert found.items == 5


def test_unlabelled_and_padding_have_no_weight() -> None:
    def total(output: HeadOutput) -> jax.Array:
        return product_loss(output, SLOTS, 0.1).total + image_loss(output, SLOTS, 0.1).total

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
    for loss in (product_loss(OUTPUT, slots, 0.0), image_loss(OUTPUT, slots, 0.0)):
        assert loss.mean() == 0
        assert loss.items == 0


def test_sums_of_shards_add_up() -> None:
    whole = product_loss(OUTPUT, SLOTS, 0.0)
    parts = [
        product_loss(
            jax.tree.map(lambda x, s=s: x[s : s + 1], OUTPUT),
            Slots(*(x[s : s + 1] for x in SLOTS)),
            0.0,
        )
        for s in range(2)
    ]
    np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-6)
    assert sum(part.items for part in parts) == whole.items


def test_head_without_image_logits() -> None:
    with pytest.raises(ValueError, match="no image logits"):
        image_loss(OUTPUT._replace(image_logits=None), SLOTS, 0.0)


def test_masked_sum_of_nothing() -> None:
    empty = masked_sum(jnp.asarray([jnp.nan, 2.0]), jnp.asarray([False, False]))
    assert empty.total == 0
    assert empty.mean() == 0


def test_large_logits_are_finite() -> None:
    logits = jnp.asarray([1e4, 0.0, -1e4])
    assert np.isfinite(cross_entropy(logits, jnp.asarray(2), 0.1))
