"""A head of your own: what one is made of, and how it gets a name that configurations can choose.

docs/guide/adding-a-head.md shows a whole one.
"""

import functools
from collections.abc import Callable
from typing import Any

from product_mil.errors import UserError
from product_mil.model.heads.common import (
    Head,
    HeadOutput,
    PlaceEmbedding,
    centred,
    classifier,
    dropout,
    shares_of_layer,
)
from product_mil.model.heads.spec import HeadSpec
from product_mil.model.packing import Packing
from product_mil.model.registry import HEAD_SPECS, HEADS

__all__ = [
    "Head",
    "HeadOutput",
    "HeadSpec",
    "Packing",
    "PlaceEmbedding",
    "centred",
    "classifier",
    "dropout",
    "register",
    "shares_of_layer",
]


def register(spec: HeadSpec) -> None:
    """Make a head known to this process: `config.model.pooling` may then be its name.

    Runs that were trained with it can be opened once it is registered. To register the same class
    or function again, as a file does that is run twice, is fine.

    Raises:
        UserError: a head that comes with product_mil, or another one, has the name.
    """
    if spec.name in {own.name for own in HEAD_SPECS}:
        raise UserError(f"head {spec.name!r} comes with product_mil; give yours another name")
    there = HEADS.get(spec.name)
    if there is not None and _origin(there.build) != _origin(spec.build):
        raise UserError(
            f"head {spec.name!r} is registered already, as {_origin(there.build)}; give "
            f"{_origin(spec.build)} another name"
        )
    HEADS[spec.name] = spec


def _origin(build: Callable[..., Any]) -> str:
    """The module and the name of a builder."""
    while isinstance(build, functools.partial):
        build = build.func
    return f"{build.__module__}.{build.__qualname__}"
