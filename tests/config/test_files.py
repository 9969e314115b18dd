"""The files in configs/, and those that a user writes."""

import os
from pathlib import Path

import pytest

from product_mil.config import (
    AugmentConfig,
    flat,
    load_config,
    problems,
)
from product_mil.errors import UserError
from product_mil.files.package import packaged_configurations
from product_mil.model.registry import backbone, blocks_of
from tests.scripts import ROOT

CONFIGS = ROOT / "configs"
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


def test_unknown_files_and_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a configuration: --config=joint, or a file"):
        load_config("")
    with pytest.raises(UserError, match="there is no file"):
        load_config("configs/nowhere.py")
    with pytest.raises(UserError, match=r"no variant ':foo' .*; there are ':frozen'.*':smoke'"):
        load_config(f"{JOINT}:foo")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="defines no get_config"):
        load_config(str(tmp_path / "empty.py"))
    (tmp_path / "wrong.py").write_text("def get_config(argument):\n    return 3\n")
    with pytest.raises(UserError, match="returned int"):
        load_config(str(tmp_path / "wrong.py"))
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    with pytest.raises(UserError, match=r"needy\.py: No module named 'no_such_package'$"):
        load_config(str(tmp_path / "needy.py"))


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
    with pytest.raises(UserError, match=r"there is no variant ':no-such'"):
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
