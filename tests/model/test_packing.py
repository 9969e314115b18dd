from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from product_mil.model.packing import Packing

# Two shards of 6 slots, 4 product slots; product 2 of shard 0 and the last ones are empty.
SEGMENT = jnp.asarray([[0, 1, 1, 3, 3, 3], [4, 0, 0, 4, 1, 4]], jnp.int32)
P = 4
POSITION = jnp.asarray([[0, 0, 1, 0, 1, 2], [0, 0, 1, 0, 0, 0]], jnp.int32)
PACKING = Packing(SEGMENT, POSITION, P)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)


def members(shard: int, product: int) -> np.ndarray:
    return np.asarray(X)[shard][np.asarray(SEGMENT)[shard] == product]


def by_hand(reduce) -> np.ndarray:
    result = np.zeros((2, P, 3), np.float32)
    for shard in range(2):
        for product in range(P):
            if len(members(shard, product)):
                result[shard, product] = reduce(members(shard, product))
    return result


def test_reductions_by_hand() -> None:
    pairs = [
        (Packing.sum, lambda x: x.sum(0)),
        (Packing.mean, lambda x: x.mean(0)),
        (Packing.max, lambda x: x.max(0)),
        (Packing.log_mean_exp, lambda x: np.log(np.exp(x).mean(0))),
    ]
    for function, reduce in pairs:
        np.testing.assert_allclose(function(PACKING, X), by_hand(reduce), atol=1e-6)
    counts = PACKING.image_counts()
    np.testing.assert_array_equal(counts, [[1, 2, 0, 3], [2, 1, 0, 0]])


@jax.jit
def everything(segment: jax.Array, x: jax.Array) -> Any:
    packing = Packing(segment, POSITION, P)
    found = {
        "sum": packing.sum(x),
        "mean": packing.mean(x),
        "max": packing.max(x),
        "log_mean_exp": packing.log_mean_exp(x),
    }
    return found, packing.softmax(x), packing.spread(found["max"])


@settings(max_examples=100)
@given(
    segment=arrays.arrays(np.int32, (2, 6), elements=st.integers(0, P)),
    x=arrays.arrays(np.float32, (2, 6, 3), elements=st.floats(-50, 50, width=32)),
)
def test_any_packing_equals_numpy(segment: np.ndarray, x: np.ndarray) -> None:
    """Products in any slots, interleaved, empty, or none at all; padding counts for nothing."""
    packed = np.where((segment == P)[..., None], np.float32(np.nan), x)
    found, softmax, spread = jax.tree.map(np.asarray, everything(segment, packed))
    for shard in range(2):
        for product in range(P):
            mine = segment[shard] == product
            own = x[shard][mine].astype(np.float64)
            exp = np.exp(own)
            wanted = (
                {
                    "sum": own.sum(0),
                    "mean": own.mean(0),
                    "max": own.max(0),
                    "log_mean_exp": np.log(exp.mean(0)),
                }
                if len(own)
                else dict.fromkeys(found, np.zeros(3))
            )
            for name, value in wanted.items():
                np.testing.assert_allclose(
                    found[name][shard, product], value, rtol=1e-4, atol=1e-4, err_msg=name
                )
            np.testing.assert_allclose(
                softmax[shard][mine], exp / np.maximum(exp.sum(0), 1e-300), atol=1e-5
            )
            assert (spread[shard][mine] == found["max"][shard, product]).all()
    assert (softmax[segment == P] == 0).all()


def test_softmax_by_hand() -> None:
    found = np.asarray(PACKING.softmax(X))
    for shard in range(2):
        for product in range(P):
            exp = np.exp(members(shard, product))
            np.testing.assert_allclose(
                found[shard][np.asarray(SEGMENT)[shard] == product], exp / exp.sum(0), rtol=1e-5
            )
    assert (found[np.asarray(SEGMENT) == P] == 0).all()


def test_spread() -> None:
    values = jnp.arange(1, 9, dtype=jnp.float32).reshape(2, 4)
    np.testing.assert_array_equal(PACKING.spread(values), [[1, 2, 2, 4, 4, 4], [0, 5, 5, 0, 6, 0]])


def test_large_values_neither_overflow_nor_vanish() -> None:
    big = X * 1000
    for function in (Packing.softmax, Packing.log_mean_exp):
        assert np.isfinite(function(PACKING, big)).all()
    np.testing.assert_allclose(PACKING.log_mean_exp(jnp.full_like(X, -900))[0, 0], -900)


def test_all_padding_is_finite_with_zero_gradient() -> None:
    empty = Packing(jnp.full_like(SEGMENT, P), POSITION, P)
    for function in (
        Packing.sum,
        Packing.mean,
        Packing.max,
        Packing.softmax,
        Packing.log_mean_exp,
    ):
        value, gradient = jax.value_and_grad(lambda x, f=function: f(empty, x).sum())(X)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)
