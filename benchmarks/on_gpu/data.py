"""The loader, and prediction and training end to end: parts of gpu.py."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.on_gpu.bench import CLASSES, Bench
from benchmarks.on_gpu.jobs import child_environment
from benchmarks.parts import shaped
from benchmarks.parts.training import Training, training
from product_mil.data.loader import PixelSource, batches
from product_mil.data.products import Products
from product_mil.sources.bson.index import open_catalogue


def _data(bench: Bench) -> Products:
    path = bench.directory / "data.bson"
    if not path.exists():
        shaped.write(path, bench.products, classes=CLASSES)
    catalogue = open_catalogue(path)
    n = catalogue.num_products
    labels = (np.asarray(catalogue.category_id) % CLASSES).astype(np.int32)
    return Products(catalogue, np.arange(n), labels, 4)


def loader(bench: Bench) -> Iterator[dict[str, Any]]:
    """In a process of its own: nothing of JAX's threads takes part."""
    threads = os.cpu_count() or 1
    out = bench.directory / "loader.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.parts.loader",
        "--threads",
        str(threads),
        "--rounds",
        "2",
    ]
    command += ["--json", str(out), *(["--smoke"] if bench.smoke else ["--steps", "96"])]
    environment = child_environment(JAX_PLATFORMS="cpu")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    for name, value in json.loads(out.read_text())["ratios"].items():
        yield {"what": name, "ratio": value}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[0] == str(threads):
            yield {"what": cells[1], "images_per_s": float(cells[4].replace(",", ""))}


def end_to_end(bench: Bench) -> Iterator[dict[str, Any]]:
    """Decoded on the host and sent to the device as a run does it, Inception V3."""
    products = _data(bench)
    backbone = "small_cnn" if bench.smoke else "inception_v3"
    made = training(backbone, classes=CLASSES, dtype="bfloat16")
    # The slots of the part `nets`, so that its programs are met in the cache.
    plan = bench.plan(products.num_images, bench.batch)
    source = PixelSource(products, plan, image_size_px=bench.size_px)
    yield _arrived(source, made, 2 if bench.smoke else 24)
    yield _timed(bench, "prediction", source, made, made.predict)
    state = made.state

    def step(batch: Any) -> Any:
        nonlocal state
        state, loss = made.step(state, batch, made.key)
        return loss

    yield _timed(bench, "training", source, made, step)


def _arrived(source: PixelSource, made: Training, steps: int) -> dict[str, Any]:
    """Whether pixels arrive as they were, while the memory of other batches is used again."""
    total = jax.jit(lambda images: images.astype("uint32").sum((2, 3, 4)))
    loading = zip(range(steps), batches(source), strict=False)
    sums = [total(made.put(loaded.batch).images) for _, loaded in loading]
    wrong = 0
    for step, found in enumerate(sums):
        batch: Any = source[step].batch
        real = batch.slots.is_image  # other slots hold anything
        expected = np.asarray(batch.images).astype(np.uint32).sum((2, 3, 4), dtype=np.uint32)
        wrong += int((np.asarray(found) != expected)[real].sum())
    met = "no" if wrong else "yes"
    return {"what": f"images of {steps} batches that arrived changed", "images": wrong, "met": met}


def _timed(
    bench: Bench, what: str, source: PixelSource, made: Training, run: Callable[[Any], Any]
) -> dict[str, Any]:
    """Images/s after the first batch, which compiles; 20 s at most."""
    images, waited_s, started, result = 0, 0.0, 0.0, None
    before: list[Any] = []
    until = float("inf")
    loaded_batches = batches(source)
    while time.monotonic() < until:
        asked = time.monotonic()
        loaded = next(loaded_batches, None)
        if loaded is None:
            break
        waited_s += time.monotonic() - asked
        result = run(made.put(loaded.batch))
        before.append(result)
        if started == 0.0:
            jax.block_until_ready(result)
            images, waited_s, started = 0, 0.0, time.monotonic()
            until = started + min(max(bench.left_s() / 2, 1.0), 20.0)
            continue
        images += int(loaded.batch.slots.is_image.sum())
        if len(before) > 2:
            jax.block_until_ready(before.pop(0))
    jax.block_until_ready(result)
    spent_s = max(time.monotonic() - started, 1e-9)
    rate = images / spent_s
    found = {"what": what, "images": images, "images_per_s": rate, "wait_share": waited_s / spent_s}
    return found | _memory()


def _memory() -> dict[str, float]:
    stats = jax.devices()[0].memory_stats() or {}
    return {"peak_gbyte": stats["peak_bytes_in_use"] / 1e9} if "peak_bytes_in_use" in stats else {}
