"""The configuration that a run keeps."""

import dataclasses
import json

import pytest

from product_mil.config import (
    AugmentConfig,
    Config,
    DataConfig,
    config_from_dict,
    differences,
    override,
)
from product_mil.errors import UserError


def test_round_trip_through_json() -> None:
    config = dataclasses.replace(Config(), data=DataConfig(drop_images_md5=("a", "b")))
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    stored = config.to_dict()
    stored["data"]["surprise"] = 1
    with pytest.raises(UserError, match="another version"):
        config_from_dict(stored)


def test_a_run_older_than_a_field_has_its_default() -> None:
    config = override(Config(), [("seed", "3"), ("data.image_size_px", "90")])[0]
    stored = json.loads(json.dumps(config.to_dict()))
    del stored["head"]["augment"], stored["model"]["head_init"], stored["data"]["bad_images"]
    assert config_from_dict(stored) == config
    assert differences(stored, config) == []
    other = override(config, [("augment.flip", "0.5"), ("model.head_init", "zeros")])[0]
    assert differences(stored, other) == [
        "config.finetune.augment.flip: the run has 0.0, you ask for 0.5",
        "config.head.augment.flip: the run has 0.0, you ask for 0.5",
        "config.model.head_init: the run has 'normal', you ask for 'zeros'",
    ]
    del stored["data"]
    with pytest.raises(UserError, match="another version"):
        config_from_dict(stored)


def test_a_run_of_one_augmentation_for_both_stages_has_it_in_each() -> None:
    config = override(Config(), [("augment.flip", "0.5"), ("augment.border", "mean")])[0]
    assert config.head.augment == config.finetune.augment == AugmentConfig(0.5, border="mean")
    stored = json.loads(json.dumps(config.to_dict()))
    stored["augment"] = stored["head"].pop("augment")
    del stored["finetune"]["augment"]
    assert config_from_dict(stored) == config
    assert differences(stored, config) == []
    other = override(config, [("head.augment.flip", "0")])[0]
    assert differences(stored, other) == [
        "config.head.augment.flip: the run has 0.5, you ask for 0.0"
    ]


def test_differences_name_the_fields() -> None:
    stored = json.loads(json.dumps(Config().to_dict()))
    assert differences(stored, Config()) == []
    free = override(Config(), [("data.threads", "3"), ("checkpoint_every_s", "1")])[0]
    assert differences(stored, free) == []
    other = override(Config(), [("seed", "4"), ("model.pooling", "mean")])[0]
    assert differences(stored, other) == [
        "config.model.pooling: the run has 'gated_attention', you ask for 'mean'",
        "config.seed: the run has 0, you ask for 4",
    ]
