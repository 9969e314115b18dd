import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from product_mil.errors import UserError
from product_mil.sources.catalogue import Unread
from product_mil.sources.ids import NO_CATEGORY
from product_mil.sources.opening import open_catalogue
from tests.sources.of_products import (
    PRODUCTS,
    as_contents,
    contents,
    csv_of_lists,
    folder,
    jpeg,
    parquet_of_bytes,
)

# A row an image, and the rows of a product apart.
ROWS = sorted(
    (number, product, image) for product in PRODUCTS for number, image in enumerate(product.images)
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder(tmp_path / "photos")
    return tmp_path


def path_of(row: tuple) -> str:
    number, product, _ = row
    return f"photos/{product.category_id}/{product.product_id}/{number}.jpg"


def test_csv_with_a_row_a_product(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = csv_of_lists(tmp_path / "a.csv")
    with caplog.at_level(logging.INFO):
        found = open_catalogue(path)
    assert contents(found) == as_contents()
    assert (
        "a.csv: id in _id, category in category_id, images in images; 4 products, 7" in caplog.text
    )
    for separator in (";", " ; "):
        path.write_text(path.read_text().replace("|", separator))
        assert contents(open_catalogue(path)) == as_contents()


def test_lists_of_json_for_odd_names(tmp_path: Path) -> None:
    names = ["a|1.jpg", "b;2.jpg", 'c,"3".jpg']
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"%d" % number)
    cell = json.dumps(names).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'_id,images\n1,"{cell}"\n')
    assert list(open_catalogue(tmp_path / "a.csv").read(np.arange(3))) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_with_a_row_an_image(photos: Path, separator: str) -> None:
    lines = [separator.join(("Path", "Product_ID", "other", "Category"))]
    for row in ROWS:
        ids = map(str, (row[1].product_id, "x", row[1].category_id))
        lines.append(separator.join((f" {path_of(row)} ", *ids)))
    (photos / "a.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    found = open_catalogue(photos / "a.csv")
    assert contents(found) == as_contents()
    assert found.product_id.tolist() == [7, 8, 9, 11]  # as they first occur


def test_parquet_with_paths(photos: Path) -> None:
    columns = {
        "sku": [row[1].product_id for row in ROWS],
        "shelf": pa.array([str(row[1].category_id) for row in ROWS]).dictionary_encode(),
        "photo": [str(photos / path_of(row)) for row in ROWS],
    }
    pq.write_table(pa.table(columns), photos / "a.parquet")
    found = open_catalogue(f"{photos}/a.parquet#category=shelf,images=photo")
    wanted = {key: (str(category), images) for key, (category, images) in as_contents().items()}
    assert contents(found) == wanted


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_parquet_with_lists_of_bytes(
    tmp_path: Path,
    kind: pa.DataType,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    path = parquet_of_bytes(tmp_path / "a.parquet")
    table = pq.read_table(path)
    pq.write_table(table.cast(table.schema.set(2, pa.field("images", pa.list_(kind)))), path)
    with caplog.at_level(logging.INFO):
        found = open_catalogue(path)
    assert contents(found) == as_contents()
    assert "a.parquet: copying the images to the cache" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = open_catalogue(path)
    assert "copying" not in caplog.text
    assert again.fingerprint == found.fingerprint
    reader = pickle.loads(pickle.dumps(found.reader()))
    assert list(reader.read(found.addresses(np.array([5, 0])))) == [jpeg(6), jpeg(1)]
    assert contents(pickle.loads(pickle.dumps(found))) == as_contents()
    assert found.place_of_image(5) == (str(path), None)
    (copy,) = Path(os.environ["PRODUCT_MIL_CACHE"]).rglob("images.bin")
    copy.write_bytes(copy.read_bytes()[:-1])
    assert contents(open_catalogue(path)) == as_contents()
    changed = table.slice(0, 2)
    pq.write_table(changed, path)
    assert contents(open_catalogue(path)) == as_contents(PRODUCTS[:2])


def test_images_as_hugging_face_keeps_them_in_several_files(tmp_path: Path) -> None:
    for number, rows in enumerate((ROWS[:4], ROWS[4:])):
        columns = {
            "product_id": [row[1].product_id for row in rows],
            "label": [row[1].category_id for row in rows],
            "image": [{"bytes": row[2], "path": path_of(row)} for row in rows],
        }
        pq.write_table(pa.table(columns), tmp_path / f"part-{number}.parquet", row_group_size=3)
    found = open_catalogue(f"{tmp_path}/part-*.parquet")
    assert contents(found) == as_contents()  # the rows of product 9 lie in both
    assert found.place_of_product(2).file == str(tmp_path / "part-0.parquet")


def test_what_rows_lack(photos: Path) -> None:
    rows = [
        "_id,category_id,image",
        "7,,photos/1000/7/0.jpg",
        "8,1000,",
        ",2000,photos/1000/8/0.jpg",
        "7,1000,photos/1000/7/1.jpg",
        "7,2000,photos/1000/7/gone.jpg",
        f"{'x' * 300},5,photos/1000/8/0.jpg",
    ]
    (photos / "a.csv").write_text("\n".join(rows))
    found = open_catalogue(photos / "a.csv")
    assert contents(found) == {
        "7": (1000, [jpeg(1), jpeg(2), Unread("No such file or directory")]),
        "8": (1000, []),
    }
    assert found.num_bad_records == 2
    assert found.fault_counts == {
        "no usable id": 2,
        "rows of several categories": 1,
        "the file cannot be read here": 1,
    }
    assert found.faults[0][1].reason == "no usable id: row 3"
    (photos / "c.csv").write_text(f"_id,category,image\n7,{'y' * 201},photos/1000/7/0.jpg\n")
    assert open_catalogue(photos / "c.csv").fault_counts == {"category_id is not usable": 1}
    (photos / "b.csv").write_text("_id,category_id,image\n7,,photos/1000/7/0.jpg\n")
    assert open_catalogue(photos / "b.csv").category_id.tolist() == [NO_CATEGORY]


def test_paths_that_lead_to_no_image_file(photos: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    rows = ["photos/1000/8/0.jpg", "pipe.jpg", "photos", "/dev/zero"]
    text = "".join(f"{number},{name}\n" for number, name in enumerate(rows))
    (photos / "a.csv").write_text("_id,image\n" + text)
    found = open_catalogue(photos / "a.csv")
    nothing = Unread("it is no file, but a folder, a pipe or a device")
    assert list(found.read(np.arange(4))) == [jpeg(3), nothing, nothing, nothing]
    assert found.fault_counts == {"the file cannot be read here": 3}


def test_a_product_without_bytes_keeps_its_place(tmp_path: Path) -> None:
    images = [[b"one", None, b""], None, []]
    pq.write_table(pa.table({"_id": ["a", "b", "c"], "images": images}), tmp_path / "a.parquet")
    found = open_catalogue(tmp_path / "a.parquet")
    assert found.num_images.tolist() == [3, 0, 0]
    assert list(found.read(np.arange(3))) == [b"one", b"", b""]
    assert found.category_id.tolist() == [NO_CATEGORY] * 3


def test_what_pandas_writes_for_a_missing_id_is_none(tmp_path: Path) -> None:
    images = pa.array([b"a", b"b", b"c"])
    numbers = pa.array([7.0, float("nan"), None])
    for ids, categories in ((pa.array([1, 2, 3]), numbers), (numbers, pa.nulls(3))):
        table = pa.table({"_id": ids, "category_id": categories, "image": images})
        pq.write_table(table, tmp_path / "a.parquet")
        found = open_catalogue(tmp_path / "a.parquet")
        if ids is numbers:
            assert (found.product_id.tolist(), found.num_bad_records) == ([7], 2)
            assert found.category_id.tolist() == [NO_CATEGORY]
        else:
            assert found.category_id.tolist() == [7, NO_CATEGORY, NO_CATEGORY]


@pytest.mark.parametrize(
    ("columns", "after", "message"),
    [
        ({"a": [1], "b": ["x.jpg"]}, "", r"which column holds the id\? It has a, b; name it as in"),
        ({"_id": [1], "b": ["x"]}, "", r"which column holds the images\? It has _id, b"),
        (
            {"sku": [1], "shelf": ["a"], "shot": ["x"]},
            "",
            r"which column holds the images\? It has sku, shelf, shot; name it .*#images=shot",
        ),
        ({"sku": [1]}, "", r"which column holds the images\? It has sku; add such a column"),
        ({"_id": [1], "image": ["x"]}, "id=sku", "has no column sku; it has _id, image"),
        ({"_id": [1], "image": ["x"]}, "sku", "name columns as in .*#id=sku,category=shelf,images"),
        ({"_id": [1.5], "image": ["x"]}, "", "the column _id has numbers that are no 64-bit"),
        ({"_id": [True], "image": ["x"]}, "", "the column _id is of type bool; ids are integers"),
        ({"_id": [1], "image": [5]}, "", "the column image is of type int64; images are paths or"),
        ({"_id": [None], "image": ["x"]}, "", "no row has an id in its column _id"),
        ({"_id": [""], "image": ["x"]}, "", "no row has an id in its column _id"),
        ({"_id": [1], "image": ["x.jpg"]}, "", r"none of its 1 images is there, such as x\.jpg;"),
        (
            {"_id": [1], "image": ["y" * 900]},
            "",
            r"is there, such as y{200}; paths are relative to",
        ),
        (
            {"_id": [1], "image": ["https://shop.example/1.jpg"]},
            "",
            r"holds addresses of images \(https://shop.example/1.jpg\); download them first",
        ),
    ],
)
def test_refusals_in_a_line(
    tmp_path: Path, columns: dict[str, list], after: str, message: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=message) as error:
        open_catalogue(f"{path}#{after}" if after else path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_damaged_tables(tmp_path: Path) -> None:
    whole = parquet_of_bytes(tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"cannot read the table \S*a\.parquet: .*; save it again"):
        open_catalogue(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(b"_id,image\n1,a.jpg\n2,b.jpg,c.jpg\n")
    with pytest.raises(UserError, match=r"cannot read the table \S*a\.csv: .*Expected 2 columns"):
        open_catalogue(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"_id,image\n1,caf\xe9.jpg\n")
    with pytest.raises(UserError, match=r"cannot read the table .*UTF-?8"):
        open_catalogue(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("_id,image,_id\n1,a.jpg,2\n")
    with pytest.raises(UserError, match="has several columns _id; give each its own name"):
        open_catalogue(tmp_path / "a.csv")
    (tmp_path / "tree.csv").write_text("category_id,category_level1\n1,A\n")
    with pytest.raises(UserError, match="which column holds the id"):
        open_catalogue(tmp_path / "tree.csv")


def test_a_copy_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    path = parquet_of_bytes(tmp_path / "a.parquet")
    monkeypatch.setenv("PRODUCT_MIL_COPY_GB", "1e-6")
    with pytest.raises(UserError, match=r"a\.parquet: its copy in the cache takes more than 0\.0 "):
        open_catalogue(path)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    monkeypatch.setenv("PRODUCT_MIL_COPY_GB", "much")
    with pytest.raises(UserError, match="PRODUCT_MIL_COPY_GB=much: must be a number of gigabytes"):
        open_catalogue(path)
    monkeypatch.delenv("PRODUCT_MIL_COPY_GB")
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match=r"no room for its copy in .*PRODUCT_MIL_CACHE at a larger"):
        open_catalogue(path)


def test_paths_are_relative_to_their_own_table(tmp_path: Path) -> None:
    for number, product in enumerate(PRODUCTS[:2]):
        (tmp_path / str(number)).mkdir()
        csv_of_lists(tmp_path / str(number) / "a.csv", [product])
    found = open_catalogue(f"{tmp_path}/0/a.csv,{tmp_path}/1/a.csv")
    assert contents(found) == as_contents(PRODUCTS[:2])
    assert found.place_of_image(2).file == str(tmp_path / "1" / "8-0.jpg")
    pq.write_table(pa.table({"_id": [1], "image": [b"x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"_id": [1], "image": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="some tables hold paths and some bytes"):
        open_catalogue(f"{tmp_path}/*.parquet")


def test_spaces_around_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "a.csv").write_text("ean, shelf , photo\n007,cups,a.jpg\n")
    found = open_catalogue(f"{tmp_path}/a.csv#category=shelf")
    assert (found.product_id.tolist(), found.category_id.tolist()) == (["007"], ["cups"])
    assert list(found.read(np.arange(1))) == [b"a"]


def test_a_table_without_a_column_of_categories_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "a.csv").write_text("sku,shelf,photo\n7,cups,a.jpg\n")
    with caplog.at_level("INFO"):
        open_catalogue(tmp_path / "a.csv")
    assert "no categories (of sku, shelf, photo none is named so; #category=NAME" in caplog.text


def test_paths_of_another_system(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a")
    (tmp_path / "a.csv").write_text("_id,image\n7,photos\\a.jpg\n")
    with pytest.raises(UserError, match=r"none of its 1 images is there.*write them with / in"):
        open_catalogue(tmp_path / "a.csv")
