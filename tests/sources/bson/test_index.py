import json
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import bson
import numpy as np
import pytest
import xxhash
from bson import Binary, Int64, ObjectId
from hypothesis import example, given, settings
from hypothesis import strategies as st

from product_mil.errors import UserError
from product_mil.files.outputs import DRAFT_PREFIX
from product_mil.sources.bson import index_store, scan
from product_mil.sources.bson.index import BsonCatalogue, build_or_load_index, open_catalogue
from product_mil.sources.bson.index_store import DUPLICATE
from product_mil.sources.catalogue import Fault, kind_of
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


def test_holds_what_pymongo_reads(tmp_path: Path) -> None:
    products = random_products(0, 300)
    catalogue = open_catalogue(write(tmp_path / "a.bson", *products))
    assert_holds(catalogue, products)
    assert catalogue.faults == []
    data = (tmp_path / "a.bson").read_bytes()
    for at, length, fields in zip(
        catalogue.offset_bytes, catalogue.length_bytes, products, strict=True
    ):
        assert bson.decode(data[at : at + length]) == fields


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


def test_ids_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ObjectIds and ASCII texts take the lanes; what differs from the first record is walked."""
    walked = []
    parse_record = scan.parse_record
    monkeypatch.setattr(scan, "parse_record", lambda *a: walked.append(a) or parse_record(*a))
    one = uuid.UUID("12345678-1234-5678-1234-567812345678")
    records = [
        product(ObjectId("507f1f77bcf86cd799439011"), b"x", category_id="Shoes"),
        product(ObjectId("ffffffffffffffffffffff00"), b"y", category_id="Bags & more"),
        product(7, b"z", category_id=12),
        product("SKU 7é", b"z", b"", category_id="手机壳"),
        product(Binary(one.bytes, 4), category_id=None),
    ]
    catalogue = open_catalogue(write(tmp_path / "a.bson", *records))
    assert catalogue.product_id.tolist() == [
        "507f1f77bcf86cd799439011",
        "ffffffffffffffffffffff00",
        "7",
        "SKU 7é",
        str(one),
    ]
    assert catalogue.category_id.tolist() == ["Shoes", "Bags & more", "12", "手机壳", ""]
    assert len(walked) == 3
    assert list(catalogue.read(np.arange(5)))[:3] == [b"x", b"y", b"z"]
    again = open_catalogue(tmp_path / "a.bson")  # from the index
    assert again.product_id.tolist() == catalogue.product_id.tolist()
    assert again.fingerprint == catalogue.fingerprint


def test_a_column_becomes_text_and_wider_while_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_PIECE_BYTES", 400)
    monkeypatch.setattr(scan, "_CHUNK_BYTES", 400)
    ids = [*range(20), *(f"SKU-{i}" for i in range(20)), *(f"SKU-{10**i}" for i in range(20)), 1]
    path = write(tmp_path / "a.bson", *(product(i, b"xy" * 20, category_id=3) for i in ids))
    catalogue = open_catalogue(path)
    assert catalogue.product_id.tolist() == list(map(str, ids))
    assert catalogue.product_id.dtype.itemsize == 4 * len(f"SKU-{10**19}")
    assert catalogue.category_id.dtype == np.int64
    assert set(catalogue.category_id.tolist()) == {3}
    assert catalogue.fault_counts == {kind_of(DUPLICATE): 3}  # 1, SKU-1 and SKU-10 occur again


def test_files_of_both_kinds_of_ids_are_one_catalogue(tmp_path: Path) -> None:
    write(tmp_path / "a.bson", product(7, b"x", category_id=3), product(8, category_id=None))
    write(tmp_path / "b.bson", product("7", b"y", category_id="shoes"))
    catalogue = open_catalogue([tmp_path / "a.bson", tmp_path / "b.bson"])
    assert catalogue.product_id.tolist() == ["7", "8", "7"]
    assert catalogue.category_id.tolist() == ["3", "", "shoes"]
    assert (tmp_path / "b.bson", DUPLICATE) in [
        (path, fault.reason) for path, fault in catalogue.faults if fault.product_id == "7"
    ]
    assert catalogue.first_records().tolist() == [0, 1]


def test_an_index_from_before_text_could_be_an_id_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"), product("two", b"y"))
    (directory,) = [build_or_load_index(path).directory]
    description = json.loads((directory / "index.json").read_text())
    description["fault_counts"] = {"no integer _id": 1}
    (directory / "index.json").write_text(json.dumps(description))
    assert build_or_load_index(path).fault_counts == {}
    assert open_catalogue(path).product_id.tolist() == ["1", "two"]


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
    whole = open_catalogue(path, cache_dir=tmp_path)
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


def test_a_file_without_any_image_can_be_opened(tmp_path: Path) -> None:
    catalogue = open_catalogue(write(tmp_path / "a.bson", product(1), product(2)))
    assert catalogue.num_images_total == 0
    assert catalogue.image_hash is not None
    assert catalogue.image_hash.shape == (0, 2)


def test_files_are_joined_in_the_order_given_and_globs_sorted(tmp_path: Path) -> None:
    parts = [random_products(seed, 30) for seed in range(3)]
    paths = [write(tmp_path / f"{n}.bson", *part) for n, part in zip("cab", parts, strict=True)]
    for spec, order in (
        (paths, [0, 1, 2]),
        (f"{paths[2]},{paths[0]}", [2, 0]),
        (str(tmp_path / "*.bson"), [1, 2, 0]),
        (f"{paths[0]},{tmp_path}/[ab].bson", [0, 1, 2]),
    ):
        catalogue = open_catalogue(spec)
        assert catalogue.paths == tuple(paths[i] for i in order)
        assert_holds(catalogue, [p for i in order for p in parts[i]])
        for row in np.flatnonzero(catalogue.num_images > 0).tolist():
            image = catalogue.place_of_image(int(catalogue.first_image[row]))
            assert image.file == catalogue.place_of_product(row).file


def test_a_path_with_a_comma_or_brackets_is_a_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a,b[1].bson", product(1, b"x"))
    assert open_catalogue(str(path)).paths == (path,)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    for spec, message in (
        (tmp_path / "none.bson", "none.bson: no such file"),
        (str(tmp_path / "*.dump"), r"\*.dump: no such file"),
        (tmp_path, "holds a.bson: name its dumps"),
        ([path, path], "named more than once"),
        ("", "no data were named"),
    ):
        with pytest.raises(UserError, match=message):
            open_catalogue(spec)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b\x08\x00 and so on", "is compressed"),
        (b"PK\x03\x04 and so on", "is compressed"),
        (b"\xff\xd8\xff\xe0 a JPEG file", "no BSON dump of MongoDB"),
        (bson.encode({"_id": 1.5}), "byte 0: no usable _id: it is the number 1.5"),
        (bson.encode({"_id": ""}), "byte 0: no usable _id: it is the string '', and it is empty"),
        (bson.encode({"op": "i", "o": {"_id": 1}}), "byte 0: no usable _id: there is no field"),
        (b"\x07\0\0\0 neither", "no BSON dump of MongoDB"),
    ],
)
def test_a_file_that_is_no_dump_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.bson"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        open_catalogue(path, cache_dir=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == [path]


def test_an_index_is_used_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []
    build = index_store._read
    monkeypatch.setattr(index_store, "_read", lambda *a, **k: builds.append(a) or build(*a, **k))
    path = write(tmp_path / "a.bson", product(1, b"x"))
    first = build_or_load_index(path)
    assert build_or_load_index(path).fingerprint == first.fingerprint
    assert len(builds) == 1
    write(path, product(2, b"x"))
    changed = build_or_load_index(path)
    assert changed.product_id.tolist() == [2]
    assert changed.fingerprint != first.fingerprint
    os.utime(path, ns=(1, 1))
    assert build_or_load_index(path).fingerprint == changed.fingerprint  # the same contents
    assert len(builds) == 3
    assert len(list((tmp_path / "a.bson.index").iterdir())) == 1  # the stale ones are gone


def test_an_index_with_hashes_serves_without_but_not_the_other_way(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    assert build_or_load_index(path, hash_images=False).image_hash is None
    assert build_or_load_index(path).image_hash is not None
    assert build_or_load_index(path, hash_images=False).image_hash is not None


@pytest.mark.parametrize("name", ["product_id.npy", "image_hash.npy", "index.json"])
def test_a_damaged_index_is_rebuilt(tmp_path: Path, name: str) -> None:
    products = random_products(0, 20)
    path = write(tmp_path / "a.bson", *products)
    directory = build_or_load_index(path).directory
    whole = (directory / name).read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", whole[:-3] + b"\xff\xff\xff", None):
        (directory / name).unlink()
        if damaged is not None:
            (directory / name).write_bytes(damaged)
        assert_holds(open_catalogue(path), products)
        assert (directory / name).read_bytes() == whole


def test_an_index_of_another_format_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    old = build_or_load_index(path).directory
    monkeypatch.setattr("product_mil.sources.bson.index.FORMAT", 99)
    assert build_or_load_index(path).directory != old
    assert not old.exists()


def test_where_the_place_beside_the_file_is_read_only_the_cache_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    (tmp_path / "a.bson.index").write_text("a file, so that no directory can be made here")
    cache = tmp_path / "cache"
    index = build_or_load_index(path, cache_dir=cache)
    assert cache in index.directory.parents
    assert build_or_load_index(path, cache_dir=cache).directory == index.directory


OTHER_PROCESS = """
import multiprocessing, pickle, sys
from pathlib import Path
from product_mil.sources.bson.index import open_catalogue

def size_there(catalogue):
    return catalogue.num_products

if __name__ == "__main__":
    first = open_catalogue(sys.argv[1], cache_dir=Path(sys.argv[2]))
    again = open_catalogue(sys.argv[1], cache_dir=Path(sys.argv[2]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sizes = pool.map(size_there, [first])
    place = first.indexes[0].directory
    print(sizes, again.indexes[0].directory == place, place.is_dir(), place, sep="\\n")
"""


@pytest.mark.parametrize("usual", [True, False])
def test_where_nothing_can_be_written_the_index_is_temporary(tmp_path: Path, usual: bool) -> None:
    """One warning, the same columns, used again, open to other processes, gone at the end."""
    path = write(tmp_path / "a.bson", *random_products(0, 20))
    (tmp_path / "a.bson.index").write_text("a file, so that no directory can be made here")
    (tmp_path / "blocked").write_text("")
    (tmp_path / "temporary").mkdir()
    program = tmp_path / "program.py"
    program.write_text(OTHER_PROCESS)
    temporary = tmp_path / ("temporary" if usual else "blocked")
    done = subprocess.run(
        [sys.executable, str(program), str(path), str(tmp_path / "blocked")],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=True,
    )
    sizes, same, there, place = done.stdout.splitlines()
    assert (sizes, same, there) == ("[20]", "True", "True")
    assert (temporary in Path(place).parents) == usual
    assert not Path(place).exists()
    assert done.stderr.count("\n") == 1
    for part in (f"the index of {path} lies in a temporary directory", "PRODUCT_MIL_CACHE"):
        assert part in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("a.bson", "a.bson.index", "blocked", "program.py", "temporary")
    ]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_lies_in_the_folder_of_indexes_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    folder = tmp_path / "a.bson.index"
    old = build_or_load_index(path).directory
    (folder / "notes").mkdir()
    for name in ("notes/mine.txt", "v1.txt", "draft-of-my-thesis"):
        (folder / name).write_text("mine")
    (folder / "v9-mine").mkdir()
    (folder / ("v1-" + "0" * 32)).mkdir()
    (folder / ("v2-" + "a" * 32 + "-unhashed")).mkdir()
    (folder / f"{DRAFT_PREFIX}files-of-a-killed-build").mkdir()
    new = build_or_load_index(write(path, product(2, b"x"))).directory
    assert not old.exists()
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["notes", "v1.txt", "v9-mine", "draft-of-my-thesis", new.name]
    )
    assert (folder / "notes" / "mine.txt").read_text() == "mine"


def test_nothing_is_written_before_the_first_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bson"
    others = [bson.encode({"_id": i + 0.5, "imgs": []}) for i in range(50)]
    path.write_bytes(b"".join(others) + bson.encode(product(7, b"x")))
    real, seen = index_store.scan, []

    def watched(*args: object, **kwargs: object) -> object:
        for rows in real(*args, **kwargs):  # pyright: ignore[reportArgumentType]
            seen.append((len(rows.product_id), sorted(p.name for p in tmp_path.iterdir())))
            yield rows

    monkeypatch.setattr(index_store, "scan", watched)
    monkeypatch.setattr(scan, "_PIECE_BYTES", 400)
    monkeypatch.setattr(scan, "_CHUNK_BYTES", 400)
    index = build_or_load_index(path)
    assert index.product_id.tolist() == [7]
    assert index.fault_counts == {"no usable _id": 50}
    assert len(seen) > 3
    assert all(not products and names == ["a.bson"] for products, names in seen[:-1])


@pytest.mark.parametrize("error", [UserError("stop"), OSError(5, "Input/output error")])
def test_a_build_that_fails_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(index_store, "later_duplicates", failing)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("product_mil.sources.bson.index._temporary", {})
    monkeypatch.setattr("product_mil.sources.bson.index._MEMORY", str(tmp_path / "blocked"))
    with pytest.raises(UserError, match=r"stop|no place to write the index of .*Input/output"):
        build_or_load_index(path, cache_dir=tmp_path / "cache" / "deep")
    left = [p for p in tmp_path.rglob("*") if p.parent != tmp_path / "temporary"]
    assert sorted(p.name for p in left) == ["a.bson", "temporary"]


def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "a.bson", product(1, b"x"))
    monkeypatch.setattr(index_store._ColumnFile, "append", full)
    with pytest.raises(UserError, match="No space left on device"):
        build_or_load_index(path, cache_dir=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.bson", product(1, b"x"))
    real = index_store.scan

    def growing(*args: object, **kwargs: object) -> object:
        yield from real(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(index_store, "scan", growing)
    with pytest.raises(UserError, match="changed while it was read"):
        build_or_load_index(path)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.999])
def test_a_file_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """At once, be there gigabytes that are gone."""
    path = write(tmp_path / "a.bson", *[product(i, b"x" * 3000) for i in range(99)])
    size_bytes = path.stat().st_size
    os.truncate(path, 100 << 30)
    real = index_store.scan

    def shrinking(*args: object, **kwargs: object) -> object:
        os.truncate(path, int(share * size_bytes))
        yield from real(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(index_store, "scan", shrinking)
    with pytest.raises(UserError, match="changed while it was read"):
        build_or_load_index(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.bson", "no such file"),
        ("", "no such file"),
        (".", r"is a directory: name its files"),
        ("x" * 300 + ".bson", "cannot look for .* File name too long"),
    ],
)
def test_a_wrong_path_takes_one_line(tmp_path: Path, name: str, message: str) -> None:
    path = f"{tmp_path}/{name}" if name else f"{tmp_path}/*.bson"
    with pytest.raises(UserError, match=message) as error:
        open_catalogue(path)
    assert "\n" not in str(error.value)
    (tmp_path / "there.bson").touch()
    with pytest.raises(UserError, match=r"holds there.bson: name its dumps"):
        open_catalogue(str(tmp_path))
    with pytest.raises(UserError, match="cannot look for ~nobody-here/a"):
        open_catalogue("~nobody-here/a.bson")


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bson", *random_products(0, 2000))
    program = (
        "import sys; from pathlib import Path;"
        "from product_mil.sources.bson.index import build_or_load_index as b;"
        "print(b(Path(sys.argv[1])).fingerprint)"
    )
    command = [sys.executable, "-c", program, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert printed == {build_or_load_index(path).fingerprint + "\n"}
    assert len(list((tmp_path / "a.bson.index").iterdir())) == 1


def test_a_catalogue_travels_as_paths(tmp_path: Path) -> None:
    products = random_products(0, 500)
    catalogue = open_catalogue(write(tmp_path / "a.bson", *products))
    data = pickle.dumps(catalogue)
    assert len(data) < 2000
    assert_holds(pickle.loads(data), products)


def test_one_file_is_mapped_not_copied(tmp_path: Path) -> None:
    catalogue = open_catalogue(write(tmp_path / "a.bson", product(1, b"x")))
    assert catalogue.product_id is catalogue.indexes[0].product_id
    assert isinstance(catalogue.product_id.base, np.memmap)
    assert not catalogue.product_id.flags.writeable


def test_faults_are_all_counted_but_not_all_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_store, "MAX_LISTED_FAULTS", 3)
    catalogue = open_catalogue(write(tmp_path / "a.bson", *(product(1) for _ in range(9))))
    assert catalogue.fault_counts == {"imgs is empty": 9, "product id occurs again": 8}
    assert len(catalogue.faults) == 3


def test_the_description_is_plain_json(tmp_path: Path) -> None:
    index = build_or_load_index(write(tmp_path / "a.bson", product(5), product(6, b"x")))
    description = json.loads((index.directory / "index.json").read_text())
    assert description["faults"] == [[0, 5, "imgs is empty", None]]


def test_real_photos(shared: Path) -> None:
    path = shared / "data" / "grocery" / "val.bson"
    with path.open("rb") as file:
        assert_holds(open_catalogue(path), list(bson.decode_file_iter(file)))


MANY = """
import resource, sys
from product_mil.sources.bson.index import open_catalogue
from product_mil.cli.console import command
from product_mil.sources.ids import NO_CATEGORY
from product_mil.sources.catalogue import Catalogue, Fault
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[1])))
with command():
    print(open_catalogue(sys.argv[2]).num_products)
"""


@pytest.mark.parametrize("hard", [4096, 64])
def test_many_files_may_be_open(tmp_path: Path, hard: int) -> None:
    for i in range(20):
        write(tmp_path / f"{i}.bson", product(i, b"x", category_id=1))
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(hard), str(tmp_path / "*.bson")],
        capture_output=True,
        text=True,
        check=False,
    )
    if hard > 64:
        assert (done.returncode, done.stdout, done.stderr) == (0, "20\n", "")
    else:
        assert done.returncode == 2
        assert "ulimit -n" in done.stderr
        assert done.stderr.count("\n") == 1
