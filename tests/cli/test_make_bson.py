import os
from pathlib import Path

import bson
import pytest

from product_mil.files.outputs import is_marked
from product_mil.sources.bson.index import open_catalogue
from tests.scripts import call_tool
from tests.sources.of_products import (
    PRODUCTS,
    Product,
    as_contents,
    contents,
    dump,
    folder,
    jpeg,
    record,
)


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as left:
        call_tool("make_bson", *args)
    assert left.value.code == 2
    return capsys.readouterr().err


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "made.bson"
    call_tool("make_bson", "--data", folder(tmp_path / "photos"), "--output", output)
    assert f"{output}: 4 products, 7 images, 0.0 MB" in capsys.readouterr().out
    records = bson.decode_all(output.read_bytes())
    assert records == [record(product) for product in PRODUCTS]
    assert isinstance(records[0]["_id"], bson.Int64)
    assert isinstance(records[0]["category_id"], bson.Int64)
    assert contents(open_catalogue(output)) == as_contents()
    # A dump of it is the same file again.
    call_tool("make_bson", "--data", output, "--output", tmp_path / "again.bson")
    assert (tmp_path / "again.bson").read_bytes() == output.read_bytes()


def test_ids_of_text_and_products_without_category(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", [Product("SKU 1", None, [jpeg(1)])], flat=True)
    call_tool("make_bson", "--data", root, "--output", tmp_path / "made.bson")
    (made,) = bson.decode_all((tmp_path / "made.bson").read_bytes())
    assert made == {"_id": "SKU 1", "imgs": [{"picture": jpeg(1)}]}


def test_images_that_cannot_be_read_keep_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("_id,category_id,images\n1,5,gone.jpg|a.jpg\n")
    (tmp_path / "a.jpg").write_bytes(b"a")
    call_tool("make_bson", "--data", tmp_path / "a.csv", "--output", tmp_path / "made.bson")
    assert "1 images could not be read, such as image 0 of product 1" in capsys.readouterr().out
    (made,) = bson.decode_all((tmp_path / "made.bson").read_bytes())
    assert made["imgs"] == [{"picture": b""}, {"picture": b"a"}]


def test_it_replaces_only_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = dump(tmp_path / "a.bson"), tmp_path / "made.bson"
    other = dump(tmp_path / "other.bson", PRODUCTS[:1])
    before = other.read_bytes()
    assert "is there already and is not" in refused(capsys, "--data", data, "--output", other)
    assert other.read_bytes() == before
    assert "is the data itself" in refused(capsys, "--data", data, "--output", data)
    assert "name a .bson file" in refused(capsys, "--data", data, "--output", tmp_path / "a.txt")
    call_tool("make_bson", "--data", data, "--output", output)
    if is_marked(output):  # where the file system keeps marks
        call_tool("make_bson", "--data", other, "--output", output)
        assert contents(open_catalogue(output)) == as_contents(PRODUCTS[:1])
        os.removexattr(output, "user.product_mil")
    assert "is there already and is not" in refused(capsys, "--data", data, "--output", output)


def test_a_product_that_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("product_mil.sources.write_bson.MAX_RECORD_BYTES", 1000)
    data = dump(tmp_path / "a.bson")
    message = refused(capsys, "--data", data, "--output", tmp_path / "made.bson")
    assert "product 7 has" in message
    assert "more than a record can hold (1,000)" in message
    assert not (tmp_path / "made.bson").exists()
