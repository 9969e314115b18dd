"""Measure a trained run on any labelled BSON files, as training measures its validation part.

python tools/evaluate.py --workdir runs/joint --data labelled.bson [--json]
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from product_mil.data.faults import FaultList, product_faults
from product_mil.data.loader import Loaded
from product_mil.errors import UserError, exit_on_user_error
from product_mil.flags import add_policy_flags, add_test_time_flags

if TYPE_CHECKING:
    from product_mil.train.step import ViewMean
    from product_mil.trained import TrainedRun


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, open the run, score, print."""
    parser = argparse.ArgumentParser(description="Measure a trained run on labelled BSON files.")
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a trained run")
    parser.add_argument("--data", required=True, help="BSON file, glob, or several with commas")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--images_per_batch", type=int, default=256, help="over all devices")
    parser.add_argument("--faults", type=Path, help="list what could not be read in this CSV file")
    add_policy_flags(parser, "default: as in training")
    add_test_time_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        if args.images_per_batch < 1:
            raise UserError(f"--images_per_batch={args.images_per_batch}: must be at least 1")
        # JAX starts here, not for a typing error.
        from product_mil.train.log import metrics_table
        from product_mil.train.step import ViewMean
        from product_mil.trained import open_run

        run = open_run(args.workdir, args.checkpoint)
        if not args.json:
            print(run.summary, flush=True)
        faults = run.fault_list(args.faults, args.bad_records, args.bad_images)
        views = ViewMean(args.tta, args.tta_mean)
        metrics, remarks = evaluate(run, args.data, args.images_per_batch, faults, views)
        if args.json:
            print(json.dumps({**metrics, "remarks": remarks}, indent=1))
        else:
            print("\n".join([metrics_table(metrics, f"{args.data}:"), *remarks]))


def evaluate(
    run: "TrainedRun",
    spec: str,
    images_per_batch: int,
    faults: FaultList,
    views: "ViewMean",
) -> tuple[dict[str, float], list[str]]:
    """Metrics of `train.evaluate.metrics_of`, and what is worth saying of the data.

    What could not be read is added to `faults`, which are written.

    Raises:
        UserError: files that cannot be read, or without a product of the run's categories.
    """
    from product_mil.train.evaluate import metrics_of, score_products
    from product_mil.train.step import make_eval_step

    products = run.products(spec)
    unknown = int((products.labels < 0).sum())
    if unknown == len(products):
        raise UserError(
            f"{spec}: none of its {unknown} products has a category of {run.workdir}; evaluation "
            "needs labelled products of the run's categories"
        )
    faults.add_records(products.catalogue)
    faults.add_products(product_faults(products, labelled=True))
    step, model, log_prior = (
        make_eval_step(run.model.structure, views),
        run.model,
        run.log_prior,
    )
    scores, unreadable = score_products(
        len(products),
        _watched(
            run.batches(products, images_per_batch, pixels=views.views != "none"),
            int(products.num_images.sum()),
        ),
        lambda batch: step(model.parameters, model.statistics, batch, log_prior),
        run.mesh,
    )
    remarks = []
    if unknown:
        remarks.append(f"{unknown} products of unknown category: not scored")
    if unreadable:
        first = unreadable[0]
        remarks.append(
            f"{len(unreadable)} images could not be read, the first at byte {first.offset_bytes} "
            f"of {first.file} (product {first.product_id}): {first.reason}"
        )
    faults.add(unreadable)
    catalogue = products.catalogue
    if catalogue.num_bad_records or catalogue.unread_bytes:
        remarks.append(
            f"{catalogue.num_bad_records} broken records and {catalogue.unread_bytes} bytes of the "
            "data that could not be read as records: not scored"
        )
    summary = faults.write()
    if summary:
        remarks.append(summary)
    return metrics_of(scores, products, run.categories), remarks


def _watched(batches: Iterable[Loaded], num_images: int) -> Iterator[Loaded]:
    """The same batches under a progress bar."""
    with tqdm(total=num_images, unit=" images", unit_scale=True, disable=None) as bar:
        for loaded in batches:
            yield loaded
            bar.update(int((loaded.batch.slots.segment < loaded.batch.slots.label.shape[1]).sum()))


if __name__ == "__main__":
    main()
