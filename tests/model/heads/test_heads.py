"""The heads by value: who may influence whom, and what each one computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.errors import UserError
from product_mil.model.classifier import merge_model, split_model
from product_mil.model.heads.common import HeadOutput
from tests.model.heads.head_cases import (
    JOINT,
    KEY,
    NAMES,
    PLACE,
    SEGMENT,
    D,
    P,
    X,
    gradients,
    head_model,
    log_probs,
    run,
)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_images_does_not_matter(name: str) -> None:
    model = head_model(name, count_embedding=name != "probabilities")
    order = np.asarray([[3, 5, 0, 6, 2, 4, 1], [4, 6, 3, 0, 1, 2, 5]])
    take = lambda a: np.take_along_axis(a, order, 1)  # noqa: E731
    before = run(model)
    after = run(model, np.take_along_axis(X, order[..., None], 1), take(SEGMENT), take(PLACE))
    np.testing.assert_allclose(after.logits, before.logits, atol=2e-6)
    np.testing.assert_allclose(after.attention, take(np.asarray(before.attention)), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_neither_neighbours_nor_slots_matter(name: str) -> None:
    """Each product alone, in other slots of another shard, gets the same answer."""
    model = head_model(name, count_embedding=name != "probabilities")
    whole = run(model)
    for shard, product in ((0, 0), (0, 1), (0, 2), (1, 0)):
        own = SEGMENT[shard] == product
        x = np.full((2, 7, D), 5.0, np.float32)
        segment = np.full((2, 7), P, np.int32)
        place = np.zeros((2, 7), np.int32)
        slots = np.arange(7)[-own.sum() :]
        x[1 - shard, slots], segment[1 - shard, slots] = X[shard][own], 3
        place[1 - shard, slots] = PLACE[shard][own]
        alone = run(model, x, segment, place)
        np.testing.assert_allclose(
            alone.logits[1 - shard, 3], whole.logits[shard, product], atol=2e-6
        )
        np.testing.assert_allclose(
            alone.attention[1 - shard, slots], np.asarray(whole.attention)[shard][own], atol=1e-6
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, np.inf])
def test_padding_touches_no_bit(name: str, garbage: float) -> None:
    model = head_model(name, count_embedding=name != "probabilities")
    dirty = X.copy()
    dirty[SEGMENT == P] = garbage
    for x in (X, dirty):
        assert np.isfinite(run(model, x).attention).all()
    for a, b in zip(run(model), run(model, dirty), strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)
    clean_gradients, dirty_gradients = gradients(model, X), gradients(model, dirty)
    for path, gradient in clean_gradients.items():
        np.testing.assert_array_equal(gradient, dirty_gradients[path], err_msg=path)
        assert np.isfinite(gradient).all(), path


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_padding_is_finite(name: str) -> None:
    model = head_model(name, count_embedding=name != "probabilities")
    empty = np.full_like(SEGMENT, P)
    x = np.full_like(X, np.nan)
    output = run(model, x, empty)
    assert np.isfinite(output.logits).all()
    np.testing.assert_array_equal(output.attention, 0)
    for path, gradient in gradients(model, x, segment=empty).items():
        assert np.isfinite(gradient).all(), path


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_a_share(name: str) -> None:
    attention = run(head_model(name, count_embedding=name != "probabilities")).attention
    attention = np.asarray(attention)
    assert (attention >= 0).all()
    for shard in range(2):
        for product in range(P):
            own = attention[shard][SEGMENT[shard] == product]
            np.testing.assert_allclose(own.sum(), 1 if len(own) else 0, atol=1e-6)
    assert (attention[SEGMENT == P] == 0).all()


def test_probabilities_by_hand() -> None:
    model = head_model("probabilities")
    output = run(model)
    layer = model.head.classify
    logits = X @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for shard, product in ((0, 0), (0, 1), (0, 2), (1, 0)):
        wanted = probabilities[shard][SEGMENT[shard] == product].mean(0)
        np.testing.assert_allclose(np.exp(log_probs(output))[shard, product], wanted, rtol=1e-5)
        np.testing.assert_allclose(np.exp(output.logits[shard, product]), wanted, rtol=1e-5)
    real = SEGMENT < P
    np.testing.assert_allclose(np.asarray(output.image_logits)[real], logits[real], atol=1e-5)


def test_mean_and_max_by_hand() -> None:
    for name, reduce in (("mean", np.mean), ("max", np.max)):
        model = head_model(name)
        layer = model.head.classify
        for shard, product in ((0, 0), (0, 1), (1, 0)):
            pooled = reduce(X[shard][SEGMENT[shard] == product], axis=0)
            wanted = pooled @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
            np.testing.assert_allclose(run(model).logits[shard, product], wanted, atol=1e-5)


def test_max_attention_counts_the_maxima() -> None:
    attention = np.asarray(run(head_model("max")).attention)
    winners = X[0][SEGMENT[0] == 1].argmax(0)
    np.testing.assert_allclose(attention[0][SEGMENT[0] == 1], np.bincount(winners, minlength=3) / D)


def test_gated_attention_by_hand() -> None:
    """Equation 9 of Ilse et al. 2018, each head on its slice of the embedding."""
    model = head_model("gated_attention")
    head = model.head
    value, gate = head.pooling.value, head.pooling.gate
    own = SEGMENT[0] == 1
    x = X[0][own]
    affine = lambda layer: x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])  # noqa: E731
    hidden = np.tanh(affine(value)) / (1 + np.exp(-affine(gate)))
    scores = hidden @ np.asarray(head.pooling.score.kernel[...])
    weights = np.exp(scores) / np.exp(scores).sum(0)  # images heads
    pooled = np.concatenate([(weights[:, [j]] * x[:, j * 4 : j * 4 + 4]).sum(0) for j in range(2)])
    wanted = pooled @ np.asarray(head.classify.kernel[...]) + np.asarray(head.classify.bias[...])
    output = run(model)
    np.testing.assert_allclose(output.logits[0, 1], wanted, atol=1e-5)
    np.testing.assert_allclose(np.asarray(output.attention)[0][own], weights.mean(1), atol=1e-6)


def test_transformer_mixes_within_a_product_by_hand() -> None:
    model = head_model("transformer")
    head = model.head
    own = SEGMENT[0] == 1
    x = X[0][own].astype(np.float64)
    norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + head.pooling.norm.epsilon
    )
    norm = norm * np.asarray(head.pooling.norm.scale[...]) + np.asarray(head.pooling.norm.bias[...])
    layer = head.pooling.query_key_value
    mixed = (norm @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])).reshape(3, 6, 4)
    query, keys, value = mixed[:, :2], mixed[:, 2:4], mixed[:, 4:]
    rows = []
    for j in range(2):
        scores = query[:, j] @ keys[:, j].T / 2
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        rows.append(weights @ value[:, j])
    project = head.pooling.project
    x = (
        x
        + np.concatenate(rows, 1) @ np.asarray(project.kernel[...])
        + np.asarray(project.bias[...])
    )
    alone = head_model("gated_attention")
    alone.head.pooling, alone.head.classify = head.pooling.gated, head.classify
    padded = X.copy()
    padded[0][own] = x
    np.testing.assert_allclose(run(model).logits[0, 1], run(alone, padded).logits[0, 1], atol=2e-5)


@pytest.mark.parametrize("name", ["gated_attention", "transformer"])
def test_starts_as_the_mean(name: str) -> None:
    start = head_model(name, shaken=False)
    mean = head_model("mean", shaken=False)
    mean.head.classify = start.head.classify
    np.testing.assert_allclose(run(start).logits, run(mean).logits, atol=1e-6)
    np.testing.assert_allclose(run(start).attention, run(mean).attention, atol=1e-6)


def residual(one: float, several: float) -> Any:
    """The head with trust in its correction where there is one image, and where several."""
    model = head_model("residual")
    model.head.trust[...] = jnp.asarray([one, several], jnp.float32)
    return model


def test_residual_without_trust_is_averaged_on_single_images_and_geometric_on_several() -> None:
    model, averaged = residual(0, 0), head_model("probabilities")
    averaged.head.classify = model.head.classify_image
    a, b = run(model), run(averaged)
    np.testing.assert_allclose(log_probs(a)[0, 0], log_probs(b)[0, 0], atol=1e-5)
    assert np.abs(log_probs(a)[0, 1] - log_probs(b)[0, 1]).max() > 0.01
    real = SEGMENT < P
    np.testing.assert_allclose(
        np.asarray(a.image_logits)[real], np.asarray(b.image_logits)[real], atol=1e-6
    )
    of_images = np.asarray(jax.nn.log_softmax(a.image_logits))
    for shard, product in ((0, 1), (0, 2), (1, 0)):
        geometric = of_images[shard][SEGMENT[shard] == product].mean(0)
        np.testing.assert_allclose(a.logits[shard, product], geometric, atol=1e-5)


def test_residual_starts_geometric() -> None:
    output = run(head_model("residual", shaken=False))
    of_images = np.asarray(jax.nn.log_softmax(output.image_logits))
    wanted = of_images[0][SEGMENT[0] == 1].mean(0)
    np.testing.assert_allclose(output.logits[0, 1], wanted, atol=1e-6)


def test_residual_trust_scales_the_correction_of_its_kind_alone() -> None:
    none, full, half = (run(residual(*trust)).logits for trust in ((0, 0), (1, 1), (0.5, 1)))
    corrections = np.asarray(full - none)
    assert np.abs(corrections[0, :3]).min() > 0
    np.testing.assert_allclose(half[0, 0], none[0, 0] + corrections[0, 0] / 2, atol=1e-5)
    for shard, product in ((0, 1), (0, 2), (1, 0)):
        np.testing.assert_allclose(half[shard, product], full[shard, product], atol=1e-5)
    # Training sees the whole correction.
    np.testing.assert_array_equal(
        run(residual(0, 0), key=KEY).logits, run(residual(1, 1), key=KEY).logits
    )


def test_residual_trains_its_image_classifier_by_the_image_loss_alone() -> None:
    structure, parameters, statistics = split_model(head_model("residual"))

    def product_part(parameters: dict) -> jax.Array:
        return log_probs_sum(run(merge_model(structure, parameters, statistics)))

    def log_probs_sum(output: HeadOutput) -> jax.Array:
        return jax.nn.log_softmax(output.logits)[..., 0].sum()

    for path, gradient in jax.jit(jax.grad(product_part))(parameters).items():
        moved = bool(np.any(gradient))
        assert moved != path.startswith("head/classify_image/"), path


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("option", ["position_embedding", "count_embedding"])
def test_places_start_silent_then_matter(name: str, option: str) -> None:
    plain = run(head_model(name, shaken=False))
    silent = run(head_model(name, shaken=False, **{option: True}))
    np.testing.assert_allclose(silent.logits, plain.logits, atol=1e-6)
    model = head_model(name, **{option: True})
    if option == "position_embedding":
        other = run(model, place=np.where(SEGMENT == 1, PLACE + 1, PLACE).astype(np.int32))
    else:
        segment = SEGMENT.copy()
        segment[0, 3] = P  # product 1 loses an image that equals another
        x = X.copy()
        x[0, 3] = x[0, 2] = x[0, 1]
        full, other = run(model, x), run(model, x, segment)
        without = head_model(name)
        np.testing.assert_allclose(
            run(without, x).logits[0, 1], run(without, x, segment).logits[0, 1], atol=1e-5
        )
        assert np.abs(full.logits[0, 1] - other.logits[0, 1]).max() > 1e-3
        return
    assert np.abs(run(model).logits[0, 1] - other.logits[0, 1]).max() > 1e-3
    np.testing.assert_allclose(run(model).logits[0, 2], other.logits[0, 2], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_dropout(name: str) -> None:
    """Off without a key; with one a function of the key, its mean near the plain logits."""
    model, plain = head_model(name, dropout_rate=0.5), head_model(name)
    np.testing.assert_array_equal(run(model).logits, run(plain).logits)
    np.testing.assert_array_equal(run(model, key=KEY).logits, run(model, key=KEY).logits)
    other = jax.random.key(4)
    assert np.abs(run(model, key=KEY).logits - run(model, key=other).logits)[0, :3].max() > 1e-2
    if name == "mean":
        np.testing.assert_array_equal(run(plain, key=KEY).logits, run(plain).logits)
        many = np.mean([run(model, key=jax.random.key(s)).logits for s in range(200)], axis=0)
        np.testing.assert_allclose(many, run(plain).logits, atol=0.4)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = head_model(name, count_embedding=name != "probabilities")
    for path, gradient in gradients(model, X).items():
        assert np.any(gradient), path


@pytest.mark.parametrize("name", NAMES)
def test_layer_norm_of_what_the_head_reads(name: str) -> None:
    """As if the embeddings had come standardised; also for images alone, and in padding."""
    x64 = X.astype(np.float64)
    standardised = (x64 - x64.mean(-1, keepdims=True)) / x64.std(-1, keepdims=True)
    found = run(head_model(name, layer_norm=True))
    wanted = run(head_model(name), standardised.astype(np.float32))
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    alone = head_model(name, layer_norm=True).each_alone(jnp.asarray(X))
    wanted_alone = head_model(name).each_alone(jnp.asarray(standardised, jnp.float32))
    np.testing.assert_allclose(alone, wanted_alone, rtol=1e-4, atol=1e-4)
    for path, gradient in gradients(head_model(name, layer_norm=True), X).items():
        assert np.isfinite(gradient).all(), path


def test_wrong_names_and_heads() -> None:
    with pytest.raises(UserError, match=r"'median' is not known; .* product_mil\.heads\.register"):
        head_model("median")
    with pytest.raises(ValueError, match="does not divide"):
        head_model("gated_attention", attention_heads=3)
