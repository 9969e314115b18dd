import jax
import jax.numpy as jnp
import numpy as np

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
