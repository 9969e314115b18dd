import gzip
import json
import logging
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import bson
import pytest

from product_mil.errors import UserError
from product_mil.sources import copies as copies_in_cache
from product_mil.sources import packed_dumps
from product_mil.sources.opening import check_sources, is_read_once, open_catalogue
from tests.scripts import ROOT
from tests.sources.of_products import PRODUCTS, Product, as_contents, contents, jpeg, records

OTHERS = [Product(100 + number, 5, [jpeg(50 + number)]) for number in range(3)]
END = b"\xff\xff\xff\xff"


def archive(**collections: list[bytes]) -> bytes:
    """As mongodump --archive writes it: blocks of the collections take turns."""

    def block(name: str, *parts: bytes, last: bool) -> bytes:
        about = {"db": "shop", "collection": name, "EOF": last, "CRC": bson.Int64(0)}
        return b"".join([bson.encode(about), *parts, END])

    head = {"concurrent_collections": 4, "version": "0.1", "tool_version": "100.7.0"}
    data = struct.pack("<I", 0x8199E26D) + bson.encode(head)
    for name in collections:
        data += bson.encode({"db": "shop", "collection": name, "metadata": "{}"})
    data += END
    for turn in range(max(map(len, collections.values()))):
        for name, documents in collections.items():
            data += block(name, *documents[turn : turn + 1], last=False)
    return data + b"".join(block(name, last=True) for name in collections)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "copies").rglob("*.bson"))


def test_a_compressed_dump(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.bson.gz"
    half = b"".join(records(PRODUCTS[:2])), b"".join(records(PRODUCTS[2:]))
    path.write_bytes(b"".join(map(gzip.compress, half)))  # as cat joins such files
    check_sources(path)
    with caplog.at_level(logging.INFO):
        found = open_catalogue(path)
    assert contents(found) == as_contents()
    assert f"{path} is copied to the cache" in caplog.text
    assert found.paths == (path,)
    assert found.place_of_product(0) == (str(path), 0)
    (copy,) = copies(tmp_path)
    written = copy.stat().st_mtime_ns
    assert contents(open_catalogue(path)) == as_contents()
    assert copies(tmp_path) == [copy]
    assert copy.stat().st_mtime_ns == written
    path.write_bytes(gzip.compress(half[0]))
    assert contents(open_catalogue(path)) == as_contents(PRODUCTS[:2])
    assert len(copies(tmp_path)) == 1
    assert not copy.exists()
    assert not copy.with_name(copy.name + ".index").exists()


def test_faults_name_the_file_that_was_named(tmp_path: Path) -> None:
    path = tmp_path / "a.bson.gz"
    path.write_bytes(gzip.compress(b"".join(records()) + bson.encode({"imgs": []})))
    ((file, fault),) = open_catalogue(path).faults
    assert file == path
    assert "_id" in fault.reason


def test_what_has_no_products_is_named_as_it_was_named(tmp_path: Path) -> None:
    path = tmp_path / "a.bson.gz"
    path.write_bytes(gzip.compress(bson.encode({"a": 1}) * 3))
    with pytest.raises(UserError, match="no usable _id") as error:
        open_catalogue(path)
    assert str(error.value).startswith(f"{path}")
    assert str(tmp_path / "cache") not in str(error.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_collection_of_an_archive(tmp_path: Path, pack: type[bytes]) -> None:
    path = tmp_path / "dump.archive"
    path.write_bytes(pack(archive(products=records(), products_2019=records(OTHERS))))
    for name, products in (("products", PRODUCTS), ("shop.products_2019", OTHERS)):
        found = open_catalogue(f"{path}#{name}")
        assert contents(found) == as_contents(products)
        assert found.paths == (Path(f"{path}#{name}"),)
    assert len(copies(tmp_path)) == 2
    both = open_catalogue(f"{path}#products,{path}#products_2019")
    assert contents(both) == as_contents([*PRODUCTS, *OTHERS])
    with pytest.raises(
        UserError, match=r"several collections \(shop.products, shop.products_2019\); name one, as "
    ):
        open_catalogue(path)
    with pytest.raises(UserError, match="no collection of this name; the archive has shop"):
        open_catalogue(f"{path}#orders")


def test_an_archive_of_one_collection_need_not_be_told(tmp_path: Path) -> None:
    path = tmp_path / "dump.archive"
    path.write_bytes(archive(products=records()))
    assert contents(open_catalogue(path)) == as_contents()


def test_what_is_damaged_leaves_no_copy(tmp_path: Path) -> None:
    whole = archive(products=records())
    packed = gzip.compress(b"".join(records()))
    for name, data, message in (
        ("a.bson.gz", packed[:-20], r"a\.bson\.gz is damaged, or ends too early"),
        ("b.bson.gz", packed[:-8] + bytes(8), r"b\.bson\.gz is damaged, or ends too early"),
        (
            "c.csv.gz",
            gzip.compress(b"_id,image\n1,a.jpg\n"),
            r"in \S*c\.csv\.gz is a table",
        ),
        ("a.archive", whole[: len(whole) // 2], r"a\.archive ends within a record; get"),
        ("b.archive", whole[: whole.rindex(END) - 90], r"b\.archive ends "),
        ("c.archive", whole.replace(records()[1], bytes(9)), r"a record has no length"),
        ("d.bson.gz#x", packed, r"holds one collection: leave out the #"),
    ):
        (tmp_path / name.split("#")[0]).write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            open_catalogue(str(tmp_path / name))
        assert "\n" not in str(error.value)
    assert copies(tmp_path) == []


def test_a_copy_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bson.gz"
    path.write_bytes(gzip.compress(b"".join(records())))
    monkeypatch.setenv("PRODUCT_MIL_COPY_GB", "0.000001")
    with pytest.raises(UserError, match=r"a\.bson\.gz: its copy in the cache takes more than"):
        open_catalogue(path)
    assert copies(tmp_path) == []


def test_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_sources(pipe)
    assert is_read_once(pipe)
    assert not is_read_once(tmp_path)
    writer = threading.Thread(target=pipe.write_bytes, args=(archive(products=records()),))
    writer.start()
    found = open_catalogue(f"{pipe}#products")
    writer.join()
    assert contents(found) == as_contents()
    assert contents(open_catalogue(f"{pipe}#products")) == as_contents()


def test_a_silent_pipe_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_dumps, "_PIPE_WAIT_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"nothing came through \S*pipe within 0\.05 s"):
        open_catalogue(tmp_path / "pipe")


def test_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "index_bson.py"), "/dev/stdin", "--json"]
    done = subprocess.run(
        command,
        input=gzip.compress(b"".join(records())),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert json.loads(done.stdout)["products"] == 4
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left == []


def test_a_full_disk_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bson.gz"
    path.write_bytes(gzip.compress(b"".join(records())))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "copies").write_text("a file, where the directory should be")
    assert contents(open_catalogue(path)) == as_contents()  # in a temporary one
    monkeypatch.setattr(copies_in_cache, "_LEFT_BYTES", 1 << 62)
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"no room for its copy in \S*other/copies/"):
        open_catalogue(path)
    assert not list((tmp_path / "other").rglob("*.bson"))
