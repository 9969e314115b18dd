"""Augmentation against SciPy's sampling, and its ranges and keys by value."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from product_mil.model.warp import view_maps, warp
from product_mil.train.augment import (
    Ranges,
    augment,
    random_factors,
    random_maps,
    random_rectangles,
)

PX = 12
KEY = jax.random.key(0)
EVERYTHING = Ranges(0.5, 30.0, 10.0, 0.1, 0.2, 0.2, 0.3, 0.5)
IDENTITY = np.asarray([[1, 0, 0], [0, 1, 0]], np.float32)


def moved_right(share: float) -> np.ndarray:
    """Samples are taken this share of the side further right."""
    return np.asarray([[1, 0, share], [0, 1, 0]], np.float32)


def photos(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, PX, PX, 3)).astype(np.uint8)


def by_scipy(image: np.ndarray, one: np.ndarray, border: str) -> np.ndarray:
    """Bilinear sampling with SciPy: the photo lies on an edge or mean-coloured plane."""
    c = (PX - 1) / 2
    y, x = np.mgrid[:PX, :PX] - c
    source = [one[i, 0] * x + one[i, 1] * y + one[i, 2] * PX + c for i in (1, 0)]
    result = np.empty(image.shape)
    for colour in range(3):
        plane = image[..., colour].astype(float)
        if border == "mean":
            plane = np.pad(plane, PX, constant_values=plane.mean())
            result[..., colour] = map_coordinates(
                plane, [s + PX for s in source], order=1, mode="nearest"
            )
        else:
            result[..., colour] = map_coordinates(plane, source, order=1, mode="nearest")
    return result


@pytest.mark.parametrize("border", ["edge", "mean"])
def test_warp_equals_scipy(border: Any) -> None:
    images = photos(20)
    maps = np.asarray(random_maps(KEY, jnp.arange(20), EVERYTHING))
    found = np.asarray(warp(jnp.asarray(images), jnp.asarray(maps), border))
    for image, one, changed in zip(images, maps, found, strict=True):
        np.testing.assert_allclose(changed, by_scipy(image, one, border), atol=2e-2)


def test_simple_maps_are_exact() -> None:
    image = photos(1)
    maps = {
        "same": (IDENTITY, image[0]),
        "mirrored": (IDENTITY * [[-1], [1]], image[0][:, ::-1]),
        "turned": (np.asarray([[0, 1, 0], [-1, 0, 0]]), np.rot90(image[0], -1)),
        "moved": (moved_right(3 / PX), image[0][:, [*range(3, PX), *[-1] * 3]]),
    }
    for name, (one, wanted) in maps.items():
        found = warp(jnp.asarray(image), jnp.asarray(one, jnp.float32)[None])
        np.testing.assert_allclose(np.asarray(found)[0], wanted, atol=1e-3, err_msg=name)
    for name in ("same", "mirrored"):
        found = warp(jnp.asarray(image), jnp.asarray(maps[name][0], jnp.float32)[None])
        np.testing.assert_array_equal(np.asarray(found)[0], maps[name][1])


def test_beyond_the_border() -> None:
    image = photos(1)
    away = jnp.asarray(moved_right(5), jnp.float32)[None]
    edge = np.asarray(warp(jnp.asarray(image), away, "edge"))[0]
    np.testing.assert_array_equal(edge, np.repeat(image[0][:, -1:], PX, 1))
    mean = np.asarray(warp(jnp.asarray(image), away, "mean"))[0]
    wanted = np.broadcast_to(image[0].mean((0, 1)), mean.shape)
    np.testing.assert_allclose(mean, wanted, rtol=1e-5)


def parts(ranges: Ranges) -> np.ndarray:
    return np.asarray(random_maps(KEY, jnp.arange(4000), ranges), np.float64)


def test_each_range_is_kept_and_used() -> None:
    same = np.broadcast_to(IDENTITY, (4000, 2, 3))
    np.testing.assert_array_equal(parts(Ranges()), same)
    flipped = parts(Ranges(flip=0.3))[:, 0, 0]
    assert set(flipped) == {-1, 1}
    assert (flipped < 0).mean() == pytest.approx(0.3, abs=0.03)

    turned = parts(Ranges(rotation_deg=20))
    degrees = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert (degrees.min(), degrees.max()) == pytest.approx((-20, 20), abs=0.1)
    np.testing.assert_allclose(np.linalg.det(turned[:, :, :2]), 1, rtol=1e-5)

    sheared = parts(Ranges(shear_deg=15))
    degrees = np.degrees(np.arctan(sheared[:, 0, 1]))
    assert (degrees.min(), degrees.max()) == pytest.approx((-15, 15), abs=0.1)
    np.testing.assert_array_equal(sheared[:, 1], same[:, 1])

    moved = parts(Ranges(translation=0.1))[:, :, 2]
    np.testing.assert_allclose([moved.min(0), moved.max(0)], [[-0.1] * 2, [0.1] * 2], atol=1e-3)

    scaled = parts(Ranges(scale=0.25))
    assert (scaled[:, 0, 0].min(), scaled[:, 0, 0].max()) == pytest.approx((0.8, 1.25), abs=1e-3)
    np.testing.assert_array_equal(scaled[:, 0, 0], scaled[:, 1, 1])

    cropped = parts(Ranges(crop=0.4))
    side, place = cropped[:, 0, 0], cropped[:, :, 2]
    assert (side.min(), side.max()) == pytest.approx((0.6, 1), abs=2e-3)
    assert np.all(np.abs(place) <= (1 - side)[:, None] / 2 + 1e-6)  # inside the photo
    assert np.abs(place).max() > 0.18


def test_maps_combine_as_matrices() -> None:
    """Crop and scale, rotation, shear and reflection of one draw are one product."""
    together = parts(EVERYTHING)[:, :, :2]
    names = ("crop", "scale", "rotation_deg", "shear_deg", "flip")
    alone = [parts(Ranges(**{name: getattr(EVERYTHING, name)}))[:, :, :2] for name in names]
    product = alone[0]
    for other in alone[1:]:
        product = product @ other
    np.testing.assert_allclose(together, product, atol=1e-6)


@pytest.mark.slow
def test_a_slot_does_not_depend_on_the_others_nor_on_their_number() -> None:
    many = random_maps(KEY, jnp.arange(40), EVERYTHING)
    np.testing.assert_array_equal(random_maps(KEY, jnp.arange(8), EVERYTHING), many[:8])
    assert len(np.unique(np.asarray(many)[:, 0, 0])) == 40
    images = photos(8).reshape(2, 4, PX, PX, 3)
    changed = np.asarray(augment(jnp.asarray(images), KEY, EVERYTHING))
    images[1, 2] = 7
    again = np.asarray(augment(jnp.asarray(images), KEY, EVERYTHING))
    differ = (changed != again).any((2, 3, 4))
    assert differ.tolist() == [[False] * 4, [False, False, True, False]]
    assert (changed.min(), changed.max()) >= (0, 0)
    assert changed.max() <= 255


def test_reflection_alone_moves_pixels_and_keeps_their_type() -> None:
    images = photos(8).reshape(2, 4, PX, PX, 3)
    found = np.asarray(augment(jnp.asarray(images), KEY, Ranges(flip=0.5)))
    assert found.dtype == np.uint8
    mirrored = (found == images[:, :, :, ::-1]).all((2, 3, 4))
    same = (found == images).all((2, 3, 4))
    assert (mirrored ^ same).all()
    assert mirrored.any()
    assert same.any()
    np.testing.assert_array_equal(augment(jnp.asarray(images), KEY, Ranges()), images)


def test_colors_change_brightness_contrast_and_saturation_apart() -> None:
    """The three factors, found again from the pixels, keep their range and are independent."""
    rng = np.random.default_rng(0)
    images = rng.integers(90, 130, (1, 600, PX, PX, 3)).astype(np.uint8)  # nothing is clipped
    found = np.asarray(augment(jnp.asarray(images), KEY, Ranges(colors=0.3)), np.float64)[0]
    given = images[0].astype(np.float64)
    grey, grey_given = found.mean(-1), given.mean(-1)
    middle, middle_given = grey.mean((1, 2)), given.mean((1, 2, 3))
    brightness = middle / middle_given
    away, away_given = grey - middle[:, None, None], grey_given - middle_given[:, None, None]
    contrast = (away * away_given).sum((1, 2)) / (away_given**2).sum((1, 2)) / brightness
    tint, tint_given = found - grey[..., None], given - grey_given[..., None]
    saturation = (tint * tint_given).sum((1, 2, 3)) / (tint_given**2).sum((1, 2, 3))
    saturation /= brightness * contrast

    factors = np.stack([brightness, contrast, saturation])
    wanted = np.asarray(random_factors(KEY, jnp.arange(600), 0.3))
    np.testing.assert_allclose(factors, wanted, rtol=1e-4)
    b, c, s = factors[:, :, None, None, None]
    again = b * (middle_given[:, None, None, None] * (1 - c) + c * grey_given[..., None])
    np.testing.assert_allclose(found, again + b * c * s * tint_given, rtol=1e-4)
    strengths = np.log(factors) / np.log(1.3)
    np.testing.assert_allclose(strengths.min(1), -1, atol=0.02)
    np.testing.assert_allclose(strengths.max(1), 1, atol=0.02)
    np.testing.assert_allclose(strengths.mean(1), 0, atol=0.1)
    assert np.abs(np.corrcoef(strengths) - np.eye(3)).max() < 0.15


def test_colors_stay_within_0_and_255() -> None:
    images = photos(400)[None]
    images[0, :2] = np.asarray([0, 255], np.uint8)[:, None, None, None]
    found = np.asarray(augment(jnp.asarray(images), KEY, Ranges(colors=1.0)))
    assert (found.min(), found.max()) == (0, 255)


def test_erasing_fills_a_rectangle_with_the_mean_colour() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 400, 60, 40, 3)).astype(np.uint8)
    found = np.asarray(augment(jnp.asarray(images), KEY, Ranges(erasing=0.25)))[0]
    erased = (found != images[0]).any(-1)  # m h w
    some = erased.any((1, 2))
    assert some.mean() == pytest.approx(0.25, abs=0.06)
    shares = erased[some].mean((1, 2))
    assert 0.012 < shares.min() < 0.03
    assert 0.16 < shares.max() < 0.21
    assert len(np.unique(erased[some].argmax(1).max(1))) > 20  # anywhere
    for image, one, pixels in zip(images[0][some], found[some], erased[some], strict=True):
        rows, columns = pixels.any(1), pixels.any(0)
        assert pixels.sum() == rows.sum() * columns.sum()
        for line in (rows, columns):
            assert np.abs(np.diff(line.astype(int))).sum() <= 2  # without a gap
        wanted = np.broadcast_to(image.mean((0, 1)), (pixels.sum(), 3))
        np.testing.assert_allclose(one[pixels], wanted, rtol=1e-5)


@pytest.mark.slow
def test_erasing_and_colors_leave_the_geometry_as_it_was() -> None:
    """Older configurations keep their numbers; each change has random numbers of its own."""
    images = photos(40)[None]
    geometry = EVERYTHING._replace(colors=0.0, erasing=0.0)
    moved = np.asarray(augment(jnp.asarray(images), KEY, geometry))
    slots = jnp.arange(40)
    maps = random_maps(KEY, slots, EVERYTHING)
    np.testing.assert_array_equal(moved[0], warp(jnp.asarray(images[0]), maps))
    erased = np.asarray(random_rectangles(KEY, slots, 0.5, PX, PX))[None]
    found = np.asarray(augment(jnp.asarray(images), KEY, geometry._replace(erasing=0.5)))
    np.testing.assert_array_equal(found[~erased], moved[~erased])
    assert 0 < erased.mean() < 0.2
    # Pixels that are erased have the recoloured mean, the others their own colours changed.
    together = np.asarray(augment(jnp.asarray(images), KEY, EVERYTHING))
    colored = np.asarray(augment(jnp.asarray(images), KEY, geometry._replace(colors=0.3)))
    np.testing.assert_array_equal(together[~erased], colored[~erased])
    assert (together[erased] != found[erased]).any()


def test_what_is_on() -> None:
    for name in Ranges._fields[:8]:
        ranges = Ranges()._replace(**{name: 0.5})
        assert ranges.on
        assert ranges.warps == (name not in ("flip", "colors", "erasing"))
    assert not Ranges(border="mean").on


def test_views() -> None:
    image = photos(1)

    def seen(views: Any) -> np.ndarray:
        maps = jnp.asarray(view_maps(views))
        return np.asarray(warp(jnp.broadcast_to(image, (len(maps), PX, PX, 3)), maps))

    np.testing.assert_array_equal(seen("none"), image)
    np.testing.assert_array_equal(seen("flip"), [image[0], image[0][:, ::-1]])
    crops = view_maps("crops")
    assert len(crops) == 5
    # A corner's outermost pixels lie within a pixel of the photo's.
    for one, (sign_x, sign_y) in zip(crops[1:], [(-1, -1), (1, -1), (-1, 1), (1, 1)], strict=True):
        corner = one @ [sign_x / 2, sign_y / 2, 1]
        np.testing.assert_allclose(corner, [sign_x / 2, sign_y / 2], atol=1e-6)
    both = seen("flip_crops")
    assert len(both) == 10
    np.testing.assert_allclose(both[5:], both[:5, :, ::-1], atol=1e-3)
