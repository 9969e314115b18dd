"""Read the bytes of images from their places in files, and compare them with their hashes.

This module imports nothing slow, because processes that decode images start with it
(`data/workers.py`).
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Int32, Int64, UInt64

from product_mil.errors import refuse_too_many_open_files
from product_mil.sources.catalogue import Unread


class Addresses(NamedTuple):
    """Where the bytes of images are."""

    file: Int64[np.ndarray, " m"]  # index into the reader's paths
    offset_bytes: Int64[np.ndarray, " m"]
    length_bytes: Int32[np.ndarray, " m"]
    image_hash: UInt64[np.ndarray, "m 2"] | None  # as in `Columns.image_hash`


def checked(data: bytes, image_hash: Sequence[int]) -> bytes | Unread:
    """The bytes of an image, if they have this hash (high half first)."""
    high, low = image_hash
    if xxhash.xxh3_128_intdigest(data) != high << 64 | low:
        return Unread("it holds other bytes than were indexed; start again")
    return data


class FileReader:
    """Reads files by `os.pread`. Each process opens a file when it first reads it."""

    travels = True

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._descriptors: dict[int, int] = {}

    def read(self, addresses: Addresses) -> Iterator[bytes | Unread]:
        """The bytes at each address, once their hash has been checked.

        An image is `Unread` if its file cannot be read, has become shorter since it was indexed, or
        holds other bytes now.

        Raises:
            UserError: this process has too many open files, for which the image is not to blame.
        """
        hashes = addresses.image_hash
        for file, offset_bytes, length_bytes, image_hash in zip(
            addresses.file.tolist(),
            addresses.offset_bytes.tolist(),
            addresses.length_bytes.tolist(),
            [None] * len(addresses.file) if hashes is None else hashes.tolist(),
            strict=True,
        ):
            yield self._read(file, offset_bytes, length_bytes, image_hash)

    def _read(
        self, file: int, offset_bytes: int, length_bytes: int, image_hash: Sequence[int] | None
    ) -> bytes | Unread:
        try:
            if file not in self._descriptors:
                self._descriptors[file] = os.open(self._paths[file], os.O_RDONLY)
            data = os.pread(self._descriptors[file], length_bytes, offset_bytes)
        except OSError as error:
            refuse_too_many_open_files(error, self._paths[file])
            return Unread(str(error))
        if len(data) != length_bytes:
            return Unread("it ends before the image, so it changed since it was indexed")
        return data if image_hash is None else checked(data, image_hash)

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
