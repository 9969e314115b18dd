"""A trained system's row of the table."""

import time

import jax
import numpy as np

from product_mil.batch import EmbeddedBatch, PackedBatch
from product_mil.data.products import Products
from product_mil.devices.mesh import put_batch
from product_mil.errors import UserError
from product_mil.inference.metrics import metrics_of, score_products
from product_mil.model.registry import backbone
from product_mil.runs.data import build_data
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun
from product_mil.seed_table.length import shortening
from product_mil.seed_table.plan import Planned, TableOptions
from product_mil.seed_table.progress import Progress, Row

TIMED_IMAGES = 128


def measure(system: Planned, own: Progress, options: TableOptions, *, cut: bool) -> Row:
    """Accuracy, size and speed of the system's newest checkpoint; `cut`: it was stopped before."""
    row: Row = {"system": system.name, "cut_short": cut, "shortened": "", "note": system.note}
    if own.steps is not None and own.cost is not None:
        row["shortened"] = shortening(own.steps, own.cost.steps)
    try:
        run = open_run(own.workdir)
    except UserError:
        return row | {"note": f"{system.note}; no checkpoint in its time".lstrip("; ")}
    if own.steps is not None:
        last = [(stage, count) for stage, count in own.steps.items() if count][-1:]
        row["cut_short"] = cut and [(run.stage, run.step)] != last  # asked to stop when it was done
    products = run.products(options.test) if options.test else build_data(run.config).valid
    scores, _ = score_products(len(products), run.batches(products), run.eval_step(), run.mesh)
    metrics = metrics_of(scores, products, run.categories)
    if row["cut_short"]:
        row["note"] = f"{row['note']}; stopped in stage {run.stage} at step {run.step}".lstrip("; ")
    return row | {
        "products": int(metrics["products"]),
        "top1": metrics["top1"],
        "top1_several_images": metrics.get("top1_several_images"),
        "nll": metrics["nll"],
        "parameters": run.record["parameters"],
        "images_per_s": images_per_s(run, products),
    }


def images_per_s(run: TrainedRun, products: Products) -> float:
    """Images per second from the file to the prediction.

    A few products are predicted twice. The second time counts, since all is compiled by then.
    """
    few = products.subset(np.cumsum(products.num_images) <= TIMED_IMAGES)
    num_images = int(few.num_images.sum())
    step = run.eval_step()
    on_host = backbone(run.config.model.backbone).on_host
    spent_s = 0.0
    for _ in range(2):
        started = time.monotonic()
        for loaded in run.batches(few, TIMED_IMAGES // 2, pixels=True):
            batch = loaded.batch
            if on_host is not None and isinstance(batch, PackedBatch):
                real = batch.slots.is_image
                found = on_host(batch.images[real])
                embeddings = np.zeros((*real.shape, found.shape[1]), np.float32)
                embeddings[real] = found
                batch = EmbeddedBatch(embeddings, batch.slots)
            jax.block_until_ready(step(put_batch(batch, run.mesh)))
        spent_s = time.monotonic() - started
    return num_images / max(spent_s, 1e-9)
