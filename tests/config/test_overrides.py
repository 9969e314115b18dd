"""Fields of a configuration set on the command line."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product_mil.config import (
    Config,
    flat,
    override,
)
from product_mil.config.leaves import Leaf, leaves
from product_mil.config.overrides import as_text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("data.train", "a.bson,b.bson", "a.bson,b.bson"),
        ("data.categories", "", ""),
        ("data.max_products", "17", 17),
        ("data.valid_fraction", "0.25", 0.25),
        ("data.drop_images_md5", "abc, def", ("abc", "def")),
        ("data.drop_images_md5", "", ()),
        ("model.pooling", "residual", "residual"),
        ("model.position_embedding", "true", True),
        ("model.position_embedding", "False", False),
        ("finetune.learning_rate", "3e-4", 3e-4),
        ("head.epochs", "-1", -1),
        ("seed", "5", 5),
        ("name", "mine", "mine"),
    ],
)
def test_override_of_each_type(name: str, text: str, value: object) -> None:
    config, errors = override(Config(), [(name, text)])
    assert errors == []
    found = flat(config)[name]
    assert found == value
    assert type(found) is type(value)
    others = {key: item for key, item in flat(config).items() if key != name}
    assert others == {key: item for key, item in flat(Config()).items() if key != name}


def test_later_overrides_win() -> None:
    assert override(Config(), [("seed", "1"), ("seed", "2")])[0].seed == 2


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("finetune.learning_rat", "1", "did you mean config.finetune.learning_rate"),
        ("model.poolin", "mean", "config.model.pooling"),
        ("zzz", "1", "there is no such field"),
        ("data", "x", "there is no such field"),
        ("finetune.optimizer", "adam", "expected one of adamw, nadamw, sgd"),
        ("seed", "1.5", "expected a whole number"),
        ("seed", "", "expected a whole number"),
        ("finetune.learning_rate", "fast", "expected a number"),
        ("model.position_embedding", "perhaps", "expected true or false"),
    ],
)
def test_wrong_overrides_are_told(name: str, text: str, expected: str) -> None:
    config, errors = override(Config(), [(name, text)])
    assert config == Config()
    assert len(errors) == 1
    assert f"config.{name}" in errors[0]
    assert expected in errors[0]


def test_the_home_directory_in_any_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves ~ alone after a =; a file of just that name is meant, if there is one."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    pairs = [("data.categories", "~/names.csv"), ("model.weights", "~/run"), ("data.valid", "")]
    config, errors = override(Config(), pairs)
    assert not errors
    assert config.data.categories == "/home/me/names.csv"
    assert (config.model.weights, config.data.valid) == ("/home/me/run", "")
    (tmp_path / "~").mkdir()
    assert override(Config(), [("model.weights", "~")])[0].model.weights == "~"


def values_of(leaf: Leaf) -> st.SearchStrategy[Any]:
    """Any value of a field's type that a user can write in a flag."""
    if get_origin(leaf.kind) is Literal:
        return st.sampled_from(get_args(leaf.kind))
    plain = st.text().filter(lambda text: not text.startswith("~"))  # the home directory
    item = st.text(min_size=1).filter(lambda text: "," not in text and text == text.strip())
    return {
        bool: st.booleans(),
        int: st.integers(-(10**12), 10**12),
        float: st.floats(allow_nan=False),
        str: plain,
    }.get(leaf.kind, st.lists(item).map(tuple))


@pytest.mark.parametrize("name", leaves())
def test_every_field_is_read_as_it_is_written(name: str) -> None:
    @settings(max_examples=25)
    @given(value=values_of(leaves()[name]))
    def round_trip(value: Any) -> None:
        config, errors = override(Config(), [(name, as_text(value))])
        assert errors == []
        found = flat(config)[name]
        assert found == value
        assert type(found) is type(value)

    round_trip()
