"""Predictions that back off: a category if that is sure enough, otherwise its group, or nothing.

A catalogue team can use these without checking every product: each answer, at any level of the
tree, is right about as often as its calibrated probability says.
"""

import csv
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from scipy.sparse import csr_array

from product_mil.files.outputs import Kind, csv_with_header
from product_mil.files.whole import Draft
from product_mil.inference.calibrate import (
    TEMPERATURE_PRODUCTS,
    TINY,
    calibrated,
    fit_temperature,
)
from product_mil.inference.predictions import PredictionBlock
from product_mil.sources.categories import MAX_LEVELS, Categories
from product_mil.text import table


def columns_of(depth: int) -> tuple[str, ...]:
    """The columns of the list by level, for a tree of so many levels."""
    levels = (f"category_level{level}" for level in range(1, depth + 1))
    return ("_id", "level", "category_id", *levels, "probability")


_COLUMNS = [columns_of(depth) for depth in range(1, MAX_LEVELS + 1)]
LEVELS = Kind("a list of categories by level", (".csv",), csv_with_header(*_COLUMNS))


class Answers(NamedTuple):
    """One answer for each product, at a level of a tree of L levels.

    Level L is a class, those from L - 1 to 1 are groups, and 0 is the whole tree.
    """

    level: Int32[np.ndarray, " b"]
    node: Int64[np.ndarray, " b"]  # class index, or number of the group at that level; 0 at 0
    probability: Float64[np.ndarray, " b"]  # that the product belongs to the node


class BackOff:
    """Answers for one tree of categories and one temperature.

    `min_confidence` is that of all products, or of each of those that `answers` gets.
    """

    def __init__(
        self,
        categories: Categories,
        *,
        min_confidence: float | Float64[np.ndarray, " b"],
        temperature: float,
    ) -> None:
        self.categories, self.min_confidence = categories, min_confidence
        self.temperature = temperature
        self._groups = [_membership(groups) for groups in categories.groups[:-1]]

    def answers(
        self, probabilities: Float32[np.ndarray, "b k"], seen: Bool[np.ndarray, " b"]
    ) -> Answers:
        """The node with at least `min_confidence` at the deepest level that has one.

        `seen` is as in `calibrated`.
        """
        of_class = calibrated(probabilities, seen, self.temperature)
        level = np.zeros(len(of_class), np.int32)
        node = np.zeros(len(of_class), np.int64)
        probability = np.ones(len(of_class))
        by_level = (*(of_class @ groups for groups in self._groups), of_class)
        for number, sums in enumerate(by_level, 1):
            best, largest = sums.argmax(1), sums.max(1)
            sure = largest >= self.min_confidence
            level[sure], node[sure], probability[sure] = number, best[sure], largest[sure]
        return Answers(level, node, np.minimum(probability, 1))

    def right(self, answers: Answers, label: Int32[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """Whether the class of each product belongs to the node of its answer."""
        true = np.vstack([np.zeros_like(label), self.categories.groups[:, label]])
        return true[answers.level, np.arange(len(label))] == answers.node


def _membership(groups: Int32[np.ndarray, " k"]) -> csr_array:
    """The matrix `[k, g]` that sums the columns of `[b, k]` over groups."""
    k = len(groups)
    shape = (k, int(groups.max()) + 1)
    return csr_array((np.ones(k), (np.arange(k), groups)), shape=shape)


class LevelCounts:
    """The numbers of products, labelled products and right answers at each level, from 0 on."""

    def __init__(self, depth: int) -> None:
        self.products = np.zeros(depth + 1, np.int64)
        self.labelled = np.zeros(depth + 1, np.int64)
        self.right = np.zeros(depth + 1, np.int64)

    def add(self, back_off: BackOff, answers: Answers, label: Int32[np.ndarray, " b"]) -> None:
        """Count answers. A label of -1 is unknown."""
        self.products += self._count(answers.level)
        known = label >= 0
        chosen = Answers(*(values[known] for values in answers))
        self.labelled += self._count(chosen.level)
        right = back_off.right(chosen, label[known])
        self.right += self._count(chosen.level[right])

    def _count(self, level: Int32[np.ndarray, " b"]) -> Int64[np.ndarray, " levels"]:
        return np.bincount(level, minlength=len(self.products))

    def table(self, title: str) -> str:
        """A table of coverage and precision by level, deepest first, with sums from there on."""
        total = max(int(self.products.sum()), 1)
        rows = [("  level", "products", "coverage", "precision", "  down to here: both")]
        depth = len(self.products) - 1
        names = {0: "none sure enough", depth: f"{depth} (category)"}
        for level in range(depth, -1, -1):
            name = names.get(level, str(level))
            own, above = int(self.products[level]), self.products[level:].sum() / total
            precision = _share(self.right[level], self.labelled[level])
            so_far = _share(self.right[level:].sum(), self.labelled[level:].sum())
            if level == 0:
                precision = so_far = "-"
            both = f"  {above:8.1%} {so_far:>9}"
            rows.append((f"  {name}", f"{own}", f"{own / total:.1%}", precision, both))
        return "\n".join([title, *table(rows, ("<19", ">8", ">10", ">11", "<"), gap="")])


def _share(part: np.integer, whole: np.integer) -> str:
    return f"{part / whole:.1%}" if whole else "-"


class Calibration(NamedTuple):
    """A temperature, and the validation products that it was fitted on."""

    temperature: float
    probabilities: Float32[np.ndarray, "N k"]
    label: Int32[np.ndarray, " N"]


def calibrate(blocks: Iterable[PredictionBlock], categories: Categories) -> Calibration:
    """Fit a temperature by the likelihood of labelled products with images (Guo et al. 2017).

    The blocks need all probabilities. Only the first `TEMPERATURE_PRODUCTS` of these products are
    used.
    """
    kept, labels, count = [], [], 0
    for block in blocks:
        assert block.probabilities is not None
        label = _labels(block, categories)
        chosen = (label >= 0) & (block.num_readable_images > 0)
        kept.append(block.probabilities[chosen])
        labels.append(label[chosen])
        count += int(chosen.sum())
        if count >= TEMPERATURE_PRODUCTS:
            break
    probabilities, label = np.concatenate(kept), np.concatenate(labels)
    log_probs = np.log(np.maximum(probabilities, TINY))
    return Calibration(fit_temperature(log_probs, label), probabilities, label)


def _labels(block: PredictionBlock, categories: Categories) -> Int32[np.ndarray, " b"]:
    label = categories.class_of(block.category_id)
    return np.where(block.has_category, label, -1).astype(np.int32)


def calibrated_back_off(
    blocks: Iterable[PredictionBlock], categories: Categories, min_confidence: float
) -> BackOff:
    """Predictions that back off, calibrated on these blocks; their accuracy there is logged."""
    found = calibrate(blocks, categories)
    back_off = BackOff(categories, min_confidence=min_confidence, temperature=found.temperature)
    counts, seen = LevelCounts(categories.depth), np.ones(len(found.label), bool)
    counts.add(back_off, back_off.answers(found.probabilities, seen), found.label)
    title = (
        f"{len(found.label)} validation products, at least {min_confidence:g} sure at "
        f"temperature {found.temperature:.3f}:"
    )
    logging.getLogger(__name__).info("%s", counts.table(title))
    return back_off


class BackOffWriter:
    """Writes a row for each product: level, id (of a category), names and probability of a node."""

    def __init__(self, path: Path, back_off: BackOff) -> None:
        """Open the file; raises OSError if it cannot be made."""
        draft = Draft(path, LEVELS)
        self.drafts = [draft]
        depth = back_off.categories.depth
        self.counts = LevelCounts(depth)
        self._back_off = back_off
        self._file = draft.file
        self._file.write((",".join(columns_of(depth)) + "\n").encode())
        self._names = node_names(back_off.categories)

    def write(self, block: PredictionBlock) -> None:
        """Append a block, which must have all probabilities."""
        assert block.probabilities is not None
        categories = self._back_off.categories
        answers = self._back_off.answers(block.probabilities, block.num_readable_images > 0)
        self.counts.add(self._back_off, answers, _labels(block, categories))
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        columns = (values.tolist() for values in (block.product_id, *answers))
        for product_id, level, node, probability in zip(*columns, strict=True):
            category = categories.ids[node] if level == categories.depth else ""
            names = self._names[level][node]
            rows.writerow([product_id, level, category, *names, f"{probability:.6f}"])
        self._file.write(text.getvalue().encode())

    def close(self) -> None:
        """Nothing is left to write."""


def node_names(categories: Categories) -> list[list[tuple[str, ...]]]:
    """The names of the nodes of each level, from the root to the classes.

    A node has a name for each level of the tree; those of levels below it are empty.
    """
    found = []
    root = np.zeros_like(categories.groups[:1])
    for level, groups in enumerate(np.vstack([root, categories.groups])):
        _, first = np.unique(groups, return_index=True)
        below = ("",) * (categories.depth - level)
        found.append([categories.names[k][:level] + below for k in first.tolist()])
    return found
