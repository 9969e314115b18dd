"""EfficientNetV2-S (Tan and Le 2021), the same net as keras.applications.EfficientNetV2S."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt8

from product_mil.model.keras_layers import TOP, KerasLayer, conv_and_norm
from product_mil.model.layers.blocks import (
    BatchNorm,
    Conv,
    DepthwiseConv,
    Factor,
    add_branch,
    branch_factors,
    conv_norm,
)
from product_mil.model.spec import Backbone, BackboneSpec, keras_weights

REPEATS = (2, 4, 4, 6, 9, 15)  # blocks of each stage


class FusedBlock(nnx.Module):
    """A 3x3 convolution that expands and a 1x1 that projects; or one 3x3 without expansion."""

    def __init__(
        self,
        dim: int,
        features: int,
        *,
        expansion: int,
        stride: int = 1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv, norm = partial(Conv, dtype=dtype, rngs=rngs), _norm(dtype, rngs)
        wide = dim * expansion
        self.expand = conv(dim, wide, 3, stride=stride) if expansion > 1 else None
        self.expand_norm = norm(wide) if expansion > 1 else None
        self.project = conv(wide, features, 1) if expansion > 1 else conv(dim, features, 3)
        self.project_norm = norm(features)
        self.adds_input = stride == 1 and dim == features

    def __call__(
        self, x: Float[Array, "b h w c"], factor: Factor = None, **mode
    ) -> Float[Array, "b h2 w2 c2"]:
        """Apply the block. `mode` is passed to every BatchNorm."""
        if self.expand is None or self.expand_norm is None:
            y = jax.nn.silu(conv_norm(self.project, self.project_norm, x, **mode))
        else:
            y = jax.nn.silu(conv_norm(self.expand, self.expand_norm, x, **mode))
            y = conv_norm(self.project, self.project_norm, y, **mode)
        return add_branch(x, y, factor) if self.adds_input else y


class MBConv(nnx.Module):
    """Expand, filter each channel, weigh the channels (squeeze and excite), project."""

    def __init__(
        self,
        dim: int,
        features: int,
        *,
        expansion: int,
        stride: int = 1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv, norm = partial(Conv, dtype=dtype, rngs=rngs), _norm(dtype, rngs)
        wide = dim * expansion
        self.expand = conv(dim, wide, 1)
        self.expand_norm = norm(wide)
        self.depthwise = DepthwiseConv(wide, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.depthwise_norm = norm(wide)
        self.squeeze = conv(wide, dim // 4, 1, use_bias=True)
        self.excite = conv(dim // 4, wide, 1, use_bias=True)
        self.project = conv(wide, features, 1)
        self.project_norm = norm(features)
        self.adds_input = stride == 1 and dim == features

    def __call__(
        self, x: Float[Array, "b h w c"], factor: Factor = None, **mode
    ) -> Float[Array, "b h2 w2 c2"]:
        """Apply the block. `mode` is passed to every BatchNorm."""
        y = jax.nn.silu(conv_norm(self.expand, self.expand_norm, x, **mode))
        y = jax.nn.silu(conv_norm(self.depthwise, self.depthwise_norm, y, **mode))
        weights = jax.nn.silu(self.squeeze(y.mean((1, 2), keepdims=True)))
        y = y * jax.nn.sigmoid(self.excite(weights))
        y = conv_norm(self.project, self.project_norm, y, **mode)
        return add_branch(x, y, factor) if self.adds_input else y


class EfficientNetV2S(Backbone):
    """Pixels in 0..255 to one embedding of 1280 an image (global average, no top).

    Any image size; shapes are those at 384 px. `dtype` is the type of the arithmetic, parameters
    and statistics are float32.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32, stochastic_depth: float = 0.0
    ):
        of = {"dtype": dtype, "rngs": rngs}
        fused, block = partial(FusedBlock, **of), partial(MBConv, **of)
        self.stem = Conv(3, 24, 3, stride=2, **of)  # 192 192 24
        self.stem_norm = _norm(dtype, rngs)(24)
        self.blocks = nnx.List(
            [
                *(fused(24, 24, expansion=1) for _ in range(2)),  # 192 192 24
                fused(24, 48, expansion=4, stride=2),  # 96 96 48
                *(fused(48, 48, expansion=4) for _ in range(3)),  # 96 96 48
                fused(48, 64, expansion=4, stride=2),  # 48 48 64
                *(fused(64, 64, expansion=4) for _ in range(3)),  # 48 48 64
                block(64, 128, expansion=4, stride=2),  # 24 24 128
                *(block(128, 128, expansion=4) for _ in range(5)),  # 24 24 128
                block(128, 160, expansion=6),  # 24 24 160
                *(block(160, 160, expansion=6) for _ in range(8)),  # 24 24 160
                block(160, 256, expansion=6, stride=2),  # 12 12 256
                *(block(256, 256, expansion=6) for _ in range(14)),  # 12 12 256
            ]
        )
        self.last = Conv(256, 1280, 1, **of)  # 12 12 1280
        self.last_norm = _norm(dtype, rngs)(1280)
        self.dtype, self.stochastic_depth = dtype, stochastic_depth

    def scaled(
        self, pixels: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w 3"]:
        """The pixels divided by 128, minus 1, as Keras scales them for this net."""
        return pixels.astype(self.dtype) / 128.0 - 1.0

    def features(
        self, x: Float[Array, "b h w 3"], *, keys: Key[Array, " b"] | None = None, **mode
    ) -> Float[Array, "b h2 w2 c"]:
        """The last map."""
        factors = branch_factors(keys, branch_rates(self.stochastic_depth))
        x = jax.nn.silu(conv_norm(self.stem, self.stem_norm, x, **mode))
        for block, factor in zip(self.blocks, factors, strict=True):
            x = block(x, factor, **mode)
        return jax.nn.silu(conv_norm(self.last, self.last_norm, x, **mode))


def branch_rates(rate: float) -> list[float]:
    """The rate of stochastic depth of each block.

    It grows from 0, and would reach `rate` at a further block after the last.
    """
    num_blocks = sum(REPEATS)
    return [rate * block / num_blocks for block in range(num_blocks)]


def _norm(dtype: DTypeLike, rngs: nnx.Rngs):
    return partial(BatchNorm, momentum=0.9, epsilon=1e-3, dtype=dtype, rngs=rngs)


def _block_layers(name: str, path: str, *, fused: bool, expands: bool) -> list[KerasLayer]:
    project = conv_and_norm(
        f"{name}project_conv", f"{name}project_bn", f"{path}.project", f"{path}.project_norm"
    )
    if not expands:
        return project
    expand = conv_and_norm(
        f"{name}expand_conv", f"{name}expand_bn", f"{path}.expand", f"{path}.expand_norm"
    )
    if fused:
        return expand + project
    return [
        *expand,
        KerasLayer(f"{name}dwconv2", "depthwise_conv2d", f"{path}.depthwise"),
        KerasLayer(f"{name}bn", "batch_normalization", f"{path}.depthwise_norm"),
        KerasLayer(f"{name}se_reduce", "conv2d", f"{path}.squeeze"),
        KerasLayer(f"{name}se_expand", "conv2d", f"{path}.excite"),
        *project,
    ]


def _keras_layers() -> list[KerasLayer]:
    layers = []
    index = 0
    for stage, repeats in enumerate(REPEATS, 1):
        for letter in "abcdefghijklmno"[:repeats]:
            name, path = f"block{stage}{letter}_", f"blocks.{index}"
            layers += _block_layers(name, path, fused=stage <= 3, expands=stage > 1)
            index += 1
    return layers


# In the order of Keras' files.
KERAS_LAYERS = (
    *conv_and_norm("stem_conv", "stem_bn", "stem", "stem_norm"),
    *_keras_layers(),
    *conv_and_norm("top_conv", "top_bn", "last", "last_norm"),
    TOP,
)


def _torch_names() -> dict[str | None, str]:
    """timm's names of `tf_efficientnetv2_s`; torchvision's net of this name has other padding."""
    names: dict[str | None, str] = {None: "classifier"}
    names |= {"stem": "conv_stem", "stem_norm": "bn1", "last": "conv_head", "last_norm": "bn2"}
    first = {"project": "conv", "project_norm": "bn1"}
    fused = {
        "expand": "conv_exp",
        "expand_norm": "bn1",
        "project": "conv_pwl",
        "project_norm": "bn2",
    }
    excited = {
        "expand": "conv_pw",
        "expand_norm": "bn1",
        "depthwise": "conv_dw",
        "depthwise_norm": "bn2",
        "squeeze": "se.conv_reduce",
        "excite": "se.conv_expand",
        "project": "conv_pwl",
        "project_norm": "bn3",
    }
    stages = zip(REPEATS, (first, fused, fused, excited, excited, excited), strict=True)
    block = 0
    for stage, (repeats, parts) in enumerate(stages):
        for index in range(repeats):
            names |= {
                f"blocks.{block}.{o}": f"blocks.{stage}.{index}.{t}" for o, t in parts.items()
            }
            block += 1
    return names


TORCH_NAMES = _torch_names()

SPEC = BackboneSpec(
    name="efficientnet_v2_s",
    build=EfficientNetV2S,
    embedding_dim=1280,
    image_size_px=384,
    weights=keras_weights(
        "efficientnet_v2/efficientnetv2-s",
        notop_hash="md5:af0682fb74e8c54910f2d4393339c070",
        top_hash="md5:e1d88a8495beba45748fedd0cecbe016",
    ),
    keras_layers=KERAS_LAYERS,
    torch_namings=(TORCH_NAMES,),
    has_stochastic_depth=True,
)
