"""The table as text, as CSV and as a bar chart."""

import csv
import io
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import jax

from product_mil.files.outputs import Kind, csv_with_header, names_in
from product_mil.files.whole import whole, write_text
from product_mil.seed_table.plan import Planned, TableOptions
from product_mil.seed_table.progress import Progress, Row
from product_mil.text import table

TEXT_FILE, CSV_FILE, PLOT_FILE = "seed_table.txt", "seed_table.csv", "seed_table.png"
COLUMNS: tuple[str, ...] = (
    "system", "top1", "top1_several_images", "nll", "parameters", "train_s", "images_per_s",
    "cut_short", "shortened", "note",
)  # fmt: skip


def _is_table(directory: Path) -> bool:
    """Whether the directory holds a table, or only the runs of one that was interrupted."""
    file = directory / CSV_FILE
    if file.exists():
        return csv_with_header(COLUMNS)(file)
    return names_in(directory) == {"runs"}


TABLE = Kind("a table of systems", (), _is_table)


def publish(
    planned: Sequence[Planned],
    progress: Mapping[str, Progress],
    left_out: Sequence[str],
    options: TableOptions,
) -> None:
    """Write the table of all systems measured so far. Each file appears whole."""
    rows = [row for system in planned if (row := progress[system.name].row) is not None]
    products = next((row["products"] for row in rows if "products" in row), 0)
    measured_on = options.test or options.valid or options.data or "embedded sample"
    title = (
        f"{measured_on}: {products} products, "
        f"seed {options.seed}, budget {options.budget_minutes:g} min; {date.today()}, "
        f"{os.cpu_count()} {platform.machine()} cores, {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s), JAX {jax.__version__}"
    )
    csv_text = io.StringIO()
    writer = csv.DictWriter(csv_text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    lines = [title, "", *text_lines(rows), *(f"left out: {line}" for line in left_out), ""]
    for name, content in ((TEXT_FILE, "\n".join(lines)), (CSV_FILE, csv_text.getvalue())):
        write_text(options.output / name, content)
    if rows:
        plot(rows, title, options.output / PLOT_FILE)


def text_lines(rows: Sequence[Row]) -> list[str]:
    """The lines of the table for people."""
    names = ("system", "top-1", "several images", "NLL", "parameters", "training", "images/s", "")
    lines: list[tuple[str, ...]] = [names]
    for row in rows:
        number = [row.get(key) for key in COLUMNS[1:4]]
        figures = ["" if value is None else f"{value:.4f}" for value in number]
        millions = f"{row['parameters'] / 1e6:.3f} M" if "parameters" in row else ""
        rate = f"{row['images_per_s']:.0f}" if "images_per_s" in row else ""
        lines.append(
            (row["system"], *figures, millions, f"{row['train_s']:.0f} s", rate, said(row))
        )
    return table(lines, "<>>>>>><")


def said(row: Row) -> str:
    """A remark on a row besides its numbers: shortened, out of time, or a substitute."""
    shortened = f"shortened to {row['shortened']}" if row["shortened"] else ""
    note = "; ".join(filter(None, (shortened, row["note"])))
    return f"CUT SHORT: {note}" if row["cut_short"] else note


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw the accuracy of every system, overall and on products with several images."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if "top1" in row]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(measured)), layout="constrained")
    axis = figure.subplots()
    for offset, key, label in (
        (-0.2, "top1", "all products"),
        (0.2, "top1_several_images", "products with several images"),
    ):
        values = [row[key] or 0.0 for row in measured]
        places = [number + offset for number in range(len(measured))]
        bars = axis.barh(places, values, height=0.38, label=label)
        axis.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    names = [
        row["system"]
        + (" (cut short)" if row["cut_short"] else " (shortened)" if row["shortened"] else "")
        for row in measured
    ]
    axis.set_yticks(range(len(measured)), names)
    axis.invert_yaxis()
    axis.set(xlabel="top-1", xlim=(0, 1.08))
    axis.set_title(title, fontsize=7, wrap=True)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    with whole(path) as file:
        figure.savefig(file, dpi=120, format="png")
