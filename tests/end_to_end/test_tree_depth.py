"""Trees of five levels and of one: training, evaluation, predictions that back off, Python."""

import csv
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from product_mil import load
from product_mil.cli.evaluate import main as evaluate
from product_mil.cli.export_predictions import main as export
from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles


def deepened(sample: SampleFiles, path: Path) -> Path:
    """The sample's tree below one more level, and with a fifth that every second row leaves out."""
    with sample.categories.open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category_id", *(f"category_level{n}" for n in range(1, 6))])
        for place, (number, *names) in enumerate(rows):
            top = "家" if names[0] < "M" else "園"
            writer.writerow([number, top, *names, "" if place % 2 else f"{names[2]} 🧸"])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("depth", [5, 1])
def test_a_run_on_a_tree_of_another_depth(
    sample: SampleFiles,
    tmp_path: Path,
    depth: int,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = StageConfig(epochs=3, trainable="head", images_per_batch=32, learning_rate=3e-3)
    names = ""
    if depth == 5:
        stage = dataclasses.replace(stage, level1_loss=0.5, level4_loss=0.5)
        names = str(deepened(sample, tmp_path / "names.csv"))
    config = Config(
        data=DataConfig(train=str(sample.train), categories=names, image_size_px=48),
        model=ModelConfig(backbone="hand_made", pooling="tree"),
        head=stage,
        finetune=StageConfig(epochs=0),
    )
    workdir = tmp_path / "run"
    with caplog.at_level(logging.INFO, "product_mil"):
        run(config, workdir)
    opened = open_run(workdir)
    counts = opened.categories.levels()
    assert len(counts) == depth
    shown = " / ".join(map(str, counts)) + " at levels 1 / 2 / 3 / 4 / 5" * (depth == 5)
    assert f"categories {shown}\n" in caplog.text
    layers = {path.split("/")[1] for path in opened.model.parameters if path.startswith("head/")}
    assert layers == {"root", *(f"of_level_{n}" for n in range(1, depth))}

    evaluate(["--workdir", str(workdir), "--data", str(sample.train), "--json"])
    metrics = json.loads(capsys.readouterr().out)
    levels = [metrics[name] for name in metrics if name.startswith("top1_level_")]
    assert len(levels) == depth
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == metrics["top1"] > 0.1
    distance = sum(1 - share for share in levels) / (1 - metrics["top1"])
    assert metrics["error_tree_distance"] == pytest.approx(distance)

    output = tmp_path / "s.csv"
    export([
        "--workdir", str(workdir), "--data", str(sample.train), "--output", str(output),
        "--min_confidence", "0.3",
    ])  # fmt: skip
    assert f"  {depth} (category)" in capsys.readouterr().out
    with (tmp_path / "s.csv.levels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = dict(zip(opened.categories.ids.tolist(), opened.categories.names, strict=True))
    for row in rows:
        level, named = int(row["level"]), [row[f"category_level{n}"] for n in range(1, depth + 1)]
        assert named[level:] == [""] * (depth - level)
        assert bool(row["category_id"]) == (level == depth)
        if level == depth:
            assert tuple(named) == paths[int(row["category_id"])]
        elif level:
            assert any(path[:level] == tuple(named[:level]) for path in paths.values())
    assert len({row["level"] for row in rows}) > 1

    (answer,) = load(workdir).predict(
        [[np.asarray(Image.new("RGB", (48, 48)))]], min_confidence=0.0
    )
    assert answer.sure is not None
    assert answer.sure.level == depth
    assert answer.names[0] == tuple(dict.fromkeys(paths[answer.category_ids[0]]))
