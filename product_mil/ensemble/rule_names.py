"""The names of rules that combine several answers, and a check of their weights."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float64

from product_mil.errors import UserError

Rule = Literal["average", "geometric_mean", "vote"]
RULES: tuple[Rule, ...] = get_args(Rule)  # of the answers of several models
IMAGE_RULES = {  # of the answers to the images of a product
    "geometric_mean": "mean of the images' log-probabilities",
    "maximum": "largest probability on any image",
    "vote": "each image has one vote",
    "first_image": "the first image alone",
}


def normalised(
    weights: Float[np.ndarray, " w"] | None, num_members: int
) -> Float64[np.ndarray, " m"] | None:
    """The weights, normalised to a sum of 1. None, for weights to be fitted, stays None.

    Raises:
        UserError: there is not one weight for each member, one is negative, or all are 0.
    """
    if weights is None:
        return None
    weights = np.asarray(weights, np.float64)
    given = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != num_members:
        raise UserError(f"--weights {given}: {len(weights)} for {num_members} members")
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise UserError(f"--weights {given}: must not be negative, nor all 0")
    return weights / weights.sum()
