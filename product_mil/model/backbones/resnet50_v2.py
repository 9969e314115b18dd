"""ResNet-50 v2 (He et al. 2016, "Identity Mappings"), the net of keras.applications.ResNet50V2."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from product_mil.model.keras_layers import TOP, KerasLayer
from product_mil.model.layers.blocks import BatchNorm, Conv, conv_norm
from product_mil.model.layers.spatial_pools import max_pool
from product_mil.model.spec import Backbone, BackboneSpec, keras_weights


class Bottleneck(nnx.Module):
    """BatchNorm and ReLU before each of a 1x1, a 3x3 and a 1x1 convolution; plus the input.

    The first block of a stack widens the input by a convolution; the last one of most halves the
    resolution, and there the input is only subsampled.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        stride: int = 1,
        widens: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv, norm = partial(Conv, dtype=dtype, rngs=rngs), _norm(dtype, rngs)
        self.norm0 = norm(dim)
        self.shortcut = conv(dim, 4 * width, 1, use_bias=True) if widens else None
        self.conv1 = conv(dim, width, 1)
        self.norm1 = norm(width)
        # Keras pads on both sides here; SAME would pad an even size on one side.
        self.conv2 = conv(width, width, 3, stride=stride, padding=((1, 1), (1, 1)))
        self.norm2 = norm(width)
        self.conv3 = conv(width, 4 * width, 1, use_bias=True)
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h2 w2 c2"]:
        """Apply the block. `mode` is passed to every BatchNorm."""
        y = jax.nn.relu(self.norm0(x, **mode))
        subsampled = x[:, :: self.stride, :: self.stride]
        shortcut = subsampled if self.shortcut is None else self.shortcut(y)
        y = jax.nn.relu(conv_norm(self.conv1, self.norm1, y, **mode))
        y = jax.nn.relu(conv_norm(self.conv2, self.norm2, y, **mode))
        return shortcut + self.conv3(y)


class ResNet50V2(Backbone):
    """Pixels in 0..255 to one embedding of 2048 an image (global average, no top).

    Any image size; shapes are those at 224 px. `dtype` is the type of the arithmetic, parameters
    and statistics are float32.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        pads = ((3, 3), (3, 3))
        self.stem = Conv(
            3, 64, 7, stride=2, padding=pads, use_bias=True, dtype=dtype, rngs=rngs
        )  # 112 112 64, then a pool: 56 56 64
        block = partial(Bottleneck, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            [
                block(64, 64, widens=True),  # 56 56 256
                block(256, 64),  # 56 56 256
                block(256, 64, stride=2),  # 28 28 256
                block(256, 128, widens=True),  # 28 28 512
                block(512, 128),  # 28 28 512
                block(512, 128),  # 28 28 512
                block(512, 128, stride=2),  # 14 14 512
                block(512, 256, widens=True),  # 14 14 1024
                block(1024, 256),  # 14 14 1024
                block(1024, 256),  # 14 14 1024
                block(1024, 256),  # 14 14 1024
                block(1024, 256),  # 14 14 1024
                block(1024, 256, stride=2),  # 7 7 1024
                block(1024, 512, widens=True),  # 7 7 2048
                block(2048, 512),  # 7 7 2048
                block(2048, 512),  # 7 7 2048
            ]
        )
        self.last_norm = _norm(dtype, rngs)(2048)
        self.dtype = dtype

    def features(self, x: Float[Array, "b h w 3"], **mode) -> Float[Array, "b h2 w2 c"]:
        """The last map."""
        x = self.stem(x)
        # The border is zeros, as in Keras, and no value below 0 wins against it.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2, "VALID")
        for block in self.blocks:
            x = block(x, **mode)
        return jax.nn.relu(self.last_norm(x, **mode))


def _norm(dtype: DTypeLike, rngs: nnx.Rngs):
    return partial(BatchNorm, momentum=0.99, epsilon=1.001e-5, dtype=dtype, rngs=rngs)


def _keras_layers() -> list[KerasLayer]:
    norm = "batch_normalization"
    layers = []
    index = 0
    for stack, blocks in {"conv2": 3, "conv3": 4, "conv4": 6, "conv5": 3}.items():
        for number in range(1, blocks + 1):
            name, path = f"{stack}_block{number}", f"blocks.{index}"
            layers += [KerasLayer(f"{name}_preact_bn", norm, f"{path}.norm0")]
            for unit in (1, 2):
                layers += [KerasLayer(f"{name}_{unit}_conv", "conv2d", f"{path}.conv{unit}")]
                layers += [KerasLayer(f"{name}_{unit}_bn", norm, f"{path}.norm{unit}")]
            if number == 1:
                layers += [KerasLayer(f"{name}_0_conv", "conv2d", f"{path}.shortcut")]
            layers += [KerasLayer(f"{name}_3_conv", "conv2d", f"{path}.conv3")]
            index += 1
    return layers


# In the order of Keras' files.
KERAS_LAYERS = (
    KerasLayer("conv1_conv", "conv2d", "stem"),
    *_keras_layers(),
    KerasLayer("post_bn", "batch_normalization", "last_norm"),
    TOP,
)

SPEC = BackboneSpec(
    name="resnet50_v2",
    build=ResNet50V2,
    embedding_dim=2048,
    image_size_px=224,
    weights=keras_weights(
        "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels",
        notop_hash="md5:fac2f116257151a9d068a22e544a4917",
        top_hash="md5:3ef43a0b657b3be2300d5770ece849e0",
    ),
    keras_layers=KERAS_LAYERS,
)
