"""Runs in directories of any name that the system allows: trained, measured, exported, compared."""

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool

ALL_AT_ONCE = b"a [2]*?{x,y}#1%20~'\"\\$:;&|\n\xff\xfe\xc3\xa9"
NAMES = [
    b"[x]",
    b"exp [2]",
    b"*",
    b"what?",
    b"12:30:00",
    b" two  blanks ",
    b"#1",
    b"50%20",
    b"new\nline",
    b"\xff\xfe",
    b"\xc3\xa9t\xc3\xa9",
    b"back\\slash",
    b"gs:",
    b"~",
    b"~root",
    b"-dash",
    b"--config.seed=1",
    b"a,b",
    b"7",
    b"7.orbax-checkpoint-tmp",
    b"x" * 250,
]


def use(workdir: Path, data: Path, directory: Path) -> None:
    """Measure a run, and export its predictions to `directory`."""
    call_tool("evaluate", f"--workdir={workdir}", "--data", data, "--images_per_batch", 64)
    submission, top = directory / "submission.csv", directory / "top.parquet"
    outputs = f"--output={submission}", f"--probabilities={top}"
    call_tool("export_predictions", f"--workdir={workdir}", "--data", data, *outputs)
    with submission.open() as file:
        assert len(list(csv.reader(file))) == 121
    call_tool("evaluate", f"--predictions={top}", "--data", data)


def test_all_odd_characters_at_once(trained: Path, sample: SampleFiles, tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(ALL_AT_ONCE)
    shutil.copytree(trained, directory / "run")
    use(directory / "run", sample.train, directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", NAMES, ids=lambda name: os.fsdecode(name).encode("ascii", "replace").decode()[:20]
)
def test_trained_there(
    name: bytes, sample: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As relative paths, from a directory whose own name is odd, and through a link."""
    stage = StageConfig(epochs=1, images_per_batch=32, batch_statistics=True)
    config = Config(
        data=DataConfig(
            train=str(sample.train),
            categories=str(sample.categories),
            image_size_px=32,
            embedding_cache=False,
        ),
        model=ModelConfig(backbone="small_cnn", pooling="mean"),
        head=replace(stage, epochs=0, trainable="head", batch_statistics=False),
        finetune=stage,
    )
    directory = tmp_path / os.fsdecode(name)
    directory.mkdir()
    (tmp_path / "link").symlink_to(directory)
    monkeypatch.chdir(directory)
    workdir = Path(os.fsdecode(name))
    run(config, workdir)
    monkeypatch.chdir(tmp_path / "link")
    run(config, workdir)  # opened again, it is complete
    use(workdir, sample.train, Path())
    runs = f"a={workdir}", f"b={workdir}"
    call_tool("compare", "--runs", *runs, "--data", sample.train, "--output=comparison")
    assert Path("comparison", "index.html").is_file()
