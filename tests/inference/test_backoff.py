"""Predictions that back off, by hand."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from product_mil.inference.backoff import LEVELS, BackOff, BackOffWriter, LevelCounts, calibrate
from product_mil.inference.calibrate import (
    TEMPERATURES,
    calibrated,
    fit_temperature,
    temperature_between,
)
from product_mil.inference.predictions import PredictionBlock, written_whole
from product_mil.inference.step import nll_under
from product_mil.sources.categories import Categories

NAMES = [["a", "x", "1"], ["b", "z", "2"], ["a", "x", "3"], ["a", "y", 'say "4", please']]
TREE = Categories.from_json(json.dumps({"ids": [10, 20, 30, 40], "names": NAMES}))
PROBABILITIES = np.asarray(
    [
        [0.9, 0.05, 0.03, 0.02],  # a category
        [0.45, 0.05, 0.45, 0.05],  # a group at level 2
        [0.3, 0.1, 0.2, 0.4],  # at level 1
        [0.3, 0.5, 0.1, 0.1],  # nothing
        [0.1, 0.2, 0.1, 0.6],
    ],
    np.float32,
)


def block_of(probabilities: np.ndarray, category: list[int]) -> PredictionBlock:
    n, empty = len(probabilities), np.zeros(0, np.int32)
    return PredictionBlock(
        product_id=np.arange(n) + 100,
        category_id=np.asarray(category),
        has_category=np.asarray(category) != 0,
        log_prob_true=np.zeros(n, np.float32),
        num_images=np.ones(n, np.int32),
        num_readable_images=np.ones(n, np.int32),
        top_class=probabilities.argmax(1)[:, None].astype(np.int32),
        top_probability=probabilities.max(1)[:, None],
        image_index=empty,
        attention=empty.astype(np.float32),
        image_top_class=empty,
        probabilities=probabilities,
    )


def test_levels_and_file_by_hand(tmp_path: Path) -> None:
    writer = BackOffWriter(
        tmp_path / "levels.csv", BackOff(TREE, min_confidence=0.6, temperature=1.0)
    )
    with written_whole([writer]):
        writer.write(block_of(PROBABILITIES[:3], [10, 20, 30]))
        writer.write(block_of(PROBABILITIES[3:], [0, 40]))
    with (tmp_path / "levels.csv").open(newline="", encoding="utf-8") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ["100", "3", "10", "a", "x", "1", "0.900000"],
        ["101", "2", "", "a", "x", "", "0.900000"],
        ["102", "1", "", "a", "", "", "0.900000"],
        ["100", "0", "", "", "", "", "1.000000"],
        ["101", "3", "40", "a", "y", 'say "4", please', "0.600000"],
    ]
    counts = writer.counts
    np.testing.assert_array_equal(counts.products, [1, 1, 1, 2])
    np.testing.assert_array_equal(counts.labelled, [0, 1, 1, 2])
    np.testing.assert_array_equal(counts.right, [0, 1, 0, 2])
    lines = counts.table("title").splitlines()
    assert lines[2].split() == ["3", "(category)", "2", "40.0%", "100.0%", "40.0%", "100.0%"]
    assert lines[3].split() == ["2", "1", "20.0%", "0.0%", "60.0%", "66.7%"]


# Of the leaves of a tree of two branches a node.
FULL = [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.25, 0.25]


@pytest.mark.parametrize(
    ("names", "level_at"),
    [
        # One level: the best class, or nothing.
        ([[leaf] for leaf in "abcdefgh"], {0.2: 1, 0.3: 0}),
        # Two: groups of four classes.
        ([["l" if i < 4 else "r", str(i)] for i in range(8)], {0.2: 2, 0.6: 1, 0.61: 0}),
        # Six, of which the last three levels repeat a name: a group there is its one class.
        (
            [[*format(i, "03b"), *[format(i, "03b")[2]] * 3] for i in range(8)],
            {0.25: 6, 0.5: 2, 0.6: 1, 0.61: 0},
        ),
    ],
)
def test_levels_of_trees_of_other_depths(
    tmp_path: Path, names: list[list[str]], level_at: dict[float, int]
) -> None:
    tree = Categories.from_json(json.dumps({"ids": list(range(8)), "names": names}))
    probabilities = np.asarray([FULL, FULL], np.float32)
    for least, wanted in level_at.items():
        back_off = BackOff(tree, min_confidence=least - 1e-6, temperature=1.0)
        writer = BackOffWriter(tmp_path / "levels.csv", back_off)
        with written_whole([writer]):
            writer.write(block_of(probabilities, [6, 0]))
        header, *rows = csv.reader((tmp_path / "levels.csv").read_text().splitlines())
        depth = len(names[0])
        assert header == [
            "_id", "level", "category_id",
            *[f"category_level{n}" for n in range(1, depth + 1)], "probability",
        ]  # fmt: skip
        shared = names[6][:wanted] + [""] * (depth - wanted)
        of_node = sum(
            p for p, path in zip(FULL, names, strict=True) if path[:wanted] == shared[:wanted]
        )
        category = "6" if wanted == depth else ""
        assert rows[0] == ["100", str(wanted), category, *shared, f"{of_node:.6f}"]
        counts = writer.counts
        assert counts.products.tolist() == [2 * (n == wanted) for n in range(depth + 1)]
        assert counts.labelled.tolist() == [n == wanted for n in range(depth + 1)]
        assert counts.right.tolist() == counts.labelled.tolist()
        lines = counts.table("title").splitlines()
        assert [line.split()[0] for line in lines[2:-1]] == [str(n) for n in range(depth, 0, -1)]
        assert lines[2].split()[1] == "(category)"


def test_a_former_list_of_any_depth_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "levels.csv"
    for names, is_former in (
        (["category_level1"], True),
        ([f"category_level{n}" for n in range(1, 7)], True),
        ([f"category_level{n}" for n in range(1, 8)], False),
        (["category_level2"], False),
    ):
        path.write_text(",".join(["_id", "level", "category_id", *names, "probability"]) + "\n")
        assert LEVELS.is_former(path) == is_former


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_by_hand(temperature: float) -> None:
    """Powers of the probabilities, normalised; not of a product without a readable image."""
    back_off = BackOff(TREE, min_confidence=0.0, temperature=temperature)
    found = back_off.answers(PROBABILITIES, np.asarray([True, True, True, True, False]))
    powers = PROBABILITIES.astype(np.float64) ** (1 / temperature)
    wanted = (powers / powers.sum(1, keepdims=True)).max(1)
    wanted[4] = 0.6
    np.testing.assert_allclose(found.probability, wanted, rtol=1e-6)
    np.testing.assert_array_equal(found.level, 3)


def test_temperature_between_those_that_training_tries() -> None:
    """As exact as fitting it on all probabilities."""
    rng = np.random.default_rng(1)
    for scale in (0.4, 1.0, 2.7):
        logits = rng.normal(scale=2, size=(800, 6))
        label = (logits + rng.gumbel(size=logits.shape)).argmax(1).astype(np.int32)
        log_probs = np.asarray(jax.nn.log_softmax(scale * logits), np.float32)
        tried = nll_under(
            TEMPERATURES, jnp.asarray(log_probs[None]), jnp.asarray(label[None, :, None])
        )
        found = temperature_between(np.asarray(tried)[:, 0])
        assert found == pytest.approx(fit_temperature(log_probs, label), rel=1e-3)
        assert found == pytest.approx(scale, rel=0.15)


def test_temperature_of_a_model_that_is_sure() -> None:
    """Where float32 holds no difference between a probability and 1, it is as exact."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(400, 6))
    label = rng.integers(0, 6, 400).astype(np.int32)
    logits[np.arange(400), label] += rng.uniform(3, 30, 400)
    wrong = slice(0, 4)
    logits[wrong] = np.roll(logits[wrong], 1, axis=1)
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))
    assert (log_probs.max(1) == 0).mean() > 0.2
    tried = nll_under(TEMPERATURES, jnp.asarray(log_probs[None]), jnp.asarray(label[None, :, None]))
    exact = np.asarray([_nll(logits, label, temperature) for temperature in TEMPERATURES])
    np.testing.assert_allclose(np.asarray(tried)[:, 0], exact, rtol=1e-4, atol=1e-30)
    found = temperature_between(np.asarray(tried)[:, 0])
    assert found == pytest.approx(temperature_between(exact), rel=1e-4)
    assert found == pytest.approx(fit_temperature(log_probs, label), rel=1e-2)


def _nll(logits: np.ndarray, label: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    beyond = scaled - np.take_along_axis(scaled, label[:, None], 1)
    np.put_along_axis(beyond, label[:, None], -np.inf, 1)
    return np.log1p(np.exp(beyond).sum(1))


@pytest.mark.parametrize("count", [4, 400])
def test_a_model_without_errors_is_not_taken_for_infallible(count: int) -> None:
    """Its confidence is at most about what so many products can show."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(count, 6))
    label = logits.argmax(1).astype(np.int32)
    logits[np.arange(count), label] += 2
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float32)
    temperature = fit_temperature(log_probs, label)
    seen = np.ones(count, bool)
    confidence = calibrated(np.exp(log_probs), seen, temperature).max(1)
    assert confidence.mean() == pytest.approx(count / (count + 1), abs=0.1 / np.sqrt(count))


def test_calibrated_confidence_is_kept() -> None:
    """Of a model that is too sure the temperature is found, and precision keeps its promise."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=1.5, size=(4000, 4))
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = (truth.cumsum(1) < rng.random((4000, 1))).sum(1)
    sure = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    block = block_of(sure.astype(np.float32), TREE.ids[label].tolist())
    found = calibrate([block], TREE)
    assert found.temperature == pytest.approx(3, rel=0.1)
    back_off, counts = BackOff(TREE, min_confidence=0.8, temperature=found.temperature), None
    counts = LevelCounts(3)
    counts.add(back_off, back_off.answers(found.probabilities, np.ones(4000, bool)), found.label)
    assert counts.right[1:].sum() / counts.labelled[1:].sum() > 0.8
