"""Reading the records of a dump: fast, slow, and where it is damaged."""

import random
import re
import tempfile
from pathlib import Path

import bson
import numpy as np
import pytest
from bson import Binary, Int64, ObjectId
from hypothesis import example, given, settings
from hypothesis import strategies as st

from product_mil.sources.bson import scan
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.catalogue import Fault
from product_mil.sources.ids import NO_CATEGORY
from tests.sources.bson.dumps import (
    Product,
    assert_holds,
    pictures_of,
    product,
    random_products,
    read,
    write,
)


def test_most_records_take_the_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = []
    parse_record = scan.parse_record
    monkeypatch.setattr(scan, "parse_record", lambda *a: walked.append(a) or parse_record(*a))
    products = [product(i, b"x", b"yy", category_id=i) for i in range(50)]
    products += [product(99, b"z"), product(Int64(100), b"", category_id=Int64(7))]
    assert_holds(open_catalogue(write(tmp_path / "a.bson", *products)), products)
    assert walked == []


@pytest.mark.parametrize("seed", range(3))
def test_lanes_equal_the_walker_whatever_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    records = [bytearray(bson.encode(p)) for p in random_products(seed, 600)]
    for record in records:
        if rng.random() < 0.8:  # any byte but the record's own length
            record[rng.randrange(4, len(record))] = rng.choice([0, 1, 3, 4, 5, 16, 18, 200])
    path = tmp_path / "a.bson"
    path.write_bytes(b"".join(records))
    fast = read(path)
    without_lanes(monkeypatch)
    slow = read(path)
    assert sum(len(rows.faults) for rows in slow) > 50
    assert_equal_rows(fast, slow)


def without_lanes(patch: pytest.MonkeyPatch) -> None:
    """Every record is walked by itself."""
    patch.setattr(
        scan,
        "parse_lanes",
        lambda buffer, start, stop: (*(np.zeros(len(start), np.int64) for _ in range(3)), []),
    )


def assert_equal_rows(fast: list[scan.Rows], slow: list[scan.Rows]) -> None:
    for a, b in zip(fast, slow, strict=True):
        for name in scan.Rows._fields:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


INTS = st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**63), 2**63 - 1).map(Int64)


IMAGES = st.lists(
    st.binary(max_size=40).map(lambda data: {"picture": data}), min_size=1, max_size=5
)


TEXTS = st.text("aé7", max_size=6) | st.text(max_size=3) | st.just("x" * 201)


UUIDS = st.uuids().map(lambda one: Binary(one.bytes, 4))


IDS = INTS | TEXTS | st.binary(min_size=12, max_size=12).map(ObjectId) | UUIDS


# All ids of a dump are usually of one type.
USUAL = [
    st.fixed_dictionaries({"_id": ids, "category_id": categories, "imgs": IMAGES})
    for ids in (INTS, TEXTS, st.binary(min_size=12, max_size=12).map(ObjectId))
    for categories in (INTS, TEXTS)
]


ODD = st.fixed_dictionaries(
    {"_id": IDS | st.floats()},
    optional={"category_id": IDS | st.floats() | st.none(), "imgs": IMAGES},
)


DUMPS = st.sampled_from(USUAL).flatmap(lambda usual: st.lists(usual | ODD, min_size=1, max_size=12))


# Where, before the end of the dump or beyond; how many bytes are taken out, and what is put in.
DAMAGES = st.one_of(
    st.tuples(st.integers(0, 400), st.just(1), st.sampled_from([b"\0", b"\1", b"\5", b"\x10"])),
    st.tuples(st.integers(0, 400), st.integers(0, 60), st.binary(max_size=8)),
)


@settings(max_examples=300)
@given(
    products=DUMPS,
    damages=st.lists(DAMAGES, max_size=4),
)
@example(  # a product without a category behind one whose category is an ObjectId
    products=[
        {"_id": 0, "category_id": ObjectId(b"c" * 12), "imgs": [{"picture": b""}]},
        {"_id": 1, "imgs": [{"picture": b""}]},
    ],
    damages=[],
)
def test_the_fast_scan_equals_the_plain_one_on_any_bytes(
    products: list[Product], damages: list[tuple[int, int, bytes]]
) -> None:
    """Whole records, lost and inserted bytes, destroyed lengths: the same rows, and all bytes."""
    data = b"".join(map(bson.encode, products))
    for at, lost, inserted in damages:
        at %= len(data) or 1  # noqa: PLW2901
        data = data[:at] + inserted + data[at + lost :]
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        fast = list(scan.scan(file, len(data), hash_images=True))
        with pytest.MonkeyPatch.context() as patch:
            without_lanes(patch)
            slow = list(scan.scan(file, len(data), hash_images=True))
    assert_equal_rows(fast, slow)
    assert sum(rows.num_bytes for rows in fast) == len(data)


@pytest.mark.parametrize("chunk_bytes", [1, 50, 333, 5000])
def test_chunks_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    products = [*random_products(1, 40), product(7000, b"q" * 4000, b"r")]
    path = write(tmp_path / "a.bson", *products)
    whole = open_catalogue(path)
    monkeypatch.setattr(scan, "_CHUNK_BYTES", chunk_bytes)
    again = open_catalogue(write(tmp_path / "b.bson", *products))
    assert_holds(again, products)
    assert again.fingerprint == whole.fingerprint


def _pictures_at(record: bytes) -> list[int]:
    return [found.start() for found in re.finditer(rb"picture\0", record)]


def test_a_truncation_at_any_byte_loses_only_what_is_missing(tmp_path: Path) -> None:
    """The last record keeps its id, its category and each image that is there as a whole."""
    products = [product(i, b"ab", b"c" * (i + 1), category_id=7 + i) for i in range(3)]
    records = [bson.encode(fields) for fields in products]
    ends = np.cumsum([0] + [len(record) for record in records])
    data = b"".join(records)
    path = tmp_path / "a.bson"
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = int((ends <= length).sum()) - 1
        parts = read(path)
        ids = [number for rows in parts for number in rows.product_id.tolist()]
        left = length - int(ends[whole])
        has_id = left >= 13  # in bytes 9 to 13; the category in 26 to 30
        assert ids == list(range(whole + has_id))
        assert sum(rows.unread_bytes for rows in parts) == (0 if has_id else left)
        faults = [fault for rows in parts for fault in rows.faults]
        if not left:
            assert faults == []
            continue
        start = int(ends[whole])
        reason = f"truncated record: {left} bytes are left unread; fetch the file again"
        if has_id:
            reason = (
                f"truncated record: its last {len(records[whole]) - left} bytes are missing; what "
                "is left of it is used; fetch the file again"
            )
        assert faults[0] == Fault(start, whole if has_id else None, reason)
        if not has_id:
            continue
        last = next(rows for rows in reversed(parts) if len(rows.product_id))
        assert last.category_id.tolist() == [7 + whole if left >= 30 else NO_CATEGORY]
        pictures = [image["picture"] for image in products[whole]["imgs"]]  # pyright: ignore[reportGeneralTypeIssues]
        at, sizes = last.image_offset_bytes.tolist(), last.image_length_bytes.tolist()
        found = [data[a : a + size] for a, size in zip(at, sizes, strict=True)]
        there = [picture for picture in pictures if picture in found]
        # One that is cut off keeps its place, of no bytes, and is a fault of its own.
        assert found == there + [b""] * (len(found) - len(there))
        assert [fault.image_index for fault in faults[1:]] == list(range(len(there), len(found)))
        assert len(there) == sum(
            start + records[whole].index(b"picture\0", k) + 13 + len(picture) <= length
            for k, picture in zip(_pictures_at(records[whole]), pictures, strict=True)
        )
    path.write_bytes(data[:-1])
    catalogue = open_catalogue(path)
    assert_holds(catalogue, products)
    assert (catalogue.unread_bytes, catalogue.num_bad_records) == (0, 0)
    assert catalogue.faults[0][0] == path


@pytest.mark.parametrize("length", [-1, 0, 4, 2**31 - 1, 65 << 20])
def test_an_impossible_length_ends_the_reading(tmp_path: Path, length: int) -> None:
    good = bson.encode(product(1, b"a"))
    bad = length.to_bytes(4, "little", signed=True) + b"x" * 100
    (tmp_path / "a.bson").write_bytes(good + bad)
    catalogue = open_catalogue(tmp_path / "a.bson")
    assert catalogue.product_id.tolist() == [1]
    reason = f"impossible record length {length}: 104 bytes are left unread; fetch the file again"
    assert catalogue.faults[0][1] == Fault(len(good), None, reason)
    assert catalogue.unread_bytes == 104


def test_reading_goes_on_after_a_broken_record(tmp_path: Path) -> None:
    records = [bytearray(bson.encode(product(i, b"abc", category_id=4))) for i in range(3)]
    records[1][-1] = 7
    records.insert(2, bytearray(bson.encode({"_id": 1.5, "imgs": []})))
    (tmp_path / "a.bson").write_bytes(b"".join(records))
    catalogue = open_catalogue(tmp_path / "a.bson")
    assert catalogue.product_id.tolist() == [0, 1, 2]
    for row in range(3):
        assert pictures_of(catalogue, row) == [b"abc"]
    assert catalogue.num_bad_records == 1
    assert catalogue.fault_counts == {"broken BSON structure": 1, "no usable _id": 1}
    assert catalogue.faults[0][1].offset_bytes == len(records[0])


def test_the_integer_that_stands_for_no_id_is_no_id(tmp_path: Path) -> None:
    """Also where the lanes read it: it would be a row with an empty id in every output."""
    least = Int64(-(2**63))
    records = [product(Int64(1), b"a"), product(least, b"b"), product(2, b"c", category_id=least)]
    catalogue = open_catalogue(write(tmp_path / "a.bson", *records))
    assert catalogue.product_id.tolist() == [1, 2]
    assert catalogue.fault_counts == {"no usable _id": 1, "category_id is not usable": 1}


def test_products_without_images_and_repeated_ids_are_kept_and_listed(tmp_path: Path) -> None:
    first = write(tmp_path / "a.bson", product(1, b"a"), product(2), product(1, b"b"))
    second = write(tmp_path / "b.bson", product(2, b"c"), product(3, b"d"))
    catalogue = open_catalogue([first, second])
    assert catalogue.product_id.tolist() == [1, 2, 1, 2, 3]
    assert catalogue.num_images.tolist() == [1, 0, 1, 1, 1]
    assert catalogue.first_image.tolist() == [0, 1, 1, 2, 3]
    assert catalogue.fault_counts == {"imgs is empty": 1, "product id occurs again": 2}
    assert [(path.name, fault.product_id) for path, fault in catalogue.faults] == [
        ("a.bson", 2),
        ("a.bson", 1),
        ("b.bson", 2),
    ]
