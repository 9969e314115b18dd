"""A catalogue of products whose images are a file each.

The bytes of every file are read and hashed once; the hashes are kept in the cache (`stored.py`).
Later only files that are new, or have another size or time, are read (`read_before.py`).
"""

import itertools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Int32, Int64, UInt8, UInt64

from product_mil.errors import UserError
from product_mil.files.foreign import kind_of_bytes
from product_mil.progress import Progress
from product_mil.sources.catalogue import (
    UNREAD,
    Catalogue,
    Fault,
    Place,
    Unread,
    fingerprint_of,
    hashes_from,
    kind_of,
)
from product_mil.sources.ids import Ids
from product_mil.sources.image_reader import ImageReader, NamesOfFiles
from product_mil.sources.read_before import ReadBefore, note_status, read_before
from product_mil.sources.stored import Stored, about_faults, faults_of, load, load_or_build

_THREADS = 8  # that wait for a disk
_AT_ONCE = 1024  # files handed to them
_LOOK_BYTES = 4096  # at the beginning of a file, which tell its kind
_READABLE = frozenset({"JPEG", "PNG", "GIF", "WebP", "AVIF", "BMP", "TIFF"})  # by `data/decode.py`
_COLUMNS = (
    "product_id", "category_id", "num_images", "first_image", "image_length_bytes", "image_hash"
)  # fmt: skip


class Names:
    """The names of many files, as one array of bytes and where each name ends in it."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), [0]

    def add(self, name: bytes) -> None:
        """Append a name."""
        self._bytes += name
        self._ends.append(len(self._bytes))

    def columns(self) -> tuple[UInt8[np.ndarray, " b"], Int64[np.ndarray, " M_plus_1"]]:
        """The bytes, and where each name begins and the last one ends."""
        return np.frombuffer(bytes(self._bytes), np.uint8), np.array(self._ends, np.int64)


class Listing(NamedTuple):
    """Products and the files of their images, before any file is read."""

    directory: Path  # that the names are relative to
    product_id: Ids[np.ndarray, " N"]
    category_id: Ids[np.ndarray, " N"]
    num_images: Int32[np.ndarray, " N"]
    names: UInt8[np.ndarray, " b"]
    name_at: Int64[np.ndarray, " M_plus_1"]
    status: Int64[np.ndarray, "M 2"]  # size in bytes and time of modification in ns; -1: none
    faults: list[tuple[Path, Fault]]
    num_bad_records: int


@dataclass(frozen=True, eq=False)
class ImageFiles(Catalogue):
    """Products whose images are files."""

    directory: Path
    names: UInt8[np.ndarray, " b"]
    name_at: Int64[np.ndarray, " M_plus_1"]
    stored: Path  # the directory of the columns

    def reader(self) -> ImageReader:
        """A new reader of the files."""
        return ImageReader(self.directory)

    def addresses(self, image_rows: Int64[np.ndarray, " m"]) -> NamesOfFiles:
        """The names and hashes of these images."""
        assert self.image_hash is not None
        names = [self._name(row) for row in image_rows.tolist()]
        return NamesOfFiles(names, np.asarray(self.image_hash[image_rows]))

    def place_of_product(self, product_row: int) -> Place:
        """The file of the product's first image; without images, what the user named."""
        if not self.num_images[product_row]:
            return Place(str(self.paths[0]), None)
        return self.place_of_image(int(self.first_image[product_row]))

    def place_of_image(self, image_row: int) -> Place:
        """The image's file."""
        return Place(str(self.directory / os.fsdecode(self._name(image_row))), None)

    def _name(self, image_row: int) -> bytes:
        start, stop = self.name_at[image_row : image_row + 2].tolist()
        return self.names[start:stop].tobytes()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle paths rather than gigabytes of columns; another process maps them again."""
        return _reopen, (self.stored, self.directory, self.paths)


def catalogue_of(listing: Listing, paths: Sequence[Path]) -> ImageFiles:
    """The catalogue of a listing; its files are read if their hashes are not known yet.

    `paths` are what the user named.

    Raises:
        UserError: nothing can be written to the cache.
    """
    state = xxhash.xxh3_128(b"2")  # of what is found in files: 2 names those that are no image
    for column in listing[1:7]:
        state.update(np.ascontiguousarray(column).data)
        state.update(str(column.dtype).encode())
    state.update(repr(listing.faults).encode())
    named = xxhash.xxh3_64_hexdigest("\0".join(str(path.resolve()) for path in paths).encode())

    def build(draft: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        before = read_before(draft, listing.names, listing.name_at, listing.status)
        lengths, hashes, reasons = _hash_files(listing, before)
        note_status(draft, listing.status, np.array(list(reasons), np.int64))
        found = list(_faults(listing, reasons))
        num_images = listing.num_images
        columns = {
            "product_id": listing.product_id,
            "category_id": listing.category_id,
            "num_images": num_images,
            "first_image": np.cumsum(num_images, dtype=np.int64) - num_images,
            "image_length_bytes": lengths,
            "image_hash": hashes,
            "names": listing.names,
            "name_at": listing.name_at,
        }
        return columns, about_faults(
            [*listing.faults, *found],
            bad_records=listing.num_bad_records,
            unread=sum(kind_of(fault.reason) == UNREAD for _, fault in found),
        )

    # A file that could not be read then may be readable now, though nothing else tells it.
    stored = load_or_build(
        named, state.hexdigest(), build, is_final=lambda it: not it.about["unread"]
    )
    return _opened(stored, listing.directory, tuple(paths))


def status_of(path: bytes) -> tuple[int, int]:
    """The size and time of modification of a file; -1 where there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116, bytes are faster
    except OSError:
        return -1, -1
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, -1)


def no_image(data: bytes) -> str | None:
    """The reason why the first bytes of a file are no image, as decoding it would give it.

    None where they are the beginning of an image, which may be damaged further on, or tell nothing.
    """
    if not data:
        return "the image has no bytes"
    head = data[:_LOOK_BYTES]
    kind = kind_of_bytes(head)
    if not head.strip(b"\0"):
        return "not a readable image: nothing but zeros"
    if kind is None or kind.group == "bson":
        return None
    if kind.group == "image" and " ".join(kind.name.split()[1:-1]) in _READABLE:
        return None
    return f"not a readable image: it is {kind.name}"


def _hash_files(
    listing: Listing, before: ReadBefore
) -> tuple[Int32[np.ndarray, " M"], UInt64[np.ndarray, "M 2"], dict[int, str]]:
    """The length and hash of each file, and by row why one cannot be read or is no image."""
    reader = ImageReader(listing.directory)
    rows = np.flatnonzero(~before.known)
    blob = listing.names.tobytes()
    starts, stops = (listing.name_at[rows + end].tolist() for end in (0, 1))

    def hashed(name: bytes) -> tuple[int, bytes, str | None]:
        data = reader.read_file(name)
        if isinstance(data, Unread):
            return 0, xxhash.xxh3_128_digest(b""), data.reason
        return len(data), xxhash.xxh3_128_digest(data), no_image(data)

    names = (blob[start:stop] for start, stop in zip(starts, stops, strict=True))
    lengths, digests = [], bytearray()
    reasons: dict[int, str] = {}
    with (
        Progress(len(rows), "images", label="reading") as shown,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        while some := list(itertools.islice(names, _AT_ONCE)):
            for length, digest, reason in pool.map(hashed, some):
                if reason is not None:
                    reasons[int(rows[len(lengths)])] = reason
                lengths.append(length)
                digests += digest
            shown.update(len(some))
    before.lengths[rows] = lengths
    before.hashes[rows] = hashes_from(digests)
    return before.lengths, before.hashes, reasons


def _faults(listing: Listing, reasons: Mapping[int, str]) -> Iterator[tuple[Path, Fault]]:
    """The faults of images, by their rows."""
    ends = np.cumsum(listing.num_images)
    for row, reason in reasons.items():
        product = int(np.searchsorted(ends, row, side="right"))
        start, stop = listing.name_at[row : row + 2].tolist()
        name = os.fsdecode(listing.names[start:stop].tobytes())
        index = row - int(ends[product] - listing.num_images[product])
        product_id = listing.product_id[product].item()
        yield listing.directory / name, Fault(None, product_id, reason, index)


def _opened(stored: Stored, directory: Path, paths: tuple[Path, ...]) -> ImageFiles:
    columns, about = stored.columns, stored.about
    return ImageFiles(
        **columns,
        directory=directory,
        stored=stored.directory,
        paths=paths,
        fingerprint=fingerprint_of(columns[name] for name in _COLUMNS),
        **faults_of(about),
    )


def _reopen(directory: Path, images: Path, paths: tuple[Path, ...]) -> ImageFiles:
    stored = load(directory)
    if stored is None:
        raise UserError(f"the index of {paths[0]} vanished from {directory}; start again")
    return _opened(stored, images, paths)
