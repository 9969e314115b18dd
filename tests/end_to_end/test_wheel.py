"""The wheel by itself: built, installed into an empty environment, used in another directory."""

import csv
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import product_mil
from tests.scripts import ROOT

pytestmark = pytest.mark.slow

IN_PYTHON = """
import json, sys
import bson, product_mil
from product_mil.files.package import checkout
assert checkout() is None
with open("drawn/products.bson", "rb") as file:
    records = list(bson.decode_file_iter(file))
products = [[image["picture"] for image in record["imgs"]] for record in records]
found = product_mil.load("runs/joint-smoke").predict(products, topk=1)
first = {record["_id"]: one.category_ids[0] for record, one in zip(records, found, strict=True)}
print(json.dumps([product_mil.__file__, product_mil.__version__, first]))
"""


def call(*arguments: str | Path, cwd: Path) -> str:
    """What a program prints that does not see the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(source: Path, kind: str, output: Path) -> Path:
    call(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", output, cwd=source)
    (found,) = output.iterdir()
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_what_is_in_it(wheel: Path, tmp_path: Path) -> None:
    files = contents(wheel)
    assert wheel.name == f"product_mil-{product_mil.__version__}-py3-none-any.whl"
    for path in (ROOT / "configs").glob("*.py"):
        assert files[f"product_mil/configs/{path.name}"] == path.read_bytes()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "product_mil").rglob("*.py")}
    template = {f"product_mil/compare/page/template/page.{end}" for end in ("css", "html.j2", "js")}
    assert modules | template | {"product_mil/py.typed"} <= files.keys()
    assert {name.partition("/")[0].partition("-")[0] for name in files} == {"product_mil"}
    sdist = built(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert contents(built(source, "wheel", tmp_path / "again")) == files


def test_train_and_predict_with_it(wheel: Path, tmp_path: Path) -> None:
    call(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    programs = tmp_path / "venv" / "bin"
    python = programs / "python"
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # What it depends on is taken from the environment of the tests, which comes after its own.
    (own,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def product_mil_command(*arguments: str) -> str:
        return call(programs / "product-mil", *arguments, cwd=tmp_path)

    assert product_mil_command("--version") == f"product_mil {product_mil.__version__}\n"
    said = product_mil_command("train", "--config=joint:smoke")
    assert "product-mil predict --workdir runs/joint-smoke" in said
    run = json.loads((tmp_path / "runs/joint-smoke/run.json").read_text())
    assert run["environment"]["git_revision"] is None
    assert run["version"] == product_mil.__version__
    product_mil_command("draw-sample", "--output", "drawn", "--products", "60")
    product_mil_command(
        "predict", "--workdir", "runs/joint-smoke", "--data", "drawn/products.bson",
        "--output", "submission.csv",
    )  # fmt: skip
    with (tmp_path / "submission.csv").open() as file:
        submission = {row["_id"]: int(row["category_id"]) for row in csv.DictReader(file)}
    place, version, answers = json.loads(call(python, "-c", IN_PYTHON, cwd=tmp_path))
    assert Path(place).is_relative_to(own)
    assert version == product_mil.__version__
    assert len(submission) == 60
    assert answers == submission
    runs = ("a=runs/joint-smoke", "b=runs/joint-smoke")
    data = ("--data", "drawn/products.bson", "--output", "comparison")
    product_mil_command("compare", "--runs", *runs, *data)
    assert (tmp_path / "comparison" / "index.html").is_file()
