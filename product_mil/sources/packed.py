"""A catalogue of products whose images were copied from a table into one file of the cache."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from product_mil.errors import UserError
from product_mil.sources.bson.reader import Addresses, FileReader
from product_mil.sources.catalogue import Catalogue, Place, fingerprint_of
from product_mil.sources.stored import Stored, faults_of, load

IMAGES = "images.bin"  # beside the columns: the images one after the other


@dataclass(frozen=True, eq=False)
class PackedImages(Catalogue):
    """Products of tables; the bytes of their images are copied."""

    table: Int32[np.ndarray, " N"]  # which of `paths` a product is from
    image_offset_bytes: Int64[np.ndarray, " M"]  # in the copy
    stored: Path  # the directory of the copy and the columns

    def reader(self) -> FileReader:
        """A new reader of the copy."""
        return FileReader([self.stored / IMAGES])

    def addresses(self, image_rows: Int64[np.ndarray, " m"]) -> Addresses:
        """Where these images are in the copy."""
        assert self.image_hash is not None
        return Addresses(
            np.zeros(len(image_rows), np.int64),
            np.asarray(self.image_offset_bytes[image_rows]),
            np.asarray(self.image_length_bytes[image_rows]),
            np.asarray(self.image_hash[image_rows]),
        )

    def place_of_product(self, product_row: int) -> Place:
        """The product's table; its id says where in it."""
        return Place(str(self.paths[self.table[product_row]]), None)

    def place_of_image(self, image_row: int) -> Place:
        """The table of the image's product."""
        return self.place_of_product(self.product_row_of(image_row))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle paths rather than columns; another process maps them again."""
        return _reopen, (self.stored, self.paths)


def is_whole(stored: Stored) -> bool:
    """Whether the copy is there, as long as it was."""
    try:
        return (stored.directory / IMAGES).stat().st_size == stored.about["bytes"]
    except (OSError, KeyError):
        return False


def opened(stored: Stored, paths: tuple[Path, ...]) -> PackedImages:
    """The catalogue of columns that are kept in the cache."""
    names = ("product_id", "category_id", "num_images", "image_length_bytes", "image_hash")
    return PackedImages(
        **stored.columns,
        stored=stored.directory,
        paths=paths,
        fingerprint=fingerprint_of(stored.columns[name] for name in names),
        **faults_of(stored.about),
    )


def _reopen(directory: Path, paths: tuple[Path, ...]) -> PackedImages:
    stored = load(directory)
    if stored is None:
        raise UserError(f"the copy of {paths[0]} vanished from {directory}; start again")
    return opened(stored, paths)
