"""The whole matrix of probabilities, as `.npy` files with the ids of its rows and columns."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from product_mil.errors import UserError
from product_mil.files.formats import refuse_unknown_format
from product_mil.files.outputs import Kind
from product_mil.files.whole import Draft, to_json
from product_mil.inference.predictions import FORMAT, PredictionBlock
from product_mil.sources.ids import Ids


class MatrixWriter:
    """Writes all probabilities as `.npy` files: float32 `[N, k]`, ids `[N]`, category ids `[k]`.

    They are written as a stream rather than a memory map, so that a full disk is an error and not a
    SIGBUS. Read them by `np.load(..., mmap_mode="r")`.
    """

    def __init__(
        self,
        path: Path,
        class_ids: Ids[np.ndarray, " k"],
        num_products: int,
        *,
        categories_json: str,
        run: Mapping[str, Any],
    ) -> None:
        """Open the files.

        Raises:
            UserError: the disk has too little room.
            OSError: a file cannot be made.
        """
        matrix, ids, columns, about = matrix_files(path)
        if matrix.parent == path:
            path.mkdir(exist_ok=True)
        needed_bytes = num_products * (len(class_ids) * 4 + 8)
        free_bytes = shutil.disk_usage(matrix.parent).free
        if needed_bytes > free_bytes:
            raise UserError(
                f"{matrix}: {num_products} x {len(class_ids)} probabilities need "
                f"{needed_bytes / 1e9:.1f} GB, the disk has {free_bytes / 1e9:.1f} GB free; use "
                "--probabilities, which keeps the most probable ones"
            )
        self.drafts: list[Draft] = []
        self._num_products = num_products
        try:
            for file in (ids, columns, about, matrix):
                self.drafts.append(Draft(file, matrix_kind(path)))
            self._ids, category_ids, description, self._matrix = (d.file for d in self.drafts)
            _write_header(self._matrix, (num_products, len(class_ids)), "<f4")
            _write_header(category_ids, class_ids.shape, class_ids.dtype.str)
            category_ids.write(class_ids.tobytes())
            said = {"format": FORMAT, "categories": json.loads(categories_json), "run": dict(run)}
            description.write((to_json(said, indent=None) + "\n").encode())
        except OSError:
            for draft in self.drafts:
                draft.discard()
            raise

    def write(self, block: PredictionBlock) -> None:
        """Append a block, which must have all probabilities."""
        assert block.probabilities is not None
        if not self._ids.tell():  # text is as wide as the longest of all ids, in every block
            _write_header(self._ids, (self._num_products,), block.product_id.dtype.str)
        self._matrix.write(block.probabilities.astype("<f4", copy=False).tobytes())
        self._ids.write(block.product_id.tobytes())

    def close(self) -> None:
        """Nothing is left to write."""


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: str) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def matrix_files(path: Path) -> tuple[Path, Path, Path, Path]:
    """The paths of the matrix, its product ids, its category ids and its description.

    `path` is a directory, or the file of the matrix if it ends in .npy; the other files then have
    the same stem.
    """
    if path.suffix.lower() == ".npy":
        others = (f"{path.stem}.{name}" for name in ("ids.npy", "category_ids.npy", "about.json"))
        ids, columns, about = (path.with_name(name) for name in others)
        return path, ids, columns, about
    names = ("probabilities.npy", "ids.npy", "category_ids.npy", "about.json")
    matrix, ids, columns, about = (path / name for name in names)
    return matrix, ids, columns, about


def matrix_kind(path: Path, *, directory: bool = False) -> Kind:
    """The kind of the files of the matrix at `path`, or of the directory that holds them.

    An earlier output is recognised by its description.
    """
    about = matrix_files(path)[-1]

    def is_former(_: Path) -> bool:
        said = json.loads(about.read_bytes())
        return isinstance(said, dict) and {"format", "categories", "run"} <= said.keys()

    return Kind("a matrix of probabilities", () if directory else (".npy", ".json"), is_former)


def read_description(about: Path) -> dict[str, Any]:
    """The description of a matrix: its categories and its run.

    Raises:
        UserError: the description is damaged, or of another format.
    """
    try:
        found = json.loads(about.read_bytes())
        ids, names = (len(found["categories"][name]) for name in ("ids", "names"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"cannot read {about}: {error}") from None
    if ids != names:
        raise UserError(f"cannot read {about}: it has {ids} categories and {names} names")
    run = found.get("run")
    version = run.get("version", "?") if isinstance(run, dict) else "?"
    refuse_unknown_format(found.get("format", FORMAT), (FORMAT,), version, about)
    return found
