"""The length that fits a system's time: by hand, and measured."""

import logging
from pathlib import Path

import pytest

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.seed_table.length import (
    RunCost,
    StageCost,
    measure_cost,
    shortening,
    with_steps,
)
from product_mil.sources.sample.draw import SampleFiles

COST = RunCost(
    start_s=4.0,
    stages={
        "head": StageCost(1000, 100, compile_s=2.0, step_s=0.01, evaluation_s=0.5),
        "finetune": StageCost(50, 20, compile_s=10.0, step_s=2.0, evaluation_s=8.0),
    },
)


def test_seconds_by_hand() -> None:
    # 4 + (1000 * 0.01 + 10 * 0.5) + (50 * 2 + 3 * 8): these programs were compiled
    assert COST.seconds(COST.steps) == pytest.approx(143.0)
    # An evaluation ends each stage, however short: 4 + (2 + 0.1 + 0.5) + (10 + 2 + 8)
    assert COST.seconds({"head": 10, "finetune": 1}) == pytest.approx(26.6)
    assert COST.seconds({"head": 10, "finetune": 0}) == pytest.approx(6.6)


def test_what_fits_keeps_its_whole_length() -> None:
    assert COST.steps_within(143.0 / 0.85 + 0.01) == {"head": 1000, "finetune": 50}


def test_stages_are_shortened_in_proportion_and_leave_a_reserve() -> None:
    steps = COST.steps_within(100.0)
    # Of 85 s starting and compiling take 16, 459 of the head's steps 4.59 and 5 evaluations 2.5,
    # 22 of the other's 44 and 2 evaluations 16: 83.09. With 460 and 23 it were 85.1.
    assert steps == {"head": 459, "finetune": 22}
    assert COST.seconds(steps) == pytest.approx(83.09)
    assert COST.seconds({"head": 460, "finetune": 23}) == pytest.approx(85.1)
    assert shortening(steps, COST.steps) == "459 of 1000 and 22 of 50 steps"
    assert shortening(COST.steps, COST.steps) == ""


def test_below_a_quarter_the_last_stage_is_given_up_for_the_first() -> None:
    # A quarter takes 4 + (2 + 2.5 + 3 * 0.5) + (10 + 24 + 8) = 52.
    assert COST.steps_within(52.0 / 0.85 + 0.01) == {"head": 250, "finetune": 12}
    steps = COST.steps_within(52.0 / 0.85 - 0.01)
    assert steps == {"head": 1000, "finetune": 0}  # 4 + 10 + 5
    assert shortening(steps, COST.steps) == "1000 of 1000 and 0 of 50 steps"


def test_without_time_a_step_is_left() -> None:
    assert COST.steps_within(1.0) == {"head": 1, "finetune": 0}
    assert RunCost(3.0, {}).steps_within(1.0) == {}  # the prior


def test_a_bound_changes_the_stage_alone() -> None:
    config = Config(head=StageConfig(epochs=3), finetune=StageConfig(epochs=2))
    bounded = with_steps(config, {"finetune": 7})
    assert bounded.finetune == StageConfig(epochs=2, max_steps=7)
    assert bounded.head == config.head
    without = with_steps(config, {"head": 5, "finetune": 0})
    assert without.head == StageConfig(epochs=3, max_steps=5)
    assert without.finetune == StageConfig(epochs=0)


def test_costs_survive_json() -> None:
    assert RunCost.from_dict(COST.to_dict()) == COST


@pytest.mark.slow
def test_a_cost_is_measured_and_its_embeddings_stay(
    sample: SampleFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A cache of its own: another test may have embedded these images with this net.
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    data = DataConfig(train=str(sample.train), categories=str(sample.categories), image_size_px=48)
    stage = StageConfig(epochs=3, images_per_batch=32, trainable="head")
    config = Config(
        data=data,
        model=ModelConfig(backbone="small_cnn", pooling="mean"),
        head=stage,
        finetune=StageConfig(epochs=1, images_per_batch=32),
    )
    caplog.set_level(logging.INFO, "product_mil")
    cost = measure_cost(config, tmp_path, deadline=float("inf"))
    per_epoch = cost.steps["finetune"]
    assert cost.steps == {"head": 3 * per_epoch, "finetune": per_epoch}
    assert cost.stages["head"].evaluate_every_steps == per_epoch
    assert cost.stages["head"].step_s < cost.stages["finetune"].step_s  # it reads embeddings
    assert min(each.evaluation_s for each in cost.stages.values()) > 0
    assert not (tmp_path / "checkpoints").exists()
    assert "images embedded" in caplog.text
    assert "embeddings: 0 images embedded" not in caplog.text
    measure_cost(config, tmp_path, deadline=float("inf"))
    assert "embeddings: 0 images embedded" in caplog.text
