"""How long a stage is, and how far its average reaches back."""

import pytest

from product_mil.config import (
    Config,
    StageConfig,
    problems,
)
from product_mil.runs.schedule import average_decay, stage_num_steps


def test_a_stage_by_steps_takes_whole_epochs_and_at_least_ten() -> None:
    stage = StageConfig(epochs=-1, steps=2000)
    assert stage_num_steps(stage, 11) == 182 * 11
    assert stage_num_steps(stage, 700) == 7000
    assert stage_num_steps(StageConfig(epochs=3, steps=2000), 11) == 33
    assert stage_num_steps(StageConfig(epochs=-1, steps=2000, min_epochs=4), 700) == 2800


def test_a_stage_is_no_longer_than_its_bound() -> None:
    assert stage_num_steps(StageConfig(epochs=3, max_steps=20), 11) == 20
    assert stage_num_steps(StageConfig(epochs=3, max_steps=40), 11) == 33
    assert stage_num_steps(StageConfig(epochs=-1, steps=2000, max_steps=7), 700) == 7


def test_an_average_reaches_back_over_a_share_of_the_stage() -> None:
    assert average_decay(StageConfig(ema_memory=0.25), 400) == pytest.approx(0.99)
    assert average_decay(StageConfig(ema_memory=0.25), 40_000) == pytest.approx(0.9999)
    assert average_decay(StageConfig(ema_memory=0.25), 2) == 0  # shorter than a step: none
    assert average_decay(StageConfig(ema_decay=0.9), 400) == 0.9
    both = Config(finetune=StageConfig(epochs=1, ema_decay=0.9, ema_memory=0.1))
    assert "set one of them to 0" in " ".join(problems(both))
