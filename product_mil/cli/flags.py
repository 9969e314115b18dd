"""Flags that several tools share."""

import argparse
import math

from product_mil.errors import UserError


def add_batch_flag(parser: argparse.ArgumentParser) -> None:
    """`--images_per_batch`; less than 1 is refused with `UserError` while flags are parsed."""
    parser.add_argument(
        "--images_per_batch",
        type=_images_per_batch,
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


def add_policy_flags(parser: argparse.ArgumentParser, default: str) -> None:
    """`--bad_records` and `--bad_images`; None where the user leaves the default."""
    for name in ("records", "images"):
        parser.add_argument(
            f"--bad_{name}",
            choices=("skip", "fail"),
            help=f"leave damaged {name} out and list them, or stop at the first ({default})",
        )


def add_test_time_flags(parser: argparse.ArgumentParser) -> None:
    """`--tta` and `--logit_adjustment`: what the predict step takes besides."""
    parser.add_argument(
        "--tta",
        choices=("none", "flip", "crops", "flip_crops"),
        default="none",
        help="average the probabilities over views of every image: mirrored too, its four corners "
        "too, or both",
    )
    parser.add_argument(
        "--logit_adjustment",
        type=_finite,
        default=0.0,
        metavar="TAU",
        help="answer as if classes were this much more alike in frequency than in training: 1 "
        "takes their frequencies out (default: 0; docs/measured/imbalance.md)",
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: must be finite")
    return value
