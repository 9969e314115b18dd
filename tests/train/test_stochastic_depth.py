"""Stochastic depth in a training step: where it is off, and what alone it depends on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.batch import EmbeddedBatch
from product_mil.devices.mesh import put_batch, replicate
from product_mil.inference.step import make_eval_step
from product_mil.model.classifier import Classifier, merge_model, split_model
from product_mil.model.layers.blocks import BatchNorm, Conv, add_branch, branch_factors
from product_mil.model.spec import Backbone
from product_mil.train.losses import Target
from product_mil.train.step import make_train_step
from tests.model.heads.head_cases import built_head
from tests.train.tiny import KEY, LOG_PRIOR, D, K, P, batch_of, host, mesh_of, optimizer_of, start

BLOCKS = 3


class TinyResidual(Backbone):
    """A few residual blocks of a convolution and BatchNorm."""

    def __init__(self, *, rngs: nnx.Rngs, stochastic_depth: float = 0.0):
        of = {"dtype": jnp.float32, "rngs": rngs}
        self.stem = Conv(3, D, 3, **of)
        self.convs = nnx.List([Conv(D, D, 1, **of) for _ in range(BLOCKS)])
        norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-3, **of)
        self.norms = nnx.List([norm(D) for _ in range(BLOCKS)])
        self.dtype, self.stochastic_depth = jnp.float32, stochastic_depth

    def features(self, x: Any, *, keys: Any = None, **mode: Any) -> Any:
        rates = np.linspace(0, self.stochastic_depth, BLOCKS + 1)[1:].tolist()
        x = self.stem(x)
        for conv, norm, factor in zip(
            self.convs, self.norms, branch_factors(keys, rates), strict=True
        ):
            x = add_branch(x, jnp.tanh(norm(conv(x), **mode)), factor)
        return x


@functools.cache
def prepared(rate: float, *, batch_statistics: bool = True) -> Any:
    rngs = nnx.Rngs(0)
    net = TinyResidual(rngs=rngs, stochastic_depth=rate)
    head = built_head("gated_attention", D, K, rngs=rngs)
    structure, *arrays = split_model(Classifier(net, head))
    rule = optimizer_of("sgd")
    step = make_train_step(
        structure, rule, target=Target(), batch_statistics=batch_statistics, ema_decay=0.75
    )
    return structure, arrays, rule, step


def after(rate: float, first_step: int = 0, batch: Any = None, key: Any = KEY) -> Any:
    """The state after one step of everything, as NumPy arrays, and the loss."""
    _, arrays, optimizer, step = prepared(rate)
    state = start(arrays, optimizer)._replace(step=jnp.asarray(first_step))
    state, loss = step(state, batch_of(0) if batch is None else batch, key)
    return host(state), float(loss)


def test_a_step_depends_on_rate_seed_and_step() -> None:
    losses = {
        "none": after(0.0)[1],
        "some": after(0.5)[1],
        "another step": after(0.5, first_step=1)[1],
        "another seed": after(0.5, key=jax.random.key(9))[1],
    }
    assert len(set(losses.values())) == len(losses)
    assert after(0.0, first_step=1)[1] == losses["none"]
    assert after(0.5)[1] == losses["some"]


def test_evaluation_and_a_frozen_backbone_never_see_it() -> None:
    batch = batch_of(0)
    scores, heads = [], []
    for rate in (0.0, 0.9):
        structure, arrays, optimizer, step = prepared(rate, batch_statistics=False)
        scores.append(host(make_eval_step(structure)(*arrays, batch, LOG_PRIOR)))
        state = start(arrays, optimizer, "head")
        heads.append(host(step(state, batch, KEY)[0].trainable))
        # Nor do embeddings that were cached: they train the same head.
        model = merge_model(structure, *arrays)
        embedded = EmbeddedBatch(
            np.asarray(model.embed(batch, use_running_statistics=True)), batch.slots
        )
        cached = step(start(arrays, optimizer, "head"), embedded, KEY)[0].trainable
        for path, leaf in heads[-1].items():
            np.testing.assert_allclose(cached[path], leaf, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, *scores)
    jax.tree.map(np.testing.assert_array_equal, *heads)


def test_garbage_in_padding_changes_no_bit() -> None:
    batch = batch_of(0)
    images = batch.images.copy()
    images[batch.slots.segment == P] = 255
    one, other = after(0.5)[0], after(0.5, batch=batch._replace(images=images))[0]
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_resumed_run_draws_the_same() -> None:
    _, arrays, optimizer, step = prepared(0.5)
    state = start(arrays, optimizer)
    for i in range(2):
        state, _ = step(state, batch_of(i), KEY)
    saved = host(state)
    whole = host(step(state, batch_of(2), KEY)[0])
    resumed = host(step(jax.tree.map(jnp.asarray, saved), batch_of(2), KEY)[0])
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_agree_for_a_step(devices: int) -> None:
    _, arrays, optimizer, step = prepared(0.5)
    results = []
    for count in (1, devices):
        mesh = mesh_of(count)
        state = replicate(start(arrays, optimizer), mesh)
        state, loss = step(state, put_batch(batch_of(0), mesh), replicate(KEY, mesh))
        results.append((host(state), float(loss)))
    (one, loss), (several, other_loss) = results
    assert other_loss == pytest.approx(loss, rel=1e-6)
    for part in ("trainable", "statistics"):
        for path, leaf in getattr(one, part).items():
            np.testing.assert_allclose(getattr(several, part)[path], leaf, atol=1e-6)
    last = "backbone/norms/2/mean"  # it was on: what reaches the last block differs
    assert np.abs(one.statistics[last] - after(0.0)[0].statistics[last]).max() > 1e-3


def test_what_is_left_out_gets_no_gradient() -> None:
    """With every branch of the last block left out, its kernel rests."""
    structure, (parameters, statistics), *_ = prepared(1 - 1e-7, batch_statistics=False)

    def loss(parameters: Any) -> Any:
        model = merge_model(structure, parameters, statistics)
        batch = batch_of(0)
        return model.embed(batch, use_running_statistics=True, key=KEY).sum()

    gradient = jax.jit(jax.grad(loss))(parameters)
    assert not np.any(gradient["backbone/convs/2/kernel"])
    assert np.any(gradient["backbone/convs/0/kernel"])
