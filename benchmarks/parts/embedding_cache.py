"""What the embedding cache saves in a stage with a frozen backbone, and that it changes nothing.

    python -m benchmarks.parts.embedding_cache --data train.bson --valid val.bson \
        --categories category_names.csv [--epochs 10]

Trains the head stage of configs/joint.py:frozen twice in one process, without and with a cache
(which starts empty, so that filling it counts), and prints the ratio of the times, all in and for
an epoch, and the largest difference between the validation likelihoods of the two runs.
"""

import argparse
import dataclasses
import json
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

import jax

from benchmarks.measure import add_net, with_net
from product_mil.config import Config, load_config
from product_mil.devices.runtime import configure_jax
from product_mil.runs.run import run


def timed_run(config: Config, workdir: Path) -> tuple[float, list[float], list[float]]:
    """Seconds in all, images/s of each epoch, valid/nll of each epoch."""
    started = time.monotonic()
    run(config, workdir)
    spent_s = time.monotonic() - started
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return (
        spent_s,
        [row["train/images_per_s"] for row in rows],
        [row["valid/nll"] for row in rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--valid", required=True)
    parser.add_argument("--categories", required=True)
    add_net(parser)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    frozen = load_config(str(Path(__file__).resolve().parents[2] / "configs/joint.py") + ":frozen")
    data = dataclasses.replace(
        frozen.data,
        train=arguments.data,
        valid=arguments.valid,
        categories=arguments.categories,
    )
    model = with_net(frozen.model, arguments)
    head = dataclasses.replace(frozen.head, epochs=arguments.epochs, patience_evaluations=0)
    config = dataclasses.replace(frozen, data=data, model=model, head=head)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        os.environ["PRODUCT_MIL_CACHE"] = str(root / "cache")
        configure_jax()
        without = dataclasses.replace(config, data=dataclasses.replace(data, embedding_cache=False))
        slow_s, slow_rates, slow_nll = timed_run(without, root / "without")
        fast_s, fast_rates, fast_nll = timed_run(config, root / "with")
    epoch_ratio = sorted(fast_rates[1:])[len(fast_rates) // 2] / max(slow_rates)
    difference = max(abs(a - b) for a, b in zip(slow_nll, fast_nll, strict=True))
    print(
        f"\n{date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores,"
    )
    print(f"jax {jax.__version__}, {arguments.epochs} epochs of {arguments.data}")
    print(f"{'':28}{'without cache':>16}{'with cache':>16}{'ratio':>8}")
    print(f"{'all in, s':28}{slow_s:16.1f}{fast_s:16.1f}{slow_s / fast_s:8.1f}")
    print(
        f"{'an epoch once cached, images/s':28}{max(slow_rates):14.0f}"
        f"{sorted(fast_rates[1:])[len(fast_rates) // 2]:16.0f}{epoch_ratio:8.1f}"
    )
    print(f"largest difference in valid/nll: {difference:.2e}")


if __name__ == "__main__":
    main()
