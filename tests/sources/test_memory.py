"""The same products from memory as from a BSON file, through everything that reads images."""

import hashlib
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest

from product_mil.data.duplicates import drop_images
from product_mil.data.embeddings import EmbeddingStore, fill_store
from product_mil.data.faults import FaultList
from product_mil.data.loader import PixelSource, batches
from product_mil.data.plan import SequentialPlan
from product_mil.data.products import Products
from product_mil.data.sheet import Book
from product_mil.inference.stream import predict_products
from product_mil.runs.opening import open_run
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.catalogue import Catalogue
from product_mil.sources.ids import NO_CATEGORY
from product_mil.sources.memory import catalogue_of
from product_mil.sources.sample.draw import SampleFiles

SIZE_PX = 48
NO_IMAGE = b"no image"


@pytest.fixture(scope="module")
def records(sample: SampleFiles) -> list[dict[str, Any]]:
    """Of the sample, with an unreadable image in two products, and one product without images."""
    found = bson.decode_all(sample.train.read_bytes())[:40]
    for number in (3, 8):
        found[number]["imgs"][0] = {"picture": NO_IMAGE}
    found[5]["imgs"] = []
    del found[7]["category_id"]
    return found


@pytest.fixture(scope="module")
def both(
    records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Catalogue, Catalogue]:
    path = tmp_path_factory.mktemp("data") / "a.bson"
    path.write_bytes(b"".join(map(bson.encode, records)))
    in_memory = catalogue_of(
        [[image["picture"] for image in record["imgs"]] for record in records],
        product_id=[record["_id"] for record in records],
        category_id=[record.get("category_id") for record in records],
    )
    return open_catalogue(path), in_memory


def all_of(catalogue: Catalogue) -> Products:
    rows = np.arange(catalogue.num_products)
    return Products(catalogue, rows, np.zeros(len(rows), np.int32), 4)


def faults_of(faults: list[Any]) -> list[tuple[int, int, str]]:
    return [(fault.product_id, fault.image_index, fault.reason) for fault in faults]


def test_columns_and_bytes(both: tuple[Catalogue, Catalogue]) -> None:
    in_file, in_memory = both
    for name in ("product_id", "category_id", "num_images", "first_image", "image_length_bytes"):
        np.testing.assert_array_equal(getattr(in_file, name), getattr(in_memory, name))
    np.testing.assert_array_equal(in_file.image_hash, in_memory.image_hash)
    rows = np.arange(in_file.num_images_total)[::-1]
    assert list(in_file.read(rows)) == list(in_memory.read(rows))
    assert in_memory.category_id[7] == NO_CATEGORY


def test_without_ids_products_are_numbered() -> None:
    found = catalogue_of([[b"a"], [], [b"b", b"c"]])
    assert found.product_id.tolist() == [0, 1, 2]
    assert (found.category_id == NO_CATEGORY).all()
    assert list(found.read(np.array([1, 2]))) == [b"b", b"c"]
    assert found.fingerprint != catalogue_of([[b"a"], [b"b"], [b"c"]]).fingerprint
    assert catalogue_of([]).num_images_total == 0
    with pytest.raises(ValueError, match="3 products, 2 ids"):
        catalogue_of([[b"a"], [], [b"b"]], product_id=[1, 2])


def test_batches(both: tuple[Catalogue, Catalogue], tmp_path: Path) -> None:
    """Threads alone read from memory, however many images came before."""
    loads = []
    for catalogue in both:
        products = all_of(catalogue)
        plan = SequentialPlan(products.num_images, shards=2, image_slots=8)
        source = PixelSource(products, plan, image_size_px=SIZE_PX, images_before_processes=0)
        loads.append(list(batches(source, threads=3)))
        assert (source._decoder._processes is None) or catalogue is both[0]
    for one, other in zip(*loads, strict=True):
        np.testing.assert_array_equal(one.batch.images, other.batch.images)
        np.testing.assert_array_equal(one.batch.slots.segment, other.batch.slots.segment)
        assert faults_of(one.faults) == faults_of(other.faults)
    faults = FaultList(tmp_path / "bad.csv")
    faults.add(fault for loaded in loads[1] for fault in loaded.faults)
    assert len(faults) == 2  # one each, though both lie in memory


def test_the_embedding_cache(both: tuple[Catalogue, Catalogue], tmp_path: Path) -> None:
    """What was embedded from a file is found for the same image in memory."""

    def embed(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1, 3).astype(np.float32).mean(1)

    store = EmbeddingStore(tmp_path / "store", dim=3, dtype="float32")
    found = [
        fill_store(store, [all_of(of)], embed, image_size_px=32, batch_images=8, threads=2)
        for of in both
    ]
    assert [embedded for embedded, _ in found] == [len(store), 0]
    assert len(store) > 0
    assert faults_of(found[0][1]) == faults_of(found[1][1])


def test_placeholders_and_sheets(both: tuple[Catalogue, Catalogue]) -> None:
    md5 = [hashlib.md5(NO_IMAGE).hexdigest()]
    dropped, of_memory = (drop_images(catalogue, md5) for catalogue in both)
    np.testing.assert_array_equal(dropped, of_memory)
    assert dropped.sum() == 2
    in_file, in_memory = (Book(catalogue, None, SIZE_PX) for catalogue in both)
    for row in range(40):
        for one, other in zip(in_file.show(row).images, in_memory.show(row).images, strict=True):
            np.testing.assert_array_equal(one, other)


def test_prediction(both: tuple[Catalogue, Catalogue], trained: Path) -> None:
    run = open_run(trained)
    step = run.predict_step(topk=3, keep_all=True)
    found = []
    for catalogue in both:
        products = run.select(catalogue)
        blocks = predict_products(products, run.batches(products, 64), step, run.mesh)
        found.append(list(blocks))
    for (one, faults), (other, of_memory) in zip(*found, strict=True):
        np.testing.assert_array_equal(one.product_id, other.product_id)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        np.testing.assert_array_equal(one.num_readable_images, other.num_readable_images)
        assert faults_of(faults) == faults_of(of_memory)
