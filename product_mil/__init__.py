"""Product categories from all the images of a product, jointly.

classifier = product_mil.load("runs/joint")
classifier.predict([["front.jpg", "back.jpg"]])
"""

import importlib
import typing

from product_mil.version import __version__

if typing.TYPE_CHECKING:
    from product_mil.api import Classifier, load
    from product_mil.errors import UserError
    from product_mil.prediction import Prediction

__all__ = ["Classifier", "Prediction", "UserError", "__version__", "load"]

# Each is imported when it is first asked for: JAX takes a second to start.
_HOMES = {
    "Classifier": "product_mil.api",
    "Prediction": "product_mil.prediction",
    "UserError": "product_mil.errors",
    "load": "product_mil.api",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
