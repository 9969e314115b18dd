"""Several models' probabilities, combined by a rule, and weights fitted by likelihood.

Numbers to numbers: members are the leading axis m of log-probabilities, whatever they come from.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int
from scipy.optimize import minimize

Rule = Literal["average", "geometric_mean", "vote"]
RULES: tuple[Rule, ...] = ("average", "geometric_mean", "vote")

# A probability that rounded to 0 vetoes nothing and leaves every likelihood finite.
FLOOR = float(np.log(np.finfo(np.float32).tiny))
_TIE_SHARE = 0.01
_MAX_COMPARED_VOTERS = 12  # 3**12 outcomes of one class against another
_EQUAL = 1e-5  # sums of weights that differ by less are a tie
_ROWS = 1024  # of a chunk, in float64


def combine(
    log_probs: Float[Array, "m *e k"], weights: Float[np.ndarray, " m"], rule: Rule
) -> Float[Array, "*e k"]:
    """Log-probabilities of the ensemble; the weights are not negative and sum to 1.

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
    """How much the mean probabilities may count beside votes without ever outweighing one.

    Two classes' votes differ by a sum of weights with signs (or 0); the least such difference
    that is no tie stands against a difference of mean probabilities of at most 1.
    """
    voters = np.sort(np.asarray(weights, np.float64))[::-1][:_MAX_COMPARED_VOTERS]
    sums = np.zeros(1)
    for weight in voters:
        sums = np.unique(np.round(np.concatenate([sums - weight, sums, sums + weight]), 9))
    least = np.abs(sums)[np.abs(sums) > _EQUAL].min(initial=1.0)
    return float(min(_TIE_SHARE, least / 3))


def equal_weights(members: int) -> Float64[np.ndarray, " m"]:
    """Every member counts the same."""
    return np.full(members, 1 / members)


def combined_attention(
    attention: Float[Array, "m S n"], weights: Float[np.ndarray, " m"]
) -> Float[Array, "S n"]:
    """The weighted mean of the members' attention."""
    return jnp.tensordot(jnp.asarray(weights), attention, 1)


def fit_average(log_prob_true: Float[np.ndarray, "N m"]) -> Float64[np.ndarray, " m"]:
    """Weights of `average` that make N labels most likely: a concave problem on the simplex.

    `log_prob_true` is what each member gives the true class of each product. The mean
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
) -> Float64[np.ndarray, " m"]:
    """Weights of `geometric_mean` that make N labels most likely; as concave and as safe.

    Memory beyond the argument does not grow with N.
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


Objective = Callable[[Float64[np.ndarray, " m"]], tuple[float, Float64[np.ndarray, " m"]]]


def _best_on_simplex(objective: Objective, m: int) -> Float64[np.ndarray, " m"]:
    """The point of the simplex where a concave objective, given with its gradient, is largest.

    What the solver finds stands only where it is as good as equal weights and every single
    member.
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
    fitted = np.clip(found.x, 0, None)
    if np.isfinite(fitted).all() and fitted.sum() > 0:
        candidates.insert(0, fitted / fitted.sum())
    return max(candidates, key=lambda weights: objective(weights)[0])
