"""Combine several trained runs, or several prediction files, into one prediction.

    python tools/ensemble.py --runs runs/joint runs/averaged --data test.bson \
        --output submission.csv.gz [--rule average] [--weights fitted]

    python tools/ensemble.py --predictions joint.parquet averaged_matrix/ --output submission.csv \
        --weights fitted --fit_predictions joint_valid.parquet averaged_valid_matrix/

Runs see each image once, together. Rules: average (of probabilities), geometric_mean, vote.
Weights: equal, fitted by the likelihood of validation products, or numbers in the order of the
members.
The outputs are those of tools/export_predictions.py, for tools/compare.py --predictions and
tools/evaluate.py --predictions.
"""

import argparse

import numpy as np
from jaxtyping import Float64

from product_mil.cli.console import command
from product_mil.cli.flags import add_batch_flag, add_policy_flags, add_test_time_flags
from product_mil.cli.imports import add_import_flag
from product_mil.cli.outputs import add_output_flags, checked_outputs, last_lines
from product_mil.data.faults import FAULTS, faults_path
from product_mil.ensemble.files import MISSING, missing_path
from product_mil.ensemble.rule_names import RULES, normalised
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.inference.outputs import Outputs


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, check them, combine."""
    parser = argparse.ArgumentParser(description="Combine trained runs or prediction files.")
    parser.add_argument("--runs", nargs="+", type=user_path, default=[], help="directories of runs")
    parser.add_argument(
        "--predictions",
        nargs="+",
        type=user_path,
        default=[],
        help="what export_predictions wrote: --probabilities or --all_probabilities",
    )
    parser.add_argument("--data", help="BSON file, glob, or several with commas")
    parser.add_argument("--rule", choices=RULES, default="average")
    parser.add_argument(
        "--weights",
        default="equal",
        help="equal (the default), fitted, or numbers such as 0.5,0.3,0.2",
    )
    parser.add_argument(
        "--fit_on",
        help="labelled BSON that weights and calibration are fitted on (runs: by default their "
        "validation products; files: the labels of --fit_predictions, if those hold none)",
    )
    parser.add_argument(
        "--fit_predictions",
        nargs="+",
        type=user_path,
        default=[],
        help="validation predictions of the members of --predictions, in their order",
    )
    add_output_flags(parser)
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    add_batch_flag(parser)
    add_import_flag(parser)
    add_policy_flags(parser, "default: as in training of the first run")
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


if __name__ == "__main__":
    main()
