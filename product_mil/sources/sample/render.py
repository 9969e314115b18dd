"""Photograph the things of the embedded sample: view, light, shadow, background and noise."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from product_mil.sources.sample.shapes import Colour, Outline, Part, random_colour

PHOTO_SIZE_PX = 180
BACKGROUND_SHARES = (0.3, 0.25, 0.15, 0.1, 0.2)
OVERSAMPLING = 2  # outlines are drawn at twice the size, so that edges are smooth

# While painting, the axis of colours is first, because operations on whole planes are several times
# as fast as on three neighbouring values.
Photo = Float[np.ndarray, "3 180 180"]
View = Float[np.ndarray, "3 3"]  # homography from a thing's coordinates to pixels


class Studio:
    """Takes the photos. It has the noise from which grain, paper and wood are cut."""

    def __init__(self, rng: np.random.Generator):
        self.noise = rng.standard_normal((512, 512), np.float32)
        self.ramp = np.linspace(-1, 1, PHOTO_SIZE_PX, dtype=np.float32)
        self.photo = np.empty((3, PHOTO_SIZE_PX, PHOTO_SIZE_PX), np.float32)

    def photograph(
        self, thing: list[Part], rng: np.random.Generator, max_turn_deg: float
    ) -> UInt8[np.ndarray, "180 180 3"]:
        """Photograph a thing from a random view, in random light, on a random background."""
        view = random_view(thing, rng, max_turn_deg)
        outlines = [project(view, part.outline) for part in thing]
        light = rng.uniform(-0.5, 0.5)
        self.lay_background(rng, max(thing, key=extent).colour)
        cast_shadow(self.photo, outlines, rng)
        for part, outline in zip(thing, outlines, strict=True):
            paint(self.photo, part, outline, view, light)
        slope_x, slope_y = rng.uniform(-0.12, 0.12, 2)
        glow = self.ramp * np.float32(255 * slope_x) + np.float32(255 * rng.uniform(0.85, 1.1))
        self.photo *= glow + (self.ramp * np.float32(255 * slope_y))[:, None]
        strength = np.float32(rng.uniform(1.5, 5))
        for colour in range(3):
            self.photo[colour] += self.grain(rng) * strength
        np.clip(self.photo, 0, 255, out=self.photo)
        return np.ascontiguousarray(self.photo.astype(np.uint8).transpose(1, 2, 0))

    def grain(self, rng: np.random.Generator) -> Float[np.ndarray, "180 180"]:
        """Cut a random piece of noise."""
        x, y = rng.integers(0, len(self.noise) - PHOTO_SIZE_PX, 2)
        return self.noise[y : y + PHOTO_SIZE_PX, x : x + PHOTO_SIZE_PX]

    def lay_background(self, rng: np.random.Generator, body: Colour) -> None:
        """Start a photo with a plain, graded, textured or shelf-like background."""
        near, far = (backdrop_colour(rng, body) for _ in range(2))
        kind = rng.choice(["plain", "graded", "paper", "wood", "shelf"], p=BACKGROUND_SHARES)
        self.photo[:] = near[:, None, None]
        if kind == "graded":
            self.photo += ((far - near)[:, None] * (self.ramp + 1) / 2)[:, :, None]
        elif kind == "paper":
            coarse = self.grain(rng)[::3, ::3].repeat(3, axis=0).repeat(3, axis=1)
            self.photo *= 1 + np.float32(rng.uniform(0.01, 0.04)) * coarse
        elif kind == "wood":
            lines = self.grain(rng)[::4, :1].repeat(4, axis=0)
            self.photo *= 1 + np.float32(rng.uniform(0.02, 0.07)) * lines
        elif kind == "shelf":
            edge = int(rng.uniform(0.55, 0.85) * PHOTO_SIZE_PX)
            self.photo[:, edge:] = far[:, None, None]
            self.photo[:, edge : edge + 3] *= 0.7


def extent(part: Part) -> float:
    """Area of a part's bounding box."""
    return float(np.ptp(part.outline, axis=0).prod())


def backdrop_colour(rng: np.random.Generator, body: Colour) -> Colour:
    """Draw a background colour, mostly pale: of three, the one that differs most from `body`."""
    strengths = rng.uniform(0.2, 0.5, 3) if rng.random() < 0.1 else rng.uniform(0, 0.15, 3)
    colours = [1 - strength * (1 - random_colour(rng)) for strength in strengths]
    return max(colours, key=lambda colour: float(np.abs(colour - body).sum()))


def random_view(thing: list[Part], rng: np.random.Generator, max_turn_deg: float) -> View:
    """Draw a view that shows the whole thing."""
    turn = np.radians(rng.uniform(-max_turn_deg, max_turn_deg))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = turned @ np.diag([rng.uniform(0.85, 1.1), 1.0])
    tilt = rng.uniform(-0.1, 0.1, 2)
    view = np.array([[*linear[0], 0], [*linear[1], 0], [*tilt, 1]])
    points = np.concatenate([project(view, part.outline) for part in thing])
    low, high = points.min(0), points.max(0)
    size = rng.uniform(0.78, 0.95) * PHOTO_SIZE_PX
    scale = size / (high - low).max()
    slack = PHOTO_SIZE_PX * 0.97 - scale * (high - low)
    corner = slack * (0.5 + rng.uniform(-0.25, 0.25, 2)) + 0.015 * PHOTO_SIZE_PX
    fit = np.array([[scale, 0, 0], [0, scale, 0], [0, 0, 1]])
    fit[:2, 2] = corner - scale * low
    return fit @ view


def project(view: View, points: Outline) -> Outline:
    """Map a thing's coordinates to pixels."""
    p = points @ view[:, :2].T + view[:, 2]
    return p[:, :2] / p[:, 2:]


def cast_shadow(photo: Photo, outlines: list[Outline], rng: np.random.Generator) -> None:
    """Darken the background beside the thing, in place."""
    third = PHOTO_SIZE_PX // 3
    mask = Image.new("L", (third, third))
    draw = ImageDraw.Draw(mask)
    shift = rng.uniform((-7, 1), (7, 6))
    for outline in outlines:
        draw.polygon(((outline + shift) / 3).ravel().tolist(), fill=255)
    mask = mask.filter(ImageFilter.BoxBlur(rng.uniform(1, 3)))
    soft = mask.resize((PHOTO_SIZE_PX, PHOTO_SIZE_PX), Image.Resampling.BILINEAR)
    shade = np.asarray(soft, np.float32)
    shade *= -rng.uniform(0.25, 0.5) / 255
    shade += 1
    photo *= shade


def paint(photo: Photo, part: Part, outline: Outline, view: View, light: float) -> None:
    """Paint a part over the photo, in place; `light` from -1 (left) to 1 (right)."""
    (x0, y0), (x1, y1) = outline.min(0), outline.max(0)
    x0, y0 = max(int(x0), 0), max(int(y0), 0)
    x1, y1 = min(int(x1) + 2, PHOTO_SIZE_PX), min(int(y1) + 2, PHOTO_SIZE_PX)
    mask = Image.new("L", (OVERSAMPLING * (x1 - x0), OVERSAMPLING * (y1 - y0)))
    draw = ImageDraw.Draw(mask)
    draw.polygon(((outline - (x0, y0)) * OVERSAMPLING).ravel().tolist(), fill=255)
    if part.hole is not None:
        hole = project(view, part.hole)
        draw.polygon(((hole - (x0, y0)) * OVERSAMPLING).ravel().tolist(), fill=0)
    alpha = np.asarray(mask.reduce(OVERSAMPLING), np.float32) * np.float32(1 / 255)
    colour = part.colour.astype(np.float32)[:, None, None]
    change = colour * shading(part, view, light, (x0, y0, x1, y1))
    region = photo[:, y0:y1, x0:x1]
    change -= region
    change *= alpha
    region += change


def shading(
    part: Part, view: View, light: float, bounds_px: tuple[int, int, int, int]
) -> Float[np.ndarray, "h w"]:
    """The brightness of the pixels in a part's bounding box, by its finish.

    Across the part, u (and v down it) run from -1 to 1; perspective is left out.
    """
    x0, y0, x1, y1 = bounds_px
    low, high = part.outline.min(0), part.outline.max(0)
    (cx, cy), (half_x, half_y) = ((low + high) / 2).tolist(), ((high - low) / 2 + 1e-6).tolist()
    (a, b, tx), (c, d, ty), (px, py, pz) = view.tolist()
    w = px * cx + py * cy + pz
    # The inverse of the view's linear part at the part's centre.
    a, b, c, d = a / w, b / w, c / w, d / w
    det = a * d - b * c
    x = np.arange(x0, x1, dtype=np.float32) - (a * cx + b * cy + tx / w)
    y = (np.arange(y0, y1, dtype=np.float32) - (c * cx + d * cy + ty / w))[:, None]
    u = x * (d / det / half_x) - y * (b / det / half_x) - light
    if part.finish == "flat":
        u *= 0.12 * light
        u += 1
        return u
    u *= u
    if part.finish == "round":
        glint = u < 0.015
        u *= -0.42
    else:
        v = y * (a / det / half_y) - x * (c / det / half_y) + 0.5
        u += v * v
        glint = u < 0.03
        u *= -0.22
    u += 1.13
    u[glint] += 0.3
    return u
