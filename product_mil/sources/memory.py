"""A catalogue of products whose images are in memory rather than in a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from jaxtyping import Int64

from product_mil.sources.catalogue import Catalogue, Place, Unread, fingerprint_of, hashes_from
from product_mil.sources.ids import Id, ids_from


class MemoryReader:
    """Reads images by their row. It is not sent to other processes, to avoid copying the images."""

    travels = False

    def __init__(self, images: Sequence[bytes]) -> None:
        self._images = images

    def read(self, addresses: Int64[np.ndarray, " m"]) -> Iterator[bytes | Unread]:
        """The images in these rows."""
        return (self._images[row] for row in addresses.tolist())


@dataclass(frozen=True, eq=False)
class MemoryCatalogue(Catalogue):
    """Products whose images are bytes in memory."""

    images: tuple[bytes, ...]  # of all products, product by product

    def reader(self) -> MemoryReader:
        """A new reader of the images."""
        return MemoryReader(self.images)

    def addresses(self, image_rows: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """The image rows, which are the addresses here."""
        return image_rows

    def place_of_product(self, product_row: int) -> Place:
        """A place without a file; the product's id identifies it."""
        return Place("memory", None)

    def place_of_image(self, image_row: int) -> Place:
        """A place without a file; the product's id and the image's index identify it."""
        return Place("memory", None)


def catalogue_of(
    products: Sequence[Sequence[bytes]],
    *,
    product_id: Sequence[Id] | None = None,
    category_id: Sequence[Id | None] | None = None,
) -> MemoryCatalogue:
    """A catalogue of products, each given as the bytes of its image files.

    Without `product_id` products are numbered from 0. A category may be None.

    Raises:
        ValueError: the number of ids or categories differs from the number of products.
    """
    count = len(products)
    ids = range(count) if product_id is None else product_id
    categories = [None] * count if category_id is None else category_id
    if not count == len(ids) == len(categories):
        raise ValueError(f"{count} products, {len(ids)} ids and {len(categories)} categories")
    images = tuple(image for of_product in products for image in of_product)
    num_images = np.array([len(of_product) for of_product in products], np.int32)
    digests = b"".join(map(xxhash.xxh3_128_digest, images))
    columns = {
        "product_id": ids_from(ids),
        "category_id": ids_from(categories),
        "num_images": num_images,
        "first_image": np.cumsum(num_images, dtype=np.int64) - num_images,
        "image_length_bytes": np.array(list(map(len, images)), np.int32),
        "image_hash": hashes_from(digests),
    }
    return MemoryCatalogue(
        **columns,
        images=images,
        paths=(),
        fingerprint=fingerprint_of(columns.values()),
        faults=[],
        fault_counts={},
        num_bad_records=0,
        unread_bytes=0,
    )
