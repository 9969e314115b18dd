import errno
import io
import os
import pickle
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest
from PIL import Image

from product_mil.data.faults import FaultList, product_faults
from product_mil.data.loader import PixelSource, batches
from product_mil.data.plan import SequentialPlan, ShuffledPlan
from product_mil.data.products import ImageFault, Products
from product_mil.errors import UserError
from product_mil.sources.bson import reader
from product_mil.sources.bson.index import open_catalogue

SIZE_PX = 32
COUNTS = np.random.default_rng(0).integers(1, 5, 40)


def picture(product: int, index: int) -> bytes:
    """A JPEG of one colour and a stripe, that shows whose image it is."""
    pixels = np.full((SIZE_PX, SIZE_PX, 3), (product * 6 % 256, 60 * index, 90), np.uint8)
    pixels[product % SIZE_PX] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def product_id(product: int) -> int:
    return 1000 + 7 * product


def write(path: Path, damaged: dict[tuple[int, int], bytes] | None = None) -> Path:
    """Products 0.. with COUNTS images; `damaged` replaces pictures."""
    with path.open("wb") as file:
        for product, count in enumerate(COUNTS.tolist()):
            pictures = [
                (damaged or {}).get((product, index), picture(product, index))
                for index in range(count)
            ]
            record = {
                "_id": product_id(product),
                "category_id": product % 5,
                "imgs": [{"picture": data} for data in pictures],
            }
            file.write(bson.encode(record))
    return path


def products_of(path: Path, max_images: int = 4, dropped: np.ndarray | None = None) -> Products:
    catalogue = open_catalogue(path)
    rows = np.random.default_rng(1).permutation(catalogue.num_products)
    labels = (np.asarray(catalogue.category_id)[rows]).astype(np.int32)
    return Products(catalogue, rows, labels, max_images, dropped)


def source_of(products: Products, steps: int = 12) -> PixelSource:
    plan = ShuffledPlan(products.num_images, shards=2, image_slots=8, seed=0)
    return PixelSource(products, plan, image_size_px=SIZE_PX, num_steps=steps)


def contents(products: Products, loaded: Any) -> dict[tuple[int, int], np.ndarray]:
    """Pixels by (product, image index), and everything about the slots checked on the way."""
    images, slots = loaded.batch.images, loaded.batch.slots
    shards, n = slots.segment.shape
    p = slots.label.shape[1]
    found: dict[tuple[int, int], np.ndarray] = {}
    for s in range(shards):
        for j in range(n):
            segment = slots.segment[s, j]
            if segment == p:
                continue
            row = products.product_rows[loaded.positions[s, segment]]
            product = (int(products.catalogue.product_id[row]) - 1000) // 7
            assert slots.label[s, segment] == product % 5
            key = (product, int(slots.image_index[s, j]))
            assert key not in found
            found[key] = images[s, j]
    assert ((loaded.positions >= 0) == (slots.label >= 0)).all()
    return found


def test_pixels_sit_with_their_product(tmp_path: Path) -> None:
    products = products_of(write(tmp_path / "train.bson"))
    source = source_of(products)
    steps = source._plan.num_steps
    seen: dict[tuple[int, int], np.ndarray] = {}
    for step in range(steps):
        loaded = source[step]
        assert loaded.faults == []
        seen |= contents(products, loaded)
    assert set(seen) == {(i, j) for i, count in enumerate(COUNTS) for j in range(count)}
    for (product, index), pixels in seen.items():
        np.testing.assert_array_equal(pixels, pixels_of(picture(product, index)))


def test_two_files_are_one_catalogue(tmp_path: Path) -> None:
    write(tmp_path / "a.bson")
    extra = [{"_id": 5, "category_id": 1, "imgs": [{"picture": picture(3, 1)}]}]
    (tmp_path / "b.bson").write_bytes(b"".join(map(bson.encode, extra)))
    catalogue = open_catalogue(f"{tmp_path}/a.bson,{tmp_path}/b.bson")
    products = Products(catalogue, np.asarray([len(COUNTS)]), np.asarray([1], np.int32), 4)
    plan = SequentialPlan(products.num_images, shards=1, image_slots=4)
    loaded: Any = PixelSource(products, plan, image_size_px=SIZE_PX)[0]
    np.testing.assert_array_equal(loaded.batch.images[0, 0], pixels_of(picture(3, 1)))


def test_corrupt_image_becomes_padding_and_a_fault(tmp_path: Path) -> None:
    several = int(np.flatnonzero(COUNTS == 3)[0])
    single = int(np.flatnonzero(COUNTS == 1)[0])
    damaged = {(several, 1): picture(several, 1)[:200], (single, 0): b""}
    path = write(tmp_path / "train.bson", damaged)
    products = products_of(path)
    plan = SequentialPlan(products.num_images, shards=2, image_slots=8)
    loads = list(batches(PixelSource(products, plan, image_size_px=SIZE_PX), threads=2))
    seen: dict[tuple[int, int], np.ndarray] = {}
    for loaded in loads:
        seen |= contents(products, loaded)
    wanted = {(i, j) for i, count in enumerate(COUNTS) for j in range(count)}
    assert set(seen) == wanted - {(several, 1), (single, 0)}
    assert np.sort(np.concatenate([x.positions[x.positions >= 0] for x in loads])).tolist() == list(
        range(len(COUNTS))
    )
    faults = [fault for loaded in loads for fault in loaded.faults]
    assert {(f.product_id, f.image_index) for f in faults} == {
        (product_id(several), 1),
        (product_id(single), 0),
    }
    data = path.read_bytes()
    by_product = {fault.product_id: fault for fault in faults}
    damaged_at = by_product[product_id(several)].offset_bytes
    assert data[damaged_at : damaged_at + 200] == damaged[several, 1]
    assert "no bytes" in by_product[product_id(single)].reason
    listed = FaultList(tmp_path / "bad.csv")
    listed.add(faults)
    listed.add(faults)
    assert listed.write() is not None
    assert len((tmp_path / "bad.csv").read_text().splitlines()) == 3
    assert len(FaultList(tmp_path / "bad.csv")) == 2


def assert_equal(a: Any, b: Any) -> None:
    for x, y in zip(
        (*a.batch.slots, a.batch.images, a.positions),
        (*b.batch.slots, b.batch.images, b.positions),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_resuming_and_threads_give_the_same_batches(tmp_path: Path) -> None:
    products = products_of(write(tmp_path / "train.bson"))
    steps = 3 * ShuffledPlan(products.num_images, shards=2, image_slots=8, seed=0).num_steps
    whole = list(batches(source_of(products, steps), threads=1))
    assert len(whole) == steps
    for threads in (2, 5, 0):
        rest = list(batches(source_of(products, steps), threads=threads))
        for a, b in zip(whole, rest, strict=True):
            assert_equal(a, b)
    for first in range(0, steps, 3):
        rest = list(batches(source_of(products, steps), first_step=first, threads=3))
        for a, b in zip(whole[first:], rest, strict=True):
            assert_equal(a, b)


def test_source_pickles(tmp_path: Path) -> None:
    products = products_of(write(tmp_path / "train.bson"))
    source = source_of(products)
    first = source[0]
    assert_equal(pickle.loads(pickle.dumps(source))[0], first)


@pytest.mark.parametrize("max_images", [1, 2, 3])
def test_max_images_takes_the_first(tmp_path: Path, max_images: int) -> None:
    products = products_of(write(tmp_path / "train.bson"), max_images)
    np.testing.assert_array_equal(
        products.num_images, np.minimum(COUNTS, max_images)[products.product_rows]
    )
    plan = SequentialPlan(products.num_images, shards=2, image_slots=8)
    seen: set[tuple[int, int]] = set()
    for loaded in batches(PixelSource(products, plan, image_size_px=SIZE_PX), threads=2):
        seen |= set(contents(products, loaded))
    assert seen == {(i, j) for i, c in enumerate(COUNTS) for j in range(min(c, max_images))}


def test_dropped_images_leave_their_place_to_the_next(tmp_path: Path) -> None:
    path = write(tmp_path / "train.bson")
    catalogue = open_catalogue(path)
    dropped = np.random.default_rng(3).random(int(COUNTS.sum())) < 0.4
    first = np.asarray(catalogue.first_image)
    wanted = {
        (i, j)
        for i, count in enumerate(COUNTS)
        for j in [j for j in range(count) if not dropped[first[i] + j]][:2]
    }
    products = products_of(path, 2, dropped)
    kept = np.bincount([i for i, _ in wanted], minlength=len(COUNTS))
    np.testing.assert_array_equal(products.num_images, kept[products.product_rows])
    plan = SequentialPlan(products.num_images, shards=2, image_slots=8)
    seen: dict[tuple[int, int], np.ndarray] = {}
    for loaded in batches(PixelSource(products, plan, image_size_px=SIZE_PX), threads=2):
        seen |= contents(products, loaded)
    assert set(seen) == wanted
    for (product, index), pixels in seen.items():
        np.testing.assert_array_equal(pixels, pixels_of(picture(product, index)))


def test_subset_keeps_products_whole(tmp_path: Path) -> None:
    products = products_of(write(tmp_path / "train.bson"))
    part = products.subset(products.labels == 2)
    assert (part.labels == 2).all()
    np.testing.assert_array_equal(part.product_rows, products.product_rows[products.labels == 2])


def test_shrinking_file_is_a_fault_of_each_lost_image(tmp_path: Path) -> None:
    path = write(tmp_path / "train.bson")
    products = products_of(path)
    images = range(products.catalogue.num_images_total)
    offsets = [products.catalogue.place_of_image(row).offset_bytes or 0 for row in images]
    cut = offsets[len(offsets) // 2]
    os.truncate(path, cut)
    plan = SequentialPlan(products.num_images, shards=2, image_slots=8)
    loads = list(batches(PixelSource(products, plan, image_size_px=SIZE_PX), threads=2))
    faults = [fault for loaded in loads for fault in loaded.faults]
    assert len(faults) == sum(offset >= cut for offset in offsets)
    assert all("changed since it was indexed" in fault.reason for fault in faults)
    seen: set[tuple[int, int]] = set()
    for loaded in loads:
        seen |= set(contents(products, loaded))
    assert len(seen) == COUNTS.sum() - len(faults)


def test_vanished_file_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "train.bson")
    products = products_of(path)
    path.unlink()
    loaded = source_of(products)[0]
    assert len(loaded.faults) > 0
    assert (loaded.batch.slots.segment == loaded.batch.slots.label.shape[1]).all()
    assert "the file cannot be read here: " in loaded.faults[0].reason


def test_too_many_open_files_stop_the_run_and_cost_no_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "train.bson")
    source = source_of(products_of(path))

    def full(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(reader.os, "open", full)
    with pytest.raises(UserError, match=r"too many open files at .*train\.bson: .*ulimit -n"):
        source[0]


def test_changed_bytes_are_a_fault(tmp_path: Path) -> None:
    """Overwritten in place after indexing: another picture is not taken for the product's own."""
    path = write(tmp_path / "train.bson")
    products = products_of(path)
    catalogue = products.catalogue
    at, length = catalogue.place_of_image(5).offset_bytes or 0, int(catalogue.image_length_bytes[5])
    other = picture(20, 2)[:length].ljust(length, b"\0")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(other)
    plan = SequentialPlan(products.num_images, shards=2, image_slots=8)
    loads = list(batches(PixelSource(products, plan, image_size_px=SIZE_PX), threads=2))
    (fault,) = [fault for loaded in loads for fault in loaded.faults]
    assert (fault.offset_bytes, fault.file) == (at, str(path))
    assert "other bytes than were indexed" in fault.reason


def test_a_jpeg_without_its_end_is_used_with_a_remark(tmp_path: Path) -> None:
    """In its slot with its pixels; listed, and no failure even where faults are."""
    damaged = {(3, 0): picture(3, 0)[:-2], (5, 0): picture(5, 0)[:-40]}
    products = products_of(write(tmp_path / "train.bson", damaged))
    source = source_of(products)
    seen: dict[tuple[int, int], np.ndarray] = {}
    faults: list[ImageFault] = []
    for step in range(source._plan.num_steps):
        seen |= contents(products, source[step])
        faults += source[step].faults
    every = {(i, j) for i, count in enumerate(COUNTS) for j in range(count)}
    assert set(seen) == every - {(5, 0)}
    np.testing.assert_array_equal(seen[3, 0], pixels_of(picture(3, 0)))
    remark, fault = sorted(faults, key=lambda fault: fault.product_id)
    assert (remark.product_id, remark.image_index, remark.is_remark) == (product_id(3), 0, True)
    assert (fault.product_id, fault.image_index, fault.is_remark) == (product_id(5), 0, False)
    listed = FaultList(tmp_path / "bad.csv", bad_images="fail")
    listed.add([remark])
    with pytest.raises(UserError, match="damaged JPEG"):
        listed.add([fault])
    assert listed.write() == (
        "1 remarks in the data (1 x used although its end marker is missing): see "
        f"{tmp_path / 'bad.csv'}"
    )
    assert f",{product_id(3)},0,used although its end" in (tmp_path / "bad.csv").read_text()
    both = FaultList(None)
    both.add([remark, fault])
    assert str(both.write()).startswith("1 faults and 1 remarks in the data (")


def test_more_images_than_are_used_and_unknown_categories_are_reported(tmp_path: Path) -> None:
    products = products_of(write(tmp_path / "train.bson"), 2)
    labels = np.where(products.product_rows % 9 == 0, -1, products.labels).astype(np.int32)
    found = list(
        product_faults(
            Products(products.catalogue, products.product_rows, labels, 2), labelled=True
        )
    )
    surplus = {fault.product_id: fault.reason for _, fault in found if "more than" in fault.reason}
    assert surplus == {
        product_id(i): f"more than 2 images: {count}, of which the first 2 are used; see "
        "config.data.max_images"
        for i, count in enumerate(COUNTS)
        if count > 2
    }
    unknown = {fault.product_id for _, fault in found if "unknown category" in fault.reason}
    assert unknown == {product_id(i) for i in range(0, len(COUNTS), 9)}


def test_the_list_keeps_faults_of_a_resumed_run_and_replaces_those_of_an_export(
    tmp_path: Path,
) -> None:
    fault = ImageFault("a.bson", 10, 7, 1, "damaged JPEG: x")
    first = FaultList(tmp_path / "bad.csv")
    first.add([fault])
    first.write()
    resumed = FaultList(tmp_path / "bad.csv")
    resumed.add([fault, fault._replace(offset_bytes=20)])
    assert resumed.write() == (
        f"2 faults in the data (2 x damaged JPEG): see {tmp_path / 'bad.csv'}"
    )
    assert FaultList(tmp_path / "bad.csv", resumes=False).write() is None
    assert not (tmp_path / "bad.csv").exists()
    with pytest.raises(UserError, match=r"a\.bson, byte 10: image 1 of product 7: damaged"):
        FaultList(None, bad_images="fail").add([fault])
    FaultList(None, bad_records="fail").add([fault])


def test_batches_that_are_held_keep_their_pixels_and_others_memory_is_used_again(
    tmp_path: Path,
) -> None:
    products = products_of(write(tmp_path / "train.bson"))
    held = list(batches(source_of(products, 6), threads=2))
    for step, loaded in enumerate(held):
        assert_equal(loaded, source_of(products, 6)[step])
    source = source_of(products, 40)
    wanted = {(i, j): pixels_of(picture(i, j)) for i, n in enumerate(COUNTS) for j in range(n)}
    for loaded in batches(source, threads=2):
        assert (loaded.batch.images[loaded.batch.slots.segment == 8] == 0).all()
        for key, pixels in contents(products, loaded).items():
            np.testing.assert_array_equal(pixels, wanted[key])
    assert len(source._decoder._buffers) < 12
