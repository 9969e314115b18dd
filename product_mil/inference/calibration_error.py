"""The expected calibration error over equal bins of confidence (Guo et al. 2017)."""

import numpy as np
from jaxtyping import Bool, Float, Int64

CALIBRATION_BINS = 15


def bins_of(confidence: Float[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """The bin of each confidence."""
    return np.clip((confidence * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)


def total_gap(gaps: Float[np.ndarray, "*e bins"]) -> Float[np.ndarray, "*e 1"]:
    """The sum over bins of |confidence - accuracy|, from the signed gap of each bin."""
    return np.abs(gaps).sum(-1, keepdims=True)


def expected_calibration_error(
    confidence: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"]
) -> float:
    """The mean distance between confidence and accuracy."""
    gaps = np.bincount(bins_of(confidence), confidence - correct, CALIBRATION_BINS)
    return float(total_gap(gaps).item() / max(len(confidence), 1))
