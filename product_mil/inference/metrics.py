"""Metrics over products, each counted exactly once, from the scores of the evaluation step."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from product_mil.data.loader import Loaded
from product_mil.data.products import ImageFault, Products
from product_mil.devices.hosts import summed
from product_mil.devices.mesh import fetch, put_batch
from product_mil.inference.calibration_error import expected_calibration_error
from product_mil.inference.step import Scores
from product_mil.sources.categories import Categories


class ProductScores(NamedTuple):
    """The `Scores` of N products, in the order of the products."""

    top1: Int[np.ndarray, " N"]
    in_top5: Bool[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    log_prob_true: Float[np.ndarray, " N"]
    nll_at: Float[np.ndarray, "t N"] | None = None


def score_products(
    num_products: int,
    batches: Iterable[Loaded],
    eval_step: Callable[..., Scores],
    mesh: Mesh,
) -> tuple[ProductScores, list[ImageFault]]:
    """Run `eval_step(batch)` over all batches and put the scores in the order of the products.

    Raises:
        RuntimeError: as `scores_in_place` does.
    """
    faults: list[ImageFault] = []

    def noted() -> Iterator[Loaded]:
        for loaded in batches:
            faults.extend(loaded.faults)
            yield loaded

    return ProductScores(**scores_in_place(num_products, noted(), eval_step, mesh)), faults


def scores_in_place(
    num_products: int, batches: Iterable[Loaded], step: Callable[..., Any], mesh: Mesh
) -> dict[str, np.ndarray]:
    """The results `[*e S p]` of `step(batch)` as columns `[*e N]` over products, by name.

    Where several processes train together, each gives its own batches, and all get all columns.

    Raises:
        RuntimeError: a product was scored twice or not at all, which would be a bug.
    """
    columns: dict[str, np.ndarray] = {}
    times = np.zeros(num_products, np.int64)
    for loaded in batches:
        scores = step(put_batch(loaded.batch, mesh))
        jax.tree.map(lambda leaf: leaf.copy_to_host_async(), scores)
        real = loaded.positions >= 0
        positions = loaded.positions[real]
        times[positions] += 1
        for name, leaf in scores._asdict().items():
            if leaf is None:
                continue
            values = fetch(leaf, leaf.ndim - 2)
            if name not in columns:
                columns[name] = np.zeros((*values.shape[:-2], num_products), values.dtype)
            columns[name][..., positions] = values[..., real]
    columns = summed({**columns, "times": times})
    times = columns.pop("times")
    if (times != 1).any():
        raise RuntimeError(f"{(times != 1).sum()} of {num_products} products not scored just once")
    return columns


def tree_distance(
    top1: Int[np.ndarray, " N"], label: Int[np.ndarray, " N"], categories: Categories
) -> Int[np.ndarray, " N"]:
    """The number of edges from each category up to the lowest node shared with the true one.

    0 means that the category is right, 1 that the two share the group one level higher, and so on;
    in a tree of L levels, L means that they share the root alone. All categories are at level L, so
    the way down to the true one is equally long.
    """
    return categories.depth - _same_group(top1, label, categories).sum(0)


def _same_group(
    top1: Int[np.ndarray, " N"], label: Int[np.ndarray, " N"], categories: Categories
) -> Bool[np.ndarray, "levels N"]:
    """Whether guess and truth share their group at each level. A guess of -1 is in none."""
    return (top1 >= 0) & (categories.groups[:, top1] == categories.groups[:, label])


def tree_metrics(categories: Categories) -> tuple[str, ...]:
    """The names of the metrics that depend on the tree."""
    levels = range(1, categories.depth + 1)
    return (*(f"top1_level_{level}" for level in levels), "error_tree_distance")


def mean_class_accuracy(correct: Bool[np.ndarray, " N"], label: Int[np.ndarray, " N"]) -> float:
    """The mean of the accuracies of all classes that have products (balanced accuracy)."""
    products = np.bincount(label)
    right = np.bincount(label, weights=correct)
    return float((right[products > 0] / products[products > 0]).mean())


def metrics_of(
    scores: ProductScores, products: Products, categories: Categories
) -> dict[str, float]:
    """The metrics of these scores by name.

    They are top1, top5, nll, calibration_error, top1_level_1 and so on for each level of the tree,
    and top1_images_1 and so on with the number of products of each. The last level is the class, so
    its accuracy is top1. `mean_class_accuracy` gives every class the same weight.
    `error_tree_distance` is the mean of `tree_distance` over wrong products, or 0 without any.

    Products of unknown category are left out; `products` is the number of the others. The number of
    images is that in the record, up to `max_images`.
    """
    known = products.labels >= 0
    label = products.labels[known]
    top1, in_top5, confidence, log_prob = (np.asarray(values)[known] for values in scores[:4])
    if len(label) == 0:
        return {"products": 0.0}
    correct = top1 == label
    distance = tree_distance(top1, label, categories)[~correct].sum() / max((~correct).sum(), 1)
    tree = [*_same_group(top1, label, categories).mean(1).tolist(), float(distance)]
    result = {
        "products": float(len(label)),
        "top1": float(correct.mean()),
        "top5": float(in_top5.mean()),
        "nll": float(-log_prob.astype(np.float64).mean()),
        "calibration_error": expected_calibration_error(confidence.astype(np.float64), correct),
        **dict(zip(tree_metrics(categories), tree, strict=True)),
        "mean_class_accuracy": mean_class_accuracy(correct, label),
    }
    num_images = np.asarray(products.catalogue.num_images)[products.product_rows][known]
    for count in np.unique(np.minimum(num_images, products.max_images)):
        chosen = np.minimum(num_images, products.max_images) == count
        result[f"top1_images_{count}"] = float(correct[chosen].mean())
        result[f"products_images_{count}"] = float(chosen.sum())
    several = num_images > 1
    if several.any():
        result["top1_several_images"] = float(correct[several].mean())
    return result
