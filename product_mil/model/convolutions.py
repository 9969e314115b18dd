"""Convolutions in the form that is fastest on the platform they are compiled for (NHWC, H W I O).

Which form that is was measured (docs/performance.md, benchmarks/depthwise.py): on CPUs XLA's
grouped convolution, its unpadded convolution and its choice of what to transpose in a 1x1 kernel's
gradient are slow. Other platforms take XLA's own forms; whether ours are faster on a GPU is not
measured.
"""

from collections.abc import Callable
from functools import partial, reduce
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# LLVM unrolls a loop of about 300 instructions; a sum of products has three a term.
_LONGEST_SUM = 80

Pads = tuple[tuple[int, int], ...]  # zeros before and after, for height and width
Padding = str | Pads


def explicit_pads(
    shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, padding: Padding
) -> Pads:
    """`SAME` or `VALID` as numbers of zeros, for an image `[b, h, w, c]`; pads as they are."""
    if not isinstance(padding, str):
        return padding
    return tuple(lax.padtype_to_pads(shape[1:3], kernel_shape[:2], (stride, stride), padding))


def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Convolve; a 1x1 kernel runs as a matrix product."""
    if kernel.shape[:2] == (1, 1):  # no padding reaches a 1x1 kernel
        return pointwise_conv(x, kernel[0, 0], stride)
    pads = explicit_pads(x.shape, kernel.shape, stride, padding)
    if stride > 1 or any(map(any, pads)):
        return conv_lax(x, kernel, stride, pads)
    return lax.platform_dependent(
        x, kernel, cpu=_conv_one_more, default=partial(conv_lax, stride=1, padding=pads)
    )


def conv_lax(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Convolution as XLA has it."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_one_more(x: Array, kernel: Array) -> Array:
    """Unpadded convolution as a padded one, its last row and column cut off.

    XLA's takes 2.5 to 4.6 times as long without any padding, 1.6 times with its gradients.
    """
    return conv_lax(x, kernel, 1, ((0, 1), (0, 1)))[:, :-1, :-1]


def pointwise_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "i o"], stride: int = 1
) -> Float[Array, "b h2 w2 o"]:
    """1x1 convolution: on a CPU a matrix product over the channels, elsewhere the library's.

    Compiled for a GPU, XLA gives the library's the bias and ReLU that follow; as a product it
    transposed and padded whole maps for the kernel's gradient, and crashed on strides.
    """
    return _pointwise_conv(x, kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise_conv(x: Array, kernel: Array, stride: int) -> Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: x[:, ::stride, ::stride] @ kernel,
        default=partial(_pointwise_lax, stride=stride),
    )


def _pointwise_lax(x: Array, kernel: Array, stride: int) -> Array:
    return conv_lax(x, kernel[None, None], stride, "VALID")


def _pointwise_forward(x: Array, kernel: Array, stride: int):
    return _pointwise_conv(x, kernel, stride), (x, kernel)


def _pointwise_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(
        *saved,
        dy,
        cpu=partial(_product_gradients, stride=stride),
        default=partial(_gradients, partial(_pointwise_lax, stride=stride)),
    )


def _product_gradients(x: Array, kernel: Array, dy: Array, stride: int) -> tuple[Array, Array]:
    seen = x[:, ::stride, ::stride]
    rows, dy_rows = seen.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # The narrow one on the left, and turned afterwards, by itself (barrier): XLA would turn the
    # product into one that takes two to four times as long.
    if rows.shape[1] <= dy_rows.shape[1]:
        dkernel = _over_rows(rows, dy_rows)
    else:
        dkernel = lax.optimization_barrier(_over_rows(dy_rows, rows)).T
    # Between the places that were seen, and after the last, the gradient is zero.
    after = [(size - 1) % stride for size in x.shape[1:3]]
    spread = ((0, 0, 0), *((0, end, stride - 1) for end in after), (0, 0, 0))
    dx = lax.pad(dy @ kernel.T, jnp.zeros((), dy.dtype), spread)
    return dx, dkernel.astype(kernel.dtype)


def _over_rows(left: Array, right: Array) -> Array:
    """`left.T @ right`, with no transposed copy."""
    return lax.dot_general(left, right, (((0,), (0,)), ((), ())))


def _gradients(convolve: Callable[..., Array], x: Array, kernel: Array, dy: Array):
    """Gradients as autodiff has them."""
    return jax.vjp(convolve, x, kernel)[1](dy)


_pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution in the form that is fastest on the platform it is compiled for.

    On a CPU, XLA's grouped convolution is 15 to 60 times slower than shifted multiply-adds
    (benchmarks/depthwise.py). Other platforms take the library form: which is faster on a GPU
    is not measured yet.
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
    """Gradients of the shifted form, written out: autodiff's are several times slower."""
    dkernel = _kernel_gradient(x, kernel.shape, dy, stride, pads).astype(kernel.dtype)
    return _input_gradient(x.shape, kernel, dy, stride, pads).astype(x.dtype), dkernel


def _input_gradient(
    shape: tuple[int, ...], kernel: Array, dy: Array, stride: int, pads: Pads
) -> Array:
    """What each value of the input gave to the windows that it lies in, times their `dy`.

    Values are taken in stride x stride phases: those of one phase meet the same taps, so that no
    zeros between the places of `dy` are multiplied.
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


def interleaved(
    phase: Callable[[int, int], Array], shape: tuple[int, ...], stride: int
) -> Float[Array, "b h w c"]:
    """A map of stride x stride phases of this shape: `phase(i, j)` from row i and column j on."""

    def spread(row: int, column: int) -> Array:
        ends = ((i, stride - 1 - i, stride - 1) for i in (row, column))
        values = jnp.broadcast_to(phase(row, column), shape)
        return lax.pad(values, jnp.zeros((), values.dtype), ((0, 0, 0), *ends, (0, 0, 0)))

    return reduce(jnp.add, (spread(i, j) for i, j in product(range(stride), repeat=2)))


def _kernel_gradient(
    x: Array, kernel_shape: tuple[int, ...], dy: Array, stride: int, pads: Pads
) -> Array:
    """Sum over images and places of input times `dy`, for each tap and channel, in float32.

    First within blocks of rows (3x3) or columns (larger), many taps in one reduction: one loop
    reads both maps once for all of them, and is short enough that LLVM unrolls it whole.
    """
    height, width, _ = kernel_shape
    together = height * width if width <= 3 else width  # taps
    axis = 1 if width <= 3 else 2
    longest = max(_LONGEST_SUM // together, 1)
    blocks = -(-dy.shape[axis] // longest)
    block = -(-dy.shape[axis] // blocks)
    places = [blocks * block if a == axis else dy.shape[a] for a in (1, 2)]
    # Both maps end where the last block does.
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
        default=partial(_gradients, partial(depthwise_conv_lax, stride=stride, pads=pads)),
    )


_depthwise_conv.defvjp(_forward, _backward)


def taps(
    x: Array, kernel_shape: tuple[int, ...], stride: int, pads: Pads, border: float
) -> list[Array]:
    """For each kernel position in row order, the values it meets; `border` is what pads hold."""
    # The barrier keeps padding out of the loop over the taps, where its tests for the border
    # would be made nine times a value.
    config = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
    padded = lax.optimization_barrier(lax.pad(x, jnp.asarray(border, x.dtype), config))
    spans = [
        (size - k) // stride * stride + 1
        for size, k in zip(padded.shape[1:3], kernel_shape, strict=False)
    ]
    return [
        padded[:, i : i + spans[0] : stride, j : j + spans[1] : stride]
        for i, j in product(range(kernel_shape[0]), range(kernel_shape[1]))
    ]
