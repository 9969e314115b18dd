"""Flags that several commands share."""

import argparse
import math

from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError
from product_mil.files.outputs import user_path


def add_workdir_flag(parser: CommandParser, *, required: bool) -> None:
    """`--workdir`, a trained run, or what travels of one."""
    parser.add_argument(
        "--workdir",
        type=user_path,
        required=required,
        metavar="DIR",
        help="a trained run, what export-model wrote, or hf://owner/name",
    )


def add_data_flag(parser: CommandParser, *, required: bool) -> None:
    """`--data`, a source of products."""
    parser.add_argument(
        "--data",
        required=required,
        metavar="DATA",
        help="BSON, folder, table, mongodb://...; or a glob",
    )


def add_output_flag(parser: CommandParser, metavar: str, about: str) -> None:
    """`--output`, which must be given."""
    parser.add_argument("--output", type=user_path, required=True, metavar=metavar, help=about)


def add_checkpoint_flag(parser: CommandParser) -> None:
    """`--checkpoint`: the last one, or the one that was best in validation."""
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), default="last", help="default: last"
    )


def add_batch_flag(parser: CommandParser) -> None:
    """`--images_per_batch`; less than 1 is refused with `UserError` while flags are parsed."""
    parser.add_argument(
        "--images_per_batch",
        type=_images_per_batch,
        metavar="N",
        help="over all devices (default: what is fastest on them)",
    )


def _images_per_batch(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
    if value < 1:
        raise UserError(f"--images_per_batch={value}: must be at least 1")
    return value


def add_policy_flags(parser: CommandParser, default: str) -> None:
    """`--bad_records` and `--bad_images`; None where the user leaves the default."""
    for name in ("records", "images"):
        parser.add_argument(
            f"--bad_{name}",
            choices=("skip", "fail"),
            help=f"damaged {name} ({default})",
        )


def add_test_time_flags(parser: CommandParser) -> None:
    """`--tta` and `--logit_adjustment`: what the predict step takes besides."""
    parser.add_argument(
        "--tta",
        choices=("none", "flip", "crops", "flip_crops"),
        default="none",
        metavar="VIEWS",
        help="flip, crops or flip_crops: average over such views",
    )
    parser.add_argument(
        "--logit_adjustment",
        type=_finite,
        default=0.0,
        metavar="TAU",
        help="1: without the class frequencies of training",
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: must be finite")
    return value
