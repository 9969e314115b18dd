"""BatchNorm folded into the convolution before it, and vectors over the channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.model.layers.blocks import BatchNorm, Conv, DepthwiseConv, SeparableConv, conv_norm
from product_mil.model.layers.normalisation import at_each_place

OF = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}


class Unit(nnx.Module):
    """A convolution and a BatchNorm, with values that are not the initial ones."""

    def __init__(self, conv, use_scale=True):
        self.conv = conv
        self.norm = norm = BatchNorm(6, momentum=0.9, epsilon=1e-3, use_scale=use_scale, **OF)
        random = np.random.default_rng(0)
        norm.mean[...] = random.normal(size=6).astype(np.float32)
        norm.var[...] = random.uniform(0.1, 3, size=6).astype(np.float32)
        norm.bias[...] = random.normal(size=6).astype(np.float32)
        if norm.scale is not None:
            norm.scale[...] = random.uniform(0.5, 2, size=6).astype(np.float32)


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize(
    "conv",
    [
        Conv(6, 6, 1, stride=2, **OF),
        Conv(6, 6, (3, 1), **OF),
        DepthwiseConv(6, 3, **OF),
        SeparableConv(6, 6, **OF),
    ],
)
def test_folded_equals_one_after_the_other_and_so_do_the_gradients(conv, use_scale):
    graph, parameters, statistics = nnx.split(Unit(conv, use_scale), nnx.Param, nnx.BatchStat)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 6)), jnp.float32)

    def folded(parameters, x):
        unit = nnx.merge(graph, parameters, statistics)
        return jnp.sin(conv_norm(unit.conv, unit.norm, x, use_running_statistics=True, mask=None))

    def in_turn(parameters, x):
        unit = nnx.merge(graph, parameters, statistics)
        return jnp.sin(unit.norm(unit.conv(x), use_running_statistics=True))

    np.testing.assert_allclose(folded(parameters, x), in_turn(parameters, x), atol=1e-5)
    got, wanted = (
        jax.grad(lambda *of, f=f: f(*of).sum(), (0, 1))(parameters, x) for f in (folded, in_turn)
    )
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert np.abs(one).max() > 0


def test_with_batch_statistics_nothing_is_folded_and_the_running_ones_move():
    unit = Unit(Conv(6, 6, 1, **OF))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4, 6)), jnp.float32)
    mask = jnp.array([True, False, True])
    before = np.asarray(unit.norm.mean[...])
    y = conv_norm(unit.conv, unit.norm, x, use_running_statistics=False, mask=mask)
    wanted = 0.9 * before + 0.1 * np.asarray(unit.conv(x))[mask].mean((0, 1, 2))
    np.testing.assert_allclose(unit.norm.mean[...], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y[mask].mean((0, 1, 2)), unit.norm.bias[...], atol=1e-5)


def test_a_vector_over_the_channels_gets_an_exact_sum_as_gradient():
    x = jnp.zeros((8, 40, 40, 3), jnp.bfloat16)

    def added(vector):
        y = x + at_each_place(vector, x)
        assert y.dtype == jnp.bfloat16
        return y

    _, pull = jax.vjp(added, jnp.asarray([0.0, 1.0, 2.0]))
    (gradient,) = pull(jnp.ones(x.shape, x.dtype))
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, [12_800.0] * 3)
    # Nowhere in the program is there a sum in bfloat16, which only some platforms add up exactly.
    jaxpr = str(jax.make_jaxpr(pull)(jnp.ones(x.shape, x.dtype)))
    assert "f32[3] = reduce_sum" in jaxpr
    assert "bf16[3] = reduce_sum" not in jaxpr
