import json
import pickle
import subprocess
import sys
import uuid
from pathlib import Path

import bson
import numpy as np
import pytest
from bson import Binary, ObjectId

from product_mil.errors import UserError
from product_mil.sources.bson import index_store, scan
from product_mil.sources.bson.index import build_or_load_index, open_catalogue
from product_mil.sources.catalogue import DUPLICATE, kind_of
from tests.sources.bson.dumps import (
    assert_holds,
    product,
    random_products,
    write,
)


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


@pytest.mark.parametrize(("category", "made_again"), [(ObjectId(b"c" * 12), True), (7, False)])
def test_an_index_from_before_a_missing_category_among_texts_was_right_is_made_again(
    tmp_path: Path, category: object, made_again: bool
) -> None:
    path = write(tmp_path / "a.bson", product(0, b"x", category_id=category), product(1, b"y"))
    description_path = build_or_load_index(path).directory / "index.json"
    description = json.loads(description_path.read_text())
    assert description.pop("text_format") == 1
    description_path.write_text(json.dumps(description))
    before = description_path.stat()
    build_or_load_index(path)
    assert (description_path.stat().st_ino != before.st_ino) == made_again
    assert ("text_format" in json.loads(description_path.read_text())) == made_again


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
def test_a_file_that_is_no_dump_is_refused(
    tmp_path: Path, data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bson"
    path.write_bytes(data)
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=message):
        open_catalogue(path)
    assert list(tmp_path.iterdir()) == [path]


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
