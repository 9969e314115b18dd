from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from product_mil.batch import Slots
from product_mil.compare.gather.rules import (
    NO_LIKELIHOOD,
    OWN,
    RuleScores,
    answers_of,
    rule_logits,
)
from product_mil.ensemble.rule_names import IMAGE_RULES
from product_mil.inference.calibrate import fit_temperature
from product_mil.sources.categories import categories_from_ids


def test_rules_by_hand() -> None:
    """Three products in two shards: two images, one, and three whose first is missing."""
    p = np.array(
        [
            [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [9.0, 9.0, 9.0]],
            [[0.5, 0.4, 0.1], [0.3, 0.4, 0.3], [0.1, 0.45, 0.45], [9.0, 9.0, 9.0]],
        ],
        np.float32,
    )
    slots = Slots(
        segment=np.array([[0, 0, 1, 2], [0, 0, 0, 2]], np.int32),
        position=np.array([[0, 1, 0, 0], [3, 1, 2, 0]], np.int32),
        label=np.zeros((2, 2), np.int32),
    )
    found = jax.jit(rule_logits)(jnp.log(p), slots)
    assert set(found) == set(IMAGE_RULES)
    a, b, c = p[0, :2], p[0, 2:3], p[1, :3]

    def check(rule: str, expected: Any) -> None:
        got = np.stack([found[rule][0, 0], found[rule][0, 1], found[rule][1, 0]])
        np.testing.assert_allclose(got, np.stack([expected(x) for x in (a, b, c)]), atol=1e-5)

    check("geometric_mean", lambda x: np.log(x).mean(0))
    check("maximum", lambda x: np.log(x).max(0))
    check("vote", lambda x: np.bincount(x.argmax(1), minlength=3) + x.mean(0) / 2)
    np.testing.assert_allclose(found["first_image"][0, 0], np.log(a[0]), atol=1e-5)
    np.testing.assert_allclose(found["first_image"][1, 0], np.log(c[1]), atol=1e-5)


def test_a_tied_vote_goes_to_the_higher_mean() -> None:
    probabilities = np.array([[[0.6, 0.4, 0.0], [0.0, 0.9, 0.1]]], np.float32) + 1e-9
    slots = Slots(
        segment=np.zeros((1, 2), np.int32),
        position=np.array([[0, 1]], np.int32),
        label=np.zeros((1, 1), np.int32),
    )
    found = jax.jit(rule_logits)(jnp.log(probabilities), slots)
    assert found["vote"][0, 0].argmax() == 1


def test_temperature_finds_the_one_that_was_put_in() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 7)).astype(np.float64) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = (probabilities.cumsum(1) > rng.random((4000, 1))).argmax(1)
    log_probs = logits * 2.5  # too sure by this factor
    log_probs = (log_probs - np.log(np.exp(log_probs).sum(1, keepdims=True))).astype(np.float32)
    found = fit_temperature(log_probs, label)
    assert found == pytest.approx(2.5, rel=0.05)

    def nll(t: np.ndarray) -> float:
        scaled = log_probs / t[0]
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(4000), label]).mean())

    assert found == pytest.approx(minimize(nll, [1.0], method="Nelder-Mead").x[0], rel=1e-3)


def test_answers_name_categories_and_votes_have_no_likelihood() -> None:
    r = 1 + len(IMAGE_RULES)
    rows = np.arange(2 * r).reshape(r, 2)
    scores: dict[str, np.ndarray] = {name: rows.astype(np.float32) for name in RuleScores._fields}
    scores["top1"] = rows % 3
    scores["in_top5"] = rows % 2 == 0
    categories = categories_from_ids(np.array([70, 50, 60]))
    found = answers_of(scores, categories, [float(i + 1) for i in range(r)])
    assert list(found) == [OWN, *IMAGE_RULES]
    for row, (name, answers) in enumerate(found.items()):
        np.testing.assert_array_equal(answers.guess, np.array([50, 60, 70])[rows[row] % 3])
        np.testing.assert_array_equal(answers.in_top5, rows[row] % 2 == 0)
        if name in NO_LIKELIHOOD:
            assert answers.log_prob_true is answers.calibrated_confidence is None
            assert answers.temperature is None
        else:
            np.testing.assert_array_equal(answers.log_prob_true, rows[row])
            assert answers.temperature == row + 1
    uncalibrated = answers_of(scores, categories, None)
    assert uncalibrated[OWN].calibrated_log_prob_true is None
    assert uncalibrated[OWN].confidence is not None
