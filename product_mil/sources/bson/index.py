"""The index of BSON files, with a row for each product and for each image, memory-mapped.

One pass over a file writes the columns to `<file>.index/` beside it, to the cache if that cannot be
written, or to a temporary directory. Nothing is written before a product has been found.

The name of an index's directory contains a hash of the file's size, modification time, head and
tail, so the index of an older state is never used. The directory appears whole by one rename, and
has a hash of each column, so a damaged index is recognised and built again.
"""

import atexit
import itertools
import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Int64

from product_mil.errors import UserError, refuse_too_many_open_files
from product_mil.files.cache import cache_root
from product_mil.files.foreign import DUMP, refuse_foreign
from product_mil.sources.bson.index_store import (
    FORMAT,
    FileColumns,
    Index,
    build_index,
    load_index,
)
from product_mil.sources.bson.reader import Addresses, FileReader
from product_mil.sources.catalogue import Catalogue, Place, hash_of, joined_fields
from product_mil.sources.names import named_files

_EDGE_BYTES = 1 << 20
# Every mapped column is an open file, and so is the dump; training and validation may share dumps.
_OPEN_FILES_EACH = 24
_OPEN_FILES_BESIDES = 1024
_MEMORY = "/dev/shm"  # can be written in containers where nothing else can
_temporary: dict[str | None, Path] = {}  # directories made so far, by the place asked for


@dataclass(frozen=True, eq=False)
class BsonCatalogue(FileColumns, Catalogue):
    """The columns of one or several files, joined in memory; those of one file are not copied."""

    indexes: tuple[Index, ...]  # of `paths` or their copies, in the order of the rows

    def reader(self) -> FileReader:
        """A new reader of the files."""
        return FileReader([index.path for index in self.indexes])

    def addresses(self, image_rows: Int64[np.ndarray, " m"]) -> Addresses:
        """Where the bytes of these images are: file, offset, length and hash."""
        hashes = self.image_hash
        return Addresses(
            self._file_of_images(image_rows),
            np.asarray(self.image_offset_bytes[image_rows]),
            np.asarray(self.image_length_bytes[image_rows]),
            None if hashes is None else np.asarray(hashes[image_rows]),
        )

    def place_of_product(self, product_row: int) -> Place:
        """The file and offset of a product's record."""
        ends = np.cumsum([index.num_products for index in self.indexes])
        file = int(np.searchsorted(ends, product_row, side="right"))
        return Place(str(self.paths[file]), int(self.offset_bytes[product_row]))

    def place_of_image(self, image_row: int) -> Place:
        """The file and offset of an image's bytes."""
        file = int(self._file_of_images(np.array([image_row]))[0])
        return Place(str(self.paths[file]), int(self.image_offset_bytes[image_row]))

    def _file_of_images(self, image_rows: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        ends = np.cumsum([index.num_images_total for index in self.indexes])
        return np.searchsorted(ends, image_rows, side="right")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the paths rather than gigabytes of columns; another process maps them again."""
        return _reopen, ([(index.path, index.directory) for index in self.indexes], self.paths)


def open_catalogue(
    spec: str | Path | Sequence[str | Path],
    *,
    hash_images: bool = True,
    shown: Sequence[Path] | None = None,
) -> BsonCatalogue:
    """Open one or several BSON files as one catalogue, and build the indexes that are missing.

    `spec` is a path, a glob (its matches are sorted), several of either joined by commas, or a
    sequence. If the files are copies of something else, `shown` is what messages name instead.

    Raises:
        UserError: a file is missing, is named twice or is not a MongoDB dump.
    """
    paths = named_files(spec)
    for path in paths:
        refuse_foreign(path, DUMP)  # all of them, before the first is read
    _allow_open_files(len(paths))
    indexes = []
    for path, name in zip(paths, shown or paths, strict=True):
        try:
            index = build_or_load_index(path, hash_images=hash_images)
        except UserError as error:
            raise UserError(str(error).replace(str(path), str(name))) from None
        indexes.append(index)
    return _join(indexes, shown or paths)


def _allow_open_files(num_files: int) -> None:
    """Raise the limit of open files of this process as far as needed and allowed.

    Often it is 1,024 where a million are allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_BESIDES + num_files * _OPEN_FILES_EACH
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a limit beside this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def build_or_load_index(path: Path, *, hash_images: bool = True) -> Index:
    """Load the index of one file; read the file once and build it where there is none that fits.

    An index that cannot be written beside its file lies in the cache. If that cannot be written
    either, it is in a temporary directory until the program ends, and a warning says so.

    Raises:
        UserError: the file cannot be read, is of another kind, changes meanwhile or holds no
            product; or no index can be written anywhere.
    """
    path = Path(path)
    refuse_foreign(path, DUMP)
    key = f"v{FORMAT}-{state_of(path)}"
    keys = [key] if hash_images else [key, key + "-unhashed"]
    roots, name_there = _roots(path)
    for root in [*roots, *(made / name_there for made in _temporary.values())]:
        for name in keys:
            index = load_index(path, root / name)
            if index is not None:
                return index
    reasons: list[str] = []
    for root in itertools.chain(roots, _temporary_roots(name_there)):
        try:
            index = build_index(path, root / keys[-1], hash_images=hash_images)
        except OSError as error:
            refuse_too_many_open_files(error, path)
            reasons.append(f"{root} ({error.strerror or error})")
            continue
        if root not in roots:
            logging.getLogger(__name__).warning(
                "the index of %s lies in a temporary directory and is made again each time: cannot "
                "write to %s; point PRODUCT_MIL_CACHE at a directory that can be written",
                path,
                " nor to ".join(reasons),
            )
        return index
    raise UserError(
        f"no place to write the index of {path}: tried {', '.join(reasons)}; free some space, or "
        "point PRODUCT_MIL_CACHE at a directory that can be written"
    )


def _roots(path: Path) -> tuple[list[Path], str]:
    """The directories that may hold indexes of a file, and the file's name in shared ones."""
    whole_path = xxhash.xxh3_64_hexdigest(os.fsencode(path.resolve()))
    return [path.with_name(path.name + ".index"), cache_root() / "index" / whole_path], whole_path


def _temporary_roots(name: str) -> Iterator[Path]:
    """Temporary directories of this process, made on demand and removed when it ends."""
    for place in (None, _MEMORY):
        if place not in _temporary:
            try:
                made = Path(tempfile.mkdtemp(prefix="product_mil-index-", dir=place))
            except OSError:
                continue
            atexit.register(_remove, made, os.getpid())
            _temporary[place] = made
        yield _temporary[place] / name


def _remove(directory: Path, of_process: int) -> None:
    if os.getpid() == of_process:  # a fork must not remove it
        shutil.rmtree(directory, ignore_errors=True)


def state_of(path: Path) -> str:
    """A hash of the file's size, modification time, head and tail, which a change would change."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            hasher = xxhash.xxh3_128(b"%d %d" % (status.st_size, status.st_mtime_ns))
            hasher.update(file.read(_EDGE_BYTES))
            file.seek(max(0, status.st_size - _EDGE_BYTES))
            hasher.update(file.read(_EDGE_BYTES))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return hasher.hexdigest()


def _join(indexes: list[Index], paths: Sequence[Path]) -> BsonCatalogue:
    parts = [_of_file(index, path) for index, path in zip(indexes, paths, strict=True)]
    if len(parts) == 1:
        return parts[0]
    found = joined_fields(parts)
    for name in ("offset_bytes", "length_bytes", "image_offset_bytes"):
        found[name] = np.concatenate([getattr(part, name) for part in parts])
    found["fingerprint"] = hash_of(index.fingerprint for index in indexes)
    return BsonCatalogue(**found, indexes=tuple(indexes))


def _of_file(index: Index, path: Path) -> BsonCatalogue:
    """The columns of one file, which are not copied."""
    return BsonCatalogue(
        **{field.name: getattr(index, field.name) for field in fields(FileColumns)},
        paths=(path,),
        indexes=(index,),
        fingerprint=hash_of([index.fingerprint]),
        faults=[(path, fault) for fault in index.faults],
        fault_counts=index.fault_counts,
        num_bad_records=index.num_bad_records,
        unread_bytes=index.unread_bytes,
    )


def _reopen(places: list[tuple[Path, Path]], paths: Sequence[Path]) -> BsonCatalogue:
    indexes = []
    for path, directory in places:
        index = load_index(path, directory)
        if index is None:
            raise UserError(f"the index of {path} vanished from {directory}; start again")
        indexes.append(index)
    return _join(indexes, paths)
