"""Read the columns of products from a CSV or a Parquet file: ids, categories, images."""

import csv
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Int64

from product_mil.errors import UserError
from product_mil.files.foreign import kind_of_file
from product_mil.sources.ids import Ids, ids_from_text, no_ids

pc: Any = pyarrow.compute  # its functions are made when it is imported
# Names of columns that are recognised, in any case; the first one that is there counts.
NAMES = {
    "id": ("product_id", "_id", "id", "product", "sku", "ean", "gtin", "barcode"),
    "category": ("category_id", "category", "label"),
    "images": (
        "images", "image", "imgs", "img", "photos", "photo", "paths", "path", "pictures", "picture",
        "image_paths", "image_path", "files", "file", "file_name", "filename", "bytes",
    ),
}  # fmt: skip
_SEPARATORS = ",;\t|"
_SEVERAL = re.compile(r"^\s*\[|[|;]")  # a cell of CSV with a list of paths


class Chosen(NamedTuple):
    """The names of the columns that are read."""

    id: str
    category: str | None
    images: str | None


def choose(path: Path, names: list[str], asked: str, *, need_images: bool = True) -> Chosen:
    """Which columns hold what; `asked` is such as `id=sku,category=shelf`, or empty.

    Raises:
        UserError: a column that is needed is missing; the message lists those that there are.
    """
    if not names:
        raise UserError(f"{path} names no columns in its first line; write them there")
    wanted = dict(_assignments(path, asked))
    own: dict[str, str] = {}
    for name in names:
        own.setdefault(name.strip(), name)
    lower = {name.lower(): of for name, of in reversed(own.items())}
    found: dict[str, str | None] = {}
    for use, known in NAMES.items():
        if use in wanted and wanted[use].strip() not in own:
            raise UserError(f"{path} has no column {wanted[use]}; it has {', '.join(own)}")
        first = next((lower[name] for name in known if name in lower), None)
        found[use] = own[wanted[use].strip()] if use in wanted else first
    free = [name for name, of in own.items() if of not in found.values()]
    for use in ("id", "images") if need_images else ("id",):
        if found[use] is None:
            how = "add such a column"
            if free:
                how = f"name it as in '{path}#{use}={free[-1]}'" if need_images else "call it _id"
            raise UserError(f"{path}: which column holds the {use}? It has {', '.join(own)}; {how}")
    for name in filter(None, found.values()):
        if names.count(name) > 1:
            raise UserError(f"{path} has several columns {name}; give each its own name")
    return Chosen(str(found["id"]), found["category"], found["images"])


def _assignments(path: Path, asked: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, asked.split(",")):
        use, equals, name = part.partition("=")
        if use.strip() not in NAMES or not equals:
            raise UserError(
                f"{path}#{asked}: name columns as in '{path}#id=sku,category=shelf,images=photo'"
            )
        pairs.append((use.strip(), name))
    return pairs


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet rather than CSV."""
    kind = kind_of_file(path)
    return kind is not None and kind.group == "parquet"


def column_names(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises:
        UserError: it is no table, or damaged.
    """
    try:
        if is_parquet(path):
            return pq.read_schema(path).names
        return _header(path)[0]
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from None


def read_columns(path: Path, names: list[str]) -> pa.Table:
    """These columns of a table; those of CSV are text.

    Raises:
        UserError: it is no table, or damaged.
    """
    try:
        if is_parquet(path):
            return pq.read_table(path, columns=names)
        header, separator = _header(path)
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), include_columns=names
            ),
        )
        return pa.table({name: pc.utf8_trim_whitespace(table[name]) for name in names})
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from None


def _header(path: Path) -> tuple[list[str], str]:
    """The names of a CSV file's columns, and its separator: the most frequent in the first line."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline()
    separator = max(_SEPARATORS, key=line.count)
    return next(csv.reader([line], delimiter=separator), []), separator


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return UserError(f"cannot read the table {path}: {reason}; save it again as UTF-8 or Parquet")


def ids_of(path: Path, name: str, column: pa.ChunkedArray) -> Ids[np.ndarray, " N"]:
    """The ids in a column. Text of CSV is a number where every id is written as one.

    Raises:
        UserError: the column's type is no id's.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = pc.fill_null(column, "").to_pylist()
        return np.array(texts, np.str_) if is_parquet(path) else ids_from_text(texts)
    if pa.types.is_null(kind):  # no row has one
        return no_ids(len(column))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if pa.types.is_floating(kind):  # NaN is how pandas writes that there is none
            column = pc.if_else(pc.is_nan(column), None, column)
        try:
            whole = column.cast(pa.int64())
        except pa.ArrowInvalid:
            raise UserError(
                f"{path}: the column {name} has numbers that are no 64-bit integers; write ids as "
                "integers or text"
            ) from None
        missing = np.iinfo(np.int64).min
        return pc.fill_null(whole, missing).to_numpy().astype(np.int64)
    raise UserError(f"{path}: the column {name} is of type {kind}; ids are integers or text")


def images_of(
    column: pa.Array | pa.ChunkedArray, *, of_csv: bool
) -> tuple[pa.Array, Int64[np.ndarray, " N"]]:
    """The images of all rows one after the other, as paths or bytes, and how many each row has.

    A cell of CSV may hold several paths, with `|` or `;` between, or as a list of JSON.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if of_csv:
        cells = array.to_pylist()
        if any(_SEVERAL.search(cell) for cell in cells if cell):
            array = pa.array([_paths(cell) for cell in cells], pa.list_(pa.string()))
        else:
            array = pa.array([cell or None for cell in cells], pa.string())
    if _is_list(array.type):
        counts = pc.fill_null(pc.list_value_length(array), 0)
        values = pc.list_flatten(array)
    else:
        counts = array.is_valid().cast(pa.int64())
        values = array.drop_null()
    if pa.types.is_struct(values.type):  # Hugging Face's images
        names = {values.type.field(i).name for i in range(values.type.num_fields)}
        values = pc.struct_field(values, "bytes" if "bytes" in names else "path")
    return values, np.asarray(counts, np.int64)


def holds_bytes(path: Path, name: str) -> bool:
    """Whether the column of images in a table holds their bytes rather than paths.

    Raises:
        UserError: it holds neither.
    """
    if not is_parquet(path):
        return False
    kind = pq.read_schema(path).field(name).type
    kind = kind.value_type if _is_list(kind) else kind
    if pa.types.is_struct(kind):
        inside = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        kind = inside.get("bytes", inside.get("path", kind))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return False
    raise UserError(
        f"{path}: the column {name} is of type {kind}; images are paths or bytes, or lists of them"
    )


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _paths(cell: str | None) -> list[str]:
    """The paths in a cell of CSV."""
    if not cell:
        return []
    if cell.startswith("["):
        try:
            found = json.loads(cell)
        except ValueError:
            return [cell]
        return [str(path) for path in found]
    return [path.strip() for path in re.split(r"[|;]", cell) if path.strip()]


def encoded(paths: pa.Array, directory: Path | None) -> list[bytes]:
    """Paths as the file system knows them, in `directory` if that is given."""
    within = b"" if directory is None else os.fsencode(directory)
    return [os.path.join(within, os.fsencode(path or "")) for path in paths.to_pylist()]  # noqa: PTH118
