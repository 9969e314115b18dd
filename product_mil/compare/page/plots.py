"""The plots of a comparison, as PNG files and as SVG for a light and a dark page."""

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from product_mil.compare.statistics.results import Scores
from product_mil.compare.statistics.tests import Estimate

# Colour-blind readers can distinguish these (Okabe and Ito 2008); the markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
_SIZE_IN = (4.6, 3.3)  # small, so that its letters can be read on a phone


@dataclass(frozen=True)
class Theme:
    """Colours of the page around a plot."""

    background: str
    text: str
    faint: str
    colours: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1d2733", "#c9d1da", COLOURS)
DARK = Theme(
    "#171d24",
    "#e4e9ef",
    "#3c4753",
    ("#4FA8E0", "#FF8A3D", "#35C79A", "#E79CC4", "#F0B840", "#8FD0F5"),
)


def _figure(theme: Theme, size_in: tuple[float, float] = _SIZE_IN) -> tuple[Figure, Any]:
    figure = Figure(figsize=size_in, layout="constrained", facecolor=theme.background)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor(theme.background)
    axes.tick_params(colors=theme.text, labelsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.faint)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    return figure, axes


def _legend(axes: Any, theme: Theme) -> None:
    axes.legend(frameon=False, labelcolor=theme.text, fontsize=10)


def _error(estimates: Sequence[Estimate]) -> np.ndarray:
    """Lengths of the error bars, `[2, q]`."""
    value, low, high = np.array(estimates).T
    return np.maximum([value - low, high - value], 0)


def accuracy_by_num_images(entries: Sequence[Scores], theme: Theme) -> Figure:
    """Accuracy of each entry against the number of images, with its interval."""
    figure, axes = _figure(theme)
    found = [scores.groups["by_num_images"] for scores in entries]
    groups = list(dict.fromkeys(group for own in found for group in own))
    for number, (scores, own) in enumerate(zip(entries, found, strict=True)):
        there = [group for group in groups if group in own]
        estimates = [own[group].accuracy for group in there]
        at = np.array([groups.index(group) for group in there])
        axes.errorbar(
            at + 0.09 * (number - (len(found) - 1) / 2),
            [e.value for e in estimates],
            _error(estimates),
            label=_plain(scores.name),
            color=theme.colours[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=7,
            capsize=3,
            linewidth=1.6,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel("images of the product")
    axes.set_ylabel("right at the first guess")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=theme.faint, linewidth=0.6, alpha=0.6)
    axes.margins(x=0.12, y=0.15)
    figure.legend(
        loc="outside lower center", ncols=2, frameon=False, labelcolor=theme.text, fontsize=10
    )
    return figure


def reliability(entries: Sequence[Scores], field: str, theme: Theme) -> Figure:
    """Accuracy against confidence. On the diagonal, a run is right as often as it says."""
    figure, axes = _figure(theme)
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1.2, linestyle="--")
    for number, scores in enumerate(entries):
        bins = scores.reliability.get(field, ())
        if not bins:
            continue
        axes.errorbar(
            [one.confidence for one in bins],
            [one.accuracy.value for one in bins],
            _error([one.accuracy for one in bins]),
            label=_plain(scores.name),
            color=theme.colours[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            capsize=2,
            linewidth=1.4,
            elinewidth=0.9,
        )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence of the first guess")
    axes.set_ylabel("share that is right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(color=theme.faint, linewidth=0.6, alpha=0.5)
    _legend(axes, theme)
    return figure


def confusion(matrix: np.ndarray, names: Sequence[str], theme: Theme) -> Figure:
    """Numbers of products by true category (rows) and guess (columns); other guesses are left out.

    Arguments:
        matrix: as `confusion_matrix` returns it, `[c, c + 1]`.
        names: of the c categories.
        theme: colours.
    """
    figure, axes = _figure(theme, (5.2, 4.4))
    labels = [_plain(name if len(name) <= 22 else name[:21] + "\u2026") for name in names]
    shown = matrix[:, : len(names)]
    share = shown / np.maximum(matrix.sum(1, keepdims=True), 1)
    colours = LinearSegmentedColormap.from_list("share", [theme.background, theme.colours[0]])
    axes.imshow(share, cmap=colours, vmin=0, vmax=1)
    for right in range(len(names)):  # the diagonal, where guesses are right
        corner = (right - 0.5, right - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=theme.faint))
    for row, column in np.argwhere(shown > 0):
        colour = theme.text if share[row, column] < 0.6 else theme.background
        axes.text(column, row, f"{shown[row, column]}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(length=0, labelsize=9)
    axes.set_xlabel("first guess")
    axes.set_ylabel("true category")
    return figure


def _plain(text: str) -> str:
    """The text so that Matplotlib shows it as it is.

    Otherwise a dollar sign starts a formula, and a leading underscore hides a label.
    """
    return text.replace("$", r"\$").removeprefix("_")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings of letters that the font lacks, which are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file."""
    with _quietly():
        figure.savefig(path, dpi=160, metadata={"Software": None})


def svg_uri(figure: Figure) -> str:
    """The figure as a data URI of an SVG. Letters are outlines, so no font is needed."""
    stream = io.BytesIO()
    with _quietly(), mpl.rc_context({"svg.hashsalt": "product_mil", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
