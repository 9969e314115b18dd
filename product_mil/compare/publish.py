"""Write a comparison: compute every figure, and write the page, the plots and the JSON file."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from product_mil.compare.gather.gather import Gathered
from product_mil.compare.gather.sources import file_details, run_details
from product_mil.compare.json_file import JSON_FILE, report_json
from product_mil.compare.page.figures import draw_all
from product_mil.compare.page.gallery import BROKE, FIXED, Detail, Selection, cards, select
from product_mil.compare.page.html import page
from product_mil.compare.report import GalleryNote, Report
from product_mil.compare.statistics.comparison import compare
from product_mil.compare.statistics.differences import control
from product_mil.compare.training.fairness import unfair_fields
from product_mil.errors import UserError
from product_mil.files.whole import draft_directory, write_text
from product_mil.version import __version__

PAGE_FILE = "index.html"


def publish(
    gathered: Gathered,
    runs: Mapping[str, Sequence[Path]],
    files: Mapping[str, Sequence[Path]],
    data: str | None,
    output: Path,
    *,
    checkpoint: Literal["last", "best"] = "last",
) -> Report:
    """Compute everything and write it to the directory `output`, whole or not at all.

    `runs`, `files`, `data` and `checkpoint` are those that `gather` took.

    Raises:
        UserError: the directory cannot be written.
    """
    a, b = gathered.headline
    by_name = {entry.name: entry for entry in gathered.entries}
    comparison = compare(gathered.questions, gathered.entries, gathered.pairs, gathered.categories)
    answers = {name: by_name[name].seeds[0] for name in (a, b)}
    selection = select(gathered.questions, answers[a], answers[b], gathered.categories)
    details = {
        name: _details(name, gathered, selection, runs, files, data, checkpoint) for name in (a, b)
    }
    gallery = cards(
        gathered.questions,
        selection,
        details,
        answers,
        gathered.categories,
        gathered.catalogue,
        gathered.data_rows,
    )
    report = Report(
        comparison=comparison,
        headline=(a, b),
        control=control(gathered.questions, by_name[a], by_name[b], comparison.difference(a, b)),
        data=data,
        differing_fields=gathered.differing_fields,
        like_for_like=bool(gathered.differing_fields)
        and not unfair_fields(gathered.differing_fields),
        notes=gathered.notes,
        warnings=gathered.warnings,
        gallery=_note(gathered, selection, details, len(gallery["cards"])),
        version=__version__,
        date=datetime.now(UTC).date().isoformat(),
    )
    drawn = list(comparison.runs)
    if comparison.of(b).rule_of is not None:
        drawn.append(comparison.of(b))
    try:
        with draft_directory(output) as draft:
            plots, confused = draw_all(
                gathered.questions, answers, gathered.categories, drawn, draft
            )
            text = page(report, plots=plots, confusions=confused, gallery=gallery)
            write_text(draft / PAGE_FILE, text)
            write_text(draft / JSON_FILE, report_json(report))
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error}; choose another place") from error
    return report


def _details(
    name: str,
    gathered: Gathered,
    selection: Selection,
    runs: Mapping[str, Sequence[Path]],
    files: Mapping[str, Sequence[Path]],
    data: str | None,
    checkpoint: Literal["last", "best"],
) -> list[Detail] | None:
    """What the first seed of an entry says of the products in the gallery."""
    if name in files:
        return file_details(files[name][0], gathered.questions.product_id[selection.rows])
    assert data is not None
    assert gathered.data_rows is not None
    if not len(selection.rows):
        return []
    rows = gathered.data_rows[selection.rows]
    variant, _, rule = name.partition("/")
    found = run_details(runs[variant][0], checkpoint, data, rows)
    # A rule shares the guesses for single images with its run, but its answer differs.
    return [dataclasses.replace(detail, top=[]) for detail in found] if rule else found


def _note(
    gathered: Gathered,
    selection: Selection,
    details: Mapping[str, Sequence[Detail] | None],
    shown: int,
) -> GalleryNote:
    """What the page says of its gallery: numbers of products, and what stands under the images."""
    a, b = gathered.headline
    has_images = gathered.catalogue is not None
    listed = details[a] or []
    even = all(
        np.allclose(list(d.attention.values()), 1 / len(d.attention)) for d in listed if d.attention
    )
    remark = "" if has_images else "Without --data there are no images to show."
    if listed and even:
        remark += f" The head of {a} attends to all images of a product alike."
    if has_images and any(d.contribution for d in listed):
        remark += (
            f" “+3.1 for shoe” is what an image adds to the logit of the category that {a} "
            "chooses: together a product's images give how far it lies above the mean of all "
            "categories."
        )
    return GalleryNote(
        shown=shown,
        total=sum(selection.totals.values()),
        fixed=selection.totals[FIXED],
        broke=selection.totals[BROKE],
        alone_by=next((name for name in (b, a) if details[name]), None) if has_images else None,
        attention_by=a if listed and has_images else None,
        remark=remark.strip(),
    )
