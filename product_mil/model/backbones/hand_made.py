"""Hand-made features of an image: colours by place, edges and texture, without learned weights.

scikit-image computes them on the host, so they exist only as cached embeddings.
"""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, UInt8

from product_mil.errors import UserError
from product_mil.model.spec import BackboneSpec

VERSION = 1  # part of the cache's name; increase it when an image gives other features
MAX_THREADS = 16  # fewer start if there are fewer images
SIDE_PX = 96
HSV_BINS = (8, 3, 3)
COLOUR_CELLS = 3  # on each side of the grid
TEXTURE_CELLS = 2  # on each side of the grid
TEXTURE_BINS = 10  # uniform patterns of 8 neighbours
ORIENTATIONS = 9
CELL_PX = 12
BLOCK_CELLS = 2
HOG_DIM = (SIDE_PX // CELL_PX - BLOCK_CELLS + 1) ** 2 * BLOCK_CELLS**2 * ORIENTATIONS
COLOUR_DIM = COLOUR_CELLS**2 * int(np.prod(HSV_BINS))
TEXTURE_DIM = TEXTURE_CELLS**2 * TEXTURE_BINS
EMBEDDING_DIM = COLOUR_DIM + HOG_DIM + TEXTURE_DIM


def describe(images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, "b d"]:
    """The features of each image.

    They are HSV histograms over a grid, histograms of oriented gradients (Dalal & Triggs 2005) and
    of uniform local binary patterns (Ojala et al. 2002). Histograms are square roots of shares, as
    in Arandjelovic & Zisserman 2012; linear classifiers then compare them by Hellinger's kernel.

    Raises:
        UserError: scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise UserError(
            "hand-made features need scikit-image: pip install 'product_mil[baselines]'"
        )
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        rows = list(pool.map(_describe_one, images))
    return np.stack(rows) if rows else np.zeros((0, EMBEDDING_DIM), np.float32)


def _describe_one(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " d"]:
    from skimage.color import rgb2gray, rgb2hsv
    from skimage.feature import hog, local_binary_pattern
    from skimage.transform import resize

    small = resize(image, (SIDE_PX, SIDE_PX), anti_aliasing=True)  # 0..1
    grey = rgb2gray(small)
    edges = hog(
        grey,
        orientations=ORIENTATIONS,
        pixels_per_cell=(CELL_PX, CELL_PX),
        cells_per_block=(BLOCK_CELLS, BLOCK_CELLS),
    )
    bins = np.array(HSV_BINS)
    hsv = np.minimum((rgb2hsv(small) * bins).astype(int), bins - 1)
    colour = (hsv[..., 0] * bins[1] + hsv[..., 1]) * bins[2] + hsv[..., 2]
    texture = local_binary_pattern(np.round(grey * 255).astype(np.uint8), 8, 1, "uniform")
    parts = [
        _grid_histograms(colour, COLOUR_CELLS, int(bins.prod())),
        # Blocks have norm 1; dividing by the root of their number gives all parts equal weight.
        edges / np.sqrt(HOG_DIM / (BLOCK_CELLS**2 * ORIENTATIONS)) * COLOUR_CELLS,
        _grid_histograms(texture.astype(int), TEXTURE_CELLS, TEXTURE_BINS),
    ]
    return np.concatenate(parts).astype(np.float32)


def _grid_histograms(
    codes: np.ndarray, cells: int, num_bins: int
) -> Float[np.ndarray, " cells_times_bins"]:
    """The square root of the share of each code, in each cell of a grid over the image."""
    parts = []
    for rows in np.array_split(codes, cells):
        for cell in np.array_split(rows, cells, axis=1):
            parts.append(np.bincount(cell.ravel(), minlength=num_bins) / cell.size)
    return np.sqrt(np.concatenate(parts))


class HandMade(nnx.Module):
    """Takes the place of a net, but cannot embed images: their embeddings come from the cache."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = np.float32):
        del rngs, dtype

    def __call__(self, pixels: Any, **_: Any) -> Any:
        """Raise an error, since features are not computed on the device.

        Raises:
            UserError: always.
        """
        raise UserError(
            "hand-made features are computed on the host and cached: set "
            "config.data.embedding_cache=true, leave augmentation and --tta off, and keep "
            "room for the cache"
        )


SPEC = BackboneSpec("hand_made", HandMade, EMBEDDING_DIM, image_size_px=180, on_host=describe)
