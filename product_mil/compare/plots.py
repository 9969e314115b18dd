"""The plots of a comparison: PNG files to keep, and the same as SVG for a light and a dark page."""

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# Okabe and Ito 2008: told apart by colour-blind readers; the markers differ as well.
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


def _error(estimates: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Lengths of the error bars, `[2, q]`."""
    value = np.array([e["accuracy"] for e in estimates])
    low, high = np.array([e["accuracy_ci95"] for e in estimates]).T
    return np.maximum([value - low, high - value], 0)


def accuracy_by_num_images(runs: Mapping[str, Any], theme: Theme) -> Figure:
    """Accuracy of each run against the number of images, with its interval."""
    figure, axes = _figure(theme)
    groups = list(dict.fromkeys(g for run in runs.values() for g in run["by_num_images"]))
    for number, (name, run) in enumerate(runs.items()):
        there = [group for group in groups if group in run["by_num_images"]]
        estimates = [run["by_num_images"][group] for group in there]
        at = np.array([groups.index(group) for group in there])
        axes.errorbar(
            at + 0.09 * (number - (len(runs) - 1) / 2),
            [e["accuracy"] for e in estimates],
            _error(estimates),
            label=_plain(name),
            color=theme.colours[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=7,
            capsize=3,
            linewidth=1.6,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel("photos of the product")
    axes.set_ylabel("right at the first guess")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=theme.faint, linewidth=0.6, alpha=0.6)
    axes.margins(x=0.12, y=0.15)
    _legend(axes, theme)
    return figure


def reliability(runs: Mapping[str, Any], field: str, theme: Theme) -> Figure:
    """Accuracy against confidence; on the diagonal, a run is right as often as it says."""
    figure, axes = _figure(theme)
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1.2, linestyle="--")
    for number, (name, run) in enumerate(runs.items()):
        bins = run["reliability"].get(field, [])
        if not bins:
            continue
        axes.errorbar(
            [b["confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            _error(bins),
            label=_plain(name),
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


def confusion(matrices: Mapping[str, np.ndarray], names: Sequence[str], theme: Theme) -> Figure:
    """For each run: products of a category (rows, in shares) by guessed category (columns)."""
    size = 0.34 * len(names) + 0.3
    figure = Figure(
        figsize=(2.1 + size * len(matrices), 1.9 + size),
        layout="constrained",
        facecolor=theme.background,
    )
    FigureCanvasAgg(figure)
    colours = LinearSegmentedColormap.from_list("share", [theme.background, theme.colours[0]])
    labels = [_plain(name if len(name) <= 22 else name[:21] + "…") for name in names]
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (run, matrix) in zip(panels, matrices.items(), strict=True):
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        shown = share[:, : len(names)]
        axes.imshow(shown, cmap=colours, vmin=0, vmax=1)
        for row, column in np.argwhere(matrix[:, : len(names)] > 0):
            axes.text(
                column,
                row,
                f"{matrix[row, column]:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color=theme.text if shown[row, column] < 0.6 else theme.background,
            )
        axes.set_title(_plain(run), color=theme.text, fontsize=11)
        axes.set_xticks(range(len(names)), labels, rotation=60, ha="right", fontsize=9)
        axes.set_yticks(range(len(names)), labels if axes is panels[0] else [], fontsize=9)
        axes.tick_params(colors=theme.text, length=0)
        axes.set_xlabel("first guess", color=theme.text)
        for spine in axes.spines.values():
            spine.set_color(theme.faint)
    panels[0].set_ylabel("true category", color=theme.text)
    return figure


def _plain(text: str) -> str:
    """Names come from data: a dollar sign starts no formula, a leading underscore hides nothing."""
    return text.replace("$", r"\$").removeprefix("_")


@contextmanager
def _quietly() -> Iterator[None]:
    """Names in scripts that the font lacks become boxes, without a warning for each letter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure."""
    with _quietly():
        figure.savefig(path, dpi=160, metadata={"Software": None})


def svg_uri(figure: Figure) -> str:
    """The figure as a data URI; letters are outlines, so no font is needed."""
    stream = io.BytesIO()
    with _quietly(), mpl.rc_context({"svg.hashsalt": "product_mil", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
