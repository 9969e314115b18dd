"""The fields of a configuration on the screen."""

import json

import pytest

from product_mil.config import config_from_dict, load_config, override
from product_mil.config.table import page, schema
from tests.scripts import call_tool


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    call_tool("show_config", *args)
    return capsys.readouterr().out


def test_each_form(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "--config=joint:laptop", "--config.seed=3").splitlines()
    (seed,) = [line.split() for line in lines if " seed " in line]
    assert seed[:3] == ["*", "seed", "3"]
    (size,) = [line.split() for line in lines if " data.image_size_px " in line]
    assert size[:3] == ["data.image_size_px", "180", "Side"]
    stored = json.loads(said(capsys, "--config=joint:laptop", "--config.seed=3", "--json"))
    assert config_from_dict(stored) == override(load_config("joint:laptop"), [("seed", "3")])[0]
    assert json.loads(said(capsys, "--schema")) == schema()
    assert said(capsys, "--markdown") == page()


def test_wrong_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_tool("show_config", "--config.data.shard=3", "--config.data.max_images=0")
    text = capsys.readouterr().err
    assert "config.data.shard: there is no such field; did you mean config.data.shards" in text
    assert "config.data.max_images=0: must be at least 1" in text
    with pytest.raises(SystemExit):
        call_tool("show_config", "--conf=3")
    assert "unrecognized arguments: --conf=3" in capsys.readouterr().err
