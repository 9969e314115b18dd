"""Copies in the cache, of sources that cannot be read image by image where they are.

A copy is made once, appears whole by one rename, and is made again when its source has changed.
`PRODUCT_MIL_COPY_GB` bounds the size of one copy.
"""

import errno
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NoReturn

import xxhash

from product_mil.errors import UserError
from product_mil.files.cache import cache_root, writable_cache
from product_mil.files.whole import whole

_VARIABLE = "PRODUCT_MIL_COPY_GB"
_DEFAULT_GB = 64.0
_LEFT_BYTES = 1 << 30  # of the disk, for everything else
_LOOK_BYTES = 256 << 20  # between two looks at the disk


class Bounded:
    """Writes to a file of the cache as long as the copy does not grow too large."""

    def __init__(self, file: IO[bytes], what: str, done_bytes: int = 0) -> None:
        """`what` names the source in messages; so many bytes of its copy were written before."""
        self._file, self._what = file, what
        self.num_bytes = done_bytes
        self._limit_bytes = limit_bytes()
        self._looked_bytes = -1

    def write(self, data: bytes) -> None:
        """Write more.

        Raises:
            UserError: the copy would be larger than allowed, or fill the disk.
        """
        self.num_bytes += len(data)
        if self.num_bytes > self._limit_bytes:
            raise UserError(
                f"{self._what}: its copy in the cache takes more than "
                f"{self._limit_bytes / 1e9:,.1f} GB; set {_VARIABLE} to allow more, or write one "
                "BSON file in a place of your own with product-mil make-bson"
            )
        if self._looked_bytes < 0 or self.num_bytes - self._looked_bytes > _LOOK_BYTES:
            self._looked_bytes = self.num_bytes
            if shutil.disk_usage(Path(self._file.name).parent).free < _LEFT_BYTES + len(data):
                self._refuse_full()
        try:
            self._file.write(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._refuse_full()

    def _refuse_full(self) -> NoReturn:
        raise UserError(
            f"{self._what}: no room for its copy in {Path(self._file.name).parent}; point "
            "PRODUCT_MIL_CACHE at a larger disk"
        )


def limit_bytes() -> int:
    """How large a copy may be, by `PRODUCT_MIL_COPY_GB`.

    Raises:
        UserError: the variable is no number.
    """
    text = os.environ.get(_VARIABLE) or str(_DEFAULT_GB)
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise UserError(f"{_VARIABLE}={text}: must be a number of gigabytes") from None


def copy_of(name: str, state: str, what: str, pieces: Callable[[], Iterable[bytes]]) -> Path:
    """The copy of a source as a file of BSON, which is made from `pieces` where it is not there.

    `name` stands for the source and `state` for its present state; copies of older states are
    removed. `what` names the source in messages.

    Raises:
        UserError: the copy is too large, or cannot be written.
    """
    place = Path("copies", _hash(name), f"{_hash(state)}.bson")
    found = cache_root() / place
    if found.is_file():
        return found
    path = writable_cache("copies").parent / place
    if path.is_file():
        return path
    log = logging.getLogger(__name__)
    following = iter(pieces())
    first = next(following, b"")  # or an error, before any copy is spoken of
    log.info("%s is copied to the cache, to be read image by image: %s", what, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            bounded = Bounded(file, what)
            for piece in itertools.chain([first], following):
                bounded.write(piece)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; point PRODUCT_MIL_CACHE at a "
            "directory that can be written"
        ) from None
    log.info("the copy of %s takes %s MB", what, f"{path.stat().st_size / 1e6:,.0f}")
    remove_others(path)
    return path


def remove_others(path: Path) -> None:
    """Remove the copies of older states of a source, with their indexes."""
    for other in path.parent.iterdir():
        if other.name.startswith(path.name) or other.name.startswith("."):
            continue
        shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink()


def _hash(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogateescape"))
