"""The commands that a user types, on the device: parts of gpu.py."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.on_gpu.bench import CLASSES, Bench
from benchmarks.on_gpu.jobs import ROOT, child_environment, last_line
from benchmarks.parts import shaped

TRAIN = [sys.executable, "-m", "product_mil.main"]
PREDICT = [sys.executable, "tools/export_predictions.py"]
# A GPU's sums have no fixed order, and the factors of its products have 10 bits.
SAME_LOSSES, SAME_PROBABILITIES = 1e-3, 1e-2
EPOCHS = 20  # long enough to be stopped in the middle


class CommandFailed(RuntimeError):
    """A command ended with a status that was not expected."""


def runs(bench: Bench) -> Iterator[dict[str, Any]]:
    """The sample's run, its predictions beside the CPU's, and a run that is stopped and goes on."""
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(lambda part: list(_reported(part, bench)), (_sample, _stopped)):
            yield from rows


def cdiscount(bench: Bench) -> Iterator[dict[str, Any]]:
    """Training and prediction of drawn products with the net and the batches of `:cdiscount`."""
    yield from _reported(_cdiscount, bench)


def _reported(part: Any, bench: Bench) -> Iterator[dict[str, Any]]:
    try:
        yield from part(bench)
    except CommandFailed as error:
        yield {"what": str(error), "met": "no"}


def _sample(bench: Bench) -> Iterator[dict[str, Any]]:
    place = bench.directory / "sample"
    config = f"configs/joint.py{':smoke' if bench.smoke else ''}"
    train = [*TRAIN, f"--config={config}", f"--workdir={place / 'run'}"]
    seconds = _done(train)
    last = _metrics(place / "run")[-1]
    yield {"what": "sample: trained", "seconds": seconds, "top1": last["valid/top1"]}
    products = "60" if bench.smoke else "1000"
    drawn = place / "drawn"
    draw = ["-m", "product_mil", "draw-sample", "--output", str(drawn), "--products", products]
    _done([sys.executable, *draw], JAX_PLATFORMS="cpu")
    found = {}
    for name, environment in {"device": {}, "again": {}, "CPU": {"JAX_PLATFORMS": "cpu"}}.items():
        output = place / f"{name}.csv"
        matrix = output.with_suffix(".npy")
        predict = [*PREDICT, "--workdir", str(place / "run"), "--output", str(output)]
        predict += ["--data", str(drawn / "products.bson"), "--all_probabilities", str(matrix)]
        seconds = _done(predict, **environment)
        found[name] = np.load(matrix), output.read_text()
        yield {"what": f"sample: predicted, {name}", "seconds": seconds}
    probabilities, submission = found["device"]
    same = found["again"][1] == submission and np.array_equal(found["again"][0], probabilities)
    yield {"what": "predicted again: the same bits", "met": "yes" if same else "no"}
    far = float(np.abs(probabilities - found["CPU"][0]).max())
    yield _within("predicted: largest distance from the CPU's probability", far, SAME_PROBABILITIES)
    lines, cpu_lines = submission.splitlines(), found["CPU"][1].splitlines()
    others = sum(ours != theirs for ours, theirs in zip(lines, cpu_lines, strict=True))
    yield {"what": "predicted: other categories than on the CPU", "products": others}


def _stopped(bench: Bench) -> Iterator[dict[str, Any]]:
    """A run that gets SIGTERM in its second stage and is started again, beside one that did not."""
    train = [*TRAIN, "--config=configs/joint.py:smoke", f"--config.finetune.epochs={EPOCHS}"]
    whole, stopped = bench.directory / "whole", bench.directory / "stopped"
    _done([*train, f"--workdir={whole}"])
    train.append(f"--workdir={stopped}")
    with _started(train) as process:
        while process.poll() is None:
            if len(_metrics(stopped)) > 4:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.02)
        _, said = process.communicate()
    steps = len(_metrics(stopped))
    if process.returncode != 143:
        raise CommandFailed(f"SIGTERM ended a run with {process.returncode}: {last_line(said)}")
    _done(train)
    losses, again = (
        np.array([row["train/loss"] for row in _metrics(place)]) for place in (whole, stopped)
    )
    if len(losses) != len(again):
        raise CommandFailed(f"a run that goes on has {len(again)} epochs, not {len(losses)}")
    far = float(np.abs(again / losses - 1).max())
    about = f"stopped after {steps} of {len(losses)} epochs: largest distance of losses"
    yield _within(about, far, SAME_LOSSES)


def _cdiscount(bench: Bench) -> Iterator[dict[str, Any]]:
    data, run = bench.directory / "data.bson", bench.directory / "cdiscount"
    if not data.exists():
        shaped.write(data, bench.products, classes=CLASSES)
    settings = {
        "data.train": data,
        "model.weights": "",
        "head.epochs": 0,
        "finetune.epochs": 1,
        "finetune.max_steps": 2 if bench.smoke else 100,
    }
    if bench.smoke:
        settings |= {"model.backbone": "small_cnn", "finetune.images_per_batch": 64}
        settings |= {"data.image_size_px": 64}
    train = [*TRAIN, "--config=configs/joint.py:cdiscount", f"--workdir={run}"]
    seconds = _done([*train, *(f"--config.{name}={value}" for name, value in settings.items())])
    last = _metrics(run)[-1]
    yield {
        "what": "trained, all of the net",
        "seconds": seconds,
        "images_per_s": last["train/images_per_s"],
        "wait_share": last["train/wait_share"],
    }
    output = bench.directory / "cdiscount.csv"
    predict = ["--workdir", str(run), "--data", str(data), "--output", str(output)]
    images = int(shaped.num_images(bench.products).sum())
    for what, more in {
        "predicted, from the start": [],
        "predicted, all compiled": [],
        "predicted, 1,024 images at a time": ["--images_per_batch", "1024"],
    }.items():
        output.unlink(missing_ok=True)
        seconds = _done([*PREDICT, *predict, *more])
        yield {"what": what, "seconds": seconds, "images_per_s": images / seconds}


def _within(what: str, distance: float, limit: float) -> dict[str, Any]:
    met = "yes" if distance <= limit else "no"
    return {"what": what, "distance": distance, "limit": limit, "met": met}


def _started(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=child_environment(XLA_PYTHON_CLIENT_PREALLOCATE="false", **environment),
    )


def _done(command: list[str], **environment: str) -> float:
    """Seconds of a command that must succeed."""
    started = time.monotonic()
    with _started(command, **environment) as process:
        _, said = process.communicate()
    if process.returncode:
        name = " ".join(command[1:4])
        raise CommandFailed(f"{name} ended with {process.returncode}: {last_line(said)}")
    return time.monotonic() - started


def _metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # the last one may be in the writing
