r"""Combine several trained runs, or several prediction files, into one prediction.

    product-mil ensemble --runs runs/joint runs/averaged --data test.bson \
        --output submission.csv
    product-mil ensemble --predictions joint.parquet averaged/ \
        --weights fitted --fit_predictions joint_valid.parquet averaged_valid/ \
        --output submission.csv

Runs see each image once, together. The outputs are those of `product-mil predict`.
"""

import argparse

import numpy as np
from jaxtyping import Float64

from product_mil.cli.console import command
from product_mil.cli.flags import (
    add_batch_flag,
    add_checkpoint_flag,
    add_data_flag,
    add_policy_flags,
    add_test_time_flags,
)
from product_mil.cli.imports import add_import_flag
from product_mil.cli.outputs import add_output_flags, checked_outputs, last_lines
from product_mil.cli.parser import CommandParser
from product_mil.data.faults import FAULTS, faults_path
from product_mil.ensemble.files import MISSING, missing_path
from product_mil.ensemble.rule_names import RULES, normalised
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.inference.outputs import Outputs


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, check them, combine."""
    parser = CommandParser("ensemble", __doc__)
    parser.add_argument(
        "--runs", nargs="+", type=user_path, default=[], metavar="DIR", help="trained runs"
    )
    parser.add_argument(
        "--predictions",
        nargs="+",
        type=user_path,
        default=[],
        metavar="FILE",
        help="or files that product-mil predict wrote",
    )
    add_data_flag(parser, required=False)
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="average",
        metavar="RULE",
        help="average (the default), geometric_mean or vote",
    )
    parser.add_argument(
        "--weights",
        default="equal",
        metavar="W",
        help="equal (the default), fitted, or such as 0.5,0.3,0.2",
    )
    parser.add_argument(
        "--fit_on",
        metavar="DATA",
        help="labelled products that weights and calibration are fitted on (default: validation "
        "products of runs, labels in --fit_predictions)",
    )
    parser.add_argument(
        "--fit_predictions",
        nargs="+",
        type=user_path,
        default=[],
        metavar="FILE",
        help="their predictions of validation products",
    )
    add_output_flags(parser)
    add_checkpoint_flag(parser)
    add_batch_flag(parser)
    add_import_flag(parser)
    add_policy_flags(parser, "default: as the first run")
    add_test_time_flags(parser)
    args = parser.parse_args(argv)
    outputs, weights = _checked(args)
    # JAX starts here, not for a wrong path.
    from product_mil.ensemble.export import combine_predictions, combine_runs

    if args.runs:
        from product_mil.devices.runtime import configure_jax

        configure_jax()
        found = combine_runs(
            args.runs,
            args.data,
            outputs,
            rule=args.rule,
            weights=weights,
            fit_on=args.fit_on,
            checkpoint=args.checkpoint,
            images_per_batch=args.images_per_batch,
            views=args.tta,
            tau=args.logit_adjustment,
            bad_records=args.bad_records,
            bad_images=args.bad_images,
        )
    else:
        found = combine_predictions(
            args.predictions,
            outputs,
            spec=args.data,
            rule=args.rule,
            weights=weights,
            fit_paths=args.fit_predictions,
            fit_on=args.fit_on,
        )
    numbers = ",".join(f"{weight:.6g}" for weight in found.weights)
    line = (
        f"{args.output}: {found.written.num_products} products in {found.written.spent_s:.1f} s, "
        f"--rule {args.rule} --weights {numbers}"
    )
    print("\n".join([line, *last_lines(found.written, outputs)]))


def _checked(args: argparse.Namespace) -> tuple[Outputs, Float64[np.ndarray, " m"] | None]:
    """The outputs, and the weights as `given_weights` returns them."""
    if bool(args.runs) == bool(args.predictions):
        raise UserError("name the members with --runs or with --predictions, one of the two")
    if args.runs and not args.data:
        raise UserError("runs predict products: give --data")
    weights = given_weights(args)
    if args.runs and args.fit_predictions:
        raise UserError("--fit_predictions goes with --predictions; runs take --fit_on")
    if args.predictions and (args.tta != "none" or args.logit_adjustment):
        raise UserError("--tta and --logit_adjustment go with --runs")
    more = {faults_path(args.output): FAULTS, missing_path(args.output): MISSING}
    outputs = checked_outputs(args, more)
    inputs = {path.resolve() for path in [*args.runs, *args.predictions, *args.fit_predictions]}
    for path in outputs.files():
        if path.resolve() in inputs or path.parent.resolve() in inputs:
            raise UserError(f"{path} is a member itself; choose another output")
    return outputs, weights


def given_weights(args: argparse.Namespace) -> Float64[np.ndarray, " m"] | None:
    """The weights as given, or equal ones, summing to 1; None where they are to be fitted.

    Raises:
        UserError: no numbers, or not one for each member.
    """
    count = len(args.runs or args.predictions)
    if args.weights == "fitted":
        return None
    if args.weights == "equal":
        return np.full(count, 1 / count)
    try:
        weights = np.asarray([float(part) for part in args.weights.split(",")])
    except ValueError:
        raise UserError(
            f"--weights {args.weights}: say equal, fitted, or numbers such as 0.5,0.3,0.2"
        ) from None
    return normalised(weights, count)
