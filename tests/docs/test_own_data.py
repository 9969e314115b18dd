"""The commands in docs/guide/own-data.md, in the order in which they stand there."""

import gzip
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import bson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from product_mil.__main__ import COMMANDS
from product_mil.sources import mongo
from product_mil.sources.categories import read_categories
from product_mil.sources.opening import open_catalogue
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT
from tests.sources.fake_mongo import Server
from tests.sources.of_products import (
    Product,
    contents,
    csv_of_lists,
    folder,
    record,
    records,
)
from tests.sources.test_packed_dumps import archive

DOCUMENT = ROOT / "docs" / "guide" / "own-data.md"
QUICK = ("index", "show", "make-bson")


def commands() -> list[str]:
    """Each command of the page, on one line."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def _data(sample: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the page names, in the working directory."""
    monkeypatch.chdir(tmp_path)
    drawn = [
        Product(
            f"product {one['_id']}",
            f"shelf-{one['category_id']}",
            [image["picture"] for image in one["imgs"]],
        )
        for one in bson.decode_all(sample.train.read_bytes())
    ]
    products = drawn[:60]
    for name, some in (("photos", products), ("labelled", drawn[60:80]), ("new", drawn[80:90])):
        folder(tmp_path / name, some)
    csv_of_lists(tmp_path / "products.csv", products)
    columns = {
        "sku": [product.product_id for product in products],
        "shelf": [product.category_id for product in products],
        "photo": [list(product.images) for product in products],
    }
    pq.write_table(pa.table(columns), "products.parquet")
    (tmp_path / "dump.bson.gz").write_bytes(gzip.compress(b"".join(records(products))))
    (tmp_path / "dump.archive").write_bytes(archive(products=records(products), orders=[]))
    items = [
        {
            "_id": number,
            "sku": product.product_id,
            "shelf": {"id": product.category_id},
            "photos": [{"data": image} for image in product.images],
        }
        for number, product in enumerate(products)
    ]
    server = Server(products=[record(product) for product in products], items=items)
    monkeypatch.setattr(mongo, "MongoClient", server.connect)


def call(line: str) -> None:
    """Run a command in this process; one that reads a pipe in a shell."""
    line = line.replace("joint:laptop", "joint:smoke")
    if "|" in line:
        program = line.replace("product-mil", f"{shlex.quote(sys.executable)} -m product_mil")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(program, shell=True, check=True, env=environment, capture_output=True)
        return
    program, name, *arguments = shlex.split(line)
    assert program == "product-mil"
    import_module(COMMANDS[name].module).main(arguments)


def is_quick(line: str) -> bool:
    return any(f"product-mil {name} " in line for name in QUICK)


@pytest.mark.usefixtures("_data")
def test_the_quick_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(filter(is_quick, commands()))
    assert len(lines) == 9
    for line in lines:
        call(line)
        shown = capsys.readouterr().out
        assert "| product-mil" in line or "60" in shown, line
    made, photos = (open_catalogue(name) for name in ("train.bson", "photos/"))
    assert contents(made) == contents(photos)
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("_data")
def test_all_other_commands(tmp_path: Path) -> None:
    lines = [line for line in commands() if not is_quick(line)]
    assert len(lines) == 6
    for line in lines:
        call(line)
    assert (tmp_path / "submission.csv").read_text().count("\n") == 11
    assert (tmp_path / "emb.npz").is_file()
    assert (tmp_path / "runs" / "live" / "run.json").is_file()


def test_the_category_file(tmp_path: Path) -> None:
    (text,) = re.findall(r"```\n(category_id,.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "names.csv"
    path.write_text(text, "utf-8")
    categories = read_categories(path)
    assert categories.ids.tolist() == [7, 8, 12, 31]
    assert categories.names[2] == ("Garden", "Plants", "Plants", "Plants")
    assert categories.levels() == (2, 3, 3, 4)
