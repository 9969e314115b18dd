"""Durations and tables as text for people."""

from collections.abc import Iterable, Sequence


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever reads best."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def table(rows: Iterable[Sequence[str]], columns: Sequence[str], gap: str = "  ") -> list[str]:
    """The lines of a table whose columns are as wide as their longest cells.

    Args:
        rows: rows of cells; the first row may hold the headings.
        columns: the alignment of each column and its least width, such as `<` or `>22`.
        gap: the text between columns.
    """
    rows = list(rows)
    aligned = [
        f"{column[0]}{max(int(column[1:] or 0), *(len(row[i]) for row in rows), 1)}"
        for i, column in enumerate(columns)
    ]
    return [
        gap.join(f"{cell:{how}}" for cell, how in zip(row, aligned, strict=True)).rstrip()
        for row in rows
    ]
