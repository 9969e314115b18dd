"""Pooling over the windows of an image (NHWC), in the form that is fastest on the platform.

The gradient of XLA's maximum (select and scatter) takes 8 to 45 times as long on a CPU as gathering
it, and on a GPU it moves 2 to 4 times as much memory. XLA's windows take 1.5 to 4 times as long on
a CPU as shifted copies of the image; other platforms use XLA's windows.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from product_mil.model.layers.convolutions import Padding, Pads, explicit_pads, interleaved, taps


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """The maximum of each window without its padding. The gradient goes to the first of equals."""
    return _max_pool(x, size, stride, explicit_pads(x.shape, (size, size), stride, padding))


def max_pool_lax(x: Array, size: int, stride: int, pads: Pads) -> Array:
    """The maximum of each window by XLA's own reduction."""
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, ((0, 0), *pads, (0, 0)))


def _shifted_max(x: Array, size: int, stride: int, pads: Pads) -> Array:
    return reduce(jnp.maximum, taps(x, (size, size), stride, pads, -jnp.inf))


def _gathered_gradient(x: Array, dy: Array, size: int, stride: int, pads: Pads) -> Array:
    """For each value, the sum of `dy` over the windows whose first maximum it is.

    Values are computed in stride x stride phases, whose values have the same places in windows.
    """
    best, *rest = taps(x, (size, size), stride, pads, -jnp.inf)
    winner = jnp.zeros(dy.shape, jnp.int8)  # which tap of the window
    for index, tap in enumerate(rest, 1):
        winner = jnp.where(tap > best, jnp.int8(index), winner)
        best = jnp.maximum(best, tap)
    # On the grid of a phase, a value is also in the `reach` windows that begin before its place.
    reach = (size - 1) // stride
    sizes = [
        -(-(length + pad[0]) // stride) for length, pad in zip(x.shape[1:3], pads, strict=True)
    ]
    ends = [max(length - windows, 0) for length, windows in zip(sizes, dy.shape[1:3], strict=True)]
    grid = ((0, 0, 0), *((reach, end, 0) for end in ends), (0, 0, 0))
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), grid)
    winner = lax.pad(winner, jnp.int8(-1), grid)
    dy, winner = lax.optimization_barrier((dy, winner))  # padding stays out of the loop below

    def phase(row: int, column: int) -> Array:
        total = jnp.zeros((), jnp.float32)
        for i in range(row, size, stride):
            for j in range(column, size, stride):
                top, left = reach - i // stride, reach - j // stride
                place = (slice(None), slice(top, top + sizes[0]), slice(left, left + sizes[1]))
                total += jnp.where(winner[place] == i * size + j, dy[place], 0)
        return total.astype(x.dtype)

    padded = interleaved(phase, (x.shape[0], *sizes, x.shape[3]), stride)
    (top, _), (left, _) = pads
    return padded[:, top : top + x.shape[1], left : left + x.shape[2]]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, size: int, stride: int, pads: Pads) -> Array:
    of = {"size": size, "stride": stride, "pads": pads}
    return lax.platform_dependent(
        x, cpu=partial(_shifted_max, **of), default=partial(max_pool_lax, **of)
    )


def _max_pool_forward(x: Array, size: int, stride: int, pads: Pads):
    return _max_pool(x, size, stride, pads), x


def _max_pool_backward(size: int, stride: int, pads: Pads, x: Array, dy: Array):
    return (_gathered_gradient(x, dy, size, stride, pads),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def avg_pool_same(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean of each 3x3 window with stride 1, without padding, as in TensorFlow."""
    # For each row and each column, how many of three neighbours are inside the image.
    places = [np.arange(size) for size in x.shape[1:3]]
    rows, columns = (np.minimum(i + 2, len(i)) - np.maximum(i - 1, 0) for i in places)
    counts = np.outer(rows, columns).astype(np.float32)[None, :, :, None]
    return (_sum_of_neighbours(x.astype(jnp.float32)) / counts).astype(x.dtype)


@jax.custom_vjp
def _sum_of_neighbours(x: Array) -> Array:
    """The sum of each 3x3 window. Neighbourhood is symmetric, so the gradient is the same sum."""
    return lax.platform_dependent(
        x,
        cpu=lambda x: sum(taps(x, (3, 3), 1, ((1, 1), (1, 1)), 0.0)),
        default=lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"),
    )


_sum_of_neighbours.defvjp(
    lambda x: (_sum_of_neighbours(x), None), lambda _, dy: (_sum_of_neighbours(dy),)
)
