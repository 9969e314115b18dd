"""Measure on this machine what `scale.plan` needs, in some seconds."""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from product_mil.batch import PackedBatch, Slots
from product_mil.config import Config, load_config
from product_mil.data.decode import decode_images
from product_mil.devices.mesh import data_mesh, put_batch, replicate
from product_mil.inference.step import Predicted, make_predict_step
from product_mil.model.classifier import Model
from product_mil.runs.model import build_model
from product_mil.runs.opening import open_run
from product_mil.runs.scale import ASSUMED, GIVEN, MEASURED, SAMPLE, Rates
from product_mil.runs.schedule import prediction_slots
from product_mil.sources.bson.index import BsonCatalogue
from product_mil.sources.bson.scan import scan
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.opening import open_catalogue
from product_mil.sources.sample.draw import ensure_sample

CONFIGURATION, CLASSES = "joint:laptop", 5270  # of the net that is measured without a run
TOPK = 10
_INDEX_S = 2e-6  # a product of a source that is no dump
_MOST_S = 3.0  # for each measurement
_IMAGES_AT_ONCE, _IMAGES = 64, 2_000  # that are decoded, and at most

Step = Callable[[Any], Predicted]


def measured_rates(data: str | None, workdir: Path | None, images_per_s: float | None) -> Rates:
    """What a product and an image take here.

    Without `data`, products of the embedded sample are measured. Without `workdir` it is the net of
    the configuration "joint:laptop", with random weights. `images_per_s` is what one device is
    known to do, in place of what the devices here do.

    Raises:
        UserError: there is no such data or no such run.
    """
    catalogue = open_catalogue(data or str(ensure_sample(0).train))
    config = load_config(CONFIGURATION)
    if workdir is not None:
        run = open_run(workdir)
        config, step = run.config, run.predict_step(topk=TOPK)
    else:
        step = _random_step(config)
    size_px = config.data.image_size_px
    size_bytes = sum(path.stat().st_size for path in catalogue.paths if path.is_file())
    is_dump = isinstance(catalogue, BsonCatalogue)
    image_bytes = int(np.asarray(catalogue.image_length_bytes).sum())
    forward_s = _forward_s(step, size_px) if images_per_s is None else 1 / images_per_s
    of_data, of_net = SAMPLE if data is None else MEASURED, MEASURED if workdir else CONFIGURATION
    return Rates(
        product_bytes=max(size_bytes, image_bytes) / catalogue.num_products,
        images_per_product=catalogue.num_images_total / catalogue.num_products,
        index_s=_index_s(catalogue) if is_dump else _INDEX_S,
        decode_s=_decode_s(catalogue, size_px),
        forward_s=forward_s,
        process_bytes=_resident_bytes(),
        basis={
            "product_bytes": of_data,
            "images_per_product": of_data,
            "index_s": of_data if is_dump else ASSUMED,
            "decode_s": of_data,
            "forward_s": of_net if images_per_s is None else GIVEN,
            "process_bytes": MEASURED,
        },
        about=_about(data, workdir, config, images_per_s is None),
    )


def _about(data: str | None, workdir: Path | None, config: Config, runs_net: bool) -> str:
    """A line on what is measured, and on what to name in place of what is no one's own."""
    net = f" with {config.model.backbone}" if runs_net else ""
    of_net = "" if workdir else f" ({CONFIGURATION})"
    where = f"{os.cpu_count()} cores"
    if runs_net and jax.default_backend() != "cpu":
        where += f" and {jax.devices()[0].device_kind}"
    lacking = [name for name, one in (("--data", data), ("--workdir", workdir)) if one is None]
    return (
        f"measured on {data or 'the embedded sample'}{net} at {config.data.image_size_px} px"
        f"{of_net} on {where}" + f"; name {' and '.join(lacking)} for yours" * bool(lacking)
    )


def _index_s(catalogue: BsonCatalogue) -> float:
    """Seconds of a core to index a product of the first file."""
    path, products, started = catalogue.indexes[0].path, 0, time.process_time()
    with path.open("rb", buffering=0) as file:
        for rows in scan(file, path.stat().st_size, hash_images=True):
            products += len(rows.product_id)
            if time.process_time() - started > _MOST_S:
                break
    return (time.process_time() - started) / max(products, 1)


def _decode_s(catalogue: Catalogue, size_px: int) -> float:
    """Seconds of a core to read and decode an image."""
    pixels = np.empty((size_px, size_px, 3), np.uint8)
    rows = np.arange(min(_IMAGES, catalogue.num_images_total))
    started, count = time.process_time(), 0
    for some in np.array_split(rows, -(-len(rows) // _IMAGES_AT_ONCE)):
        decode_images(catalogue.read(some), itertools.repeat(pixels, len(some)))
        count += len(some)
        if time.process_time() - started > _MOST_S:
            break
    return (time.process_time() - started) / max(count, 1)


def _forward_s(step: Step, size_px: int) -> float:
    """Seconds of one of the devices here to predict an image, in batches of the usual size."""
    mesh = data_mesh(jax.device_count())
    shards, slots = mesh.size, prediction_slots(runs_backbone=True)
    shape = (shards, slots)
    images = np.random.default_rng(0).integers(0, 256, (*shape, size_px, size_px, 3), np.uint8)
    of_product = np.broadcast_to(np.arange(slots, dtype=np.int32) // 2, shape)
    batch = PackedBatch(
        images, Slots(of_product.copy(), np.zeros(shape, np.int32), np.full(shape, -1, np.int32))
    )
    jax.block_until_ready(step(put_batch(batch, mesh)))
    best_s, started = float("inf"), time.monotonic()
    while time.monotonic() - started < _MOST_S:
        began = time.perf_counter()
        jax.block_until_ready(step(put_batch(batch, mesh)))
        best_s = min(best_s, time.perf_counter() - began)
    return best_s / slots


def _random_step(config: Config) -> Step:
    """The prediction step of a configuration with random weights."""
    untrained = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=""))
    model, _ = build_model(untrained, CLASSES)
    arrays = replicate((model.parameters, model.statistics), data_mesh(jax.device_count()))
    step = make_predict_step(model.structure, topk=TOPK, keep_all=False)
    return Model(model.structure, *arrays).bound(step, np.zeros(CLASSES, np.float32))


def _resident_bytes() -> float:
    """The memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
