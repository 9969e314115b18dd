"""Find the rows of ids in a column."""

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from product_mil.sources.ids import Ids, alike, is_text


def rows_of(ids: Ids[np.ndarray, " M"], wanted: Ids[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """The first row of `ids` that holds each wanted id; -1 where none does."""
    ids, wanted = alike(ids, wanted)
    if np.array_equal(ids, wanted):
        return np.arange(len(wanted))
    order = np.argsort(ids, kind="stable")
    return np.append(order, -1)[rows_in_sorted(ids[order], wanted)]


def are_among(wanted: Ids[np.ndarray, " N"], ids: Ids[np.ndarray, " M"]) -> Bool[np.ndarray, " N"]:
    """Which of the wanted ids are among the others."""
    wanted, ids = alike(wanted, ids)
    return np.isin(wanted, ids)


def rows_in_sorted(
    ids: Shaped[np.ndarray, " M"], wanted: Shaped[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """`rows_of` for ids in ascending order, which is faster."""
    if is_text(ids) != is_text(wanted):
        return rows_of(ids, wanted)  # integers have another order than their texts
    if not len(ids):
        return np.full(len(wanted), -1)
    row = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[row] == wanted, row, -1)
