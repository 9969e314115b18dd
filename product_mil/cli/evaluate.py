"""Measure a trained run on any labelled BSON files, as training measures its validation part.

python tools/evaluate.py --workdir runs/joint --data labelled.bson [--json]
python tools/evaluate.py --predictions ensemble.parquet --data labelled.bson

`--predictions` takes what tools/export_predictions.py and tools/ensemble.py write: --probabilities,
--all_probabilities or a submission, which has a first guess alone.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from product_mil.cli.console import command
from product_mil.cli.flags import add_policy_flags, add_test_time_flags
from product_mil.cli.outputs import refuse_data
from product_mil.data.faults import FAULTS, FaultList, lost, product_faults
from product_mil.errors import UserError
from product_mil.files.outputs import check_output, user_path

if TYPE_CHECKING:
    from product_mil.inference.step import ViewMean
    from product_mil.runs.known_products import Known
    from product_mil.runs.trained import TrainedRun


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, open the run, score, print."""
    parser = argparse.ArgumentParser(description="Measure a trained run on labelled BSON files.")
    parser.add_argument("--workdir", type=user_path, help="directory of a trained run")
    parser.add_argument("--predictions", type=user_path, help="a prediction file in place of a run")
    parser.add_argument("--data", required=True, help="BSON file, glob, or several with commas")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--images_per_batch", type=int, default=256, help="over all devices")
    parser.add_argument(
        "--faults", type=user_path, help="list here, as .csv, what could not be read"
    )
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    args = parser.parse_args(argv)
    if args.images_per_batch < 1:
        raise UserError(f"--images_per_batch={args.images_per_batch}: must be at least 1")
    if (args.workdir is None) == (args.predictions is None):
        raise UserError("name a run with --workdir or a file with --predictions, one of the two")
    if args.predictions is not None and (
        args.tta != "none" or args.logit_adjustment or args.faults is not None
    ):
        raise UserError("--tta, --logit_adjustment and --faults go with --workdir alone")
    if args.faults is not None:
        refuse_data([args.faults], args.data)
        check_output(args.faults, FAULTS)
    # JAX starts here, not for a typing error.
    from product_mil.devices.runtime import configure_jax
    from product_mil.inference.step import ViewMean
    from product_mil.runs.trained import open_run
    from product_mil.train.log import metrics_table

    configure_jax()
    if args.predictions is not None:
        metrics, remarks, known = evaluate_file(args.predictions, args.data)
    else:
        run = open_run(args.workdir, args.checkpoint)
        if not args.json:
            print(run.summary, flush=True)
        faults = run.fault_list(args.faults, args.bad_records, args.bad_images)
        views = ViewMean(args.tta, args.tta_mean)
        metrics, remarks, known = evaluate(
            run, args.data, args.images_per_batch, faults, views, args.logit_adjustment
        )
    name = str(args.workdir or f"the run behind {args.predictions}")
    said = f"whether {name} has seen these products is unknown"
    if known is not None:
        said = known.sentence(name)
    if args.json:
        print(json.dumps({**metrics, "remarks": [*remarks, said]}, indent=1))
    else:
        print("\n".join([said, metrics_table(metrics, f"{args.data}:"), *remarks]))


def evaluate(
    run: "TrainedRun",
    spec: str,
    images_per_batch: int,
    faults: FaultList,
    views: "ViewMean",
    tau: float = 0.0,
) -> "tuple[dict[str, float], list[str], Known | None]":
    """Metrics of `metrics_of`, what is worth saying of the data, what the run has seen of it.

    What could not be read is added to `faults`, which are written.

    Raises:
        UserError: files that cannot be read, or without a product of the run's categories.
    """
    from product_mil.inference.metrics import metrics_of, score_products
    from product_mil.inference.stream import watched
    from product_mil.runs.lacking import refuse_other_categories

    products = run.products(spec)
    refuse_other_categories(products.catalogue)
    unknown = int((products.labels < 0).sum())
    if unknown == len(products):
        raise UserError(
            f"{spec}: none of its {unknown} products has a category of {run.workdir}; evaluation "
            "needs labelled products of the run's categories"
        )
    faults.add_records(products.catalogue)
    faults.add_products(product_faults(products, labelled=True))
    batches = run.batches(products, images_per_batch, pixels=views.views != "none")
    scores, unread = score_products(
        len(products),
        watched(batches, int(products.num_images.sum())),
        run.eval_step(views, tau),
        run.mesh,
    )
    found = [*batches.faults, *unread]
    remarks = []
    if unknown:
        remarks.append(f"{unknown} products of unknown category: not scored")
    unreadable = [fault for fault in found if not fault.is_remark]
    if unreadable:
        first = unreadable[0]
        remarks.append(
            f"{len(unreadable)} images could not be read, the first at byte {first.offset_bytes} "
            f"of {first.file} (product {first.product_id}): {first.reason}"
        )
    faults.add(found)
    catalogue = products.catalogue
    if unread := lost(catalogue):
        remarks.append(f"{unread}: not scored")
    summary = faults.write()
    if summary:
        remarks.append(summary)
    return metrics_of(scores, products, run.categories), remarks, run.known(products)


def evaluate_file(path: Path, spec: str) -> "tuple[dict[str, float], list[str], Known | None]":
    """The same metrics of a prediction file, as far as the file allows them.

    Raises:
        UserError: files that cannot be read, or that have no labelled product in common.
    """
    import numpy as np

    from product_mil.compare.answers import Questions, take
    from product_mil.compare.gather.files import read_answers
    from product_mil.data.products import Products
    from product_mil.inference.metrics import TREE_METRICS, ProductScores, metrics_of
    from product_mil.runs.known_products import known_to_file
    from product_mil.sources.bson.index import open_catalogue
    from product_mil.sources.categories import categories_from_ids
    from product_mil.sources.lookup import rows_of

    catalogue = open_catalogue(spec)
    rows = catalogue.first_records()
    ids, category = (
        np.asarray(column)[rows] for column in (catalogue.product_id, catalogue.category_id)
    )
    num_images = np.asarray(catalogue.num_images)[rows].astype(np.int32)
    file = read_answers(path, Questions(ids, category, num_images))
    place = rows_of(file.product_id, ids)
    there = place >= 0
    # A submission knows no tree: every id is a class of its own.
    known = np.concatenate([category, file.answers.guess])
    categories = file.categories or categories_from_ids(known)
    labels = np.where(there, categories.class_of(category), -1).astype(np.int32)
    if (labels < 0).all():
        raise UserError(
            f"{path} and {spec} have no product of a known category in common: give the labelled "
            "products that were predicted"
        )
    remarks = [f"{path}: no {file.left_out}"]
    if not there.all():
        remarks.append(f"{int((~there).sum())} products are not in {path}: not scored")
    unknown = int((labels[there] < 0).sum())
    if unknown:
        remarks.append(f"{unknown} products of unknown category: not scored")
    answers, count = take(file.answers, place), len(rows)
    top1 = categories.class_of(answers.guess)
    lacking = {
        "top5": answers.in_top5 is None,
        "calibration_error": answers.confidence is None,
        "nll": answers.log_prob_true is None,
        **dict.fromkeys(TREE_METRICS, file.categories is None),
    }
    zeros = np.zeros(count, np.float32)
    scores = ProductScores(
        top1=top1,
        in_top5=zeros.astype(bool) if answers.in_top5 is None else answers.in_top5,
        confidence=zeros if answers.confidence is None else answers.confidence,
        log_prob_true=zeros if answers.log_prob_true is None else answers.log_prob_true,
    )
    products = Products(catalogue, rows, labels, max(int(num_images.max()), 1))
    metrics = metrics_of(scores, products, categories)
    known_metrics = {name: v for name, v in metrics.items() if not lacking.get(name)}
    return known_metrics, remarks, known_to_file(file.run, ids[there])
