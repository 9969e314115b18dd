"""`:smoke` of every file in configs/ trains to its end on a small catalogue."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from product_mil.config import load_config
from product_mil.runs.opening import open_run
from product_mil.runs.run import STAGES, run
from product_mil.sources.sample.draw import SampleFiles

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
# Nets that take long to compile, and configurations that differ from another one in little.
SLOW = ("inception_v3", "xception", "averaged", "tree", "cnn_1", "cnn_2", "cnn_3")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem)
        for path in CONFIGS
    ],
)
def test_smoke(path: Path, sample: SampleFiles, tmp_path: Path) -> None:
    config = load_config(f"{path}:smoke")
    assert config.model.weights == ""  # needs no file
    small = dataclasses.replace(
        config.data, train=str(sample.train), categories=str(sample.categories)
    )
    config = dataclasses.replace(config, data=small)
    run(config, tmp_path / "run")
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    trained = [name for name in STAGES if getattr(config, name).epochs] or ["head"]
    assert list(dict.fromkeys(row["stage"] for row in rows)) == trained
    for name in trained:
        epochs = [row for row in rows if row["stage"] == name]
        assert len(epochs) == max(getattr(config, name).epochs, 1)
    opened = open_run(tmp_path / "run")
    assert (opened.stage, opened.step) == (trained[-1], rows[-1]["step"])
    assert opened.config == config
    assert math.isfinite(rows[-1]["valid/nll"])
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(losses) == (0 if path.stem == "prior" else len(rows))
    assert losses == [] or losses[-1] < losses[0]
