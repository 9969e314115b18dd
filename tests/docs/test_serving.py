"""docs/guide/serving.md: its commands lead to an answer, its tables say what the code does."""

import dataclasses
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import product_mil
from product_mil.cli.parser import CommandParser
from product_mil.data.decode import MAX_PIXELS
from product_mil.serve.app import create_app
from product_mil.serve.limits import MEGA, Limits
from product_mil.serve.metrics import Meters
from product_mil.serve.service import Service
from tests.scripts import ROOT, call_tool

TEXT = (ROOT / "docs" / "guide" / "serving.md").read_text("utf-8")
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The rows of the last table of a section."""
    lines = re.findall(r"^\| (.*) \|$", section(title), re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {what: at_most for what, at_most, *_ in rows("Limits")[1:]}
    limits = Limits()
    wanted = {
        "images of a product": f"{limits.images} ",
        "products of a request": f"{limits.products}",
        "bytes of an image": f"{limits.image_bytes // MEGA} MB",
        "bytes of a request": f"{limits.body_bytes // MEGA} MB",
        "bytes of all requests that are read or wait at the same time": f"{limits.bodies} times",
        "pixels of an image": f"{MAX_PIXELS // MEGA} megapixels",
        "pixels of all images of a request": f"{limits.pixels // MEGA} megapixels",
        "images that wait": f"{limits.waiting_images};",
        "time that a request may wait for its turn": f"{limits.wait_s:g} s",
    }
    assert found.keys() == wanted.keys()
    for what, begins in wanted.items():
        assert found[what].startswith(begins)
    assert f"longer than {limits.read_s:g} s to arrive" in TEXT
    assert f"not computed within {limits.stop_s:g} s gets 503" in TEXT

    flags = {each for row in rows("Limits") for each in re.findall(r"--(\w+)", row[-1])}
    known: dict[str, Any] = {}

    def parse(parser: CommandParser, _: object) -> None:
        known.update({action.dest: action.default for action in parser._actions})
        raise InterruptedError

    monkeypatch.setattr(CommandParser, "parse_args", parse)
    with pytest.raises(InterruptedError):
        call_tool("serve")
    assert {name for name in known if name.startswith("max") or name == "wait_s"} == flags
    by_default = dataclasses.replace(
        limits,
        images=known["max_images"],
        products=known["max_products"],
        image_bytes=int(known["max_image_mb"] * MEGA),
        body_bytes=int(known["max_request_mb"] * MEGA),
        wait_s=known["wait_s"],
    )
    assert by_default == limits


def test_the_routes_and_the_metrics(trained: Path) -> None:
    app = create_app(Service([product_mil.load(trained)]))
    routes = {
        f"`{method.upper()} {path}`"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    named = {row[0] for row in re.findall(r"^\| (`[A-Z]+ [^|]*`) \|()", TEXT, re.MULTILINE)}
    assert routes == {*named, "`GET /v1/examples/{number}/{name}`"}

    names = {
        f"`{family.name}{'_total' if family.type == 'counter' else ''}`"
        for family in Meters().registry.collect()
    }
    assert names == {row[0] for row in rows("Metrics")[1:]}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_dockerfiles(path: Path) -> None:
    assert f"docker/{path.name}" in TEXT
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_walk_leaves_other_runs_alone() -> None:
    walk = section("From an empty environment to an answer")
    assert set(re.findall(r"runs/\w+", walk)) == {"runs/smoke"}  # README trains runs/joint


def test_what_is_calibrated_and_what_is_overwritten() -> None:
    text = " ".join(TEXT.split())
    assert "`confidence`, and `probability` within `sure`, are calibrated" in text
    assert "`pip install selenium`, and overwrites the two pictures" in text


@pytest.mark.slow
def test_from_an_empty_environment_to_an_answer(tmp_path: Path) -> None:
    for name in ("product_mil", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    script = "set -e\n"
    for kind, block in re.findall(
        r"```(sh|python)\n(.*?)```", section("From an empty environment to an answer"), re.DOTALL
    ):
        script += block if kind == "sh" else f"python - <<'END'\n{block}END\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["bash", "-c", script.replace("8000", port)],
        cwd=tmp_path,
        env={**environment, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("POST /v1/predict 200") == 2
    assert '{"status":"ready"}' in said
    assert '"products":[{"id":null,"categories":[{"category_id":' in said
    assert re.search(r"^at least 0.9 sure of: ", said, re.MULTILINE)
    assert "stopped; everything that was asked is answered" in said
