"""Predict packed batches and return blocks of products, each product once and in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from product_mil.data.loader import Loaded
from product_mil.data.products import ImageFault, Products
from product_mil.devices.mesh import put_batch
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.step import Predicted
from product_mil.progress import Progress
from product_mil.sources.ids import has_id

BATCHES_IN_FLIGHT = 2  # the host loads this many batches ahead of the devices


def predict_products(
    products: Products,
    batches: Iterable[Loaded],
    predict_step: Callable[..., Predicted],
    mesh: Mesh,
) -> Iterator[tuple[PredictionBlock, list[ImageFault]]]:
    """Run `predict_step(batch)` over the batches of a `SequentialPlan`.

    Yields a block of consecutive products for each batch, with the images that could not be read.
    Memory does not grow with the number of products.

    Raises:
        RuntimeError: a product came twice, late or not at all, which would be a bug.
    """
    waiting: deque[tuple[Loaded, Predicted]] = deque()
    done = 0

    def next_block() -> tuple[PredictionBlock, list[ImageFault]]:
        nonlocal done
        loaded, predicted = waiting.popleft()
        positions = loaded.positions[loaded.positions >= 0]
        if not np.array_equal(positions, np.arange(done, done + len(positions))):
            raise RuntimeError(f"products after {done} are not predicted once and in order")
        done += len(positions)
        return _block(products, loaded, jax.device_get(predicted)), loaded.faults

    for loaded in batches:
        predicted = predict_step(put_batch(loaded.batch, mesh))
        jax.tree.map(lambda leaf: leaf.copy_to_host_async(), predicted)
        waiting.append((loaded, predicted))
        if len(waiting) > BATCHES_IN_FLIGHT:
            yield next_block()
    while waiting:
        yield next_block()
    if done != len(products):
        raise RuntimeError(f"{len(products) - done} of {len(products)} products not predicted")


def watched(batches: Iterable[Loaded], products: Products) -> Iterator[Loaded]:
    """The same batches, with a line on how many of the products' images are done."""
    with Progress(int(products.num_images.sum()), "images") as bar:
        for loaded in batches:
            yield loaded
            bar.update(int(loaded.batch.slots.is_image.sum()))


def _block(products: Products, loaded: Loaded, predicted: Predicted) -> PredictionBlock:
    """The predictions for a batch, with the catalogue's columns and without padding."""
    slots, is_product = loaded.batch.slots, loaded.positions >= 0
    positions = loaded.positions[is_product]
    product_rows = products.product_rows[positions]
    category_id = np.asarray(products.catalogue.category_id[product_rows])
    is_image = slots.is_image
    # Products are numbered over all shards, and images are in the order of their products.
    first = np.cumsum(is_product.sum(1)) - is_product.sum(1)
    owner = (first[:, None] + slots.segment)[is_image]
    probabilities, contribution = predicted.probabilities, predicted.contribution
    return PredictionBlock(
        product_id=np.asarray(products.catalogue.product_id[product_rows]),
        category_id=category_id,
        has_category=has_id(category_id),
        log_prob_true=np.where(
            products.labels[positions] >= 0, predicted.log_prob_true[is_product], np.float32(np.nan)
        ),
        num_images=np.asarray(products.catalogue.num_images[product_rows]),
        num_readable_images=np.bincount(owner, minlength=len(product_rows)).astype(np.int32),
        top_class=np.asarray(predicted.top_class)[is_product],
        top_probability=np.asarray(predicted.top_probability)[is_product],
        image_index=slots.image_index[is_image],
        attention=np.asarray(predicted.attention)[is_image],
        image_top_class=np.asarray(predicted.image_top_class)[is_image],
        probabilities=None if probabilities is None else np.asarray(probabilities)[is_product],
        contribution=None if contribution is None else np.asarray(contribution)[is_image],
    )
