"""Pictures by their place in a file: read, compared with their hash, decoded.

Imports nothing slow: processes that do only this start with it (`data/workers.py`).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Int32, Int64, UInt8, UInt64

from product_mil.data.decode import ImageError, decode_into
from product_mil.errors import refuse_too_many_open_files

UNREAD = "the file cannot be read here"  # the kind of faults that are not the image's own


class Addresses(NamedTuple):
    """Where the bytes of pictures lie."""

    file: Int64[np.ndarray, " m"]  # of the reader's paths
    offset_bytes: Int64[np.ndarray, " m"]
    length_bytes: Int32[np.ndarray, " m"]
    image_hash: UInt64[np.ndarray, "m 2"] | None  # as `Columns.image_hash` has it

    def each(self) -> Iterator[tuple[int, int, int, Sequence[int] | None]]:
        """What `FileReader.read` takes, picture by picture."""
        hashes = self.image_hash
        return zip(
            self.file.tolist(),
            self.offset_bytes.tolist(),
            self.length_bytes.tolist(),
            [None] * len(self.file) if hashes is None else hashes.tolist(),
            strict=True,
        )


class FileReader:
    """`os.pread` over some files; descriptors are opened on first use by a process."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._descriptors: dict[int, int] = {}

    def read(
        self,
        file: int,
        offset_bytes: int,
        length_bytes: int,
        image_hash: Sequence[int] | None = None,
    ) -> bytes:
        """Just these bytes, which have this hash (as `Columns.image_hash` has it).

        Raises:
            ImageError: the file cannot be read, ends before (it shrank since indexed), or holds
                other bytes there by now.
            UserError: this process has too many files open, which is no fault of the image.
        """
        try:
            if file not in self._descriptors:
                self._descriptors[file] = os.open(self._paths[file], os.O_RDONLY)
            data = os.pread(self._descriptors[file], length_bytes, offset_bytes)
        except OSError as error:
            refuse_too_many_open_files(error, self._paths[file])
            raise ImageError(f"{UNREAD}: {error}") from error
        if len(data) != length_bytes:
            raise ImageError(
                f"{UNREAD}: it ends before the picture, so changed since it was indexed"
            )
        if image_hash is not None:
            high, low = image_hash
            if xxhash.xxh3_128_intdigest(data) != high << 64 | low:
                raise ImageError(f"{UNREAD}: it holds other bytes than were indexed; start again")
        return data

    def decode(
        self, addresses: Addresses, targets: Iterable[UInt8[np.ndarray, "h w 3"]]
    ) -> dict[int, str]:
        """Decode each picture into its target.

        Returns, by place in `addresses`, why pictures could not be used; what the targets of those
        hold means nothing. Remarks on pictures that are used (`is_remark`) are among the reasons.
        Raises UserError as `read` does.
        """
        reasons: dict[int, str] = {}
        for place, (address, pixels) in enumerate(zip(addresses.each(), targets, strict=True)):
            try:
                remark = decode_into(self.read(*address), pixels)
            except ImageError as error:
                reasons[place] = str(error)
            else:
                if remark is not None:
                    reasons[place] = remark
        return reasons

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
