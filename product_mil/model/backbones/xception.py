"""Xception (Chollet 2017), the same net as keras.applications.Xception."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from product_mil.model.keras_layers import TOP, KerasLayer
from product_mil.model.layers.blocks import BatchNorm, Conv, SeparableConv, conv_norm
from product_mil.model.layers.spatial_pools import max_pool
from product_mil.model.spec import Backbone, BackboneSpec, keras_weights


class Block(nnx.Module):
    """ReLU, separable convolution and BatchNorm, two or three times, beside a shortcut.

    A block that halves the resolution pools its result; its shortcut is then a 1x1 convolution.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        halves: bool = True,
        starts_with_relu: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        of = {"dtype": dtype, "rngs": rngs}
        self.convs = nnx.List([SeparableConv(i, o, **of) for i, o in pairwise(dims)])
        self.norms = nnx.List([_norm(dtype, rngs)(o) for o in dims[1:]])
        self.shortcut = Conv(dims[0], dims[-1], 1, stride=2, **of) if halves else None
        self.shortcut_norm = _norm(dtype, rngs)(dims[-1]) if halves else None
        self.starts_with_relu = starts_with_relu

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h2 w2 c2"]:
        """Apply the block. `mode` is passed to every BatchNorm."""
        y = x
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if index > 0 or self.starts_with_relu:
                y = jax.nn.relu(y)
            y = conv_norm(conv, norm, y, **mode)
        if self.shortcut is None or self.shortcut_norm is None:
            return x + y
        return conv_norm(self.shortcut, self.shortcut_norm, x, **mode) + max_pool(y, 3, 2, "SAME")


class Xception(Backbone):
    """Pixels in 0..255 to one embedding of 2048 an image (global average, no top).

    Any image size from 71 px; shapes are those at 299 px. `dtype` is the type of the arithmetic,
    parameters and statistics are float32.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        of = {"dtype": dtype, "rngs": rngs}
        norm = _norm(dtype, rngs)
        self.conv1 = Conv(3, 32, 3, stride=2, padding="VALID", **of)  # 149 149 32
        self.norm1 = norm(32)
        self.conv2 = Conv(32, 64, 3, padding="VALID", **of)  # 147 147 64
        self.norm2 = norm(64)
        self.blocks = nnx.List(
            [
                Block((64, 128, 128), starts_with_relu=False, **of),  # 74 74 128
                Block((128, 256, 256), **of),  # 37 37 256
                Block((256, 728, 728), **of),  # 19 19 728
                *(Block((728,) * 4, halves=False, **of) for _ in range(8)),  # 19 19 728
                Block((728, 728, 1024), **of),  # 10 10 1024
            ]
        )
        self.conv3 = SeparableConv(1024, 1536, **of)  # 10 10 1536
        self.norm3 = norm(1536)
        self.conv4 = SeparableConv(1536, 2048, **of)  # 10 10 2048
        self.norm4 = norm(2048)
        self.dtype = dtype

    def features(self, x: Float[Array, "b h w 3"], **mode) -> Float[Array, "b h2 w2 c"]:
        """The last map."""
        x = jax.nn.relu(conv_norm(self.conv1, self.norm1, x, **mode))
        x = jax.nn.relu(conv_norm(self.conv2, self.norm2, x, **mode))
        for block in self.blocks:
            x = block(x, **mode)
        x = jax.nn.relu(conv_norm(self.conv3, self.norm3, x, **mode))
        return jax.nn.relu(conv_norm(self.conv4, self.norm4, x, **mode))


def _norm(dtype: DTypeLike, rngs: nnx.Rngs):
    return partial(BatchNorm, momentum=0.99, epsilon=1e-3, dtype=dtype, rngs=rngs)


def _keras_layers() -> list[KerasLayer]:
    norm = "batch_normalization"
    layers = []
    for number in (1, 2):
        name = f"block1_conv{number}"
        layers += [KerasLayer(name, "conv2d", f"conv{number}")]
        layers += [KerasLayer(f"{name}_bn", norm, f"norm{number}")]
    shortcuts = {0: "", 1: "_1", 2: "_2", 11: "_3"}
    for index in range(12):
        for number in range(2 if index in shortcuts else 3):
            name = f"block{index + 2}_sepconv{number + 1}"
            path = f"blocks.{index}.{{}}.{number}"
            layers += [KerasLayer(name, "separable_conv2d", path.format("convs"))]
            layers += [KerasLayer(f"{name}_bn", norm, path.format("norms"))]
        if index in shortcuts:  # its two layers have no name: Keras numbers them
            path, number = f"blocks.{index}.shortcut", shortcuts[index]
            layers += [KerasLayer(f"conv2d{number}", "conv2d", path)]
            layers += [KerasLayer(f"{norm}{number}", norm, f"{path}_norm")]
    for number in (1, 2):
        name = f"block14_sepconv{number}"
        layers += [KerasLayer(name, "separable_conv2d", f"conv{number + 2}")]
        layers += [KerasLayer(f"{name}_bn", norm, f"norm{number + 2}")]
    return layers


# In the order of Keras' files.
KERAS_LAYERS = (*_keras_layers(), TOP)

SPEC = BackboneSpec(
    name="xception",
    build=Xception,
    embedding_dim=2048,
    image_size_px=299,
    min_image_size_px=71,
    weights=keras_weights(
        "xception/xception_weights_tf_dim_ordering_tf_kernels",
        notop_hash="md5:b0042744bf5b25fce3cb969f33bebb97",
        top_hash="md5:0a58e3b7378bc2990ea3b43d5981f1f6",
    ),
    keras_layers=KERAS_LAYERS,
)
