"""Which head? Trains each pooling on each set with configs/joint.py:laptop, prints test top-1.

python benchmarks/heads.py --weights mobilenet_v2.h5 --workdir heads \
    --set NAME TRAIN VALID CATEGORIES TEST [--set ...] [--seeds 0,1,2] [--poolings residual,...]
    [--steps 500,2000,8000] [--max_products 300,0]

`geometric` is the residual run without its correction: the geometric mean of image classifiers
that learned just as the averaged run's. Finished runs in --workdir are not trained again.
"""

import dataclasses
import itertools
import os
import platform
from collections import defaultdict
from datetime import date
from pathlib import Path

import jax
import numpy as np
from measure import sets_parser

from product_mil.config import load_config
from product_mil.run import run
from product_mil.train.evaluate import metrics_of, score_products
from product_mil.train.runtime import configure_jax
from product_mil.train.step import make_eval_step
from product_mil.train.trust import TRUST
from product_mil.trained import TrainedRun, open_run

COLUMNS = ("top1", "top1_images_1", "top1_several_images")
LAPTOP = str(Path(__file__).resolve().parents[1] / "configs/joint.py") + ":laptop"


def test_metrics(trained: TrainedRun, test: str, statistics: dict[str, jax.Array]) -> list[float]:
    products = trained.products(test)
    step = make_eval_step(trained.model.structure)
    scores, _ = score_products(
        len(products),
        trained.batches(products, 256),
        lambda batch: step(trained.model.parameters, statistics, batch, trained.log_prior),
        trained.mesh,
    )
    metrics = metrics_of(scores, products, trained.categories)
    return [metrics[name] for name in COLUMNS]


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = sets_parser(files=4)
    parser.add_argument("--poolings", default="probabilities,mean,max,gated_attention,residual")
    parser.add_argument("--steps", default="2000", help="lengths of the stage to compare")
    parser.add_argument("--max_products", default="0", help="sizes to compare; 0: all of TRAIN")
    arguments = parser.parse_args()
    configure_jax()
    laptop = load_config(LAPTOP)
    found: dict[tuple[str, int, int, str], list[list[float]]] = defaultdict(list)
    variants = itertools.product(
        arguments.set,
        integers(arguments.max_products),
        integers(arguments.steps),
        integers(arguments.seeds),
        arguments.poolings.split(","),
    )
    for (name, train, valid, categories, test), max_products, steps, seed, pooling in variants:
        data = dataclasses.replace(
            laptop.data,
            train=train,
            valid=valid,
            categories=categories,
            max_products=max_products,
        )
        model = dataclasses.replace(laptop.model, pooling=pooling, weights=arguments.weights)
        head = dataclasses.replace(laptop.head, steps=steps)
        config = dataclasses.replace(laptop, data=data, model=model, head=head, seed=seed)
        workdir = arguments.workdir / f"{name}-{max_products or 'all'}-{pooling}-{steps}-{seed}"
        run(config, workdir)
        trained = open_run(workdir)
        statistics = trained.model.statistics
        row = (name, max_products, steps)
        found[*row, pooling].append(test_metrics(trained, test, statistics))
        if TRUST in statistics:
            nothing = jax.device_put(np.zeros(2, np.float32), statistics[TRUST].sharding)
            plain = test_metrics(trained, test, {**statistics, TRUST: nothing})
            found[*row, "geometric"].append(plain)
    print(f"\n{date.today()}, {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}")
    print("top-1 on the test part: all (one image / several), mean over seeds +- between seeds")
    for (name, max_products, steps, pooling), rows in sorted(found.items()):
        everything, one, several = np.mean(rows, 0)
        spread = np.std([row[0] for row in rows], ddof=1) if len(rows) > 1 else float("nan")
        of = f"{name:12} {max_products or 'all':>6} products {steps:6} steps {pooling:16}"
        print(
            f"{of} {everything:.4f} +- {spread:.4f} ({one:.4f} / {several:.4f})  {len(rows)} seeds"
        )


if __name__ == "__main__":
    main()
