"""`tools/export_embeddings.py` with real weights and photos, where they are."""

import sys
import warnings
from pathlib import Path
from typing import Any

import bson
import jax
import numpy as np
import pytest
from flax import nnx

from product_mil.cli import export_embeddings
from product_mil.data.decode import decode_into
from product_mil.model.registry import backbone
from product_mil.model.weights.load import load_weights
from tests.model import keras_files


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    module = export_embeddings
    monkeypatch.setattr(sys, "argv", ["export_embeddings.py", *map(str, arguments)])
    module.main()


@pytest.mark.slow
def test_rows_are_readable_images_in_file_order(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = next((shared / "weights").glob("mobilenet_v2*no_top.h5"))
    records = bson.decode_all((shared / "data/grocery/val.bson").read_bytes())[:3]
    records[1]["imgs"].insert(1, {"picture": b"no picture"})
    data, output = tmp_path / "some.bson", tmp_path / "emb.npz"
    data.write_bytes(b"".join(map(bson.encode, records)))
    export(
        monkeypatch, "--backbone", "mobilenet_v2", "--weights", weights, "--data", data,
        "--output", output, "--image_size_px", "96",
    )  # fmt: skip
    with np.load(output, allow_pickle=False) as found:
        columns = {name: found[name] for name in found.files}
    wanted = [
        (record["_id"], index, image["picture"])
        for record in records
        for index, image in enumerate(record["imgs"])
        if image["picture"] != b"no picture"
    ]
    assert columns["product_id"].tolist() == [product for product, _, _ in wanted]
    assert columns["image_index"].tolist() == [index for _, index, _ in wanted]
    listed = (tmp_path / "emb.npz.bad_records.csv").read_text().splitlines()
    assert len(listed) == 2
    assert f",{records[1]['_id']},1," in listed[1]

    spec = backbone("mobilenet_v2")
    net = spec.build(rngs=nnx.Rngs(0))
    load_weights(net, spec, Path(weights))
    pixels = np.zeros((len(wanted), 96, 96, 3), np.uint8)
    for k, (_, _, picture) in enumerate(wanted):
        decode_into(picture, pixels[k])
    structure, state = nnx.split(net)
    embed = jax.jit(lambda s, x: nnx.merge(structure, s)(x, use_running_statistics=True))
    expected = np.asarray(embed(state, pixels))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(columns["embedding"], expected, atol=2e-5 * scale)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
@pytest.mark.parametrize("name", ["convnext_tiny", "mobilenet_v2"])
def test_it_exports_what_keras_embeds(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights in the published layout, real photos; test_parity.py has all backbones."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras: Any = pytest.importorskip("keras", reason="pip install -e .[test]")
    records = bson.decode_all((shared / "data/grocery/val.bson").read_bytes())[:3]
    data, output = tmp_path / "some.bson", tmp_path / "emb.npz"
    data.write_bytes(b"".join(map(bson.encode, records)))
    pictures = [image["picture"] for record in records for image in record["imgs"]]
    pixels = np.zeros((len(pictures), 96, 96, 3), np.uint8)
    for picture, place in zip(pictures, pixels, strict=True):
        decode_into(picture, place)
    with jax.numpy_rank_promotion("allow"):  # Keras adds vectors to tensors
        net = keras_files.build(keras, name)
        weights = keras_files.save_as_published(keras, net, tmp_path / "weights.h5")
        if name == "mobilenet_v2":  # Keras pads this one by the size that it is built for
            net = keras_files.fixed_size(keras, net, 96)
        outputs = jax.jit(lambda x: net(x, training=False))(keras_files.scaled(name, pixels))
        wanted = np.asarray(outputs[0] if isinstance(outputs, list) else outputs)
    export(
        monkeypatch, "--backbone", name, "--weights", weights, "--data", data,
        "--output", output, "--image_size_px", "96",
    )  # fmt: skip
    with np.load(output, allow_pickle=False) as found:
        got = found["embedding"]
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.abs(got[0] - got[1]).max() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--weights": "nowhere.h5"}, "nowhere.h5: no such file"),
        ({"--backbone": "inception_v9"}, "inception_v9"),
        ({"--data": "nowhere.bson"}, "nowhere.bson: no such file"),
        ({"--output": "no/such/emb.npz"}, "there is no directory"),
        ({"--output": "."}, "give it a name"),
        ({"--output": ".."}, "is a directory"),
    ],
)
def test_mistakes_are_one_line(
    change: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "w.h5").touch()
    (tmp_path / "d.bson").touch()
    monkeypatch.chdir(tmp_path)
    arguments = {
        "--backbone": "mobilenet_v2",
        "--weights": "w.h5",
        "--data": "d.bson",
        "--output": "emb.npz",
    }
    with pytest.raises(SystemExit) as exit_info:
        export(monkeypatch, *[x for pair in (arguments | change).items() for x in pair])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "emb.npz").exists()
