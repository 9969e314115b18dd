"""Predict the category of every product of BSON files with a trained run.

    python tools/export_predictions.py --workdir runs/joint --data test.bson \
        --output submission.csv.gz [--probabilities top.parquet] [--all_probabilities matrix/]

The submission has a row for each product, in file order; a product without a readable image gets
the most frequent category. Pictures and records that could not be read are listed in
<output>.bad_records.csv.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from product_mil.data.faults import FAULTS_SUFFIX, product_faults
from product_mil.data.index import NO_CATEGORY
from product_mil.data.loader import Products
from product_mil.errors import UserError, exit_on_user_error
from product_mil.flags import add_policy_flags, add_test_time_flags
from product_mil.predictions import (
    MatrixWriter,
    ParquetWriter,
    SubmissionWriter,
    Writer,
    check_output,
    matrix_files,
    written_whole,
)

if TYPE_CHECKING:
    from product_mil.trained import TrainedRun


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, check the outputs, open the run, predict."""
    parser = argparse.ArgumentParser(
        description="Predict the category of every product of BSON files with a trained run."
    )
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a trained run")
    parser.add_argument("--data", required=True, help="BSON file, glob, or several with commas")
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
        "--checkpoint", choices=("last", "best"), default="last", help="default: last"
    )
    parser.add_argument("--images_per_batch", type=int, default=256, help="over all devices")
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    args = parser.parse_args(argv)
    with exit_on_user_error():
        _check(args)
        # JAX starts here, not for a wrong path.
        from product_mil.trained import open_run

        export(open_run(args.workdir, args.checkpoint), args)


def _outputs(args: argparse.Namespace) -> list[Path]:
    others = [args.probabilities] if args.probabilities else []
    matrix = matrix_files(args.all_probabilities) if args.all_probabilities else ()
    return [args.output, _faults_path(args.output), *others, *matrix]


def _faults_path(output: Path) -> Path:
    return output.with_name(output.name + FAULTS_SUFFIX)


def _check(args: argparse.Namespace) -> None:
    for name in ("topk", "images_per_batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: must be at least 1")
    if args.output.suffix in (".parquet", ".npy"):
        raise UserError(f"--output {args.output}: a submission is CSV, .csv or .csv.gz")
    outputs, directory = _outputs(args), args.all_probabilities
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


def export(run: "TrainedRun", args: argparse.Namespace) -> None:
    """Predict the data and write all outputs, whole or not at all.

    Raises:
        UserError: data that cannot be read, or outputs that cannot be written.
    """
    named = filter(None, (args.output, args.probabilities, args.all_probabilities))
    print(f"{run.summary}\nwriting {', '.join(map(str, named))}", flush=True)
    products = run.products(args.data)
    data = {path.resolve() for path in products.catalogue.paths}
    for path in _outputs(args):
        if path.resolve() in data:
            raise UserError(f"{path} is the data itself; choose another output")
    writers: list[Writer] = []
    with written_whole(writers):
        add_writers(writers, run, products, args)
        report = predict(run, products, writers, args)
    print(report)


def add_writers(
    writers: list[Writer], run: "TrainedRun", products: Products, args: argparse.Namespace
) -> None:
    """A writer for each output asked for; the submission, named last, is the sign of success."""
    class_ids = run.categories.ids
    about: dict[str, Any] = {
        "categories_json": run.categories.to_json(),
        "run": run.identity
        | {
            "predicted_files": [str(path) for path in products.catalogue.paths],
            "predicted_fingerprint": products.catalogue.fingerprint,
            "test_time_augmentation": {"views": args.tta, "mean": args.tta_mean},
        },
    }
    if args.all_probabilities:
        writers.append(MatrixWriter(args.all_probabilities, class_ids, len(products), **about))
    if args.probabilities:
        topk = min(args.topk, len(class_ids))
        writers.append(ParquetWriter(args.probabilities, class_ids, topk=topk, **about))
    writers.append(SubmissionWriter(args.output, class_ids))


def predict(
    run: "TrainedRun", products: Products, writers: list[Writer], args: argparse.Namespace
) -> str:
    """Predict and write all products; list what could not be read. Lines that sum it up."""
    from product_mil.predict import predict_products
    from product_mil.train.step import ViewMean, make_predict_step

    topk = min(args.topk, len(run.categories.ids))
    step = make_predict_step(
        run.model.structure,
        topk=topk,
        keep_all=args.all_probabilities is not None,
        views=ViewMean(args.tta, args.tta_mean),
    )
    arrays, log_prior = (run.model.parameters, run.model.statistics), run.log_prior
    blocks = predict_products(
        products,
        run.batches(products, args.images_per_batch, pixels=args.tta != "none"),
        lambda batch: step(*arrays, batch, log_prior),
        run.mesh,
    )
    listed = run.fault_list(_faults_path(args.output), args.bad_records, args.bad_images)
    listed.add_records(products.catalogue)
    listed.add_products(product_faults(products, labelled=False))
    started = time.monotonic()
    imageless = 0
    num_images = int(products.num_images.sum())
    with tqdm(total=num_images, unit=" images", unit_scale=True, disable=None) as bar:
        for block, found in blocks:
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
    labelled = int((catalogue.category_id[products.rows] != NO_CATEGORY).sum())
    unknown = labelled - int((products.labels >= 0).sum())
    if unknown:
        lines.append(f"{unknown} of {labelled} labelled products are of no category of this run")
    repeated = catalogue.num_products - len(products)
    if repeated:
        lines.append(f"{repeated} records repeat a product id: the first one of each is predicted")
    if catalogue.num_bad_records or catalogue.unread_bytes:
        lines.append(
            f"{catalogue.num_bad_records} broken records and {catalogue.unread_bytes} bytes of the "
            "data that could not be read as records have no row"
        )
    return lines


if __name__ == "__main__":
    main()
