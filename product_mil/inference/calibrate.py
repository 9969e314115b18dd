"""Calibrate confidence by a temperature that is fitted on validation products."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

TEMPERATURE_PRODUCTS = 5000  # more products would not make one number more exact
TINY = np.finfo(np.float32).tiny  # takes the place of a probability of 0
_LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)
# Training evaluates likelihoods at these; between them the likelihood is smooth.
_LOG_TEMPERATURES = np.linspace(-2, 2, 17)
TEMPERATURES = tuple(np.exp(_LOG_TEMPERATURES).tolist())


def fit_temperature(log_probs: Float32[np.ndarray, "N k"], label: Int[np.ndarray, " N"]) -> float:
    """The temperature at which the labels, and one error besides, are most likely."""
    of_label = log_probs[np.arange(len(label)), label].astype(np.float64)

    def nll(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        sums = logsumexp(log_probs * np.float32(scale), axis=1)
        return _mean_with_one_error(sums - of_label * scale)

    return _most_likely(nll, _LOG_TEMPERATURE_BOUNDS)


def temperature_between(nll_at: Float[np.ndarray, "t N"]) -> float:
    """The same from `-log p` of the labels at `TEMPERATURES`."""
    mean = CubicSpline(_LOG_TEMPERATURES, [_mean_with_one_error(nll) for nll in nll_at])
    return _most_likely(lambda x: float(mean(x)), (_LOG_TEMPERATURES[0], _LOG_TEMPERATURES[-1]))


def calibrated(
    probabilities: Float32[np.ndarray, "b k"], seen: Bool[np.ndarray, " b"], temperature: float
) -> Float64[np.ndarray, "b k"]:
    """The probabilities at a temperature.

    `seen` marks products with a readable image. The others have the prior, which is not changed.
    """
    sharpness = np.where(seen, 1 / temperature, 1.0)[:, None]
    powers = np.maximum(probabilities, TINY).astype(np.float64) ** sharpness
    return powers / powers.sum(1, keepdims=True)


def _mean_with_one_error(nll: Float[np.ndarray, " N"]) -> float:
    """The mean of `nll`, as if the model had also been wrong once, as sure as it is on average.

    Where it is right on all N products, they show no more than that errors are rarer than about one
    in N. Without this the temperature would fall until every confidence is 1.
    """
    nll = np.maximum(nll.astype(np.float64), TINY)
    of_error = -np.log(-np.expm1(-nll)).mean()
    return float((nll.sum() + of_error) / (len(nll) + 1))


def _most_likely(nll: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """The temperature whose logarithm minimises `nll`, within bounds of the logarithm."""
    found: Any = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
