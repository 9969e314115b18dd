"""Write a trained run's predictions for all products of some data."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from product_mil.data.faults import (
    FAULTS,
    FaultList,
    Policy,
    faults_path,
    lost,
    product_faults,
)
from product_mil.data.products import Products
from product_mil.inference.outputs import Outputs, Written, write_predictions
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.step import Predicted
from product_mil.inference.stream import predict_products
from product_mil.model.warp import Views
from product_mil.progress import Progress
from product_mil.runs.feed import Batches
from product_mil.runs.fitting import log_known, log_known_ids, validation_products
from product_mil.runs.trained import TrainedRun
from product_mil.sources.ids import has_id

if TYPE_CHECKING:
    from product_mil.inference.backoff import BackOff

SHOWN_IDS = 3  # of the products without a readable image


def predict(
    run: TrainedRun,
    spec: str,
    outputs: Outputs,
    *,
    images_per_batch: int | None = None,
    views: Views = "none",
    tau: float = 0.0,
    fit_on: str | None = None,
    bad_records: Policy | None = None,
    bad_images: Policy | None = None,
) -> Written:
    """Predict every product of the data `spec` and write all outputs, whole or not at all.

    `views` and `tau` are those of `make_predict_step`. `fit_on` names labelled products for the
    calibration of predictions that back off. By default the temperature in the checkpoint is used,
    which was fitted on the run's validation products. These are predicted again if the checkpoint
    has no temperature, or if `views` or `tau` change predictions. Faults are listed beside the
    submission, or raised, by the policies; a policy of None is that of training.

    Raises:
        UserError: data cannot be read, or outputs cannot be written.
    """
    outputs.check(spec, {faults_path(outputs.submission): FAULTS})
    products = run.products(spec)
    step = run.predict_step(topk=outputs.topk, keep_all=outputs.need_all, views=views, tau=tau)

    def batches_of(chosen: Products) -> Batches:
        return run.batches(chosen, images_per_batch, pixels=views != "none", of_one_shape=True)

    back_off = None
    if outputs.min_confidence is None:
        log_known_ids([run], products)
    else:
        from product_mil.inference.backoff import BackOff, calibrated_back_off

        least = outputs.min_confidence
        as_validated = fit_on is None and views == "none" and not tau
        if as_validated and run.temperature is not None:
            log_known([run], None, products)
            back_off = BackOff(run.categories, min_confidence=least, temperature=run.temperature)
            logging.getLogger(__name__).info(
                "calibrated on the run's validation products: temperature %.3f", run.temperature
            )
        else:
            valid = validation_products([run], fit_on)
            log_known([run], valid, products)
            predicted = predict_products(valid, batches_of(valid), step, run.mesh)
            back_off = calibrated_back_off((block for block, _ in predicted), run.categories, least)
    listed = run.fault_list(faults_path(outputs.submission), bad_records, bad_images)
    listed.add_records(products.catalogue)
    about = run.identity | predicted_as(products, views, tau)
    written = write_products(
        run, products, lambda: batches_of(products), step, outputs, listed, about, back_off
    )
    summary = listed.write()
    where = None if summary is None else listed.path
    return written._replace(
        remarks=[*_remarks(run, products, written, where), *filter(None, [summary])]
    )


def write_products(
    run: TrainedRun,
    products: Products,
    batches: Callable[[], Batches],
    step: Callable[..., Predicted],
    outputs: Outputs,
    listed: FaultList,
    about: Mapping[str, Any],
    back_off: "BackOff | None" = None,
) -> Written:
    """Predict these products by a step of the run, and write the outputs, whole or not at all.

    `batches` is called when the outputs have been opened. Faults of products and images are added
    to `listed`, which is not written yet. `about` describes the run in the files, as plain JSON.

    Raises:
        UserError: a fault is refused by the policies of `listed`, or an image cannot be read.
        OutputError: an output cannot be written.
    """
    listed.add_products(product_faults(products, labelled=False))
    started, count, num_images = time.monotonic(), len(products), int(products.num_images.sum())
    imageless, first_imageless = 0, []

    def blocks() -> Iterator[PredictionBlock]:
        nonlocal imageless
        found = batches()
        with Progress(num_images, "images") as bar:
            listed.add(found.faults)
            bar.update(len(found.faults))
            for block, faults in predict_products(products, found, step, run.mesh):
                yield block
                listed.add(faults)
                bare = block.product_id[block.num_readable_images == 0].tolist()
                imageless += len(bare)
                first_imageless.extend(bare[: SHOWN_IDS - len(first_imageless)])
                bar.update(len(block.image_index) + len(faults))

    levels = write_predictions(blocks(), outputs, run.categories, count, about, back_off)
    spent_s = time.monotonic() - started
    return Written(count, num_images, spent_s, levels, [], imageless, tuple(first_imageless))


def predicted_as(products: Products, views: Views, tau: float) -> dict[str, Any]:
    """The description of data and settings for prediction files, as plain JSON."""
    return {
        "predicted_files": [str(path) for path in products.catalogue.paths],
        "predicted_fingerprint": products.catalogue.fingerprint,
        "test_time_augmentation": {"views": views},
        "logit_adjustment": tau,
    }


def _remarks(
    run: TrainedRun, products: Products, written: Written, listing: Path | None
) -> list[str]:
    catalogue, lines = products.catalogue, []
    if written.num_imageless:
        guess = run.categories.ids[run.log_prior.argmax()]
        ids = ", ".join(map(str, written.first_imageless))
        more = ", ..." * (written.num_imageless > len(written.first_imageless))
        why = f"; {listing} says why" if listing else ""
        lines.append(
            f"{written.num_imageless} products have no readable image ({ids}{more}): predicted as "
            f"{guess}{why}"
        )
    labelled = int(has_id(catalogue.category_id[products.product_rows]).sum())
    unknown = labelled - int((products.labels >= 0).sum())
    if unknown:
        lines.append(f"{unknown} of {labelled} labelled products are of no category of this run")
    repeated = catalogue.num_products - len(products)
    if repeated:
        lines.append(f"{repeated} records repeat a product id: the first one of each is predicted")
    if unread := lost(catalogue):
        lines.append(f"{unread} have no row")
    return lines
