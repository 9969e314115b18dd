"""A catalogue: the columns of products and their images, and how the bytes of images are read.

Where the bytes come from is a matter of each form of catalogue: `bson` reads them from dumps,
`memory` has them. A form is a subclass of `Catalogue` with a `Reader` of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64, UInt64

NO_CATEGORY = int(np.iinfo(np.int64).min)
UNREAD = "the file cannot be read here"  # the kind of faults that are not the image's own


class Fault(NamedTuple):
    """Something in a file that could not be used, and where."""

    offset_bytes: int
    product_id: int | None
    reason: str  # what stands before a colon names the kind
    image_index: int | None = None  # where it is one image's


def kind_of(reason: str) -> str:
    """The kind of a fault: its reason without what tells one such fault from another."""
    return reason.split(":", maxsplit=1)[0]


class Place(NamedTuple):
    """Where a product or an image lies, for people."""

    file: str
    offset_bytes: int


class Unread(NamedTuple):
    """Why the bytes of an image cannot be had now, which is no fault of the image."""

    detail: str

    @property
    def reason(self) -> str:
        """The reason of its fault."""
        return f"{UNREAD}: {self.detail}"


@runtime_checkable
class Reader(Protocol):
    """Reads the bytes of images; several threads may do so at once.

    One that travels can be pickled, and opens in another process what it reads there.
    """

    travels: bool

    def read(self, addresses: Any) -> Iterator[bytes | Unread]:
        """The bytes of each image that `Catalogue.addresses` has an address for.

        Raises:
            UserError: this process lacks what all reading needs, such as room for an open file.
        """
        ...


@dataclass(frozen=True, eq=False)
class Columns:
    """N products in order and their M images, each product's images in a row."""

    product_id: Int64[np.ndarray, " N"]
    category_id: Int64[np.ndarray, " N"]  # NO_CATEGORY where there is none
    num_images: Int32[np.ndarray, " N"]
    first_image: Int64[np.ndarray, " N"]  # row of the product's first image
    image_length_bytes: Int32[np.ndarray, " M"]
    image_hash: UInt64[np.ndarray, "M 2"] | None  # xxh3_128, high half first

    @property
    def num_products(self) -> int:
        """Products, those without images included."""
        return len(self.product_id)

    @property
    def num_images_total(self) -> int:
        """Images of all products."""
        return len(self.image_length_bytes)


@dataclass(frozen=True, eq=False)
class Catalogue(Columns, ABC):
    """Products from anywhere: their columns, what could not be used, and the images' bytes.

    An image row counts through the images of all products, a product row through the products.
    """

    paths: tuple[Path, ...]  # the files that it comes from, where there are any
    fingerprint: str  # another one where any value differs
    faults: list[tuple[Path, Fault]]  # the first 100,000 of each file
    fault_counts: dict[str, int]  # all of them, by kind
    num_bad_records: int  # that are no product
    unread_bytes: int  # in which no product could be found

    @abstractmethod
    def reader(self) -> Reader:
        """A new reader of its images."""

    @abstractmethod
    def addresses(self, image_rows: Int64[np.ndarray, " m"]) -> Any:
        """What its readers need to know of these images; small, and can be pickled."""

    @abstractmethod
    def place_of_product(self, product_row: int) -> Place:
        """Where the product lies."""

    @abstractmethod
    def place_of_image(self, image_row: int) -> Place:
        """Where the image lies."""

    @cached_property
    def _own_reader(self) -> Reader:
        return self.reader()

    def read(self, image_rows: Int64[np.ndarray, " m"]) -> Iterator[bytes | Unread]:
        """The bytes of each of these images.

        Raises:
            UserError: as `Reader.read` does.
        """
        return self._own_reader.read(self.addresses(image_rows))

    def first_records(self) -> Int64[np.ndarray, " r"]:
        """Product rows without those whose product id an earlier row has."""
        return np.setdiff1d(np.arange(self.num_products), later_duplicates(self.product_id))


def later_duplicates(product_id: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " r"]:
    """Rows, ascending, whose product id an earlier row has."""
    if np.all(product_id[1:] > product_id[:-1]):
        return np.zeros(0, np.int64)
    order = np.argsort(product_id, kind="stable")
    ordered = product_id[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])
