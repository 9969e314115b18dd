"""A catalogue: columns of products and their images, and a reader of the images' bytes.

Each source of products has its subclass of `Catalogue` with its own `Reader`: `bson` reads images
from dumps, `memory` from memory.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import xxhash
from jaxtyping import Int32, Int64, UInt64

from product_mil.sources.ids import Id, Ids, joined

# Kinds of faults of a record.
NO_ID, OTHER_CATEGORY = "no usable _id", "category_id is not usable"
NO_PICTURE = "an image without a binary picture"
TRUNCATED = "truncated record"  # at which a file that is cut ends
UNREAD = "the file cannot be read here"  # the kind of faults for which the image is not to blame
DUPLICATE = "product id occurs again: the first record of this id is used"
MAX_LISTED_FAULTS = 100_000  # more are counted only


class Fault(NamedTuple):
    """Something in a file that cannot be used, with its place."""

    offset_bytes: int | None  # None: in the file as a whole
    product_id: Id | None
    reason: str  # the part before a colon names the kind of fault
    image_index: int | None = None  # if the fault is in one image


def kind_of(reason: str) -> str:
    """The kind of a fault: its reason without the details of the single case."""
    return reason.split(":", maxsplit=1)[0]


class Place(NamedTuple):
    """The place of a product or an image, for messages."""

    file: str
    offset_bytes: int | None  # None: the file as a whole

    def __str__(self) -> str:
        """As messages name it: the file, and the byte in it."""
        return self.file if self.offset_bytes is None else f"{self.file}, byte {self.offset_bytes}"


class Unread(NamedTuple):
    """The reason why the bytes of an image cannot be read now; the image itself may be fine."""

    detail: str

    @property
    def reason(self) -> str:
        """The reason, as `Fault` has it."""
        return f"{UNREAD}: {self.detail}"


@runtime_checkable
class Reader(Protocol):
    """Reads the bytes of images. Several threads may use one reader at the same time.

    A reader that `travels` can be pickled; in another process it opens its files again.
    """

    travels: bool

    def read(self, addresses: Any) -> Iterator[bytes | Unread]:
        """The bytes of the images at these addresses, which come from `Catalogue.addresses`.

        Raises:
            UserError: this process cannot read any file, for instance because too many are open.
        """
        ...


@dataclass(frozen=True, eq=False)
class Columns:
    """N products and their M images, with the images of each product one after another."""

    product_id: Ids[np.ndarray, " N"]
    category_id: Ids[np.ndarray, " N"]  # `ids.has_id` says where there is one
    num_images: Int32[np.ndarray, " N"]
    first_image: Int64[np.ndarray, " N"]  # row of the product's first image
    image_length_bytes: Int32[np.ndarray, " M"]
    image_hash: UInt64[np.ndarray, "M 2"] | None  # xxh3_128, high half first

    @property
    def num_products(self) -> int:
        """The number of products, including those without images."""
        return len(self.product_id)

    @property
    def num_images_total(self) -> int:
        """The number of images of all products."""
        return len(self.image_length_bytes)


@dataclass(frozen=True, eq=False)
class Catalogue(Columns, ABC):
    """Products from any source: their columns, their faults, and the bytes of their images.

    An image row is an index into the images of all products, a product row one into the products.
    """

    paths: tuple[Path, ...]  # the files of the source, if there are any
    fingerprint: str  # differs if any value differs
    faults: list[tuple[Path, Fault]]  # the first 100,000 of each file
    fault_counts: dict[str, int]  # the number of all faults, by kind
    num_bad_records: int  # records that are not a product
    unread_bytes: int  # bytes in which no product could be found

    @abstractmethod
    def reader(self) -> Reader:
        """A new reader of the images."""

    @abstractmethod
    def addresses(self, image_rows: Int64[np.ndarray, " m"]) -> Any:
        """Where a reader finds these images. Addresses are small, and can be pickled."""

    @abstractmethod
    def place_of_product(self, product_row: int) -> Place:
        """The place of a product."""

    @abstractmethod
    def place_of_image(self, image_row: int) -> Place:
        """The place of an image."""

    @cached_property
    def _own_reader(self) -> Reader:
        return self.reader()

    def read(self, image_rows: Int64[np.ndarray, " m"]) -> Iterator[bytes | Unread]:
        """The bytes of each of these images.

        Raises:
            UserError: as `Reader.read` does.
        """
        return self._own_reader.read(self.addresses(image_rows))

    def image_rows_of(self, product_row: int) -> range:
        """The image rows of a product."""
        first = int(self.first_image[product_row])
        return range(first, first + int(self.num_images[product_row]))

    def product_row_of(self, image_row: int) -> int:
        """The row of the product that an image belongs to."""
        # Products without images share `first_image` with the product after them.
        return int(np.searchsorted(self.first_image, image_row, side="right")) - 1

    def first_records(self) -> Int64[np.ndarray, " r"]:
        """The product rows whose product id no earlier row has."""
        return np.setdiff1d(np.arange(self.num_products), later_duplicates(self.product_id))


def joined_fields(parts: Sequence[Catalogue]) -> dict[str, Any]:
    """The fields of a `Catalogue` with the products of several, one after the other.

    An id that recurs from one part to the next is a fault, as it is within a part.
    """

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    product_id = joined([part.product_id for part in parts])
    images_before = np.cumsum([0] + [part.num_images_total for part in parts])
    counts = Counter[str]()
    faults: list[tuple[Path, Fault]] = []
    for part in parts:
        counts.update(part.fault_counts)
        faults += [fault for fault in part.faults if fault[1].reason != DUPLICATE]
    repeated = later_duplicates(product_id)
    counts[kind_of(DUPLICATE)] = len(repeated)
    starts = np.cumsum([0] + [part.num_products for part in parts])
    for row in repeated[: max(0, MAX_LISTED_FAULTS - len(faults))].tolist():
        number = int(np.searchsorted(starts, row, side="right")) - 1
        place = parts[number].place_of_product(row - int(starts[number]))
        fault = Fault(place.offset_bytes, product_id[row].item(), DUPLICATE)
        faults.append((Path(place.file), fault))
    is_hashed = all(part.image_hash is not None for part in parts)
    return {
        "product_id": product_id,
        "category_id": joined([part.category_id for part in parts]),
        "num_images": column("num_images"),
        "first_image": np.concatenate(
            [part.first_image + before for part, before in zip(parts, images_before, strict=False)]
        ),
        "image_length_bytes": column("image_length_bytes"),
        "image_hash": column("image_hash") if is_hashed else None,
        "paths": tuple(path for part in parts for path in part.paths),
        "fingerprint": hash_of(part.fingerprint for part in parts),
        "faults": faults,
        "fault_counts": dict(+counts),
        "num_bad_records": sum(part.num_bad_records for part in parts),
        "unread_bytes": sum(part.unread_bytes for part in parts),
    }


def hash_of(hashes: Iterable[str]) -> str:
    """One hash of several hashes in their order."""
    return xxhash.xxh3_128_hexdigest(" ".join(hashes).encode())


def hashes_from(digests: bytes | bytearray) -> UInt64[np.ndarray, "M 2"]:
    """The column `image_hash` of xxh3_128 digests one after the other."""
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64).reshape(-1, 2)


def fingerprint_of(columns: Iterable[np.ndarray]) -> str:
    """A hash of the values of columns, in their order."""
    hasher = xxhash.xxh3_128()
    for column in columns:
        hasher.update(np.ascontiguousarray(column).data)
    return hasher.hexdigest()


def later_duplicates(product_id: Ids[np.ndarray, " N"]) -> Int64[np.ndarray, " r"]:
    """The rows, ascending, whose product id an earlier row has."""
    if np.all(product_id[1:] > product_id[:-1]):
        return np.zeros(0, np.int64)
    order = np.argsort(product_id, kind="stable")
    ordered = product_id[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])
