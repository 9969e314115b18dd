"""Confidence that can be believed: a temperature, fitted on validation products."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

TEMPERATURE_PRODUCTS = 5000  # one number needs no more
_LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)


def fit_temperature(log_probs: Float32[np.ndarray, "N k"], label: Int[np.ndarray, " N"]) -> float:
    """The temperature under which the labels are most likely."""
    of_label = log_probs[np.arange(len(label)), label].astype(np.float64)

    def nll(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(log_probs * np.float32(scale), axis=1) - of_label * scale).mean())

    found: Any = minimize_scalar(
        nll, bounds=_LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))
