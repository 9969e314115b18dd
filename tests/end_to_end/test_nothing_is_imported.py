"""What a run, a prediction file or a weights file names is never imported, nor unpickled."""

import importlib
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import nnx

import product_mil
from product_mil.model.registry import backbone
from product_mil.model.weights.load import load_weights
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool

MODULE = "a_module_that_is_named"  # nothing else has this name
KEYS = ("module", "__module__", "class_name", "registered_name", "_target_", "py/object", "handler")


class Payload:
    """Imports the module when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return importlib.import_module, (MODULE,)


OBJECTS = np.array([Payload()], object)


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module on the path, which must not be imported while a test runs."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / f"{MODULE}.py").write_text("class Named:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    yield
    assert sys.modules.pop(MODULE, None) is None


def test_an_import_would_be_noticed(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", OBJECTS)
    np.load(tmp_path / "objects.npy", allow_pickle=True)
    assert sys.modules.pop(MODULE).Named


def named(node: Any, path: tuple[str, ...] = ()) -> Any:
    """JSON in which every text names the class, and every object has keys that name it too."""
    if isinstance(node, dict):
        inner = {key: named(value) for key, value in node.items()}
        return {**inner, **dict.fromkeys(KEYS, f"{MODULE}.Named")}
    if isinstance(node, list):
        return [named(value) for value in node]
    return f"{MODULE}.Named" if isinstance(node, str) else node


def added(node: Any) -> Any:
    """JSON as it was, but for keys that name the class in every object."""
    if isinstance(node, dict):
        inner = {key: added(value) for key, value in node.items()}
        return {**dict.fromkeys(KEYS, f"{MODULE}.Named"), **inner}
    return [added(value) for value in node] if isinstance(node, list) else node


def json_files(directory: Path) -> list[Path]:
    found = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with suppress(ValueError):
            json.loads(path.read_bytes())
            found.append(path)
    return found


def use(workdir: Path, sample: SampleFiles, output: Path) -> None:
    """Predict with a run, in memory and with the command; how that ends is another test's."""
    with suppress(Exception):
        product_mil.load(workdir).predict([[]])
    with suppress(SystemExit):
        call_tool(
            "export_predictions", "--workdir", workdir, "--data", sample.train,
            "--output", output / "s.csv", "--min_confidence", 0.5,
        )  # fmt: skip


@pytest.mark.slow  # opens a run for each of its files
@pytest.mark.parametrize("change", [named, added])
def test_a_run(
    change: Callable[[Any], Any], trained: Path, sample: SampleFiles, tmp_path: Path
) -> None:
    files = [path.relative_to(trained) for path in json_files(trained)]
    assert {path.name for path in files} >= {"config.json", "run.json", "_CHECKPOINT_METADATA"}
    for name in files:
        workdir = shutil.copytree(trained, tmp_path / "run")
        for digests in workdir.rglob("xxh3_128.txt"):
            digests.unlink()  # read as a checkpoint of older versions, whatever is in it
        content = json.loads((workdir / name).read_bytes())
        (workdir / name).write_text(json.dumps(change(content)))
        use(workdir, sample, tmp_path)
        shutil.rmtree(workdir)


@pytest.mark.parametrize("change", [named, added])
def test_a_pretrained_directory(
    change: Callable[[Any], Any], trained: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    product_mil.load(trained).save_pretrained(directory)
    content = json.loads((directory / "config.json").read_bytes())
    (directory / "config.json").write_text(json.dumps(change(content)))
    with suppress(Exception):
        product_mil.load(directory).predict([[]])
    ours = {"library_name": "product_mil", "format": 1}
    (directory / "config.json").write_text(json.dumps(change(content) | ours))
    with suppress(Exception):
        product_mil.load(directory).predict([[]])
    (directory / "model.safetensors").write_bytes(pickle.dumps(OBJECTS))
    with pytest.raises(product_mil.UserError):
        product_mil.load(directory)


@pytest.mark.parametrize("field", ["backbone", "weights", "pooling", "head_init"])
def test_a_net_that_a_configuration_names(field: str, trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    content = json.loads((workdir / "config.json").read_text())
    for name in (MODULE, f"{MODULE}.Named", f"{MODULE}:Named"):
        content["model"][field] = name
        (workdir / "config.json").write_text(json.dumps(content))
        with suppress(Exception):
            product_mil.load(workdir)


@pytest.mark.slow
def test_arrays_of_a_run(trained: Path, sample: SampleFiles, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    np.savez(workdir / "products.npz", trained=OBJECTS, validated=OBJECTS)
    use(workdir, sample, tmp_path)
    with suppress(SystemExit):
        call_tool("evaluate", "--workdir", workdir, "--data", sample.train)


class Pickled(pa.ExtensionType):
    """A type as pyarrow once wrote it: a file names its class, by a pickle."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "arrow.py_extension_type")

    def __arrow_ext_serialize__(self) -> bytes:
        return pickle.dumps(Payload())

    @classmethod
    def __arrow_ext_deserialize__(cls, *_: object) -> "Pickled":
        return cls()


# What pyarrow before 21 says of the pickle that it leaves alone.
@pytest.mark.filterwarnings("ignore:pickle-based deserialization")
@pytest.mark.filterwarnings("ignore:pyarrow.PyExtensionType is deprecated")
def test_prediction_files(sample: SampleFiles, tmp_path: Path) -> None:
    labels = pa.ExtensionArray.from_storage(Pickled(), pa.array([1, 2], pa.int64()))
    pandas = json.dumps({"columns": [], "creator": {"library": MODULE}, "index_columns": []})
    table = pa.table({"product_id": labels, "top_category_id": [[1], [1]]})
    table = table.replace_schema_metadata({"pandas": pandas, "product_mil": named_text()})
    pq.write_table(table, tmp_path / "top.parquet")
    (tmp_path / "matrix").mkdir()
    for name in ("probabilities", "category_ids", "ids"):
        np.save(tmp_path / "matrix" / f"{name}.npy", OBJECTS)
    (tmp_path / "matrix" / "about.json").write_text(named_text())
    np.save(tmp_path / "single.npy", OBJECTS)
    for name in ("top.parquet", "matrix", "matrix/probabilities.npy", "single.npy"):
        with suppress(SystemExit):
            call_tool("evaluate", "--predictions", tmp_path / name, "--data", sample.train)
        with suppress(SystemExit):
            call_tool(
                "ensemble", "--predictions", tmp_path / name, tmp_path / name,
                "--output", tmp_path / "s.csv",
            )  # fmt: skip


def named_text() -> str:
    return json.dumps(named({"format": "1", "categories": ["a"]}))


def test_weights_files(tmp_path: Path) -> None:
    net = backbone("mobilenet_v2")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        config = {"class_name": "Lambda", "config": {"module": MODULE, "function": MODULE}}
        file.attrs["model_config"] = json.dumps(named(config))
        file.attrs["layer_names"] = np.array([MODULE.encode()])
        file.create_group(MODULE).attrs["weight_names"] = np.array([], "S9")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(OBJECTS))
    (tmp_path / "w.h5.pickle").write_bytes(pickle.dumps(Payload(), protocol=0))
    module = net.build(rngs=nnx.Rngs(0))
    for path in tmp_path.glob("w.*"):
        with pytest.raises(product_mil.UserError):
            load_weights(module, net, path)
