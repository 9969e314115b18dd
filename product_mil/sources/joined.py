"""One catalogue of several, whatever sources they are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from product_mil.sources.bson.index_store import DUPLICATE, MAX_LISTED_FAULTS, hash_of
from product_mil.sources.catalogue import (
    Catalogue,
    Fault,
    Place,
    Reader,
    Unread,
    kind_of,
    later_duplicates,
)
from product_mil.sources.ids import joined


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
    images_before = np.cumsum([0] + [part.num_images_total for part in parts])
    hashes = [part.image_hash for part in parts]
    product_id = joined([part.product_id for part in parts])
    counts = Counter[str]()
    faults: list[tuple[Path, Fault]] = []
    for part in parts:
        counts.update(part.fault_counts)
        faults += [fault for fault in part.faults if fault[1].reason != DUPLICATE]
    repeated = later_duplicates(product_id)
    counts[kind_of(DUPLICATE)] = len(repeated)
    made = JoinedCatalogue(
        product_id=product_id,
        category_id=joined([part.category_id for part in parts]),
        num_images=np.concatenate([part.num_images for part in parts]),
        first_image=np.concatenate(
            [part.first_image + before for part, before in zip(parts, images_before, strict=False)]
        ),
        image_length_bytes=np.concatenate([part.image_length_bytes for part in parts]),
        image_hash=np.concatenate([h for h in hashes if h is not None]),
        parts=tuple(parts),
        paths=tuple(path for part in parts for path in part.paths),
        fingerprint=hash_of(part.fingerprint for part in parts),
        faults=faults,
        fault_counts=dict(+counts),
        num_bad_records=sum(part.num_bad_records for part in parts),
        unread_bytes=sum(part.unread_bytes for part in parts),
    )
    for row in repeated[: max(0, MAX_LISTED_FAULTS - len(faults))].tolist():
        place = made.place_of_product(row)
        fault = Fault(place.offset_bytes, product_id[row].item(), DUPLICATE)
        faults.append((Path(place.file), fault))
    return made
