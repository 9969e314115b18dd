"""Small convolutional nets that a laptop's CPU can train from scratch in a few minutes."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, Num

from product_mil.model.layers.initializers import Initializer, he_normal, ones, zeros
from product_mil.model.spec import BackboneSpec

INPUT_SIZE_PX = 60  # a third of Cdiscount's 180 px: shapes stay clear, at a ninth of the work


class SmallCNN(nnx.Module):
    """3x3 convolutions of stride 2, each with BatchNorm and ReLU, and then the mean.

    The net takes images of any size, and resizes them to `INPUT_SIZE_PX` on the device. `widths`
    are the numbers of channels after each halving of the resolution. The last `refined` of these
    are followed by a convolution of stride 1 as a residual that starts at zero, so the deeper net
    begins as the shallower one. The embedding holds the means over `cells` x `cells` parts of the
    last map: a net of few convolutions sees only small parts of an image, and so the place of a
    part says more.
    """

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96, 192),
        *,
        refined: int = 0,
        cells: int = 1,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        self.dtype, self.cells = dtype, cells
        of = {"rngs": rngs, "dtype": dtype}
        self.blocks = nnx.List([ConvBlock(*dims, **of) for dims in pairwise((3, *widths))])
        self.first_refined = len(widths) - refined
        refine = partial(ConvBlock, stride=1, scale_init=zeros, **of)
        self.refinements = nnx.List([refine(dim, dim) for dim in widths[self.first_refined :]])

    def __call__(
        self,
        pixels: Num[Array, "b h w 3"],
        *,
        use_running_statistics: bool,
        mask: Bool[Array, " b"] | None = None,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        """Embed images with values from 0 to 255.

        Batch statistics, where used, are those of the slots with a true `mask` alone. There is
        nothing random in this net: it takes the keys of those that have stochastic depth.
        """
        del keys
        x = standardise(resize(pixels, INPUT_SIZE_PX))  # b 60 60 3
        if mask is not None:
            mask = mask[:, None, None, None]
            x = jnp.where(mask, x, 0)  # the pixels of padding have no influence from here on
        x = x.astype(self.dtype)
        for index, block in enumerate(self.blocks):
            x = nnx.relu(block(x, use_running_statistics, mask))  # 30 30, 15 15, 8 8, 4 4
            if index >= self.first_refined:
                refine = self.refinements[index - self.first_refined]
                x = nnx.relu(x + refine(x, use_running_statistics, mask))
        return means(x, self.cells)


class ConvBlock(nnx.Module):
    """A 3x3 convolution and BatchNorm."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        stride: int = 2,
        scale_init: Initializer = ones,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.stride = stride
        # There is no bias, since the normalisation that follows would subtract it.
        self.kernel = nnx.Param(he_normal(rngs.params(), (3, 3, dim_in, dim_out)))
        # Momentum 0.9, because running statistics have to settle within a few hundred steps.
        self.norm = nnx.BatchNorm(
            dim_out,
            momentum=0.9,
            epsilon=1e-3,
            dtype=dtype,
            scale_init=scale_init,
            bias_init=zeros,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        use_running_statistics: bool,
        mask: Bool[Array, "b 1 1 1"] | None,
    ) -> Float[Array, "b h2 w2 c2"]:
        """Apply the block; the resolution is divided by the stride and rounded up."""
        x = conv3x3(x, self.kernel[...].astype(x.dtype), self.stride)
        return self.norm(x, use_running_average=use_running_statistics, mask=mask)


def conv3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c c2"], stride: int
) -> Float[Array, "b h2 w2 c2"]:
    """Convolve with a zero border of one pixel, by one matrix product of nine shifts of `x`.

    `lax.conv_general_dilated` computes the same, but took 1.3 to 1.8 times as long for a forward
    and backward pass of this net on two CPU cores.
    """
    _, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # b h+2 w+2 c
    starts = [(i, j) for i in range(3) for j in range(3)]
    shifts = [padded[:, i : i + h : stride, j : j + w : stride] for i, j in starts]
    patches = jnp.concatenate(shifts, axis=-1)  # b h2 w2 9c
    return patches @ kernel.reshape(9 * c, -1)  # b h2 w2 c2


def means(x: Float[Array, "b h w c"], cells: int) -> Float[Array, "b d"]:
    """The mean over each cell of a square grid, row by row; d is cells * cells * c.

    Raises:
        TypeError: the size of the map is not a multiple of the number of cells.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, cells, h // cells, cells, w // cells, c)
    return x.mean(axis=(2, 4)).reshape(b, cells * cells * c)


def standardise(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Each image with mean 0 and spread 1, because exposure says nothing about the product."""
    spread = x.std(axis=(1, 2, 3), keepdims=True)
    # The 1 (of 255) keeps a black image at 0.
    return (x - x.mean(axis=(1, 2, 3), keepdims=True)) / (spread + 1)


def resize(pixels: Num[Array, "b h w 3"], size_px: int) -> Float[Array, "b size size 3"]:
    """Resize to a square without aliasing; if the factor is whole, by means over blocks."""
    b, h, w, _ = pixels.shape
    x = pixels.astype(jnp.float32)
    if h % size_px == 0 and w % size_px == 0:
        return x.reshape(b, size_px, h // size_px, size_px, w // size_px, 3).mean(axis=(2, 4))
    return jax.image.resize(x, (b, size_px, size_px, 3), "linear", antialias=True)


SPECS = (
    BackboneSpec("small_cnn", SmallCNN, embedding_dim=192, image_size_px=180),
    # The paper's nets from scratch have 2, 4 and 6 convolutions.
    BackboneSpec(
        "cnn_1", partial(SmallCNN, (24, 48), cells=3), embedding_dim=9 * 48, image_size_px=180
    ),
    BackboneSpec("cnn_2", SmallCNN, embedding_dim=192, image_size_px=180),
    BackboneSpec("cnn_3", partial(SmallCNN, refined=2), embedding_dim=192, image_size_px=180),
)
