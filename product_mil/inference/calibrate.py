"""Confidence that can be believed: a temperature, fitted on validation products."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

TEMPERATURE_PRODUCTS = 5000  # one number needs no more
TINY = np.finfo(np.float32).tiny  # in place of a probability of 0
_LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)
# Under which training looks at its validation products: between them the likelihood is smooth.
_LOG_TEMPERATURES = np.linspace(-2, 2, 17)
TEMPERATURES = tuple(np.exp(_LOG_TEMPERATURES).tolist())


def fit_temperature(log_probs: Float32[np.ndarray, "N k"], label: Int[np.ndarray, " N"]) -> float:
    """The temperature under which the labels are most likely."""
    of_label = log_probs[np.arange(len(label)), label].astype(np.float64)

    def nll(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(log_probs * np.float32(scale), axis=1) - of_label * scale).mean())

    return _most_likely(nll, _LOG_TEMPERATURE_BOUNDS)


def temperature_between(nll_at: Float[np.ndarray, "t N"]) -> float:
    """The same from the likelihoods of the labels under each of `TEMPERATURES`."""
    mean = CubicSpline(_LOG_TEMPERATURES, nll_at.astype(np.float64).mean(1))
    return _most_likely(lambda x: float(mean(x)), (_LOG_TEMPERATURES[0], _LOG_TEMPERATURES[-1]))


def calibrated(
    probabilities: Float32[np.ndarray, "b k"], seen: Bool[np.ndarray, " b"], temperature: float
) -> Float64[np.ndarray, "b k"]:
    """Probabilities at a temperature.

    `seen` marks products with a readable image; the others have the prior, which keeps its own.
    """
    sharpness = np.where(seen, 1 / temperature, 1.0)[:, None]
    powers = np.maximum(probabilities, TINY).astype(np.float64) ** sharpness
    return powers / powers.sum(1, keepdims=True)


def _most_likely(nll: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """The temperature within bounds of its logarithm that makes `nll` of the logarithm smallest."""
    found: Any = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
