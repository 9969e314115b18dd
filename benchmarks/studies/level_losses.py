"""What do losses at the levels of the tree bring? Trains with and without, prints test metrics.

python -m benchmarks.studies.level_losses --workdir levels \
    --set NAME TRAIN CATEGORIES TEST [--set ...] [--seeds 0,1,2]

Every way trains configs/joint.py:frozen on the same products with other weights of `level1_loss`
and `level2_loss`; the residual head's trust is fitted on the test part itself, in every way alike.
Finished runs are not trained again.
"""

import dataclasses
import os
import platform
from collections import defaultdict
from datetime import date

import jax
import numpy as np
from jaxtyping import Float, Int

from benchmarks.measure import sets_parser, with_net
from product_mil.config import load_config
from product_mil.devices.runtime import configure_jax
from product_mil.inference.metrics import tree_distance
from product_mil.inference.stream import predict_products
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.runs.trained import TrainedRun

FROZEN = "joint:frozen"
# weights of the losses at levels 1 and 2, beside 1 at level 3
WAYS = {
    "none": (0.0, 0.0),
    "0.1 at 1 and 2": (0.1, 0.1),
    "0.5 at 1 and 2": (0.5, 0.5),
    "1 at 1 and 2": (1.0, 1.0),
    "1 at 2 alone": (0.0, 1.0),
    "1 at 1 alone": (1.0, 0.0),
}
COLUMNS = (
    "top-1", "level 2", "level 1", "NLL", "level 2", "level 1", "error distance", "mean distance",
)  # fmt: skip


def predicted(
    trained: TrainedRun, test: str
) -> tuple[Float[np.ndarray, "N k"], Int[np.ndarray, " N"]]:
    """Probabilities of the labelled products, and their labels."""
    products = trained.products(test)
    blocks = predict_products(
        products,
        trained.batches(products, 256),
        trained.predict_step(topk=1, keep_all=True),
        trained.mesh,
    )
    kept = [block.probabilities for block, _ in blocks if block.probabilities is not None]
    known = products.labels >= 0
    return np.concatenate(kept)[known].astype(np.float64), products.labels[known]


def measured(trained: TrainedRun, test: str) -> list[float]:
    """Top-1 and NLL at levels 3, 2 and 1, and the distance of errors and of all answers.

    At level 1 and 2 the answer is the group with the largest summed probability.
    """
    probabilities, label = predicted(trained, test)
    categories = trained.categories
    right, nll = [], []
    for groups in (np.arange(len(categories.ids)), categories.groups[1], categories.groups[0]):
        member = groups[:, None] == np.unique(groups)  # k g
        summed = probabilities @ member
        true = np.searchsorted(np.unique(groups), groups[label])
        right.append(float((summed.argmax(1) == true).mean()))
        nll.append(float(-np.log(summed[np.arange(len(label)), true]).mean()))
    top1 = probabilities.argmax(1)
    distance = tree_distance(top1, label, categories)
    wrong = top1 != label
    return [*right, *nll, float(distance[wrong].mean()), float(distance.mean())]


def main() -> None:
    parser = sets_parser(files=3)
    arguments = parser.parse_args()
    configure_jax()
    frozen = load_config(FROZEN)
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for name, train, categories, test in arguments.set:
        data = dataclasses.replace(frozen.data, train=train, valid=test, categories=categories)
        model = with_net(frozen.model, arguments)
        for seed in map(int, arguments.seeds.split(",")):
            for way, (level1, level2) in WAYS.items():
                head = dataclasses.replace(frozen.head, level1_loss=level1, level2_loss=level2)
                workdir = arguments.workdir / f"{name}-{seed}-{level1}-{level2}"
                run(
                    dataclasses.replace(frozen, data=data, model=model, head=head, seed=seed),
                    workdir,
                )
                found[name, way].append(measured(open_run(workdir), test))
    print(f"\n{date.today()}, {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}")
    print("means over seeds +- standard deviation between seeds, on the test part")
    print(f"{'':30}" + "".join(f"{column:18}" for column in COLUMNS))
    for (name, way), rows in found.items():
        means = np.mean(rows, 0)
        spreads = np.std(rows, 0, ddof=min(1, len(rows) - 1))
        cells = (f"{m:.4f} +- {s:.4f}" for m, s in zip(means, spreads, strict=True))
        print(f"{name:12} {way:17}" + "".join(f"{cell:18}" for cell in cells))
    differences(found)


def differences(found: dict[tuple[str, str], list[list[float]]]) -> None:
    """Print each way against the one without, seed by seed: products and order are the same."""
    print("\nless the same seed without these losses")
    for (name, way), rows in found.items():
        if way == "none":
            continue
        less = np.asarray(rows) - np.asarray(found[name, "none"])
        spreads = np.std(less, 0, ddof=min(1, len(rows) - 1))
        cells = (f"{m:+.4f} +- {s:.4f}" for m, s in zip(less.mean(0), spreads, strict=True))
        print(f"{name:12} {way:17}" + "".join(f"{cell:18}" for cell in cells))


if __name__ == "__main__":
    main()
