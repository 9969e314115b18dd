"""The outputs that the predicting commands share: their flags, checks and tables."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from product_mil.errors import UserError
from product_mil.files.outputs import Kind, check_output, user_path
from product_mil.inference.files import matrix_files, matrix_kind
from product_mil.inference.outputs import Outputs, Written
from product_mil.sources.bson.names import named_files

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


def checked_outputs(args: argparse.Namespace, more: Mapping[Path, Kind]) -> Outputs:
    """The outputs that the flags ask for; refused where they cannot work, before anything is read.

    `more` are files that the command writes besides.

    Raises:
        UserError: with the flag and what to change.
    """
    if args.topk < 1:
        raise UserError(f"--topk={args.topk}: must be at least 1")
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise UserError(f"--min_confidence={args.min_confidence}: must be from 0 to 1")
    matrix = args.all_probabilities
    outputs = Outputs(args.output, args.probabilities, args.topk, matrix, args.min_confidence)
    files = {**outputs.files(), **more}
    refuse_data(files, args.data)
    inside = set(matrix_files(matrix)) if matrix and matrix.suffix.lower() != ".npy" else set()
    for path, kind in files.items():
        if path not in inside:
            check_output(path, kind)
    if inside:
        if matrix.suffix.lower() in _FILE_ENDINGS:
            raise UserError(f"--all_probabilities {matrix}: name a directory or a .npy file")
        check_output(matrix, matrix_kind(matrix, directory=True))
    return outputs


def refuse_data(outputs: Iterable[Path], spec: str | None) -> None:
    """Never write over what is read.

    Raises:
        UserError: an output is one of the files of the data, or those are not there.
    """
    read = set() if spec is None else {path.resolve() for path in named_files(spec)}
    for path in outputs:
        if path.resolve() in read:
            raise UserError(f"{path} is the data itself; choose another output")


def last_lines(written: Written, outputs: Outputs) -> list[str]:
    """What is to be known of the files: remarks, and the table of predictions that back off."""
    lines = list(written.remarks)
    if written.levels is not None:
        title = f"{outputs.levels}, at least {outputs.min_confidence:g} sure:"
        lines.append(written.levels.table(title))
    return lines
