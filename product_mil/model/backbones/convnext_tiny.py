"""ConvNeXt-Tiny (Liu et al. 2022), the same net as keras.applications.ConvNeXtTiny."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt8

from product_mil.model.keras_layers import KerasLayer
from product_mil.model.layers import initializers
from product_mil.model.layers.blocks import (
    Conv,
    Dense,
    DepthwiseConv,
    Factor,
    LayerNorm,
    add_branch,
    branch_factors,
)
from product_mil.model.layers.normalisation import at_each_place
from product_mil.model.spec import Backbone, BackboneSpec, keras_weights

# Of ImageNet's pixels from 0 to 255.
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
SPREAD = np.array([0.229, 0.224, 0.225], np.float32) * 255

DEPTHS = (3, 3, 9, 3)


class LayerScale(nnx.Module):
    """One factor a channel, small at first (Touvron et al. 2021)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(1e-6 * initializers.ones(rngs.params(), (features,), jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Multiply."""
        return x * at_each_place(self.scale[...], x)


class Block(nnx.Module):
    """Filter each channel by 7x7, normalise, and add a perceptron's output, scaled."""

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        of = {"dtype": dtype, "rngs": rngs}
        self.depthwise = DepthwiseConv(dim, 7, use_bias=True, **of)
        self.norm = LayerNorm(dim, **of)
        self.expand = Dense(dim, 4 * dim, **of)
        self.project = Dense(4 * dim, dim, **of)
        self.scale = LayerScale(dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], factor: Factor = None
    ) -> Float[Array, "b h w c"]:
        """Apply the block."""
        y = self.expand(self.norm(self.depthwise(x)))
        y = self.project(jax.nn.gelu(y, approximate=False))
        return add_branch(x, self.scale(y), factor)


class ConvNeXtTiny(Backbone):
    """Pixels in 0..255 to one embedding of 768 an image: global average, then LayerNorm; no top.

    Any image size from 32 px; shapes are those at 224 px. `dtype` is the type of the arithmetic,
    parameters are float32. There is no BatchNorm: the two modes are the same.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32, stochastic_depth: float = 0.0
    ):
        of = {"dtype": dtype, "rngs": rngs}
        conv, block = partial(Conv, use_bias=True, padding="VALID", **of), partial(Block, **of)
        self.stem = conv(3, 96, 4, stride=4)  # 56 56 96
        self.stem_norm = LayerNorm(96, **of)
        self.stages = nnx.List(
            [
                nnx.List([block(96) for _ in range(3)]),  # 56 56 96
                nnx.List([block(192) for _ in range(3)]),  # 28 28 192
                nnx.List([block(384) for _ in range(9)]),  # 14 14 384
                nnx.List([block(768) for _ in range(3)]),  # 7 7 768
            ]
        )
        # Before the second, third and fourth stage.
        self.halve_norms = nnx.List([LayerNorm(dim, **of) for dim in (96, 192, 384)])
        self.halve = nnx.List([conv(dim, 2 * dim, 2, stride=2) for dim in (96, 192, 384)])
        self.last_norm = LayerNorm(768, **of)
        self.dtype, self.stochastic_depth = dtype, stochastic_depth

    def scaled(
        self, pixels: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w 3"]:
        """The pixels scaled to mean 0 and standard deviation 1 over ImageNet."""
        x = pixels.astype(jnp.float32) - MEAN[None, None, None]
        return (x / SPREAD[None, None, None]).astype(self.dtype)

    def features(
        self, x: Float[Array, "b h w 3"], *, keys: Key[Array, " b"] | None = None, **mode
    ) -> Float[Array, "b h2 w2 c"]:
        """The last map. Images do not influence each other, so the mode changes nothing."""
        del mode
        factors = iter(branch_factors(keys, branch_rates(self.stochastic_depth)))
        x = self.stem_norm(self.stem(x))
        for index, stage in enumerate(self.stages):
            if index > 0:
                x = self.halve[index - 1](self.halve_norms[index - 1](x))
            for block in stage:
                x = block(x, next(factors))
        return x

    def pooled(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """The global average, normalised."""
        return self.last_norm(x.mean((1, 2)))


def branch_rates(rate: float) -> list[float]:
    """The rate of stochastic depth of each block, which grows from 0 to `rate`."""
    return np.linspace(0, rate, sum(DEPTHS)).tolist()


def _keras_layers() -> list[KerasLayer]:
    def layer(name: str, kind: str, path: str, container: str = "") -> KerasLayer:
        return KerasLayer(f"convnext_tiny_{name}", kind, path, container=container)

    norm = "layer_normalization"
    layers = [
        layer("stem_conv", "conv2d", "stem", "sequential"),
        layer("stem_layernorm", norm, "stem_norm", "sequential"),
    ]
    for stage, depth in enumerate(DEPTHS):
        if stage > 0:
            before, inside = stage - 1, f"sequential_{stage}"
            layers += [
                layer(f"downsampling_layernorm_{before}", norm, f"halve_norms.{before}", inside),
                layer(f"downsampling_conv_{before}", "conv2d", f"halve.{before}", inside),
            ]
        for index in range(depth):
            name, path = f"stage_{stage}_block_{index}", f"stages.{stage}.{index}"
            layers += [
                layer(f"{name}_depthwise_conv", "conv2d", f"{path}.depthwise"),  # in 96 groups
                layer(f"{name}_layernorm", norm, f"{path}.norm"),
                layer(f"{name}_pointwise_conv_1", "dense", f"{path}.expand"),
                layer(f"{name}_pointwise_conv_2", "dense", f"{path}.project"),
                layer(f"{name}_layer_scale", "layer_scale", f"{path}.scale"),
            ]
    return layers


# In the order of Keras' files.
KERAS_LAYERS = (
    *_keras_layers(),
    KerasLayer(
        "layer_normalization", "layer_normalization", "last_norm", "convnext_tiny_head_layernorm"
    ),
    KerasLayer("convnext_tiny_head_dense", "dense", None),
)


def _torch_names(
    stem: str, halve: str, block: str, inside: tuple[str, ...], head: tuple[str, str]
) -> dict[str | None, str]:
    """The prefix of each module in a file; `halve` and `block` are formats with their numbers."""
    names: dict[str | None, str] = {"stem": f"{stem}.0", "stem_norm": f"{stem}.1"}
    for stage, depth in enumerate(DEPTHS):
        if stage > 0:
            prefix = halve.format(stage=stage, before=2 * stage)
            names |= {
                f"halve_norms.{stage - 1}": f"{prefix}.0",
                f"halve.{stage - 1}": f"{prefix}.1",
            }
        for index in range(depth):
            prefix = block.format(stage=stage, odd=2 * stage + 1, index=index)
            parts = ("depthwise", "norm", "expand", "project", "scale")
            for part, theirs in zip(parts, inside, strict=True):
                names[f"stages.{stage}.{index}.{part}"] = f"{prefix}.{theirs}"
    return names | {"last_norm": head[0], None: head[1]}


TIMM_NAMES = _torch_names(
    "stem",
    "stages.{stage}.downsample",
    "stages.{stage}.blocks.{index}",
    ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
    ("head.norm", "head.fc"),
)
TORCHVISION_NAMES = _torch_names(
    "features.0",
    "features.{before}",
    "features.{odd}.{index}",
    ("block.0", "block.2", "block.3", "block.5", "layer_scale"),
    ("classifier.0", "classifier.2"),
)

SPEC = BackboneSpec(
    name="convnext_tiny",
    build=ConvNeXtTiny,
    embedding_dim=768,
    image_size_px=224,
    weights=keras_weights(
        "convnext/convnext_tiny",
        notop_hash="sha256:d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        top_hash="sha256:8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
    ),
    keras_layers=KERAS_LAYERS,
    torch_namings=(TIMM_NAMES, TORCHVISION_NAMES),
    has_stochastic_depth=True,
)
