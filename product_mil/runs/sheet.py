"""Draw a contact sheet of products, with their images as training would see them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from product_mil.config import AugmentConfig
from product_mil.data.sheet import Book, Shown, draw, save
from product_mil.errors import UserError
from product_mil.sources.categories import read_categories
from product_mil.sources.ids import ids_from
from product_mil.sources.lookup import are_among
from product_mil.sources.opening import open_catalogue

Which = Literal["random", "first", "bad", "identical"]


class Sheet(NamedTuple):
    """The numbers of a finished sheet."""

    num_shown: int  # products
    num_products: int  # in the data
    num_images: int  # of those shown
    num_unreadable: int  # of these images
    num_faults: int  # of records
    left_out: list[str]  # rows of the category file


def make_sheet(
    spec: str,
    output: Path,
    *,
    categories_path: Path | None = None,
    which: Which = "random",
    num_products: int = 20,
    ids: Sequence[int] = (),
    seed: int = 0,
    image_size_px: int = 180,
    augmented: int = 0,
    ranges: AugmentConfig | None = None,
) -> Sheet | None:
    """Draw products of the data `spec` into a PNG or JPEG file.

    At most `num_products` are shown: a random choice, the first ones, those with faults or
    unreadable images (bad), or those that share an image (identical). With `ids`, these products
    are shown. Each product gets `augmented` more rows with its images as training with these ranges
    would see them. Where no product is bad or identical, nothing is drawn, and None is returned.

    Raises:
        UserError: a file cannot be read or written, or there is no such product.
    """
    left_out: list[str] = []
    categories = read_categories(categories_path, left_out) if categories_path else None
    catalogue = open_catalogue(spec)
    book = Book(catalogue, categories, image_size_px)
    if ids:
        wanted = ids_from(ids)
        missing = wanted[~are_among(wanted, catalogue.product_id)]
        if len(missing):
            raise UserError(f"--ids: {spec} has no product {missing[0]}")
        rows = np.flatnonzero(are_among(catalogue.product_id, wanted))
    else:
        rows = _chosen(book, which, num_products, seed)
    if not len(rows):
        return None
    shown = [book.show(int(row)) for row in rows]
    if augmented:
        for product in shown:
            product.variants = _variants(product, augmented, ranges or AugmentConfig(), seed)
    sheet = draw(shown)
    try:
        save(sheet, output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}") from error
    images = [image for product in shown for image in product.images]
    return Sheet(
        num_shown=len(shown),
        num_products=catalogue.num_products,
        num_images=len(images),
        num_unreadable=sum(isinstance(image, str) for image in images),
        num_faults=len(catalogue.faults),
        left_out=left_out,
    )


def _chosen(book: Book, which: Which, num_products: int, seed: int) -> Int64[np.ndarray, " b"]:
    """The product rows to show."""
    rows = np.arange(book.catalogue.num_products)
    if which == "random":
        drawn = np.random.default_rng(seed).permutation(rows)[:num_products]
        return np.sort(drawn)
    test = {"first": lambda _: True, "bad": book.is_bad, "identical": book.shares_images}[which]

    def matching() -> Iterator[int]:
        found = 0
        for row in rows.tolist():
            if found == num_products:
                return
            if test(row):
                found += 1
                yield row

    return np.array(list(matching()), np.int64)


def _variants(
    product: Shown, steps: int, ranges: AugmentConfig, seed: int
) -> list[list[np.ndarray | None]]:
    """The images of a product as they would be in slots 0, 1, ... of the first steps of a run."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from product_mil.train.augment import Ranges, augment

    readable = [image for image in product.images if not isinstance(image, str)]
    rows: list[list[np.ndarray | None]] = []
    for step in range(steps if readable else 0):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), 1 << 20)
        changed: Any = augment(
            jnp.asarray(np.stack(readable)[None]), key, Ranges(**dataclasses.asdict(ranges))
        )
        pixels = iter(np.clip(np.rint(np.asarray(changed[0], np.float32)), 0, 255).astype(np.uint8))
        rows.append([None if isinstance(image, str) else next(pixels) for image in product.images])
    return rows
