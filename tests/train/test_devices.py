"""All steps on 1, 2 and 4 devices."""

import functools
import re
from typing import Any

import jax
import numpy as np
import pytest

from product_mil.devices.mesh import put_batch, replicate
from product_mil.inference.step import (
    make_eval_step,
    make_predict_step,
)
from product_mil.train.state import evaluated_parameters
from tests.train.tiny import (
    EVERYTHING,
    KEY,
    LOG_PRIOR,
    batch_of,
    host,
    mesh_of,
    model_of,
    prepared,
    start,
)


def trajectory(
    devices: int, dtype: Any, optimizer_name: str, trainable: str, pooling: str
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of 20 steps and the final leaves, with dropout, augmentation and statistics on."""
    options = {
        "optimizer": optimizer_name,
        "batch_statistics": trainable == "all",
        "ranges": EVERYTHING,
    }
    _, arrays, optimizer, step = prepared.__wrapped__(pooling, 0.3, **options)
    arrays = jax.tree.map(lambda x: x.astype(dtype), arrays)
    mesh = mesh_of(devices)
    state = replicate(start(arrays, optimizer, trainable), mesh)
    key = replicate(KEY, mesh)
    losses = []
    for i in range(20):
        state, loss = step(state, put_batch(batch_of(i), mesh), key)
        losses.append(float(loss))
    return losses, host({**evaluated_parameters(state), **state.statistics})


# What is trained, in which numbers, by what, and how far other devices may be from one. Images are
# augmented in float32, whose rounding differs between programs, so float64 is not equal to 1e-10.
DEVICE_CASES = [
    ("all", "float64", "adamw", 1e-7),
    ("head", "float64", "adamw", 1e-7),
    ("head", "float32", "sgd", 1e-5),
    ("all", "float32", "sgd", 1e-5),
    ("head", "float32", "adamw", 1e-4),
    ("all", "float32", "adamw", 1e-4),
]


@pytest.mark.parametrize(
    ("trainable", "dtype", "optimizer_name", "tolerance"),
    [DEVICE_CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in DEVICE_CASES[1:])],
)
def test_devices_agree(trainable: str, dtype: str, optimizer_name: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        one, *others = (
            trajectory(devices, dtype, optimizer_name, trainable, "posterior_attention")
            for devices in (1, 2, 4)
        )
        for other in others:
            np.testing.assert_allclose(other[0], one[0], rtol=tolerance)
            for path, leaf in one[1].items():
                assert leaf.dtype == dtype
                np.testing.assert_allclose(other[1][path], leaf, atol=tolerance, err_msg=path)


COLLECTIVES = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)"
    r"(?:-start)?\("
)


@functools.cache
def collectives(kind: str, trainable: str = "all") -> set[str]:
    """Those in a step compiled for 4 devices."""
    structure, *arrays = model_of("transformer")
    mesh = mesh_of(4)
    arrays, batch = replicate(arrays, mesh), put_batch(batch_of(0), mesh)
    if kind == "train":
        _, _, optimizer, step = prepared(
            "transformer", 0.3, batch_statistics=trainable == "all", ranges=EVERYTHING
        )
        state = replicate(start(arrays, optimizer, trainable), mesh)
        lowered = step.lower(state, batch, replicate(KEY, mesh))
    else:
        views = "flip_crops"
        step = {
            "eval": make_eval_step(structure),
            "predict": make_predict_step(structure, topk=3, keep_all=True),
            "eval_views": make_eval_step(structure, views),
        }[kind]
        lowered = step.lower(*arrays, batch, replicate(LOG_PRIOR, mesh))
    text = re.sub(r"/\*.*?\*/", "", lowered.compile().as_text())
    assert "ENTRY" in text
    return set(COLLECTIVES.findall(text))


@pytest.mark.parametrize("kind", ["eval", "predict", "eval_views"])
def test_forward_pass_has_no_collective(kind: str) -> None:
    assert collectives(kind) == set()


@pytest.mark.parametrize("trainable", ["all", pytest.param("head", marks=pytest.mark.slow)])
def test_training_step_only_all_reduces(trainable: str) -> None:
    assert collectives("train", trainable) == {"all-reduce"}
