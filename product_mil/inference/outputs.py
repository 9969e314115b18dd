"""The set of files that predictions of any model are written to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from product_mil.errors import UserError
from product_mil.files.outputs import Kind, beside, check_output
from product_mil.inference.matrix import MatrixWriter, matrix_files, matrix_kind
from product_mil.inference.predictions import PredictionBlock, Writer, written_whole
from product_mil.inference.submission import SUBMISSION, SubmissionWriter
from product_mil.inference.top_classes import TOP_CLASSES, ParquetWriter
from product_mil.sources.categories import Categories
from product_mil.sources.ids import Id
from product_mil.sources.opening import source_files

if TYPE_CHECKING:
    from product_mil.inference.backoff import BackOff, LevelCounts

LEVELS_SUFFIX = ".levels.csv"
_FILE_ENDINGS = (".csv", ".gz", ".h5", ".npz", ".parquet", ".zip")


@dataclass(frozen=True)
class Outputs:
    """The files to write; None for a file that is not wanted."""

    submission: Path
    top_classes: Path | None = None  # Parquet
    topk: int = 10  # number of classes for each product in the Parquet file
    matrix: Path | None = None  # every probability: a directory, or a .npy file
    min_confidence: float | None = None  # for a list by level, beside the submission

    def __post_init__(self) -> None:
        """Raise `UserError` if a number is out of its bounds."""
        if self.topk < 1:
            raise UserError(f"--topk={self.topk}: must be at least 1")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise UserError(f"--min_confidence={self.min_confidence}: must be from 0 to 1")

    @property
    def levels(self) -> Path:
        """The path of the list of predictions that back off."""
        return beside(self.submission, LEVELS_SUFFIX)

    @property
    def need_all(self) -> bool:
        """Whether any file needs the probability of every class."""
        return self.matrix is not None or self.min_confidence is not None

    def files(self, more: Mapping[Path, Kind] | None = None) -> dict[Path, Kind]:
        """Every file to write, with its kind, and `more` that is written besides.

        Raises:
            UserError: two of the files have the same name.
        """
        from product_mil.inference.backoff import LEVELS

        found = [(self.submission, SUBMISSION), *(more or {}).items()]
        if self.top_classes:
            found.append((self.top_classes, TOP_CLASSES))
        if self.matrix:
            kind = matrix_kind(self.matrix)
            found += [(path, kind) for path in matrix_files(self.matrix)]
        if self.min_confidence is not None:
            found.append((self.levels, LEVELS))
        places = [path.resolve() for path, _ in found]
        for (path, _), place in zip(found, places, strict=True):
            if places.count(place) > 1:
                raise UserError(f"{path} is named for two outputs; give each its own name")
        return dict(found)

    def check(self, spec: str | None, more: Mapping[Path, Kind]) -> None:
        """Refuse outputs that cannot be written. Call this before anything is read.

        `spec` names the source of the products, and `more` are further files to be written.

        Raises:
            UserError: a file cannot be written; the message names it and says what to change.
        """
        files = self.files(more)
        refuse_data(files, spec)
        matrix, inside = self.matrix, set()
        if matrix is not None and matrix.suffix.lower() != ".npy":
            if matrix.suffix.lower() in _FILE_ENDINGS:
                raise UserError(f"--all_probabilities {matrix}: name a directory or a .npy file")
            check_output(matrix, matrix_kind(matrix, directory=True))
            inside = set(matrix_files(matrix))
        for path, kind in files.items():
            if path not in inside:
                check_output(path, kind)


def refuse_data(outputs: Iterable[Path], spec: str | None) -> None:
    """Refuse to write over the data, or into a folder that is read as data.

    Raises:
        UserError: an output is one of the files of the data or lies in one of its folders, or these
            are missing.
    """
    read = {} if spec is None else {path.resolve(): path for path in source_files(spec)}
    for path in outputs:
        place = path.resolve()
        if place in read:
            raise UserError(f"{path} is the data itself; choose another output")
        folder = next((read[above] for above in place.parents if above in read), None)
        if folder is not None:
            raise UserError(f"{path} lies in {folder}, which is read as data: choose another place")


class Written(NamedTuple):
    """The numbers of a finished prediction."""

    num_products: int
    num_images: int  # 0 if images are not known
    spent_s: float
    levels: "LevelCounts | None"  # counts of predictions that back off
    remarks: list[str]  # lines for people
    num_imageless: int = 0  # products without a readable image
    first_imageless: tuple[Id, ...] = ()  # the ids of the first few of them


def write_predictions(
    blocks: Iterable[PredictionBlock],
    outputs: Outputs,
    categories: Categories,
    num_products: int,
    about: Mapping[str, Any],
    back_off: "BackOff | None" = None,
) -> "LevelCounts | None":
    """Write predictions to all files, whole or not at all; returns counts of those that back off.

    `about` describes the run in the files, as plain JSON.

    Raises:
        UserError: a file cannot be written.
    """
    writers: list[Writer] = []
    with written_whole(writers):
        found = _open(writers, outputs, categories, num_products, about, back_off)
        for block in blocks:
            for writer in writers:
                writer.write(block)
    return found


def _open(
    writers: list[Writer],
    outputs: Outputs,
    categories: Categories,
    num_products: int,
    run: Mapping[str, Any],
    back_off: "BackOff | None",
) -> "LevelCounts | None":
    """Add a writer for each file. The submission is last, so its presence means success."""
    about: dict[str, Any] = {"categories_json": categories.to_json(), "run": run}
    counts = None
    if outputs.matrix:
        writers.append(MatrixWriter(outputs.matrix, categories.ids, num_products, **about))
    if outputs.top_classes:
        writers.append(ParquetWriter(outputs.top_classes, categories.ids, **about))
    if back_off is not None:
        from product_mil.inference.backoff import BackOffWriter

        levels = BackOffWriter(outputs.levels, back_off)
        writers.append(levels)
        counts = levels.counts
    writers.append(SubmissionWriter(outputs.submission, categories.ids))
    return counts
