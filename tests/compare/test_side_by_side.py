"""Heads that are trained at the same time: the same numbers, stopped together, errors named."""

import dataclasses
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from product_mil.compare.training import side_by_side
from product_mil.compare.training import variants as training
from product_mil.compare.training.side_by_side import (
    Child,
    Planned,
    num_at_once,
    train_side_by_side,
)
from product_mil.compare.training.variants import Variant, train_variants, trains_cached_head
from product_mil.config import AugmentConfig, Config, DataConfig, ModelConfig, StageConfig
from product_mil.errors import Interrupted, UserError
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles

CHILD = Child("product_mil.cli.one_run")


@pytest.fixture
def config(sample: SampleFiles) -> Config:
    return Config(
        data=DataConfig(
            train=str(sample.train), categories=str(sample.categories), image_size_px=32, shards=4
        ),
        model=ModelConfig(pooling="mean"),
        head=StageConfig(epochs=2, images_per_batch=32, trainable="head"),
        finetune=StageConfig(epochs=0),
    )


def planned(config: Config, directory: Path, count: int = 2) -> list[Planned]:
    return [
        Planned(f"mean-{seed}", dataclasses.replace(config, seed=seed), directory / f"mean-{seed}")
        for seed in range(count)
    ]


def endless(config: Config) -> Config:
    return dataclasses.replace(config, head=dataclasses.replace(config.head, epochs=100_000))


def test_which_are_trained_side_by_side(config: Config) -> None:
    assert trains_cached_head(config)
    for other in (
        dataclasses.replace(config, finetune=StageConfig(epochs=1)),
        dataclasses.replace(config, head=dataclasses.replace(config.head, trainable="all")),
        dataclasses.replace(config, head=dataclasses.replace(config.head, epochs=0)),
        dataclasses.replace(config, data=dataclasses.replace(config.data, embedding_cache=False)),
        dataclasses.replace(
            config, head=dataclasses.replace(config.head, augment=AugmentConfig(flip=0.5))
        ),
    ):
        assert not trains_cached_head(other)


def test_cores_and_memory_bound_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(side_by_side, "free_memory_bytes", lambda: 10**12)
    assert [num_at_once(n) for n in (1, 3, 9)] == [1, 3, 4]
    monkeypatch.setattr(side_by_side, "free_memory_bytes", lambda: 2 * side_by_side.RUN_BYTES + 1)
    assert num_at_once(9) == 2
    monkeypatch.setattr(side_by_side, "free_memory_bytes", lambda: 0)
    assert num_at_once(9) == 1


@pytest.mark.slow
def test_same_numbers_as_alone(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And each in a process of its own, whose lines are in its own log."""
    caplog.set_level(logging.INFO, "product_mil")
    runs = planned(config, tmp_path)
    train_side_by_side(runs, 2, CHILD)
    ends = [re.sub(r"-\d|, about.*", "", m) for m in caplog.messages if " is trained: " in m]
    assert ends == [
        "mean is trained: 1 of 2 runs",
        "mean is trained: 2 of 2 runs",
    ]
    alone = runs[1]._replace(workdir=tmp_path / "alone")
    run(alone.config, alone.workdir)
    ours, theirs = open_run(runs[1].workdir), open_run(alone.workdir)
    assert ours.step == theirs.step > 0
    for name, value in theirs.model.parameters.items():
        np.testing.assert_allclose(ours.model.parameters[name], value, atol=1e-5)
    other = open_run(runs[0].workdir)
    assert any(
        not np.allclose(other.model.parameters[name], value)
        for name, value in ours.model.parameters.items()
    )
    for one in runs:
        assert "validation after the last step" in (one.workdir / "log.txt").read_text()


def trains(workdir: Path) -> bool:
    """Whether the run has taken a step."""
    log = workdir / "log.txt"
    return log.exists() and "head: step " in log.read_text(encoding="utf-8")


def when_both_train(runs: list[Planned], act: Callable[[], None]) -> None:
    """Act once every run has taken a step."""

    def watch() -> None:
        while not all(trains(one.workdir) for one in runs):
            time.sleep(0.05)
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_together(config: Config, tmp_path: Path, number: int) -> None:
    runs = planned(endless(config), tmp_path, 3)
    when_both_train(runs[:2], lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as stopped:
        train_side_by_side(runs, 2, CHILD)
    assert stopped.value.signal == number
    for one in runs[:2]:
        assert "the same command goes on from there" in (one.workdir / "log.txt").read_text()
        assert open_run(one.workdir).step > 0
    assert not runs[2].workdir.exists()


@pytest.mark.slow
def test_an_error_is_named(config: Config, tmp_path: Path) -> None:
    """The others are stopped, and have saved."""
    runs = planned(endless(config), tmp_path)
    wrong = dataclasses.replace(
        config, data=dataclasses.replace(config.data, categories=str(tmp_path / "none.csv"))
    )
    with pytest.raises(UserError) as error:
        train_side_by_side([runs[0], Planned("wrong-0", wrong, tmp_path / "w")], 2, CHILD)
    assert str(error.value).startswith("wrong-0: ")
    assert "none.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_process_that_dies_is_named(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "_START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"mean-\d: its process ended with status -9; its last"):
        train_side_by_side(planned(config, tmp_path), 2, CHILD)


@pytest.mark.slow
def test_runs_end_with_whoever_started_them(config: Config, tmp_path: Path) -> None:
    """Killed, it leaves no process behind; the run has saved."""
    request = {
        "imports": [],
        "spec": "",
        "config": endless(config).to_dict(),
        "workdir": str(tmp_path / "r"),
        "cores": [],
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", side_by_side._START, CHILD.module, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    while not trains(tmp_path / "r"):
        assert process.poll() is None
        time.sleep(0.05)
    process.stdin.close()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert process.stderr is not None
    process.stderr.close()
    assert open_run(tmp_path / "r").step > 0


def test_others_are_trained_one_after_another(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[tuple[str, int]] = []
    monkeypatch.setattr(
        training, "run", lambda config, workdir: began.append((workdir.name, config.seed))
    )
    whole = dataclasses.replace(config, finetune=StageConfig(epochs=1))
    averaged = dataclasses.replace(whole, model=ModelConfig(pooling="probabilities"))
    found = train_variants({"a": Variant(whole), "b": Variant(averaged)}, 2, tmp_path, CHILD)
    assert began == [("a-0", 0), ("b-0", 0), ("a-1", 1), ("b-1", 1)]
    assert found == {name: [tmp_path / f"{name}-{seed}" for seed in (0, 1)] for name in ("a", "b")}

    def fail(config: Config, workdir: Path) -> None:
        raise UserError("it is taken; choose another --workdir")

    monkeypatch.setattr(training, "run", fail)
    with pytest.raises(UserError, match=r"^a-0: it is taken; choose another --output$"):
        train_variants({"a": Variant(whole), "b": Variant(averaged)}, 2, tmp_path, CHILD)
