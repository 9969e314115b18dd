"""A run that is asked to stop raises `Interrupted`, with everything saved and nothing printed."""

import os
import signal
import time
from pathlib import Path

import pytest

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.errors import Interrupted
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles
from product_mil.train import loop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, None])
def test_a_request_to_stop(
    sample: SampleFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int | None,
) -> None:
    """By a signal, or by a deadline that has passed (None)."""
    config = Config(
        data=DataConfig(
            train=str(sample.train), categories=str(sample.categories), image_size_px=32
        ),
        model=ModelConfig(backbone="cnn_1", pooling="mean"),
        head=StageConfig(epochs=0, trainable="head"),
        finetune=StageConfig(epochs=3, images_per_batch=32),
    )
    deadline = float("inf") if number else time.monotonic()
    if number:
        monkeypatch.setattr(loop, "_report_progress", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as stopped:
        run(config, tmp_path, deadline)
    line = "stopped at step 1 of stage finetune; the same command goes on from there"
    assert str(stopped.value) == line
    assert stopped.value.signal == (number or signal.SIGTERM)
    assert (tmp_path / "log.txt").read_text().splitlines()[-1].endswith(f" {line}")
    assert open_run(tmp_path).step == 1
    assert capfd.readouterr().out == ""
