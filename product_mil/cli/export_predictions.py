"""Predict the category of every product of BSON files with a trained run.

    python tools/export_predictions.py --workdir runs/joint --data test.bson \
        --output submission.csv.gz [--probabilities top.parquet] [--all_probabilities matrix/]

The submission has a row for each product, in file order; a product without a readable image gets
the most frequent category. Pictures and records that could not be read are listed in
<output>.bad_records.csv. `--min_confidence 0.9` adds <output>.levels.csv, for people who work on a
catalogue: the category where it is that sure, else its group at level 2 or 1.
"""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from product_mil.cli.console import command
from product_mil.cli.flags import add_policy_flags, add_test_time_flags
from product_mil.cli.outputs import (
    add_output_flags,
    add_writers,
    check_outputs,
    levels_report,
    needs_all,
)
from product_mil.data.faults import FAULTS, faults_path, lost, product_faults
from product_mil.data.products import Products
from product_mil.errors import UserError
from product_mil.files.outputs import user_path
from product_mil.inference.predictions import Writer, written_whole
from product_mil.sources.catalogue import NO_CATEGORY

if TYPE_CHECKING:
    from product_mil.runs.feed import Batches
    from product_mil.runs.trained import TrainedRun


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, check the outputs, open the run, predict."""
    parser = argparse.ArgumentParser(
        description="Predict the category of every product of BSON files with a trained run."
    )
    parser.add_argument(
        "--workdir", type=user_path, required=True, help="a trained run's directory"
    )
    parser.add_argument("--data", required=True, help="BSON file, glob, or several with commas")
    add_output_flags(parser)
    parser.add_argument(
        "--fit_on",
        help="labelled products for the calibration of --min_confidence "
        "(default: the run's own validation products)",
    )
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), default="last", help="default: last"
    )
    parser.add_argument("--images_per_batch", type=int, default=256, help="over all devices")
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    args = parser.parse_args(argv)
    _check(args)
    # JAX starts here, not for a wrong path.
    from product_mil.devices.runtime import configure_jax
    from product_mil.runs.trained import open_run

    configure_jax()
    export(open_run(args.workdir, args.checkpoint), args)


def _check(args: argparse.Namespace) -> None:
    if args.images_per_batch < 1:
        raise UserError(f"--images_per_batch={args.images_per_batch}: must be at least 1")
    check_outputs(args, {faults_path(args.output): FAULTS})


def export(run: "TrainedRun", args: argparse.Namespace) -> None:
    """Predict the data and write all outputs, whole or not at all.

    Raises:
        UserError: data that cannot be read, or outputs that cannot be written.
    """
    named = filter(None, (args.output, args.probabilities, args.all_probabilities))
    print(f"{run.summary}\nwriting {', '.join(map(str, named))}", flush=True)
    products = run.products(args.data)
    step = _predict_step(run, args)
    back_off = None
    if args.min_confidence is not None:
        from product_mil.ensemble.runs import (
            calibrated_back_off,
            validation_products,
            warn_of_known,
        )
        from product_mil.inference.stream import predict_products

        valid = validation_products([run], args.fit_on)
        warn_of_known([run], valid, products)
        predicted = predict_products(valid, _batches(run, valid, args), step, run.mesh)
        back_off = calibrated_back_off(predicted, run.categories, args)
    about = run.identity | {
        "predicted_files": [str(path) for path in products.catalogue.paths],
        "predicted_fingerprint": products.catalogue.fingerprint,
        "test_time_augmentation": {"views": args.tta, "mean": args.tta_mean},
        "logit_adjustment": args.logit_adjustment,
    }
    writers: list[Writer] = []
    with written_whole(writers):
        add_writers(writers, args, run.categories, len(products), about, back_off)
        report = predict(run, products, step, writers, args)
    print("\n".join([report, *levels_report(writers, args)]))


def _predict_step(run: "TrainedRun", args: argparse.Namespace) -> Callable[[Any], Any]:
    """What the outputs need of a batch."""
    from product_mil.inference.step import ViewMean

    return run.predict_step(
        topk=args.topk,
        keep_all=needs_all(args),
        views=ViewMean(args.tta, args.tta_mean),
        tau=args.logit_adjustment,
    )


def _batches(run: "TrainedRun", products: Products, args: argparse.Namespace) -> "Batches":
    return run.batches(products, args.images_per_batch, pixels=args.tta != "none")


def predict(
    run: "TrainedRun",
    products: Products,
    step: Callable[[Any], Any],
    writers: list[Writer],
    args: argparse.Namespace,
) -> str:
    """Predict and write all products; list what could not be read. Lines that sum it up."""
    from product_mil.inference.stream import predict_products

    listed = run.fault_list(faults_path(args.output), args.bad_records, args.bad_images)
    listed.add_records(products.catalogue)
    listed.add_products(product_faults(products, labelled=False))
    started = time.monotonic()
    batches = _batches(run, products, args)
    listed.add(batches.faults)
    imageless = 0
    num_images = int(products.num_images.sum())
    with tqdm(total=num_images, unit=" images", unit_scale=True, disable=None) as bar:
        bar.update(len(batches.faults))
        for block, found in predict_products(products, batches, step, run.mesh):
            for writer in writers:
                writer.write(block)
            listed.add(found)
            imageless += int((block.num_readable_images == 0).sum())
            bar.update(len(block.image_index) + len(found))
    spent_s = time.monotonic() - started
    return "\n".join(
        [
            f"{args.output}: {len(products)} products, {num_images} images in {spent_s:.1f} s, "
            f"{num_images / max(spent_s, 1e-9):.0f} images/s",
            *_remarks(run, products, imageless),
            *filter(None, [listed.write()]),
        ]
    )


def _remarks(run: "TrainedRun", products: Products, imageless: int) -> list[str]:
    catalogue, lines = products.catalogue, []
    if imageless:
        guess = run.categories.ids[run.log_prior.argmax()]
        lines.append(f"{imageless} products have no readable image: predicted as {guess}")
    labelled = int((catalogue.category_id[products.product_rows] != NO_CATEGORY).sum())
    unknown = labelled - int((products.labels >= 0).sum())
    if unknown:
        lines.append(f"{unknown} of {labelled} labelled products are of no category of this run")
    repeated = catalogue.num_products - len(products)
    if repeated:
        lines.append(f"{repeated} records repeat a product id: the first one of each is predicted")
    if unread := lost(catalogue):
        lines.append(f"{unread} have no row")
    return lines
