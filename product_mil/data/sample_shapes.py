"""The things of the embedded sample, as outlines: what a mug, a chair or a charging cable looks like.

A thing is a list of `Part`s, painted one over the other. Coordinates: x to the right, y down,
the thing somewhere within [-1, 1]. A `Style` holds what the photos of one product share: its
colours and its random choices (which template, which proportions).
"""

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Outline = Float[np.ndarray, "n 2"]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Part:
    """One surface: its outline, its colour (RGB, 0 to 1) and how it takes the light."""

    outline: Outline
    colour: Float[np.ndarray, "3"]
    finish: str = "flat"  # "flat", "round" (a standing cylinder) or "ball"
    hole: Outline | None = None


class Style:
    """Random choices of one product; none of them knows what the product is."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.a, self.b, self.c = (random_colour(rng) for _ in range(3))
        self.metal = np.full(3, rng.uniform(0.45, 0.85)) * rng.uniform(0.92, 1.08, 3)
        self.dark = self.a * 0.25

    def pick(self, count: int) -> int:
        """Choose one of `count` templates."""
        return int(self.rng.integers(count))

    def vary(self, value: float, share: float = 0.12) -> float:
        """Change a proportion by up to `share` of it."""
        return float(value * self.rng.uniform(1 - share, 1 + share))


def random_colour(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Draw a product's colour: any hue, at times a neutral one."""
    saturation = rng.uniform(0.0, 0.08) if rng.random() < 0.2 else rng.uniform(0.4, 0.9)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.3, 0.98)))


# Outlines -----------------------------------------------------------------------------------


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Outline:
    """Outline a rectangle, with rounded corners where `radius` says so."""
    if radius == 0:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
    corners = [
        ellipse(x, y, radius, radius, angle, angle + 90, 6)
        for x, y, angle in (
            (x1 - radius, y0 + radius, -90),
            (x1 - radius, y1 - radius, 0),
            (x0 + radius, y1 - radius, 90),
            (x0 + radius, y0 + radius, 180),
        )
    ]
    return np.concatenate(corners)


def ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360, count: int = 36
) -> Outline:
    """Points of an ellipse or an arc; angles in degrees, clockwise from the right."""
    t = np.radians(np.linspace(start, end, count))
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
    bottom = ellipse(0, y, radius, tilt * radius, 0, 180, 16)
    return np.concatenate([right, bottom, right[::-1] * (-1, 1)])


def ring(x: float, y: float, r: float, width: float, colour: np.ndarray, squash: float = 1) -> Part:
    """A band around an ellipse."""
    return Part(
        ellipse(x, y, r, r * squash), colour, hole=ellipse(x, y, r - width, r * squash - width)
    )


# Things -------------------------------------------------------------------------------------


def mug(s: Style) -> list[Part]:
    h, r = s.vary(0.8), s.vary(0.62)
    belly = (1.0, 0.8, 1.25)[s.pick(3)]  # straight, tapered or bellied
    profile = [
        (-h, r),
        (-h / 3, r * (1 + (belly - 1) * 0.7)),
        (h / 3, r * belly),
        (h, r * min(1, belly) * 0.92),
    ]
    handle = [(r * 0.85, -h * 0.6), (r + 0.55, -h * 0.6), (r + 0.55, h * 0.5), (r * 0.85, h * 0.5)]
    parts = [
        Part(stroke(smooth(handle, closed=False), 0.17), s.b, "flat"),
        Part(lathe(profile), s.a, "round"),
        Part(ellipse(0, -h, r, r * 0.22), s.a * 0.5 + 0.5),
        Part(ellipse(0, -h + 0.01, r * 0.9, r * 0.17), s.dark),
    ]
    if s.pick(2):
        parts.append(
            Part(
                smooth(
                    [(0, 0.35), (-0.3, 0), (-0.15, -0.2), (0, -0.05), (0.15, -0.2), (0.3, 0)], 2
                ),
                s.c,
            )
        )
    else:
        parts.append(Part(box(-r * 0.98, -0.1, r * 0.98, 0.15), s.c, "round"))
    return parts


def spoon(s: Style) -> list[Part]:
    w = s.vary(0.07)
    end = s.vary(0.13, 0.3)
    handle = smooth(
        [(-w, -0.3), (w, -0.3), (w * 0.7, 0.4), (end, 0.95), (-end, 0.95), (-w * 0.7, 0.4)], 3
    )
    bowl = ellipse(0, -0.6, s.vary(0.3), 0.42)
    return [
        Part(handle, s.a, "round"),
        Part(bowl, s.a, "ball"),
        Part(ellipse(0, -0.6, 0.22, 0.33), s.a * 0.7, "ball"),
        Part(ellipse(0, 0.85, 0.05, 0.08), s.b),
    ]


def teapot(s: Style) -> list[Part]:
    r, h = s.vary(0.62), s.vary(0.5)
    spout = stroke(
        smooth([(r * 0.7, 0.3), (r + 0.2, 0.2), (r + 0.2, -0.3), (r + 0.5, -0.42)], closed=False),
        0.2,
    )
    grip = smooth(
        [(-r * 0.7, -0.35), (-r - 0.55, -0.5), (-r - 0.5, 0.4), (-r * 0.7, 0.3)], closed=False
    )
    if s.pick(2):
        body = Part(ellipse(0, 0.05, r, h), s.a, "ball")
    else:
        body = Part(lathe([(-h * 0.9, r * 0.6), (0, r * 0.8), (h, r)]), s.a, "round")
    return [
        Part(spout, s.a),
        Part(stroke(grip, 0.14), s.b),
        body,
        Part(ellipse(0, h * 0.98, r * 0.5, 0.07), s.a * 0.6),
        Part(ellipse(0, -h * 0.82, r * 0.55, 0.13), s.b, "ball"),
        Part(ellipse(0, -h - 0.08, 0.12, 0.12), s.c, "ball"),
    ]


def frying_pan(s: Style) -> list[Part]:
    r = s.vary(0.55, 0.06)
    handle = smooth(
        [(-0.09, -r + 0.3), (0.09, -r + 0.3), (0.08, 0.5), (0.12, 1.2), (-0.12, 1.2), (-0.08, 0.5)],
        2,
    )
    rim = (
        ellipse(0, -0.45, r, r)
        if s.pick(2)
        else smooth([(-r, -0.45 - r), (r, -0.45 - r), (r, -0.45 + r), (-r, -0.45 + r)], 3)
    )
    centre = np.array([0, -0.45])
    return [
        Part(handle, s.b, "round"),
        Part(ellipse(0, 1.08, 0.045, 0.07), s.dark),
        Part(rim, s.a),
        Part((rim - centre) * 0.9 + centre, s.a * 0.45, "ball"),
        Part((rim - centre) * 0.72 + centre, s.a * 0.6, "ball"),
    ]


def bottle(s: Style) -> list[Part]:
    r, neck = s.vary(0.32), s.vary(0.13)
    shoulder = (-0.25, -0.05, -0.45)[s.pick(3)]
    profile = [
        (-0.8, neck),
        (shoulder - 0.22, neck * 1.1),
        (shoulder - 0.06, r * 0.8),
        (shoulder + 0.08, r),
        (0.95, r),
    ]
    return [
        Part(lathe(profile), s.a, "round"),
        Part(box(-neck * 1.25, -1.0, neck * 1.25, -0.75, 0.04), s.b, "round"),
        Part(box(-r, 0.15, r, 0.65), s.c, "round"),
        Part(box(-r * 0.6, 0.25, r * 0.6, 0.33), s.dark),
        Part(box(-r * 0.4, 0.42, r * 0.4, 0.48), s.dark),
    ]


def lamp(s: Style) -> list[Part]:
    top, low = ((0.3, 0.7), (0.55, 0.6), (0.12, 0.72))[s.pick(3)]
    base = s.vary(0.42)
    stem = [Part(box(-0.05, -0.2, 0.05, 0.85), s.metal, "round")]
    if s.pick(2):
        stem = [
            Part(
                lathe([(-0.1, 0.06), (0.1, 0.1), (0.4, 0.24), (0.7, 0.1), (0.85, 0.1)]),
                s.b,
                "round",
            )
        ]
    return [
        *stem,
        Part(lathe([(0.82, base * 0.9), (0.92, base)]), s.b, "round"),
        Part(ellipse(0, -0.18, low * 0.95, 0.13), np.array([1.0, 0.93, 0.7])),
        Part(lathe([(-0.95, top), (-0.2, low)], 0.08), s.a, "round"),
        Part(box(-low * 0.9, -0.34, low * 0.9, -0.26), s.c, "round"),
    ]


def clock(s: Style) -> list[Part]:
    frame = (
        ellipse(0, 0, 0.95, 0.95),
        box(-0.85, -0.85, 0.85, 0.85, 0.2),
        ellipse(0, 0, 1, 1, 22.5, 382.5, 9),
    )[s.pick(3)]
    face = s.b * 0.25 + 0.75
    parts = [Part(frame, s.a), Part(frame * 0.8, face)]
    for hour in range(12):
        t = np.radians(hour * 30)
        out = np.array([np.sin(t), -np.cos(t)])
        parts.append(Part(stroke([tuple(out * 0.5), tuple(out * 0.66)], 0.07), s.dark))
    for length, width in ((0.36, 0.1), (0.55, 0.07)):
        t = s.rng.uniform(0, 2 * np.pi)
        parts.append(
            Part(stroke([(0, 0), (length * np.sin(t), -length * np.cos(t))], width), s.dark)
        )
    return [*parts, Part(ellipse(0, 0, 0.07, 0.07), s.c)]


def chair(s: Style) -> list[Part]:
    w, seat = s.vary(0.5), s.vary(0.15)
    template = s.pick(3)
    leg = [Part(stroke([(x, seat), (x * 1.12, 1.0)], 0.1), s.b) for x in (-w, w, -w * 0.5, w * 0.5)]
    if template == 0:  # slats
        back = [Part(stroke([(x, seat), (x, -1.0)], 0.1), s.b) for x in (-w, w)]
        back += [Part(box(-w, y, w, y + 0.15), s.a) for y in (-0.95, -0.6, -0.25)]
    elif template == 1:  # upholstered
        back = [Part(box(-w, -0.95, w, seat, 0.25), s.a)]
        back += [Part(box(-w * 0.75, -0.8, w * 0.75, seat - 0.1, 0.2), s.a * 0.85, "ball")]
    else:  # office
        leg = [Part(stroke([(0, seat), (0, 0.75)], 0.12), s.metal)]
        leg += [Part(stroke([(0, 0.72), (x, 0.95)], 0.1), s.b) for x in (-w, 0, w)]
        leg += [Part(ellipse(x, 0.98, 0.08, 0.08), s.dark) for x in (-w, 0, w)]
        back = [
            Part(stroke([(0, seat), (0, -0.4)], 0.12), s.metal),
            Part(box(-w * 0.85, -1.0, w * 0.85, -0.2, 0.2), s.a),
        ]
    return [*leg, *back, Part(box(-w * 1.1, seat - 0.08, w * 1.1, seat + 0.12, 0.08), s.a * 0.8)]


def phone_case(s: Style) -> list[Part]:
    w = s.vary(0.5, 0.08)
    parts = [
        Part(box(w - 0.03, -0.5, w + 0.04, -0.2), s.b),
        Part(box(-w, -1, w, 1, 0.16), s.a),
        Part(box(-w + 0.06, -0.94, w - 0.06, 0.94, 0.12), s.a * 0.85),
    ]
    lens = [(-w + 0.25, -0.72), (-w + 0.25, -0.46), (-w + 0.5, -0.59)]
    parts.append(Part(box(-w + 0.1, -0.88, -w + 0.66, -0.3, 0.12), s.dark))
    parts += [Part(ellipse(x, y, 0.1, 0.1), s.metal) for x, y in lens]
    parts += [Part(ellipse(x, y, 0.06, 0.06), s.dark * 0.5) for x, y in lens]
    if s.pick(2):
        parts += [Part(stroke([(-w + 0.1, y + 0.3), (w - 0.1, y)], 0.1), s.c) for y in (0.1, 0.4)]
    else:
        parts.append(Part(ellipse(0, 0.35, 0.24, 0.24), s.c))
    return parts


def camera(s: Style) -> list[Part]:
    h, x = s.vary(0.55), s.rng.uniform(-0.1, 0.2)
    hump = [(-0.35, -h), (-0.25, -h - 0.25), (0.25, -h - 0.25), (0.35, -h)]
    top = (
        Part(np.array(hump) + (x, 0), s.a)
        if s.pick(2)
        else Part(box(0.45, -h - 0.12, 0.8, -h), s.metal)
    )
    return [
        top,
        Part(box(-0.85, -h - 0.1, -0.55, -h, 0.03), s.metal),
        Part(box(-1, -h, 1, h, 0.12), s.a),
        Part(box(-1, -h * 0.6, 1, h * 0.75), s.b),
        Part(ellipse(x, 0.02, 0.5, 0.5), s.metal),
        Part(ellipse(x, 0.02, 0.42, 0.42), s.dark, "ball"),
        Part(ellipse(x, 0.02, 0.28, 0.28), s.c * 0.5, "ball"),
        Part(ellipse(x - 0.1, -0.1, 0.08, 0.06), np.ones(3)),
        Part(box(0.65, -h * 0.9, 0.9, -h * 0.65), np.ones(3) * 0.95),
    ]


def headphones(s: Style) -> list[Part]:
    band = ellipse(0, 0.2, s.vary(0.72, 0.08), 1.0, 180, 360)
    cup, template = s.vary(0.26), s.pick(2)
    parts = [Part(stroke(band, 0.13), s.a), Part(stroke(band[8:28] * (0.93, 0.9), 0.08), s.b)]
    for x in (-0.72, 0.72):
        cushion = (
            ellipse(x * 0.86, 0.38, cup * 0.7, 0.42)
            if template
            else box(x * 0.86 - 0.18, 0, x * 0.86 + 0.18, 0.78, 0.14)
        )
        parts += [
            Part(cushion, s.dark),
            Part(ellipse(x, 0.38, cup, 0.36), s.a, "ball"),
            Part(ellipse(x * 1.04, 0.38, cup * 0.5, 0.2), s.c),
        ]
    return parts


def sneaker(s: Style) -> list[Part]:
    ankle = (-0.55, -0.85)[s.pick(2)]  # low or high
    upper = [
        (-1, 0.35),
        (-0.98, ankle),
        (-0.35, ankle + 0.02),
        (-0.1, -0.3),
        (0.5, -0.05),
        (1.0, 0.1),
        (1.02, 0.4),
    ]
    parts = [
        Part(smooth(upper, 2), s.a),
        Part(smooth([(-1, 0.3), (-0.98, -0.1), (-0.6, -0.1), (-0.55, 0.3)], 2), s.b),
        Part(smooth([(0.5, 0.35), (0.6, 0.0), (1.0, 0.1), (1.0, 0.38)], 2), s.b),
        Part(smooth([(-1.05, 0.3), (1.1, 0.3), (1.08, 0.55), (-1.0, 0.55)], 2), np.ones(3) * 0.93),
        Part(box(-1.0, 0.5, 1.0, 0.58, 0.03), s.c * 0.6),
        Part(ellipse(-0.65, ankle + 0.02, 0.28, 0.07), s.dark),
        Part(stroke(smooth([(-0.5, 0.25), (-0.2, 0.2), (0.35, -0.05)], closed=False), 0.1), s.c),
    ]
    parts += [
        Part(stroke([(x, y - 0.1), (x + 0.2, y + 0.06)], 0.06), np.ones(3))
        for x, y in ((-0.3, -0.32), (-0.1, -0.22), (0.1, -0.13))
    ]
    return parts


def glasses(s: Style) -> list[Part]:
    template = s.pick(3)
    parts = [
        Part(stroke([(0.9 * k, -0.15), (1.0 * k, -0.45), (0.8 * k, -0.6)], 0.07), s.a)
        for k in (-1, 1)
    ]
    tint = s.b * 0.5 + 0.3 if s.pick(2) else s.b * 0.2 + 0.75
    for x in (-0.52, 0.52):
        rim = (
            ellipse(x, 0, 0.42, 0.4),
            box(x - 0.42, -0.28, x + 0.42, 0.28, 0.15),
            smooth([(x - 0.5, -0.35), (x + 0.5, -0.35), (x + 0.4, 0.35), (x - 0.4, 0.35)], 3),
        )[template]
        centre = np.array([x, 0])
        parts += [
            Part(rim, s.a),
            Part((rim - centre) * 0.8 + centre, tint),
            Part(stroke([(x - 0.15, 0.1), (x + 0.1, -0.15)], 0.05), np.ones(3)),
        ]
    return [*parts, Part(stroke([(-0.14, -0.05), (0, -0.12), (0.14, -0.05)], 0.09), s.a)]


def umbrella(s: Style) -> list[Part]:
    depth = s.vary(0.75, 0.15)
    scallop = [ellipse(x, 0, 0.2, 0.09, 0, -180, 8) for x in (0.8, 0.4, 0, -0.4, -0.8)]
    dome = np.concatenate([ellipse(0, 0, 1, depth, 180, 360), *scallop])
    hook = smooth([(0, 0.6), (0, 1.15), (0.3, 1.15), (0.3, 0.85)], closed=False)
    parts = [
        Part(stroke([(0, -depth - 0.12), (0, 0.7)], 0.06), s.metal),
        Part(stroke(hook, 0.11), s.b),
        Part(dome, s.a, "ball"),
    ]
    panels = s.pick(2)
    for k, x in enumerate((-0.6, -0.2, 0.2, 0.6)):
        edge = np.stack(
            [
                x * np.sin(np.linspace(0, np.pi / 2, 9)),
                -depth * np.cos(np.linspace(0, np.pi / 2, 9)),
            ],
            1,
        )
        if panels and k % 2 == 0:
            other = edge * ((x + 0.4) / x, 1)
            parts.append(Part(np.concatenate([edge, other[::-1]]), s.c))
        else:
            parts.append(Part(stroke(edge, 0.03), s.dark))
    return parts


def guitar(s: Style) -> list[Part]:
    if s.pick(2):  # acoustic
        body = smooth(
            [
                (-0.3, -0.25),
                (0.3, -0.25),
                (0.28, 0.15),
                (0.5, 0.4),
                (0.45, 0.95),
                (-0.45, 0.95),
                (-0.5, 0.4),
                (-0.28, 0.15),
            ],
            3,
        )
        middle = [Part(ellipse(0, 0.25, 0.14, 0.14), s.dark)]
    else:  # electric
        body = smooth(
            [
                (-0.1, 0.0),
                (-0.5, -0.3),
                (-0.35, 0.2),
                (-0.5, 0.9),
                (0.5, 0.9),
                (0.32, 0.3),
                (0.45, -0.15),
                (0.1, 0.05),
            ],
            2,
        )
        middle = [Part(box(-0.16, y, 0.16, y + 0.08), s.dark) for y in (0.2, 0.4)]
    return [
        Part(body, s.a, "ball"),
        *middle,
        Part(box(-0.07, -1.1, 0.07, 0.15), s.b),
        Part(np.array([(-0.07, -1.1), (-0.13, -1.45), (0.13, -1.4), (0.07, -1.1)]), s.c),
        Part(box(-0.18, 0.65, 0.18, 0.74), s.dark),
        *(Part(box(x - 0.012, -1.1, x + 0.012, 0.7), np.ones(3) * 0.9) for x in (-0.04, 0.04)),
    ]


def hammer(s: Style) -> list[Part]:
    grip = [Part(box(-0.1, 0.25, 0.1, 1.0, 0.08), s.b, "round")]
    head = [Part(box(-0.2, -0.95, 0.2, -0.62), s.metal * 0.9)]
    if s.pick(2):  # claw
        head += [
            Part(
                smooth(
                    [(-0.1, -0.95), (-0.45, -0.92), (-0.75, -0.55), (-0.4, -0.7), (-0.1, -0.65)], 2
                ),
                s.metal,
            )
        ]
        head += [
            Part(box(0.15, -0.92, 0.4, -0.66), s.metal),
            Part(box(0.38, -1.0, 0.55, -0.58, 0.04), s.metal),
        ]
    else:  # sledge
        head = [
            Part(box(-0.55, -1.0, 0.55, -0.55, 0.06), s.c),
            Part(box(-0.3, -1.0, 0.3, -0.55), s.c * 0.8),
        ]
    return [Part(box(-0.08, -0.8, 0.08, 0.9), s.a, "round"), *grip, *head]


def saw(s: Style) -> list[Part]:
    depth = s.vary(0.12, 0.5)
    x = np.linspace(1.2, -0.45, 23)
    y = 0.28 + np.where(np.arange(23) % 2, 0.09, 0.0)
    blade = np.concatenate([[(-0.45, -0.3), (1.2, depth - 0.1)], np.stack([x, y], 1)])
    handle = smooth(
        [(-1, -0.35), (-0.35, -0.4), (-0.3, 0.0), (-0.45, 0.4), (-1, 0.5), (-0.85, 0.05)], 2
    )
    return [
        Part(blade, s.metal),
        Part(
            handle,
            s.a,
            hole=smooth([(-0.75, -0.12), (-0.5, -0.15), (-0.52, 0.2), (-0.72, 0.25)], 2),
        ),
        *(Part(ellipse(-0.4, y, 0.04, 0.04), s.b) for y in (-0.22, 0.12)),
    ]


def scissors(s: Style) -> list[Part]:
    spread, r = s.rng.uniform(0.12, 0.4), s.vary(0.24)
    parts = []
    for k in (-1, 1):
        blade = [
            (0.06 * k, 0.12),
            (-0.09 * k, 0.1),
            (-spread * k - 0.02 * k, -1.0),
            (-spread * k * 0.3 + 0.1 * k, -0.2),
        ]
        parts.append(Part(np.array(blade), s.metal * (0.9 + 0.1 * k)))
        parts.append(Part(stroke([(-0.03 * k, -0.05), (k * (spread + 0.05), 0.45)], 0.13), s.a))
        parts.append(ring(k * (spread + 0.14), 0.68, r, 0.1, s.a, 1.25))
    return [*parts, Part(ellipse(0, 0, 0.06, 0.06), s.c)]


def t_shirt(s: Style) -> list[Part]:
    w, sleeve = s.vary(0.55, 0.08), (0.35, 0.6)[s.pick(2)]
    right = [
        (0.2, -0.85),
        (w, -0.75),
        (1.0, sleeve - 0.5),
        (0.78, sleeve - 0.28),
        (w, -0.3),
        (w * 1.02, 0.9),
    ]
    outline = np.array(right + [(-x, y) for x, y in reversed(right)])
    parts = [Part(outline, s.a), Part(ellipse(0, -0.85, 0.22, 0.16), s.b * 0.6)]
    match s.pick(3):
        case 0:
            parts += [Part(box(-w, y, w, y + 0.13), s.c) for y in (-0.2, 0.1, 0.4)]
        case 1:
            parts.append(Part(smooth([(0, -0.4), (0.3, 0), (0, 0.4), (-0.3, 0)], 1), s.c))
        case _:
            parts += [Part(box(-0.32, y, 0.32 - 0.2 * y, y + 0.1), s.c) for y in (-0.25, -0.05)]
    return parts


def handbag(s: Style) -> list[Part]:
    top, low = s.vary(0.65), s.vary(0.9, 0.08)
    grip = ellipse(0, -0.2, s.vary(0.42), 0.75, 180, 360)
    body = smooth([(-top, -0.25), (top, -0.25), (low, 0.85), (-low, 0.85)], 1)
    parts = [Part(stroke(grip, 0.1), s.b), Part(body, s.a, "round")]
    if s.pick(2):
        parts.append(
            Part(
                smooth(
                    [(-top, -0.25), (top, -0.25), (top * 0.9, 0.25), (0, 0.45), (-top * 0.9, 0.25)],
                    1,
                ),
                s.a * 0.75,
            )
        )
        parts.append(Part(box(-0.09, 0.28, 0.09, 0.5, 0.03), s.metal))
    else:
        parts += [
            Part(box(-low * 0.75, 0.15, low * 0.75, 0.7, 0.08), s.c),
            Part(box(-top * 0.9, -0.2, top * 0.9, -0.12), s.metal),
        ]
    return parts


def cloth(s: Style) -> list[Part]:
    n = 16
    t = np.linspace(-0.9, 0.9, n)
    zig = np.where(np.arange(n) % 2, 0.06, 0.0) + 0.9
    side = np.stack([t, -zig], 1)
    sides = [side, np.stack([zig, t], 1), np.stack([-t, zig], 1), np.stack([-zig, -t], 1)]
    outline = np.concatenate(sides)
    weave = [
        Part(stroke([(-0.85, y), (0.85, y + s.rng.uniform(-0.05, 0.05))], 0.035), s.a * 0.82)
        for y in (-0.6, -0.3, 0, 0.3, 0.6)
    ]
    weave += [
        Part(stroke([(x, -0.85), (x, 0.85)], 0.035), s.a * 0.82) for x in (-0.6, -0.3, 0, 0.3, 0.6)
    ]
    if s.pick(2):  # a corner folded over
        cut = outline[outline.sum(1) < 0.9]
        fold = np.array([(0.96, -0.06), (-0.06, 0.96), (0.05, 0.05)])
        return [
            Part(cut, s.a),
            *(p for p in weave if p.outline.sum(1).max() < 0.9),
            *weave[:3],
            Part(fold, s.a * 0.6 + 0.2),
        ]
    return [Part(outline, s.a), *weave]


def cable(s: Style) -> list[Part]:
    turns = np.linspace(0, 2.6 * 2 * np.pi, 110)
    r = 0.42 + 0.035 * turns / np.pi
    coil = np.stack([r * np.cos(turns), r * np.sin(turns) * s.vary(0.9)], 1)
    tail = smooth([tuple(coil[-1]), (-0.9, 0.75), (-0.2, 0.9), (0.7, 0.95)], 3, closed=False)
    head = smooth([tuple(coil[0]), (0.3, -0.15), (-0.1, 0.0)], 3, closed=False)
    return [
        Part(stroke(tail, 0.075), s.a),
        Part(stroke(coil, 0.075), s.a),
        Part(stroke(head, 0.075), s.a * 0.9),
        Part(box(0.65, 0.84, 0.92, 1.06, 0.04), s.b),
        Part(box(0.92, 0.89, 1.06, 1.01), s.metal),
        Part(box(-0.28, -0.13, 0.0, 0.11, 0.04), s.b),
        Part(box(-0.4, -0.08, -0.28, 0.06), s.metal),
    ]


def batteries(s: Style) -> list[Part]:
    count = 2 + s.pick(3)
    parts = []
    for k in range(count):
        x = (k - (count - 1) / 2) * 0.5
        shift = (x, s.rng.uniform(-0.06, 0.06))
        parts += [
            Part(box(-0.09, -0.78, 0.09, -0.6, 0.03) + shift, s.metal, "round"),
            Part(box(-0.22, -0.68, 0.22, 0.75, 0.04) + shift, s.a, "round"),
            Part(box(-0.22, -0.66, 0.22, -0.28) + shift, s.b, "round"),
            Part(box(-0.03, 0.25, 0.03, 0.45) + shift, np.ones(3)),
            Part(box(-0.1, 0.32, 0.1, 0.38) + shift, np.ones(3)),
        ]
    return parts


def gift_box(s: Style) -> list[Part]:
    w, h = s.vary(0.8), s.vary(0.6, 0.3)
    lid = box(-w * 1.08, -h - 0.1, w * 1.08, -h + 0.25)
    parts = [
        Part(box(-w, -h, w, h + 0.3), s.a),
        Part(box(-0.14, -h, 0.14, h + 0.3), s.b),
        Part(lid, s.a * 0.85 + 0.1),
        Part(box(-0.14, -h - 0.1, 0.14, -h + 0.25), s.b * 0.9),
    ]
    for k in (-1, 1):
        loop = smooth([(0, -h - 0.1), (0.5 * k, -h - 0.5), (0.6 * k, -h - 0.1)], 2)
        parts.append(
            Part(loop, s.b, hole=(loop - (0.32 * k, -h - 0.22)) * 0.4 + (0.32 * k, -h - 0.22))
        )
    return [*parts, Part(box(-0.12, -h - 0.22, 0.12, -h - 0.04, 0.05), s.b * 0.8)]


def warranty_card(s: Style) -> list[Part]:
    paper = s.a * 0.15 + 0.82
    parts = [Part(box(-1, -0.65, 1, 0.65, 0.06), paper), Part(box(-1, -0.65, 1, -0.38, 0.04), s.a)]
    for k, y in enumerate((-0.2, 0.0, 0.2, 0.4)):
        parts.append(
            Part(box(-0.85, y, s.rng.uniform(0.0, 0.35) - 0.1 * k, y + 0.07), s.dark * 0.5 + 0.2)
        )
    return [
        *parts,
        Part(ellipse(0.62, 0.15, 0.24, 0.24, 0, 360, 17), s.b),
        Part(ellipse(0.62, 0.15, 0.15, 0.15), paper),
    ]


def pouch(s: Style) -> list[Part]:
    w = s.vary(0.75)
    body = smooth(
        [(-0.3, -0.45), (0.3, -0.45), (w, 0.2), (w * 0.95, 0.9), (-w * 0.95, 0.9), (-w, 0.2)], 2
    )
    frill = smooth(
        [(-0.3, -0.5), (-0.55, -1.0), (-0.15, -0.85), (0.1, -1.0), (0.5, -0.9), (0.3, -0.5)], 1
    )
    return [
        Part(frill, s.a * 0.8),
        Part(body, s.a, "ball"),
        *(Part(stroke([(0, -0.45), (x, 0.3)], 0.03), s.a * 0.7) for x in (-0.4, -0.15, 0.15, 0.4)),
        Part(box(-0.34, -0.56, 0.34, -0.42, 0.06), s.b),
        *(
            Part(stroke([(k * 0.3, -0.48), (k * 0.55, -0.3), (k * 0.65, 0.1)], 0.05), s.b)
            for k in (-1, 1)
        ),
        *(Part(ellipse(k * 0.66, 0.14, 0.07, 0.09), s.c) for k in (-1, 1)),
    ]
