"""The recipe for Cdiscount's size, on four devices and small data: both stages take their steps."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from product_mil.config import Config, DataConfig, load_config
from product_mil.runs.opening import open_run
from product_mil.runs.run import run
from product_mil.train.log import RunLog
from tests.conftest import SampleFiles

CONFIGS = Path(__file__).parents[2] / "configs"


def small(config: Config, sample: SampleFiles) -> Config:
    """As it is, but for the weights, which would have to be fetched, and every size."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            train=str(sample.train),
            categories=str(sample.categories),
            valid_fraction=DataConfig.valid_fraction,
            image_size_px=75,
        ),
        model=dataclasses.replace(config.model, weights=""),
        head=dataclasses.replace(config.head, images_per_batch=32, max_steps=2),
        finetune=dataclasses.replace(config.finetune, images_per_batch=32, max_steps=2),
    )


@pytest.mark.slow
def test_two_steps_of_each_stage_on_four_devices(sample: SampleFiles, tmp_path: Path) -> None:
    assert jax.device_count() == 4
    config = small(load_config(f"{CONFIGS / 'joint.py'}:cdiscount"), sample)
    run(config, tmp_path / "run")
    rows = RunLog(tmp_path / "run").metrics()
    assert [(row["stage"], row["step"]) for row in rows] == [("head", 2), ("finetune", 2)]
    for row in rows:
        assert np.isfinite([row["train/loss"], row["valid/nll"]]).all()
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["devices"]
        == ["cpu"] * 4
    )
    trained = open_run(tmp_path / "run")
    assert trained.config == config
    # The head alone leaves the net as it was; the second stage moves it, from the stem on.
    statistics = trained.model.statistics
    moved = [path for path in statistics if path.endswith("mean") and np.any(statistics[path])]
    assert len(moved) == sum(path.endswith("mean") for path in statistics)
