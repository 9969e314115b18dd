"""Units of prediction: a file, or a part of a large one, as its name and size say.

So every process that is given the same files finds the same units, and reads none of them for it.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import xxhash

from product_mil.errors import UserError
from product_mil.files.foreign import kind_of_file
from product_mil.sources.bson.index import state_of
from product_mil.sources.names import Named, address_of, named
from product_mil.sources.opening import is_read_once

UNIT_MB = 1000.0  # of a dump: 120,000 products of Cdiscount
# A table has names of images where a dump has their bytes; so much weighs a row or a byte of it.
_BYTES_PER_ROW = 5_000
_BYTES_PER_BYTE = 64
_NAME_BYTES = 180  # longer names are cut, and get a hash: a name of a file has at most 255 bytes


@dataclass(frozen=True)
class Unit:
    """A file, or one of several equal parts of its products, that is predicted as a whole."""

    name: str  # of its outputs, without their endings
    spec: str  # the file, as `open_catalogue` takes it
    path: Path
    part: int = 0
    parts: int = 1

    def rows(self, count: int) -> slice:
        """Its rows of a file with `count` records."""
        return slice(count * self.part // self.parts, count * (self.part + 1) // self.parts)

    def state(self) -> str:
        """A hash that changes whenever the file does, found in milliseconds; empty for a folder.

        Raises:
            UserError: the file cannot be read.
        """
        return "" if self.path.is_dir() else state_of(self.path)


def units_of(spec: str, unit_mb: float = UNIT_MB) -> list[Unit]:
    """The units of all files that `spec` names, in its order, each of about `unit_mb` megabytes.

    A table of names of images counts as much as the images that it may name. A folder is one unit.
    Outputs are named after files. Where a pattern has a wildcard for directories, these are a part
    of the name.

    Raises:
        UserError: nothing is there, it can be read only once, or two files have the same name.
    """
    if not unit_mb > 0:
        raise UserError(f"--unit_mb={unit_mb:g}: must be more than 0")
    if address_of(spec) or is_read_once(spec):
        raise UserError(f"{spec} is no file that stays: make one of it by product-mil make-bson")
    files = named(spec)
    names = [_name_of(one) for one in files]
    for name, count in Counter(names).items():
        if count > 1:
            same = [str(one.path) for one, other in zip(files, names, strict=True) if other == name]
            raise UserError(
                f"{same[0]} and {same[1]} have the same name, after which outputs are called: name "
                "them by one pattern, such as 'data/*/part.bson', or give each its own --output"
            )
    return [
        unit
        for one, name in zip(files, names, strict=True)
        for unit in _parts_of(one, name, unit_mb * 1e6)
    ]


def _name_of(one: Named) -> str:
    inside = one.inside if one.path.is_relative_to(one.inside) else one.path.parent
    name = "__".join(one.path.relative_to(inside).parts)
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > _NAME_BYTES:
        cut = encoded[: _NAME_BYTES - 17].decode("utf-8", "ignore")
        name = f"{cut}-{xxhash.xxh3_64_hexdigest(encoded)}"
    return name


def _parts_of(one: Named, name: str, unit_bytes: float) -> list[Unit]:
    parts = max(int(-(-_weight_bytes(one.path) // unit_bytes)), 1)
    spec, width = str(one.shown), len(str(parts))
    if parts == 1:
        return [Unit(name, spec, one.path)]
    return [
        Unit(f"{name}.{part + 1:0{width}}-of-{parts}", spec, one.path, part, parts)
        for part in range(parts)
    ]


def _weight_bytes(path: Path) -> int:
    """The bytes of a file, or of the images that a table names, as far as its size tells."""
    if path.is_dir():
        return 0
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size_bytes, kind = path.stat().st_size, kind_of_file(path)
        if kind is not None and kind.group == "parquet":
            return max(size_bytes, _BYTES_PER_ROW * pq.read_metadata(path).num_rows)
        return size_bytes * (_BYTES_PER_BYTE if kind is not None and kind.group == "table" else 1)
    except (OSError, pa.ArrowException):
        return 0  # whatever is wrong will be known when it is opened
