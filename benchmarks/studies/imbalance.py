"""What helps rare classes? Trains on a long-tailed part of labelled data, prints test accuracies.

python -m benchmarks.studies.imbalance --workdir imbalance \
    --set NAME TRAIN CATEGORIES TEST [--set ...] [--seeds 0,1,2] [--ratio 30] [--steps 1000]

The classes, in an order drawn by the seed, keep exponentially fewer products, from all down to 1 in
`ratio` (at least one): the long tail of Cui et al. 2019. Every way trains on the same products with
configs/joint.py:frozen; the test part stays as it is. Finished runs are not trained again.
"""

import dataclasses
import os
import platform
from collections import defaultdict
from datetime import date
from pathlib import Path

import bson
import jax
import numpy as np

from benchmarks.measure import sets_parser, with_net
from product_mil.config import Config, load_config
from product_mil.devices.runtime import configure_jax
from product_mil.inference.metrics import mean_class_accuracy, score_products
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.runs.trained import TrainedRun

FROZEN = "joint:frozen"
RARE_PRODUCTS = 3  # a class with at most so many training products is rare
# balance_power in the plan, tau in the loss, tau after training
WAYS = {
    "natural frequencies": (0.0, 0.0, 0.0),
    "logits adjusted after training, tau 0.5": (0.0, 0.0, 0.5),
    "logits adjusted after training, tau 1": (0.0, 0.0, 1.0),
    "logits adjusted in the loss, tau 0.5": (0.0, 0.5, 0.0),
    "logits adjusted in the loss, tau 1": (0.0, 1.0, 0.0),
    "balanced sampling, power 0.5": (0.5, 0.0, 0.0),
    "balanced sampling, power 1": (1.0, 0.0, 0.0),
}


def long_tailed(train: str, path: Path, ratio: float, seed: int) -> None:
    """Write a part of the products in which classes are exponentially rarer."""
    records = bson.decode_all(Path(train).read_bytes())
    rng = np.random.default_rng(seed)
    categories = np.asarray([record["category_id"] for record in records])
    classes = rng.permutation(np.unique(categories))
    keep: list[int] = []
    for rank, category in enumerate(classes):
        rows = np.flatnonzero(categories == category)
        share = ratio ** (-rank / (len(classes) - 1))
        keep += rng.permutation(rows)[: max(round(share * len(rows)), 1)].tolist()
    path.write_bytes(b"".join(bson.encode(records[row]) for row in sorted(keep)))


def measured(trained: TrainedRun, test: str, tau: float) -> list[float]:
    """Top-1, mean per-class accuracy, and the latter over frequent and over rare classes."""
    products = trained.products(test)
    scores, _ = score_products(
        len(products),
        trained.batches(products, 256),
        trained.eval_step(tau=tau),
        trained.mesh,
    )
    label = products.labels
    correct = np.asarray(scores.top1) == label
    # Classes that this training part lacks can't be learned by any way.
    rare = trained.class_counts[label] <= RARE_PRODUCTS
    parts = [np.ones(len(label), bool), ~rare, rare]
    return [float(correct.mean()), *(mean_class_accuracy(correct[p], label[p]) for p in parts)]


def configured(frozen: Config, way: tuple[float, float, float], steps: int) -> Config:
    """Early epochs suffice on the small part; every way takes the same number of steps."""
    data = dataclasses.replace(frozen.data, balance_power=way[0])
    head = dataclasses.replace(frozen.head, logit_adjustment=way[1], steps=steps)
    return dataclasses.replace(frozen, data=data, head=head)


def main() -> None:
    parser = sets_parser(files=3)
    parser.add_argument("--ratio", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    configure_jax()
    frozen = load_config(FROZEN)
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    sizes: dict[str, list[str]] = defaultdict(list)
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    for name, train, categories, test in arguments.set:
        for seed in map(int, arguments.seeds.split(",")):
            tail = arguments.workdir / f"{name}-{seed}.bson"
            if not tail.exists():
                long_tailed(train, tail, arguments.ratio, seed)
            for way, settings in WAYS.items():
                config = configured(frozen, settings, arguments.steps)
                data = dataclasses.replace(
                    config.data, train=str(tail), valid=test, categories=categories
                )
                model = with_net(config.model, arguments)
                config = dataclasses.replace(config, data=data, model=model, seed=seed)
                workdir = arguments.workdir / f"{name}-{seed}-{settings[0]}-{settings[1]}"
                run(config, workdir)
                trained = open_run(workdir)
                found[name, way].append(measured(trained, test, settings[2]))
                if settings == (0.0, 0.0, 0.0):
                    counts = trained.class_counts[trained.class_counts > 0]
                    sizes[name].append(
                        f"{counts.sum()} products, {counts.min()} to {counts.max()} a class, "
                        f"{(counts <= RARE_PRODUCTS).sum()} of {len(counts)} classes rare"
                    )
    print(f"\n{date.today()}, {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}")
    print("means over seeds +- standard deviation between seeds, in per cent of the test part")
    for name, described in sizes.items():
        print("\n".join(f"{name}: {line}" for line in described))
    print(f"{'':52} top-1         per class     frequent      rare")
    for (name, way), rows in found.items():
        means = np.mean(rows, 0) * 100
        spreads = np.std(rows, 0, ddof=min(1, len(rows) - 1)) * 100
        cells = (f"{m:5.1f} +- {s:4.1f}" for m, s in zip(means, spreads, strict=True))
        print(f"{name:12} {way:39} {'  '.join(cells)}")


if __name__ == "__main__":
    main()
