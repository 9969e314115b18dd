"""Convolutions in the form that is fastest on the platform they are compiled for (NHWC, H W I O).

These forms were measured (docs/measured/performance.md, benchmarks/parts/depthwise.py). On CPUs,
XLA is slow for unpadded convolutions, gradients of 1x1 convolutions and grouped convolutions
(`depthwise.py`). Other platforms use XLA's own forms; whether ours are faster on a GPU has not been
measured.
"""

from collections.abc import Callable
from functools import partial, reduce
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from product_mil.batch import Shape

Pads = tuple[tuple[int, int], ...]  # zeros before and after, for height and width
Padding = str | Pads


def explicit_pads(
    shape: Shape, kernel_shape: tuple[int, ...], stride: int, padding: Padding
) -> Pads:
    """The padding as numbers of zeros, for images of shape `[b, h, w, c]`."""
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
    """Convolve by XLA's own convolution."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_one_more(x: Array, kernel: Array) -> Array:
    """An unpadded convolution, computed by a padded one whose last row and column are cut off.

    Without padding, XLA takes 2.5 to 4.6 times as long, and 1.6 times with gradients.
    """
    return conv_lax(x, kernel, 1, ((0, 1), (0, 1)))[:, :-1, :-1]


def pointwise_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "i o"], stride: int = 1
) -> Float[Array, "b h2 w2 o"]:
    """A 1x1 convolution. On a CPU it is a matrix product, on other platforms XLA's convolution.

    On a GPU, XLA joins its convolution with the bias and ReLU that follow. Compiled as a product,
    it transposed and padded whole maps for the kernel's gradient, and crashed on strides.
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
        default=partial(gradients, partial(_pointwise_lax, stride=stride)),
    )


def _product_gradients(x: Array, kernel: Array, dy: Array, stride: int) -> tuple[Array, Array]:
    seen = x[:, ::stride, ::stride]
    rows, dy_rows = seen.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # The narrower factor is on the left, and the product is transposed behind a barrier. Otherwise
    # XLA changes it into a product that takes two to four times as long.
    if rows.shape[1] <= dy_rows.shape[1]:
        dkernel = _over_rows(rows, dy_rows)
    else:
        dkernel = lax.optimization_barrier(_over_rows(dy_rows, rows)).T
    # The gradient is zero at the places that the stride leaves out.
    after = [(size - 1) % stride for size in x.shape[1:3]]
    spread = ((0, 0, 0), *((0, end, stride - 1) for end in after), (0, 0, 0))
    dx = lax.pad(dy @ kernel.T, jnp.zeros((), dy.dtype), spread)
    return dx, dkernel.astype(kernel.dtype)


def _over_rows(left: Array, right: Array) -> Array:
    """`left.T @ right`, with no transposed copy."""
    return lax.dot_general(left, right, (((0,), (0,)), ((), ())))


def gradients(convolve: Callable[..., Array], x: Array, kernel: Array, dy: Array):
    """The gradients by automatic differentiation."""
    return jax.vjp(convolve, x, kernel)[1](dy)


_pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


def taps(
    x: Array, kernel_shape: tuple[int, ...], stride: int, pads: Pads, border: float
) -> list[Array]:
    """For each kernel position in row order, the values it is multiplied with.

    Padding has the value `border`.
    """
    # Without the barrier, the loop over the taps would include the padding, and test for the border
    # nine times for each value.
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


def interleaved(
    phase: Callable[[int, int], Array], shape: Shape, stride: int
) -> Float[Array, "b h w c"]:
    """A map that is interleaved from stride x stride phases of this shape.

    The values of `phase(i, j)` begin at row i and column j.
    """

    def spread(row: int, column: int) -> Array:
        ends = ((i, stride - 1 - i, stride - 1) for i in (row, column))
        values = jnp.broadcast_to(phase(row, column), shape)
        return lax.pad(values, jnp.zeros((), values.dtype), ((0, 0, 0), *ends, (0, 0, 0)))

    return reduce(jnp.add, (spread(i, j) for i, j in product(range(stride), repeat=2)))
