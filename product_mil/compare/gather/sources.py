"""The answers of one run or one prediction file, before products are matched."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from product_mil.compare.answers import Answers, Questions
from product_mil.compare.gather.files import AnswerFile, is_parquet, read_answers
from product_mil.compare.gather.rules import (
    OWN,
    answers_of,
    fit_temperatures,
    make_log_probs_step,
    make_score_step,
)
from product_mil.compare.page.gallery import DETAIL_COLUMNS, Detail, details_in, details_of
from product_mil.config import Config
from product_mil.data.products import Products
from product_mil.ensemble.rule_names import IMAGE_RULES
from product_mil.inference.calibrate import TEMPERATURE_PRODUCTS
from product_mil.inference.metrics import scores_in_place
from product_mil.inference.stream import predict_products, watched
from product_mil.inference.top_classes import read_predictions
from product_mil.model.registry import head
from product_mil.runs.data import RunData
from product_mil.runs.known_products import Known, Shown, known_to_file, shown_by
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.categories import Categories
from product_mil.sources.ids import Ids

_MAX_LOG_PROBS_BYTES = 1_000_000_000  # held while temperatures are fitted
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Source:
    """The answers of a run or a file, before products are matched."""

    product_id: Ids[np.ndarray, " N"]
    answers: dict[str, Answers]  # by rule; those of the source itself under `OWN`
    knows: Bool[np.ndarray, " N"]  # whether the product's category is a class of the source
    categories: Categories | None
    pooling: str
    config: Config | None = None
    known: Known | None = None  # how many of the products the run has seen


class SharedImages:
    """Which products of the compared data share an image with the training data of runs.

    The search is made once for each set of training data, since several runs may share it.
    """

    def __init__(self, catalogue: Catalogue | None) -> None:
        self._catalogue = catalogue
        self._found: dict[int, tuple[RunData, Shown]] = {}  # the data stay, and so does their id

    def with_data(self, data: RunData) -> Shown | None:
        """Which products show an image of a run's data; None where there is no catalogue."""
        if self._catalogue is None:
            return None
        if id(data) not in self._found:
            self._found[id(data)] = data, shown_by(data, self._catalogue)
        return self._found[id(data)][1]

    def with_training(self) -> Bool[np.ndarray, " N"] | None:
        """Which products show a training image of any run so far; None before the first run."""
        trained = [shown.trained for _, shown in self._found.values()]
        return np.logical_or.reduce(trained) if trained else None


def answers_of_run(
    run: TrainedRun, spec: str, images_per_batch: int | None, shared: SharedImages, notes: list[str]
) -> Source:
    """The answers of a run and, if it averages probabilities, those of every other rule."""
    _LOGGER.info("%s", run.summary)
    with_rules = head(run.config.model.pooling).averages
    products = run.products(spec)
    temperatures = None
    data, missing = run.data()
    shown = None
    if data is not None:
        shown = shared.with_data(data)
        temperatures = _temperatures(run, data.valid, with_rules, images_per_batch)
    else:
        notes.append(
            f"{run.workdir}: without the data that it was trained on ({missing}) no temperature is "
            "fitted and no product known to share an image with training"
        )
    step = make_score_step(run.model.structure, with_rules=with_rules)
    scales = np.asarray(temperatures or [1.0] * (1 + with_rules * len(IMAGE_RULES)), np.float32)
    scores = scores_in_place(
        len(products),
        watched(run.batches(products, images_per_batch), products),
        run.bound(step, scales),
        run.mesh,
    )
    return Source(
        product_id=np.asarray(products.catalogue.product_id)[products.product_rows],
        answers=answers_of(scores, run.categories, temperatures),
        knows=products.labels >= 0,
        categories=run.categories,
        pooling=run.config.model.pooling,
        config=run.config,
        known=run.known(products, shown),
    )


def _temperatures(
    run: TrainedRun, valid: Products, with_rules: bool, images_per_batch: int | None
) -> list[float]:
    """A temperature for each rule, fitted on the run's validation products.

    Where these are many, a random part of them is used.
    """
    usable = np.flatnonzero((valid.labels >= 0) & (valid.num_images > 0))
    bytes_a_product = 4 * len(run.categories.ids) * (1 + with_rules * len(IMAGE_RULES))
    count = min(len(usable), TEMPERATURE_PRODUCTS, _MAX_LOG_PROBS_BYTES // bytes_a_product)
    keep = np.zeros(len(valid), bool)
    keep[np.random.default_rng(0).choice(usable, count, replace=False)] = True
    chosen = valid.subset(keep)
    step = make_log_probs_step(run.model.structure, with_rules=with_rules)
    return fit_temperatures(
        chosen.labels,
        run.batches(chosen, images_per_batch),
        run.model.bound(step),
        run.mesh,
    )


def read_file(path: Path, truth: Questions | None, notes: list[str]) -> Source:
    """The answers of a prediction file.

    Raises:
        UserError: the file is absent or damaged, or does not fit `truth`.
    """
    file: AnswerFile = read_answers(path, truth)
    notes.append(f"{path}: no {file.left_out}")
    knows = np.ones(len(file.product_id), bool)
    if file.questions is not None and file.categories is not None:
        knows &= file.categories.class_of(file.questions.category_id) >= 0
    if file.answers.log_prob_true is not None:
        knows &= ~np.isnan(file.answers.log_prob_true)
    return Source(
        file.product_id,
        {OWN: file.answers},
        knows,
        file.categories,
        "from a file",
        known=known_to_file(file.run, file.product_id),
    )


def run_details(
    workdir: Path,
    checkpoint: Literal["last", "best"],
    spec: str,
    rows: Int64[np.ndarray, " r"],
) -> list[Detail]:
    """What the run in `workdir` says of the products in these rows of the data, in their order."""
    run = open_run(workdir, checkpoint)
    products = run.products(spec)
    chosen = products.subset(np.isin(products.product_rows, rows))
    classes = run.categories.ids
    blocks = predict_products(chosen, run.batches(chosen), run.predict_step(topk=5), run.mesh)
    # `rows` is ascending, as the subset is.
    return [detail for block, _ in blocks for detail in details_of(block, classes)]


def file_details(path: Path, product_ids: Ids[np.ndarray, " r"]) -> list[Detail] | None:
    """What a prediction file says of some products; None if it only holds a guess for each."""
    if not is_parquet(path):
        return None
    return details_in(read_predictions(path, DETAIL_COLUMNS), product_ids)
