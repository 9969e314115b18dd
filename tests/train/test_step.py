"""The three steps by value, on 1, 2 and 4 devices."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from product_mil.batch import EmbeddedBatch, PackedBatch, Slots
from product_mil.devices.mesh import put_batch, replicate
from product_mil.inference.step import (
    largest,
    make_eval_step,
    make_predict_step,
)
from product_mil.model.classifier import Classifier, merge_model, split_model
from product_mil.model.heads.common import HeadOutput
from product_mil.model.warp import Views
from product_mil.train.augment import Ranges, augment
from product_mil.train.losses import Target
from product_mil.train.optim import make_optimizer
from product_mil.train.state import evaluated_parameters, initial_state, partition
from product_mil.train.step import make_train_step
from tests.model.heads.head_cases import built_head

S, N, P, D, K, PX = 4, 6, 4, 8, 5, 6
KEY = jax.random.key(0)
EVERYTHING = Ranges(0.5, 30.0, 10.0, 0.1, 0.2, 0.2, 0.3, 0.5)
LOG_PRIOR = np.log(np.asarray([0.1, 0.3, 0.2, 0.25, 0.15], np.float32))


class TinyNet(nnx.Module):
    """A matrix product and a BatchNorm: all that a step has to know of a backbone."""

    def __init__(self, *, rngs: nnx.Rngs):
        # No bias: BatchNorm subtracts it again, and Adam would blow up its gradient's rounding.
        self.dense = nnx.Linear(PX * PX * 3, D, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(D, momentum=0.9, rngs=rngs, use_fast_variance=False)

    def __call__(
        self,
        pixels: Array,
        *,
        use_running_statistics: bool,
        mask: Array | None = None,
        keys: Array | None = None,
    ) -> Array:
        # Named by the parameters, so that a test in float64 computes in float64 throughout.
        x = pixels.reshape(len(pixels), -1).astype(self.dense.kernel[...].dtype) / 127.5 - 1
        if mask is not None:
            mask = mask[:, None]
            x = jnp.where(mask, x, 0)
        x = self.norm(self.dense(x), use_running_average=use_running_statistics, mask=mask)
        return nnx.relu(x)


def model_of(pooling: str = "gated_attention", dropout_rate: float = 0.0) -> Any:
    rngs = nnx.Rngs(0)
    head = built_head(pooling, D, K, dropout_rate=dropout_rate, rngs=rngs)
    return split_model(Classifier(TinyNet(rngs=rngs), head))


def batch_of(seed: int, s: int = S) -> PackedBatch:
    """Products of 1 to 3 images, with padding, an empty product and an unlabelled one."""
    rng = np.random.default_rng(seed)
    segment = np.tile(np.asarray([0, 1, 1, 2, 2, P], np.int32), (s, 1))
    segment[1 % s] = [P, 0, 0, 0, 1, P]
    place = np.tile(np.asarray([0, 0, 1, 0, 1, 0], np.int32), (s, 1))
    label = rng.integers(0, K, (s, P)).astype(np.int32)
    label[:, 3] = -1
    label[1 % s] = [2, -1, -1, -1]
    images = rng.integers(0, 256, (s, N, PX, PX, 3)).astype(np.uint8)
    return PackedBatch(images, Slots(segment, place, label))


def optimizer_of(name: str = "adamw") -> Any:
    return make_optimizer(
        name,
        learning_rate=3e-2,
        num_steps=60,
        warmup_fraction=0.1,
        weight_decay=1e-3,
        clip_norm=1.0,
    )


@functools.cache
def prepared(
    pooling: str = "gated_attention",
    dropout_rate: float = 0.0,
    *,
    optimizer: str = "adamw",
    batch_statistics: bool = True,
    ema_decay: float = 0.75,
    ranges: Ranges = Ranges(),  # noqa: B008, a tuple
    attention_weighted_from_step: int | None = None,
    num_parts: int = 1,
) -> Any:
    """Structure, arrays, optimiser and train step; tests share what they compile."""
    structure, *arrays = model_of(pooling, dropout_rate)
    rule = optimizer_of(optimizer)
    step = make_train_step(
        structure,
        rule,
        target=Target(0.1),
        batch_statistics=batch_statistics,
        ema_decay=ema_decay,
        ranges=ranges,
        attention_weighted_from_step=attention_weighted_from_step,
        num_parts=num_parts,
    )
    return structure, arrays, rule, step


frozen_stage = functools.partial(prepared, batch_statistics=False, ema_decay=0.0)


def start(arrays: Any, optimizer: Any, trainable: str = "all") -> Any:
    parameters, statistics = arrays
    return initial_state(
        parameters, statistics, optimizer, trainable=trainable, with_ema=trainable == "all"
    )


@functools.partial(jax.jit, static_argnums=0)
def forward(structure: Any, arrays: Any, batch: PackedBatch) -> HeadOutput:
    return merge_model(structure, *arrays)(batch, use_running_statistics=True, key=None)


def host(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:devices]), ("data",))


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


def test_evaluation_and_prediction_change_nothing() -> None:
    structure, arrays, *_ = prepared()
    before = host(arrays)
    batch = batch_of(0)
    evaluate = make_eval_step(structure)
    predict = make_predict_step(structure, topk=3, keep_all=True)
    first, again = evaluate(*arrays, batch, LOG_PRIOR), evaluate(*arrays, batch, LOG_PRIOR)
    predicted: Any = predict(*arrays, batch, LOG_PRIOR)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    jax.tree.map(np.testing.assert_array_equal, host(arrays), before)
    # The two agree with each other, and with a plain forward pass.
    np.testing.assert_array_equal(first.top1, predicted.top_class[..., 0])
    np.testing.assert_allclose(first.confidence, predicted.top_probability[..., 0], rtol=1e-6)
    logits = forward(structure, arrays, batch).logits
    probabilities = np.asarray(jax.nn.softmax(logits))
    has_image = np.asarray([[0, 1, 2] if s != 1 else [0, 1, 0] for s in range(S)])
    for s in range(S):
        for product in set(has_image[s]):
            np.testing.assert_allclose(
                predicted.probabilities[s, product], probabilities[s, product], rtol=1e-5
            )
            order = np.argsort(-probabilities[s, product])[:3]
            np.testing.assert_array_equal(predicted.top_class[s, product], order)
    # Products without images get the prior.
    np.testing.assert_allclose(
        predicted.probabilities[:, 3], np.tile(np.exp(LOG_PRIOR), (S, 1)), rtol=1e-6
    )
    assert (first.top1[:, 3] == LOG_PRIOR.argmax()).all()
    label = np.maximum(batch.slots.label, 0)
    chosen = np.take_along_axis(np.log(probabilities), label[..., None], -1)[0, :3, 0]
    np.testing.assert_allclose(first.log_prob_true[0, :3], chosen, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(predicted.probabilities).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_contributions_add_up_to_the_logit_of_the_predicted_class(tau: float) -> None:
    structure, arrays, *_ = prepared()
    batch = batch_of(0)
    step = make_predict_step(structure, topk=1, keep_all=True, tau=tau)
    predicted = step(*arrays, batch, LOG_PRIOR)
    log_probs = np.log(np.asarray(predicted.probabilities))
    centred = log_probs.max(-1) - log_probs.mean(-1)  # S p
    for s in range(S):
        for product in np.unique(batch.slots.segment[s][batch.slots.segment[s] < P]):
            own = np.asarray(predicted.contribution)[s][batch.slots.segment[s] == product]
            np.testing.assert_allclose(own.sum(), centred[s, product], atol=1e-4)
    assert np.ptp(np.asarray(predicted.contribution)[0][batch.slots.segment[0] < P]) > 1e-3
    padding = np.asarray(predicted.contribution)[batch.slots.segment == P]
    np.testing.assert_array_equal(padding, 0)


def test_contributions_of_several_views_are_their_mean() -> None:
    structure, arrays, *_ = prepared()
    batch = batch_of(0)

    def predicted(views: Views, images: np.ndarray) -> Any:
        step = make_predict_step(structure, topk=1, keep_all=False, views=views)
        return step(*arrays, batch._replace(images=images), LOG_PRIOR)

    both = predicted("flip", batch.images)
    plain, mirrored = (predicted("none", x) for x in (batch.images, batch.images[..., ::-1, :]))
    same = (plain.top_class == mirrored.top_class)[..., 0]  # S p: nothing else to compare
    assert same[0, 0]
    own = batch.slots.segment[0] == 0
    mean = (np.asarray(plain.contribution) + np.asarray(mirrored.contribution)) / 2
    np.testing.assert_allclose(np.asarray(both.contribution)[0][own], mean[0][own], atol=1e-4)


def test_largest_is_top_k() -> None:
    x = np.random.default_rng(0).integers(0, 6, (3, 2, 20)).astype(np.float32)  # many ties
    x[0, 0] = 1
    for a, b in zip(largest(jnp.asarray(x), 7), jax.lax.top_k(x, 7), strict=True):
        np.testing.assert_array_equal(a, b)


def test_image_guesses_are_those_of_the_image_alone() -> None:
    structure, arrays, *_ = prepared()
    batch = batch_of(0)
    predicted = make_predict_step(structure, topk=1, keep_all=False)(*arrays, batch, LOG_PRIOR)
    alone = np.full((S, N), P, np.int32)
    alone[:, 2] = 0
    slots = Slots(alone, np.zeros((S, N), np.int32), batch.slots.label)
    logits = forward(structure, arrays, PackedBatch(batch.images, slots)).logits
    np.testing.assert_array_equal(predicted.image_top_class[:, 2], logits[:, 0].argmax(-1))


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


def test_views_are_averaged() -> None:
    """Two views by hand: the photos as they are, and mirrored."""
    structure, arrays, *_ = prepared()
    batch = batch_of(0)
    mirrored = batch._replace(images=batch.images[:, :, :, ::-1].copy())
    log_probs = [
        np.asarray(jax.nn.log_softmax(forward(structure, arrays, seen).logits))
        for seen in (batch, mirrored)
    ]
    wanted = np.log(np.exp(log_probs).mean(0))
    views = "flip"
    predict = make_predict_step(structure, topk=3, keep_all=True, views=views)
    predicted: Any = predict(*arrays, batch, LOG_PRIOR)
    scores = make_eval_step(structure, views)(*arrays, batch, LOG_PRIOR)
    one_view: Any = make_predict_step(structure, topk=3, keep_all=True)(*arrays, batch, LOG_PRIOR)
    for s in (0, 2, 3):
        np.testing.assert_allclose(
            predicted.probabilities[s, :3], np.exp(wanted[s, :3]), rtol=1e-4, atol=1e-6
        )
        assert np.abs(predicted.probabilities[s, :3] - one_view.probabilities[s, :3]).max() > 1e-3
    np.testing.assert_array_equal(scores.top1, predicted.top_class[..., 0])
    np.testing.assert_allclose(predicted.probabilities[:, 3], one_view.probabilities[:, 3])
    np.testing.assert_allclose(np.asarray(predicted.probabilities).sum(-1), 1, rtol=1e-5)


def trajectory(
    devices: int, dtype: Any, optimizer_name: str, trainable: str, pooling: str
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of 20 steps and the final leaves, with dropout, augmentation and statistics on."""
    options = {
        "optimizer": optimizer_name,
        "batch_statistics": trainable == "all",
        "ranges": EVERYTHING,
    }
    _, arrays, optimizer, step = prepared.__wrapped__(pooling, 0.3, **options)
    arrays = jax.tree.map(lambda x: x.astype(dtype), arrays)
    mesh = mesh_of(devices)
    state = replicate(start(arrays, optimizer, trainable), mesh)
    key = replicate(KEY, mesh)
    losses = []
    for i in range(20):
        state, loss = step(state, put_batch(batch_of(i), mesh), key)
        losses.append(float(loss))
    return losses, host({**evaluated_parameters(state), **state.statistics})


# What is trained, in which numbers, by what, and how far other devices may be from one. Images are
# augmented in float32, whose rounding differs between programs, so float64 is not equal to 1e-10.
DEVICE_CASES = [
    ("all", "float64", "adamw", 1e-7),
    ("head", "float64", "adamw", 1e-7),
    ("head", "float32", "sgd", 1e-5),
    ("all", "float32", "sgd", 1e-5),
    ("head", "float32", "adamw", 1e-4),
    ("all", "float32", "adamw", 1e-4),
]


@pytest.mark.parametrize(
    ("trainable", "dtype", "optimizer_name", "tolerance"),
    [DEVICE_CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in DEVICE_CASES[1:])],
)
def test_devices_agree(trainable: str, dtype: str, optimizer_name: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        one, *others = (
            trajectory(devices, dtype, optimizer_name, trainable, "posterior_attention")
            for devices in (1, 2, 4)
        )
        for other in others:
            np.testing.assert_allclose(other[0], one[0], rtol=tolerance)
            for path, leaf in one[1].items():
                assert leaf.dtype == dtype
                np.testing.assert_allclose(other[1][path], leaf, atol=tolerance, err_msg=path)


COLLECTIVES = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)"
    r"(?:-start)?\("
)


@functools.cache
def collectives(kind: str, trainable: str = "all") -> set[str]:
    """Those in a step compiled for 4 devices."""
    structure, *arrays = model_of("transformer")
    mesh = mesh_of(4)
    arrays, batch = replicate(arrays, mesh), put_batch(batch_of(0), mesh)
    if kind == "train":
        _, _, optimizer, step = prepared(
            "transformer", 0.3, batch_statistics=trainable == "all", ranges=EVERYTHING
        )
        state = replicate(start(arrays, optimizer, trainable), mesh)
        lowered = step.lower(state, batch, replicate(KEY, mesh))
    else:
        views = "flip_crops"
        step = {
            "eval": make_eval_step(structure),
            "predict": make_predict_step(structure, topk=3, keep_all=True),
            "eval_views": make_eval_step(structure, views),
        }[kind]
        lowered = step.lower(*arrays, batch, replicate(LOG_PRIOR, mesh))
    text = re.sub(r"/\*.*?\*/", "", lowered.compile().as_text())
    assert "ENTRY" in text
    return set(COLLECTIVES.findall(text))


@pytest.mark.parametrize("kind", ["eval", "predict", "eval_views"])
def test_forward_pass_has_no_collective(kind: str) -> None:
    assert collectives(kind) == set()


@pytest.mark.parametrize("trainable", ["all", pytest.param("head", marks=pytest.mark.slow)])
def test_training_step_only_all_reduces(trainable: str) -> None:
    assert collectives("train", trainable) == {"all-reduce"}


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
