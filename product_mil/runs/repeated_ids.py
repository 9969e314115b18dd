"""Find product ids that occur in several units, which no unit can see by itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Bool, UInt64

from product_mil.inference.top_classes import ids_in
from product_mil.sources.ids import Ids, as_text, numbers_of

_COLUMN = "product_id"


class Repeats(NamedTuple):
    """The ids of a table, and which of them occurred before."""

    ids: Ids[np.ndarray, " b"]
    is_repeat: Bool[np.ndarray, " b"]


def repeats_in(paths: Sequence[Path], num_products: int) -> Iterator[Repeats] | None:
    """For each of these Parquet files of predictions, its repeated ids; None if no id repeats.

    Ids that are written alike are the same. The memory is 9 bytes a product, whatever the ids, and
    17 for those that repeat.
    """
    types = [pq.read_schema(path).field(_COLUMN).type for path in paths]
    as_texts = any(map(pa.types.is_string, types))
    numbers = np.empty(num_products, np.uint64)
    at = 0
    for path in paths:
        for ids in _ids(path, as_texts):
            numbers[at : at + len(ids)] = numbers_of(ids)
            at += len(ids)
    numbers.sort()
    again = np.unique(numbers[1:][numbers[1:] == numbers[:-1]])
    return _marked(paths, as_texts, again) if len(again) else None


def _marked(
    paths: Sequence[Path], as_texts: bool, again: UInt64[np.ndarray, " r"]
) -> Iterator[Repeats]:
    # Two texts may have the same number: another hash of the first one tells them apart.
    seen, other_hash = np.zeros(len(again), bool), np.zeros(len(again), np.uint64)
    for path in paths:
        columns, marks = [], []
        for ids in _ids(path, as_texts):
            columns.append(ids)
            is_repeat = np.zeros(len(ids), bool)
            numbers = numbers_of(ids)
            place = np.minimum(np.searchsorted(again, numbers), len(again) - 1)
            for row in np.flatnonzero(again[place] == numbers).tolist():
                own = _other_hash(ids[row]) if as_texts else numbers[row]
                if not seen[place[row]]:
                    seen[place[row]], other_hash[place[row]] = True, own
                else:
                    is_repeat[row] = other_hash[place[row]] == own
            marks.append(is_repeat)
        yield Repeats(np.concatenate(columns), np.concatenate(marks))


def _other_hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(), seed=1)


def _ids(path: Path, as_texts: bool) -> Iterator[Ids[np.ndarray, " b"]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[_COLUMN]):
            ids = ids_in(batch.column(_COLUMN))
            yield as_text(ids) if as_texts else ids
