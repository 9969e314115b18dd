"""Affine transformations of images on the device, and the views of test-time augmentation.

An affine map leads from pixels of the result to places in the image, measured from the centre in
units of the side. Each image is sampled once, bilinearly.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

Border = Literal["edge", "mean"]
Views = Literal["none", "flip", "crops", "flip_crops"]

CROP_SIDE = 0.875  # side of the crops, as a share of the image's


def warp(
    images: Num[Array, "m h w 3"], maps: Float[Array, "m 2 3"], border: Border = "edge"
) -> Float[Array, "m h w 3"]:
    """Each image transformed by its own map, with bilinear sampling."""
    return jax.vmap(lambda image, one: _warp_one(image, one, border))(images, maps)


def _warp_one(
    image: Num[Array, "h w 3"], one: Float[Array, "2 3"], border: Border
) -> Float[Array, "h w 3"]:
    h, w, _ = image.shape
    pixels = image.reshape(h * w, 3)
    # Whole and half numbers are exact, so reflections are exact to the last bit.
    x = jnp.arange(w, dtype=one.dtype)[None, :] - (w - 1) / 2  # 1 w
    y = jnp.arange(h, dtype=one.dtype)[:, None] - (h - 1) / 2  # h 1
    source_x = one[0, 0] * x + one[0, 1] * y + (one[0, 2] * w + (w - 1) / 2)  # h w
    source_y = one[1, 0] * x + one[1, 1] * y + (one[1, 2] * h + (h - 1) / 2)
    left, top = jnp.floor(source_x), jnp.floor(source_y)
    right_share, bottom_share = source_x - left, source_y - top
    mean = pixels.astype(one.dtype).mean(0) if border == "mean" else None
    result = jnp.zeros((h, w, 3), one.dtype)
    for column, share_x in ((left, 1 - right_share), (left + 1, right_share)):
        for row, share_y in ((top, 1 - bottom_share), (top + 1, bottom_share)):
            i = jnp.clip(row, 0, h - 1).astype(jnp.int32)
            j = jnp.clip(column, 0, w - 1).astype(jnp.int32)
            value = pixels[i * w + j].astype(one.dtype)  # h w 3
            if mean is not None:
                inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
                value = jnp.where(inside[..., None], value, mean[None, None])
            result = result + (share_x * share_y)[..., None] * value
    return result


def view_maps(views: Views) -> Float[np.ndarray, "v 2 3"]:
    """The maps of the fixed views: the image itself, crops of its corners, and reflections."""
    offset = (1 - CROP_SIDE) / 2
    crops = [(1.0, 0.0, 0.0)]
    if views in ("crops", "flip_crops"):
        crops += [(CROP_SIDE, x, y) for y in (-offset, offset) for x in (-offset, offset)]
    signs = (1, -1) if views in ("flip", "flip_crops") else (1,)
    return np.asarray([[[s * m, 0, x], [0, m, y]] for s in signs for m, x, y in crops], np.float32)


def seen_through(
    images: Num[Array, "S n h w 3"], one: Float[Array, "2 3"]
) -> Float[Array, "S n h w 3"]:
    """Every image transformed by the same map."""
    s, n, *size = images.shape
    maps = jnp.broadcast_to(one, (s * n, 2, 3))
    return warp(jnp.asarray(images).reshape(s * n, *size), maps).reshape(s, n, *size)
