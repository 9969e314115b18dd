"""Things of the embedded sample for kitchen and home."""

import numpy as np

from product_mil.sources.sample.shapes import Part, Style, box, ellipse, lathe, smooth, stroke


def mug(s: Style) -> list[Part]:
    """Straight, tapered or bellied; with a heart or a band."""
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


def teapot(s: Style) -> list[Part]:
    """Round, or like a cone."""
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
    """Round or square, from above."""
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
    """Sloping, high or low shoulders; with a label."""
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
    """A cone, a drum or a steep shade on a pole or a turned foot."""
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
    """Round, square or eight-sided, at any time of day."""
    frame = (
        ellipse(0, 0, 0.95, 0.95),
        box(-0.85, -0.85, 0.85, 0.85, 0.2),
        ellipse(0, 0, 1, 1, (22.5, 382.5))[::5],
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
    """With slats, upholstered, or an office chair."""
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
