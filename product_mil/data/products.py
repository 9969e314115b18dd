"""A selection of products with their classes, and faults of their images."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from product_mil.data.decode import decode_images, is_remark
from product_mil.sources.catalogue import Catalogue, Place
from product_mil.sources.ids import Id


@dataclass(frozen=True)
class ProductImages:
    """Images with the products that own them."""

    owner: Int64[np.ndarray, " m"]  # index into the products that were asked for
    image_row: Int64[np.ndarray, " m"]
    image_index: Int64[np.ndarray, " m"]  # from 0 within the product


@dataclass(frozen=True)
class Products:
    """A selection of a catalogue's products, with their class indices."""

    catalogue: Catalogue
    product_rows: Int64[np.ndarray, " N"]
    labels: Int32[np.ndarray, " N"]  # class index; -1 where unknown
    max_images: int  # the first `max_images` of a product are used
    dropped: Bool[np.ndarray, " M"] | None = field(default=None, repr=False)  # placeholder images

    def __len__(self) -> int:
        return len(self.product_rows)

    @property
    def num_images(self) -> Int64[np.ndarray, " N"]:
        """The number of images of each product that are used."""
        counts = np.asarray(self.catalogue.num_images)[self.product_rows].astype(np.int64)
        if self.dropped is not None:
            sums = np.concatenate([[0], np.cumsum(~self.dropped)])
            first = np.asarray(self.catalogue.first_image)[self.product_rows]
            counts = sums[first + counts] - sums[first]
        return np.minimum(counts, self.max_images)

    def images_of(self, positions: Int64[np.ndarray, " q"]) -> ProductImages:
        """The images of the products at these positions, product by product."""
        first = np.asarray(self.catalogue.first_image[self.product_rows[positions]])
        counts = np.asarray(self.catalogue.num_images[self.product_rows[positions]]).astype(
            np.int64
        )
        starts = np.cumsum(counts) - counts
        owner = np.repeat(np.arange(len(positions)), counts)
        image_index = np.arange(counts.sum()) - starts[owner]
        image_row = first[owner] + image_index
        rank = image_index  # among the images that are not dropped
        if self.dropped is not None:
            kept = ~self.dropped[image_row]
            before = np.cumsum(kept) - kept
            rank = before - before[starts[owner]]
            owner, image_index, image_row, rank = (
                column[kept] for column in (owner, image_index, image_row, rank)
            )
        chosen = rank < self.max_images
        return ProductImages(owner[chosen], image_row[chosen], image_index[chosen])

    def subset(self, keep: Bool[np.ndarray, " N"]) -> "Products":
        """The products where `keep` is true."""
        return Products(
            self.catalogue,
            self.product_rows[keep],
            self.labels[keep],
            self.max_images,
            self.dropped,
        )


def pixels_of(
    catalogue: Catalogue, image_row: int, size_px: int
) -> UInt8[np.ndarray, "h w 3"] | str:
    """The pixels of an image as training reads them, or the reason why it cannot."""
    pixels = np.zeros((size_px, size_px, 3), np.uint8)
    reason = decode_images(catalogue.read(np.array([image_row])), [pixels]).get(0)
    return pixels if reason is None or is_remark(reason) else reason


class ImageFault(NamedTuple):
    """An image that cannot be used and is left out, or a remark on one that is used."""

    file: str
    offset_bytes: int | None  # None: the file is the image
    product_id: Id
    image_index: int
    reason: str

    @property
    def place(self) -> Place:
        """Where the image is."""
        return Place(self.file, self.offset_bytes)

    @property
    def is_remark(self) -> bool:
        """Whether the image is used nevertheless."""
        return is_remark(self.reason)


def image_fault(catalogue: Catalogue, image_row: int, reason: str) -> ImageFault:
    """The fault of an image, with its place and product."""
    product_row = catalogue.product_row_of(image_row)
    return ImageFault(
        *catalogue.place_of_image(image_row),
        product_id=catalogue.product_id[product_row].item(),
        image_index=image_row - int(catalogue.first_image[product_row]),
        reason=reason,
    )
