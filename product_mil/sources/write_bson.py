"""Write the products of any source to one BSON file, as mongodump would."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bson
import numpy as np
from bson.int64 import Int64

from product_mil.errors import UserError
from product_mil.files.foreign import BSON, MAX_RECORD_BYTES, kind_of_file
from product_mil.files.outputs import Kind, is_marked
from product_mil.files.whole import whole
from product_mil.progress import Progress
from product_mil.sources.catalogue import Catalogue, Unread
from product_mil.sources.ids import has_id


def _is_ours(path: Path) -> bool:
    return is_marked(path) and kind_of_file(path) is BSON


MADE_BSON = Kind("a BSON file that product-mil made", (".bson",), _is_ours)


class Written(NamedTuple):
    """What was written."""

    num_products: int
    num_images: int
    num_bytes: int
    unread: list[str]  # reasons, one for each image that could not be read


def write_bson(catalogue: Catalogue, path: Path) -> Written:
    """Write all products in their order, whole or not at all.

    Integer ids are written as 64-bit integers, others as strings. An image that cannot be read has
    its place, without bytes.

    Raises:
        UserError: a product is too large for a record, or the file cannot be written.
    """
    num_bytes, unread = 0, []
    try:
        with (
            whole(path, MADE_BSON) as file,
            Progress(catalogue.num_products, "products", label="writing") as bar,
        ):
            for record in _records(catalogue, unread):
                data = bson.encode(record)
                if len(data) > MAX_RECORD_BYTES:
                    raise UserError(
                        f"product {record['_id']} has {len(data):,} bytes of images, more than a "
                        f"record can hold ({MAX_RECORD_BYTES:,}); leave some out"
                    )
                file.write(data)
                num_bytes += len(data)
                bar.update(1)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose another place"
        ) from None
    return Written(catalogue.num_products, catalogue.num_images_total, num_bytes, unread)


def _records(catalogue: Catalogue, unread: list[str]) -> Iterator[dict[str, Any]]:
    labelled = has_id(catalogue.category_id).tolist()
    for row in range(catalogue.num_products):
        record: dict[str, Any] = {"_id": _value(catalogue.product_id[row])}
        if labelled[row]:
            record["category_id"] = _value(catalogue.category_id[row])
        rows, images = catalogue.image_rows_of(row), []
        for number, data in enumerate(catalogue.read(np.array(rows, np.int64))):
            if isinstance(data, Unread):
                file = catalogue.place_of_image(rows[number]).file
                unread.append(f"image {number} of product {record['_id']} ({file}): {data.reason}")
            images.append({"picture": b"" if isinstance(data, Unread) else data})
        yield {**record, "imgs": images}


def _value(of_column: np.generic) -> Int64 | str:
    value = of_column.item()
    return value if isinstance(value, str) else Int64(value)
