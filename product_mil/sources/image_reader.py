"""Read images that are a file each, and compare them with their hashes.

This module imports nothing slow, because processes that decode images start with it
(`data/workers.py`).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

from product_mil.errors import refuse_too_many_open_files
from product_mil.sources.bson.reader import checked
from product_mil.sources.catalogue import Unread

_MAX_BYTES = 1 << 30  # what is larger is no image of a product


class NamesOfFiles(NamedTuple):
    """Where images are: paths within a directory, as the bytes that the file system knows."""

    names: list[bytes]  # m
    image_hash: UInt64[np.ndarray, "m 2"]  # as in `Columns.image_hash`


class ImageReader:
    """Reads whole files, which are open only meanwhile."""

    travels = True

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)

    def read(self, addresses: NamesOfFiles) -> Iterator[bytes | Unread]:
        """The bytes of each file, once their hash has been checked.

        An image is `Unread` if its file cannot be read, or holds other bytes than were indexed.

        Raises:
            UserError: this process has too many open files, for which the image is not to blame.
        """
        for name, image_hash in zip(addresses.names, addresses.image_hash.tolist(), strict=True):
            data = self.read_file(name)
            yield data if isinstance(data, Unread) else checked(data, image_hash)

    def read_file(self, name: bytes) -> bytes | Unread:
        """The bytes of one file."""
        path = os.path.join(self._directory, name)  # noqa: PTH118, bytes are faster
        try:
            # A pipe, which might never give a byte, must not stop this.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return _read_open(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            refuse_too_many_open_files(error, Path(os.fsdecode(path)))
            return Unread(error.strerror or str(error))


def _read_open(descriptor: int) -> bytes | Unread:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return Unread("it is no file, but a folder, a pipe or a device")
    if status.st_size > _MAX_BYTES:
        return Unread(f"it has more than {_MAX_BYTES} bytes")
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return file.read()
