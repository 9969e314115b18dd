"""The same products as a dump, a folder and tables."""

import csv
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import bson
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from product_mil.sources.catalogue import Catalogue, Unread


class Product(NamedTuple):
    product_id: int | str
    category_id: int | str | None
    images: Sequence[bytes]


def jpeg(red: int, size: tuple[int, int] = (24, 20)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, (red, 99, 7)).save(file, "JPEG")
    return file.getvalue()


PRODUCTS = [
    Product(7, 1000, [jpeg(1), jpeg(2)]),
    Product(8, 1000, [jpeg(3)]),
    Product(9, 2000, [jpeg(4), jpeg(5), jpeg(6)]),
    Product(11, 2000, [jpeg(1)]),
]


def dump(path: Path, products: Sequence[Product] = PRODUCTS) -> Path:
    path.write_bytes(b"".join(records(products)))
    return path


def records(products: Sequence[Product] = PRODUCTS) -> list[bytes]:
    return [bson.encode(record(product)) for product in products]


def record(product: Product) -> dict[str, Any]:
    images = [{"picture": image} for image in product.images]
    return {"_id": product.product_id, "category_id": product.category_id, "imgs": images}


def folder(path: Path, products: Sequence[Product] = PRODUCTS, *, flat: bool = False) -> Path:
    """category/product/image.jpg or, if it is flat, product/image.jpg."""
    for product in products:
        inside = path if flat else path / str(product.category_id)
        place = inside / str(product.product_id)
        place.mkdir(parents=True)
        for number, image in enumerate(product.images):
            (place / f"{number}.jpg").write_bytes(image)
    return path


def csv_of_lists(path: Path, products: Sequence[Product] = PRODUCTS) -> Path:
    """A row a product; the images lie beside it."""
    rows = []
    for product in products:
        names = [f"{product.product_id}-{n}.jpg" for n in range(len(product.images))]
        for name, image in zip(names, product.images, strict=True):
            (path.parent / name).write_bytes(image)
        rows.append((product.product_id, product.category_id, "|".join(names)))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("_id", "category_id", "images"), *rows])
    return path


def parquet_of_bytes(path: Path, products: Sequence[Product] = PRODUCTS) -> Path:
    ids, categories, images = zip(*products, strict=True)
    columns = {"_id": ids, "category_id": categories, "images": [list(some) for some in images]}
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def contents(catalogue: Catalogue) -> dict[int | str, tuple[int | str, list[bytes | Unread]]]:
    """The category and images of each product, read one by one."""
    found = {}
    for row in range(catalogue.num_products):
        first, count = int(catalogue.first_image[row]), int(catalogue.num_images[row])
        images = list(catalogue.read(np.arange(first, first + count)))
        found[catalogue.product_id[row].item()] = (catalogue.category_id[row].item(), images)
    return found


def as_contents(
    products: Sequence[Product] = PRODUCTS,
) -> dict[int | str, tuple[int | str | None, list[bytes | Unread]]]:
    return {p.product_id: (p.category_id, list(p.images)) for p in products}
