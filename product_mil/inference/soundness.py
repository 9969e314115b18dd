"""Checks of probabilities and ids that come from a file of predictions."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from product_mil.errors import UserError
from product_mil.sources.ids import Ids

_TOLERANCE = 1e-2  # of the sum, since files may have been rounded


def refuse_unsound(
    path: Path,
    product_id: Ids[np.ndarray, " N"],
    smallest: Float[np.ndarray, " N"],
    total: Float[np.ndarray, " N"],
) -> None:
    """Refuse a file whose numbers are no probabilities: negative, NaN, or with another sum than 1.

    `smallest` and `total` are the least probability of each product, and the sum of all.

    Raises:
        UserError: they are not; the message names the file and the first such product.
    """
    fine = (smallest >= 0) & (np.abs(total - 1) < _TOLERANCE)  # NaN fails every comparison
    if not fine.all():
        row = int(np.argmin(fine))
        raise UserError(
            f"{path}: what it says of product {product_id[row]} are no probabilities (they are "
            f"negative or sum to {total[row]:.4g}); export it again"
        )


def refuse_repeated(path: Path, what: str, ids: Ids[np.ndarray, " N"]) -> None:
    """Refuse a file that has an id twice, as nobody knows which of the two is meant.

    Raises:
        UserError: it has; the message names the first such id. `what` says whose ids they are.
    """
    distinct, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        raise UserError(f"{path} has {what} {distinct[times > 1][0]} more than once; make it again")
