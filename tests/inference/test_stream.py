import dataclasses
import json
import shutil
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import bson
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from product_mil.data.loader import Loaded
from product_mil.data.products import ImageFault, Products
from product_mil.errors import UserError
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.step import make_predict_step
from product_mil.inference.stream import predict_products
from product_mil.runs import opening
from product_mil.runs.directory import checkpoint_directory
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun
from product_mil.sources.sample.draw import SampleFiles
from product_mil.train.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def opened(trained: Path) -> TrainedRun:
    return open_run(trained)


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:devices]), ("data",))


def write(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(map(bson.encode, records)))
    return path


def records_of(path: Path) -> list[dict[str, Any]]:
    return bson.decode_all(path.read_bytes())


@lru_cache  # one compilation a shape
def step_of(structure: Any) -> Any:
    return make_predict_step(structure, topk=3, keep_all=True)


def blocks_of(
    run: TrainedRun, products: Products, batches: Iterable[Loaded]
) -> list[tuple[PredictionBlock, list[ImageFault]]]:
    step = run.bound(step_of(run.model.structure))
    return list(predict_products(products, batches, step, run.mesh))


def joined(blocks: Sequence[tuple[PredictionBlock, list[ImageFault]]]) -> dict[str, np.ndarray]:
    names = [field.name for field in dataclasses.fields(PredictionBlock)]
    return {name: np.concatenate([getattr(block, name) for block, _ in blocks]) for name in names}


def predicted(run: TrainedRun, path: Path, images_per_batch: int = 64) -> dict[str, np.ndarray]:
    products = run.products(str(path))
    return joined(blocks_of(run, products, run.batches(products, images_per_batch)))


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name, values in a.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, b[name], rtol=0, atol=1e-5, err_msg=name)
        elif "top_class" not in name:  # near ties may fall either way
            np.testing.assert_array_equal(values, b[name], err_msg=name)


def test_batch_size_changes_nothing(opened: TrainedRun, sample: SampleFiles) -> None:
    big = predicted(opened, sample.train, 256)
    assert_same(predicted(opened, sample.train, 16), big)
    np.testing.assert_array_equal(
        big["product_id"], [record["_id"] for record in records_of(sample.train)]
    )


def test_one_device_and_four(trained: Path, opened: TrainedRun, sample: SampleFiles) -> None:
    assert opened.mesh.size == 4
    assert_same(
        predicted(open_run(trained, mesh=mesh_of(1)), sample.train),
        predicted(opened, sample.train),
    )


def test_probabilities(opened: TrainedRun, sample: SampleFiles) -> None:
    found = predicted(opened, sample.train)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-5)
    label = opened.categories.class_of(found["category_id"])
    np.testing.assert_allclose(
        np.exp(found["log_prob_true"]),
        found["probabilities"][np.arange(len(label)), label],
        rtol=1e-5,
    )
    best = np.sort(found["probabilities"], 1)[:, :-4:-1]
    np.testing.assert_allclose(found["top_probability"], best, rtol=1e-5)
    np.testing.assert_array_equal(found["top_class"][:, 0], found["probabilities"].argmax(1))


def test_images_belong_to_their_products(
    opened: TrainedRun, sample: SampleFiles, tmp_path: Path
) -> None:
    """Each image's own guess is what a product of that image alone gets."""
    records = records_of(sample.train)
    alone = write(
        tmp_path / "alone.bson",
        (
            {"_id": i, "imgs": [image]}
            for i, image in enumerate(image for record in records for image in record["imgs"])
        ),
    )
    whole, single = predicted(opened, sample.train), predicted(opened, alone)
    np.testing.assert_array_equal(whole["image_top_class"], single["top_class"][:, 0])
    np.testing.assert_array_equal(
        whole["image_index"],
        np.concatenate([np.arange(len(record["imgs"])) for record in records]),
    )
    counts = whole["num_readable_images"]
    np.testing.assert_array_equal(counts, whole["num_images"])
    owner = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_allclose(np.bincount(owner, whole["attention"]), 1, atol=1e-5)
    np.testing.assert_array_equal(single["has_category"], False)
    assert np.isnan(single["log_prob_true"]).all()


def test_damage_leaves_the_rest(opened: TrainedRun, sample: SampleFiles, tmp_path: Path) -> None:
    """A bad image is as if it were absent; a product without a readable image gets the prior."""
    several = next(r for r in records_of(sample.train) if len(r["imgs"]) >= 3)
    bad = {"picture": b"no JPEG"}
    path = write(
        tmp_path / "bad.bson",
        [
            {"_id": 30, "imgs": []},
            {"_id": 20, "imgs": [bad, several["imgs"][0], bad, several["imgs"][2]]},
            {"_id": 10, "imgs": [bad]},
            {"_id": 25, "imgs": [several["imgs"][0], several["imgs"][2]]},
        ],
    )
    products = opened.products(str(path))
    blocks = blocks_of(opened, products, opened.batches(products, 64))
    found = joined(blocks)
    np.testing.assert_array_equal(found["product_id"], [30, 20, 10, 25])
    np.testing.assert_array_equal(found["num_images"], [0, 4, 1, 2])
    np.testing.assert_array_equal(found["num_readable_images"], [0, 2, 0, 2])
    np.testing.assert_array_equal(found["image_index"], [1, 3, 0, 1])
    # Gated attention without position embedding does not ask for the place.
    np.testing.assert_allclose(found["probabilities"][1], found["probabilities"][3], atol=1e-6)
    for row in (0, 2):
        np.testing.assert_allclose(
            found["probabilities"][row],
            (opened.class_counts + 1) / (opened.class_counts + 1).sum(),
            rtol=1e-5,
        )
        assert found["top_class"][row, 0] == opened.class_counts.argmax()  # ties: the lower id
    assert [(f.product_id, f.image_index) for _, faults in blocks for f in faults] == [
        (20, 0), (20, 2), (10, 0),
    ]  # fmt: skip


def test_each_product_once_and_in_order(opened: TrainedRun, sample: SampleFiles) -> None:
    products = opened.products(str(sample.train))
    batches = list(opened.batches(products, 64))
    assert len(batches) > 2
    for wrong in (batches[:-1], batches[1:], batches[::-1], [batches[0], *batches]):
        with pytest.raises(RuntimeError, match="predicted"):
            blocks_of(opened, products, wrong)


def snapshot(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_opening_writes_nothing(trained: Path, tmp_path: Path) -> None:
    """Also no draft of a writer at work is removed."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    draft = checkpoint_directory(workdir, "finetune") / "99.orbax-checkpoint-tmp"
    draft.mkdir()
    (draft / "half").write_text("half")
    before = snapshot(workdir)
    run = open_run(workdir)
    assert snapshot(workdir) == before
    assert run.stage == "finetune"


def test_the_weights_are_those_of_the_checkpoint(trained: Path, opened: TrainedRun) -> None:
    random, _ = opening.build_model(opened.config, len(opened.categories.ids))
    with Checkpoints(checkpoint_directory(trained, "finetune"), read_only=True) as found:
        assert opened.step == found.steps()[-1]
        parameters, statistics = found.restore_model(
            opened.step, random.parameters, random.statistics
        )
    for path, value in parameters.items():
        np.testing.assert_array_equal(value, opened.model.parameters[path])
    for path, value in statistics.items():
        np.testing.assert_array_equal(value, opened.model.statistics[path])
    moved = [p for p, v in random.parameters.items() if (v != opened.model.parameters[p]).any()]
    assert len(moved) == len(parameters)
    record = json.loads((trained / "run.json").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(opened.class_counts, record["class_counts"])
    assert opened.categories.ids.tolist() == record["categories"]["ids"]
    assert opened.identity["data_fingerprint"] == record["data_fingerprint"]
    assert all(leaf.sharding.is_fully_replicated for leaf in opened.model.parameters.values())


def test_the_last_stage_with_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    head, finetune = (checkpoint_directory(workdir, stage) for stage in ("head", "finetune"))
    shutil.copytree(checkpoint_directory(trained, "finetune"), head)
    assert open_run(workdir).stage == "head"
    shutil.copytree(head, finetune)
    assert open_run(workdir).stage == "finetune"
    for path in finetune.iterdir():  # a stage that has begun and saved nothing yet
        shutil.rmtree(path)
    assert open_run(workdir).stage == "head"
    shutil.rmtree(head)
    with pytest.raises(UserError, match=r"holds no checkpoint: .*, or of an exported model$"):
        open_run(workdir)
    assert not head.exists()
    with pytest.raises(UserError, match="no such directory"):
        open_run(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_best(trained: Path) -> None:
    rows = map(json.loads, (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    own = [row for row in rows if row["stage"] == "finetune"]
    best = max(own, key=lambda row: (row["valid/top1"], row["step"]))
    assert open_run(trained, "best").step == best["step"]


def test_pretrained_file_is_not_needed(
    trained: Path, opened: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = opened.config
    gone = dataclasses.replace(config, model=dataclasses.replace(config.model, weights="gone.h5"))
    monkeypatch.setattr(opening, "config_from_dict", lambda stored: gone)
    run = open_run(trained)
    assert run.config.model.weights == "gone.h5"
    for path, value in run.model.parameters.items():
        np.testing.assert_array_equal(value, opened.model.parameters[path])


def test_a_checkpoint_that_goes_away_meanwhile(
    trained: Path,
    opened: TrainedRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The list is read again; what is gone is not reported as damaged."""
    steps = Checkpoints.steps
    answers = iter([[1], [1, opened.step]])
    monkeypatch.setattr(Checkpoints, "steps", lambda _: next(answers))
    assert open_run(trained).step == opened.step
    assert not caplog.records
    monkeypatch.setattr(Checkpoints, "steps", lambda _: [1])
    with pytest.raises(UserError, match="checkpoint 1 "):
        open_run(trained)
    monkeypatch.setattr(Checkpoints, "steps", lambda self: [*steps(self), 99])
    assert open_run(trained).step == opened.step
    assert "checkpoint 99 " in caplog.text
