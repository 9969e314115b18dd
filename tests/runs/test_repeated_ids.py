"""Ids that repeat from file to file, whatever they are made of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from product_mil.runs.repeated_ids import repeats_in


def tables(directory: Path, columns: Sequence[Sequence[int | str]]) -> list[Path]:
    paths = [directory / f"{number}.parquet" for number in range(len(columns))]
    for path, ids in zip(paths, columns, strict=True):
        pq.write_table(pa.table({"product_id": list(ids), "other": [0.5] * len(ids)}), path)
    return paths


def marked(paths: Sequence[Path], count: int) -> list[list[int | str]] | None:
    found = repeats_in(paths, count)
    return None if found is None else [ids[is_repeat].tolist() for ids, is_repeat in found]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ([[3, 1], [2], [-1]], None),
        ([["a", "b"], ["c"]], None),
        ([[3, 1, 2**62], [2, 3], [-1, 3, 1]], [[], [3], [3, 1]]),
        ([[3, 1, 3], [3]], [[3], [3]]),
        ([["a", "ç"], ["b", "ç", "a"]], [[], ["ç", "a"]]),
        ([[7, 8], ["7", "07"]], [[], ["7"]]),  # written alike
        ([["7", "x"], [7, 7]], [[], ["7", "7"]]),
    ],
)
def test_later_rows_are_marked(
    tmp_path: Path, columns: list[list[int | str]], wanted: list[list[int | str]] | None
) -> None:
    assert marked(tables(tmp_path, columns), sum(map(len, columns))) == wanted


def test_texts_with_the_same_hash_are_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbers_of(ids: np.ndarray) -> np.ndarray:
        return np.full(len(ids), 5, np.uint64)

    monkeypatch.setattr("product_mil.runs.repeated_ids.numbers_of", numbers_of)
    paths = tables(tmp_path, [["a", "b"], ["c", "a"]])
    assert marked(paths, 4) == [[], ["a"]]
