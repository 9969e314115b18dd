"""The three steps by value, on 1, 2 and 4 devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from product_mil.batch import EmbeddedBatch, PackedBatch
from product_mil.inference.step import (
    make_eval_step,
)
from product_mil.model.classifier import merge_model
from product_mil.train.augment import augment
from product_mil.train.state import initial_state, partition
from tests.train.tiny import (
    EVERYTHING,
    KEY,
    LOG_PRIOR,
    PX,
    D,
    N,
    P,
    S,
    batch_of,
    frozen_stage,
    host,
    model_of,
    prepared,
    start,
)


def test_training_moves_all_that_it_should() -> None:
    """Adam's count and moments, parameters, statistics and the average (flax's guide forgot)."""
    _, arrays, optimizer, step = prepared()
    state = start(arrays, optimizer)
    before = host(state)
    for i in range(3):
        state, loss = step(state, batch_of(i), KEY)
        assert np.isfinite(loss)
    after = host(state)
    assert after.step == 3
    leaves = jax.tree_util.tree_leaves_with_path(after.optimizer)
    counts = [leaf for path, leaf in leaves if "count" in jax.tree_util.keystr(path)]
    assert counts
    assert all(count == 3 for count in counts)
    moments = {jax.tree_util.keystr(p): leaf for p, leaf in leaves if leaf.ndim}
    assert len(moments) == 2 * len(after.trainable)
    for path, leaf in moments.items():
        assert np.any(leaf), path
    for part in ("trainable", "statistics", "ema"):
        for path, leaf in getattr(after, part).items():
            assert np.any(leaf != getattr(before, part)[path]), (part, path)
    assert after.totals["steps"] == 3
    labelled = sum((batch_of(i).slots.label >= 0).sum() for i in range(3))
    assert after.totals["products"] == labelled
    assert after.totals["images"] == sum((batch_of(i).slots.segment < P).sum() for i in range(3))


def test_running_average_and_ema_by_hand() -> None:
    _, arrays, optimizer, step = prepared()
    batch = batch_of(0)
    state = start(arrays, optimizer)
    before = host(state)
    after = host(step(state, batch, KEY)[0])
    real = (batch.slots.segment < P).reshape(-1)
    x = batch.images.reshape(S * N, -1)[real] / 127.5 - 1
    activations = x @ before.trainable["backbone/dense/kernel"]
    for name, value in (("mean", activations.mean(0)), ("var", activations.var(0))):
        path = f"backbone/norm/{name}"
        wanted = 0.9 * before.statistics[path] + 0.1 * value
        np.testing.assert_allclose(after.statistics[path], wanted, rtol=1e-4, atol=1e-5)


def test_the_average_of_the_parameters_by_hand() -> None:
    """Those after each step, weighted by 0.75 to the power of their age, and no earlier ones."""
    _, arrays, optimizer, step = prepared()
    state, seen = start(arrays, optimizer), []
    for number in range(4):
        state, _ = step(state, batch_of(number), KEY)
        after = host(state)
        seen.append(after.trainable)
        weights = 0.75 ** np.arange(number, -1, -1)
        for path, leaf in after.ema.items():
            wanted = np.average([each[path] for each in seen], axis=0, weights=weights)
            np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_partition_covers_every_leaf(trainable: str) -> None:
    _, parameters, _ = model_of()
    chosen, frozen = partition(parameters, trainable)
    assert chosen.keys() | frozen.keys() == parameters.keys()
    assert not chosen.keys() & frozen.keys()
    assert all(path.startswith("head/") for path in chosen) == (trainable == "head")
    with pytest.raises(ValueError, match="neck/kernel"):
        partition({**parameters, "neck/kernel": jnp.zeros(1)}, trainable)


def test_head_stage_leaves_the_backbone_bit_equal() -> None:
    _, arrays, optimizer, step = frozen_stage()
    state = start(arrays, optimizer, "head")
    before = host(state)
    for i in range(3):
        state, _ = step(state, batch_of(i), KEY)
    assert before.frozen
    for part in ("frozen", "statistics"):
        for path, leaf in getattr(before, part).items():
            np.testing.assert_array_equal(getattr(state, part)[path], leaf, err_msg=path)
    for path, leaf in before.trainable.items():
        assert np.any(state.trainable[path] != leaf), path
    assert all("backbone" not in str(p) for p, _ in jax.tree.leaves_with_path(state.optimizer))


def test_from_a_block_up_what_lies_below_stays_bit_equal() -> None:
    _, (parameters, statistics), optimizer, step = frozen_stage()
    blocks = ("dense", "norm")  # of TinyNet, in their order
    state = initial_state(
        parameters, statistics, optimizer, trainable="norm", blocks=blocks, with_ema=False
    )
    before = host(state)
    assert set(before.frozen) == {path for path in parameters if "backbone/dense" in path}
    for i in range(3):
        state, _ = step(state, batch_of(i), KEY)
    for part in ("frozen", "statistics"):
        for path, leaf in getattr(before, part).items():
            np.testing.assert_array_equal(getattr(state, part)[path], leaf, err_msg=path)
    for path, leaf in before.trainable.items():
        assert np.any(state.trainable[path] != leaf), path
    with pytest.raises(ValueError, match=r"'neck': expected head, all or one of \['dense', 'norm'"):
        partition(parameters, "neck", blocks)
    assert set(partition(parameters, "dense", blocks)[1]) == set()


def flops(lowered: Any) -> float:
    return lowered.cost_analysis()["flops"]


def test_head_stage_computes_no_gradient_of_the_backbone() -> None:
    structure, arrays, optimizer, step = frozen_stage()
    cost = {
        which: flops(
            step.lower(start(arrays, optimizer, which)._replace(ema=None), batch_of(0), KEY)
        )
        for which in ("head", "all")
    }
    evaluate: Any = make_eval_step(structure)
    forward_flops = flops(evaluate.lower(*arrays, batch_of(0), LOG_PRIOR))
    backbone = 2 * S * N * PX * PX * 3 * D
    assert forward_flops > backbone
    # Everything trained, the backbone's matrix product comes once more for its kernel.
    assert cost["all"] - cost["head"] > 0.9 * backbone
    assert cost["head"] - forward_flops < 0.9 * backbone


def test_state_is_donated() -> None:
    _, arrays, optimizer, step = prepared()
    state = start(arrays, optimizer)
    step(state, batch_of(0), KEY)
    assert all(leaf.is_deleted() for leaf in state.trainable.values())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(arrays))


def test_loss_falls_on_a_batch_learnt_by_heart() -> None:
    _, arrays, optimizer, step = prepared()
    state = start(arrays, optimizer)
    losses = []
    for _ in range(60):
        state, loss = step(state, batch_of(0), KEY)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]  # label smoothing keeps it above 0


@pytest.mark.parametrize("pooling", ["gated_attention", "probabilities", "posterior_attention"])
def test_garbage_and_unlabelled_change_no_bit_of_a_step(pooling: str) -> None:
    _, arrays, optimizer, step = prepared(pooling)
    batch = batch_of(0)
    images = batch.images.copy()
    images[batch.slots.segment == P] = 255
    a = host(step(start(arrays, optimizer), batch, KEY))
    b = host(step(start(arrays, optimizer), PackedBatch(images, batch.slots), KEY))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("pooling", ["gated_attention", "probabilities", "posterior_attention"])
@pytest.mark.parametrize("batch_statistics", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_batch_without_readable_images_harms_nothing(
    pooling: str, batch_statistics: bool
) -> None:
    """All pictures of a batch may be damaged: no NaN may stay in parameters or statistics."""
    _, arrays, optimizer, step = prepared(pooling, batch_statistics=batch_statistics)
    batch = batch_of(0)
    empty = batch.slots._replace(segment=np.full((S, N), P, np.int32))
    state, loss = step(start(arrays, optimizer), PackedBatch(batch.images, empty), KEY)
    assert loss == 0
    for path, leaf in jax.tree.leaves_with_path(host(state)):
        assert np.isfinite(leaf).all(), path


def test_every_parameter_moves_in_every_pooling() -> None:
    for pooling in ("probabilities", "max", "transformer", "posterior_attention"):
        _, arrays, optimizer, step = prepared(pooling)
        state = start(arrays, optimizer)
        for i in range(4):
            state, _ = step(state, batch_of(i), KEY)
        for path, leaf in arrays[0].items():
            assert np.any(state.trainable[path] != leaf), (pooling, path)


def test_dropout_is_keyed_by_seed_and_step() -> None:
    _, arrays, optimizer, step = prepared("mean", dropout_rate=0.5)

    def loss_at(number: int, key: Array) -> float:
        state = start(arrays, optimizer)._replace(step=jnp.asarray(number, jnp.int32))
        return float(step(state, batch_of(0), key)[1])

    assert loss_at(3, KEY) == loss_at(3, KEY)
    assert loss_at(3, KEY) != loss_at(4, KEY)
    assert loss_at(3, KEY) != loss_at(3, jax.random.key(1))


def test_augmentation_is_keyed_by_seed_and_step_and_reaches_the_net() -> None:
    _, arrays, optimizer, step = prepared("mean", ranges=EVERYTHING)
    plain = prepared("mean")[3]

    def loss_at(number: int, key: Array) -> float:
        state = start(arrays, optimizer)._replace(step=jnp.asarray(number, jnp.int32))
        return float(step(state, batch_of(0), key)[1])

    assert loss_at(3, KEY) == loss_at(3, KEY)
    assert loss_at(3, KEY) != loss_at(4, KEY)
    assert loss_at(3, KEY) != loss_at(3, jax.random.key(1))
    # The same images changed beforehand, and a step that changes nothing.
    key = jax.random.fold_in(jax.random.fold_in(KEY, 3), 1 << 20)
    batch = batch_of(0)
    changed = batch._replace(images=np.asarray(augment(jnp.asarray(batch.images), key, EVERYTHING)))
    state = start(arrays, optimizer)._replace(step=jnp.asarray(3, jnp.int32))
    assert loss_at(3, KEY) == pytest.approx(float(plain(state, changed, KEY)[1]), rel=1e-5)


@pytest.mark.parametrize(
    ("num_parts", "trainable"),
    [(2, "all"), *(pytest.param(*of, marks=pytest.mark.slow) for of in ((4, "all"), (2, "head")))],
)
def test_parts_add_up_to_the_whole_batch(num_parts: int, trainable: str) -> None:
    """With dropout and augmentation, and shards that hold unlike numbers of products."""
    options = {"batch_statistics": False, "ranges": EVERYTHING, "attention_weighted_from_step": 1}
    results = []
    with jax.enable_x64(True):
        for parts in (1, num_parts):
            _, arrays, rule, step = prepared.__wrapped__(
                "posterior_attention", 0.3, num_parts=parts, **options
            )
            arrays = jax.tree.map(lambda x: x.astype("float64"), arrays)
            state, losses = start(arrays, rule, trainable), []
            for number in range(3):
                state, loss = step(state, batch_of(number), KEY)
                losses.append(float(loss))
            results.append((losses, host(state)))
    (wanted, whole), (found, in_parts) = results
    np.testing.assert_allclose(found, wanted, rtol=1e-6)  # added up in float32
    for part in ("trainable", "statistics", "totals", "ema"):
        for path, leaf in (getattr(whole, part) or {}).items():
            rtol = 1e-6 if leaf.dtype == np.float32 else 1e-9  # totals are added up in float32
            np.testing.assert_allclose(  # images are augmented in float32
                getattr(in_parts, part)[path], leaf, rtol=rtol, atol=1e-7, err_msg=path
            )
    assert whole.step == in_parts.step == 3


def test_parts_refuse_statistics_of_the_batch() -> None:
    with pytest.raises(ValueError, match="whole batch at once"):
        prepared("mean", batch_statistics=True, num_parts=2)


def test_embedded_batches_train_the_same_head() -> None:
    """A head stage on embeddings equals one on pixels, where nothing augments."""
    structure, arrays, optimizer, step = frozen_stage()
    embed = jax.jit(
        lambda batch: merge_model(structure, *arrays).embed(batch, use_running_statistics=True)
    )
    a, b = (start(arrays, optimizer, "head") for _ in range(2))
    for i in range(3):
        batch = batch_of(i)
        embeddings = np.asarray(embed(batch))
        a, _ = step(a, batch, KEY)
        b, _ = step(b, EmbeddedBatch(embeddings, batch.slots), KEY)
    for path, leaf in a.trainable.items():
        np.testing.assert_allclose(b.trainable[path], leaf, rtol=1e-4, atol=1e-6)


def test_attention_weights_the_image_loss_from_its_step_on() -> None:
    """The classifier of images alone sees the difference, and only then."""
    path = "head/classify_image/kernel"
    after: dict[int | None, list[np.ndarray]] = {}
    for first in (None, 1):
        _, (parameters, statistics), rule, step = frozen_stage(
            "posterior_attention", optimizer="sgd", attention_weighted_from_step=first
        )
        relevance = np.random.default_rng(0).normal(size=parameters["head/relevance/kernel"].shape)
        shaken = {**parameters, "head/relevance/kernel": jnp.asarray(relevance, jnp.float32)}
        state, kernels = start((shaken, statistics), rule, "head"), []
        for number in range(2):
            state, _ = step(state, batch_of(number), jax.random.key(0))
            kernels.append(np.array(state.trainable[path]))
        after[first] = kernels
    np.testing.assert_allclose(after[1][0], after[None][0], rtol=1e-6)
    assert np.abs(after[1][1] - after[None][1]).max() > 1e-4
