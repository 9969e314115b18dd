"""Inception-ResNet v2 (Szegedy et al. 2016), the net of keras.applications.InceptionResNetV2."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from product_mil.model.keras_layers import TOP, Branch, KerasLayer, unit_layers, unnamed_units
from product_mil.model.layers.blocks import Conv, ConvNorm
from product_mil.model.layers.spatial_pools import avg_pool_same, max_pool
from product_mil.model.spec import Backbone, BackboneSpec, keras_weights

Unit = tuple[int, int | tuple[int, int]]  # channels and kernel size


class ResidualBlock(nnx.Module):
    """Chains of convolutions, concatenated, projected by a 1x1 convolution and added, scaled."""

    def __init__(
        self,
        dim: int,
        branches: tuple[tuple[Unit, ...], ...],
        *,
        scale: float,
        ends_with_relu: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.branches = nnx.List([_chain(dim, units, dtype, rngs) for units in branches])
        width = sum(units[-1][0] for units in branches)
        self.up = Conv(width, dim, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.scale, self.ends_with_relu = scale, ends_with_relu

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h w c"]:
        """Apply the block."""
        y = jnp.concatenate([_run(units, x, mode) for units in self.branches], -1)
        x = x + self.up(y) * self.scale
        return jax.nn.relu(x) if self.ends_with_relu else x


class MixedBlock(nnx.Module):
    """Chains of convolutions and a pool, concatenated; the last convolutions may have stride 2."""

    def __init__(
        self,
        dim: int,
        branches: tuple[tuple[Unit, ...], ...],
        *,
        pool_features: int = 0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        halves = pool_features == 0
        chains = [_chain(dim, units, dtype, rngs, halves=halves) for units in branches]
        if not halves:
            chains.append(_chain(dim, ((pool_features, 1),), dtype, rngs))
        self.branches = nnx.List(chains)
        self.halves = halves

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h2 w2 c2"]:
        """Concatenate the branches."""
        if self.halves:
            branches = [_run(units, x, mode) for units in self.branches]
            return jnp.concatenate([*branches, max_pool(x, 3, 2, "VALID")], -1)
        branches = [_run(units, x, mode) for units in list(self.branches)[:-1]]
        pool = _run(self.branches[-1], avg_pool_same(x), mode)
        return jnp.concatenate([*branches, pool], -1)


def _chain(
    dim: int, units: tuple[Unit, ...], dtype: DTypeLike, rngs: nnx.Rngs, *, halves: bool = False
) -> nnx.List:
    chain = []
    for index, (features, size) in enumerate(units):
        last = halves and index == len(units) - 1
        layout = {"stride": 2, "padding": "VALID"} if last else {}
        chain.append(ConvNorm(dim, features, size, dtype=dtype, rngs=rngs, **layout))
        dim = features
    return nnx.List(chain)


def _run(units: nnx.List, x: Array, mode: dict) -> Array:
    for unit in units:
        x = unit(x, **mode)
    return x


# Branches of each block, every convolution as (channels, kernel size).
MIXED_5B = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
BLOCK35 = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
MIXED_6A = (((384, 3),), ((256, 1), (256, 3), (384, 3)))
BLOCK17 = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
MIXED_7A = (((256, 1), (384, 3)), ((256, 1), (288, 3)), ((256, 1), (288, 3), (320, 3)))
BLOCK8 = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))


class InceptionResNetV2(Backbone):
    """Pixels in 0..255 to one embedding of 1536 an image (global average, no top).

    Any image size from 75 px; shapes are those at 299 px. `dtype` is the type of the arithmetic,
    parameters and statistics are float32.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        of = {"dtype": dtype, "rngs": rngs}
        unit, residual = partial(ConvNorm, **of), partial(ResidualBlock, **of)
        self.stem = nnx.List(
            [
                unit(3, 32, 3, stride=2, padding="VALID"),  # 149 149 32
                unit(32, 32, 3, padding="VALID"),  # 147 147 32
                unit(32, 64, 3),  # 147 147 64, then a pool: 73 73 64
                unit(64, 80, 1, padding="VALID"),  # 73 73 80
                unit(80, 192, 3, padding="VALID"),  # 71 71 192, then a pool: 35 35 192
            ]
        )
        self.mixed_5b = MixedBlock(192, MIXED_5B, pool_features=64, **of)  # 35 35 320
        self.block35 = nnx.List(
            [residual(320, BLOCK35, scale=0.17) for _ in range(10)]
        )  # 35 35 320
        self.mixed_6a = MixedBlock(320, MIXED_6A, **of)  # 17 17 1088
        self.block17 = nnx.List(
            [residual(1088, BLOCK17, scale=0.1) for _ in range(20)]
        )  # 17 17 1088
        self.mixed_7a = MixedBlock(1088, MIXED_7A, **of)  # 8 8 2080
        self.block8 = nnx.List(
            [
                *(residual(2080, BLOCK8, scale=0.2) for _ in range(9)),  # 8 8 2080
                residual(2080, BLOCK8, scale=1.0, ends_with_relu=False),  # 8 8 2080
            ]
        )
        self.last = unit(2080, 1536, 1)  # 8 8 1536
        self.dtype = dtype

    def features(self, x: Float[Array, "b h w 3"], **mode) -> Float[Array, "b h2 w2 c"]:
        """The last map."""
        for index, unit in enumerate(self.stem):
            x = unit(x, **mode)
            if index in (2, 4):
                x = max_pool(x, 3, 2, "VALID")
        x = self.mixed_5b(x, **mode)
        for block in self.block35:
            x = block(x, **mode)
        x = self.mixed_6a(x, **mode)
        for block in self.block17:
            x = block(x, **mode)
        x = self.mixed_7a(x, **mode)
        for block in self.block8:
            x = block(x, **mode)
        return self.last(x, **mode)


def _keras_layers() -> tuple[KerasLayer, ...]:
    layers, made = unnamed_units([[f"stem.{index}" for index in range(5)]], 0)

    def add(path: str, lengths: tuple[int, ...]) -> None:
        nonlocal made
        branches: list[Branch] = [
            [f"{path}.branches.{branch}.{unit}" for unit in range(length)]
            for branch, length in enumerate(lengths)
        ]
        of_block, made = unnamed_units(branches, made)
        layers.extend(of_block)

    def add_residual(name: str, lengths: tuple[int, ...], blocks: int) -> None:
        for index in range(blocks):
            add(f"{name}.{index}", lengths)
            layers.append(KerasLayer(f"{name}_{index + 1}_conv", "conv2d", f"{name}.{index}.up"))

    add("mixed_5b", (1, 2, 3, 1))
    add_residual("block35", (1, 2, 3), 10)
    add("mixed_6a", (1, 3))
    add_residual("block17", (1, 3), 20)
    add("mixed_7a", (2, 2, 3))
    add_residual("block8", (1, 3), 10)
    return (*layers, *unit_layers("conv_7b", "conv_7b_bn", "last"), TOP)


# In the order of Keras' files; the numbers are those of a fresh process.
KERAS_LAYERS = _keras_layers()

# Beginnings of paths, ours and timm's (`inception_resnet_v2.tf_in1k`).
TORCH_PREFIXES = {
    **{f"stem.{i}": f"conv2d_{name}" for i, name in enumerate(("1a", "2a", "2b", "3b", "4a"))},
    **{f"block35.{i}": f"repeat.{i}" for i in range(10)},
    **{f"block17.{i}": f"repeat_1.{i}" for i in range(20)},
    **{f"block8.{i}": f"repeat_2.{i}" for i in range(9)},
    "block8.9": "block8",
    **{name: name for name in ("mixed_5b", "mixed_6a", "mixed_7a")},
    "last": "conv2d_7b",
}


def _torch_names() -> dict[str | None, str]:
    """timm's names, which number the units of a branch if there are several."""
    paths = [layer.path for layer in KERAS_LAYERS if layer.path]
    several = {path.partition(".1.conv")[0] for path in paths if ".1.conv" in path}
    names: dict[str | None, str] = {None: "classif"}
    for path in paths:
        ours = next(ours for ours in TORCH_PREFIXES if path.startswith(f"{ours}."))
        rest = path.removeprefix(ours)
        if ".branches." in rest:
            branch, unit, leaf = rest.removeprefix(".branches.").split(".")
            counted = f".{unit}" if f"{ours}.branches.{branch}" in several else ""
            if (ours, branch) == ("mixed_5b", "3"):  # after its pool, which timm counts too
                counted = ".1"
            rest = f".branch{branch}{counted}.{leaf}"
        names[path] = TORCH_PREFIXES[ours] + (".conv2d" if rest == ".up" else rest)
    return names


TORCH_NAMES = _torch_names()

SPEC = BackboneSpec(
    name="inception_resnet_v2",
    build=InceptionResNetV2,
    embedding_dim=1536,
    image_size_px=299,
    min_image_size_px=75,
    weights=keras_weights(
        "inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels",
        notop_hash="md5:d19885ff4a710c122648d3b5c3b684e4",
        top_hash="md5:e693bd0210a403b3192acc6073ad2e96",
    ),
    keras_layers=KERAS_LAYERS,
    torch_namings=(TORCH_NAMES,),
)
