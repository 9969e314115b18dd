"""One catalogue of several, whatever sources they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from product_mil.sources.catalogue import Catalogue, Place, Reader, Unread, joined_fields


class JoinedAddresses(NamedTuple):
    """The addresses of images in each part."""

    part: Int64[np.ndarray, " m"]  # of each image
    addresses: list[Any]  # of each part


class JoinedReader:
    """Reads the images of several catalogues."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = list(readers)
        self.travels = all(reader.travels for reader in self._readers)

    def read(self, addresses: JoinedAddresses) -> Iterator[bytes | Unread]:
        """The images in their order.

        Raises:
            UserError: as the parts do.
        """
        parts = zip(self._readers, addresses.addresses, strict=True)
        found = [reader.read(of_part) for reader, of_part in parts]
        return (next(found[part]) for part in addresses.part.tolist())


@dataclass(frozen=True, eq=False)
class JoinedCatalogue(Catalogue):
    """The products of several catalogues one after the other."""

    parts: tuple[Catalogue, ...]

    def reader(self) -> JoinedReader:
        """A new reader of all parts."""
        return JoinedReader([part.reader() for part in self.parts])

    def addresses(self, image_rows: Int64[np.ndarray, " m"]) -> JoinedAddresses:
        """The addresses of these images in their parts."""
        starts = np.cumsum([0] + [part.num_images_total for part in self.parts])
        of = np.searchsorted(starts, image_rows, side="right") - 1
        found = [
            part.addresses(image_rows[of == number] - starts[number])
            for number, part in enumerate(self.parts)
        ]
        return JoinedAddresses(of, found)

    def place_of_product(self, product_row: int) -> Place:
        """The place by the part of the product."""
        part, row = self._part_of(product_row, [part.num_products for part in self.parts])
        return part.place_of_product(row)

    def place_of_image(self, image_row: int) -> Place:
        """The place by the part of the image."""
        part, row = self._part_of(image_row, [part.num_images_total for part in self.parts])
        return part.place_of_image(row)

    def _part_of(self, row: int, counts: list[int]) -> tuple[Catalogue, int]:
        starts = np.cumsum([0, *counts])
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return self.parts[number], row - int(starts[number])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the parts alone; another process joins them again."""
        return join, (list(self.parts),)


def join(parts: Sequence[Catalogue]) -> Catalogue:
    """One catalogue of several. The first record of a product id counts, as within one."""
    if len(parts) == 1:
        return parts[0]
    return JoinedCatalogue(**joined_fields(parts), parts=tuple(parts))
