"""Things of the embedded sample to use, wear and play."""

import numpy as np

from product_mil.sources.sample.shapes import Part, Style, box, ellipse, smooth, stroke


def phone_case(s: Style) -> list[Part]:
    """Its back, with stripes or a dot."""
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
    """With a viewfinder hump or a dial."""
    h, x = s.vary(0.55), s.rng.uniform(-0.1, 0.2)
    hump = np.array([(x - 0.35, -h), (x - 0.25, -h - 0.25), (x + 0.25, -h - 0.25), (x + 0.35, -h)])
    top = Part(hump, s.a) if s.pick(2) else Part(box(0.45, -h - 0.12, 0.8, -h), s.metal)
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
    """With round or square cushions."""
    band = ellipse(0, 0.2, s.vary(0.72, 0.08), 1.0, (180, 360))
    cup, template = s.vary(0.26), s.pick(2)
    parts = [Part(stroke(band, 0.13), s.a), Part(stroke(band[9:27] * (0.93, 0.9), 0.08), s.b)]
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
    """Low or high."""
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
    """Round, square or pilot's; clear or tinted."""
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
    """Open; plain or with coloured panels."""
    depth = s.vary(0.75, 0.15)
    scallop = [ellipse(x, 0, 0.2, 0.09, (0, -180)) for x in (0.8, 0.4, 0, -0.4, -0.8)]
    dome = np.concatenate([ellipse(0, 0, 1, depth, (180, 360)), *scallop])
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
    """Acoustic or electric."""
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
    """Claw or sledge."""
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
    """A hand saw with a broad or narrow tip."""
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
    """More or less open."""
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
        eye = np.array([k * (spread + 0.14), 0.68])
        rim = ellipse(0, 0, r, r * 1.25) + eye
        parts.append(Part(rim, s.a, hole=(rim - eye) * 0.62 + eye))
    return [*parts, Part(ellipse(0, 0, 0.06, 0.06), s.c)]


def t_shirt(s: Style) -> list[Part]:
    """Short or long sleeves; stripes, a badge or letters."""
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
    """With a flap or a pocket."""
    top, low = s.vary(0.65), s.vary(0.9, 0.08)
    grip = ellipse(0, -0.2, s.vary(0.42), 0.75, (180, 360))
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
