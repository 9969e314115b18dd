"""The outputs that the predicting tools share: their flags, checks, writers."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from product_mil.data.categories import Categories
from product_mil.errors import UserError
from product_mil.prediction_files import MatrixWriter, ParquetWriter, SubmissionWriter, matrix_files
from product_mil.predictions import Writer, check_output

if TYPE_CHECKING:
    from product_mil.backoff import BackOff

LEVELS_SUFFIX = ".levels.csv"


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """`--output`, `--probabilities`, `--topk`, `--all_probabilities`, `--min_confidence`."""
    parser.add_argument("--output", type=Path, required=True, help="submission .csv or .csv.gz")
    parser.add_argument(
        "--probabilities",
        type=Path,
        help="also write top classes and attention to this Parquet file",
    )
    parser.add_argument("--topk", type=int, default=10, help="classes kept there (default 10)")
    parser.add_argument(
        "--all_probabilities",
        type=Path,
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
    return args.output.with_name(args.output.name + LEVELS_SUFFIX)


def output_files(args: argparse.Namespace) -> list[Path]:
    """Every file that the flags ask for."""
    found = [args.output]
    if args.probabilities:
        found.append(args.probabilities)
    if args.all_probabilities:
        found += matrix_files(args.all_probabilities)
    if args.min_confidence is not None:
        found.append(levels_path(args))
    return found


def check_outputs(args: argparse.Namespace, more: list[Path]) -> None:
    """Refuse flags and places that cannot work, before anything is read.

    `more` are files that the tool writes besides.

    Raises:
        UserError: with the flag and what to change.
    """
    if args.topk < 1:
        raise UserError(f"--topk={args.topk}: must be at least 1")
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise UserError(f"--min_confidence={args.min_confidence}: must be from 0 to 1")
    if args.output.suffix in (".parquet", ".npy"):
        raise UserError(f"--output {args.output}: a submission is CSV, .csv or .csv.gz")
    outputs, directory = [*output_files(args), *more], args.all_probabilities
    to_check = set(outputs)
    if directory and directory.suffix != ".npy":
        check_output(directory, directory=True)
        if not directory.exists():
            to_check -= set(matrix_files(directory))
    for path in to_check:
        check_output(path)
    resolved = [path.resolve() for path in outputs]
    for path, place in zip(outputs, resolved, strict=True):
        if resolved.count(place) > 1:
            raise UserError(f"{path} is named for two outputs; give each its own name")


def refuse_data(outputs: Iterable[Path], data: Iterable[Path]) -> None:
    """Never write over what is read.

    Raises:
        UserError: an output is one of the files of the data.
    """
    read = {path.resolve() for path in data}
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
        from product_mil.backoff import BackOffWriter

        writers.append(BackOffWriter(levels_path(args), back_off))
    writers.append(SubmissionWriter(args.output, categories.ids))


def levels_report(writers: list[Writer], args: argparse.Namespace) -> list[str]:
    """The table of the predictions that back off, where they were asked for."""
    if args.min_confidence is None:
        return []
    from product_mil.backoff import BackOffWriter

    title = f"{levels_path(args)}, at least {args.min_confidence:g} sure:"
    return [w.counts.table(title) for w in writers if isinstance(w, BackOffWriter)]
