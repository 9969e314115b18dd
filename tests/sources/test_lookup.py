import numpy as np
import pytest

from product_mil.sources.lookup import rows_in_sorted, rows_of


@pytest.mark.parametrize(
    ("ids", "wanted", "rows"),
    [
        ([30, 10, 20, 10], [10, 40, 30, 5], [1, -1, 0, -1]),  # of two the first
        ([7, 8], [7, 8], [0, 1]),
        ([], [1], [-1]),
        ([1], [], []),
    ],
)
def test_rows_of(ids: list[int], wanted: list[int], rows: list[int]) -> None:
    found = rows_of(np.array(ids, np.int64), np.array(wanted, np.int64))
    assert (found.tolist(), found.dtype) == (rows, np.int64)


@pytest.mark.parametrize("ids", [[], [b"a", b"c"]])
def test_ids_in_order(ids: list[bytes]) -> None:
    found = rows_in_sorted(np.array(ids, "S1"), np.array([b"c", b"b", b"z"], "S1"))
    assert found.tolist() == ([1, -1, -1] if ids else [-1, -1, -1])
