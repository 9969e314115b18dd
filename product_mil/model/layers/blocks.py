"""Convolutions and batch normalisation shared by the backbones (NHWC, kernels H W I O)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from product_mil.model.layers import initializers
from product_mil.model.layers.convolutions import Padding, conv, pointwise_conv
from product_mil.model.layers.depthwise import depthwise_conv
from product_mil.model.layers.normalisation import at_each_place, moments, normalise


def relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Clip to [0, 6]; the gradient at both ends is 0, as in Keras."""
    return jax.nn.relu6(x)


Factor = Float[Array, "b 1 1 1"] | None  # of a residual branch; None: the branch as it is


def branch_factors(keys: Key[Array, " b"] | None, rates: Sequence[float]) -> list[Factor]:
    """The factors of stochastic depth (Huang et al. 2016) for the residual branch of each block.

    For each image, by its own key, a factor is 0 with the probability `rate` and 1 / (1 - rate)
    otherwise, so the mean stays the same. Without keys, or with rate 0, it is None.
    """

    def factor(block: int, rate: float) -> Factor:
        if keys is None or not rate:
            return None

        def kept(key: PRNGKeyArray) -> Bool[Array, ""]:
            return jax.random.bernoulli(jax.random.fold_in(key, block), 1 - rate)

        return jax.vmap(kept)(keys)[:, None, None, None].astype(jnp.float32) / (1 - rate)

    return [factor(block, rate) for block, rate in enumerate(rates)]


def add_branch(
    x: Float[Array, "b h w c"], branch: Float[Array, "b h w c"], factor: Factor
) -> Float[Array, "b h w c"]:
    """The sum of a block's input and its branch times the factor of stochastic depth."""
    return x + (branch if factor is None else (branch * factor).astype(branch.dtype))


class Affine(NamedTuple):
    """BatchNorm with running statistics as a factor and a bias for each channel."""

    factor: Float[Array, " c"]
    bias: Float[Array, " c"]


class Conv(nnx.Module):
    """Convolution; a 1x1 kernel runs as a matrix product.

    The kernel is `[height, width, in, out]`, and square if `kernel_size` is one number. A bias is
    for layers without a BatchNorm after them, which would subtract it.
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

    def __call__(
        self, x: Float[Array, "b h w i"], affine: Affine | None = None
    ) -> Float[Array, "b h2 w2 o"]:
        """Convolve, in the type of the arithmetic; `affine` of the result, for one without bias."""
        kernel = _scaled(self.kernel[...], affine).astype(self.dtype)
        y = conv(x.astype(self.dtype), kernel, self.stride, self.padding)
        return _add_bias(y, self.bias, affine)


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


def _scaled(kernel: Array, affine: Affine | None) -> Array:
    if affine is None:
        return kernel
    return kernel * affine.factor.reshape(*(1,) * (kernel.ndim - 1), -1)


def _add_bias(y: Array, bias: nnx.Param | None, affine: Affine | None = None) -> Array:
    if affine is not None:
        return y + at_each_place(affine.bias, y)
    return y if bias is None else y + at_each_place(bias[...], y)


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

    def __call__(
        self, x: Float[Array, "b h w c"], affine: Affine | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        """Convolve, in the type of the arithmetic; `affine` of the result, for one without bias."""
        kernel = _scaled(self.kernel[...], affine).astype(self.dtype)
        y = depthwise_conv(x.astype(self.dtype), kernel, self.stride, self.padding)
        return _add_bias(y, self.bias, affine)


class SeparableConv(nnx.Module):
    """Depthwise 3x3 convolution, then a 1x1 one, nothing between; SAME, no bias.

    Depthwise kernel `[3, 3, in]`, pointwise kernel `[in, out]`.
    """

    def __init__(self, in_features: int, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        depthwise, pointwise = (3, 3, in_features), (in_features, features)
        self.depthwise = nnx.Param(initializers.lecun_normal(rngs.params(), depthwise))
        self.pointwise = nnx.Param(initializers.he_normal(rngs.params(), pointwise))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "b h w i"], affine: Affine | None = None
    ) -> Float[Array, "b h w o"]:
        """Convolve, in the type of the arithmetic; `affine` of the result."""
        x = depthwise_conv(x.astype(self.dtype), self.depthwise[...].astype(self.dtype), 1, "SAME")
        y = pointwise_conv(x, _scaled(self.pointwise[...], affine).astype(self.dtype))
        return _add_bias(y, None, affine)


class BatchNorm(nnx.Module):
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
        shape = (features,)
        self.mean = nnx.BatchStat(initializers.zeros(rngs.params(), shape))
        self.var = nnx.BatchStat(initializers.ones(rngs.params(), shape))
        self.scale = nnx.Param(initializers.ones(rngs.params(), shape)) if use_scale else None
        self.bias = _bias(features, rngs)
        self.momentum, self.epsilon, self.dtype = momentum, epsilon, dtype

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        use_running_statistics: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Normalise; with batch statistics, over the images that `mask` marks (None: all)."""
        x = x.astype(jnp.float32)
        if use_running_statistics:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = moments(x, jnp.ones(x.shape[0], bool) if mask is None else mask)
            for running, new in ((self.mean, mean), (self.var, var)):
                kept = self.momentum * running[...]
                running[...] = kept + (1 - self.momentum) * lax.stop_gradient(new)
        return normalise(x, mean, self._factor(var), self.bias[...]).astype(self.dtype)

    def affine(self) -> Affine:
        """The factor and bias of this layer with running statistics."""
        factor = self._factor(self.var[...])
        return Affine(factor, self.bias[...] - self.mean[...] * factor)

    def _factor(self, var: Float[Array, " c"]) -> Float[Array, " c"]:
        factor = lax.rsqrt(var + self.epsilon)
        return factor if self.scale is None else factor * self.scale[...]


def conv_norm(
    conv: Conv | DepthwiseConv | SeparableConv,
    norm: BatchNorm,
    x: Float[Array, "b h w i"],
    *,
    use_running_statistics: bool,
    mask: Bool[Array, " b"] | None,
) -> Float[Array, "b h2 w2 o"]:
    """A convolution without bias and its BatchNorm; `mask` marks the images of batch statistics.

    With running statistics, BatchNorm's factor is multiplied into the kernel. A GPU then adds the
    bias (and applies ReLU) during the convolution, without reading and writing the map again.
    """
    if use_running_statistics:
        return conv(x, norm.affine())
    return norm(conv(x), use_running_statistics=False, mask=mask)


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

    def __call__(self, x: Float[Array, "b h w i"], **mode) -> Float[Array, "b h2 w2 o"]:
        """Apply the three. `mode` is passed to every BatchNorm."""
        return jax.nn.relu(conv_norm(self.conv, self.bn, x, **mode))


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
