"""Columns of a source that are kept in the cache, so that a later start need not make them again.

They lie under `sources/` in the cache, in a directory whose name is a hash of the source's state.
It appears whole by one rename, and has a hash of each column: what is stale or damaged is made
again.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from product_mil.errors import UserError
from product_mil.files.cache import cache_root, writable_cache
from product_mil.files.whole import whole_directory
from product_mil.sources.catalogue import MAX_LISTED_FAULTS, Fault, kind_of

_FORMAT = 1  # a new number makes all that was stored stale
_STORED = re.compile(r"v\d+-[0-9a-f]{32}(-unhashed)?")  # names; others are not ours


class Stored(NamedTuple):
    """Columns that are mapped from a directory, and what else is known of them."""

    columns: dict[str, np.ndarray]
    about: dict[str, Any]  # plain JSON
    directory: Path


Build = Callable[[Path], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]


def load_or_build(
    name: str,
    state: str,
    build: Build,
    *,
    is_final: Callable[[Stored], bool] = lambda _: True,
) -> Stored:
    """Map the columns of a source, and make them first where they are missing or damaged.

    `name` is a hash that stands for the source, `state` one of its present state. `build` gets the
    directory, where it may write larger files, and returns columns and what else is to be kept.
    Columns of an older state are removed, and so are those that were kept, but are not final.

    Raises:
        UserError: nothing can be written.
    """

    def usable(directory: Path) -> Stored | None:
        found = load(directory)
        return found if found is not None and is_final(found) else None

    place = Path("sources", name, f"v{_FORMAT}-{state}")
    directory = cache_root() / place
    if usable(directory) is None:
        directory = writable_cache("sources").parent / place
    if found := usable(directory):
        return found
    try:
        with whole_directory(directory, lambda made: usable(made) is not None) as draft:
            columns, about = build(draft)
            hashes = {}
            for column_name, column in columns.items():
                np.save(draft / f"{column_name}.npy", column, allow_pickle=False)
                hashes[column_name] = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(column).data)
            text = json.dumps({"columns": hashes, "about": about})
            (draft / "about.json").write_text(text, encoding="utf-8")
        remove_older(directory)
    except OSError as error:
        raise UserError(
            f"cannot write {directory}: {error.strerror or error}; free some space, or point "
            "PRODUCT_MIL_CACHE at a directory that can be written"
        ) from None
    found = load(directory)
    if found is None:
        raise UserError(f"what was written to {directory} is gone; start again")
    return found


def load(directory: Path) -> Stored | None:
    """Map the columns in a directory; None if any is missing or damaged."""
    try:
        description = json.loads((directory / "about.json").read_text(encoding="utf-8"))
        columns = mapped_columns(directory, description["columns"])
        return Stored(columns, description["about"], directory)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError):
        return None  # whatever is wrong, it can be made again


def mapped_columns(directory: Path, hashes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The columns in a directory, mapped into memory, by name; `hashes` are those of their values.

    Raises:
        OSError, EOFError, ValueError: a column is missing or damaged.
    """
    columns = {}
    for name, content_hash in hashes.items():
        column = np.load(directory / f"{name}.npy", mmap_mode="r").view(np.ndarray)
        if xxhash.xxh3_128_hexdigest(column.data) != content_hash:
            raise ValueError(f"{name} is damaged")
        columns[name] = column
    return columns


def remove_older(directory: Path) -> None:
    """Remove the directories beside this one that hold columns of older states of its source."""
    for other in directory.parent.iterdir():
        if other != directory and _STORED.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)


def about_faults(
    faults: Sequence[tuple[Path, Fault]], *, bad_records: int, unread: int = 0
) -> dict[str, Any]:
    """What `faults_of` reads, as plain JSON; so many images of the faults may be read later."""
    return {
        "faults": [(str(path), *fault) for path, fault in faults[:MAX_LISTED_FAULTS]],
        "counts": Counter(kind_of(fault.reason) for _, fault in faults),
        "bad_records": bad_records,
        "unread": unread,
    }


def faults_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Catalogue` that speak of its faults."""
    return {
        "faults": [(Path(path), Fault(*fault)) for path, *fault in about["faults"]],
        "fault_counts": about["counts"],
        "num_bad_records": about["bad_records"],
        "unread_bytes": 0,
    }
