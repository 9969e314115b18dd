"""An index on disk: a directory of columns as .npy files with a description."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Int32, Int64
from tqdm import tqdm

from product_mil.errors import UserError
from product_mil.files.whole import whole_directory
from product_mil.sources.bson.scan import Rows, scan
from product_mil.sources.catalogue import (
    DUPLICATE,
    MAX_LISTED_FAULTS,
    Columns,
    Fault,
    hash_of,
    kind_of,
    later_duplicates,
)
from product_mil.sources.ids import as_text, is_text
from product_mil.sources.stored import mapped_columns, remove_older

FORMAT = 3  # a new number makes every older index stale
_TEXT_FORMAT = 1  # a new number makes older indexes with categories that are no integers stale

_OLDER_FAULTS = {"no integer _id", "category_id is not an integer"}  # before text could be an id
_DTYPES = {
    "offset_bytes": "<i8",
    "length_bytes": "<i4",
    "product_id": "<i8",  # or text, as wide as the longest id
    "category_id": "<i8",
    "num_images": "<i4",
    "first_image": "<i8",
    "image_offset_bytes": "<i8",
    "image_length_bytes": "<i4",
    "image_hash": "<u8",
}


@dataclass(frozen=True, eq=False)
class FileColumns(Columns):
    """The columns of a catalogue, with the places of products and images in their files."""

    offset_bytes: Int64[np.ndarray, " N"]  # of the product's record in its file
    length_bytes: Int32[np.ndarray, " N"]
    image_offset_bytes: Int64[np.ndarray, " M"]  # of the image's first byte in its file


@dataclass(frozen=True, eq=False)
class Index(FileColumns):
    """The columns of one file, and the faults in it."""

    path: Path
    directory: Path  # holds the columns
    fingerprint: str  # a hash of all columns, and so of everything that was read
    faults: list[Fault]  # the first 100,000
    fault_counts: dict[str, int]  # the number of all faults, by kind
    num_bad_records: int  # records left out, since they are broken or lack a usable _id
    unread_bytes: int  # after the last whole record


def load_index(path: Path, directory: Path) -> Index | None:
    """Map the index in `directory` of the file at `path`; None if it is missing or damaged."""
    try:
        description = json.loads((directory / "index.json").read_text(encoding="utf-8"))
        found = mapped_columns(directory, description["columns"])
        columns: dict[str, Any] = dict.fromkeys(_DTYPES) | found
        if _OLDER_FAULTS & description["fault_counts"].keys():
            return None
        if is_text(found["category_id"]) and description.get("text_format") != _TEXT_FORMAT:
            return None
        return Index(
            **columns,
            path=path,
            directory=directory,
            fingerprint=hash_of(description["columns"].values()),
            faults=[Fault(*fault) for fault in description["faults"]],
            fault_counts=description["fault_counts"],
            num_bad_records=description["num_bad_records"],
            unread_bytes=description["unread_bytes"],
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError):
        return None  # whatever is wrong, the index can be built again


def build_index(path: Path, directory: Path, *, hash_images: bool) -> Index:
    """Read the file once and write its index, which appears whole as `directory`.

    Nothing is written before a product has been found, and an unfinished index is removed if this
    fails. Memory does not grow with the file, except for one sorted copy of the product ids.

    Raises:
        UserError: the file cannot be read, changes meanwhile or holds no product.
        OSError: the index cannot be written.
    """
    names = [name for name in _DTYPES if hash_images or name != "image_hash"]
    draft: Path | None = None
    columns: dict[str, _ColumnFile] = {}
    faults: list[Fault] = []
    counts: Counter[str] = Counter()
    num_images = num_bad_records = unread_bytes = 0
    with ExitStack() as drafts:
        with ExitStack() as files:
            for rows in _read(path, hash_images=hash_images):
                if len(rows.product_id) and draft is None:
                    draft = drafts.enter_context(
                        whole_directory(
                            directory, lambda place: load_index(path, place) is not None
                        )
                    )
                    columns = {n: files.enter_context(_ColumnFile(draft, n)) for n in names}
                batch = rows._asdict()
                batch["first_image"] = num_images + np.cumsum(rows.num_images) - rows.num_images
                for name, column in columns.items():
                    column.append(batch[name])
                counts.update(kind_of(fault.reason) for fault in rows.faults)
                faults += rows.faults[: max(0, MAX_LISTED_FAULTS - len(faults))]
                num_images += len(rows.image_offset_bytes)
                num_bad_records += rows.num_bad_records
                unread_bytes += rows.unread_bytes
        if draft is None:
            raise UserError(_why_empty(path, faults))
        product_id = np.load(draft / "product_id.npy", mmap_mode="r")
        offset_bytes = np.load(draft / "offset_bytes.npy", mmap_mode="r")
        repeated = later_duplicates(product_id)
        counts[kind_of(DUPLICATE)] = len(repeated)
        faults += [
            Fault(int(offset_bytes[row]), product_id[row].item(), DUPLICATE)
            for row in repeated[: max(0, MAX_LISTED_FAULTS - len(faults))]
        ]
        description = {
            "text_format": _TEXT_FORMAT,
            "columns": {name: column.content_hash for name, column in columns.items()},
            "faults": faults,
            "fault_counts": +counts,
            "num_bad_records": num_bad_records,
            "unread_bytes": unread_bytes,
        }
        (draft / "index.json").write_text(json.dumps(description), encoding="utf-8")
        index = load_index(path, draft)
        if index is None:
            raise OSError("what was written reads back differently")
    remove_older(directory)
    return replace(index, directory=directory)


class _ColumnFile:
    """A .npy file that grows along its first axis; NumPy's header has room for a larger count.

    A column of ids also becomes text, or wider text, when such rows come.
    """

    def __init__(self, directory: Path, name: str):
        self.num_rows = 0
        self._dtype = np.dtype(_DTYPES[name])
        self._row_shape = (2,) if name == "image_hash" else ()
        self._hasher = xxhash.xxh3_128()
        self._file = (directory / f"{name}.npy").open("w+b", buffering=1 << 20)
        self._write_header()
        self._header_bytes = self._file.tell()

    def __enter__(self) -> "_ColumnFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    @property
    def content_hash(self) -> str:
        return self._hasher.hexdigest()

    def append(self, rows: np.ndarray) -> None:
        if len(rows) and "U" in (self._dtype.kind, rows.dtype.kind):
            rows = self._fitting(rows)
        self._write(rows)
        self.num_rows += len(rows)

    def _fitting(self, rows: np.ndarray) -> np.ndarray:
        """The rows as text, after the column has become text that is wide enough for them."""
        rows = as_text(rows)
        if self._dtype.kind != "U" or rows.dtype.itemsize > self._dtype.itemsize:
            self._file.seek(self._header_bytes)
            before = as_text(np.frombuffer(self._file.read(), self._dtype))
            self._dtype = np.promote_types(before.dtype, rows.dtype)
            self._hasher.reset()
            self._file.seek(self._header_bytes)
            self._write(before)
        return rows

    def _write(self, rows: np.ndarray) -> None:
        data = np.ascontiguousarray(rows, self._dtype).view(np.uint8).data
        self._file.write(data)
        self._hasher.update(data)

    def _write_header(self) -> None:
        shape = (self.num_rows, *self._row_shape)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        )


def _read(path: Path, *, hash_images: bool) -> Iterator[Rows]:
    """The rows of the file, with a progress bar where standard error is a terminal."""
    num_products = 0
    try:
        with path.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            bar = tqdm(
                total=before.st_size,
                desc=f"indexing {path.name}",
                unit="B",
                unit_scale=True,
                delay=1,
                disable=None,
            )
            with bar:
                for rows in scan(file, before.st_size, hash_images=hash_images):
                    yield rows
                    num_products += len(rows.product_id)
                    bar.set_postfix_str(f"{num_products:,} products", refresh=False)
                    bar.update(rows.num_bytes)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UserError(f"{path} changed while it was read; run again when nothing writes to it")


def _why_empty(path: Path, faults: list[Fault]) -> str:
    where = f"byte {faults[0].offset_bytes}" if faults else ""
    first = f" ({where}: {faults[0].reason})" if faults else ""
    return f"{path} is no BSON dump of MongoDB, or none of products{first}; name the dump itself"
