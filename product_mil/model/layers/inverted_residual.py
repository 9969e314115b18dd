"""The block of MobileNetV2, and of EfficientNet-Lite."""

from functools import partial

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from product_mil.model.layers.blocks import BatchNorm, Conv, DepthwiseConv, conv_norm, relu6


class InvertedResidual(nnx.Module):
    """Expand by a 1x1 convolution, filter each channel, project; add the input where it fits.

    Padding is TensorFlow's SAME; `momentum` is that of every BatchNorm, whose epsilon is 1e-3.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        stride: int,
        momentum: float,
        kernel_size: int = 3,
        expansion: int = 6,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv = partial(Conv, dtype=dtype, rngs=rngs)
        norm = partial(BatchNorm, momentum=momentum, epsilon=1e-3, dtype=dtype, rngs=rngs)
        wide = in_features * expansion
        self.expand = conv(in_features, wide, 1) if expansion > 1 else None
        self.expand_norm = norm(wide) if expansion > 1 else None
        self.depthwise = DepthwiseConv(wide, kernel_size, stride=stride, dtype=dtype, rngs=rngs)
        self.depthwise_norm = norm(wide)
        self.project = conv(wide, features, 1)
        self.project_norm = norm(features)
        self.adds_input = stride == 1 and in_features == features

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h2 w2 c2"]:
        """Apply the block. `mode` is passed to every BatchNorm."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = relu6(conv_norm(self.expand, self.expand_norm, y, **mode))
        y = relu6(conv_norm(self.depthwise, self.depthwise_norm, y, **mode))
        y = conv_norm(self.project, self.project_norm, y, **mode)
        return x + y if self.adds_input else y
