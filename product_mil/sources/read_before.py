"""Files of images that were read when the source was in an older state, so that only others are.

Beside the columns of a state (`stored.py`) lies the size and time of modification of each file as
it was listed before it was read. A file of the same name, size and time is taken not to have
changed.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from jaxtyping import Bool, Int32, Int64, UInt8, UInt64

from product_mil.sources.lookup import rows_of
from product_mil.sources.stored import load

_STATUS = "status.npy"


class ReadBefore(NamedTuple):
    """Which files need not be read again, with their lengths and hashes; 0 for the others."""

    known: Bool[np.ndarray, " M"]
    lengths: Int32[np.ndarray, " M"]
    hashes: UInt64[np.ndarray, "M 2"]


def note_status(
    draft: Path, status: Int64[np.ndarray, "M 2"], again: Int64[np.ndarray, " r"]
) -> None:
    """Write the status of all files to a directory of columns; those `again` stay unknown."""
    status = status.copy()
    status[again] = -1
    np.save(draft / _STATUS, status, allow_pickle=False)


def read_before(
    beside: Path,
    names: UInt8[np.ndarray, " b"],
    name_at: Int64[np.ndarray, " M_plus_1"],
    status: Int64[np.ndarray, "M 2"],
) -> ReadBefore:
    """What the newest usable one of the directories beside a new one knows of these files."""
    found = ReadBefore(
        np.zeros(len(status), bool),
        np.zeros(len(status), np.int32),
        np.zeros((len(status), 2), np.uint64),
    )
    for directory in beside.parent.iterdir():
        former = load(directory) if (directory / _STATUS).is_file() else None
        if former is None:
            continue
        try:
            before = np.load(directory / _STATUS, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            continue
        columns = former.columns
        if before.shape != (len(columns["image_hash"]), 2):
            continue
        keys = _keys(columns["names"], columns["name_at"])
        row = rows_of(keys, _keys(names, name_at))
        known = (row >= 0) & (status[:, 0] >= 0)
        known[known] = (before[row[known]] == status[known]).all(1)
        found.known[:] = known
        found.lengths[known] = columns["image_length_bytes"][row[known]]
        found.hashes[known] = columns["image_hash"][row[known]]
        break
    return found


def _keys(
    names: UInt8[np.ndarray, " b"], name_at: Int64[np.ndarray, " M_plus_1"]
) -> Int64[np.ndarray, " M"]:
    """64 bits of each name: with the size and the time besides, no two files are confused."""
    blob, digest = names.tobytes(), xxhash.xxh3_64_intdigest
    ends = itertools.pairwise(name_at.tolist())
    return np.array([digest(blob[a:b]) for a, b in ends], np.uint64).view(np.int64)
