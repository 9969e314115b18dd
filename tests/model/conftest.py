"""Keras itself, as the reference for the ported nets."""

import os
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import pytest


@pytest.fixture(scope="module")
def keras() -> Iterator[Any]:
    os.environ["KERAS_BACKEND"] = "jax"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("keras", reason="pip install -e .[test]")
    assert module.backend.backend() == "jax"
    # Keras adds vectors to tensors, which the strict setting of conftest.py refuses.
    with jax.numpy_rank_promotion("allow"):
        yield module
