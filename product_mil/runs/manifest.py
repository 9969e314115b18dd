"""The manifest of all units, and one CSV file of all their predictions."""

import csv
import gzip
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from product_mil.errors import OutputError, UserError
from product_mil.files.outputs import check_output
from product_mil.files.whole import whole, write_json
from product_mil.inference.submission import SUBMISSION
from product_mil.runs.repeated_ids import repeats_in
from product_mil.runs.unit_files import FAULT_LISTS, JOB, MANIFEST, Done, UnitFiles
from product_mil.runs.units import Unit

_SHOWN_REPEATS = 10
_HEADER = b"_id,category_id\n"


def write_manifest(files: UnitFiles, units: Sequence[Unit], *, unique_ids: bool) -> str | None:
    """Write the manifest if every unit is done or has failed, and return a line that sums it up.

    While a unit is neither, nothing is written, and None is returned.

    With `unique_ids`, nobody looks for ids that occur in several units. Several processes may find
    all units done: they write the same.

    Raises:
        OutputError: the manifest cannot be written.
    """
    done: dict[str, Done] = {}
    failed: dict[str, str] = {}
    for unit in units:
        reason, found = files.failure(unit.name), files.done(unit.name)
        if reason is not None:
            failed[unit.name] = reason
        elif found is not None:
            done[unit.name] = found
        else:
            return None
    cut = list(dict.fromkeys(one.spec for one in done.values() if one.is_cut))
    path = files.directory / MANIFEST
    try:
        manifest = {
            "job": json.loads((files.directory / JOB).read_text(encoding="utf-8")),
            "num_units": len(units),
            "num_products": sum(one.num_products for one in done.values()),
            "num_images": sum(one.num_images for one in done.values()),
            "num_faults": sum(one.num_faults for one in done.values()),
            "cut_files": cut,
            "failed": failed,
            "units": {name: asdict(one) for name, one in done.items()},
        }
        former = _former(path)
        repeated = former.pop("repeated_ids", None)
        if former != manifest or (repeated is None and not unique_ids):
            repeated = None if unique_ids else _repeated(files, done)
            write_json(path, manifest | {"repeated_ids": repeated})
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    line = f"{path}: {len(units)} units, {manifest['num_products']:,} products"
    if manifest["num_faults"]:
        line += f"; faults: {manifest['num_faults']:,}, see {files.directory / FAULT_LISTS}"
    if failed:
        line += f"; {len(failed)} units could not be predicted"
    if repeated and repeated["count"]:
        _id, name = repeated["first"][0]
        line += f"; {repeated['count']:,} rows repeat a product id, such as {_id} in {name}"
    if cut:
        line += f"; files whose end is missing: {len(cut)}, such as {cut[0]}: fetch them again"
    return line


def _former(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _tables(files: UnitFiles, names: Sequence[str]) -> list[Path]:
    """The tables of these units; one without a product has none."""
    return [path for path in map(files.parquet, names) if path.exists()]


def _repeated(files: UnitFiles, done: dict[str, Done]) -> dict[str, Any]:
    """The number of rows whose product id an earlier row has, and the first of them."""
    tables = _tables(files, list(done))
    found = repeats_in(tables, sum(one.num_products for one in done.values()))
    count, first = 0, []
    for table, (ids, is_repeat) in zip(tables, found or (), strict=found is not None):
        count += int(is_repeat.sum())
        for product_id in ids[is_repeat][: _SHOWN_REPEATS - len(first)].tolist():
            first.append([product_id, table.stem])
    return {"count": count, "first": first}


def check_merged(files: UnitFiles, path: Path) -> None:
    """Refuse a file for the merged predictions that cannot be written, or lies among the units.

    Raises:
        UserError: with what to change.
    """
    check_output(path, SUBMISSION)
    if path.resolve().is_relative_to(files.directory.resolve()):
        raise UserError(f"{path} lies in {files.directory}: choose another place")


def merge(files: UnitFiles, units: Sequence[Unit], path: Path) -> int:
    """Write the rows of all units to one CSV file, whole or not at all, and return their number.

    They are in the order of the units. Of several rows with the same product id the first one is
    written, so the file is the one that `predict` writes for all the data.

    Raises:
        UserError: a unit is not done.
        OutputError: the file cannot be written.
    """
    done = {unit.name: files.done(unit.name) for unit in units}
    lacking = [name for name, one in done.items() if one is None or files.failure(name)]
    if lacking:
        raise UserError(
            f"{path} is not written: {len(lacking)} of {len(units)} units are not predicted, such "
            f"as {lacking[0]}"
        )
    rows = sum(one.num_products for one in done.values() if one)
    found = repeats_in(_tables(files, list(done)), rows)
    try:
        with whole(path, SUBMISSION) as file:
            compressed = path.name.lower().endswith(".gz")
            output = gzip.GzipFile("", "wb", 6, file, mtime=0) if compressed else file
            output.write(_HEADER)
            for name, one in done.items():
                repeat = next(found).is_repeat if found and one and one.num_products else None
                rows -= _append(output, files.csv(name), repeat)
            if compressed:
                output.close()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}; make room and start again") from error
    return rows


def _append(output: Any, path: Path, is_repeat: np.ndarray | None) -> int:
    """Append the rows of a unit, except those that repeat an id, and return how many these are."""
    with path.open("rb") as file:
        file.seek(len(_HEADER))
        if is_repeat is None or not is_repeat.any():
            shutil.copyfileobj(file, output)
            return 0
        read = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        kept = [row for row, again in zip(read, is_repeat.tolist(), strict=True) if not again]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(kept)
    output.write(text.getvalue().encode())
    return int(is_repeat.sum())
