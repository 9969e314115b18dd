import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import bson
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image, features

from product_mil.errors import UserError
from product_mil.files.foreign import BSON, kind_of_bytes, kind_of_file
from product_mil.inference.top_classes import read_predictions
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.categories import read_categories

ROOT = Path(__file__).resolve().parents[2]


def records(count: int = 30, picture: bytes = b"\xff\xd8 a picture", start: int = 0) -> list[bytes]:
    return [
        bson.encode({"_id": start + i, "category_id": 5, "imgs": [{"picture": picture * 20}]})
        for i in range(count)
    ]


DUMPED = b"".join(records())
HEADER = "category_id,category_level1,category_level2,category_level3\n"


def archive(*collections: str) -> bytes:
    """As mongodump --archive writes it: slices of the collections, one after the other."""
    end = b"\xff\xff\xff\xff"
    parts = [struct.pack("<I", 0x8199E26D), bson.encode({"version": "0.1"})]
    parts += [bson.encode({"db": "shop", "collection": name}) for name in collections]
    parts.append(end)
    for name in collections:
        parts += [bson.encode({"db": "shop", "collection": name, "EOF": False}), DUMPED, end]
    return b"".join(parts)


def tar(format_: int = tarfile.GNU_FORMAT, mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format_) as packed:  # type: ignore[call-overload]
        member = tarfile.TarInfo("dump/shop/train.bson")
        member.size = len(DUMPED)
        packed.addfile(member, io.BytesIO(DUMPED))
    return file.getvalue()


def old_tar() -> bytes:
    """Without the mark `ustar`, as before 1988; a check sum tells it."""
    data = bytearray(tar())
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def zipped(kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as packed:
        packed.writestr("train.bson", DUMPED)
    return file.getvalue()


def written(write: Callable[[Path], object], tmp_path: Path) -> bytes:
    path = tmp_path / "made"
    write(path)
    data = path.read_bytes()
    path.unlink()
    return data


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(file, kind)
    return file.getvalue()


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)


def database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table products (id integer)")
    connection.commit()
    connection.close()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(9))
    return file.getvalue()


TABLE = pa.table({"_id": [1, 2]})
HTML = '<!DOCTYPE html>\n<html lang="en"><head><title>Sign in</title></head>' + "<p>rules</p>" * 300
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 58\n"
MAKERS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "archive": (
        lambda _: archive("products", "orders"),
        "a mongodump archive, no .*; name a",
    ),
    "archive of one": (lambda _: archive("train"), "a mongodump archive, no .*; name a"),
    "archive gz": (
        lambda _: gzip.compress(archive("train")),
        "a mongodump archive, compressed by gzip",
    ),
    "gzip": (lambda _: gzip.compress(DUMPED), "compressed by gzip, no BSON dump .*; unpack it"),
    "tar": (lambda _: tar(), "a tar archive.*; unpack it"),
    "tar pax": (lambda _: tar(tarfile.PAX_FORMAT), "a tar archive"),
    "tar old": (lambda _: old_tar(), "a tar archive"),
    "tar gz": (lambda _: tar(mode="w:gz"), "a tar archive, compressed by gzip"),
    "zip": (lambda _: zipped(), "compressed as a zip archive"),
    "xlsx": (
        lambda _: zipped().replace(b"train.bson", b"xl/a.xml.."),
        "a file of Excel or another office program",
    ),
    "xls": (
        lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "a file of Excel or another office program",
    ),
    "zip stored": (lambda _: zipped(zipfile.ZIP_STORED), "compressed as a zip archive"),
    "zstd": (lambda _: pa.compress(DUMPED, "zstd", asbytes=True), "compressed by zstd"),
    "xz": (lambda _: lzma.compress(DUMPED), "compressed by xz"),
    "bzip2": (lambda _: bz2.compress(DUMPED, 3), "compressed by bzip2"),
    "7z": (lambda _: b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(200), "a 7z archive"),
    "JSON": (lambda _: json.dumps([{"_id": 1}]).encode(), "is JSON"),
    "JSON indented": (lambda _: json.dumps({"_id": 1}, indent=2).encode(), "is JSON"),
    "JSON lines": (lambda _: b'{"_id":1,"imgs":[]}\n{"_id":2,"imgs":[]}\n', "is JSON"),
    "CSV": (lambda _: (HEADER + "1,A,B,C\n").encode(), "a table .CSV. that begins with|CSV"),
    "TSV": (lambda _: b"_id\tcategory_id\n1\t2\n", "a table in text form"),
    "CSV of Windows": (
        lambda _: b"\xef\xbb\xbf_id;name\r\n1;\xc3\xa9\r\n",
        "begins with '_id;name",
    ),
    "CSV in Latin-1": (lambda _: b"_id,name\n1,caf\xe9\n", "a table in text form"),
    "UTF-16": (lambda _: HEADER.encode("utf-16"), "text in UTF-16.*; save it as UTF-8"),
    "UTF-16 unmarked": (lambda _: HEADER.encode("utf-16-le"), "text in UTF-16"),
    "text": (lambda _: b"see the other folder\n", "a text that begins with 'see the other"),
    "HTML": (lambda _: HTML.encode(), "an HTML page, .*get the file again"),
    "HTML after blanks": (lambda _: b"\n\n  <html><body>404", "an HTML page"),
    "XML": (lambda _: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML"),
    "SVG": (lambda _: b'<?xml version="1.0"?>\n<svg width="9"/>', "an SVG drawing"),
    "Git LFS": (lambda _: POINTER.encode(), "a pointer of Git LFS.*git lfs pull"),
    "git-annex": (lambda _: b"/annex/objects/SHA256E-s5--ab.bson\n", "git-annex.*git annex get"),
    "Parquet": (lambda p: written(lambda path: pq.write_table(TABLE, path), p), "a Parquet file"),
    "Arrow": (
        lambda p: written(lambda path: pyarrow.feather.write_feather(TABLE, str(path)), p),
        "an Arrow file",
    ),
    "HDF5": (lambda p: written(hdf5, p), "an HDF5 file"),
    "NumPy": (lambda _: array(), "a NumPy array"),
    "SQLite": (lambda p: written(database, p), "an SQLite database"),
    **{
        f"pickle {protocol}": (
            lambda _, protocol=protocol: pickle.dumps([{"_id": 1}], protocol),
            "a Python pickle",
        )
        for protocol in (2, 3, 4, 5)
    },
    "WiredTiger": (lambda _: b"\x41\xd8\x01\0\x01\0\0\0" + bytes(4088), "MongoDB's own storage"),
    "JPEG": (lambda _: image("JPEG"), "a JPEG image, no BSON dump of MongoDB; name a .bson"),
    "PNG": (lambda _: image("PNG"), "a PNG image"),
    "GIF": (lambda _: image("GIF"), "a GIF image"),
    "WebP": (lambda _: image("WEBP"), "a WebP image"),
    "BMP": (lambda _: image("BMP"), "a BMP image"),
    "TIFF": (lambda _: image("TIFF"), "a TIFF image"),
    "PDF": (lambda _: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF document"),
    "empty": (lambda _: b"", "is empty, no BSON dump"),
    "blank": (lambda _: b"\n \n", "nothing but blank lines"),
    "zeros": (lambda _: bytes(300_000), "nothing but zeros"),
    "one zero": (lambda _: b"\0", "nothing but zeros"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_each_kind_is_called_what_it_is_and_nothing_is_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = MAKERS[name]
    path = tmp_path / "train.bson"
    path.write_bytes(make(tmp_path))
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=message) as error:
        open_catalogue(path)
    assert str(error.value).startswith(f"{path} is ")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["train.bson"]


OF_TABLES = re.compile("CSV|TSV|UTF-16|text|empty")  # of which `read_categories` itself says more


@pytest.mark.parametrize("name", [name for name in MAKERS if not OF_TABLES.match(name)])
def test_a_category_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    make, message = MAKERS[name]
    path = tmp_path / "names.csv"
    path.write_bytes(make(tmp_path))
    with pytest.raises(UserError, match=message.replace("BSON dump", "CSV file").split("no ")[0]):
        read_categories(path)


def test_a_dump_where_a_table_belongs(tmp_path: Path) -> None:
    path = tmp_path / "train.bson"
    path.write_bytes(DUMPED)
    assert kind_of_file(path) == BSON
    with pytest.raises(UserError, match=r"is a BSON dump of MongoDB, no CSV file of categories"):
        read_categories(path)
    with pytest.raises(UserError, match=r"is a BSON dump of MongoDB, no Parquet file of pred"):
        read_predictions(path)


@pytest.mark.parametrize("encoded", [{"op": "query", "ns": "a.b"}, {"imgs": [], "_id": 3}])
def test_a_dump_is_one_whatever_its_first_field(tmp_path: Path, encoded: dict) -> None:
    assert kind_of_bytes(bson.encode(encoded) * 3) == BSON


@pytest.mark.parametrize(
    "length", [0x00088B1F, 0x00009D1F, 65536, 0x0004FEFF, 0x00000AFF, 0x2A4949]
)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_record_whose_length_looks_like_another_kind(
    tmp_path: Path, length: int, damaged: bool
) -> None:
    """Of gzip, compress, an icon, UTF-16, JPEG XL and TIFF; its fields in any order."""
    fields = {"imgs": [{"picture": b""}], "category_id": 5, "_id": 77}
    fields["imgs"] = [{"picture": b"x" * (length - len(bson.encode(fields)))}]
    first = bytearray(bson.encode(fields))
    assert len(first) == length
    if damaged:
        first[4:30] = b"\x99" * 26
    path = tmp_path / "train.bson"
    path.write_bytes(bytes(first) + DUMPED)
    catalogue = open_catalogue(path)
    assert catalogue.product_id.tolist() == [77] * (not damaged) + list(range(30))


@pytest.mark.parametrize(
    "start",
    [
        b"\xff\xd8\xff\xe0 the rest of a picture" + b"\x81" * 5000,
        b"GIF89a the rest of a picture",
        b"{a text that was written over the record",
        b"text" * 20_000,
        b"\0" * 200_000,
        b"\x1f\x8b\x08\0 a length of 559,903 bytes, and the rest destroyed" + b"\x81" * 5000,
        b"\x80\x04\x95\0 as a pickle begins",
    ],
)
def test_a_damaged_first_record_is_recovered_not_refused(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "train.bson"
    path.write_bytes(start + b"\0\0" + DUMPED)
    assert open_catalogue(path).product_id.tolist() == list(range(30))


@pytest.mark.parametrize("place", ["fifo", "socket", "/dev/null", "/dev/zero", "directory"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, place: str) -> None:
    path = Path(place) if place.startswith("/dev") else tmp_path / place
    if place == "fifo":
        os.mkfifo(path)
    elif place == "directory":
        path.mkdir()
    elif place == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    names = {"fifo": "a pipe", "socket": "a socket", "directory": "a directory"}
    for read in (open_catalogue, read_categories, read_predictions):
        with pytest.raises(UserError, match=f"{path} is {names.get(place, 'a device')}"):
            read(path)


def test_a_file_as_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "index_bson.py"), "/dev/stdin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "train.bson").write_bytes(DUMPED)
    with (tmp_path / "train.bson").open("rb") as file:
        done = subprocess.run(
            [*command, "--json"],
            stdin=file,
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
    assert json.loads(done.stdout)["products"] == 30
    assert not Path("/dev/stdin.index").exists()
    assert (tmp_path / "train.bson.index").is_dir()


def test_media_are_recognised_by_all_their_brands() -> None:
    def box(*brands: bytes) -> bytes:
        body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
        return struct.pack(">I", len(body) + 4) + body + bytes(100)

    for brands, name in (
        ((b"avif", b"mif1", b"miaf"), "an AVIF image"),
        ((b"mif1", b"avif", b"miaf"), "an AVIF image"),
        ((b"heic", b"mif1"), "an HEIC image"),
        ((b"mif1", b"heic"), "an HEIC image"),
        ((b"isom", b"mp42"), "a video or another ISO media file"),
    ):
        kind = kind_of_bytes(box(*brands))
        assert kind is not None
        assert kind.name == name
    if features.check("avif"):
        assert "AVIF" in str(kind_of_bytes(image("AVIF")))
