"""Describe what the attention of a trained run has learned: which images get more of it."""

import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from product_mil.errors import UserError
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.stream import predict_products, watched
from product_mil.inference.trust import TRUST
from product_mil.model.heads.residual import RELEVANCE_SCALE
from product_mil.model.registry import head
from product_mil.runs.trained import TrainedRun
from product_mil.sources.categories import path_of

RELEVANCE = "head/relevance/kernel"  # path among the parameters


class AttentionRow(NamedTuple):
    """Attention in products with the same number of images, relative to the uniform share.

    1 means that these images get as much attention as the average image of their products. An image
    agrees if the guess from it alone is the prediction for its product.
    """

    num_images: int | None  # readable ones; None for all products with several
    agreeing: int  # images
    attention_of_agreeing: float  # mean; NaN without any
    disagreeing: int
    attention_of_disagreeing: float


def relevance_of(run: TrainedRun) -> Float[np.ndarray, " k"] | None:
    """For each category, the attention score of an image that surely shows it.

    Scores are averaged over the attention heads, minus their mean over all categories. Within a
    product, an image whose score is higher by 0.7 gets twice the attention. The result is None for
    heads without such scores.
    """
    kernel = run.model.parameters.get(RELEVANCE)
    if kernel is None:
        return None
    scores = RELEVANCE_SCALE * np.asarray(kernel, np.float64).mean(1)
    return scores - scores.mean()


def predicted_blocks(
    run: TrainedRun, spec: str, images_per_batch: int | None
) -> Iterable[PredictionBlock]:
    """The predictions of the run for all products of these data.

    Raises:
        UserError: a file cannot be read.
    """
    products = run.products(spec)
    batches = watched(run.batches(products, images_per_batch), products)
    found = predict_products(products, batches, run.predict_step(topk=1), run.mesh)
    return (block for block, _ in found)


def attention_table(blocks: Iterable[PredictionBlock]) -> list[AttentionRow]:
    """A row for each number of images from 2 on, and a last one for all of them together.

    Raises:
        UserError: no product has several images.
    """
    # By number of images, and whether they agree.
    images: defaultdict[tuple[int, bool], int] = defaultdict(int)
    attention: defaultdict[tuple[int, bool], float] = defaultdict(float)
    for block in blocks:
        owner = np.repeat(np.arange(len(block)), block.num_readable_images)
        count = block.num_readable_images[owner]
        agrees = block.image_top_class == block.top_class[owner, 0]
        relative = block.attention.astype(np.float64) * count
        for number, side in product(np.unique(count[count > 1]).tolist(), (True, False)):
            chosen = (count == number) & (agrees == side)
            images[number, side] += int(chosen.sum())
            attention[number, side] += float(relative[chosen].sum())
    numbers = sorted({number for number, _ in images})
    if not numbers:
        raise UserError(
            "no product in --data has several readable images: attention differs only among these"
        )

    def mean(of: list[int], side: bool) -> tuple[int, float]:
        total = sum(images[n, side] for n in of)
        summed = sum(attention[n, side] for n in of)
        return total, summed / total if total else float("nan")

    rows = [(number, [number]) for number in numbers] + [(None, numbers)]
    return [AttentionRow(name, *mean(of, True), *mean(of, False)) for name, of in rows]


def inspect_run(
    run: TrainedRun, spec: str | None, images_per_batch: int | None = None
) -> dict[str, Any]:
    """What the attention of a run has learned, as plain values for JSON.

    `relevance` lists all categories, that with the highest score first. `attention` has the rows of
    `attention_table` on the data `spec`. Both are None if the head has no such thing.

    Raises:
        UserError: the data cannot be read, or have no products with several images.
    """
    pooling, relevance = run.config.model.pooling, relevance_of(run)
    found: dict[str, Any] = {"pooling": pooling, "relevance": None, "attention": None}
    if TRUST in run.model.statistics:
        one, several = map(float, run.model.statistics[TRUST])
        found["trust"] = {"one_image": one, "several_images": several}
    if relevance is not None:
        found["relevance"] = [
            {
                "category_id": run.categories.ids[k].item(),
                "category": path_of(run.categories, run.categories.ids[k].item()),
                "relevance": round(float(relevance[k]), 3),
            }
            for k in (-relevance).argsort(kind="stable")
        ]
    if head(pooling).attends and spec is not None:
        rows = attention_table(predicted_blocks(run, spec, images_per_batch))
        found["attention"] = [_plain(row) for row in rows]
    return found


def _plain(row: AttentionRow) -> dict[str, Any]:
    """The row with None for NaN, which JSON lacks."""
    values = row._asdict().items()
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}
