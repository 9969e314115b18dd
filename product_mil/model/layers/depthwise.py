"""Depthwise convolutions in the form that is fastest on the platform they are compiled for.

On a CPU they are sums of shifted copies of the image, with gradients written out
(docs/measured/performance.md has the measurements).
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from product_mil.model.layers.convolutions import (
    Padding,
    Pads,
    explicit_pads,
    gradients,
    interleaved,
    taps,
)

# LLVM unrolls a loop of up to about 300 instructions, and each term of a sum of products has three.
_LONGEST_SUM = 80


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution in the form that is fastest on the platform it is compiled for.

    On a CPU, XLA's grouped convolution is 15 to 60 times slower than shifted multiply-adds
    (benchmarks/parts/depthwise.py). Other platforms use XLA's; which one is faster on a GPU has not
    been measured yet.
    """
    return _depthwise_conv(x, kernel, stride, explicit_pads(x.shape, kernel.shape, stride, padding))


def depthwise_conv_lax(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    """Depthwise convolution as XLA's grouped convolution."""
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def depthwise_conv_shifted(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    """Depthwise convolution as a sum of shifted, scaled copies of the padded input.

    Sums are float32 whatever the type of `x`.
    """
    weights = kernel.astype(jnp.float32).reshape(-1, 1, 1, 1, kernel.shape[-1])
    values = taps(x, kernel.shape, stride, pads, 0.0)
    total = sum(tap.astype(jnp.float32) * w for tap, w in zip(values, weights, strict=True))
    return jnp.asarray(total, x.dtype)


def _shifted_gradients(
    x: Array, kernel: Array, dy: Array, stride: int, pads: Pads
) -> tuple[Array, Array]:
    """Gradients of the shifted form, written out since those of autodiff are far slower."""
    dkernel = _kernel_gradient(x, kernel.shape, dy, stride, pads).astype(kernel.dtype)
    return _input_gradient(x.shape, kernel, dy, stride, pads).astype(x.dtype), dkernel


def _input_gradient(
    shape: tuple[int, ...], kernel: Array, dy: Array, stride: int, pads: Pads
) -> Array:
    """The gradient of the input: for each value, the sum of weight times `dy` over its windows.

    Values are computed in stride x stride phases. Those of one phase meet the same taps, so zeros
    between the places of `dy` need not be multiplied.
    """
    weights = kernel.astype(jnp.float32)[:, :, None, None, None]
    sizes = [-(-size // stride) for size in shape[1:3]]  # of a phase
    # Value `stride a + phase` lies under tap i of window a + (phase + low - i) / stride.
    lows = [low for low, _ in pads]
    before = [(k - 1 - low) // stride for k, low in zip(kernel.shape[:2], lows, strict=True)]
    after = [
        size + (stride - 1 + low) // stride - windows
        for size, low, windows in zip(sizes, lows, dy.shape[1:3], strict=True)
    ]
    ends = ((low, high, 0) for low, high in zip(before, after, strict=True))
    padded = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
    padded = lax.optimization_barrier(padded)  # padding stays out of the loop over the taps

    def met(axis: int, phase: int) -> list[tuple[int, slice]]:
        """The taps along an axis, each with the windows in which it meets the phase."""
        taps_at = range((phase + lows[axis]) % stride, kernel.shape[axis], stride)
        firsts = [(i, before[axis] + (phase + lows[axis] - i) // stride) for i in taps_at]
        return [(i, slice(first, first + sizes[axis])) for i, first in firsts]

    def total(row: int, column: int) -> Array:
        products = [
            padded[:, rows, columns].astype(jnp.float32) * weights[i, j]
            for (i, rows), (j, columns) in product(met(0, row), met(1, column))
        ]
        return sum(products, jnp.zeros((), jnp.float32))

    return interleaved(total, (*shape[:1], *sizes, shape[3]), stride)[:, : shape[1], : shape[2]]


def _kernel_gradient(
    x: Array, kernel_shape: tuple[int, ...], dy: Array, stride: int, pads: Pads
) -> Array:
    """The gradient of the kernel in float32: the sum of input times `dy` for each tap and channel.

    Sums are first taken within blocks of rows (3x3) or columns (larger kernels), many taps in one
    reduction. Its loop reads both maps once, and is short enough for LLVM to unroll.
    """
    height, width, _ = kernel_shape
    together = height * width if width <= 3 else width  # taps
    axis = 1 if width <= 3 else 2
    longest = max(_LONGEST_SUM // together, 1)
    blocks = -(-dy.shape[axis] // longest)
    block = -(-dy.shape[axis] // blocks)
    places = [blocks * block if a == axis else dy.shape[a] for a in (1, 2)]
    # Pad both maps up to the end of the last block.
    ends = [
        max((n - 1) * stride + k - size - sum(pad), 0)
        for n, k, size, pad in zip(places, kernel_shape, x.shape[1:3], pads, strict=False)
    ]
    x_pads = [(low, high + end) for (low, high), end in zip(pads, ends, strict=True)]
    dy_pads = [(0, n - size) for n, size in zip(places, dy.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *x_pads, (0, 0)))
    dy = jnp.pad(dy, ((0, 0), *dy_pads, (0, 0)))
    x, dy = lax.optimization_barrier((x, dy))  # padding stays out of the loop

    def in_blocks(of: Array) -> Array:
        shape = (*of.shape[:axis], blocks, block, *of.shape[axis + 1 :])
        return of.astype(jnp.float32).reshape(shape)

    dy = in_blocks(dy)
    spans = [(n - 1) * stride + 1 for n in places]
    products = [
        in_blocks(x[:, i : i + spans[0] : stride, j : j + spans[1] : stride]) * dy
        for i, j in product(range(height), range(width))
    ]
    sums: list[Array] = []
    for first in range(0, len(products), together):
        taps_of = products[first : first + together]
        zeros = [jnp.zeros((), jnp.float32)] * len(taps_of)
        sums += lax.reduce(taps_of, zeros, _add_each, (axis + 1,))
    sums = lax.optimization_barrier(sums)
    return jnp.stack([total.sum((0, 1, 2)) for total in sums]).reshape(kernel_shape)


def _add_each(left: list[Array], right: list[Array]) -> list[Array]:
    return [a + b for a, b in zip(left, right, strict=True)]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise_conv(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(depthwise_conv_shifted, stride=stride, pads=pads),
        default=partial(depthwise_conv_lax, stride=stride, pads=pads),
    )


def _forward(x: Array, kernel: Array, stride: int, pads: Pads):
    return _depthwise_conv(x, kernel, stride, pads), (x, kernel)


def _backward(stride: int, pads: Pads, saved: tuple[Array, Array], dy: Array):
    return lax.platform_dependent(
        *saved,
        dy,
        cpu=partial(_shifted_gradients, stride=stride, pads=pads),
        default=partial(gradients, partial(depthwise_conv_lax, stride=stride, pads=pads)),
    )


_depthwise_conv.defvjp(_forward, _backward)
