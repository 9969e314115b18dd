"""Convolutions and batch normalisation shared by the backbones (NHWC, kernels H W I O)."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from product_mil.model import initializers

Pads = tuple[tuple[int, int], ...]  # zeros before and after, for height and width
Padding = str | Pads


def relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Clip to [0, 6]; the gradient at both ends is 0, as in Keras."""
    return jax.nn.relu6(x)


class Conv(nnx.Module):
    """Convolution; a 1x1 kernel runs as a matrix product.

    Kernel `[height, width, in, out]`, square where `kernel_size` is one number. A bias only where
    no BatchNorm follows, which would subtract it again.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        use_bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        shape = (*size, in_features, features)
        self.kernel = nnx.Param(initializers.he_normal(rngs.params(), shape))
        self.bias = _bias(features, rngs) if use_bias else None
        self.stride, self.padding, self.dtype = stride, padding, dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Convolve, in the type of the arithmetic."""
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        if kernel.shape[:2] == (1, 1):  # no padding reaches a 1x1 kernel
            y = pointwise_conv(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        else:
            y = lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                self.padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return _add_bias(y, self.bias)


class Dense(nnx.Module):
    """Linear layer over the channels of each place: kernel `[in, out]`."""

    def __init__(self, in_features: int, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel = nnx.Param(initializers.he_normal(rngs.params(), (in_features, features)))
        self.bias = _bias(features, rngs)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Multiply, in the type of the arithmetic."""
        y = pointwise_conv(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return _add_bias(y, self.bias)


def _bias(features: int, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(initializers.zeros(rngs.params(), (features,)))


def _add_bias(y: Array, bias: nnx.Param | None) -> Array:
    return y if bias is None else y + bias[...].astype(y.dtype)[None, None, None]


class DepthwiseConv(nnx.Module):
    """Depthwise convolution, one filter a channel: kernel `[size, size, c]`."""

    def __init__(
        self,
        features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        use_bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, features)  # each filter's fan-in is its own taps
        self.kernel = nnx.Param(initializers.he_normal(rngs.params(), shape))
        self.bias = _bias(features, rngs) if use_bias else None
        self.stride, self.padding, self.dtype = stride, padding, dtype

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Convolve, in the type of the arithmetic."""
        kernel = self.kernel[...].astype(self.dtype)
        y = depthwise_conv(x.astype(self.dtype), kernel, self.stride, self.padding)
        return _add_bias(y, self.bias)


class SeparableConv(nnx.Module):
    """Depthwise 3x3 convolution, then a 1x1 one, nothing between; SAME, no bias.

    Depthwise kernel `[3, 3, in]`, pointwise kernel `[in, out]`.
    """

    def __init__(self, in_features: int, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        depthwise, pointwise = (3, 3, in_features), (in_features, features)
        self.depthwise = nnx.Param(initializers.lecun_normal(rngs.params(), depthwise))
        self.pointwise = nnx.Param(initializers.he_normal(rngs.params(), pointwise))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        """Convolve, in the type of the arithmetic."""
        x = depthwise_conv(x.astype(self.dtype), self.depthwise[...].astype(self.dtype), 1, "SAME")
        return pointwise_conv(x, self.pointwise[...].astype(self.dtype))


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over b, h, w; statistics and arithmetic in float32.

    Keras' semantics: `momentum` is the share of the old running value that stays, and the
    running variance takes the biased variance of the batch.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float,
        epsilon: float,
        dtype: DTypeLike,
        use_scale: bool = True,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            momentum=momentum,
            epsilon=epsilon,
            dtype=jnp.float32,
            use_scale=use_scale,
            # E[x^2] - E[x]^2 loses the variance of channels whose mean is large.
            use_fast_variance=False,
            scale_init=initializers.ones,
            bias_init=initializers.zeros,
            rngs=rngs,
        )
        self.output_dtype = dtype

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # the mode has no default
        self,
        x: Float[Array, "b h w c"],
        *,
        use_running_statistics: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Normalise; with batch statistics, over the images that `mask` marks (None: all)."""
        mask = None if mask is None else mask[:, None, None, None]
        y = super().__call__(x, use_running_average=use_running_statistics, mask=mask)
        return y.astype(self.output_dtype)


class ConvNorm(nnx.Module):
    """Convolution, BatchNorm without scale, ReLU: the unit of the Inception nets."""

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_features,
            features,
            kernel_size,
            stride=stride,
            padding=padding,
            dtype=dtype,
            rngs=rngs,
        )
        self.bn = BatchNorm(
            features, momentum=0.99, epsilon=1e-3, use_scale=False, dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "b h w i"],
        *,
        use_running_statistics: bool,
        mask: Bool[Array, " b"] | None,
    ) -> Float[Array, "b h2 w2 o"]:
        """Apply the three; `mask` marks the images that batch statistics are over."""
        y = self.bn(self.conv(x), use_running_statistics=use_running_statistics, mask=mask)
        return jax.nn.relu(y)


class LayerNorm(nnx.Module):
    """Layer normalisation over the channels (Ba et al. 2016), epsilon 1e-6, in float32."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.scale = nnx.Param(initializers.ones(rngs.params(), (features,)))
        self.bias = _bias(features, rngs)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*places c"]) -> Float[Array, "*places c"]:
        """Normalise each place by itself."""
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
        places = (None,) * (x.ndim - 1)
        return (x * self.scale[...][places] + self.bias[...][places]).astype(self.dtype)


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """Maximum of each window; padding never wins."""
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def avg_pool_same(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Mean of each 3x3 window with stride 1; padding is not counted, as in TensorFlow."""
    window, strides = (1, 3, 3, 1), (1, 1, 1, 1)
    total = lax.reduce_window(x.astype(jnp.float32), 0.0, lax.add, window, strides, "SAME")
    # How many of three neighbours lie inside, for each row and each column.
    places = [np.arange(size) for size in x.shape[1:3]]
    rows, columns = (np.minimum(i + 2, len(i)) - np.maximum(i - 1, 0) for i in places)
    counts = np.outer(rows, columns).astype(np.float32)[None, :, :, None]
    return (total / counts).astype(x.dtype)


@jax.custom_vjp
def pointwise_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "i o"]
) -> Float[Array, "b h w o"]:
    """1x1 convolution as a matrix product over the channels."""
    return x @ kernel


def _pointwise_forward(x: Array, kernel: Array):
    return x @ kernel, (x, kernel)


def _pointwise_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # XLA transposes the left side in memory: let that be the narrow one, by itself (barrier).
    # Left to choose, it transposed the wide one, at five times the cost of the product.
    if rows.shape[1] <= dy_rows.shape[1]:
        dkernel = lax.optimization_barrier(rows.T) @ dy_rows
    else:
        dkernel = (lax.optimization_barrier(dy_rows.T) @ rows).T
    return dy @ kernel.T, dkernel.astype(kernel.dtype)


pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution in the form that is fastest on the platform it is compiled for.

    On a CPU, XLA's grouped convolution is 15 to 60 times slower than shifted multiply-adds
    (benchmarks/depthwise.py). Other platforms take the library form: which is faster on a GPU
    is not measured yet.
    """
    pads = padding
    if isinstance(pads, str):
        pads = tuple(lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), pads))
    return _depthwise_conv(x, kernel, stride, pads)


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
    taps = _taps(x, kernel.shape, stride, pads)
    total = sum(tap * w for tap, w in zip(taps, _weights(kernel), strict=True))
    return jnp.asarray(total, x.dtype)


def _shifted_gradients(
    x: Array, kernel: Array, dy: Array, stride: int, pads: Pads
) -> tuple[Array, Array]:
    """Gradients of the shifted form, written out: autodiff's are several times slower."""
    dkernel = _kernel_gradient(x, kernel.shape, dy, stride, pads).astype(kernel.dtype)
    # dx convolves dy, spread out by the stride, with the kernel turned by 180 degrees.
    config = [(0, 0, 0)]
    for k, (low, _), size, out in zip(
        kernel.shape[:2], pads, x.shape[1:3], dy.shape[1:3], strict=True
    ):
        wide = (out - 1) * stride + 1
        config.append((k - 1 - low, size + low - wide, stride - 1))
    config.append((0, 0, 0))
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), config)
    dx = depthwise_conv_shifted(spread, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))
    return dx.astype(x.dtype), dkernel


def _kernel_gradient(
    x: Array, kernel_shape: tuple[int, ...], dy: Array, stride: int, pads: Pads
) -> Array:
    """Sum over images and places of input times `dy`, for each tap and channel, in float32.

    Row by row with one running sum a tap: what a row needs stays in the processor's cache. Nine
    reductions over whole tensors took 10 to 20 times as long.
    """
    height, width, _ = kernel_shape
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = dy.shape[1:3]
    span = (columns - 1) * stride + 1

    def add_row(row: Array, sums: list[Array]) -> list[Array]:
        dy_row = lax.dynamic_index_in_dim(dy, row, 1, keepdims=False).astype(jnp.float32)
        x_rows = lax.dynamic_slice_in_dim(padded, row * stride, height, 1).astype(jnp.float32)
        taps = [x_rows[:, i, j : j + span : stride] for i in range(height) for j in range(width)]
        return [total + tap * dy_row for total, tap in zip(sums, taps, strict=True)]

    zero = jnp.zeros((dy.shape[0], columns, dy.shape[3]), jnp.float32)
    sums = lax.fori_loop(0, rows, add_row, [zero] * (height * width))
    return jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel_shape)


def _lax_gradients(
    x: Array, kernel: Array, dy: Array, stride: int, pads: Pads
) -> tuple[Array, Array]:
    _, gradients = jax.vjp(partial(depthwise_conv_lax, stride=stride, pads=pads), x, kernel)
    return gradients(dy)


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
        default=partial(_lax_gradients, stride=stride, pads=pads),
    )


_depthwise_conv.defvjp(_forward, _backward)


def _taps(x: Array, kernel_shape: tuple[int, ...], stride: int, pads: Pads) -> list[Array]:
    """For each kernel position in row order, the input values that it multiplies, in float32."""
    # The barrier keeps padding out of the loop over the taps, where its tests for the border
    # would be made nine times a value.
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0)))).astype(jnp.float32)
    spans = [
        (size - k) // stride * stride + 1
        for size, k in zip(padded.shape[1:3], kernel_shape, strict=False)
    ]
    return [
        padded[:, i : i + spans[0] : stride, j : j + spans[1] : stride]
        for i, j in product(range(kernel_shape[0]), range(kernel_shape[1]))
    ]


def _weights(kernel: Array) -> Array:
    return kernel.astype(jnp.float32).reshape(-1, 1, 1, 1, kernel.shape[-1])
