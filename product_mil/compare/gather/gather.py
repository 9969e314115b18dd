"""Collect the answers of runs and prediction files to the same labelled products."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from product_mil.compare.answers import Entry, Questions, questions_of, take, with_ids_alike
from product_mil.compare.gather.files import read_answers
from product_mil.compare.gather.headline import all_pairs, headline_of
from product_mil.compare.gather.rules import OWN
from product_mil.compare.gather.sources import SharedImages, Source, answers_of_run, read_file
from product_mil.compare.training.fairness import differing_fields, remarks
from product_mil.ensemble.rule_names import IMAGE_RULES
from product_mil.errors import UserError
from product_mil.runs.lacking import refuse_other_categories
from product_mil.runs.opening import open_run
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.categories import Categories, categories_from_ids
from product_mil.sources.ids import has_id
from product_mil.sources.lookup import rows_of
from product_mil.sources.opening import open_catalogue


@dataclass(frozen=True, eq=False)
class Gathered:
    """Everything that a comparison needs, with remarks on it."""

    questions: Questions
    entries: list[Entry]
    pairs: list[tuple[str, str]]
    headline: tuple[str, str]
    categories: Categories
    catalogue: Catalogue | None  # of --data
    data_rows: Int64[np.ndarray, " N"] | None  # of the catalogue
    differing_fields: dict[str, dict[str, Any]]  # of the runs' configurations
    notes: list[str]
    warnings: list[str]  # which runs have seen some of the products, so that this is no test


def gather(
    runs: Mapping[str, Sequence[Path]],
    files: Mapping[str, Sequence[Path]],
    spec: str | None,
    *,
    checkpoint: Literal["last", "best"] = "last",
    images_per_batch: int | None = None,
    reference: str | None = None,
) -> Gathered:
    """The answers of every run and of every file to the labelled products of `spec`.

    `reference` names the variant or rule that the headline compares with (`headline_of`).

    Raises:
        UserError: runs, files or data cannot be used, or have no labelled product in common; or no
            entry has the name of the reference.
    """
    notes: list[str] = []
    catalogue = records = truth = None
    if spec:
        catalogue = open_catalogue(spec)
        refuse_other_categories(catalogue)
        # If several records have the same id, the first one counts, as in `TrainedRun.products`.
        records = catalogue.first_records()
        truth = questions_of(catalogue, records)
    shared = SharedImages(catalogue)
    sources: dict[str, list[Source]] = {}
    for name, workdirs in runs.items():
        assert spec is not None
        sources[name] = [
            answers_of_run(open_run(workdir, checkpoint), spec, images_per_batch, shared, notes)
            for workdir in workdirs
        ]
    for name, paths in files.items():
        sources[name] = [read_file(path, truth, notes) for path in paths]
        if truth is None:
            truth = _truth_of(paths[0])
    if truth is None:
        raise UserError("no labelled products: give --data")
    configs = {
        name: parts[0].config for name, parts in sources.items() if parts[0].config is not None
    }
    max_images = max((config.data.max_images for config in configs.values()), default=None)
    if max_images is not None and truth.num_images is not None:
        truth = dataclasses.replace(truth, num_images=np.minimum(truth.num_images, max_images))
    shares_image = shared.with_training()
    if shares_image is not None:
        truth = dataclasses.replace(truth, shares_image=shares_image[records])
    rows, places = _matched(truth, sources, notes)
    questions, entries = with_ids_alike(take(truth, rows), _entries(sources, places))
    poolings = {name: parts[0].pooling for name, parts in sources.items()}
    headline = headline_of(poolings, reference)
    differing = differing_fields(configs)
    notes += remarks(differing)
    return Gathered(
        questions=questions,
        entries=entries,
        pairs=all_pairs(entries, headline[1]),
        headline=headline,
        categories=_categories(sources, truth),
        catalogue=catalogue,
        data_rows=records[rows] if records is not None else None,
        differing_fields=differing,
        notes=list(dict.fromkeys(notes)),
        warnings=_no_tests(sources),
    )


def _no_tests(sources: Mapping[str, Sequence[Source]]) -> list[str]:
    """A sentence for each variant that has seen some of the products."""
    found = []
    for name, parts in sources.items():
        known = [source.known for source in parts if source.known is not None]
        worst = max(known, key=lambda one: (one.trained, one.validated), default=None)
        if worst is not None and not worst.is_test:
            found.append(worst.sentence(name))
    return found


def _truth_of(path: Path) -> Questions:
    """The labels that a prediction file holds."""
    questions = read_answers(path, None).questions
    if questions is None:
        raise UserError(f"{path} holds no true categories: give --data with labelled products")
    return questions


def _matched(
    truth: Questions, sources: Mapping[str, Sequence[Source]], notes: list[str]
) -> tuple[Int64[np.ndarray, " N"], dict[str, list[Int64[np.ndarray, " N"]]]]:
    """The rows of `truth` that every source answers, and the rows of these answers by source."""
    usable = has_id(truth.category_id)
    unlabelled = int((~usable).sum())
    if unlabelled:
        notes.append(f"{unlabelled} products have no category: left out")
    found: dict[str, list[np.ndarray]] = {}
    for name, parts in sources.items():
        found[name] = []
        for source in parts:
            place = rows_of(source.product_id, truth.product_id)
            there = (place >= 0) & source.knows[np.maximum(place, 0)]
            lost = int((usable & ~there).sum())
            if lost:
                notes.append(
                    f"{lost} products are not among those of {name}, or their category is not: "
                    "left out"
                )
            usable &= there
            found[name].append(place)
    rows = np.flatnonzero(usable)
    if not len(rows):
        raise UserError(
            "the runs and files have no labelled product in common: check --data, and that all "
            "were made for the same products and categories"
        )
    return rows, {name: [place[rows] for place in places] for name, places in found.items()}


def _entries(
    sources: Mapping[str, Sequence[Source]], places: Mapping[str, Sequence[np.ndarray]]
) -> list[Entry]:
    entries = []
    for name, parts in sources.items():
        for rule in parts[0].answers:
            seeds = tuple(
                take(source.answers[rule], place)
                for source, place in zip(parts, places[name], strict=True)
            )
            own = rule == OWN
            entries.append(
                Entry(
                    name=name if own else f"{name}/{rule}",
                    seeds=seeds,
                    how=parts[0].pooling if own else IMAGE_RULES[rule],
                    rule_of=None if own else name,
                )
            )
    return entries


def _categories(sources: Mapping[str, Sequence[Source]], truth: Questions) -> Categories:
    """The categories of the source with the most classes; the others have a part of them."""
    known = [s.categories for parts in sources.values() for s in parts if s.categories is not None]
    if known:
        return max(known, key=lambda categories: len(categories.ids))
    return categories_from_ids(truth.category_id)
