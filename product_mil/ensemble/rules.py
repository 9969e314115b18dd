"""Combine the probabilities of several models by a rule, and fit its weights by likelihood.

All functions work on arrays. Members are the leading axis m of log-probabilities.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int
from scipy.optimize import minimize

from product_mil.ensemble.rule_names import Rule

# Takes the place of log 0, so that one member cannot veto a class, and likelihoods stay finite.
FLOOR = float(np.log(np.finfo(np.float32).tiny))
_TIE_SHARE = 0.01
_MAX_COMPARED_VOTERS = 12  # 3**12 outcomes of one class against another
_EQUAL = 1e-5  # sums of weights that differ by less are a tie
FIT_BYTES = 1_000_000_000  # of log-probabilities that are in memory while weights are fitted
_ROWS = 1024  # rows of a chunk in float64


def combine(
    log_probs: Float[Array, "m *e k"], weights: Float[np.ndarray, " m"], rule: Rule
) -> Float[Array, "*e k"]:
    """The log-probabilities of the ensemble. Weights are not negative, and sum to 1.

    - `average`: the weighted mean of the probabilities.
    - `geometric_mean`: the weighted mean of the log-probabilities, normalised again.
    - `vote`: each member gives its weight to its most probable class (the lower one among
      equals). The result is 0.99 or more of the shares of votes and the rest the weighted mean of
      the probabilities: too little to outweigh a vote, enough to decide a tie, which so goes to
      the class with the higher mean probability, then to the lower class. (scikit-learn's
      `VotingClassifier` gives every tie to the lower class.)
    """
    log_probs = jnp.maximum(log_probs, FLOOR)
    if rule == "geometric_mean":
        return jax.nn.log_softmax(jnp.tensordot(jnp.asarray(weights), log_probs, 1))
    of_member = jnp.asarray(weights).reshape(-1, *(1,) * (log_probs.ndim - 1))
    average = jax.nn.logsumexp(log_probs, b=of_member, axis=0)
    if rule == "average":
        return average
    best = log_probs.argmax(-1, keepdims=True)
    classes = jax.lax.broadcasted_iota(best.dtype, log_probs.shape, log_probs.ndim - 1)
    votes = jnp.where(classes == best, of_member, 0).sum(0)
    share = tie_share(weights)
    return jnp.log((1 - share) * votes + share * jnp.exp(average))


def tie_share(weights: Float[np.ndarray, " m"]) -> float:
    """The share that mean probabilities may have beside votes without outweighing any vote.

    The votes of two classes differ by a sum of weights with signs or factors 0. The smallest such
    difference that is not a tie must be larger than a difference of mean probabilities, which is at
    most 1, times this share.
    """
    voters = np.sort(np.asarray(weights, np.float64))[::-1][:_MAX_COMPARED_VOTERS]
    sums = np.zeros(1)
    for weight in voters:
        sums = np.unique(np.round(np.concatenate([sums - weight, sums, sums + weight]), 9))
    least = np.abs(sums)[np.abs(sums) > _EQUAL].min(initial=1.0)
    return float(min(_TIE_SHARE, least / 3))


def equal_weights(members: int) -> Float64[np.ndarray, " m"]:
    """Weights that are the same for every member."""
    return np.full(members, 1 / members)


def combined_attention(
    attention: Float[Array, "m S n"], weights: Float[np.ndarray, " m"]
) -> Float[Array, "S n"]:
    """The weighted mean of the members' attention."""
    return jnp.tensordot(jnp.asarray(weights), attention, 1)


class Optimum(NamedTuple):
    """Weights, and the mean log-likelihood of the labels with these."""

    weights: Float64[np.ndarray, " m"]
    log_likelihood: float


def fit_average(log_prob_true: Float[np.ndarray, "N m"]) -> Optimum:
    """The weights of `average` that make N labels most likely: a concave problem on the simplex.

    `log_prob_true` has the log-probability of each product's true class by each member. The mean
    log-likelihood is never below that of any member or of equal weights.
    """
    log_probs = np.maximum(log_prob_true, FLOOR).astype(np.float64)
    largest = log_probs.max(1, keepdims=True)
    scaled, offset = np.exp(log_probs - largest), float(largest.mean())

    def likelihood(weights: Float64[np.ndarray, " m"]) -> tuple[float, Float64[np.ndarray, " m"]]:
        mixture = np.maximum(scaled @ weights, np.finfo(np.float64).tiny)
        return float(np.log(mixture).mean()) + offset, (scaled / mixture[:, None]).mean(0)

    return _best_on_simplex(likelihood, log_probs.shape[1])


def fit_geometric_mean(
    log_probs: Float[np.ndarray, "m N k"], label: Int[np.ndarray, " N"]
) -> Optimum:
    """The weights of `geometric_mean` that make N labels most likely.

    This problem is concave too, with the same guarantee as `fit_average`. Memory besides the
    argument does not grow with N.
    """
    m, n, _ = log_probs.shape

    def likelihood(weights: Float64[np.ndarray, " m"]) -> tuple[float, Float64[np.ndarray, " m"]]:
        total, gradient = 0.0, np.zeros(m)
        for first in range(0, n, _ROWS):
            part = np.maximum(log_probs[:, first : first + _ROWS], FLOOR).astype(np.float64)
            true = label[first : first + _ROWS]
            rows = np.arange(len(true))
            pooled = np.tensordot(weights, part, 1)
            largest = pooled.max(1, keepdims=True)
            probabilities = np.exp(pooled - largest)
            mass = probabilities.sum(1, keepdims=True)
            probabilities /= mass
            total += float((pooled[rows, true] - (largest + np.log(mass))[:, 0]).sum())
            gradient += part[:, rows, true].sum(1) - np.einsum("nk,mnk->m", probabilities, part)
        return total / n, gradient / n

    return _best_on_simplex(likelihood, m)


class Fitted(NamedTuple):
    """Fitted weights, and the likelihoods of the products that they were fitted on."""

    weights: Float64[np.ndarray, " m"]
    num_products: int  # products that were fitted on
    member_nll: Float64[np.ndarray, " m"]  # of each member
    nll: float  # of the ensemble; for `vote`, of the average whose weights it has


def fit_weights(
    blocks: Iterable[tuple[Float[np.ndarray, "m b k"], Int[np.ndarray, " b"]]],
    rule: Rule,
    num_products: int,
) -> Fitted:
    """Fit the weights of a rule on the members' log-probabilities of `num_products` products.

    Products with a label below 0, which is unknown, are left out. `average` needs one number for
    each product and member. Votes have no likelihood, so `vote` has the weights of `average`.
    `geometric_mean` needs all log-probabilities, and takes a random part of the products if they
    would be more than `FIT_BYTES`.

    Raises:
        ValueError: no product has a label.
    """
    kept, true, labels, keep, done = [], [], [], None, 0
    for log_probs, label in blocks:
        m, b, k = log_probs.shape
        if keep is None:
            room = max(FIT_BYTES // (4 * m * k), 1)
            keep = np.ones(num_products, bool)
            if rule == "geometric_mean" and room < num_products:
                order = np.random.default_rng(0).permutation(num_products)
                keep[order[room:]] = False
        chosen = np.flatnonzero(keep[done : done + b] & (label >= 0))
        done += b
        labels.append(label[chosen])
        true.append(log_probs[:, chosen, label[chosen]].T)
        if rule == "geometric_mean":
            kept.append(log_probs[:, chosen].astype(np.float32))
    label = np.concatenate(labels) if labels else np.zeros(0, np.int32)
    if not len(label):
        raise ValueError("weights are fitted on labelled products, and there is none")
    log_prob_true = np.maximum(np.concatenate(true), FLOOR).astype(np.float64)
    if rule == "geometric_mean":
        found = fit_geometric_mean(np.concatenate(kept, 1), label)
    else:
        found = fit_average(log_prob_true)
    return Fitted(found.weights, len(label), -log_prob_true.mean(0), -found.log_likelihood)


Objective = Callable[[Float64[np.ndarray, " m"]], tuple[float, Float64[np.ndarray, " m"]]]


_LEAST_WEIGHT = 1e-9  # a fitted one below it is the solver's rounding of 0


def _best_on_simplex(objective: Objective, m: int) -> Optimum:
    """The point of the simplex that maximises a concave objective, which returns its gradient too.

    The solver's result is used only if it is as good as equal weights and as every single member.
    """

    def negated(weights: Any) -> tuple[float, Any]:
        value, gradient = objective(np.clip(weights, 0, None))
        return -value, -gradient

    found = minimize(
        negated,
        equal_weights(m),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * m,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda _: np.ones(m)},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    candidates = [equal_weights(m), *np.eye(m)]
    fitted = np.where(found.x > _LEAST_WEIGHT, found.x, 0.0)
    if np.isfinite(fitted).all() and fitted.sum() > 0:
        candidates.insert(0, fitted / fitted.sum())
    values = [objective(weights)[0] for weights in candidates]
    best = int(np.argmax(values))
    return Optimum(candidates[best], values[best])
