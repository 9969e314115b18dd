import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from product_mil.config import (
    AugmentConfig,
    Config,
    DataConfig,
    StageConfig,
    config_from_dict,
    differences,
    flat,
    load_config,
    override,
    refuse,
)
from product_mil.errors import UserError
from product_mil.files.package import packaged_configurations
from product_mil.model.registry import backbone, blocks_of
from product_mil.runs.limits import problems
from product_mil.runs.schedule import average_decay, stage_num_steps

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
JOINT = str(CONFIGS / "joint.py")


def arguments(file: str = JOINT) -> list[str]:
    """Those that a file in configs/ knows, from its own error message."""
    with pytest.raises(UserError) as caught:
        load_config(f"{file}:no-such")
    return ["", *(part.strip("', :") for part in str(caught.value).split("':")[2:])]


def test_every_configuration_is_valid() -> None:
    assert len(arguments()) >= 2
    for file in CONFIGS.glob("*.py"):
        for argument in arguments(str(file)):
            assert problems(load_config(f"{file}:{argument}")) == []


def test_what_a_user_runs_is_attention_over_a_pretrained_net() -> None:
    loaded = {argument: load_config(f"{JOINT}:{argument}") for argument in arguments()}
    assert set(loaded) == {"", "frozen", "laptop", "cdiscount", "scratch", "smoke"}
    assert {config.model.pooling for config in loaded.values()} == {"posterior_attention"}
    nets = {
        argument: (config.model.backbone, config.model.weights)
        for argument, config in loaded.items()
    }
    packaged, scratch = ("efficientnet_lite0", "imagenet"), ("small_cnn", "")
    assert nets == {
        "": packaged,
        "frozen": packaged,
        "laptop": packaged,
        "cdiscount": ("inception_v3", "imagenet"),
        "scratch": scratch,
        "smoke": scratch,
    }
    sample, frozen = loaded[""], loaded["frozen"]
    assert sample.head.trainable == frozen.head.trainable == "head"  # on cached embeddings
    assert sample.data.embedding_cache
    assert frozen.data.embedding_cache
    blocks = blocks_of(backbone("efficientnet_lite0"))
    assert sample.finetune.epochs > 0
    assert blocks[blocks.index(sample.finetune.trainable) :] == ("blocks/15", "last", "last_norm")
    assert frozen.finetune.epochs == 0
    laptop = loaded["laptop"]  # the head on cached embeddings, then the net on changed images
    assert laptop.head == frozen.head
    assert laptop.data.embedding_cache
    assert laptop.head.augment == AugmentConfig()
    assert laptop.finetune.epochs != 0
    assert laptop.finetune.augment.flip > 0
    assert laptop.finetune.trainable in blocks
    for file in ("inception_v3", "xception"):
        for argument in ("joint", "unlocked_joint"):
            joint = load_config(f"{CONFIGS / file}.py:{argument}")
            assert joint.model.pooling == "posterior_attention"


def test_averaged_differs_from_joint_in_pooling_and_name_only() -> None:
    for argument in arguments():
        joint = flat(load_config(f"{JOINT}:{argument}"))
        averaged = flat(load_config(f"{CONFIGS / 'averaged.py'}:{argument}"))
        different = {key for key in joint if joint[key] != averaged[key]}
        assert different == {"name", "model.pooling"}
        assert averaged["model.pooling"] == "probabilities"
        assert averaged["name"] not in ("", joint["name"])


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
        ("seed", "-1"),
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


def test_unknown_files_and_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_config("configs/nowhere.py")
    with pytest.raises(UserError, match=r"unknown config argument ':foo'.*none.*':smoke'"):
        load_config(f"{JOINT}:foo")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="defines no get_config"):
        load_config(str(tmp_path / "empty.py"))
    (tmp_path / "wrong.py").write_text("def get_config(argument):\n    return 3\n")
    with pytest.raises(UserError, match="returned int"):
        load_config(str(tmp_path / "wrong.py"))


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


def test_a_stage_by_steps_takes_whole_epochs_and_at_least_ten() -> None:
    stage = StageConfig(epochs=-1, steps=2000)
    assert stage_num_steps(stage, 11) == 182 * 11
    assert stage_num_steps(stage, 700) == 7000
    assert stage_num_steps(StageConfig(epochs=3, steps=2000), 11) == 33
    assert stage_num_steps(StageConfig(epochs=-1, steps=2000, min_epochs=4), 700) == 2800


def test_stochastic_depth_where_it_would_change_nothing_is_refused_in_a_line() -> None:
    from product_mil.runs.check import check_config

    def told(backbone: str, **fields: object) -> list[str]:
        model = dataclasses.replace(Config().model, backbone=backbone, stochastic_depth=0.1)
        config = dataclasses.replace(Config(), model=model, finetune=StageConfig(epochs=1))
        return check_config(dataclasses.replace(config, **fields))

    assert told("convnext_tiny") == []
    (line,) = told("mobilenet_v2")
    assert line == (
        "config.model.stochastic_depth=0.1: mobilenet_v2 has none, convnext_tiny and "
        "efficientnet_v2_s do; set it to 0"
    )
    (line,) = told(
        "efficientnet_v2_s", head=StageConfig(epochs=1, trainable="head"), finetune=StageConfig()
    )
    assert "is for training the backbone, which no stage does here" in line
    wrong = dataclasses.replace(Config().model, stochastic_depth=1.0)
    assert any(
        line == "config.model.stochastic_depth=1.0: must be at least 0 and below 1"
        for line in problems(dataclasses.replace(Config(), model=wrong))
    )


def test_heads_and_settings_that_do_not_go_together_are_refused_in_a_line() -> None:
    from product_mil.runs.check import check_config

    def told(**fields: Any) -> list[str]:
        model = dataclasses.replace(Config().model, **fields)
        return check_config(Config(model=model, finetune=StageConfig(epochs=1)))

    assert told(pooling="transformer", attention_heads=8, position_embedding=True) == []
    assert told(pooling="mean", attention_heads=4, count_embedding=True) == []
    assert told(pooling="mean", attention_heads=8) == [
        "config.model.attention_heads=8: mean has no such setting, it belongs to "
        "gated_attention, transformer; leave it at 4"
    ]
    assert told(pooling="probabilities", position_embedding=True) == [
        "config.model.position_embedding=True: probabilities has no such setting, it belongs to "
        "mean, max, gated_attention, transformer, residual, posterior_attention; leave it at False"
    ]
    assert told(attention_heads=7) == [
        "config.model.attention_heads=7: does not divide the 192 channels of small_cnn"
    ]
    (line,) = told(pooling="median")
    assert line.startswith("config.model.pooling: head 'median' is not known; choose one of prob")
    assert len(told(pooling="median", backbone="vgg")) == 2
    assert check_config(Config()) == [
        "config.head.epochs=0 and config.finetune.epochs=0: nothing to train"
    ]


def test_a_stage_is_no_longer_than_its_bound() -> None:
    assert stage_num_steps(StageConfig(epochs=3, max_steps=20), 11) == 20
    assert stage_num_steps(StageConfig(epochs=3, max_steps=40), 11) == 33
    assert stage_num_steps(StageConfig(epochs=-1, steps=2000, max_steps=7), 700) == 7


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("12:30:00/joint.py", "smoke"),
        ("12:30:00/joint.py", ""),
        ("a:b.py", "smoke"),
        ("joint.py:smoke", ""),
        ("joint.py:smoke", "smoke"),
        ("[x] y/é,~.py", "smoke"),
        ("joint.py", "one:two/three"),
    ],
)
def test_colons_in_the_path_of_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, argument: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if not name.endswith(".py"):  # Python takes no other ending; beside it lies one that it takes
        (tmp_path / "joint.py").write_text("raise SystemExit")
    file.write_text(
        "from product_mil.config import Config\n\n\n"
        "def get_config(argument):\n    return Config(name='of ' + argument)\n"
    )
    monkeypatch.chdir(tmp_path)
    for path in (name, str(file)):
        spec = f"{path}:{argument}" if argument else path
        if name.endswith(".py"):
            assert load_config(spec).name == f"of {argument}"
        else:
            with pytest.raises(UserError, match=f"{name} is not a Python file"):
                load_config(spec)


def test_a_bare_name_is_a_configuration_that_comes_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("joint", "joint.py", "mine.py"):
        (tmp_path / name).write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    names = sorted(path.stem for path in CONFIGS.glob("*.py"))
    assert list(packaged_configurations()) == names
    for name in names:
        assert load_config(f"{name}:smoke") == load_config(f"{CONFIGS / name}.py:smoke")
    assert load_config("joint") == load_config("joint:") == load_config(JOINT)
    with pytest.raises(UserError, match=r"unknown config argument ':no-such'"):
        load_config("joint:no-such")
    for spec in ("mine", "mine:smoke", "x" * 300):
        with pytest.raises(UserError, match="no configuration of this name") as error:
            load_config(spec)
        assert str(error.value).endswith(
            f"there are {', '.join(names)}. A file of your own ends in .py"
        )
    with pytest.raises(SystemExit):
        load_config("joint.py")  # the file beside us, not the one of that name that comes along


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ("12:30:00/none.py:smoke", "12:30:00/none.py"),
        ("12:30:00/none.py", "12:30:00/none.py"),
        ("none.py:smoke", "none.py"),
        ("none.py", "none.py"),
        (":smoke", "."),
    ],
)
def test_a_missing_configuration_is_named_whole(spec: str, missing: str) -> None:
    with pytest.raises(UserError, match=f"there is no file {missing} in |is a directory"):
        load_config(spec)


def test_what_is_no_configuration_is_told(tmp_path: Path) -> None:
    for name, data, message in (
        ("page.py", b"<!DOCTYPE html><html>", "is an HTML page, no Python file; perhaps"),
        ("dump.py", b"\x0e\0\0\0\x10_id\0\1\0\0\0\0", "is a BSON dump of MongoDB, no Python file"),
        ("empty.py", b"", "is empty, no Python file"),
        ("typo.py", b"def get_config(argument):\n    return (\n", r"typo\.py:2: '\(' was never"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            load_config(f"{tmp_path / name}:smoke")
        assert "\n" not in str(error.value)
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(UserError, match="is a pipe, no Python file"):
        load_config(str(tmp_path / "pipe.py"))
    with pytest.raises(UserError, match="is a directory, no Python file"):
        load_config(str(tmp_path))
    with pytest.raises(UserError, match="File name too long"):
        load_config("x" * 300 + ".py")


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


def test_an_average_reaches_back_over_a_share_of_the_stage() -> None:
    assert average_decay(StageConfig(ema_memory=0.25), 400) == pytest.approx(0.99)
    assert average_decay(StageConfig(ema_memory=0.25), 40_000) == pytest.approx(0.9999)
    assert average_decay(StageConfig(ema_memory=0.25), 2) == 0  # shorter than a step: none
    assert average_decay(StageConfig(ema_decay=0.9), 400) == 0.9
    both = Config(finetune=StageConfig(epochs=1, ema_decay=0.9, ema_memory=0.1))
    assert "set one of them to 0" in " ".join(problems(both))
