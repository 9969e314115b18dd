"""The exported function answers as the model does, for any numbers of images and products."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from product_mil.api import Classifier
from product_mil.errors import UserError
from product_mil.inference.portable import probability_function, stable_hlo
from product_mil.model.classifier import Classifier as Net
from product_mil.model.classifier import split_model
from product_mil.model.registry import BACKBONES, HEADS, backbone, head
from product_mil.runs.model import build_model, levels_of
from product_mil.runs.opening import open_run
from product_mil.runs.trained import TrainedRun

SIZE = 48
COUNTS = [1, 3, 0, 2, 6, 0, 4]  # of a product with more than 4 images the first ones count


@pytest.fixture(scope="module")
def run(trained: Path) -> TrainedRun:
    return open_run(trained)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    shape = (sum(COUNTS), SIZE, SIZE, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def exported(run: TrainedRun) -> jax.export.Exported:
    model = run.model
    function = probability_function(
        model.structure, model.parameters, model.statistics, run.log_prior,
        run.config.data.max_images,
    )  # fmt: skip
    return jax.export.deserialize(bytearray(stable_hlo(function, SIZE)))


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name, spec in HEADS.items()
    if spec.takes_weights and name != "gated_attention"
]


@pytest.mark.parametrize("pooling", ["gated_attention", *SLOW])
def test_it_answers_as_the_model(pooling: str, run: TrainedRun, images: np.ndarray) -> None:
    if pooling != run.config.model.pooling:
        settings = dataclasses.replace(run.config.model, pooling=pooling)
        config = dataclasses.replace(run.config, model=settings)
        levels = levels_of(run.categories)
        model, _ = build_model(config, len(run.categories.ids), levels=levels)
        run = dataclasses.replace(run, config=config, model=model)
    products = [list(part) for part in np.split(images, np.cumsum(COUNTS)[:-1])]
    wanted = Classifier(run).predict_proba(products)
    call = exported(run).call
    counts = np.array(COUNTS, np.int32)
    np.testing.assert_allclose(call(images, counts), wanted, rtol=0, atol=1e-6)
    # Padding of either kind changes nothing; a product of no image gets the frequencies.
    more = np.concatenate([images, 255 - images[:5]])
    found = np.asarray(call(more, np.concatenate([counts, np.zeros(3, np.int32)])))
    np.testing.assert_allclose(found[: len(counts)], wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[len(counts) :], [np.exp(run.log_prior)] * 3, atol=1e-6)
    # Some of the products alone.
    np.testing.assert_allclose(call(images[:4], counts[:2]), wanted[:2], rtol=0, atol=1e-6)
    nothing = np.asarray(call(images[:1], np.zeros(1, np.int32)))
    np.testing.assert_allclose(nothing, [np.exp(run.log_prior)], atol=1e-6)


def test_its_shapes_and_platforms(run: TrainedRun) -> None:
    found = exported(run)
    assert found.platforms == ("cpu", "cuda")
    assert found.nr_devices == 1
    assert [str(aval) for aval in found.in_avals] == [
        f"uint8[n,{SIZE},{SIZE},3]", "int32[p]"
    ]  # fmt: skip
    assert [str(aval) for aval in found.out_avals] == ["float32[p,29]"]
    with pytest.raises(ValueError, match="Shape mismatch"):
        found.call(np.zeros((1, 32, 32, 3), np.uint8), np.ones(1, np.int32))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if not spec.on_host])
def test_every_net_can_be_exported(name: str) -> None:
    spec, rngs = backbone(name), nnx.Rngs(0)
    fusing = head("mean").build(
        spec.embedding_dim, 5, dropout_rate=0.0, position_embedding=False, count_embedding=False,
        rngs=rngs,
    )  # fmt: skip
    model = split_model(Net(spec.build(rngs=rngs), fusing))
    function = probability_function(*model, np.zeros(5, np.float32), 4)
    found = jax.export.deserialize(bytearray(stable_hlo(function, 80)))
    assert str(found.out_avals[0]) == "float32[p,5]"


def test_without_flatbuffers(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax._src.export.serialization", None)
    with pytest.raises(UserError, match=r"needs flatbuffers: pip install 'product_mil\[stablehlo"):
        exported(run)
