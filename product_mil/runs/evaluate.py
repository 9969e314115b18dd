"""Evaluate a trained run on labelled products, as training does on its validation part."""

from pathlib import Path
from typing import NamedTuple

from product_mil.data.faults import Policy, lost, product_faults
from product_mil.errors import UserError
from product_mil.inference.metrics import metrics_of, score_products
from product_mil.inference.stream import watched
from product_mil.model.warp import Views
from product_mil.runs.known_products import Known
from product_mil.runs.lacking import refuse_other_categories
from product_mil.runs.trained import TrainedRun


class Evaluation(NamedTuple):
    """The metrics, and whether they are those of a test."""

    metrics: dict[str, float]  # of `metrics_of`
    remarks: list[str]  # lines for people on the data
    known: Known | None  # how much of the data the run has seen; None if that is not known


def evaluate(
    run: TrainedRun,
    spec: str,
    *,
    images_per_batch: int | None = None,
    views: Views = "none",
    tau: float = 0.0,
    listing: Path | None = None,
    bad_records: Policy | None = None,
    bad_images: Policy | None = None,
) -> Evaluation:
    """Evaluate the run on the data `spec`.

    `views` and `tau` are those of `make_eval_step`. Faults are listed in `listing`, or raised, by
    the policies; a policy of None is that of training.

    Raises:
        UserError: a file cannot be read, or no product has a category of the run.
    """
    products = run.products(spec)
    refuse_other_categories(products.catalogue)
    unknown = int((products.labels < 0).sum())
    if unknown == len(products):
        raise UserError(
            f"{spec}: none of its {unknown} products has a category of {run.workdir}; evaluation "
            "needs labelled products of the run's categories"
        )
    faults = run.fault_list(listing, bad_records, bad_images)
    faults.add_records(products.catalogue)
    faults.add_products(product_faults(products, labelled=True))
    batches = run.batches(products, images_per_batch, pixels=views != "none")
    scores, unread = score_products(
        len(products),
        watched(batches, products),
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
            f"{len(unreadable)} images could not be read, the first of product "
            f"{first.product_id} ({first.place}): {first.reason}"
        )
    faults.add(found)
    catalogue = products.catalogue
    if unread := lost(catalogue):
        remarks.append(f"{unread}: not scored")
    summary = faults.write()
    if summary:
        remarks.append(summary)
    metrics = metrics_of(scores, products, run.categories)
    return Evaluation(metrics, remarks, run.known(products))
