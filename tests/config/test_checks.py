"""Values that are refused."""

import dataclasses
import math
import pickle

import pytest

from product_mil.config import (
    Config,
    DataConfig,
    StageConfig,
    override,
    problems,
    refuse,
)
from product_mil.config.leaves import leaves
from product_mil.config.overrides import as_text
from product_mil.errors import UserError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.valid_fraction", "0"),
        ("data.valid_fraction", "1"),
        ("data.shards", "0"),
        ("data.max_images", "0"),
        ("data.max_products", "-1"),
        ("data.image_size_px", "16"),
        ("data.threads", "-1"),
        ("data.sample_seed", "-1"),
        ("data.sample_seed", str(2**63)),
        ("seed", "-1"),
        ("seed", str(2**63)),
        ("model.dropout", "1"),
        ("model.attention_heads", "0"),
        ("model.attention_dim", "0"),
        ("checkpoint_every_s", "0"),
        ("finetune.epochs", "-2"),
        ("finetune.epochs", "-1"),
        ("finetune.learning_rate", "0"),
        ("finetune.learning_rate", "nan"),
        ("finetune.warmup_fraction", "1"),
        ("finetune.weight_decay", "-1"),
        ("finetune.clip_norm", "-1"),
        ("finetune.label_smoothing", "1"),
        ("finetune.attention_weighted_from", "1.1"),
        ("finetune.ema_decay", "1"),
        ("finetune.ema_memory", "1.5"),
        ("finetune.learning_rate_decay", "0"),
        ("finetune.learning_rate_decay", "1.1"),
        ("finetune.min_epochs", "0"),
        ("finetune.patience_evaluations", "-1"),
        ("finetune.images_per_batch", "0"),
        ("finetune.images_per_batch", "130"),
        ("finetune.images_per_batch", "8"),
        ("head.batch_statistics", "true"),
    ],
)
def test_each_wrong_value_is_refused(name: str, text: str) -> None:
    base = dataclasses.replace(Config(), finetune=StageConfig(epochs=1))
    assert problems(base) == []
    config, errors = override(base, [(name, text)])
    assert errors == []
    found = problems(config)
    assert len(found) == 1
    assert name.split(".", maxsplit=1)[0] in found[0]


def test_all_problems_in_one_screen() -> None:
    config, wrong = override(Config(), [("data.shards", "0"), ("zzz", "1"), ("seed", "-3")])
    with pytest.raises(UserError) as caught:
        refuse(wrong + problems(config))
    text = str(caught.value)
    for part in ("config.zzz", "config.data.shards=0", "config.seed=-3"):
        assert part in text
    refuse([])


def test_the_message_says_what_is_wanted() -> None:
    data = DataConfig(valid_fraction=1.0, image_size_px=16)
    object.__setattr__(data, "shards", "four")  # jaxtyping, in tests, lets no constructor do it
    config = Config(
        seed=-1,
        data=data,
        model=dataclasses.replace(Config().model, dropout=1.0),
        finetune=StageConfig(learning_rate=math.nan, learning_rate_decay=0.0),
    )
    assert problems(config) == [
        "config.seed=-1: must be from 0 to 9223372036854775807",
        "config.data.valid_fraction=1.0: must be above 0 and below 1",
        "config.data.image_size_px=16: must be from 32 to 2048",
        "config.data.shards=four: expected a whole number",
        "config.model.dropout=1.0: must be at least 0 and below 1",
        "config.finetune.learning_rate=nan: must be above 0",
        "config.finetune.learning_rate_decay=0.0: must be above 0 and at most 1",
    ]


@pytest.mark.parametrize("name", leaves())
def test_the_ends_of_every_bound(name: str) -> None:
    """A value at a closed end is right, one at an open end or beyond either is wrong."""
    leaf = leaves()[name]
    just = 1 if leaf.kind is int else 1e-9
    for bound, right in (("ge", True), ("le", True), ("gt", False), ("lt", False)):
        if bound in leaf.metadata:
            end = leaf.kind(leaf.metadata[bound])
            outside = end - just if bound in ("ge", "gt") else end + just
            inside = end + just if bound in ("ge", "gt") else end - just
            for value, fits in ((end, right), (outside, False), (inside, True)):
                config, errors = override(Config(), [(name, as_text(value))])
                assert errors == []
                lines = [line for line in problems(config) if f"must be {leaf.bounds}" in line]
                refused = [line for line in lines if line.startswith(f"config.{name}=")]
                assert (refused == []) is fits, (value, bound)


def test_what_a_configuration_is_in_python() -> None:
    """Frozen, hashable, equal by value, and the same after pickling."""
    config, _ = override(Config(), [("data.drop_images_md5", "a,b"), ("seed", "3")])
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(dataclasses.replace(config)) == hash(config)
    assert dataclasses.replace(config, seed=4) != config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4  # type: ignore[misc]
