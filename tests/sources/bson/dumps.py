"""Dumps to test with, and what is in them."""

import random
from pathlib import Path

import bson
import xxhash
from bson import Int64

from product_mil.sources.bson import scan
from product_mil.sources.bson.index import BsonCatalogue
from product_mil.sources.ids import NO_CATEGORY

Product = dict[str, object]


def product(number: object, *pictures: bytes, **fields: object) -> Product:
    return {"_id": number, **fields, "imgs": [{"picture": picture} for picture in pictures]}


def write(path: Path, *products: Product) -> Path:
    path.write_bytes(b"".join(map(bson.encode, products)))
    return path


def random_products(seed: int, count: int) -> list[Product]:
    """Mostly in mongodump's layout, some with other types, orders and fields."""
    rng = random.Random(seed)
    products = []
    for i in range(count):
        pictures = [
            rng.randbytes(rng.randrange(60)) for _ in range(rng.choice([1, 1, 2, 3, 4, 11]))
        ]
        fields = product(i * 3, *pictures, category_id=rng.randrange(9))
        odd = rng.randrange(12)
        if odd == 0:
            fields["_id"] = float(i * 3)
        elif odd == 1:
            fields["category_id"] = Int64(2**40)
            fields["_id"] = Int64(i * 3)
        elif odd == 2:
            fields = dict(reversed(fields.items()))
        elif odd == 3:
            fields["note"] = {"imgs": [1, 2]}
        elif odd == 4:
            del fields["category_id"]
        elif odd == 5:
            fields["imgs"] = [{"w": 1, "picture": picture} for picture in pictures]
        products.append(fields)
    return products


def read(path: Path) -> list[scan.Rows]:
    with path.open("rb", buffering=0) as file:
        return list(scan.scan(file, path.stat().st_size, hash_images=True))


def pictures_of(catalogue: BsonCatalogue, row: int) -> list[bytes]:
    data = Path(catalogue.place_of_product(row).file).read_bytes()
    first = int(catalogue.first_image[row])
    images = range(first, first + int(catalogue.num_images[row]))
    at, length = catalogue.image_offset_bytes, catalogue.image_length_bytes
    return [data[at[image] : at[image] + length[image]] for image in images]


def assert_holds(catalogue: BsonCatalogue, products: list[Product]) -> None:
    assert catalogue.product_id.tolist() == [int(p["_id"]) for p in products]  # pyright: ignore[reportArgumentType]
    assert catalogue.category_id.tolist() == [p.get("category_id", NO_CATEGORY) for p in products]
    everything = []
    for row, fields in enumerate(products):
        pictures = [image["picture"] for image in fields["imgs"]]  # pyright: ignore[reportGeneralTypeIssues]
        assert pictures_of(catalogue, row) == pictures
        everything += pictures
    assert catalogue.num_images_total == len(everything)
    assert catalogue.image_hash is not None
    for (high, low), picture in zip(catalogue.image_hash.tolist(), everything, strict=True):
        assert high << 64 | low == xxhash.xxh3_128_intdigest(picture)
