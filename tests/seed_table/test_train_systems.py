"""Systems that get less time than they need are shortened, continued, or trained again."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.errors import Interrupted
from product_mil.runs import stage as stages
from product_mil.runs.opening import open_run
from product_mil.seed_table import train_systems as module
from product_mil.seed_table.length import RunCost, StageCost
from product_mil.seed_table.plan import Planned, TableOptions
from product_mil.seed_table.progress import Progress
from product_mil.seed_table.train_systems import train_systems
from product_mil.sources.sample.draw import SampleFiles
from product_mil.train.optim import learning_rate_schedule

COST = RunCost(0.0, {"finetune": StageCost(28, 2, 0.0, step_s=60.0, evaluation_s=0.0)})


@pytest.fixture
def system(sample: SampleFiles) -> Planned:
    stage = StageConfig(epochs=14, images_per_batch=128, batch_statistics=True)
    config = Config(
        data=DataConfig(
            train=str(sample.train), categories=str(sample.categories), image_size_px=48
        ),
        model=ModelConfig(backbone="cnn_1", pooling="probabilities"),
        head=StageConfig(epochs=0, trainable="head"),
        finetune=stage,
    )
    return Planned("net", config, share=1.0)


def never(*_: object) -> RunCost:
    raise AssertionError("measured again")


def row_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "runs" / "net.json").read_text())["row"]


@pytest.mark.slow
def test_a_system_is_shortened_and_lengthened_by_a_larger_budget(
    system: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_cost", lambda *_: COST)
    schedules: list[dict[str, Any]] = []
    make = stages.make_optimizer

    def noted(*args: Any, **settings: Any) -> Any:
        schedules.append(settings)
        return make(*args, **settings)

    monkeypatch.setattr(stages, "make_optimizer", noted)
    train_systems([system], [], TableOptions(tmp_path, budget_minutes=10.0))
    # 10 minutes, less a reserve of 15 %, hold 8 steps of a minute.
    assert row_of(tmp_path)["shortened"] == "8 of 28 steps"
    assert not row_of(tmp_path)["cut_short"]
    assert open_run(tmp_path / "runs" / "net").step == 8
    settings = schedules[-1]
    rate = learning_rate_schedule(
        settings["learning_rate"],
        num_steps=settings["num_steps"],
        warmup_fraction=settings["warmup_fraction"],
    )
    assert np.asarray(rate(1)) == pytest.approx(settings["learning_rate"])  # warm-up is over
    assert np.asarray(rate(7)) < 0.06 * settings["learning_rate"]  # the last step's
    assert "shortened to 8 of 28 steps" in (tmp_path / "seed_table.txt").read_text()

    monkeypatch.setattr(module, "measure_cost", never)
    train_systems(
        [system], [], TableOptions(tmp_path, budget_minutes=12.0)
    )  # too little for half as many again
    assert row_of(tmp_path)["shortened"] == "8 of 28 steps"
    train_systems([system], [], TableOptions(tmp_path, budget_minutes=50.0))
    assert row_of(tmp_path)["shortened"] == ""
    assert open_run(tmp_path / "runs" / "net").step == 28
    assert open_run(tmp_path / "runs" / "net-shortened").step == 8
    own = Progress(tmp_path, "net")
    assert 0 < row_of(tmp_path)["train_s"] < own.spent_s  # of the longer training alone
    assert not own.unfinished
    assert not own.shortened


@pytest.mark.slow
def test_a_killed_system_keeps_its_length(
    system: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_cost", lambda *_: COST)
    run = module.run

    def stopped(config: Config, workdir: Path, deadline: float) -> None:
        run(config, workdir, time.monotonic() - 1)  # after one step

    with monkeypatch.context() as patch:
        patch.setattr(module, "run", stopped)
        with pytest.raises(Interrupted) as left:  # before the deadline: asked by the user
            train_systems([system], [], TableOptions(tmp_path, budget_minutes=10.0))
    assert left.value.signal == signal.SIGTERM
    assert open_run(tmp_path / "runs" / "net").step == 1
    assert Progress(tmp_path, "net").steps == {"finetune": 8}

    monkeypatch.setattr(module, "measure_cost", never)
    train_systems([system], [], TableOptions(tmp_path, budget_minutes=10.0))
    assert row_of(tmp_path)["shortened"] == "8 of 28 steps"
    assert open_run(tmp_path / "runs" / "net").step == 8


@pytest.mark.slow
def test_a_system_that_does_not_end_in_its_time_is_cut_and_gone_on_with(
    system: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = RunCost(0.0, {"finetune": StageCost(28, 2, 0.0, step_s=1e-6, evaluation_s=0.0)})
    monkeypatch.setattr(module, "measure_cost", lambda *_: fast)
    train_systems([system], [], TableOptions(tmp_path, budget_minutes=0.01))
    row = row_of(tmp_path)
    assert row["cut_short"]
    step = open_run(tmp_path / "runs" / "net").step
    assert 1 <= step < 28
    assert row["note"] == f"stopped in stage finetune at step {step}"
    text = (tmp_path / "seed_table.txt").read_text()
    assert f"CUT SHORT: stopped in stage finetune at step {step}" in text
    train_systems([system], [], TableOptions(tmp_path, budget_minutes=60.0))
    assert not row_of(tmp_path)["cut_short"]
    assert open_run(tmp_path / "runs" / "net").step == 28
    assert row_of(tmp_path)["train_s"] > row["train_s"]


def test_what_is_cut_does_not_replace_a_shorter_training_that_is_complete(tmp_path: Path) -> None:
    own = Progress(tmp_path, "net")
    own.workdir.mkdir(parents=True)
    own.decide(COST, {"finetune": 8})
    own.stop(10.0)
    own.measured({"cut_short": False, "top1": 0.5})
    own.lengthen({"finetune": 28})
    own.stop(7.0)
    assert own.unfinished
    own.measured({"cut_short": True, "top1": 0.1})
    assert Progress(tmp_path, "net").row == {
        "cut_short": False, "top1": 0.5, "steps": {"finetune": 8}, "train_s": 10.0
    }  # fmt: skip
    assert Progress(tmp_path, "net").unfinished  # the longer one goes on
    own.measured({"cut_short": False, "top1": 0.6})
    assert own.row == {
        "cut_short": False, "top1": 0.6, "steps": {"finetune": 28}, "train_s": 7.0
    }  # fmt: skip
    assert not own.unfinished


def test_a_killed_session_counts_until_its_last_sign_of_life(tmp_path: Path) -> None:
    workdir = tmp_path / "runs" / "cnn_1"
    workdir.mkdir(parents=True)
    started = time.time() - 100
    state = {"spent_s": 5.0, "started": started, "row": None}
    (tmp_path / "runs" / "cnn_1.json").write_text(json.dumps(state))
    log = workdir / "log.txt"
    log.touch()
    os.utime(log, (started + 40, started + 40))
    assert Progress(tmp_path, "cnn_1").spent_s == pytest.approx(45, abs=0.01)
    assert Progress(tmp_path, "cnn_1").spent_s == pytest.approx(45, abs=0.01)  # once
