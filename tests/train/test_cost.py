"""What a stage says of its length before it begins, and of the time left while it runs."""

import logging
import re
import time
from pathlib import Path
from typing import Any

import jax
import pytest

from product_mil.devices.mesh import replicate
from product_mil.train import cost, pace
from product_mil.train.cost import StepCost, expected_time, measure_steps, peak_memory_bytes
from tests.train.test_loop import STEPS, stage_of, train
from tests.train.tiny import prepared, start


def slow_step(seconds: float) -> Any:
    """The step, which takes so much longer."""

    def train_step(*arguments: Any) -> Any:
        time.sleep(seconds)
        return prepared()[3](*arguments)

    return train_step


def test_steps_are_measured_and_the_first_one_apart() -> None:
    taken: list[int] = []

    def train_step(state: Any, *arguments: Any) -> Any:
        taken.append(len(taken))
        time.sleep(0.5 if len(taken) == 1 else 0.05)
        return prepared()[3](state, *arguments)

    stage = stage_of(train_step=train_step)
    _, arrays, optimizer, step = prepared()
    jax.block_until_ready(step(start(arrays, optimizer), next(stage.batches(0)).batch, stage.key))
    found, state = measure_steps(
        stage, replicate(start(arrays, optimizer), stage.mesh), seconds=0.1, at_least=4
    )
    assert 0.05 <= found.step_s < 0.4 < found.compile_s
    assert int(state.step) == len(taken) == 4
    taken.clear()
    state = replicate(start(arrays, optimizer), stage.mesh)
    measure_steps(stage, state, seconds=60.0, at_least=1)
    assert len(taken) == STEPS  # a stage has no more


def test_a_line_says_how_long_a_stage_takes_from_a_step_on() -> None:
    stage = stage_of()  # 11 steps, an evaluation every 4
    line = expected_time(stage, StepCost(12.0, 30.0), step=3, evaluation_s=60.0)
    assert line == "finetune: 8 steps of 30.00 s and 2 evaluations, about 6 min; compiled in 12 s"
    line = expected_time(stage, StepCost(0.4, 0.0123), step=0, evaluation_s=0.1)
    assert line == "finetune: 11 steps of 12.3 ms and 3 evaluations, about 0 s; compiled in 0 s"


def test_memory_is_that_of_the_devices_where_they_report_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 1e8 < peak_memory_bytes() < 1e11

    class Device:
        def __init__(self, peak: int) -> None:
            self.peak = peak

        def memory_stats(self) -> dict[str, int]:
            return {"peak_bytes_in_use": self.peak}

    monkeypatch.setattr(cost.jax, "local_devices", lambda: [Device(5), Device(7)])
    assert peak_memory_bytes() == 7


@pytest.mark.slow
def test_the_time_left_stands_in_the_log_from_the_second_step_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "product_mil")
    monkeypatch.setattr(pace, "LOG_FROM_S", 0.3)
    train(tmp_path, stage_of(train_step=slow_step(0.1)))
    lines = [line for line in caplog.messages if line.startswith("finetune")]
    assert lines[0].startswith(f"finetune: step 2/{STEPS} | ")
    assert re.search(r" [1-9] s left$", lines[0])  # a busy machine takes longer
    # Within a minute nothing more but the evaluations.
    assert [line.split("|")[0].split()[2] for line in lines[1:]] == ["4/11", "8/11", "11/11"]
    monkeypatch.setattr(pace, "LOG_EVERY_S", 0.0)
    caplog.clear()
    train(tmp_path / "often", stage_of(train_step=slow_step(0.1)))
    lines = [line for line in caplog.messages if line.startswith("finetune")]
    assert [line.split("|")[0].split()[2] for line in lines[:4]] == ["2/11", "3/11", "4/11", "4/11"]
    monkeypatch.setattr(pace, "LOG_FROM_S", 1e9)
    caplog.clear()
    train(tmp_path / "short", stage_of())
    assert not any("step 2/" in line for line in caplog.messages)
