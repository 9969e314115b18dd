"""How quantities and tables are written for people."""

from collections.abc import Iterable, Sequence


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def table(rows: Iterable[Sequence[str]], columns: Sequence[str], gap: str = "  ") -> list[str]:
    """The lines of a table, its columns as wide as their longest cells.

    Args:
        rows: a cell for each column; the first row may be the heads.
        columns: how each is aligned, and how wide it is at least: `<` or `>22`, say.
        gap: what stands between columns.
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
