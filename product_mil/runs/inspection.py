"""What a trained run's attention has learned: which images count, and which do not."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from product_mil.errors import UserError
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.stream import predict_products, watched
from product_mil.model.heads.residual import RELEVANCE_SCALE
from product_mil.runs.trained import TrainedRun

RELEVANCE = "head/relevance/kernel"  # its path among the parameters
# The poolings whose attention can differ from one image of a product to the next.
WITH_ATTENTION = ("max", "gated_attention", "transformer", "posterior_attention")


class AttentionRow(NamedTuple):
    """Attention in products with the same number of images, relative to the uniform share.

    1 means that these images count as much as the average image of their products. An image
    agrees if its own guess is what the model predicts for its product.
    """

    num_images: int | None  # readable ones; None for all products with several
    agreeing: int  # images
    attention_of_agreeing: float  # mean; NaN without any
    disagreeing: int
    attention_of_disagreeing: float


def relevance_of(run: TrainedRun) -> Float[np.ndarray, " k"] | None:
    """How much an image that surely shows a category counts; None for other heads.

    The score of such an image, averaged over the heads, minus the mean over all categories. Within
    a product, an image whose score is higher by 0.7 gets twice the attention.
    """
    kernel = run.model.parameters.get(RELEVANCE)
    if kernel is None:
        return None
    scores = RELEVANCE_SCALE * np.asarray(kernel, np.float64).mean(1)
    return scores - scores.mean()


def predicted_blocks(
    run: TrainedRun, spec: str, images_per_batch: int
) -> Iterable[PredictionBlock]:
    """What the run predicts of all products in these BSON files.

    Raises:
        UserError: files that cannot be read.
    """
    products = run.products(spec)
    batches = watched(run.batches(products, images_per_batch), int(products.num_images.sum()))
    found = predict_products(products, batches, run.predict_step(topk=1), run.mesh)
    return (block for block, _ in found)


def attention_table(blocks: Iterable[PredictionBlock]) -> list[AttentionRow]:
    """A row for each number of images from 2 up, and one for all of them together, the last.

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
