"""Inception V3 (Szegedy et al. 2015), the same net as keras.applications.InceptionV3."""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from product_mil.model.keras_layers import TOP, Branch, KerasLayer, unnamed_units
from product_mil.model.layers.blocks import ConvNorm
from product_mil.model.layers.spatial_pools import avg_pool_same, max_pool
from product_mil.model.spec import Backbone, BackboneSpec, keras_weights

# Names are those of torchvision and timm but for the first letter of a block's.


class InceptionA(nnx.Module):
    """Branches of 1x1, 5x5 and two 3x3 convolutions, and a pool."""

    branches = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        ("branch_pool",),
    )

    def __init__(self, dim: int, pool_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        unit = partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.branch1x1 = unit(dim, 64, 1)  # 35 35 64
        self.branch5x5_1 = unit(dim, 48, 1)  # 35 35 48
        self.branch5x5_2 = unit(48, 64, 5)  # 35 35 64
        self.branch3x3dbl_1 = unit(dim, 64, 1)  # 35 35 64
        self.branch3x3dbl_2 = unit(64, 96, 3)  # 35 35 96
        self.branch3x3dbl_3 = unit(96, 96, 3)  # 35 35 96
        self.branch_pool = unit(dim, pool_features, 1)  # 35 35 pool_features

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h w c2"]:
        """Concatenate the branches."""
        five = self.branch5x5_2(self.branch5x5_1(x, **mode), **mode)
        three = self.branch3x3dbl_2(self.branch3x3dbl_1(x, **mode), **mode)
        three = self.branch3x3dbl_3(three, **mode)
        pool = self.branch_pool(avg_pool_same(x), **mode)
        return jnp.concatenate([self.branch1x1(x, **mode), five, three, pool], -1)


class InceptionB(nnx.Module):
    """Halve the resolution: a 3x3 convolution, a chain of three, and a pool."""

    branches = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        unit = partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.branch3x3 = unit(dim, 384, 3, stride=2, padding="VALID")  # 17 17 384
        self.branch3x3dbl_1 = unit(dim, 64, 1)  # 35 35 64
        self.branch3x3dbl_2 = unit(64, 96, 3)  # 35 35 96
        self.branch3x3dbl_3 = unit(96, 96, 3, stride=2, padding="VALID")  # 17 17 96

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h2 w2 c2"]:
        """Concatenate the branches."""
        chained = self.branch3x3dbl_2(self.branch3x3dbl_1(x, **mode), **mode)
        chained = self.branch3x3dbl_3(chained, **mode)
        return jnp.concatenate([self.branch3x3(x, **mode), chained, max_pool(x, 3, 2, "VALID")], -1)


class InceptionC(nnx.Module):
    """7x7 convolutions as pairs of 1x7 and 7x1, beside a 1x1 and a pool."""

    branches = (
        ("branch1x1",),
        ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
        ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
        ("branch_pool",),
    )

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        unit = partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.branch1x1 = unit(768, 192, 1)  # 17 17 192
        self.branch7x7_1 = unit(768, width, 1)  # 17 17 width
        self.branch7x7_2 = unit(width, width, (1, 7))  # 17 17 width
        self.branch7x7_3 = unit(width, 192, (7, 1))  # 17 17 192
        self.branch7x7dbl_1 = unit(768, width, 1)  # 17 17 width
        self.branch7x7dbl_2 = unit(width, width, (7, 1))  # 17 17 width
        self.branch7x7dbl_3 = unit(width, width, (1, 7))  # 17 17 width
        self.branch7x7dbl_4 = unit(width, width, (7, 1))  # 17 17 width
        self.branch7x7dbl_5 = unit(width, 192, (1, 7))  # 17 17 192
        self.branch_pool = unit(768, 192, 1)  # 17 17 192

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h w c"]:
        """Concatenate the branches."""
        once = self.branch7x7_2(self.branch7x7_1(x, **mode), **mode)
        once = self.branch7x7_3(once, **mode)
        twice = self.branch7x7dbl_2(self.branch7x7dbl_1(x, **mode), **mode)
        twice = self.branch7x7dbl_4(self.branch7x7dbl_3(twice, **mode), **mode)
        twice = self.branch7x7dbl_5(twice, **mode)
        pool = self.branch_pool(avg_pool_same(x), **mode)
        return jnp.concatenate([self.branch1x1(x, **mode), once, twice, pool], -1)


class InceptionD(nnx.Module):
    """Halve the resolution: 3x3, a 7x7 as a pair and then 3x3, and a pool."""

    branches = (
        ("branch3x3_1", "branch3x3_2"),
        ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
    )

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs):
        unit = partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.branch3x3_1 = unit(768, 192, 1)  # 17 17 192
        self.branch3x3_2 = unit(192, 320, 3, stride=2, padding="VALID")  # 8 8 320
        self.branch7x7x3_1 = unit(768, 192, 1)  # 17 17 192
        self.branch7x7x3_2 = unit(192, 192, (1, 7))  # 17 17 192
        self.branch7x7x3_3 = unit(192, 192, (7, 1))  # 17 17 192
        self.branch7x7x3_4 = unit(192, 192, 3, stride=2, padding="VALID")  # 8 8 192

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h2 w2 c2"]:
        """Concatenate the branches."""
        three = self.branch3x3_2(self.branch3x3_1(x, **mode), **mode)
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x, **mode), **mode)
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven, **mode), **mode)
        return jnp.concatenate([three, seven, max_pool(x, 3, 2, "VALID")], -1)


class InceptionE(nnx.Module):
    """3x3 convolutions as parallel 1x3 and 3x1, beside a 1x1 and a pool."""

    branches = (
        ("branch1x1",),
        ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
        ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
        ("branch_pool",),
    )

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        unit = partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.branch1x1 = unit(dim, 320, 1)  # 8 8 320
        self.branch3x3_1 = unit(dim, 384, 1)  # 8 8 384
        self.branch3x3_2a = unit(384, 384, (1, 3))  # 8 8 384
        self.branch3x3_2b = unit(384, 384, (3, 1))  # 8 8 384
        self.branch3x3dbl_1 = unit(dim, 448, 1)  # 8 8 448
        self.branch3x3dbl_2 = unit(448, 384, 3)  # 8 8 384
        self.branch3x3dbl_3a = unit(384, 384, (1, 3))  # 8 8 384
        self.branch3x3dbl_3b = unit(384, 384, (3, 1))  # 8 8 384
        self.branch_pool = unit(dim, 192, 1)  # 8 8 192

    def __call__(self, x: Float[Array, "b h w c"], **mode) -> Float[Array, "b h w 2048"]:
        """Concatenate the branches."""
        one = self.branch1x1(x, **mode)
        three = self.branch3x3_1(x, **mode)
        three = [self.branch3x3_2a(three, **mode), self.branch3x3_2b(three, **mode)]
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x, **mode), **mode)
        twice = [self.branch3x3dbl_3a(twice, **mode), self.branch3x3dbl_3b(twice, **mode)]
        pool = self.branch_pool(avg_pool_same(x), **mode)
        return jnp.concatenate([one, *three, *twice, pool], -1)


class InceptionV3(Backbone):
    """Pixels in 0..255 to one embedding of 2048 an image (global average, no top).

    Any image size from 75 px; shapes are those at 299 px. `dtype` is the type of the arithmetic,
    parameters and statistics are float32.
    """

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        of = {"dtype": dtype, "rngs": rngs}
        self.conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2, padding="VALID", **of)  # 149 149 32
        self.conv2d_2a_3x3 = ConvNorm(32, 32, 3, padding="VALID", **of)  # 147 147 32
        self.conv2d_2b_3x3 = ConvNorm(32, 64, 3, **of)  # 147 147 64, then a pool: 73 73 64
        self.conv2d_3b_1x1 = ConvNorm(64, 80, 1, **of)  # 73 73 80
        self.conv2d_4a_3x3 = ConvNorm(80, 192, 3, padding="VALID", **of)  # 71 71 192, pool: 35 35
        self.mixed_5b = InceptionA(192, 32, **of)  # 35 35 256
        self.mixed_5c = InceptionA(256, 64, **of)  # 35 35 288
        self.mixed_5d = InceptionA(288, 64, **of)  # 35 35 288
        self.mixed_6a = InceptionB(288, **of)  # 17 17 768
        self.mixed_6b = InceptionC(128, **of)  # 17 17 768
        self.mixed_6c = InceptionC(160, **of)  # 17 17 768
        self.mixed_6d = InceptionC(160, **of)  # 17 17 768
        self.mixed_6e = InceptionC(192, **of)  # 17 17 768
        self.mixed_7a = InceptionD(**of)  # 8 8 1280
        self.mixed_7b = InceptionE(1280, **of)  # 8 8 2048
        self.mixed_7c = InceptionE(2048, **of)  # 8 8 2048
        self.dtype = dtype

    def features(self, x: Float[Array, "b h w 3"], **mode) -> Float[Array, "b h2 w2 c"]:
        """The last map."""
        x = self.conv2d_1a_3x3(x, **mode)
        x = self.conv2d_2a_3x3(x, **mode)
        x = self.conv2d_2b_3x3(x, **mode)
        x = max_pool(x, 3, 2, "VALID")
        x = self.conv2d_3b_1x1(x, **mode)
        x = self.conv2d_4a_3x3(x, **mode)
        x = max_pool(x, 3, 2, "VALID")
        for name in BLOCKS:
            x = getattr(self, name)(x, **mode)
        return x


STEM = ("conv2d_1a_3x3", "conv2d_2a_3x3", "conv2d_2b_3x3", "conv2d_3b_1x1", "conv2d_4a_3x3")
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "mixed_5b": InceptionA.branches,
    "mixed_5c": InceptionA.branches,
    "mixed_5d": InceptionA.branches,
    "mixed_6a": InceptionB.branches,
    "mixed_6b": InceptionC.branches,
    "mixed_6c": InceptionC.branches,
    "mixed_6d": InceptionC.branches,
    "mixed_6e": InceptionC.branches,
    "mixed_7a": InceptionD.branches,
    "mixed_7b": InceptionE.branches,
    "mixed_7c": InceptionE.branches,
}


def _keras_layers() -> tuple[KerasLayer, ...]:
    layers, made = unnamed_units([STEM], 0)
    for block, branches in BLOCKS.items():
        of_block, made = unnamed_units([_within(block, branch) for branch in branches], made)
        layers += of_block
    return (*layers, TOP)


def _within(block: str, branch: Branch) -> Branch:
    return [
        f"{block}.{unit}" if isinstance(unit, str) else (f"{block}.{unit[0]}", f"{block}.{unit[1]}")
        for unit in branch
    ]


# In the order of Keras' files; the names are those of a fresh process.
KERAS_LAYERS = _keras_layers()
# In timm's `inception_v3.tf_in1k` and torchvision: the same paths with a capital.
TORCH_NAMES = {
    layer.path: layer.path[0].upper() + layer.path[1:] for layer in KERAS_LAYERS if layer.path
} | {None: "fc"}

SPEC = BackboneSpec(
    name="inception_v3",
    build=InceptionV3,
    embedding_dim=2048,
    image_size_px=299,
    min_image_size_px=75,
    weights=keras_weights(
        "inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels",
        notop_hash="md5:bcbd6486424b2319ff4ef7d526e38f63",
        top_hash="md5:9a0d58056eeedaa3f26cb7ebd46da564",
    ),
    keras_layers=KERAS_LAYERS,
    torch_namings=(TORCH_NAMES,),
)
