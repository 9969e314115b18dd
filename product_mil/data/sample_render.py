"""Photos of the embedded sample's things: view, light, shadow, background and noise."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from product_mil.data.sample_shapes import Part, random_colour

PHOTO_SIZE_PX = 180
OVERSAMPLING = 2  # outlines are drawn at twice the size, so that edges are smooth

Photo = Float[np.ndarray, "180 180 3"]


class Studio:
    """Takes the photos. Holds the noise that grain, paper and wood are cut from."""

    def __init__(self, rng: np.random.Generator):
        self.noise = rng.standard_normal((512, 512, 3), np.float32)
        size = PHOTO_SIZE_PX
        self.ramp = np.linspace(-1, 1, size, dtype=np.float32)
        self.pixel = np.arange(size, dtype=np.float32)

    def photograph(
        self, thing: list[Part], rng: np.random.Generator, max_turn_deg: float
    ) -> UInt8[np.ndarray, "180 180 3"]:
        """Photograph a thing from a random view, in random light, on a random background."""
        view = random_view(thing, rng, max_turn_deg)
        body = thing[0].colour if len(thing) == 1 else max(thing, key=extent).colour
        photo = self.background(rng, body)
        cast_shadow(photo, thing, view, rng)
        light = np.float32(rng.uniform(-0.5, 0.5))
        for part in thing:
            paint(photo, part, view, light)
        slope_x, slope_y = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
        glow = self.ramp * slope_x + (self.ramp * slope_y)[:, None] + rng.uniform(0.85, 1.1)
        photo *= glow.astype(np.float32)[..., None] * 255
        photo += self.grain(rng) * np.float32(rng.uniform(2, 8))
        return np.clip(photo, 0, 255).astype(np.uint8)

    def grain(self, rng: np.random.Generator) -> Photo:
        """Cut a random piece of noise."""
        x, y = rng.integers(0, 512 - PHOTO_SIZE_PX, 2)
        return self.noise[y : y + PHOTO_SIZE_PX, x : x + PHOTO_SIZE_PX]

    def background(self, rng: np.random.Generator, body: Float[np.ndarray, "3"]) -> Photo:
        """Lay out a plain, graded, textured or shelf-like background that `body` stands out from."""
        near, far = (backdrop_colour(rng, body) for _ in range(2))
        size = PHOTO_SIZE_PX
        photo = np.empty((size, size, 3), np.float32)
        photo[:] = near
        kind = rng.random()
        if kind < 0.3:  # plain
            return photo
        if kind < 0.55:  # graded
            weight = (self.ramp[:, None, None] + 1) / 2
            return photo + weight * (far - near).astype(np.float32)
        x, y = rng.integers(0, 512 - size, 2)
        if kind < 0.7:  # paper or cloth
            texture = self.noise[y : y + size, x : x + size, :1]
            texture = np.repeat(np.repeat(texture[::3, ::3], 3, 0), 3, 1)
        elif kind < 0.8:  # wood
            texture = np.repeat(self.noise[y : y + size : 4, x, :1], 4, 0)[:, None, :]
        else:  # a shelf or table before a wall
            edge = int(rng.uniform(0.55, 0.85) * size)
            photo[edge:] = far
            photo[edge : edge + 3] *= 0.7
            texture = self.ramp[:, None, None]
        return photo * (1 + np.float32(rng.uniform(0.03, 0.08)) * texture)


def extent(part: Part) -> float:
    """Area of a part's bounding box."""
    return float(np.ptp(part.outline, axis=0).prod())


def backdrop_colour(rng: np.random.Generator, body: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """Draw a background colour that differs from `body`: mostly pale, at times strong."""
    while True:
        strength = rng.uniform(0.5, 1) if rng.random() < 0.35 else rng.uniform(0, 0.3)
        colour = 1 - strength * (1 - random_colour(rng))
        if np.abs(colour - body).max() > 0.3:
            return colour


def random_view(
    thing: list[Part], rng: np.random.Generator, max_turn_deg: float
) -> Float[np.ndarray, "3 3"]:
    """Draw a homography from the thing's coordinates to pixels, all of the thing in the picture."""
    turn = np.radians(rng.uniform(-max_turn_deg, max_turn_deg))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mirror = rng.choice([-1.0, 1.0])
    linear = turned @ np.diag([mirror * rng.uniform(0.85, 1.1), 1.0])
    tilt = rng.uniform(-0.12, 0.12, 2)
    view = np.array([[*linear[0], 0], [*linear[1], 0], [*tilt, 1]])
    points = np.concatenate([project(view, part.outline) for part in thing])
    low, high = points.min(0), points.max(0)
    size = rng.uniform(0.6, 0.94) * PHOTO_SIZE_PX
    scale = size / (high - low).max()
    slack = PHOTO_SIZE_PX * 0.97 - scale * (high - low)
    corner = slack * (0.5 + rng.uniform(-0.4, 0.4, 2)) + 0.015 * PHOTO_SIZE_PX
    fit = np.array([[scale, 0, 0], [0, scale, 0], [0, 0, 1]])
    fit[:2, 2] = corner - scale * low
    return fit @ view


def project(
    view: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """Apply a homography."""
    p = points @ view[:, :2].T + view[:, 2]
    return p[:, :2] / p[:, 2:]


def cast_shadow(
    photo: Photo, thing: list[Part], view: Float[np.ndarray, "3 3"], rng: np.random.Generator
) -> None:
    """Darken the background beside the thing, in place."""
    half = PHOTO_SIZE_PX // 2
    mask = Image.new("L", (half, half))
    draw = ImageDraw.Draw(mask)
    shift = rng.uniform((-7, 1), (7, 6))
    for part in thing:
        draw.polygon(((project(view, part.outline) + shift) / 2).ravel().tolist(), fill=255)
    mask = mask.filter(ImageFilter.BoxBlur(rng.uniform(1.5, 4))).resize((half * 2, half * 2), Image.Resampling.BILINEAR)
    shade = np.asarray(mask, np.float32) * np.float32(-rng.uniform(0.25, 0.5) / 255)
    photo *= 1 + shade[..., None]


def paint(photo: Photo, part: Part, view: Float[np.ndarray, "3 3"], light: np.float32) -> None:
    """Paint a part over the photo, in place; `light` from -1 (left) to 1 (right)."""
    outline = project(view, part.outline)
    x0, y0 = np.clip(np.floor(outline.min(0)).astype(int), 0, PHOTO_SIZE_PX)
    x1, y1 = np.clip(np.ceil(outline.max(0)).astype(int) + 1, 0, PHOTO_SIZE_PX)
    mask = Image.new("L", (OVERSAMPLING * (x1 - x0), OVERSAMPLING * (y1 - y0)))
    draw = ImageDraw.Draw(mask)
    draw.polygon(((outline - (x0, y0)) * OVERSAMPLING).ravel().tolist(), fill=255)
    if part.hole is not None:
        hole = project(view, part.hole)
        draw.polygon(((hole - (x0, y0)) * OVERSAMPLING).ravel().tolist(), fill=0)
    alpha = np.asarray(mask.reduce(OVERSAMPLING), np.float32)[..., None] / 255
    colour = part.colour.astype(np.float32) * shading(part, view, light, x0, y0, x1, y1)
    region = photo[y0:y1, x0:x1]
    region += alpha * (colour - region)


def shading(part: Part, view: Float[np.ndarray, "3 3"], light: np.float32, x0: int, y0: int, x1: int, y1: int) -> Float[np.ndarray, "h w 1"]:
    """Brightness of a part's pixels: across the part from -1 to 1, as its finish takes the light."""
    centre = (part.outline.min(0) + part.outline.max(0)) / 2
    half = np.ptp(part.outline, axis=0) / 2 + 1e-6
    inverse = np.linalg.inv(view[:2, :2]) / half[:, None]
    origin = inverse @ (np.array([x0, y0]) - project(view, centre[None])[0])
    inverse, origin = inverse.astype(np.float32), origin.astype(np.float32)
    x, y = np.arange(x1 - x0, dtype=np.float32), np.arange(y1 - y0, dtype=np.float32)
    u = inverse[0, 0] * x + (inverse[0, 1] * y + origin[0])[:, None]
    if part.finish == "flat":
        return (1 + np.float32(0.12) * light * u)[..., None]
    if part.finish == "round":
        away = np.abs(u - light)
        return (np.float32(1.12) - np.float32(0.42) * away * away + np.float32(0.35) * (away < 0.12))[..., None]
    v = inverse[1, 0] * x + (inverse[1, 1] * y + origin[1])[:, None]
    away = (u - light) ** 2 + (v + np.float32(0.5)) ** 2
    return (np.float32(1.15) - np.float32(0.22) * away + np.float32(0.3) * (away < 0.03))[..., None]
