import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from product_mil.inference.top_classes import read_predictions
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT, call_tool

EARLIER = ROOT / "tests" / "end_to_end" / "earlier" / "run"  # posterior_attention, trained


@pytest.fixture(scope="module")
def attending(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with attention that reads posteriors, long enough to have moved it."""
    config = open_run(trained).config
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, pooling="posterior_attention"),
        finetune=dataclasses.replace(config.finetune, epochs=1, learning_rate=1e-2),
    )
    workdir = tmp_path_factory.mktemp("attending")
    run(config, workdir)
    return workdir


@pytest.mark.slow
def test_equals_the_weights_and_the_exported_predictions(
    attending: Path, sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    call_tool("inspect_run", "--workdir", attending, "--data", sample.train, "--json")
    found = json.loads(capsys.readouterr().out)
    opened = open_run(attending)
    kernel = np.asarray(opened.model.parameters["head/relevance/kernel"])
    scores = 100 * (kernel.mean(1) - kernel.mean())
    listed = {row["category_id"]: row["relevance"] for row in found["relevance"]}
    assert listed == pytest.approx(
        dict(zip(opened.categories.ids.tolist(), scores, strict=True)), abs=1e-3
    )
    values = list(listed.values())
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]

    call_tool(
        "export_predictions", "--workdir", attending, "--data", sample.train, "--output",
        tmp_path / "s.csv", "--probabilities", tmp_path / "p.parquet",
    )  # fmt: skip
    table = read_predictions(tmp_path / "p.parquet").table.to_pylist()
    sides: dict[bool, list[float]] = {True: [], False: []}
    for row in table:
        if (n := row["num_readable_images"]) > 1:
            pairs = zip(row["image_category_id"], row["image_attention"], strict=True)
            for guess, attention in pairs:
                sides[guess == row["top_category_id"][0]].append(n * attention)
    several = found["attention"][-1]
    assert several == {
        "num_images": None,
        "agreeing": len(sides[True]),
        "attention_of_agreeing": pytest.approx(np.mean(sides[True]), abs=1e-4),
        "disagreeing": len(sides[False]),
        "attention_of_disagreeing": pytest.approx(np.mean(sides[False]), abs=1e-4),
    }
    # What a product's images add up to: how far the first category lies above the mean.
    best = np.array([row["top_probability"][0] for row in table if row["image_contribution"]])
    added = np.array([sum(row["image_contribution"]) for row in table if row["image_contribution"]])
    assert len(best) == len(table)
    assert (added >= np.log(best * len(scores)) - 1e-4).all()  # Jensen: the mean lies below


def test_for_people(
    sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attending = tmp_path / "run"
    shutil.copytree(EARLIER, attending)
    call_tool("inspect_run", "--workdir", attending, "--data", sample.train, "--rows", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{attending}: posterior_attention over small_cnn")
    assert lines[1].startswith("trust in the joint correction: ")
    classes = len(open_run(attending).categories.ids)
    assert lines[3:8][2] == f"     ...  {classes - 4} more"
    relevance = [float(line.split()[0]) for line in (*lines[3:5], *lines[6:8])]
    assert relevance == sorted(relevance, reverse=True)
    assert lines[-1].split()[0] == "several"


@pytest.mark.parametrize(
    ("pooling", "said"),
    [
        ("gated_attention", "gated_attention scores no categories"),
        ("mean", "mean has no attention: all images of a product count alike"),
    ],
)
def test_heads_without_a_table_say_so(
    pooling: str,
    said: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = open_run(trained)
    model = dataclasses.replace(opened.config.model, pooling=pooling)
    config = dataclasses.replace(opened.config, model=model)
    changed = dataclasses.replace(opened, config=config)
    monkeypatch.setattr("product_mil.runs.opening.open_run", lambda *_: changed)
    capsys.readouterr()
    call_tool("inspect_run", "--workdir", trained)
    assert capsys.readouterr().out.splitlines()[1].startswith(said)


def test_refuses_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (("--workdir", tmp_path / "none"), "no such directory"),
        (("--workdir", tmp_path, "--rows", 0), "--rows=0: must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            call_tool("inspect_run", *arguments)
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
