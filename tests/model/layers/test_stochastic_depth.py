"""Stochastic depth: how often branches are left out, of which images, and what the rest count."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.model.backbones import convnext_tiny, efficientnet_v2_s
from product_mil.model.layers.blocks import add_branch, branch_factors
from product_mil.model.registry import backbone

NETS = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_tiny", "efficientnet_v2_s")
]
RATES = {
    "convnext_tiny": convnext_tiny.branch_rates,
    "efficientnet_v2_s": efficientnet_v2_s.branch_rates,
}
NETS = [pytest.param(name, marks=pytest.mark.slow) for name in RATES]


def keys(count: int, seed: int = 3) -> Any:
    """One an image."""
    return jax.random.split(jax.random.key(seed), count)


def test_the_mean_stays_and_each_rate_is_met():
    count, rates = 20_000, [0.0, 0.1, 0.3, 0.6]
    first, *others = branch_factors(keys(count), rates)
    assert first is None
    for rate, factor in zip(rates[1:], others, strict=True):
        assert factor is not None
        values = np.asarray(factor).ravel()
        np.testing.assert_allclose(np.unique(values), [0, 1 / (1 - rate)], rtol=1e-6)
        spread = (rate * (1 - rate) / count) ** 0.5
        assert abs((values == 0).mean() - rate) < 4 * spread
        assert abs(values.mean() - 1) < 4 * spread / (1 - rate)
    # Blocks and keys draw by themselves.
    dropped = [np.asarray(factor).ravel() == 0 for factor in others if factor is not None]
    assert abs((dropped[1] & dropped[2]).mean() - 0.3 * 0.6) < 4 * (0.18 * 0.82 / count) ** 0.5
    again = branch_factors(keys(count, 4), rates)[2]
    assert again is not None
    assert ((np.asarray(again).ravel() == 0) != dropped[1]).mean() > 0.3


def test_an_image_is_left_out_by_its_slot_alone():
    """Its key decides, not what lies beside it."""
    few, many = (branch_factors(keys(9)[:count], [0.0, 0.5])[1] for count in (5, 9))
    assert few is not None
    assert many is not None
    np.testing.assert_array_equal(few, many[:5])


def test_without_keys_or_a_rate_nothing_is_added_to_the_graph():
    assert branch_factors(None, [0.0, 0.5]) == [None, None]
    assert branch_factors(keys(4), [0.0, 0.0]) == [None, None]
    x, branch = jnp.ones((2, 1, 1, 3)), jnp.full((2, 1, 1, 3), 0.3)
    np.testing.assert_array_equal(add_branch(x, branch, None), x + branch)
    factor = jnp.asarray([0.0, 2.0]).reshape(2, 1, 1, 1)
    got = add_branch(x.astype(jnp.bfloat16), branch.astype(jnp.bfloat16), factor)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got[:, 0, 0, 0].astype(float), [1.0, 1.6], rtol=1e-2)


def test_rates_grow_linearly_as_in_the_papers():
    deep = efficientnet_v2_s.branch_rates(0.2)
    assert len(deep) == 40
    np.testing.assert_allclose(deep, 0.2 * np.arange(40) / 40)
    wide = convnext_tiny.branch_rates(0.1)
    assert len(wide) == 18
    np.testing.assert_allclose(np.diff(wide), 0.1 / 17)
    assert (wide[0], wide[-1]) == (0.0, 0.1)


@pytest.mark.slow
def test_rates_are_those_of_keras(keras):
    keras.utils.clear_session()
    make = keras.applications
    net: Any = make.EfficientNetV2S(weights=None, include_top=False, input_shape=(64, 64, 3))
    theirs = [layer.rate for layer in net.layers if layer.name.endswith("drop")]
    ours: Any = backbone("efficientnet_v2_s").build(rngs=nnx.Rngs(0))
    rates = efficientnet_v2_s.branch_rates(0.2)
    kept = [rate for rate, block in zip(rates, ours.blocks, strict=True) if block.adds_input]
    np.testing.assert_allclose(kept[1:], theirs)  # of the first block, with rate 0, Keras has none


def with_random_leaves(name: str, rate: float) -> Any:
    """The net with every branch large enough to matter, and none so large that rounding grows."""
    net = backbone(name).build(rngs=nnx.Rngs(0), stochastic_depth=rate)
    random = np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(nnx.state(net, nnx.Param)):
        start = leaf[...] * (0.3 if path[-2:] == ("project_norm", "scale") else 1.0)
        leaf[...] = start + jnp.asarray(random.normal(0, 0.02, leaf.shape), jnp.float32)
    return net


def embed(net: Any, pixels: np.ndarray, keys: Any = None) -> np.ndarray:
    graph, state = nnx.split(net)

    @jax.jit
    def run(state, pixels, keys):
        return nnx.merge(graph, state)(pixels, use_running_statistics=True, keys=keys)

    return np.asarray(run(state, pixels, keys))


def by_hand(name: str, net: Any, pixels: Any, factors: Any) -> Any:
    """Block by block: what a block adds to its input, times the factors."""

    def through(block: Any, x: Any, factor: Any, **mode: Any) -> Any:
        y = block(x, **mode)
        residual = name == "convnext_tiny" or block.adds_input
        return x + factor * (y - x) if residual and factor is not None else y

    x, rest = net.scaled(pixels), iter(factors)
    if name == "convnext_tiny":
        x = net.stem_norm(net.stem(x))
        for index, stage in enumerate(net.stages):
            x = net.halve[index - 1](net.halve_norms[index - 1](x)) if index else x
            for block in stage:
                x = through(block, x, next(rest))
    else:
        mode = {"use_running_statistics": True, "mask": None}
        x = jax.nn.silu(net.stem_norm(net.stem(x), **mode))
        for block in net.blocks:
            x = through(block, x, next(rest), **mode)
        x = jax.nn.silu(net.last_norm(net.last(x), **mode))
    assert next(rest, "none left") == "none left"
    return net.pooled(x)


@pytest.mark.parametrize("name", NETS)
def test_image_by_image_branches_are_left_out_and_the_others_scaled(name):
    rate = 0.6
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    plain, net = with_random_leaves(name, 0.0), with_random_leaves(name, rate)
    inference = embed(plain, pixels)
    # Without keys, or without a rate, every bit is as before.
    np.testing.assert_array_equal(embed(net, pixels), inference)
    np.testing.assert_array_equal(embed(plain, pixels, keys(3)), inference)
    dropping = embed(net, pixels, keys(3))
    factors = branch_factors(keys(3), RATES[name](rate))
    graph, state = nnx.split(plain)
    merged = jax.jit(lambda state, x, factors: by_hand(name, nnx.merge(graph, state), x, factors))
    wanted = np.asarray(merged(state, pixels, factors))
    assert np.abs(dropping - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert (np.abs(dropping - inference).max(1) > 1e-2 * np.abs(inference).max()).all()
    # Its neighbours change nothing of an image.
    pixels[1:] = random.integers(0, 256, pixels[1:].shape)
    np.testing.assert_array_equal(embed(net, pixels, keys(3))[0], dropping[0])
