"""A selection of products with their classes, and faults of their images."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from product_mil.data.decode import is_remark
from product_mil.sources.catalogue import Catalogue


@dataclass(frozen=True)
class ProductImages:
    """Images with the products that own them."""

    owner: Int64[np.ndarray, " m"]  # which of the products asked for
    row: Int64[np.ndarray, " m"]  # of the catalogue's image columns
    index: Int64[np.ndarray, " m"]  # `image_index`, from 0 within the product


@dataclass(frozen=True)
class Products:
    """A selection of a catalogue's products with their class indices."""

    catalogue: Catalogue
    rows: Int64[np.ndarray, " N"]  # of the catalogue
    labels: Int32[np.ndarray, " N"]  # class index; -1 where unknown
    max_images: int  # the first ones of a product are used
    dropped: Bool[np.ndarray, " M"] | None = field(default=None, repr=False)  # placeholder images

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_images(self) -> Int64[np.ndarray, " N"]:
        """Images of each product that will be read."""
        counts = np.asarray(self.catalogue.num_images)[self.rows].astype(np.int64)
        if self.dropped is not None:
            sums = np.concatenate([[0], np.cumsum(~self.dropped)])
            first = np.asarray(self.catalogue.first_image)[self.rows]
            counts = sums[first + counts] - sums[first]
        return np.minimum(counts, self.max_images)

    def images_of(self, positions: Int64[np.ndarray, " q"]) -> ProductImages:
        """The images of some of the products, product by product."""
        first = np.asarray(self.catalogue.first_image[self.rows[positions]])
        counts = np.asarray(self.catalogue.num_images[self.rows[positions]]).astype(np.int64)
        starts = np.cumsum(counts) - counts
        owner = np.repeat(np.arange(len(positions)), counts)
        index = np.arange(counts.sum()) - starts[owner]
        row = first[owner] + index
        place = index
        if self.dropped is not None:
            kept = ~self.dropped[row]
            before = np.cumsum(kept) - kept
            place = before - before[starts[owner]]
            owner, index, row, place = owner[kept], index[kept], row[kept], place[kept]
        chosen = place < self.max_images
        return ProductImages(owner[chosen], row[chosen], index[chosen])

    def subset(self, keep: Bool[np.ndarray, " N"]) -> "Products":
        """The products where `keep` is true."""
        return Products(
            self.catalogue, self.rows[keep], self.labels[keep], self.max_images, self.dropped
        )


class ImageFault(NamedTuple):
    """A picture that could not be used and is left out, or a remark on one that is used."""

    file: str
    offset_bytes: int
    product_id: int
    image_index: int
    reason: str

    @property
    def is_remark(self) -> bool:
        """Whether the image is used all the same."""
        return is_remark(self.reason)


def image_fault(catalogue: Catalogue, row: int, reason: str) -> ImageFault:
    """The fault of the image in this row of the catalogue's image columns."""
    # Products without images share `first_image` with the product after them.
    product = int(np.searchsorted(catalogue.first_image, row, side="right")) - 1
    return ImageFault(
        *catalogue.place_of_image(row),
        product_id=int(catalogue.product_id[product]),
        image_index=row - int(catalogue.first_image[product]),
        reason=reason,
    )
