"""Rules by hand and against scikit-learn; fitted weights on many random cases."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import VotingClassifier
from sklearn.preprocessing import LabelEncoder

from product_mil.ensemble.rule_names import RULES
from product_mil.ensemble.rules import (
    FLOOR,
    combine,
    equal_weights,
    fit_average,
    fit_geometric_mean,
    tie_share,
)


def combined(probabilities: Any, weights: Any, rule: Any) -> np.ndarray:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.asarray(probabilities, np.float32))
    return np.exp(np.asarray(combine(jnp.asarray(log_probs), np.asarray(weights), rule)))


def random_members(seed: int, m: int = 3, n: int = 400, k: int = 5) -> np.ndarray:
    """Probabilities `[m, n, k]` with many different top classes."""
    rng = np.random.default_rng(seed)
    return np.exp(log_softmax(rng.normal(scale=2, size=(m, n, k)), axis=-1))


def test_average_and_geometric_mean_by_hand() -> None:
    members = [[[0.8, 0.1, 0.1]], [[0.2, 0.6, 0.2]]]
    np.testing.assert_allclose(
        combined(members, [0.5, 0.5], "average"), [[0.5, 0.35, 0.15]], rtol=1e-6
    )
    np.testing.assert_allclose(
        combined(members, [0.25, 0.75], "average"), [[0.35, 0.475, 0.175]], rtol=1e-6
    )
    raw = np.asarray([0.8**0.25 * 0.2**0.75, 0.1**0.25 * 0.6**0.75, 0.1**0.25 * 0.2**0.75])
    np.testing.assert_allclose(
        combined(members, [0.25, 0.75], "geometric_mean"), [raw / raw.sum()], rtol=1e-6
    )


def test_votes_by_hand() -> None:
    """Three products: a majority, a tie of all three, and a tie that the lower class would win."""
    members = np.asarray(
        [
            [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.5, 0.2, 0.3]],
            [[0.4, 0.6, 0.0], [0.4, 0.5, 0.1], [0.1, 0.1, 0.8]],
            [[0.4, 0.6, 0.0], [0.1, 0.2, 0.7], [0.1, 0.5, 0.4]],
        ]
    )
    equal = combined(members, equal_weights(3), "vote")
    share = tie_share(equal_weights(3))
    assert share == 0.01
    np.testing.assert_allclose(
        equal[0], [0.99 / 3 + 0.01 * 1.7 / 3, 0.99 * 2 / 3 + 0.01 * 1.3 / 3, 0], rtol=1e-5
    )
    np.testing.assert_array_equal(equal.argmax(1), [1, 0, 2])
    np.testing.assert_allclose(equal.sum(1), 1, rtol=1e-5)
    # 0.5 against 0.3 + 0.2 is a tie; the mean decides: class 0 has 0.61 in the first product.
    weighted = combined(members, [0.5, 0.3, 0.2], "vote")
    mean = np.tensordot([0.5, 0.3, 0.2], members, 1)
    assert (mean[0] == mean[0].max()).argmax() == 0
    np.testing.assert_array_equal(weighted.argmax(1), [0, 0, 0])
    # One vote more than the tie outweighs any mean.
    np.testing.assert_array_equal(combined(members, [0.498, 0.301, 0.201], "vote").argmax(1)[0], 1)


def test_close_weights_are_still_counted() -> None:
    """A member of weight 0.3334 wins against 0.3333, however sure the other one is."""
    members = [[[0.99, 0.005, 0.005]], [[0.3, 0.4, 0.3]], [[0.33, 0.33, 0.34]]]
    assert combined(members, [0.3333, 0.3333, 0.3334], "vote").argmax() == 2
    assert combined(members, equal_weights(3), "vote").argmax() == 0


class Fixed(ClassifierMixin, BaseEstimator):
    """A classifier that was trained to say this."""

    def __init__(self, probabilities: Any):
        self.probabilities = probabilities

    def predict_proba(self, X: Any) -> np.ndarray:
        return self.probabilities[X[:, 0]]

    def predict(self, X: Any) -> np.ndarray:
        return self.predict_proba(X).argmax(1)


def voting_classifier(members: np.ndarray, voting: Any, weights: Any) -> VotingClassifier:
    """scikit-learn's, over members that need no training."""
    voter = VotingClassifier([], voting=voting, weights=weights)
    voter.estimators = [(str(i), Fixed(part)) for i, part in enumerate(members)]
    voter.estimators_ = [Fixed(part) for part in members]
    voter.le_ = LabelEncoder().fit(np.arange(members.shape[-1]))
    voter.classes_ = voter.le_.classes_
    return voter


@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.3], [0.7, 0.2, 0.1]])
def test_as_scikit_learn(weights: Any) -> None:
    members = random_members(0)
    rows = np.arange(members.shape[1])[:, None]
    ours = equal_weights(3) if weights is None else np.asarray(weights)
    soft = voting_classifier(members, "soft", weights).predict_proba(rows)
    np.testing.assert_allclose(combined(members, ours, "average"), soft, rtol=1e-5)

    hard = voting_classifier(members, "hard", weights).predict(rows)
    guess = combined(members, ours, "vote").argmax(1)
    votes = np.zeros(soft.shape)
    for weight, part in zip(ours, members, strict=True):
        votes[rows[:, 0], part.argmax(1)] += weight
    tied = (votes > votes.max(1, keepdims=True) - 1e-9).sum(1) > 1
    np.testing.assert_array_equal(guess[~tied], hard[~tied])
    assert (~tied).sum() > 100
    # Where votes tie, ours is the most probable of the tied; scikit-learn's the lowest.
    among = np.where(votes > votes.max(1, keepdims=True) - 1e-9, soft, -1)
    np.testing.assert_array_equal(guess[tied], among[tied].argmax(1))
    if tied.any():
        assert (guess != hard)[tied].any()


@pytest.mark.parametrize("rule", RULES)
def test_one_member_is_itself_and_order_is_nothing(rule: Any) -> None:
    members = random_members(1)
    alone = combined(members[:1], [1.0], rule)
    np.testing.assert_array_equal(alone.argmax(1), members[0].argmax(1))
    if rule != "vote":
        np.testing.assert_allclose(alone, members[0], rtol=1e-5)
    weights = np.asarray([0.5, 0.2, 0.3])
    np.testing.assert_allclose(
        combined(members, weights, rule),
        combined(members[[2, 0, 1]], weights[[2, 0, 1]], rule),
        rtol=1e-5,
    )
    # A member without weight counts nothing, not even with a probability of 0.
    silent = np.zeros_like(members[:1])
    silent[..., 0] = 1
    np.testing.assert_allclose(
        combined(np.concatenate([members, silent]), [*weights, 0.0], rule),
        combined(members, weights, rule),
        rtol=1e-5,
    )


def labels_of(members: np.ndarray, seed: int) -> np.ndarray:
    """Drawn from an unknown mixture of the members, so that none of them is right alone."""
    rng = np.random.default_rng(seed)
    truth = np.tensordot(rng.dirichlet(np.full(len(members), 0.5)), members, 1)
    return (truth.cumsum(1) < rng.random((truth.shape[0], 1))).sum(1).clip(0, truth.shape[1] - 1)


def mean_log_likelihood(
    log_probs: np.ndarray, label: np.ndarray, weights: np.ndarray, rule: str
) -> float:
    """In float64, another way than the code under test."""
    pooled: Any
    if rule == "average":
        with np.errstate(divide="ignore"):
            pooled = logsumexp(log_probs + np.log(weights)[:, None, None], axis=0)
    else:
        pooled = log_softmax(np.einsum("m,mnk->nk", weights, log_probs), axis=1)
    return float(pooled[np.arange(len(label)), label].mean())


@pytest.mark.parametrize("rule", ["average", "geometric_mean"])
def test_fitted_is_never_below_its_best_member(rule: str) -> None:
    """200 random ensembles: few and many products, members that are equal, useless or too sure."""
    gains = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        m, n = int(rng.integers(1, 6)), int(rng.integers(1, 120))
        members = random_members(seed, m, n, int(rng.integers(2, 8)))
        label = labels_of(members, seed)
        log_probs = np.log(members) * rng.choice([0.2, 1.0, 8.0], (m, 1, 1))
        log_probs = np.maximum(log_softmax(log_probs, axis=-1), FLOOR)
        if seed % 5 == 0:
            log_probs[-1] = log_probs[0]
        true = log_probs[:, np.arange(n), label]
        fitted, reported = (
            fit_average(true.T) if rule == "average" else fit_geometric_mean(log_probs, label)
        )
        assert ((fitted == 0) | (fitted > 1e-9)).all()  # no rounding of the solver
        np.testing.assert_allclose(fitted.sum(), 1, rtol=1e-12)
        found = mean_log_likelihood(log_probs, label, fitted, rule)
        np.testing.assert_allclose(reported, found, rtol=1e-9, atol=1e-12)
        rivals = [true.mean(1).max(), mean_log_likelihood(log_probs, label, equal_weights(m), rule)]
        assert found >= max(rivals) - 1e-9, seed
        gains.append(found - max(rivals))
    assert np.mean(np.asarray(gains) > 1e-4) > 0.3  # and often it is a true gain


@pytest.mark.parametrize("rule", ["average", "geometric_mean"])
def test_fitted_weights_are_the_best_ones(rule: str) -> None:
    """No other point of a fine grid over the simplex is better."""
    members = random_members(3)
    label = labels_of(members, 3)
    log_probs = np.log(members)
    true = log_probs[:, np.arange(len(label)), label]
    fitted, _ = fit_average(true.T) if rule == "average" else fit_geometric_mean(log_probs, label)
    steps = 25
    grid = [
        np.asarray([a, b, steps - a - b]) / steps
        for a in range(steps + 1)
        for b in range(steps + 1 - a)
    ]
    best = max(mean_log_likelihood(log_probs, label, w, rule) for w in grid)
    found = mean_log_likelihood(log_probs, label, fitted, rule)
    assert found >= best
    assert found - best < 1e-2


def test_a_sure_mistake_is_survived() -> None:
    """A member that gave the truth probability 0 is weighed, not fatal."""
    true = np.log(np.asarray([[0.9, 0.5], [1e-45, 0.5], [0.9, 0.5]], np.float64))
    true[1, 0] = -np.inf
    fitted, _ = fit_average(true)
    assert 0 < fitted[0] < 1
    members = np.asarray([[[1.0, 0.0]], [[0.3, 0.7]]])
    assert np.isfinite(np.log(combined(members, [0.5, 0.5], "geometric_mean"))).all()
