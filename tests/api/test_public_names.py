"""What is public at the top of the package, and its one version."""

import types
from importlib import metadata

import pytest

import product_mil
from product_mil import api, errors, prediction


def test_the_public_names() -> None:
    assert product_mil.__all__ == ["Classifier", "Prediction", "UserError", "__version__", "load"]
    assert product_mil.load is api.load
    assert product_mil.Classifier is api.Classifier
    assert product_mil.Prediction is prediction.Prediction
    assert product_mil.UserError is errors.UserError
    with pytest.raises(AttributeError, match="module 'product_mil' has no attribute 'predict'"):
        _ = product_mil.predict  # type: ignore[attr-defined]


def test_nothing_else_is_public() -> None:
    assert dir(product_mil) == product_mil.__all__
    values = {name: value for name, value in vars(product_mil).items() if name[0] != "_"}
    others = [name for name, value in values.items() if not isinstance(value, types.ModuleType)]
    assert set(others) <= {*product_mil.__all__}


def test_the_version_is_that_of_the_installed_package() -> None:
    assert metadata.version("product_mil") == product_mil.__version__
