"""Parts, styles and outlines, from which the things of the embedded sample are drawn.

A thing is a list of `Part`s, painted one over the other. Coordinates: x to the right, y down,
the thing somewhere within [-1, 1]. A `Style` holds what the photos of one product share: its
colours and its random choices (which template, which proportions).
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Colour = Float[np.ndarray, "3"]  # RGB, 0 to 1
Outline = Float[np.ndarray, "_ 2"]
Number = float | int  # a checker at run time takes `float` at its word
Points = Sequence[tuple[Number, Number]]


@dataclass(frozen=True)
class Part:
    """One surface: its outline, its colour and its finish."""

    outline: Outline
    colour: Colour
    finish: str = "flat"  # "flat", "round" (a standing cylinder) or "ball"
    hole: Outline | None = None


class Style:
    """Random choices for one product, which do not depend on its category."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.a, self.c = random_colour(rng), random_colour(rng)
        # The second colour is often a tone of the first, as on most products.
        self.b = self.a * rng.uniform(0.6, 0.9) if rng.random() < 0.6 else random_colour(rng)
        self.metal = np.full(3, rng.uniform(0.4, 0.65)) * rng.uniform(0.92, 1.08, 3)
        self.dark = self.a * 0.25

    def pick(self, count: int) -> int:
        """Choose one of `count` templates."""
        return int(self.rng.integers(count))

    def vary(self, value: float, share: float = 0.12) -> float:
        """Change a proportion by up to `share` of it."""
        return float(value * self.rng.uniform(1 - share, 1 + share))


def random_colour(rng: np.random.Generator) -> Colour:
    """Draw a product's colour: any hue, at times a neutral one; seldom as light as a backdrop."""
    saturation = rng.uniform(0.0, 0.08) if rng.random() < 0.2 else rng.uniform(0.4, 0.9)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.3, 0.8)))


# Outlines -----------------------------------------------------------------------------------


def box(x0: Number, y0: Number, x1: Number, y1: Number, radius: float = 0.0) -> Outline:
    """Outline a rectangle, with rounded corners where `radius` says so."""
    if radius == 0:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
    corners = [
        ellipse(x, y, radius, radius, (angle, angle + 90))[::7]
        for x, y, angle in (
            (x1 - radius, y0 + radius, -90),
            (x1 - radius, y1 - radius, 0),
            (x0 + radius, y1 - radius, 90),
            (x0 + radius, y0 + radius, 180),
        )
    ]
    return np.concatenate(corners)


def ellipse(
    x: Number, y: Number, rx: Number, ry: Number, arc: tuple[Number, Number] = (0, 360)
) -> Outline:
    """Points of an ellipse or an arc of it; angles in degrees, clockwise from the right."""
    t = np.radians(np.linspace(*arc, 36))
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def smooth(points: Points, rounds: int = 3, *, closed: bool = True) -> Outline:
    """Round off the corners of a polygon (Chaikin's corner cutting)."""
    p = np.array(points, float)
    for _ in range(rounds):
        q = np.roll(p, -1, axis=0) if closed else p[1:]
        p0 = p if closed else p[:-1]
        cut = np.stack([0.75 * p0 + 0.25 * q, 0.25 * p0 + 0.75 * q], axis=1).reshape(-1, 2)
        p = cut if closed else np.concatenate([p[:1], cut, p[-1:]])
    return p


def stroke(points: Points | Outline, width: float) -> Outline:
    """Outline a line of the given width."""
    p = np.array(points, float)
    along = np.gradient(p, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = along[:, ::-1] * (-width / 2, width / 2)
    return np.concatenate([p + across, (p - across)[::-1]])


def lathe(profile: Points, tilt: float = 0.12) -> Outline:
    """Outline a standing body of revolution from its (y, radius) profile, seen a bit from above."""
    p = np.array(profile, float)
    right = np.stack([p[:, 1], p[:, 0]], axis=1)
    y, radius = p[-1]
    bottom = ellipse(0, y, radius, tilt * radius, (0, 180))
    return np.concatenate([right, bottom, right[::-1] * (-1, 1)])
