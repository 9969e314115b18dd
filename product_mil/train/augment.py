"""Augmentation: random changes of training images, on the device.

All changes of an image's geometry are joined to one affine map, by which it is sampled once,
bilinearly (model/warp.py). Erasing and colours follow, pixel by pixel. Random numbers depend on the
seed, the step and the slot, and not on the number of devices or threads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from product_mil.model.warp import Border, warp

ERASED_SHARES = (0.02, 0.2)  # of an image's area, at least and at most


class Ranges(NamedTuple):
    """The strength of each random change; 0 turns a change off."""

    flip: float = 0.0  # probability of a horizontal reflection
    rotation_deg: float = 0.0  # to either side
    shear_deg: float = 0.0  # to either side
    translation: float = 0.0  # to either side, along both axes, as a share of the side
    scale: float = 0.0  # 0.2: things are drawn at 1/1.2 to 1.2 times their size
    crop: float = 0.0  # 0.2: a square of 0.8 to 1 of the side, anywhere, fills the image
    colors: float = 0.0  # 0.3: brightness, contrast and saturation, each times 1/1.3 to 1.3
    erasing: float = 0.0  # probability that a rectangle gets the image's mean colour
    border: Border = "edge"  # outside the image: its outermost pixels, or its mean colour

    @property
    def warps(self) -> bool:
        """Whether the geometry changes by more than a reflection."""
        return any(self[1:6])

    @property
    def on(self) -> bool:
        """Whether any change is on."""
        return any(self[:8])


def augment(
    images: Num[Array, "S n h w 3"],
    key: PRNGKeyArray,
    ranges: Ranges,
    first_shard: int | Int[Array, ""] = 0,
) -> Num[Array, "S n h w 3"]:
    """Change the image of each slot at random. Values stay in 0..255.

    If the images are a part of a batch, `first_shard` is the index of their first shard there.
    """
    if not ranges.on:
        return images
    s, n, *size = images.shape
    slots = n * first_shard + jnp.arange(s * n)
    flat = jnp.asarray(images).reshape(s * n, *size)
    changed = flat
    if ranges.warps:
        changed = warp(flat, random_maps(key, slots, ranges), ranges.border)
    elif ranges.flip:  # a reflection moves pixels, without sampling
        mirrored = random_maps(key, slots, ranges)[:, 0, 0] < 0
        changed = jnp.where(mirrored[:, None, None, None], flat[:, :, ::-1], flat)
    # The mean colour of the original is used, so that the warped image is computed only once.
    mean = flat.mean((1, 2), keepdims=True)
    if ranges.erasing:
        erased = random_rectangles(key, slots, ranges.erasing, size[0], size[1])
        changed = jnp.where(erased[..., None], mean, changed)
    if ranges.colors:
        changed = recolor(changed, mean, random_factors(key, slots, ranges.colors))
    return changed.reshape(s, n, *size)


def _uniform(
    key: PRNGKeyArray, slots: Int[Array, " m"], purpose: int, count: int
) -> Float[Array, "count m"]:
    """Random numbers from 0 to 1 for each slot, which differ between purposes."""

    def of_slot(slot: Int[Array, ""]) -> Float[Array, " count"]:
        slot_key = jax.random.fold_in(key, slot)
        return jax.random.uniform(jax.random.fold_in(slot_key, purpose), (count,))

    return jax.vmap(of_slot)(slots).T


def random_factors(
    key: PRNGKeyArray, slots: Int[Array, " m"], strength: float
) -> Float[Array, "3 m"]:
    """Factors of brightness, contrast and saturation for each slot.

    Each is between 1 / (1 + strength) and 1 + strength, with evenly distributed logarithms.
    """
    return jnp.exp(jnp.log1p(strength) * (2 * _uniform(key, slots, 1, 3) - 1))


def recolor(
    images: Num[Array, "m h w 3"], mean: Float[Array, "m 1 1 3"], factors: Float[Array, "3 m"]
) -> Float[Array, "m h w 3"]:
    """Multiply brightness, contrast and saturation of each image, and clip it to 0..255.

    Contrast is the distance from the mean grey, and saturation the distance of a pixel from its own
    grey.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None]
    middle = brightness * mean.mean(-1, keepdims=True)
    changed = middle + contrast * (brightness * images - middle)
    red, green, blue = (changed[..., at : at + 1] for at in range(3))
    grey = (red + green + blue) / 3  # on CPUs twice as fast as a mean over the last axis
    return jnp.clip(grey + saturation * (changed - grey), 0, 255)


def random_rectangles(
    key: PRNGKeyArray, slots: Int[Array, " m"], probability: float, h: int, w: int
) -> Bool[Array, "m h w"]:
    """The pixels of each slot to erase: a rectangle within the image, or none.

    It covers `ERASED_SHARES` of the area and is at most twice as high as wide, or as wide as high.
    """
    chance, share, shape, top, left = _uniform(key, slots, 2, 5)[..., None]
    smallest, largest = ERASED_SHARES
    area, aspect = smallest * (largest / smallest) ** share, 2 ** (2 * shape - 1)
    height, width = jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)
    y = (jnp.arange(h) + 0.5)[None, :] / h - top * (1 - height)  # m h, from the upper edge
    x = (jnp.arange(w) + 0.5)[None, :] / w - left * (1 - width)
    rows, columns = (y >= 0) & (y < height), (x >= 0) & (x < width)
    return rows[:, :, None] & columns[:, None, :] & (chance < probability)[..., None]


def random_maps(
    key: PRNGKeyArray, slots: Int[Array, " m"], ranges: Ranges
) -> Float[Array, "m 2 3"]:
    """A map for each slot: crop and scale, rotation, shear, reflection, in that order."""
    slot_keys = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(slots)
    u = jax.vmap(lambda k: jax.random.uniform(k, (9,), minval=-1, maxval=1))(slot_keys)  # m 9
    angle, shear = jnp.deg2rad(ranges.rotation_deg) * u[:, 1], u[:, 2]
    shear = jnp.tan(jnp.deg2rad(ranges.shear_deg) * shear)
    kept = 1 - ranges.crop * (u[:, 6] + 1) / 2  # share of the side that the crop keeps
    size = kept * jnp.exp(-jnp.log1p(ranges.scale) * u[:, 5])
    mirror = jnp.where(u[:, 0] < 2 * ranges.flip - 1, -1, 1)
    cos, sin = size * jnp.cos(angle), size * jnp.sin(angle)
    place = (1 - kept)[:, None] / 2 * u[:, 7:9]
    offset = place + ranges.translation * u[:, 3:5]  # m 2
    rows = (
        jnp.stack([mirror * cos, shear * cos - sin, offset[:, 0]], -1),
        jnp.stack([mirror * sin, shear * sin + cos, offset[:, 1]], -1),
    )
    return jnp.stack(rows, 1)
