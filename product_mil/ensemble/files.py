"""Prediction files as members of an ensemble, in one order of products and of classes."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from product_mil.ensemble.parquet import ParquetMember, ProductFacts
from product_mil.errors import UserError
from product_mil.files.foreign import MATRIX, refuse_foreign
from product_mil.files.outputs import Kind, beside, csv_with_header
from product_mil.files.whole import write_text
from product_mil.inference.matrix import matrix_files, read_description
from product_mil.inference.soundness import refuse_repeated, refuse_unsound
from product_mil.sources.categories import Categories, categories_from_ids
from product_mil.sources.ids import Ids, alike, is_text
from product_mil.sources.lookup import rows_of

MISSING_COLUMNS = ("member", "missing", "id")
MISSING = Kind("a list of missing ids", (".csv",), csv_with_header(MISSING_COLUMNS))
BLOCK_BYTES = 32_000_000  # of all members' probabilities together
_MAX_BLOCK_ROWS = 4096
_NAMED = 5  # missing ids that the error names


def missing_path(submission: Path) -> Path:
    """The path of the list of ids that members lack, beside an ensemble's submission."""
    return beside(submission, ".missing.csv")


class MatrixMember:
    """A full matrix `[N, k]`. It is read by `pread`, so that a file that shrinks is an error."""

    facts: ProductFacts | None = None

    def __init__(self, path: Path) -> None:
        """Open the files; raises UserError if they are missing, damaged or do not fit together."""
        self.path = path
        matrix_path, ids_path, columns_path, about_path = matrix_files(path)
        self.product_id, self.class_ids = _ids(ids_path), _ids(columns_path)
        self.categories = _categories_in(about_path)
        header = read_array(matrix_path)
        shape = (len(self.product_id), len(self.class_ids))
        if not header.flags.c_contiguous:
            raise UserError(
                f"{matrix_path} lies column by column: save it with np.ascontiguousarray"
            )
        if header.shape != shape or header.dtype.kind != "f":
            raise UserError(
                f"{matrix_path} is {header.dtype} {header.shape}; expected floating point numbers "
                f"{shape}, as there are {shape[0]} product ids and {shape[1]} category ids"
            )
        self._dtype, self._first_byte = header.dtype, int(getattr(header, "offset", 0))
        self._matrix_path = matrix_path

    def rows(self, places: Int64[np.ndarray, " b"]) -> Float32[np.ndarray, "b k"]:
        """The probabilities in these rows. Neighbouring rows are read together."""
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        row_bytes = self._dtype.itemsize * len(self.class_ids)
        parts = []
        with self._matrix_path.open("rb", buffering=0) as file:
            for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
                wanted_bytes = int(stop - start) * row_bytes
                offset_bytes = self._first_byte + int(places[start]) * row_bytes
                data = os.pread(file.fileno(), wanted_bytes, offset_bytes)
                if len(data) != wanted_bytes:
                    raise UserError(
                        f"{self._matrix_path} became shorter while it was read; start again"
                    )
                parts.append(np.frombuffer(data, self._dtype))
        return np.concatenate(parts).astype(np.float32).reshape(len(places), -1)


Member = MatrixMember | ParquetMember


@dataclass(frozen=True, eq=False)
class AlignedMembers:
    """Members in the order of the first one's products and of ascending category ids."""

    members: list[Member]
    places: list[Int64[np.ndarray, " N"]]  # row of each product, in each member
    columns: list[Int64[np.ndarray, " k"]]  # column of each class, in each member
    categories: Categories

    @property
    def product_id(self) -> Ids[np.ndarray, " N"]:
        """The ids of the products, in the order of all blocks."""
        return self.members[0].product_id

    @property
    def facts(self) -> ProductFacts | None:
        """The facts of the first member that has them, in the order of all blocks."""
        for member, places in zip(self.members, self.places, strict=True):
            if member.facts is not None:
                return ProductFacts(*(values[places] for values in vars(member.facts).values()))
        return None

    @property
    def block_rows(self) -> int:
        """The number of products in a block, by the memory for all classes."""
        row_bytes = 4 * len(self.members) * len(self.categories.ids)
        return int(np.clip(BLOCK_BYTES // row_bytes, 1, _MAX_BLOCK_ROWS))

    def blocks(self) -> Iterator[Float32[np.ndarray, "m b k"]]:
        """Yield the probabilities of all members for consecutive products.

        Raises:
            UserError: numbers are not probabilities; the message names the file and the product.
        """
        for first in range(0, len(self.product_id), self.block_rows):
            chosen = slice(first, first + self.block_rows)
            block = np.stack(
                [
                    member.rows(places[chosen])[:, columns]
                    for member, places, columns in zip(
                        self.members, self.places, self.columns, strict=True
                    )
                ]
            )
            for member, rows in zip(self.members, block, strict=True):
                refuse_unsound(member.path, self.product_id[chosen], rows.min(-1), rows.sum(-1))
            yield block


def open_member(path: Path) -> Member:
    """Open a Parquet file or a full matrix that `product-mil predict` wrote.

    Raises:
        UserError: the file is of another kind.
    """
    if path.is_dir() or path.suffix.lower() == ".npy":
        return MatrixMember(path)
    if path.suffix in (".csv", ".gz"):
        raise UserError(
            f"{path} holds one guess a product; members are combined by their probabilities: name "
            "what --probabilities or --all_probabilities of product-mil predict wrote"
        )
    return ParquetMember(path)


def align(members: Sequence[Member], listing: Path) -> AlignedMembers:
    """Match members by product and category id.

    Raises:
        UserError: a member has a product twice, or lacks products or classes that others have; a
            long list of these is written to `listing`.
    """
    names = [str(member.path) for member in members]
    for member in members:
        refuse_repeated(member.path, "product", member.product_id)
        refuse_repeated(member.path, "category", member.class_ids)
        if not len(member.product_id):
            raise UserError(f"{member.path} holds no product")
    refuse_missing("categories", names, [member.class_ids for member in members], listing)
    refuse_missing("products", names, [member.product_id for member in members], listing)
    wanted = members[0].product_id
    places = [rows_of(member.product_id, wanted) for member in members]
    for member, there in zip(members, places, strict=True):
        if isinstance(member, ParquetMember) and (np.diff(there) != 1).any():
            member.hold()
    known = [member.categories for member in members if member.categories is not None]
    categories = known[0] if known else categories_from_ids(members[0].class_ids)
    return AlignedMembers(
        members=list(members),
        places=places,
        columns=[rows_of(member.class_ids, categories.ids) for member in members],
        categories=categories,
    )


def refuse_missing(
    what: str, names: Sequence[str], ids: Sequence[Ids[np.ndarray, " _"]], listing: Path
) -> None:
    """Refuse members that lack ids which others have. A long list of ids is written as CSV."""
    if all(np.array_equal(found, ids[0]) for found in ids[1:]):
        return
    ids = alike(*ids)
    union = np.unique(np.concatenate(ids))
    missing = {name: np.setdiff1d(union, found) for name, found in zip(names, ids, strict=True)}
    missing = {name: lost for name, lost in missing.items() if len(lost)}
    if not missing:
        return
    parts = [
        f"{name} misses {len(lost)} {what} that others have ("
        f"{', '.join(map(str, lost[:_NAMED].tolist()))}{', ...' if len(lost) > _NAMED else ''})"
        for name, lost in missing.items()
    ]
    where = ""
    if any(len(lost) > _NAMED for lost in missing.values()):
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(MISSING_COLUMNS)
        for name, lost in missing.items():
            rows.writerows([name, what, number] for number in lost.tolist())
        write_text(listing, text.getvalue(), MISSING)
        where = f"; {listing} lists them all"
    raise UserError(
        f"{'; '.join(parts)}{where}: members answer for the same {what}; leave that one out, or "
        "make it again"
    )


def _ids(path: Path) -> Ids[np.ndarray, " _"]:
    ids = np.asarray(read_array(path))
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise UserError(
            f"{path} is {ids.dtype} {ids.shape}; expected a column of whole numbers or of text"
        )
    return ids if is_text(ids) else ids.astype(np.int64)


def read_array(path: Path) -> np.ndarray:
    """The array of a NumPy file, mapped into memory.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    refuse_foreign(path, MATRIX)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _categories_in(about: Path) -> Categories | None:
    """The categories of a matrix; None for a matrix of another program without description."""
    if not about.exists():
        return None
    return Categories.from_json(json.dumps(read_description(about)["categories"]))
