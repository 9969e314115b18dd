"""Products to try a model on at once: a few of some data, chosen by a fixed seed."""

import io
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image

from product_mil.api import Classifier
from product_mil.data.decode import num_pixels
from product_mil.serve.limits import Limits
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.ids import has_id
from product_mil.sources.opening import open_catalogue

COUNT = 12
_TRIED = 200  # products that may turn out to be unfit
_SHOWN_BY_BROWSERS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF")


class ExampleImage(NamedTuple):
    """An image file and its kind for HTTP."""

    data: bytes
    media_type: str


class ExampleProduct(NamedTuple):
    """A product to try the model on."""

    id: str
    names: tuple[str, ...] | None  # the path of its category; None if that is not known
    images: tuple[ExampleImage, ...]


def examples_of(classifier: Classifier, spec: str | None, limits: Limits) -> list[ExampleProduct]:
    """Products of the data that `spec` names, or by default validation products of the model.

    Raises:
        UserError: there are no such data.
    """
    if spec is not None:
        catalogue = open_catalogue(spec)
        rows = catalogue.first_records()
    elif (products := classifier.validation_products()) is not None:
        catalogue, rows = products.catalogue, products.product_rows
    else:
        return []
    ids = map(str, classifier.category_ids.tolist())
    names_of = dict(zip(ids, classifier.names, strict=True))
    return choose_examples(catalogue, rows, names_of, limits)


def choose_examples(
    catalogue: Catalogue,
    product_rows: Int64[np.ndarray, " N"],
    names_of: Mapping[str, tuple[str, ...]],
    limits: Limits,
) -> list[ExampleProduct]:
    """At most `COUNT` of these products that have images for a browser, several if possible.

    `names_of` has the path of each category, by its id as text.
    """
    drawn = np.random.default_rng(0).permutation(product_rows)
    num_images = np.asarray(catalogue.num_images)[drawn]
    drawn = drawn[(num_images > 0) & (num_images <= limits.images)]
    has_few = np.asarray(catalogue.num_images)[drawn] < 2
    drawn = drawn[np.argsort(has_few, kind="stable")][:_TRIED]
    found: list[ExampleProduct] = []
    for row in drawn.tolist():
        images = tuple(_images(catalogue, row, limits))
        if len(images) == catalogue.num_images[row]:
            category = catalogue.category_id[row : row + 1]
            names = names_of.get(str(category[0])) if has_id(category)[0] else None
            found.append(ExampleProduct(str(catalogue.product_id[row]), names, images))
        if len(found) == COUNT:
            break
    return found


def _images(catalogue: Catalogue, row: int, limits: Limits) -> Iterator[ExampleImage]:
    """The images of a product that the server takes and a browser shows."""
    for data in catalogue.read(np.array(catalogue.image_rows_of(row))):
        if isinstance(data, bytes) and len(data) <= limits.image_bytes and num_pixels(data):
            with Image.open(io.BytesIO(data)) as image:
                kind = image.format or ""
            if kind in _SHOWN_BY_BROWSERS:
                yield ExampleImage(data, Image.MIME[kind])
