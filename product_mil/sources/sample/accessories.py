"""Things of the embedded sample that come with other products; some are also sold alone."""

from dataclasses import replace

import numpy as np

from product_mil.sources.sample.shapes import Part, Style, box, ellipse, smooth, stroke


def cloth(s: Style) -> list[Part]:
    """A cleaning cloth lying on a corner, flat or with another corner folded over."""
    n = 16
    t = np.linspace(-0.9, 0.9, n)
    zig = np.where(np.arange(n) % 2, 0.06, 0.0) + 0.9
    sides = [(t, -zig), (zig, t), (-t, zig), (-zig, -t)]
    outline = np.concatenate([np.stack(side, axis=1) for side in sides])
    lines = (-0.6, -0.3, 0, 0.3, 0.6)
    weave = [stroke([(-0.85, y), (0.85, y)], 0.035) for y in lines]
    weave += [stroke([(x, -0.85), (x, 0.85)], 0.035) for x in lines]
    fold = []
    if s.pick(2):
        outline = outline[outline.sum(axis=1) < 0.9]
        weave = [line for line in weave if line.sum(axis=1).max() < 0.9]
        fold = [Part(np.array([(0.96, -0.06), (-0.06, 0.96), (0.05, 0.05)]), s.a * 0.6 + 0.2)]
    parts = [Part(outline, s.a), *(Part(line, s.a * 0.82) for line in weave), *fold]
    turn = np.array([(1, 1), (-1, 1)]) / np.sqrt(2)
    return [replace(part, outline=part.outline @ turn) for part in parts]


def cable(s: Style) -> list[Part]:
    """A charging cable, coiled."""
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
    """Two to four batteries."""
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
    """A box with a ribbon and a bow."""
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
    """A printed card with a seal."""
    paper = s.a * 0.15 + 0.82
    parts = [Part(box(-1, -0.65, 1, 0.65, 0.06), paper), Part(box(-1, -0.65, 1, -0.38, 0.04), s.a)]
    for k, y in enumerate((-0.2, 0.0, 0.2, 0.4)):
        parts.append(
            Part(box(-0.85, y, s.rng.uniform(0.0, 0.35) - 0.1 * k, y + 0.07), s.dark * 0.5 + 0.2)
        )
    return [
        *parts,
        Part(ellipse(0.62, 0.15, 0.24, 0.24, (0, 360)), s.b),
        Part(ellipse(0.62, 0.15, 0.15, 0.15), paper),
    ]


def pouch(s: Style) -> list[Part]:
    """A bag with a drawstring."""
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
