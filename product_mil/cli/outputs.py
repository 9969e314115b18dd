"""The outputs that the predicting commands share: their flags, checks and tables."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from product_mil.cli.flags import add_output_flag
from product_mil.cli.parser import CommandParser
from product_mil.files.outputs import Kind, user_path
from product_mil.inference.outputs import Outputs, Written


def add_output_flags(parser: CommandParser) -> None:
    """`--output`, `--probabilities`, `--topk`, `--all_probabilities`, `--min_confidence`."""
    add_output_flag(parser, "FILE", "a .csv or .csv.gz")
    parser.add_argument(
        "--probabilities",
        type=user_path,
        metavar="FILE",
        help="also top classes and attention (.parquet)",
    )
    parser.add_argument(
        "--topk", type=int, default=10, metavar="N", help="classes there (default: 10)"
    )
    parser.add_argument(
        "--all_probabilities",
        type=user_path,
        metavar="DIR",
        help="also the full matrix, with its ids (or .npy file)",
    )
    parser.add_argument(
        "--min_confidence",
        type=float,
        metavar="P",
        help="also <output>.levels.csv: the category where it is that sure, else its group",
    )


def checked_outputs(args: argparse.Namespace, more: Mapping[Path, Kind]) -> Outputs:
    """The outputs that the flags ask for; refused where they cannot work, before anything is read.

    `more` are files that the command writes besides.

    Raises:
        UserError: with the flag and what to change.
    """
    outputs = Outputs(
        args.output, args.probabilities, args.topk, args.all_probabilities, args.min_confidence
    )
    outputs.check(args.data, more)
    return outputs


def last_lines(written: Written, outputs: Outputs) -> list[str]:
    """What is to be known of the files: remarks, and the table of predictions that back off."""
    lines = list(written.remarks)
    if written.levels is not None:
        title = f"{outputs.levels}, at least {outputs.min_confidence:g} sure:"
        lines.append(written.levels.table(title))
    return lines
