"""A pretrained directory is the run that it was written from; what is none is refused in a line."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import product_mil
from product_mil.errors import UserError
from product_mil.heads import HeadSpec, register
from product_mil.model.classifier import Model
from product_mil.model.heads import pooled
from product_mil.model.registry import HEADS
from product_mil.runs.exporting import export_model
from product_mil.runs.model import build_model
from product_mil.runs.model_card import CardFacts
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun
from product_mil.runs.warm_start import warm_start
from product_mil.sources.categories import Categories
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import ROOT, call_tool


@pytest.fixture(scope="module")
def run(trained: Path) -> TrainedRun:
    return open_run(trained)


@pytest.fixture(scope="module")
def written(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "joint"
    export_model(run, directory, CardFacts())
    return directory


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "joint")


def test_it_is_the_run(run: TrainedRun, written: Path) -> None:
    opened = open_run(written)
    for part in ("parameters", "statistics"):
        ours, theirs = getattr(opened.model, part), getattr(run.model, part)
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype
            assert np.asarray(array).tobytes() == np.asarray(theirs[name]).tobytes()
    assert opened.categories.ids.tolist() == run.categories.ids.tolist()
    assert opened.categories.names == run.categories.names
    assert opened.log_prior.tolist() == run.log_prior.tolist()
    assert opened.temperature == run.temperature is not None
    assert opened.record | {"config": {}} == run.record | {"config": {}}
    assert (opened.stage, opened.step) == (run.stage, run.step)
    assert {path.name for path in written.iterdir()} == {
        "README.md", "config.json", "model.safetensors"
    }  # fmt: skip


def test_data_that_it_names_are_not_opened(
    written: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger may have written the name: of a file, or of a database that would be asked."""
    path = copy / "config.json"
    stranger = json.loads(path.read_text())
    stranger["run"]["config"]["data"]["train"] = "mongodb://stranger/shop.products"
    path.write_text(json.dumps(stranger))

    def opened(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("product_mil.runs.known_products.build_data", opened)
    monkeypatch.setattr("product_mil.runs.known_products._data_of", opened)
    for directory in (written, copy):
        data, reason = open_run(directory).data()
        assert data is None
        assert "does not say where" in reason


def test_it_can_be_written_again(written: Path, tmp_path: Path) -> None:
    export_model(open_run(written), tmp_path / "joint", CardFacts())
    assert contents(tmp_path / "joint") == contents(written)


def test_no_directory_of_this_machine_is_named(run: TrainedRun, written: Path) -> None:
    weights = dataclasses.replace(
        run.config.model, weights="/home/me/w.h5", head_init="/home/a.csv"
    )
    place = written.with_name("another")
    export_model(
        dataclasses.replace(run, config=dataclasses.replace(run.config, model=weights)),
        place, CardFacts(),
    )  # fmt: skip
    for directory in (written, place):
        for name in ("config.json", "README.md"):
            text = (directory / name).read_text("utf-8")
            assert str(Path(run.config.data.train).parent) not in text
            assert "/home" not in text
    config = open_run(place).config
    assert (config.data.train, config.data.categories) == ("train.bson", "category_names.csv")
    assert (config.model.weights, config.model.head_init) == ("w.h5", "a.csv")
    others = dataclasses.replace(config, data=run.config.data, model=run.config.model)
    assert others == run.config


IN_ANOTHER_PROCESS = """
import json, sys

class NoOrbax:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("orbax", "tensorstore"):
            raise ImportError(name)

sys.meta_path.insert(0, NoOrbax())
directory, data, output = sys.argv[1:]
import bson, numpy as np
import product_mil
records = bson.decode_all(open(data, "rb").read())[:20]
products = [[image["picture"] for image in record["imgs"]] for record in records]
np.save(f"{output}/proba.npy", product_mil.load(directory).predict_proba(products))
from product_mil.cli.export_predictions import main
main(["--workdir", directory, "--data", data, "--output", f"{output}/s.csv",
      "--all_probabilities", f"{output}/matrix", "--min_confidence", "0.5"])
assert not {"orbax", "tensorstore"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_another_process_without_orbax_gives_the_same_bits(
    trained: Path, written: Path, sample: SampleFiles, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, written, sample.train, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    records = bson.decode_all(sample.train.read_bytes())[:20]
    products = [[image["picture"] for image in record["imgs"]] for record in records]
    wanted = product_mil.load(trained).predict_proba(products)
    assert np.load(tmp_path / "proba.npy").tobytes() == wanted.tobytes()
    call_tool(
        "export_predictions", "--workdir", trained, "--data", sample.train,
        "--output", tmp_path / "own.csv", "--all_probabilities", tmp_path / "own",
        "--min_confidence", 0.5,
    )  # fmt: skip
    for theirs, ours in (
        ("s.csv", "own.csv"), ("s.csv.levels.csv", "own.csv.levels.csv"),
        ("matrix/probabilities.npy", "own/probabilities.npy"),
    ):  # fmt: skip
        assert (tmp_path / theirs).read_bytes() == (tmp_path / ours).read_bytes()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_json(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values))


def change_run(directory: Path, **values: Any) -> None:
    run = json.loads((directory / "config.json").read_text("utf-8"))["run"]
    change_json(directory, run=run | values)


def change_tensors(directory: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def spoil(tensors: dict[str, np.ndarray]) -> None:
    tensors["head/classify/kernel"][3, 4] = np.nan


BIAS = "head/classify/bias"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda d: cut(d / "model.safetensors"), "model.safetensors: not a whole"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "a page": (
        lambda d: (d / "model.safetensors").write_text("<!DOCTYPE html><html></html>"),
        "model.safetensors: not a whole safetensors file",
    ),
    "a pointer": (
        lambda d: (d / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
        "a pointer of Git LFS, not the file; run git lfs pull",
    ),
    "a tensor less": (
        lambda d: change_tensors(d, lambda t: t.pop(BIAS)), f"missing: {BIAS}; get the directory"
    ),
    "a tensor more": (
        lambda d: change_tensors(d, lambda t: t.update(more=t[BIAS])), "unused: more"
    ),
    "another shape": (
        lambda d: change_tensors(d, lambda t: t.update({BIAS: t[BIAS][1:]})),
        rf"{BIAS}: \(28,\) where the model has \(29,\)",
    ),
    "another type": (
        lambda d: change_tensors(d, lambda t: t.update({BIAS: t[BIAS].astype(np.float64)})),
        f"{BIAS}: float64 where the model has float32",
    ),
    "NaN": (lambda d: change_tensors(d, spoil), "head/classify/kernel holds NaN"),
    "weights of another run": (
        lambda d: change_tensors(d, lambda t: t.update({BIAS: t[BIAS] + 1})),
        "is not the file that .*config.json was written with; get",
    ),
    "no description": (lambda d: (d / "config.json").unlink(), "config.json: no such file"),
    "cut description": (lambda d: cut(d / "config.json"), "config.json is damaged .*; get"),
    "a list": (lambda d: (d / "config.json").write_text("[]"), "config.json is damaged"),
    "of another library": (
        lambda d: (d / "config.json").write_text('{"architectures": ["BertModel"]}'),
        "config.json was not written by product_mil; name a run, or",
    ),
    "of a later version": (
        lambda d: change_json(d, format=2, version="9.0"),
        "config.json is of format 2, written by product_mil 9.0; .* use that version",
    ),
    "of no format": (lambda d: change_json(d, format="new"), "config.json is of format new"),
    "other counts": (lambda d: change_json(d, class_counts=[1]), "config.json is damaged"),
    "counts of text": (lambda d: change_json(d, class_counts=["a"]), "config.json is damaged"),
    "no categories": (lambda d: change_json(d, categories={}), "config.json is damaged"),
    "an id twice": (
        lambda d: change_json(d, categories={"ids": [1] * 29, "names": [["a"]] * 29}),
        "config.json is damaged .*an id twice",
    ),
    "no step": (lambda d: change_json(d, step="first"), "config.json is damaged .step: "),
    "another stage": (lambda d: change_run(d, stage="last"), r"damaged \(run.stage: .*'finetune'"),
    "metrics of text": (lambda d: change_run(d, validation={"top1": "a"}), "run.validation.top1: "),
    "a setting out of bounds": (
        lambda d: change_run(d, config={"data": {"max_images": -1}, "model": {}}),
        r"damaged \(config.data.max_images=-1: must be at least 1\); get the directory again",
    ),
    "no run": (lambda d: change_json(d, run={}), "config.json is damaged"),
    "another run": (
        lambda d: change_run(d, config={"data": 1}), "joint/config.json: .* of another version"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_refused(name: str, copy: Path) -> None:
    damage, message = DAMAGES[name]
    damage(copy)
    with pytest.raises(UserError, match=message) as refused:
        open_run(copy)
    assert "\n" not in str(refused.value)


def test_ids_of_text_and_names_of_any_script(run: TrainedRun, tmp_path: Path) -> None:
    k = len(run.categories.ids)
    names = [["Küche", "茶", f"Kännchen »{i}« | *groß* <b>"] for i in range(k)]
    ids = [f"商品-{i:02d}" for i in range(k)]
    categories = Categories.from_json(json.dumps({"ids": ids, "names": names}))
    record = {**run.record, "categories": categories.to_json()}
    other = dataclasses.replace(run, categories=categories, record=record)
    export_model(other, tmp_path / "ящик", CardFacts())
    opened = open_run(tmp_path / "ящик")
    assert opened.categories.ids.tolist() == ids
    assert opened.categories.names == categories.names
    assert '"茶"' in (tmp_path / "ящик" / "config.json").read_text("utf-8")


def test_a_head_of_ones_own(run: TrainedRun, tmp_path: Path) -> None:
    (mean,) = (spec for spec in pooled.SPECS if spec.name == "mean")
    register(HeadSpec("mine", mean.build, "as mean does", settings=mean.settings))
    settings = dataclasses.replace(run.config.model, pooling="mine")
    config = dataclasses.replace(run.config, model=settings)
    model, _ = build_model(config, len(run.categories.ids))
    try:
        export_model(dataclasses.replace(run, config=config, model=model), tmp_path / "m",
                     CardFacts())  # fmt: skip
        found = open_run(tmp_path / "m").model.parameters["head/classify/kernel"]
    finally:
        del HEADS["mine"]
    np.testing.assert_array_equal(found, model.parameters["head/classify/kernel"])
    assert "register it with `product_mil.heads.register`" in (tmp_path / "m/README.md").read_text()
    with pytest.raises(UserError, match=r"'mine' is not known.* --import FILE.py.*heads\.register"):
        open_run(tmp_path / "m")


def test_it_starts_another_run(run: TrainedRun, written: Path) -> None:
    settings = dataclasses.replace(run.config.model, weights=str(written))
    fresh, _ = build_model(dataclasses.replace(run.config, model=settings, seed=1), 29)
    model, notes = warm_start(fresh, settings, run.categories, written)
    assert "29 of 29 categories known there" in notes[0]
    assert (
        np.asarray(fresh.parameters[BIAS]).tolist() != np.asarray(model.parameters[BIAS]).tolist()
    )
    for name, array in run.model.parameters.items():
        np.testing.assert_array_equal(model.parameters[name], array)


@pytest.mark.slow
def test_commands_take_it(
    trained: Path, written: Path, sample: SampleFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(tool: str, workdir: Path) -> dict[str, Any]:
        call_tool(tool, "--workdir", workdir, "--data", sample.train, "--json")
        return json.loads(capsys.readouterr().out)

    assert printed("inspect_run", written) == printed("inspect_run", trained)
    ours, theirs = printed("evaluate", written), printed("evaluate", trained)
    assert ours.pop("remarks") != theirs.pop("remarks")  # which products were seen is not known
    assert ours == theirs
    assert ours["products"] == 120


@pytest.mark.slow
def test_it_is_compared_and_combined(
    trained: Path, written: Path, sample: SampleFiles, tmp_path: Path
) -> None:
    call_tool(
        "compare", "--runs", f"run={trained}", f"model={written}", "--data", sample.train,
        "--output", tmp_path / "comparison",
    )  # fmt: skip
    found = json.loads((tmp_path / "comparison" / "comparison.json").read_text("utf-8"))
    assert found["runs"]["run"]["accuracy"] == found["runs"]["model"]["accuracy"]
    assert found["difference"]["run_minus_model"]["value"] == 0
    call_tool(
        "ensemble", "--runs", trained, written, "--data", sample.train,
        "--output", tmp_path / "both.csv",
    )  # fmt: skip
    call_tool(
        "export_predictions", "--workdir", trained, "--data", sample.train,
        "--output", tmp_path / "one.csv",
    )  # fmt: skip
    assert (tmp_path / "both.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_no_run_is_trained_in_it(run: TrainedRun, copy: Path) -> None:
    from product_mil.runs.run import run as train

    before = contents(copy)
    with pytest.raises(UserError, match=r"its config.json is no run's; choose another --workdir"):
        train(run.config, copy)
    assert contents(copy) == before | {"lock": b""}


def test_an_earlier_one_is_replaced_and_nothing_else(run: TrainedRun, copy: Path) -> None:
    (copy.parent / "empty").mkdir()
    for path in (copy, copy.parent / "empty"):
        export_model(run, path, CardFacts(license="mit"))
        assert '\nlicense: "mit"\n' in (path / "README.md").read_text("utf-8")
        open_run(path)

    def edit(place: Path) -> None:
        (place / "README.md").write_text("# Mine\n")

    def add(place: Path) -> None:
        (place / ".git").mkdir()

    for change, said in (
        (edit, "its README.md was changed; name a new directory, or move this one away"),
        (add, "holds other files and is not a model written before"),
    ):
        place = shutil.copytree(copy, copy.parent / change.__name__)
        change(place)
        before = sorted(place.iterdir()), (place / "README.md").read_bytes()
        with pytest.raises(UserError, match=said):
            export_model(run, place, CardFacts())
        assert (sorted(place.iterdir()), (place / "README.md").read_bytes()) == before


def test_places_that_cannot_be_written(run: TrainedRun, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, message in (
        (tmp_path / "file", "is a file: name a directory"),
        (tmp_path / "absent" / "model", "there is no directory .*; make it first"),
        (trained, "holds other files"),
        (trained / "checkpoints" / "model", "belongs to the run"),
        (Path("/proc/model"), "cannot write /proc/model: .*; choose another place"),
    ):
        with pytest.raises(UserError, match=message):
            export_model(run, place, CardFacts())


def test_a_full_disk_leaves_nothing(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "README.md":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*model: No space left on device; choose"):
        export_model(run, tmp_path / "model", CardFacts())
    assert not list(tmp_path.iterdir())


def test_weights_with_nan_are_not_written(run: TrainedRun, tmp_path: Path) -> None:
    parameters = run.model.parameters | {BIAS: run.model.parameters[BIAS] * jax.numpy.nan}
    model = Model(run.model.structure, parameters, run.model.statistics)
    with pytest.raises(UserError, match=f"{BIAS} holds NaN"):
        export_model(dataclasses.replace(run, model=model), tmp_path / "model", CardFacts())
    assert not list(tmp_path.iterdir())
