"""A Parquet file of predictions, with the most probable classes, as a member of an ensemble."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32, Int64

from product_mil.errors import UserError
from product_mil.inference.top_classes import ids_in, read_predictions
from product_mil.sources.categories import Categories
from product_mil.sources.ids import Ids

_FACTS = ("product_id", "category_id", "num_images", "num_readable_images")
_TOP = ("top_category_id", "top_probability", "remaining_probability")
_BATCH_ROWS = 4096
_BUFFER_BYTES = 65_536  # of each column


@dataclass(frozen=True, eq=False)
class ProductFacts:
    """What is known about products besides probabilities."""

    category_id: Ids[np.ndarray, " N"]  # no id where unlabelled
    num_images: Int32[np.ndarray, " N"]
    num_readable_images: Int32[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Consecutive rows of the file."""

    top: Int32[np.ndarray, "b t"]  # class indices
    probability: Float32[np.ndarray, "b t"]
    remaining: Float32[np.ndarray, " b"]

    def __len__(self) -> int:
        return len(self.remaining)

    def at(self, chosen: slice | Int64[np.ndarray, " c"]) -> "_Rows":
        return _Rows(*(values[chosen] for values in vars(self).values()))


class ParquetMember:
    """A file whose remaining probability is spread evenly over the classes that are not listed.

    Products are read as a stream, in the order of the file. Call `hold` to read them in another
    order.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; raises UserError if it is missing, damaged or of another kind."""
        self.path = path
        file = read_predictions(path, _FACTS)
        self.categories = Categories.from_json(file.categories_json)
        self.class_ids = self.categories.ids
        self.product_id = file.ids("product_id")
        self.facts = ProductFacts(
            file.ids("category_id"),
            file.column("num_images"),
            file.column("num_readable_images"),
        )
        self._stream: Iterator[_Rows] = iter(())
        self._first = len(self.product_id)  # place of the first row in `_held`
        self._held: list[_Rows] = []
        self._all = False

    def hold(self) -> None:
        """Keep all rows in memory after they have been read."""
        self._all = True

    def rows(self, places: Int64[np.ndarray, " b"]) -> Float32[np.ndarray, "b k"]:
        """The probabilities in these rows, which must be consecutive unless `hold` was called.

        Raises:
            UserError: the file is damaged.
        """
        first, stop = (0, len(self.product_id)) if self._all else (places[0], places[-1] + 1)
        held = self._read(int(first), int(stop)).at(places - first)
        k = len(self.class_ids)
        others = np.float32(max(k - held.top.shape[1], 1))
        rows = np.repeat(held.remaining[:, None] / others, k, axis=1)
        np.put_along_axis(rows, held.top.astype(np.int64), held.probability, 1)
        return rows

    def _read(self, first: int, stop: int) -> _Rows:
        """Read these rows. Earlier rows than the last ones need a new stream."""
        if first < self._first:
            self._stream, self._first, self._held = self._batches(), 0, []
        last = self._first + sum(map(len, self._held))
        while last < stop:
            more = next(self._stream)
            last += len(more)
            self._held.append(more)
        held = self._held[0] if len(self._held) == 1 else _together(self._held)
        held = held.at(slice(first - self._first, None))
        self._first, self._held = first, [held]
        return held

    def _batches(self) -> Iterator[_Rows]:
        try:
            # The buffer prevents that a whole row group is read at once.
            with (
                pa.OSFile(os.fsencode(self.path)) as opened,
                pq.ParquetFile(opened, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file,
            ):
                for batch in file.iter_batches(_BATCH_ROWS, columns=list(_TOP)):
                    ids, probability, remaining = (batch.column(name) for name in _TOP)
                    top = self.categories.class_of(ids_in(ids.flatten()))
                    if (top < 0).any():
                        raise UserError(
                            f"{self.path} holds category ids that are not among its own; export "
                            "again"
                        )
                    yield _Rows(
                        top.reshape(len(batch), -1),
                        probability.flatten().to_numpy().reshape(len(batch), -1),
                        remaining.to_numpy(),
                    )
        except (OSError, ValueError) as error:  # such as lists that are null
            raise UserError(f"cannot read predictions from {self.path}: {error}") from None


def _together(parts: list[_Rows]) -> _Rows:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return _Rows(*(np.concatenate(column) for column in columns))
