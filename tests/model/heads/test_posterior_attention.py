"""The attention that reads each image's own posterior, by value."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.batch import EmbeddedBatch, Slots
from product_mil.model.classifier import merge_model, split_model
from product_mil.model.packing import Packing
from tests.model.heads.head_cases import (
    KEY,
    LABEL,
    PLACE,
    SEGMENT,
    P,
    forward,
    head_model,
    run,
    split,
)

WIDE = np.random.default_rng(5).normal(size=(2, 7, 32)).astype(np.float32)
PRODUCTS = ((0, 0), (0, 1), (0, 2), (1, 0))


def wide(**options: Any) -> Any:
    return head_model("posterior_attention", dim=32, **options)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    exp = np.exp(x - x.max(axis, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)


def by_hand(head: Any, x: np.ndarray, trust: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of one product and its images' attention, as docs/measured/heads.md writes them."""
    kernel = lambda layer: np.asarray(layer.kernel[...], np.float64)  # noqa: E731
    bias = lambda layer: np.asarray(layer.bias[...], np.float64)  # noqa: E731
    classify, correct = head.classify_image, head.correct
    posterior = softmax(x.astype(np.float64) @ kernel(classify) + bias(classify), 1)
    attention = softmax(100 * posterior @ kernel(head.relevance), 0)  # images 16
    slices = np.split(x, 16, axis=1)
    z = np.concatenate([attention[:, h] @ part for h, part in enumerate(slices)])
    correction = z @ kernel(correct) + bias(correct)
    return np.log(posterior).mean(0) + trust * correction, attention.mean(1)


@pytest.mark.parametrize("trust", [1.0, 0.25])
def test_formula(trust: float) -> None:
    model = wide()
    assert model.head.relevance.kernel.shape == (5, 16)
    # Smaller than as shaken: attention that is neither uniform nor all on one image.
    model.head.relevance.kernel[...] = model.head.relevance.kernel[...] / 10
    model.head.trust[...] = jnp.full(2, trust)
    output = run(model, WIDE)
    largest = 0.0
    for shard, product in PRODUCTS:
        own = SEGMENT[shard] == product
        logits, attention = by_hand(model.head, WIDE[shard][own], trust)
        np.testing.assert_allclose(output.logits[shard, product], logits, atol=2e-5)
        np.testing.assert_allclose(np.asarray(output.attention)[shard][own], attention, atol=2e-5)
        largest = max(largest, np.ptp(attention))
    assert largest > 0.1  # some product is far from uniform


def test_starts_as_the_residual_head_and_one_image_is_the_mean() -> None:
    residual = head_model("residual", dim=32)
    fresh = wide()
    for name in ("classify_image", "correct"):
        setattr(fresh.head, name, getattr(residual.head, name))
    moved = wide()
    moved.head.classify_image, moved.head.correct = fresh.head.classify_image, fresh.head.correct
    fresh.head.relevance.kernel[...] = jnp.zeros((5, 16))
    wanted, start, later = (run(model, WIDE) for model in (residual, fresh, moved))
    np.testing.assert_allclose(start.logits, wanted.logits, atol=2e-6)
    np.testing.assert_allclose(start.attention, wanted.attention, atol=1e-7)
    assert later.attention[0, 0] == 1  # the only image of its product, exactly
    np.testing.assert_allclose(later.logits[0, 0], wanted.logits[0, 0], atol=2e-6)
    assert np.abs(later.logits[0, 1] - wanted.logits[0, 1]).max() > 1e-3


def test_adding_one_number_to_every_category_of_a_head_changes_nothing() -> None:
    """Probabilities add up to 1: only differences between categories have a meaning."""
    model, shifted = wide(), wide()
    model.head.relevance.kernel[...] = model.head.relevance.kernel[...] / 10
    offsets = jnp.linspace(-0.02, 0.02, 16)
    shifted.head.relevance.kernel[...] = model.head.relevance.kernel[...] + offsets[None]
    np.testing.assert_allclose(run(shifted, WIDE).attention, run(model, WIDE).attention, atol=1e-5)


@pytest.mark.parametrize(("dim", "heads"), [(32, 16), (192, 16), (8, 8), (36, 4), (7, 1)])
def test_slices_fit_any_embedding(dim: int, heads: int) -> None:
    x = np.random.default_rng(dim).normal(size=(2, 7, dim)).astype(np.float32)
    model = head_model("posterior_attention", dim=dim)
    assert model.head.relevance.kernel.shape == (5, heads)
    output = run(model, x)
    assert np.isfinite(output.logits).all()
    np.testing.assert_allclose(np.asarray(output.attention)[0][SEGMENT[0] == 1].sum(), 1, atol=1e-6)


def test_product_loss_moves_the_relevance_and_not_the_image_classifier() -> None:
    structure, parameters, statistics = split_model(wide())
    parameters["head/relevance/kernel"] = jnp.zeros((5, 16))  # also at the start
    slots = Slots(SEGMENT, PLACE, LABEL)

    def loss(parameters: dict) -> jax.Array:
        model = merge_model(structure, parameters, statistics)
        output = model(EmbeddedBatch(WIDE, slots), use_running_statistics=True, key=KEY)
        return jax.nn.log_softmax(output.logits)[..., 0].sum()

    gradient = jax.jit(jax.grad(loss))(parameters)
    assert np.abs(gradient["head/relevance/kernel"]).min() > 0
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(gradient[f"head/classify_image/{name}"], 0)


def test_certain_images_and_large_relevance_stay_finite() -> None:
    """Posteriors of exactly 0 and 1, and scores in the thousands."""
    model = wide()
    model.head.classify_image.kernel[...] = model.head.classify_image.kernel[...] * 1e4
    model.head.relevance.kernel[...] = model.head.relevance.kernel[...] * 1e4
    output = run(model, WIDE)
    for values in (output.logits, output.attention, output.contributions):
        assert np.isfinite(values).all()
    own = np.asarray(output.attention)[0][SEGMENT[0] == 1]
    np.testing.assert_allclose(own.sum(), 1, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(output.attention)[SEGMENT == P], 0)


def test_embeddings_in_bfloat16_are_near_those_in_float32() -> None:
    model = wide()
    model.head.relevance.kernel[...] = model.head.relevance.kernel[...] / 10
    structure, *arrays = split(model)
    batch = EmbeddedBatch(jnp.asarray(WIDE, jnp.bfloat16), Slots(SEGMENT, PLACE, LABEL))
    exact, rounded = run(model, WIDE), forward(structure, arrays, batch, None)
    assert rounded.logits.dtype == rounded.attention.dtype == jnp.float32
    np.testing.assert_allclose(rounded.attention, exact.attention, atol=0.03)
    np.testing.assert_allclose(rounded.logits[0, :3], exact.logits[0, :3], atol=0.1)


def test_as_many_categories_as_cdiscount() -> None:
    model = head_model("posterior_attention", dim=32, classes=5270)
    assert model.head.relevance.kernel.shape == (5270, 16)
    packing = Packing(jnp.asarray(SEGMENT), jnp.asarray(PLACE), P)
    output = jax.eval_shape(lambda x: model.head(x, packing, None), jnp.asarray(WIDE))
    assert output.logits.shape == (2, P, 5270)
    assert output.contributions.shape == (2, 7, 5270)
    assert output.attention.shape == (2, 7)
