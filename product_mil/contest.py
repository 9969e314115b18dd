"""Runs and prediction files, brought to answer the same labelled products."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64
from tqdm import tqdm

from product_mil.build.data import RunData, build_data, data_config
from product_mil.compare.answers import Answers, Contestant, Questions, take
from product_mil.compare.files import AnswerFile, read_answers
from product_mil.compare.gallery import DETAIL_COLUMNS, Detail, details_in, details_of
from product_mil.compare.rules import (
    OWN,
    RULES,
    TEMPERATURE_PRODUCTS,
    answers_of,
    fit_temperatures,
    judge_products,
    make_judge_step,
    make_log_probs_step,
)
from product_mil.config import Config, flatten_dict
from product_mil.data.categories import Categories, categories_from_ids
from product_mil.data.duplicates import sharing_products
from product_mil.data.index import NO_CATEGORY, Catalogue, open_catalogue
from product_mil.data.loader import Loaded, Products
from product_mil.errors import UserError
from product_mil.predict import predict_products
from product_mil.predictions import read_predictions
from product_mil.train.step import make_predict_step
from product_mil.trained import TrainedRun, open_run

_FREE = ("name", "seed", "data.threads", "checkpoint_every_s")  # may differ in a fair comparison
_FAIR = ("model.pooling",)  # has to
_MAX_LOG_PROBS_BYTES = 1_000_000_000  # held while temperatures are fitted


@dataclass(frozen=True, eq=False)
class Contest:
    """Everything that the comparison needs, and what is worth saying of it."""

    questions: Questions
    contestants: list[Contestant]
    pairs: list[tuple[str, str]]
    headline: tuple[str, str]
    categories: Categories
    catalogue: Catalogue | None  # of --data
    data_rows: Int64[np.ndarray, " N"] | None  # of the catalogue
    differing_fields: dict[str, dict[str, Any]]  # of the runs' configurations
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Source:
    """What a run or a file answers, before products are matched."""

    product_id: Int64[np.ndarray, " N"]
    answers: dict[str, Answers]  # the source's own under `OWN`, and of its rules
    knows: Bool[np.ndarray, " N"]  # the product has a category, and it is one of the source's
    categories: Categories | None
    pooling: str
    config: Config | None = None


def gather(
    runs: Mapping[str, Sequence[Path]],
    files: Mapping[str, Sequence[Path]],
    spec: str | None,
    *,
    checkpoint: Literal["last", "best"] = "last",
    images_per_batch: int = 256,
) -> Contest:
    """Judge every run and read every file on the labelled products of `spec`.

    Raises:
        UserError: runs, files or data that cannot be used, or have no labelled product in common.
    """
    notes: list[str] = []
    catalogue = open_catalogue(spec) if spec else None
    # Of several records with one id the first one counts, as in `TrainedRun.products`.
    records = catalogue.first_records() if catalogue is not None else None
    truth = _truth(catalogue, records) if catalogue is not None and records is not None else None
    shared = _SharedImages(catalogue)
    sources: dict[str, list[_Source]] = {}
    for name, workdirs in runs.items():
        assert spec is not None
        sources[name] = [
            _judge(open_run(workdir, checkpoint), spec, images_per_batch, shared, notes)
            for workdir in workdirs
        ]
    for name, paths in files.items():
        sources[name] = [_read(path, truth, notes) for path in paths]
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
    if shared.found is not None:
        truth = dataclasses.replace(truth, shares_image=shared.found[records])
    rows, places = _matched(truth, sources, notes)
    contestants = _contestants(sources, places)
    names = list(sources)
    poolings = {name: parts[0].pooling for name, parts in sources.items()}
    headline = _headline(poolings)
    differing = differing_fields(configs)
    notes += _remarks(differing)
    return Contest(
        questions=take(truth, rows),
        contestants=contestants,
        pairs=_pairs(names, headline, contestants),
        headline=headline,
        categories=_categories(sources, truth),
        catalogue=catalogue,
        data_rows=records[rows] if records is not None else None,
        differing_fields=differing,
        notes=list(dict.fromkeys(notes)),
    )


def _truth(catalogue: Catalogue, rows: Int64[np.ndarray, " r"]) -> Questions:
    return Questions(
        np.asarray(catalogue.product_id)[rows],
        np.asarray(catalogue.category_id)[rows],
        np.asarray(catalogue.num_images)[rows].astype(np.int32),
    )


def _truth_of(path: Path) -> Questions:
    """The labels that a prediction file holds."""
    questions = read_answers(path, None).questions
    if questions is None:
        raise UserError(f"{path} holds no true categories: give --data with labelled products")
    return questions


class _SharedImages:
    """Which products of the data share an image with what some run was trained on."""

    def __init__(self, catalogue: Catalogue | None) -> None:
        self._catalogue = catalogue
        self._seen: set[int] = set()
        self.found: Bool[np.ndarray, " N"] | None = None

    def add(self, data: RunData) -> None:
        """Count the training products of a run, once."""
        catalogue = self._catalogue
        if catalogue is None or id(data) in self._seen:
            return
        self._seen.add(id(data))
        rows = np.arange(catalogue.num_products)
        found = sharing_products(data.train.catalogue, data.train.rows, catalogue, rows)
        self.found = found if self.found is None else self.found | found

    def same_data(self, products: Products) -> bool:
        """Whether these are products of the very data that is compared on."""
        catalogue = self._catalogue
        return catalogue is not None and products.catalogue.fingerprint == catalogue.fingerprint


def _run_data(run: TrainedRun, notes: list[str]) -> RunData | None:
    """The training and validation products of a run; None, with a note, where they are gone."""
    missing = ""
    try:
        found = _data_of(data_config(run.config))
    except UserError as error:
        found, missing = None, str(error)
    if found is not None and found.fingerprint != run.record["data_fingerprint"]:
        found, missing = None, "its files changed since"
    if found is None:
        notes.append(
            f"{run.workdir}: without the data that it was trained on ({missing}) no temperature is "
            "fitted and no product known to share an image with training"
        )
    return found


_data_of = functools.lru_cache(maxsize=8)(build_data)  # read once for all runs


def _judge(
    run: TrainedRun, spec: str, images_per_batch: int, shared: _SharedImages, notes: list[str]
) -> _Source:
    """The run's own answers and, if it averages probabilities, those of every other rule."""
    print(run.summary, flush=True)
    with_rules = run.config.model.pooling == "probabilities"
    products = run.products(spec)
    arrays = (run.model.parameters, run.model.statistics)
    temperatures = None
    data = _run_data(run, notes)
    if data is not None:
        shared.add(data)
        temperatures = _temperatures(run, data.valid, with_rules, images_per_batch)
        if shared.same_data(data.valid):
            notes.append(
                "the data compared is what runs were validated on: whatever they chose there "
                "(temperature, trust in a correction, early stopping) is flattered a little"
            )
    step = make_judge_step(run.model.structure, with_rules=with_rules)
    scales = np.asarray(temperatures or [1.0] * (1 + with_rules * len(RULES)), np.float32)
    judged = judge_products(
        len(products),
        watched(run.batches(products, images_per_batch), int(products.num_images.sum())),
        lambda batch: step(*arrays, batch, run.log_prior, scales),
        run.mesh,
    )
    return _Source(
        product_id=np.asarray(products.catalogue.product_id)[products.rows],
        answers=answers_of(judged, run.categories, temperatures),
        knows=products.labels >= 0,
        categories=run.categories,
        pooling=run.config.model.pooling,
        config=run.config,
    )


def _temperatures(
    run: TrainedRun, valid: Products, with_rules: bool, images_per_batch: int
) -> list[float]:
    """Fitted on validation products of the run, or a random part of them."""
    usable = np.flatnonzero((valid.labels >= 0) & (valid.num_images > 0))
    bytes_a_product = 4 * len(run.categories.ids) * (1 + with_rules * len(RULES))
    count = min(len(usable), TEMPERATURE_PRODUCTS, _MAX_LOG_PROBS_BYTES // bytes_a_product)
    keep = np.zeros(len(valid), bool)
    keep[np.random.default_rng(0).choice(usable, count, replace=False)] = True
    chosen = valid.subset(keep)
    step = make_log_probs_step(run.model.structure, with_rules=with_rules)
    return fit_temperatures(
        chosen.labels,
        run.batches(chosen, images_per_batch),
        lambda batch: step(run.model.parameters, run.model.statistics, batch),
        run.mesh,
    )


def watched(batches: Iterator[Loaded], num_images: int) -> Iterator[Loaded]:
    """The same batches under a progress bar."""
    with tqdm(total=num_images, unit=" images", unit_scale=True, disable=None) as bar:
        for loaded in batches:
            yield loaded
            bar.update(int((loaded.batch.slots.segment < loaded.batch.slots.label.shape[1]).sum()))


def _read(path: Path, truth: Questions | None, notes: list[str]) -> _Source:
    file: AnswerFile = read_answers(path, truth)
    notes.append(f"{path}: no {file.left_out}")
    knows = np.ones(len(file.product_id), bool)
    if file.questions is not None:
        knows &= file.questions.category_id != NO_CATEGORY
    if file.answers.log_prob_true is not None:
        knows &= ~np.isnan(file.answers.log_prob_true)
    return _Source(file.product_id, {OWN: file.answers}, knows, file.categories, "from a file")


def _matched(
    truth: Questions, sources: Mapping[str, Sequence[_Source]], notes: list[str]
) -> tuple[Int64[np.ndarray, " N"], dict[str, list[Int64[np.ndarray, " N"]]]]:
    """Rows of `truth` that everybody answers, and where in each source their answers lie."""
    usable = truth.category_id != NO_CATEGORY
    unlabelled = int((~usable).sum())
    if unlabelled:
        notes.append(f"{unlabelled} products have no category: left out")
    found: dict[str, list[np.ndarray]] = {}
    for name, parts in sources.items():
        found[name] = []
        for source in parts:
            place = _places(source.product_id, truth.product_id)
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


def _places(
    there: Int64[np.ndarray, " M"], wanted: Int64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Where each wanted id first stands; -1 where nowhere."""
    if np.array_equal(there, wanted):
        return np.arange(len(wanted))
    order = np.argsort(there, kind="stable")
    place = np.searchsorted(there, wanted, sorter=order)
    found = order[np.minimum(place, len(order) - 1)]
    return np.where(there[found] == wanted, found, -1)


def _contestants(
    sources: Mapping[str, Sequence[_Source]], places: Mapping[str, Sequence[np.ndarray]]
) -> list[Contestant]:
    contestants = []
    for name, parts in sources.items():
        for rule in parts[0].answers:
            seeds = tuple(
                take(source.answers[rule], place)
                for source, place in zip(parts, places[name], strict=True)
            )
            own = rule == OWN
            contestants.append(
                Contestant(
                    name=name if own else f"{name}/{rule}",
                    seeds=seeds,
                    how=parts[0].pooling if own else RULES[rule],
                    rule_of=None if own else name,
                )
            )
    return contestants


def _headline(poolings: Mapping[str, str]) -> tuple[str, str]:
    """The first variant against the averaging one (the last such), or against the last."""
    averaging = [name for name, pooling in poolings.items() if pooling == "probabilities"]
    reference = averaging[-1] if averaging else list(poolings)[-1]
    return next(name for name in poolings if name != reference), reference


def _pairs(
    names: Sequence[str], headline: tuple[str, str], contestants: Sequence[Contestant]
) -> list[tuple[str, str]]:
    """Variants in their order, each against the later ones and against all rules."""
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    if headline not in pairs:
        pairs.append(headline)
    for rule in contestants:
        if rule.rule_of is not None:
            pairs.append((rule.name, rule.rule_of))
            pairs += [(name, rule.name) for name in names if name != rule.rule_of]
    return pairs


def _categories(sources: Mapping[str, Sequence[_Source]], truth: Questions) -> Categories:
    """The tree with the most classes; the others know a part of it."""
    known = [s.categories for parts in sources.values() for s in parts if s.categories is not None]
    if known:
        return max(known, key=lambda categories: len(categories.ids))
    return categories_from_ids(truth.category_id)


def differing_fields(configs: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """Fields of the configurations that are not the same in all, but for name and seed."""
    flat = {name: flatten_dict(config.to_dict()) for name, config in configs.items()}
    keys = sorted({key for fields in flat.values() for key in fields} - set(_FREE))
    found = {key: {name: fields.get(key) for name, fields in flat.items()} for key in keys}
    return {key: values for key, values in found.items() if len(set(map(str, values.values()))) > 1}


def unfair_fields(differing: Mapping[str, Any]) -> list[str]:
    """Those that may not differ where the pooling alone is to be compared."""
    return [key for key in differing if key not in _FAIR]


def _remarks(differing: Mapping[str, Any]) -> list[str]:
    unfair = unfair_fields(differing)
    if not unfair:
        return []
    return [
        "not like for like: besides the pooling the runs differ in "
        + ", ".join(f"config.{key}" for key in unfair)
    ]


def run_details(
    workdir: Path,
    checkpoint: Literal["last", "best"],
    spec: str,
    rows: Int64[np.ndarray, " r"],
) -> list[Detail]:
    """What the run in `workdir` says of the products in these rows of the data, in their order."""
    run = open_run(workdir, checkpoint)
    products = run.products(spec)
    chosen = products.subset(np.isin(products.rows, rows))
    classes = run.categories.ids
    step = make_predict_step(run.model.structure, topk=min(5, len(classes)), keep_all=False)
    blocks = predict_products(
        chosen,
        run.batches(chosen, 256),
        lambda batch: step(run.model.parameters, run.model.statistics, batch, run.log_prior),
        run.mesh,
    )
    # `rows` is ascending, as the subset is.
    return [detail for block, _ in blocks for detail in details_of(block, classes)]


def file_details(path: Path, product_ids: Int64[np.ndarray, " r"]) -> list[Detail] | None:
    """What a prediction file says of some products; None where it holds one guess each."""
    if path.suffix != ".parquet":
        return None
    return details_in(read_predictions(path, DETAIL_COLUMNS), product_ids)
