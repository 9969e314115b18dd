"""Which head? Trains each pooling on each set with configs/joint.py:laptop, prints test top-1.

python benchmarks/heads.py --weights mobilenet_v2.h5 --workdir heads \
    --set NAME TRAIN VALID CATEGORIES TEST [--set ...] [--seeds 0,1,2] [--poolings residual,...]

`geometric` is the residual run without its correction: the geometric mean of image classifiers
that learned just as the averaged run's. Finished runs in --workdir are not trained again.
"""

import argparse
import dataclasses
import os
import platform
from collections import defaultdict
from datetime import date
from pathlib import Path

import jax
import numpy as np

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--set", nargs=5, action="append", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--poolings", default="probabilities,mean,max,gated_attention,residual")
    arguments = parser.parse_args()
    configure_jax()
    laptop = load_config(LAPTOP)
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for name, train, valid, categories, test in arguments.set:
        for seed in map(int, arguments.seeds.split(",")):
            for pooling in arguments.poolings.split(","):
                data = dataclasses.replace(
                    laptop.data, train=train, valid=valid, categories=categories
                )
                model = dataclasses.replace(
                    laptop.model, pooling=pooling, weights=arguments.weights
                )
                config = dataclasses.replace(laptop, data=data, model=model, seed=seed)
                workdir = arguments.workdir / f"{name}-{pooling}-{seed}"
                run(config, workdir)
                trained = open_run(workdir)
                statistics = trained.model.statistics
                found[pooling, name].append(test_metrics(trained, test, statistics))
                if TRUST in statistics:
                    nothing = jax.device_put(np.zeros(2, np.float32), statistics[TRUST].sharding)
                    plain = test_metrics(trained, test, {**statistics, TRUST: nothing})
                    found["geometric", name].append(plain)
    print(f"\n{date.today()}, {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}")
    print("top-1 on the test part: all (one image / several), mean over seeds +- between seeds")
    for (pooling, name), rows in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        everything, one, several = np.mean(rows, 0)
        spread = np.std([row[0] for row in rows], ddof=1) if len(rows) > 1 else float("nan")
        print(
            f"{name:12} {pooling:16} {everything:.4f} +- {spread:.4f} ({one:.4f} / {several:.4f})"
            f"  {len(rows)} seeds"
        )


if __name__ == "__main__":
    main()
