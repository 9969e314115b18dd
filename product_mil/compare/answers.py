"""Labelled products and a model's answers to them, as columns over products."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from product_mil.sources.catalogue import Catalogue
from product_mil.sources.ids import Ids, as_text, is_text


@dataclass(frozen=True, eq=False)
class Questions:
    """N labelled products."""

    product_id: Ids[np.ndarray, " N"]
    category_id: Ids[np.ndarray, " N"]  # the true one
    num_images: Int32[np.ndarray, " N"] | None  # in the record, at most as many as are used
    shares_image: Bool[np.ndarray, " N"] | None = None  # with a training product

    def __len__(self) -> int:
        return len(self.product_id)


def questions_of(catalogue: Catalogue, product_rows: Int64[np.ndarray, " N"]) -> Questions:
    """The products in these rows of a catalogue, with what it says of them."""
    return Questions(
        np.asarray(catalogue.product_id)[product_rows],
        np.asarray(catalogue.category_id)[product_rows],
        np.asarray(catalogue.num_images)[product_rows].astype(np.int32),
    )


@dataclass(frozen=True, eq=False)
class Answers:
    """What one trained model says of N products."""

    guess: Ids[np.ndarray, " N"]  # category id
    in_top5: Bool[np.ndarray, " N"] | None = None
    confidence: Float32[np.ndarray, " N"] | None = None  # probability of the guess
    log_prob_true: Float32[np.ndarray, " N"] | None = None
    temperature: float | None = None  # fitted on the run's own validation products
    calibrated_confidence: Float32[np.ndarray, " N"] | None = None  # after the temperature
    calibrated_log_prob_true: Float32[np.ndarray, " N"] | None = None


Columns = TypeVar("Columns", Questions, Answers)


def take(columns: Columns, rows: Int64[np.ndarray, " r"]) -> Columns:
    """The columns of the products in these rows, in their order."""
    chosen: dict[str, Any] = {}
    for field in fields(columns):
        value = getattr(columns, field.name)
        chosen[field.name] = value[rows] if isinstance(value, np.ndarray) else value
    return replace(columns, **chosen)


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of a comparison: a variant or one of its rules, with the answers of each seed."""

    name: str
    seeds: tuple[Answers, ...]
    how: str  # in words: its pooling, or its rule
    rule_of: str | None = None  # a rule fuses the probabilities of this run's images in another way


def with_ids_alike(questions: Questions, entries: Sequence[Entry]) -> tuple[Questions, list[Entry]]:
    """The same, with all category ids as text if any of them are, so that they can be compared."""
    guesses = [answers.guess for entry in entries for answers in entry.seeds]
    if not any(map(is_text, [questions.category_id, *guesses])):
        return questions, list(entries)

    def spelled(answers: Answers) -> Answers:
        return replace(answers, guess=as_text(answers.guess))

    return (
        replace(questions, category_id=as_text(questions.category_id)),
        [replace(entry, seeds=tuple(map(spelled, entry.seeds))) for entry in entries],
    )
