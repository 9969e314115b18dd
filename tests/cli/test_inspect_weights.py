"""`tools/inspect_weights.py`: what a file holds, what it fits, what keeps it from fitting."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from product_mil.cli import inspect_weights
from product_mil.model.registry import backbone
from product_mil.model.weights.published import published_file
from tests.model.weights.test_load import write_keras_file

BATCH_NORM: tuple[str, ...] = ("gamma", "beta", "moving_mean", "moving_variance")


def inspect(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    module = inspect_weights
    monkeypatch.setattr(sys, "argv", ["inspect_weights.py", *map(str, arguments)])
    module.main()


@pytest.fixture(scope="module")
def layers() -> dict[str, dict[str, tuple[int, ...]]]:
    """What Keras' MobileNetV2 holds, with a top of 10 classes."""
    spec = backbone("mobilenet_v2")
    module: Any = spec.build(rngs=nnx.Rngs(0))
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for layer in spec.keras_layers[:-1]:
        node = module
        for part in (layer.path or "").split("."):
            node = node[int(part)] if part.isdigit() else getattr(node, part)
        if layer.kind == "batch_normalization":
            shape: tuple[int, ...] = node.bias.shape
            of = dict.fromkeys(BATCH_NORM, shape)
        elif layer.kind == "depthwise_conv2d":
            of = {"depthwise_kernel": (*node.kernel.shape, 1)}
        else:
            of = {"kernel": node.kernel.shape}
        found[layer.name] = of
    return found | {"predictions": {"kernel": (1280, 10), "bias": (10,)}}


def test_a_whole_file(layers, tmp_path, monkeypatch, capsys):
    path = tmp_path / "net.h5"
    write_keras_file(path, layers)
    inspect(monkeypatch, path, "--backbone", "mobilenet_v2")
    out = capsys.readouterr().out
    assert "  Conv1: kernel (3, 3, 3, 32)\n" in out
    assert "105 layers, 262 tensors, 2,270,794 values" in out
    assert "fits mobilenet_v2, with a top of 10 classes" in out


@pytest.mark.slow
def test_every_backbone_is_tried(layers, tmp_path, monkeypatch, capsys):
    path = tmp_path / "net.h5"
    write_keras_file(path, layers)
    inspect(monkeypatch, path)
    fitting = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fits")]
    assert fitting == ["fits mobilenet_v2, with a top of 10 classes"]
    write_keras_file(path, {name: of for name, of in layers.items() if name != "Conv1"})
    inspect(monkeypatch, path)
    assert "fits no backbone; --backbone NAME lists what differs" in capsys.readouterr().out


def test_what_differs_and_foreign_files(layers, tmp_path, monkeypatch, capsys):
    path = tmp_path / "net.h5"
    write_keras_file(path, {name: of for name, of in layers.items() if name != "Conv1"})
    inspect(monkeypatch, path, "--backbone", "mobilenet_v2")
    assert (
        "does not fit mobilenet_v2: 1 missing: Conv1/kernel (3, 3, 3, 32)"
        in capsys.readouterr().out
    )
    other = tmp_path / "other.safetensors"
    save_file({"a.weight": np.zeros((2, 3), np.float32), "a.bias": np.zeros(2, np.float32)}, other)
    inspect(monkeypatch, other, "--backbone", "convnext_tiny")
    out = capsys.readouterr().out
    assert "  a: bias (2,), weight (2, 3)\n1 layers, 2 tensors, 8 values" in out
    assert "does not fit convnext_tiny: 180 missing" in out
    path.write_bytes(b"\x80\x04K\x01.")
    for file in (path, tmp_path / "absent.h5"):
        with pytest.raises(SystemExit):
            inspect(monkeypatch, file)
        assert str(file) in capsys.readouterr().err


def test_the_packaged_file_by_name_and_by_path(tmp_path, monkeypatch, capsys):
    inspect(monkeypatch, "imagenet", "--backbone", "efficientnet_lite0")
    by_name = capsys.readouterr().out
    assert "  _conv_stem: kernel" not in by_name  # names and axes are the file's own
    assert "  _conv_stem: weight (32, 3, 3, 3)\n" in by_name
    assert "247 tensors, 4,694,024 values" in by_name
    assert "fits efficientnet_lite0, with the ImageNet top" in by_name
    copy = tmp_path / "mine.pth"
    copy.write_bytes(published_file(backbone("efficientnet_lite0"), with_top=True).read_bytes())
    inspect(monkeypatch, copy, "--backbone", "efficientnet_lite0")
    assert capsys.readouterr().out == by_name
    with pytest.raises(SystemExit):
        inspect(monkeypatch, "imagenet")
    assert "imagenet: say whose published file with one --backbone" in capsys.readouterr().err
