from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest
from PIL import Image

from product_mil.batch import EmbeddedBatch, PackedBatch
from product_mil.data.embeddings import (
    EmbeddedSource,
    EmbeddingStore,
    embed_images,
    fill_store,
    room_for,
    store_dtype,
    used_images,
)
from product_mil.data.loader import PixelSource
from product_mil.data.plan import SequentialPlan
from product_mil.data.products import Products
from product_mil.files.outputs import DRAFT_PREFIX
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.sample.draw import SampleFiles

SIZE_PX = 32
BATCH_IMAGES = 8


def embed(images: np.ndarray) -> np.ndarray:
    """A stand-in for a backbone: three numbers that depend on all pixels of an image alone."""
    return images.reshape(len(images), -1, 3).astype(np.float32).mean(1)


def products_of(path: Path, max_images: int = 4) -> Products:
    catalogue = open_catalogue(path)
    rows = np.arange(catalogue.num_products)
    return Products(catalogue, rows, np.zeros(len(rows), np.int32), max_images)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "store", dim=3, dtype="float32")


def test_batches_from_the_store_equal_embedded_pixel_batches(
    sample: SampleFiles, store: EmbeddingStore
) -> None:
    products = products_of(sample.train)
    embedded, faults = fill_store(
        store, [products], embed, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=2
    )
    assert (embedded, faults) == (len(store), [])
    plan = SequentialPlan(products.num_images, shards=2, image_slots=16)
    pixels = PixelSource(products, plan, image_size_px=SIZE_PX)
    cached = EmbeddedSource(products, plan, store, num_steps=plan.num_steps)
    assert len(cached) == len(pixels)
    for step in range(plan.num_steps):
        wanted, found = pixels[step], cached[step]
        assert isinstance(wanted.batch, PackedBatch)
        assert isinstance(found.batch, EmbeddedBatch)
        for a, b in zip(wanted.batch.slots, found.batch.slots, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(wanted.positions, found.positions)
        real = wanted.batch.slots.segment < plan.product_slots
        flat = wanted.batch.images.reshape(-1, SIZE_PX, SIZE_PX, 3)
        values = embed(flat).reshape(*real.shape, 3)
        np.testing.assert_array_equal(found.batch.embeddings[real], values[real])
        assert not found.batch.embeddings[~real].any()


def test_an_image_is_embedded_once_however_often_it_occurs(
    tmp_path: Path, sample: SampleFiles, store: EmbeddingStore
) -> None:
    records = bson.decode_all(sample.train.read_bytes())[:6]
    distinct = sum(len(record["imgs"]) for record in records)
    path = tmp_path / "twice.bson"
    path.write_bytes(
        b"".join(bson.encode({**r, "_id": r["_id"] + k}) for k in (0, 1) for r in records)
    )
    seen: list[int] = []

    def counting(images: np.ndarray) -> np.ndarray:
        seen.append(int((images.reshape(len(images), -1).max(1) > 0).sum()))
        return embed(images)

    products = products_of(path)
    arguments: Any = {"image_size_px": SIZE_PX, "batch_images": BATCH_IMAGES, "threads": 1}
    assert fill_store(store, [products], counting, **arguments) == (distinct, [])
    assert sum(seen) == distinct
    assert fill_store(store, [products, products], counting, **arguments) == (0, [])


def test_processes_share_the_images(
    tmp_path: Path, sample: SampleFiles, store: EmbeddingStore
) -> None:
    """Each image is embedded by one of them, an unreadable one is tried by one of them."""
    records = bson.decode_all(sample.train.read_bytes())
    records[0]["imgs"] = [{"picture": b"\xff\xd8 no more"}]
    path = tmp_path / "some.bson"
    path.write_bytes(b"".join(map(bson.encode, records)))
    products = products_of(path)
    arguments: Any = {"image_size_px": SIZE_PX, "batch_images": BATCH_IMAGES, "threads": 1}
    alone = EmbeddingStore(tmp_path / "alone", dim=3, dtype="float32")
    total, faults = fill_store(alone, [products], embed, **arguments)
    parts = [
        fill_store(store, [products], embed, share=(number, 3), **arguments) for number in range(3)
    ]
    assert sum(embedded for embedded, _ in parts) == total
    assert min(embedded for embedded, _ in parts) > total / 6
    assert [fault for _, of in parts for fault in of] == faults
    assert len(faults) == 1
    # Nothing is left for who looks at all of them.
    assert fill_store(store, [products], embed, **arguments) == (0, faults)
    rows = np.arange(products.catalogue.num_images_total)
    hashes = np.asarray(products.catalogue.image_hash)[rows]
    found, wanted = store.find(hashes), alone.find(hashes)
    np.testing.assert_array_equal(found < 0, wanted < 0)
    np.testing.assert_array_equal(store.take(found[found >= 0]), alone.take(wanted[wanted >= 0]))


def test_unreadable_images_are_listed_and_become_padding(
    tmp_path: Path, sample: SampleFiles, store: EmbeddingStore
) -> None:
    records = bson.decode_all(sample.train.read_bytes())
    several = next(record for record in records if len(record["imgs"]) > 1)
    several["imgs"][0] = {"picture": b"\xff\xd8 no more"}
    path = tmp_path / "bad.bson"
    path.write_bytes(bson.encode({"_id": 1, "category_id": 2, "imgs": []}) + bson.encode(several))
    products = products_of(path)
    embedded, faults = fill_store(
        store, [products], embed, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=1
    )
    assert embedded == len(several["imgs"]) - 1
    assert [(f.product_id, f.image_index) for f in faults] == [(several["_id"], 0)]
    plan = SequentialPlan(products.num_images, shards=1, image_slots=8)
    batch = EmbeddedSource(products, plan, store, num_steps=1)[0].batch
    used = batch.slots.segment[0][: len(several["imgs"])]
    assert used.tolist() == [plan.product_slots] + [1] * (len(several["imgs"]) - 1)


def test_an_image_with_a_remark_is_embedded(
    tmp_path: Path, sample: SampleFiles, store: EmbeddingStore
) -> None:
    record = bson.decode_all(sample.train.read_bytes())[0]
    record["imgs"] = [{"picture": record["imgs"][0]["picture"][:-2]}]
    path = tmp_path / "cut.bson"
    path.write_bytes(bson.encode(record))
    products = products_of(path)
    embedded, found = fill_store(
        store, [products], embed, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=1
    )
    assert (embedded, len(store)) == (1, 1)
    assert [(f.product_id, f.image_index, f.is_remark) for f in found] == [(record["_id"], 0, True)]
    plan = SequentialPlan(products.num_images, shards=1, image_slots=4)
    batch = EmbeddedSource(products, plan, store, num_steps=1)[0].batch
    assert batch.slots.segment[0].tolist() == [0] + [plan.product_slots] * 3


def test_products_without_any_image_are_padding_alone(
    tmp_path: Path, store: EmbeddingStore
) -> None:
    path = tmp_path / "none.bson"
    path.write_bytes(bson.encode({"_id": 1, "category_id": 2, "imgs": []}))
    products = products_of(path)
    plan = SequentialPlan(products.num_images, shards=2, image_slots=4)
    loaded = EmbeddedSource(products, plan, store, num_steps=1)[0]
    assert (loaded.batch.slots.segment == plan.product_slots).all()
    assert sorted(loaded.positions.reshape(-1).tolist())[-1] == 0


def test_identical_images_share_a_reason_only_where_it_is_their_own(
    tmp_path: Path, sample: SampleFiles, store: EmbeddingStore
) -> None:
    """A photo that is lost in one place is read in the next; a bad one is tried once."""
    photos = [record["imgs"][0]["picture"] for record in bson.decode_all(sample.train.read_bytes())]
    noise = b"\xff\xd8 no more"
    paths = [tmp_path / "a.bson", tmp_path / "b.bson", tmp_path / "c.bson"]
    for number, path in enumerate(paths):
        pictures = [photos[0], noise, photos[1 + number], *[photos[9]] * (number < 2)]
        path.write_bytes(
            b"".join(
                bson.encode({"_id": 10 * number + k, "imgs": [{"picture": p}]})
                for k, p in enumerate(pictures)
            )
        )
    catalogue = open_catalogue(paths)
    rows = np.arange(catalogue.num_products)
    products = Products(catalogue, rows, np.zeros(len(rows), np.int32), 4)
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes().replace(photos[9], bytes(len(photos[9]))))
    shown: list[int] = []

    def counting(images: np.ndarray) -> np.ndarray:
        shown.append(len(images))
        return embed(images)

    embedded, faults = fill_store(
        store, [products], counting, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=1
    )
    assert embedded == 3  # photos 0, 2 and 3
    faults_by_id = {fault.product_id: fault.reason for fault in faults}
    assert faults_by_id.keys() == {1, 2, 3, 11, 13, 21}
    assert all(
        "damaged JPEG" in faults_by_id[i] or "not a readable" in faults_by_id[i] for i in (11, 21)
    )
    assert "No such file" in faults_by_id[2]
    assert "No such file" in faults_by_id[3]
    assert "other bytes than were indexed" in faults_by_id[13]
    assert "No such file" in faults_by_id[1]
    assert len(shown) == 2  # the noise, once read, was not read again


def test_damaged_and_unfinished_parts_are_made_again(
    sample: SampleFiles, store: EmbeddingStore
) -> None:
    products = products_of(sample.train)
    fill_store(
        store, [products], embed, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=1
    )
    size = len(store)
    (part,) = store.directory.glob("part-*")
    values = part / "embedding.npy"
    values.write_bytes(values.read_bytes()[:-7])
    unfinished = store.directory / f"{DRAFT_PREFIX}files-of-a-killed-run"
    unfinished.mkdir()
    again = EmbeddingStore(store.directory, dim=3, dtype="float32")
    assert len(again) == 0
    assert (
        fill_store(
            again, [products], embed, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=1
        )[0]
        == size
    )
    assert not unfinished.exists()


def test_batches_are_fixed_so_that_the_store_is_reproducible(sample: SampleFiles) -> None:
    shapes: set[tuple[int, ...]] = set()

    def watching(images: np.ndarray) -> np.ndarray:
        shapes.add(images.shape)
        return embed(images)

    catalogue = open_catalogue(sample.train)
    rows = np.arange(catalogue.num_images_total)
    found = embed_images(
        catalogue, rows, watching, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=1
    )
    done = np.concatenate([part[0] for part in found])
    assert done.tolist() == rows.tolist()
    assert shapes == {(BATCH_IMAGES, SIZE_PX, SIZE_PX, 3)}


def test_used_images_are_the_first_ones_of_each_product(sample: SampleFiles) -> None:
    catalogue = open_catalogue(sample.train)
    wanted = [
        first + k
        for first, count in zip(catalogue.first_image, catalogue.num_images, strict=True)
        for k in range(min(count, 2))
    ]
    assert used_images(products_of(sample.train, max_images=2)).tolist() == wanted


def test_large_stores_hold_half_precision(tmp_path: Path, store: EmbeddingStore) -> None:
    assert store_dtype(100_000, 1280) == "float32"
    assert store_dtype(12_000_000, 1280) == "float16"
    assert room_for(tmp_path / "not" / "yet", 10, 4, "float16")[0] == 80
    half = EmbeddingStore(tmp_path / "half", dim=3, dtype="float16")
    hashes = np.arange(4, dtype=np.uint64).reshape(2, 2)
    half.add(hashes, np.full((2, 3), 1 / 3, np.float32))
    half.reload()
    assert half.find(hashes[::-1]).tolist() == [1, 0]
    np.testing.assert_allclose(half.take(np.array([0])), 1 / 3, rtol=1e-3)
    assert store.find(hashes).tolist() == [-1, -1]


def test_pictures_of_other_sizes_are_embedded_resized(tmp_path: Path) -> None:
    import io

    stream = io.BytesIO()
    Image.new("RGB", (50, 20), (10, 200, 30)).save(stream, "PNG")
    path = tmp_path / "png.bson"
    path.write_bytes(bson.encode({"_id": 7, "imgs": [{"picture": stream.getvalue()}]}))
    catalogue = open_catalogue(path)
    ((rows, values, faults),) = embed_images(
        catalogue, np.arange(1), embed, image_size_px=SIZE_PX, batch_images=BATCH_IMAGES, threads=1
    )
    assert (rows.tolist(), faults) == ([0], [])
    np.testing.assert_allclose(values, [[10, 200, 30]])
