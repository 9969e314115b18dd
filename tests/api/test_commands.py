"""The answers are those of the commands, and unlike them it writes nothing."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest

import product_mil
from product_mil.config import Config, DataConfig, ModelConfig, StageConfig
from product_mil.inference.top_classes import read_predictions
from product_mil.runs.run import run
from product_mil.sources.sample.draw import SampleFiles
from tests.cli.test_export_predictions import export, rows_of

ROOT = Path(__file__).resolve().parents[2]
KINDS = {  # of runs: each is fed in another way by the commands
    "frozen": ModelConfig(backbone="small_cnn", pooling="posterior_attention"),
    "on the host": ModelConfig(backbone="hand_made", pooling="tree"),
    "prior": ModelConfig(backbone="none", pooling="prior"),
}


SLOW = pytest.param("on the host", marks=pytest.mark.slow)  # many features of many images


@pytest.fixture(scope="module", params=["trained", "frozen", "prior", SLOW])
def workdir(
    request: pytest.FixtureRequest, trained: Path, sample: SampleFiles,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    if request.param == "trained":
        return trained
    model = KINDS[request.param]
    data = DataConfig(train=str(sample.train), categories=str(sample.categories), image_size_px=48)
    stage = StageConfig(epochs=2, trainable="head", images_per_batch=32, learning_rate=3e-3)
    if request.param == "prior":
        stage = dataclasses.replace(stage, epochs=0)
    config = Config(data=data, model=model, head=stage, finetune=StageConfig(epochs=0))
    directory = tmp_path_factory.mktemp("run")
    run(config, directory)
    return directory


def test_equal_to_the_export(
    workdir: Path, records: list[dict[str, Any]], products: list[list[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "a.bson").write_bytes(b"".join(map(bson.encode, records)))
    output, top, matrix = tmp_path / "s.csv", tmp_path / "top.parquet", tmp_path / "matrix"
    export(
        "--workdir", workdir, "--data", tmp_path / "a.bson", "--output", output,
        "--probabilities", top, "--topk", 3, "--all_probabilities", matrix,
    )  # fmt: skip
    classifier = product_mil.load(workdir)
    predictions = classifier.predict(products, topk=3)
    probabilities = classifier.predict_proba(products)
    assert [p.category_ids[0] for p in predictions] == [guess for _, guess in rows_of(output)]
    np.testing.assert_array_equal(classifier.category_ids, np.load(matrix / "category_ids.npy"))
    wanted = np.load(matrix / "probabilities.npy")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, wanted, rtol=0, atol=1e-6)

    rows = read_predictions(top).table.to_pylist()
    for prediction, row, product in zip(predictions, rows, products, strict=True):
        assert list(prediction.category_ids) == row["top_category_id"]
        np.testing.assert_allclose(prediction.probabilities, row["top_probability"], atol=1e-6)
        assert prediction.from_prior == (row["num_readable_images"] == 0)
        assert len(prediction.images) == row["num_images"] == len(product)
        used = [index for index, image in enumerate(prediction.images) if image.error is None]
        assert used == row["image_index"]
        images = [prediction.images[index] for index in used]
        attention = [image.attention for image in images]
        np.testing.assert_allclose(attention, row["image_attention"], atol=1e-6)
        assert [image.category_id for image in images] == row["image_category_id"]
        added = row["image_contribution"]
        if added is None:
            assert all(image.contribution is None for image in images)
        else:
            found = np.array([image.contribution for image in images], np.float32)
            np.testing.assert_allclose(found, added, atol=1e-5)


def test_a_model_that_was_saved_answers_alike(
    workdir: Path, products: list[list[bytes]], tmp_path: Path
) -> None:
    classifier = product_mil.load(workdir)
    classifier.save_pretrained(tmp_path / "model")
    saved = product_mil.load(tmp_path / "model")
    assert saved.predict(products) == classifier.predict(products)
    wanted = classifier.predict_proba(products)
    assert saved.predict_proba(products).tobytes() == wanted.tobytes()
    assert saved.names == classifier.names


IN_A_PROGRAM = """
import sys
from pathlib import Path
import product_mil
assert not {"jax", "numpy", "product_mil.api"} & sys.modules.keys()
classifier = product_mil.load(sys.argv[1])
products = [["image.jpg"], [Path("image.jpg").read_bytes(), b"no image"], []]
one, two, none = classifier.predict(products)
assert one.probabilities == two.probabilities, (one, two)
assert none.from_prior
classifier.predict([["image.jpg"] * 4] * 9)
classifier.embed(products)
for wrong in (b"image", ["image.jpg"], [[None]]):
    try:
        classifier.predict_proba(wrong)
    except TypeError as error:
        assert "a product is a list of images" in str(error), error
    else:
        raise AssertionError(wrong)
"""


def state_of(directory: Path) -> dict[str, tuple[int, int]]:
    found = ((path, path.stat()) for path in directory.rglob("*"))
    return {str(path): (of.st_size, of.st_mtime_ns) for path, of in found}


@pytest.mark.slow
@pytest.mark.parametrize("workdir", ["frozen"], indirect=True)
def test_a_program_that_predicts_writes_nothing(
    workdir: Path, products: list[list[bytes]], tmp_path: Path
) -> None:
    """Neither to the run, nor where it stands, nor to the user's cache, nor on the terminal."""
    (tmp_path / "image.jpg").write_bytes(products[0][0])
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    environment = {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "temporary"),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "cpu",
    }
    before = state_of(tmp_path), state_of(workdir)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_A_PROGRAM, str(workdir)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert (state_of(tmp_path), state_of(workdir)) == before
