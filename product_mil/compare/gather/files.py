"""Answers from prediction files, as far as each kind of file has them."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32
from pyarrow import csv as pa_csv

from product_mil.compare.answers import Answers, Questions
from product_mil.ensemble.files import read_array
from product_mil.errors import UserError
from product_mil.files.foreign import SUBMISSION, kind_of_file, refuse_foreign
from product_mil.inference.matrix import matrix_files, read_description
from product_mil.inference.soundness import refuse_repeated, refuse_unsound
from product_mil.inference.top_classes import PredictionFile, read_predictions
from product_mil.sources.categories import Categories
from product_mil.sources.ids import Ids, alike, has_id, ids_from_text, joined, no_ids
from product_mil.sources.lookup import rows_of

_ROWS = 4096  # rows of a matrix that are read at once
_COLUMNS = (
    "product_id",
    "category_id",
    "log_prob_true",
    "num_images",
    "top_category_id",
    "top_probability",
    "remaining_probability",
)


@dataclass(frozen=True, eq=False)
class AnswerFile:
    """The answers in a prediction file with the ids of their products, and labels if it has any."""

    path: Path
    product_id: Ids[np.ndarray, " N"]
    answers: Answers
    questions: Questions | None  # of the same products, without a category where unlabelled
    categories: Categories | None
    left_out: str  # in words, what cannot be compared
    run: dict[str, Any] = field(default_factory=dict)  # the file's description of its run


def read_answers(path: Path, truth: Questions | None) -> AnswerFile:
    """Read the answers in a Parquet file, a full matrix or a submission.

    `truth` gives the labels, by product id. Without it they come from the file.

    Raises:
        UserError: the file is absent, damaged or of no known kind, or it needs labels.
    """
    if _is_matrix(path):
        return _from_matrix(path, truth)
    if is_parquet(path):
        return _from_parquet(path, truth)
    ids, guess = _submission(path)
    left_out = "top-5, likelihood, calibration, other rules and attention (it holds one guess each)"
    return AnswerFile(path, ids, Answers(guess), None, None, left_out)


def is_parquet(path: Path) -> bool:
    """Whether this is a Parquet file, by its name or by its first bytes."""
    if path.suffix.lower() == ".parquet":
        return True
    try:
        kind = kind_of_file(path)  # of a pipe, nothing is read
    except OSError:
        return False
    return kind is not None and kind.group == "parquet"


def _is_matrix(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".npy"


def _labels(product_id: Ids[np.ndarray, " N"], truth: Questions) -> Ids[np.ndarray, " N"]:
    """The true category of each product, and no id where `truth` lacks it."""
    return joined([truth.category_id, no_ids(1)])[rows_of(truth.product_id, product_id)]


def _from_parquet(path: Path, truth: Questions | None) -> AnswerFile:
    file = read_predictions(path, _COLUMNS)
    product_id, category = file.ids("product_id"), file.ids("category_id")
    refuse_repeated(path, "product", product_id)
    if truth is not None:
        category = _labels(product_id, truth)
    try:
        categories = Categories.from_json(file.categories_json)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not say its categories ({error}); export it again") from None
    top, probability = file.ids("top_category_id"), file.column("top_probability")
    total = probability.sum(1, dtype=np.float64) + file.column("remaining_probability")
    refuse_unsound(path, product_id, probability.min(1), total)
    log_prob_true = _log_prob_of(file, categories.class_of(category), categories)
    top, category = alike(top, category)
    questions = Questions(product_id, category, file.column("num_images"))
    answers = Answers(
        guess=top[:, 0].copy(),
        in_top5=(top[:, :5] == category[:, None]).any(1) if top.shape[1] >= 5 else None,
        confidence=probability[:, 0].copy(),
        log_prob_true=log_prob_true,
    )
    left_out = "temperature and other rules (they need the run's validation products and images)"
    if log_prob_true is None:
        kept = f"it keeps {top.shape[1]} classes, and was made without these labels"
        left_out = f"likelihood ({kept}), {left_out}"
    if top.shape[1] < 5:
        left_out = f"top-5 (it keeps {top.shape[1]} classes), {left_out}"
    return AnswerFile(path, product_id, answers, questions, categories, left_out, file.run)


def _log_prob_of(
    file: PredictionFile, label: Int32[np.ndarray, " N"], categories: Categories
) -> Float32[np.ndarray, " N"] | None:
    """The log-probability of each product's class; NaN where the run lacks the category.

    The file has it for the labels that were known when it was made. For other labels it is that of
    the class among the top classes. None if a class is not among them.
    """
    own = categories.class_of(file.ids("category_id"))
    found = np.where(own == label, file.column("log_prob_true"), np.nan).astype(np.float32)
    top = file.ids("top_category_id")
    same = categories.class_of(top.reshape(-1)).reshape(top.shape) == label[:, None]
    rows = np.flatnonzero(np.isnan(found) & (label >= 0))
    if not same[rows].any(1).all():
        return None
    probability = file.column("top_probability")[rows, same[rows].argmax(1)]
    found[rows] = np.log(np.maximum(probability, np.finfo(np.float32).tiny))
    return found


def _from_matrix(path: Path, truth: Questions | None) -> AnswerFile:
    if truth is None:
        raise UserError(f"{path} holds no true categories: give --data with labelled products")
    matrix_path, ids_path, columns_path, about_path = matrix_files(path)
    matrix, ids, columns = read_array(matrix_path), read_array(ids_path), read_array(columns_path)
    if matrix.shape != (len(ids), len(columns)):
        raise UserError(
            f"{matrix_path} is {matrix.shape}, but has {len(ids)} ids and {len(columns)} categories"
        )
    about = read_description(about_path)
    categories = Categories.from_json(json.dumps(about["categories"]))
    if not np.array_equal(columns, categories.ids):
        raise UserError(
            f"{columns_path} and {about_path} name other categories, or in another order; make "
            "them again"
        )
    category = _labels(ids, truth)
    label = categories.class_of(category)
    refuse_repeated(path, "product", ids)
    parts = list(_blocks(path, matrix, ids, label))
    guess, in_top5, confidence, of_label = (
        np.concatenate([part[i] for part in parts]) for i in range(4)
    )
    log_prob = np.log(np.maximum(of_label, np.finfo(np.float32).tiny))
    log_prob[label < 0] = np.nan  # the matrix lacks this category, so it is not compared
    answers = Answers(columns[guess], in_top5, confidence, log_prob)
    left_out = "temperature, other rules and attention (it holds no images)"
    run = about.get("run") or {}
    return AnswerFile(path, ids, answers, None, categories, left_out, run)


def _blocks(
    path: Path, matrix: np.ndarray, ids: np.ndarray, label: np.ndarray
) -> Iterator[tuple[np.ndarray, ...]]:
    """For each block of rows: guess, in top 5 or not, confidence, probability of the label."""
    for first in range(0, len(matrix), _ROWS):
        rows = np.asarray(matrix[first : first + _ROWS])
        refuse_unsound(path, ids[first : first + _ROWS], rows.min(1), rows.sum(1))
        true = label[first : first + _ROWS]
        of_label = rows[np.arange(len(rows)), np.maximum(true, 0)]
        # The rank of the label; among equal values the lower class comes first, as in `largest`.
        before = (rows > of_label[:, None]).sum(1)
        earlier = np.arange(rows.shape[1]) < true[:, None]
        rank = before + ((rows == of_label[:, None]) & earlier).sum(1)
        yield rows.argmax(1), (rank < 5) & (true >= 0), rows.max(1), of_label


def _submission(path: Path) -> tuple[Ids[np.ndarray, " N"], Ids[np.ndarray, " N"]]:
    """Product and category ids of a CSV file `_id,category_id`, compressed or not."""
    refuse_foreign(path, SUBMISSION)
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            header = next(csv.reader(file), [])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if header != ["_id", "category_id"]:
        raise UserError(
            f"{path} is no prediction file: expected .parquet, .npy, the directory of a matrix, or "
            "a CSV with the header _id,category_id"
        )
    try:
        table = pa_csv.read_csv(
            path,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string())),
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {path}: {error}; export the predictions again") from None
    if not len(table):
        raise UserError(f"{path} holds no product; export the predictions again")
    ids, guess = (ids_from_text(table[name].to_pylist()) for name in header)
    empty = np.flatnonzero(~(has_id(ids) & has_id(guess)))
    if len(empty):
        raise UserError(f"{path}, row {empty[0] + 1}: an id is empty; export the predictions again")
    refuse_repeated(path, "product", ids)
    return ids, guess
