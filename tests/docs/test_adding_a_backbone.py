"""The net of docs/guide/adding-a-backbone.md is all that it takes: a run trains on it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.model.registry import BACKBONES
from product_mil.model.weights.load import load_weights
from product_mil.runs.run import run
from tests.model.weights.test_load import write_keras_file

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guide" / "adding-a-backbone.md"


@pytest.mark.slow
def test_the_documented_net_loads_weights_and_trains(sample, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    assert len(blocks[0].splitlines()) <= 45
    names: dict = {}
    exec(blocks[0], names)
    spec = names["SPEC"]
    monkeypatch.setitem(BACKBONES, "tiny_vgg", spec)

    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    layers = {}
    for index, (dim, features) in enumerate([(3, 16), (16, 32), (32, 64)]):
        layers[f"block{index}_conv"] = {"kernel": (3, 3, dim, features)}
        layers[f"block{index}_bn"] = dict.fromkeys(norm, (features,))
    values = write_keras_file(tmp_path / "tiny.h5", layers)
    module = spec.build(rngs=nnx.Rngs(0))
    load_weights(module, spec, tmp_path / "tiny.h5")
    np.testing.assert_array_equal(module.convs[2].kernel[...], values["block2_conv"]["kernel"])

    stage = StageConfig(epochs=1, images_per_batch=32, batch_statistics=True)
    config = Config(
        data=DataConfig(
            train=str(sample.train), categories=str(sample.categories), image_size_px=32
        ),
        model=ModelConfig(backbone="tiny_vgg", pooling="gated_attention"),
        head=StageConfig(epochs=1, images_per_batch=32, trainable="head"),
        finetune=stage,
    )
    run(config, tmp_path / "run")
    rows = [
        json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert np.isfinite([row["valid/nll"] for row in rows if "valid/nll" in row]).all()
