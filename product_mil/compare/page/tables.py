"""Rows of the tables, on the page and in the terminal."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from product_mil.compare.page.words import count, p_text
from product_mil.compare.report import Report
from product_mil.compare.statistics.results import (
    Change,
    Comparison,
    Difference,
    GroupAccuracy,
    Scores,
)
from product_mil.model.registry import HEADS
from product_mil.text import table

MAX_LISTED_CATEGORIES = 40
_DIGITS = {"top5": 4, "nll": 3, "calibrated_nll": 3, "calibration_error": 3}  # in the terminal
_HEADS = (
    "", "top-1", "95 % interval", "top-5", "NLL", "NLL cal.", "ECE",
    "points", "95 % interval", "p", "fixed", "broke",
)  # fmt: skip


@dataclass(frozen=True)
class EntryRow:
    """A row of the main table: an entry, and its difference from the reference."""

    scores: Scores
    name: str  # a rule that stands below its run is named without it
    is_indented: bool
    how: str
    change: Change | None  # from the reference; None for itself

    @property
    def cell(self) -> str:
        """The name as it stands in the terminal."""
        return "  " * self.is_indented + self.name


@dataclass(frozen=True)
class PairRow:
    """Two entries, the better one first."""

    better: str
    worse: str
    change: Change


@dataclass(frozen=True)
class GroupRow:
    """The headline's two entries on a group of products."""

    name: str
    a: GroupAccuracy
    b: GroupAccuracy
    change: Change


def entry_rows(report: Report) -> list[EntryRow]:
    """A row for each entry. The reference comes first, then its run and that run's rules."""
    _, b = report.headline
    own = report.comparison.of(b).rule_of or b
    order = sorted(
        report.comparison.scores,
        key=lambda scores: (scores.name != b, own not in (scores.name, scores.rule_of)),
    )
    changes = {found.a: found.change for found in report.comparison.differences if found.b == b}
    return [_row(scores, b, changes.get(scores.name)) for scores in order]


def _row(scores: Scores, reference: str, change: Change | None) -> EntryRow:
    is_indented = scores.rule_of is not None and scores.name != reference
    return EntryRow(
        scores,
        name=scores.name.rpartition("/")[2].replace("_", " ") if is_indented else scores.name,
        is_indented=is_indented,
        how=HEADS[scores.how].about if scores.how in HEADS else scores.how,
        change=change,
    )


def pair_rows(comparison: Comparison) -> list[PairRow]:
    """A row for each pair of entries, sorted by accuracy from the best entries on."""
    best_first = sorted(comparison.scores, key=lambda scores: -scores.accuracy.value)
    rank = {scores.name: place for place, scores in enumerate(best_first)}
    rows = [
        PairRow(one.a, one.b, one.change)
        if rank[one.a] < rank[one.b]
        else PairRow(one.b, one.a, one.change.turned())
        for one in comparison.differences
    ]
    return sorted(rows, key=lambda row: (rank[row.better], rank[row.worse]))


def category_rows(difference: Difference) -> list[tuple[str, Change]]:
    """The largest level-1 categories, at most `MAX_LISTED_CATEGORIES`, largest first."""
    rows = difference.groups["by_level1"].items()
    return sorted(rows, key=lambda row: -row[1].n)[:MAX_LISTED_CATEGORIES]


def group_tables(report: Report) -> dict[str, list[GroupRow]]:
    """Rows by number of images, and by whether a product shares an image with training."""
    a, b = (report.comparison.of(name) for name in report.headline)
    return {
        name: [
            GroupRow(group.replace("_", " "), a.groups[name][group], b.groups[name][group], change)
            for group, change in report.difference.groups.get(name, {}).items()
        ]
        for name in ("by_num_images", "by_shared_image")
    }


def terminal_table(report: Report) -> str:
    """The main table, for the terminal."""
    lines: list[tuple[str, ...]] = [_HEADS]
    for row in entry_rows(report):
        metrics, accuracy = row.scores.metrics, row.scores.accuracy
        figures = [
            f"{metrics[metric].value:.{digits}f}" if metric in metrics else "-"
            for metric, digits in _DIGITS.items()
        ]
        own = f"{accuracy.value:.4f}", _interval(accuracy.ci95)
        lines.append((row.cell, *own, *figures, *_change_cells(row.change)))
    return "\n".join(table(lines, "<><>>>>><<>>"))


def table_by_num_images(report: Report) -> str:
    """The accuracy of every entry and the headline's difference by number of images.

    The text is for the terminal, and empty where the numbers of images are not known.
    """
    a, b = report.headline
    rows = entry_rows(report)
    groups = report.difference.groups.get("by_num_images", {})
    tables, groups_a_row = [], 4
    for first in range(0, len(groups), groups_a_row):
        some = dict(itertools.islice(groups.items(), first, first + groups_a_row))
        heads = [f"{group} ({change.n} products)" for group, change in some.items()]
        lines = [("top-1 by images", *heads, "")]
        for row in rows:
            found = [row.scores.groups["by_num_images"][group].accuracy for group in some]
            lines.append((row.cell, *(f"{x.value:.4f} {_interval(x.ci95)}" for x in found), ""))
        gaps = [f"{100 * one.value:+.1f} {_points(one.ci95, 1)}" for one in some.values()]
        lines.append((f"{a} - {b}", *gaps, "points"))
        tables += table(lines, "<" * (len(some) + 2))
    return "\n".join(tables)


def _interval(ci95: Sequence[float]) -> str:
    return f"[{ci95[0]:.4f}, {ci95[1]:.4f}]"


def _points(ci95: Sequence[float], digits: int) -> str:
    low, high = (f"{100 * bound:+.{digits}f}" for bound in ci95)
    return f"[{low}, {high}]"


def _change_cells(change: Change | None) -> tuple[str, ...]:
    if change is None:
        return ("reference", "", "", "", "")
    return (
        f"{100 * change.value:+.2f}",
        _points(change.ci95, 2),
        p_text(change.p).replace("\u00a0", ""),
        count(change.fixed),
        count(change.broke),
    )
