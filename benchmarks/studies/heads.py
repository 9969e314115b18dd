"""Which head? Trains each pooling on each set, and prints how well it does on products apart.

python -m benchmarks.studies.heads --workdir heads \
    --set NAME TRAIN VALID CATEGORIES TEST [--set ...] [--seeds 0,1,2] [--poolings residual,...]
    [--config joint:frozen] [--net mobilenet_v2 --weights mobilenet_v2.h5]
    [--steps 500,2000,8000] [--max_products 300,0]

The backbone stays frozen. `geometric` is the residual run without its correction: the geometric
mean of image classifiers that learned just as the averaged run's. The rows of scikit-learn are
logistic regressions (C = 0.01, standardised) on the same embeddings: on the mean of a product's
images, on mean and maximum side by side, and image by image with the geometric mean.

Intervals are 95 %, of a bootstrap over products and seeds; differences are paired by product.
Finished runs in --workdir are not trained again.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from benchmarks.measure import machine, sets_parser, table_of, with_net
from product_mil.compare.statistics.tests import (
    Draws,
    Resampler,
    drawn_seeds,
    percentile_estimate,
)
from product_mil.config import Config, load_config
from product_mil.data.products import Products
from product_mil.devices.runtime import configure_jax
from product_mil.inference.calibration_error import expected_calibration_error
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.stream import predict_products
from product_mil.inference.trust import TRUST
from product_mil.model.registry import head
from product_mil.runs.inspection import attention_table
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.runs.trained import TrainedRun

ROOT = Path(__file__).resolve().parents[2]
POOLINGS = "probabilities,mean,max,gated_attention,residual,posterior_attention"
AVERAGED, SKLEARN = "probabilities", "scikit-learn"


class Answers(NamedTuple):
    """What a trained head says of N labelled products."""

    correct: Bool[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    log_prob_true: Float[np.ndarray, " N"]
    attention: tuple[float, float] | None  # relative to uniform: images that agree, and do not


def answers_of(blocks: list[PredictionBlock], products: Products, pooling: str) -> Answers:
    """Of the products whose category is known."""
    known = products.labels >= 0
    top, confidence, log_prob = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("top_class", "top_probability", "log_prob_true")
    )
    attention = None
    if head(pooling).attends:
        several = attention_table(blocks)[-1]
        attention = several.attention_of_agreeing, several.attention_of_disagreeing
    return Answers(
        (top[:, 0] == products.labels)[known],
        confidence[known, 0].astype(np.float64),
        log_prob[known].astype(np.float64),
        attention,
    )


def head_answers(
    trained: TrainedRun, products: Products, pooling: str, statistics: Mapping[str, jax.Array]
) -> Answers:
    model = dataclasses.replace(trained.model, statistics=statistics)
    blocks = predict_products(
        products,
        trained.batches(products, 256),
        dataclasses.replace(trained, model=model).predict_step(topk=1),
        trained.mesh,
    )
    return answers_of([block for block, _ in blocks], products, pooling)


def linear_answers(log_probs: Float[np.ndarray, "N k"], products: Products) -> Answers:
    known = products.labels >= 0
    log_probs, labels = log_probs[known], products.labels[known]
    return Answers(
        log_probs.argmax(1) == labels,
        np.exp(log_probs.max(1)),
        log_probs[np.arange(len(labels)), labels],
        None,
    )


def row_of(
    name: str, seeds: list[Answers], several: Bool[np.ndarray, " N"], rivals: dict[str, Draws],
    resampler: Resampler,
) -> dict[str, Any]:  # fmt: skip
    """A line of the table; differences from the rivals in points."""
    correct = np.stack([answers.correct for answers in seeds])
    own = accuracy(seeds, resampler, name)
    found = percentile_estimate(own.value[0], own.resampled[:, 0])
    by_seed = correct.mean(1)
    gaps = [expected_calibration_error(each.confidence, each.correct) for each in seeds]
    spread = f"{by_seed.std(ddof=1):.3f}" if len(seeds) > 1 else ""
    row: dict[str, Any] = {
        "head": name,
        "top-1": f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})",
        "± seeds": spread,
        "one image": f"{correct[:, ~several].mean():.3f}" if (~several).any() else "",
        "several": f"{correct[:, several].mean():.3f}" if several.any() else "",
        "nll": f"{-np.mean([answers.log_prob_true for answers in seeds]):.3f}",
        "calibration error": f"{np.mean(gaps):.3f}",
    }
    for rival, theirs in rivals.items():
        gap = percentile_estimate(
            100 * (own.value[0] - theirs.value[0]),
            100 * (own.resampled[:, 0] - theirs.resampled[:, 0]),
        )
        text = f"{gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"
        row[f"- {rival}, points"] = "" if rival == name else text
    attention = [answers.attention for answers in seeds if answers.attention is not None]
    row["attention agree / disagree"] = (
        " / ".join(f"{share:.2f}" for share in np.mean(attention, 0)) if attention else ""
    )
    row["seeds"] = len(seeds)
    return row


def accuracy(seeds: list[Answers], resampler: Resampler, name: str) -> Draws:
    """Top-1 of a head with resampled products and seeds; each head draws its own seeds."""
    sums = np.concatenate([resampler.sums(answers.correct) for answers in seeds], 1)
    rng = np.random.default_rng(list(name.encode()))
    return drawn_seeds(resampler.means(sums), rng)


def print_table(title: str, found: dict[str, list[Answers]], several: np.ndarray) -> None:
    resampler = Resampler(len(several))
    draws = {name: accuracy(seeds, resampler, name) for name, seeds in found.items()}
    best = max((name for name in found if SKLEARN in name), key=lambda name: draws[name].value[0])
    rivals = {name: draws[name] for name in (AVERAGED, best) if name in draws}
    rows = [row_of(name, seeds, several, rivals, resampler) for name, seeds in found.items()]
    print(f"\n{title}, {len(several)} test products\n\n{table_of(rows, str)}", flush=True)


def config_of(
    base: Config, arguments: Any, files: list[str], pooling: str, max_products: int, steps: int
) -> Config:
    """`base` with these files in place of its own."""
    train, valid, categories, _ = files
    data = dataclasses.replace(
        base.data, train=train, valid=valid, categories=categories, max_products=max_products
    )
    model = dataclasses.replace(with_net(base.model, arguments), pooling=pooling)
    head = dataclasses.replace(base.head, steps=steps)
    return dataclasses.replace(base, data=data, model=model, head=head)


def trained_run(config: Config, workdir: Path) -> TrainedRun:
    run(config, workdir)
    return open_run(workdir)


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = sets_parser(files=4)
    parser.add_argument("--config", default="joint:frozen")
    parser.add_argument("--poolings", default=POOLINGS)
    parser.add_argument("--steps", default="2000", help="lengths of the stage to compare")
    parser.add_argument("--max_products", default="0", help="sizes to compare; 0: all of TRAIN")
    arguments = parser.parse_args()
    configure_jax()
    from benchmarks.studies.linear import rivals  # scikit-learn, which only tests need

    base = load_config(arguments.config)
    print(machine("jax", "scikit-learn"))
    sizes, lengths = integers(arguments.max_products), integers(arguments.steps)
    for (name, *files), size, steps in itertools.product(arguments.set, sizes, lengths):
        found: defaultdict[str, list[Answers]] = defaultdict(list)
        several = np.zeros(0, bool)
        for number, seed in enumerate(integers(arguments.seeds)):
            runs: dict[str, TrainedRun] = {}
            for pooling in arguments.poolings.split(","):
                config = config_of(base, arguments, files, pooling, size, steps)
                parts = (name, config.model.backbone, size or "all", pooling, steps, seed)
                workdir = arguments.workdir / "-".join(map(str, parts))
                runs[pooling] = trained_run(dataclasses.replace(config, seed=seed), workdir)
            any_run = next(iter(runs.values()))
            test = any_run.products(files[-1])
            several = (test.num_images > 1)[test.labels >= 0]
            for pooling, trained in runs.items():
                statistics = trained.model.statistics
                found[pooling].append(head_answers(trained, test, pooling, statistics))
                if pooling == "residual":
                    nothing = jax.device_put(np.zeros(2, np.float32), statistics[TRUST].sharding)
                    plain = {**statistics, TRUST: nothing}
                    found["geometric"].append(head_answers(trained, test, pooling, plain))
            # A regression has no seed; only the products that it learns from may be drawn anew.
            if size or number == 0:
                for way, log_probs in rivals(any_run, test).items():
                    found[way].append(linear_answers(log_probs, test))
        print_table(f"{name}, {size or 'all'} products, {steps} steps", found, several)


if __name__ == "__main__":
    main()
