"""Initial values drawn by NumPy, which are equal on every platform and need no compilation.

JAX's initialisers compile a program for each shape. For MobileNetV2 that takes longer than reading
its weights a hundred times. These have the same signature, `(key, shape, dtype)`.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

Initializer = Callable[[PRNGKeyArray, Sequence[int], DTypeLike], Array]


def normal(stddev: float) -> Initializer:
    """Independent normal values."""

    def init(key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        seed = np.asarray(jax.random.key_data(key)).tolist()
        values = np.random.Generator(np.random.Philox(seed)).standard_normal(tuple(shape))
        return jnp.asarray((values * stddev).astype(np.dtype(dtype)))

    return init


def _fan_in(shape: Sequence[int]) -> int:
    return math.prod(shape[:-1])


def he_normal(key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Variance 2 / fan-in, for a ReLU's input (He et al. 2015); the last axis is the output."""
    return normal(math.sqrt(2 / _fan_in(shape)))(key, shape, dtype)


def lecun_normal(key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Variance 1 / fan-in (LeCun et al. 1998); the last axis is the output."""
    return normal(math.sqrt(1 / _fan_in(shape)))(key, shape, dtype)


def zeros(key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Zeros."""
    return jnp.asarray(np.zeros(tuple(shape), np.dtype(dtype)))


def ones(key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Ones."""
    return jnp.asarray(np.ones(tuple(shape), np.dtype(dtype)))
