"""MobileNetV2 1.0 (Sandler et al. 2018), the same net as keras.applications.MobileNetV2."""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from product_mil.model.keras_layers import TOP, KerasLayer
from product_mil.model.layers.blocks import BatchNorm, Conv, conv_norm, relu6
from product_mil.model.layers.inverted_residual import InvertedResidual
from product_mil.model.spec import Backbone, BackboneSpec, keras_weights

MOMENTUM = 0.999  # of every BatchNorm


class MobileNetV2(Backbone):
    """Pixels in 0..255 to one embedding of 1280 an image (global average, no top).

    Any image size from 1 px; shapes below are those at 224 px. `dtype` is the type of the
    arithmetic, parameters and statistics are float32.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        # Keras pads by hand before stride 2 (correct_pad): for a 3x3 kernel that is SAME.
        block = partial(InvertedResidual, momentum=MOMENTUM, dtype=dtype, rngs=rngs)
        self.stem = Conv(3, 32, 3, stride=2, dtype=dtype, rngs=rngs)  # 112 112 32
        self.stem_norm = _norm(dtype, rngs)(32)
        self.blocks = nnx.List(
            [
                block(32, 16, stride=1, expansion=1),  # 112 112 16
                block(16, 24, stride=2),  # 56 56 24
                block(24, 24, stride=1),  # 56 56 24
                block(24, 32, stride=2),  # 28 28 32
                block(32, 32, stride=1),  # 28 28 32
                block(32, 32, stride=1),  # 28 28 32
                block(32, 64, stride=2),  # 14 14 64
                block(64, 64, stride=1),  # 14 14 64
                block(64, 64, stride=1),  # 14 14 64
                block(64, 64, stride=1),  # 14 14 64
                block(64, 96, stride=1),  # 14 14 96
                block(96, 96, stride=1),  # 14 14 96
                block(96, 96, stride=1),  # 14 14 96
                block(96, 160, stride=2),  # 7 7 160
                block(160, 160, stride=1),  # 7 7 160
                block(160, 160, stride=1),  # 7 7 160
                block(160, 320, stride=1),  # 7 7 320
            ]
        )
        self.last = Conv(320, 1280, 1, dtype=dtype, rngs=rngs)  # 7 7 1280
        self.last_norm = _norm(dtype, rngs)(1280)
        self.dtype = dtype

    def features(self, x: Float[Array, "b h w 3"], **mode) -> Float[Array, "b h2 w2 c"]:
        """The last map."""
        x = relu6(conv_norm(self.stem, self.stem_norm, x, **mode))
        for block in self.blocks:
            x = block(x, **mode)
        return relu6(conv_norm(self.last, self.last_norm, x, **mode))


def _norm(dtype: DTypeLike, rngs: nnx.Rngs):
    return partial(BatchNorm, momentum=MOMENTUM, epsilon=1e-3, dtype=dtype, rngs=rngs)


def _block_layers(index: int) -> list[KerasLayer]:
    keras = f"block_{index}_" if index else "expanded_conv_"
    parts = ["depthwise", "project"] if index == 0 else ["expand", "depthwise", "project"]
    layers = []
    for part in parts:
        kind = "depthwise_conv2d" if part == "depthwise" else "conv2d"
        path = f"blocks.{index}.{part}"
        layers += [KerasLayer(f"{keras}{part}", kind, path)]
        layers += [KerasLayer(f"{keras}{part}_BN", "batch_normalization", f"{path}_norm")]
    return layers


# In the order of Keras' files.
KERAS_LAYERS = (
    KerasLayer("Conv1", "conv2d", "stem"),
    KerasLayer("bn_Conv1", "batch_normalization", "stem_norm"),
    *(layer for index in range(17) for layer in _block_layers(index)),
    KerasLayer("Conv_1", "conv2d", "last"),
    KerasLayer("Conv_1_bn", "batch_normalization", "last_norm"),
    TOP,
)

SPEC = BackboneSpec(
    name="mobilenet_v2",
    build=MobileNetV2,
    embedding_dim=1280,
    image_size_px=224,
    weights=keras_weights(
        "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224",
        notop="_no_top.h5",
        notop_hash=None,
        top_hash=None,
    ),
    keras_layers=KERAS_LAYERS,
)
