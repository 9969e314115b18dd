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
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from product_mil.cli.console import command
from product_mil.cli.flags import add_policy_flags, add_test_time_flags
from product_mil.cli.outputs import (
    add_output_flags,
    add_writers,
    check_outputs,
    levels_report,
    needs_all,
    output_files,
)
from product_mil.data.faults import FAULTS, faults_path, product_faults
from product_mil.ensemble.files import MISSING, MISSING_SUFFIX
from product_mil.errors import UserError
from product_mil.files.outputs import beside, user_path
from product_mil.inference.predictions import Writer, written_whole

if TYPE_CHECKING:
    from product_mil.ensemble.files import AlignedMembers
    from product_mil.ensemble.parquet import ProductFacts
    from product_mil.ensemble.rules import Fitted

RULES = ("average", "geometric_mean", "vote")


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
    parser.add_argument("--images_per_batch", type=int, default=256, help="over all devices")
    add_policy_flags(parser, "default: as in training of the first run")
    add_test_time_flags(parser)
    args = parser.parse_args(argv)
    _check(args)
    if args.runs:
        # JAX starts here, not for a wrong path.
        from product_mil.devices.runtime import configure_jax

        configure_jax()
        combine_runs(args)
    else:
        combine_predictions(args)


def _listing(args: argparse.Namespace) -> Path:
    return beside(args.output, MISSING_SUFFIX)


def _check(args: argparse.Namespace) -> None:
    if bool(args.runs) == bool(args.predictions):
        raise UserError("name the members with --runs or with --predictions, one of the two")
    if args.runs and not args.data:
        raise UserError("runs predict products: give --data")
    if args.images_per_batch < 1:
        raise UserError(f"--images_per_batch={args.images_per_batch}: must be at least 1")
    given_weights(args)
    if args.runs and args.fit_predictions:
        raise UserError("--fit_predictions goes with --predictions; runs take --fit_on")
    if args.predictions:
        if args.tta != "none" or args.logit_adjustment:
            raise UserError("--tta and --logit_adjustment go with --runs")
        if args.weights == "fitted" and not args.fit_predictions:
            raise UserError("--weights fitted: name the members' --fit_predictions")
        if args.min_confidence is not None and not args.fit_predictions:
            raise UserError("--min_confidence is calibrated: name the members' --fit_predictions")
        if args.fit_predictions and len(args.fit_predictions) != len(args.predictions):
            raise UserError(
                f"--fit_predictions names {len(args.fit_predictions)} files, --predictions "
                f"{len(args.predictions)}: one for each member, in their order"
            )
    check_outputs(args, {faults_path(args.output): FAULTS, _listing(args): MISSING})
    inputs = {path.resolve() for path in [*args.runs, *args.predictions, *args.fit_predictions]}
    for path in output_files(args):
        if path.resolve() in inputs or path.parent.resolve() in inputs:
            raise UserError(f"{path} is a member itself; choose another output")


def given_weights(args: argparse.Namespace) -> Float[np.ndarray, " m"] | None:
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
    if len(weights) != count:
        raise UserError(f"--weights {args.weights}: {len(weights)} for {count} members")
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise UserError(f"--weights {args.weights}: must not be negative, nor all 0")
    return weights / weights.sum()


def combine_runs(args: argparse.Namespace) -> None:
    """Predict with all runs in one pass and write all outputs, whole or not at all.

    Raises:
        UserError: runs or data that cannot be used together, or outputs that cannot be written.
    """
    # JAX starts here, not for a wrong path.
    from product_mil.ensemble.rules import fit_weights
    from product_mil.ensemble.runs import (
        MemberOutputs,
        calibrated_back_off,
        make_ensemble_step,
        member_batches,
        member_log_probs,
        open_members,
        validation_products,
        warn_of_known,
    )
    from product_mil.inference.step import ViewMean
    from product_mil.inference.stream import predict_products, watched

    runs = open_members(args.runs, args.checkpoint, _listing(args))
    for run in runs:
        print(run.summary, flush=True)
    products = runs[0].products(args.data)
    views = ViewMean(args.tta, args.tta_mean)
    members = MemberOutputs(runs, views, args.logit_adjustment)
    categories = runs[0].categories

    def batches_of(chosen: Any) -> Any:
        found = member_batches(runs, members, chosen, args.images_per_batch, views=views)
        bar = watched(found, int(chosen.num_images.sum()))
        return dataclasses.replace(found, loaded=bar)

    valid, weights = None, given_weights(args)
    if weights is None or args.min_confidence is not None:
        valid = validation_products(runs, args.fit_on)
        warn_of_known(runs, valid, products)
    if weights is None:
        assert valid is not None
        blocks = member_log_probs(runs, members, valid, batches_of(valid))
        fitted = fit_weights(blocks, args.rule, len(valid))
        weights = fitted.weights
        print(_fitted_table(args.runs, fitted, len(valid)), flush=True)
    topk = min(args.topk, len(categories.ids))
    step = make_ensemble_step(members, weights, args.rule, topk=topk, keep_all=needs_all(args))
    back_off = None
    if args.min_confidence is not None:
        assert valid is not None
        predicted = predict_products(valid, batches_of(valid), step, runs[0].mesh)
        back_off = calibrated_back_off(predicted, categories, args)
    about = _about(args, weights) | {
        "members": [run.identity for run in runs],
        "predicted_files": [str(path) for path in products.catalogue.paths],
        "predicted_fingerprint": products.catalogue.fingerprint,
        "test_time_augmentation": {"views": args.tta, "mean": args.tta_mean},
        "logit_adjustment": args.logit_adjustment,
    }
    listed = runs[0].fault_list(faults_path(args.output), args.bad_records, args.bad_images)
    listed.add_records(products.catalogue)
    listed.add_products(product_faults(products, labelled=False))
    writers: list[Writer] = []
    started = time.monotonic()
    with written_whole(writers):
        add_writers(writers, args, categories, len(products), about, back_off)
        batches = batches_of(products)
        listed.add(batches.faults)
        for block, faults in predict_products(products, batches, step, runs[0].mesh):
            for writer in writers:
                writer.write(block)
            listed.add(faults)
    spent_s = time.monotonic() - started
    print(_conclusion(args, weights, len(products), spent_s))
    print("\n".join([*filter(None, [listed.write()]), *levels_report(writers, args)]))


def combine_predictions(args: argparse.Namespace) -> None:
    """Combine prediction files and write all outputs, whole or not at all.

    Raises:
        UserError: files that cannot be used together, or outputs that cannot be written.
    """
    from product_mil.ensemble.combine import combine_files, file_log_probs
    from product_mil.ensemble.files import align, open_member
    from product_mil.ensemble.rules import fit_weights
    from product_mil.ensemble.runs import calibrated_back_off

    aligned = align([open_member(path) for path in args.predictions], _listing(args))
    facts = _facts(aligned, args.data, "--data", needed=args.probabilities is not None)
    categories = aligned.categories
    topk = min(args.topk, len(categories.ids))
    weights, valid, valid_facts = given_weights(args), None, None
    if args.fit_predictions:
        valid = align([open_member(path) for path in args.fit_predictions], _listing(args))
        _refuse_other_classes(args, aligned, valid)
        valid_facts = _facts(valid, args.fit_on, "--fit_on", needed=True)
    if weights is None:
        assert valid is not None
        assert valid_facts is not None
        label = categories.class_of(valid_facts.category_id)
        if (label < 0).all():
            raise UserError("--fit_predictions hold no product of a known category: give --fit_on")
        fitted = fit_weights(file_log_probs(valid, label), args.rule, len(label))
        weights = fitted.weights
        print(_fitted_table(args.predictions, fitted, len(label)), flush=True)
    back_off = None
    if args.min_confidence is not None:
        assert valid is not None
        assert valid_facts is not None
        blocks = combine_files(valid, valid_facts, weights, args.rule, topk=topk, keep_all=True)
        back_off = calibrated_back_off(((block, []) for block in blocks), categories, args)
    about = _about(args, weights) | {"members": [str(path) for path in args.predictions]}
    count = len(aligned.product_id)
    writers: list[Writer] = []
    started = time.monotonic()
    with written_whole(writers), tqdm(total=count, unit=" products", disable=None) as bar:
        add_writers(writers, args, categories, count, about, back_off)
        keep_all = needs_all(args)
        for block in combine_files(
            aligned, facts, weights, args.rule, topk=topk, keep_all=keep_all
        ):
            for writer in writers:
                writer.write(block)
            bar.update(len(block))
    print(_conclusion(args, weights, count, time.monotonic() - started))
    print("\n".join(levels_report(writers, args)))


def _facts(
    aligned: "AlignedMembers", spec: str | None, flag: str, *, needed: bool
) -> "ProductFacts":
    """What is known of the products, from labelled data or from the members.

    Raises:
        UserError: it is needed and nobody has it, or the data lacks products.
    """
    from product_mil.ensemble.parquet import ProductFacts
    from product_mil.sources.bson.index import open_catalogue
    from product_mil.sources.catalogue import NO_CATEGORY
    from product_mil.sources.lookup import rows_of

    ids = aligned.product_id
    if spec is None:
        facts = aligned.facts
        if facts is None and needed:
            raise UserError(
                f"{aligned.members[0].path}: a matrix holds neither the products' categories nor "
                f"their number of images: give {flag}"
            )
        zeros = np.zeros(len(ids), np.int32)
        return facts or ProductFacts(np.full(len(ids), NO_CATEGORY), zeros, zeros + 1)
    catalogue = open_catalogue(spec)
    rows = catalogue.first_records()
    known = np.asarray(catalogue.product_id)[rows]
    found = rows_of(known, ids)
    lost = ids[found < 0]
    if len(lost):
        raise UserError(
            f"{spec} lacks {len(lost)} of the members' products, such as {lost[0]}: give the data "
            "that they were predicted on"
        )
    at = rows[found]
    num_images = np.asarray(catalogue.num_images)[at].astype(np.int32)
    return ProductFacts(np.asarray(catalogue.category_id)[at], num_images, num_images)


def _refuse_other_classes(
    args: argparse.Namespace, aligned: "AlignedMembers", valid: "AlignedMembers"
) -> None:
    if not np.array_equal(aligned.categories.ids, valid.categories.ids):
        raise UserError(
            f"{args.fit_predictions[0]} knows other categories than {args.predictions[0]}: fit on "
            "predictions of the same models"
        )


def _about(args: argparse.Namespace, weights: Float[np.ndarray, " m"]) -> dict[str, Any]:
    import product_mil

    return {
        "ensemble": args.rule,
        "weights": weights.tolist(),
        "version": product_mil.__version__,
    }


def _fitted_table(names: Sequence[Path], fitted: "Fitted", num_products: int) -> str:
    some = "" if fitted.num_products == num_products else f" of {num_products}"
    lines = [f"weights fitted on {fitted.num_products}{some} validation products:"]
    columns = zip(names, fitted.weights, fitted.member_nll, strict=True)
    lines += [f"  {weight:.4f}  nll {nll:.4f}  {name}" for name, weight, nll in columns]
    return "\n".join([*lines, f"  ensemble nll {fitted.nll:.4f}"])


def _conclusion(
    args: argparse.Namespace, weights: Float[np.ndarray, " m"], count: int, spent_s: float
) -> str:
    numbers = ",".join(f"{weight:.6g}" for weight in weights)
    return (
        f"{args.output}: {count} products in {spent_s:.1f} s, --rule {args.rule} "
        f"--weights {numbers}"
    )
