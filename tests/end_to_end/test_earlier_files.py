"""A run and predictions that earlier code wrote open, and mean the same (see earlier/README.md)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from product_mil.config import config_from_dict
from product_mil.inference.top_classes import read_predictions
from product_mil.runs.directory import stored_config
from product_mil.runs.run import run
from tests.scripts import call_tool

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("earlier") / "data"
    call_tool("draw_sample", "--output", directory, "--products", 60, "--seed", 5)
    return directory / "products.bson"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return shutil.copytree(EARLIER / "run", tmp_path / "run")


def test_a_run_predicts_what_it_predicted(data: Path, workdir: Path, tmp_path: Path) -> None:
    outputs = ("--output", tmp_path / "now.csv", "--probabilities", tmp_path / "now.parquet")
    call_tool("export_predictions", "--workdir", workdir, "--data", data, *outputs, "--topk", 3)
    assert (tmp_path / "now.csv").read_text() == (EARLIER / "submission.csv").read_text()
    before = read_predictions(EARLIER / "top.parquet").table
    now = read_predictions(tmp_path / "now.parquet").table
    assert now.schema.equals(before.schema)
    # Another machine and another version of XLA may have computed the former numbers.
    for name, digits in (("top_probability", 4), ("image_attention", 4), ("image_contribution", 3)):
        numbers = [np.concatenate(table[name].to_pylist()) for table in (now, before)]
        np.testing.assert_allclose(*numbers, atol=10**-digits, rtol=1e-3)
    for name in ("product_id", "category_id", "num_images", "image_index", "image_category_id"):
        assert now[name].to_pylist() == before[name].to_pylist()


@pytest.mark.parametrize("name", ["top.parquet", "submission.csv"])
def test_predictions_are_scored(name: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_tool("evaluate", "--predictions", EARLIER / name, "--data", data, "--json")
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(47 / 60)


def test_they_are_compared(data: Path, workdir: Path, tmp_path: Path) -> None:
    call_tool(
        "compare", "--runs", f"run={workdir}", "--predictions", f"file={EARLIER / 'top.parquet'}",
        "--data", data, "--output", tmp_path / "page",
    )  # fmt: skip
    found = json.loads((tmp_path / "page" / "comparison.json").read_text())
    for name in ("run", "file"):
        assert found["runs"][name]["accuracy"] == pytest.approx(47 / 60)


def test_training_goes_on_from_its_end(
    data: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command restores the optimiser too, and finds that nothing is left to do."""
    monkeypatch.chdir(data.parents[1])
    before = (workdir / "metrics.jsonl").read_text()
    stored = stored_config(workdir)
    assert stored is not None
    run(config_from_dict(stored), workdir)
    assert (workdir / "metrics.jsonl").read_text() == before
