"""The outputs that the predicting tools share: their flags, checks, writers."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from product_mil.errors import UserError
from product_mil.files.outputs import Kind, beside, check_output, user_path
from product_mil.inference.files import (
    SUBMISSION,
    TOP_CLASSES,
    MatrixWriter,
    ParquetWriter,
    SubmissionWriter,
    matrix_files,
    matrix_kind,
)
from product_mil.inference.predictions import Writer
from product_mil.sources.bson.names import named_files
from product_mil.sources.categories import Categories

if TYPE_CHECKING:
    from product_mil.inference.backoff import BackOff

LEVELS_SUFFIX = ".levels.csv"
_FILE_ENDINGS = (".csv", ".gz", ".h5", ".npz", ".parquet", ".zip")


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """`--output`, `--probabilities`, `--topk`, `--all_probabilities`, `--min_confidence`."""
    parser.add_argument(
        "--output", type=user_path, required=True, help="submission .csv or .csv.gz"
    )
    parser.add_argument(
        "--probabilities",
        type=user_path,
        help="also write top classes and attention to this Parquet file",
    )
    parser.add_argument("--topk", type=int, default=10, help="classes kept there (default 10)")
    parser.add_argument(
        "--all_probabilities",
        type=user_path,
        help="also write the full matrix, with its ids, to this directory (or .npy file)",
    )
    parser.add_argument(
        "--min_confidence",
        type=float,
        help="also write <output>.levels.csv: the category where its calibrated probability is at "
        "least this, else its group at level 2 or 1",
    )


def levels_path(args: argparse.Namespace) -> Path:
    """Where predictions that back off are written."""
    return beside(args.output, LEVELS_SUFFIX)


def output_files(args: argparse.Namespace) -> dict[Path, Kind]:
    """Every file that the flags ask for, with its kind.

    Raises:
        UserError: two outputs have one name.
    """
    from product_mil.inference.backoff import LEVELS

    found = [(args.output, SUBMISSION)]
    if args.probabilities:
        found.append((args.probabilities, TOP_CLASSES))
    if args.all_probabilities:
        kind = matrix_kind(args.all_probabilities)
        found += [(path, kind) for path in matrix_files(args.all_probabilities)]
    if args.min_confidence is not None:
        found.append((levels_path(args), LEVELS))
    places = [path.resolve() for path, _ in found]
    for (path, _), place in zip(found, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{path} is named for two outputs; give each its own name")
    return dict(found)


def check_outputs(args: argparse.Namespace, more: Mapping[Path, Kind]) -> None:
    """Refuse flags and places that cannot work, before anything is read.

    `more` are files that the tool writes besides.

    Raises:
        UserError: with the flag and what to change.
    """
    if args.topk < 1:
        raise UserError(f"--topk={args.topk}: must be at least 1")
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise UserError(f"--min_confidence={args.min_confidence}: must be from 0 to 1")
    refuse_data([*output_files(args), *more], args.data)
    matrix = args.all_probabilities
    inside = set(matrix_files(matrix)) if matrix and matrix.suffix.lower() != ".npy" else set()
    for path, kind in {**output_files(args), **more}.items():
        if path not in inside:
            check_output(path, kind)
    if inside:
        if matrix.suffix.lower() in _FILE_ENDINGS:
            raise UserError(f"--all_probabilities {matrix}: name a directory or a .npy file")
        check_output(matrix, matrix_kind(matrix, directory=True))


def refuse_data(outputs: Iterable[Path], spec: str | None) -> None:
    """Never write over what is read.

    Raises:
        UserError: an output is one of the files of the data, or those are not there.
    """
    read = set() if spec is None else {path.resolve() for path in named_files(spec)}
    for path in outputs:
        if path.resolve() in read:
            raise UserError(f"{path} is the data itself; choose another output")


def needs_all(args: argparse.Namespace) -> bool:
    """Whether any output needs the probability of every class."""
    return args.all_probabilities is not None or args.min_confidence is not None


def add_writers(
    writers: list[Writer],
    args: argparse.Namespace,
    categories: Categories,
    num_products: int,
    run: Mapping[str, Any],
    back_off: "BackOff | None" = None,
) -> None:
    """A writer for each output asked for; the submission, named last, is the sign of success.

    `run` says in the files where they come from.
    """
    about: dict[str, Any] = {"categories_json": categories.to_json(), "run": run}
    if args.all_probabilities:
        writers.append(MatrixWriter(args.all_probabilities, categories.ids, num_products, **about))
    if args.probabilities:
        topk = min(args.topk, len(categories.ids))
        writers.append(ParquetWriter(args.probabilities, categories.ids, topk=topk, **about))
    if back_off is not None:
        from product_mil.inference.backoff import BackOffWriter

        writers.append(BackOffWriter(levels_path(args), back_off))
    writers.append(SubmissionWriter(args.output, categories.ids))


def levels_report(writers: list[Writer], args: argparse.Namespace) -> list[str]:
    """The table of the predictions that back off, where they were asked for."""
    if args.min_confidence is None:
        return []
    from product_mil.inference.backoff import BackOffWriter

    title = f"{levels_path(args)}, at least {args.min_confidence:g} sure:"
    return [w.counts.table(title) for w in writers if isinstance(w, BackOffWriter)]
