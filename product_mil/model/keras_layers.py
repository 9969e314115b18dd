"""The names and the order that Keras gives to the layers of a backbone in weights files."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class KerasLayer(NamedTuple):
    """A layer that holds tensors.

    `name` is Keras' name in a new process. Where Keras numbers the layers of a kind (`conv2d_42`),
    only their order counts. `path` leads to the module that gets the tensors; it is None for the
    ImageNet classifier, which is not part of a backbone.
    """

    name: str
    kind: str  # the class in snake case, by which `.weights.h5` files number layers
    path: str | None
    other_name: str = ""  # the name in files with the ImageNet classifier, if that differs
    container: str = ""  # the Sequential that holds it, as `.weights.h5` files number it


TOP = KerasLayer("predictions", "dense", None)

# A chain of units (convolution, BatchNorm, activation) by path; a pair at its end is parallel.
Branch = Sequence[str | tuple[str, str]]


def unnamed_units(branches: Sequence[Branch], made: int) -> tuple[list[KerasLayer], int]:
    """The layers of units in parallel branches, in the order of a file.

    Keras numbers layers in the order in which they are made, branch by branch, but writes those
    first that are farther from the end of the branches. `made` is the number of units before these;
    the new number is returned as well.
    """
    units: list[tuple[int, int, str]] = []
    for branch in branches:
        joins_itself = isinstance(branch[-1], tuple)
        for following, unit in zip(reversed(range(len(branch))), branch, strict=True):
            for path in unit if isinstance(unit, tuple) else (unit,):
                units.append((3 * following + joins_itself, made + len(units), path))
    units.sort(key=lambda unit: -unit[0])
    layers = []
    for _, number, path in units:
        suffix = f"_{number}" if number else ""
        layers += unit_layers(f"conv2d{suffix}", f"batch_normalization{suffix}", path)
    return layers, made + len(units)


def conv_and_norm(name: str, norm_name: str, path: str, norm_path: str) -> list[KerasLayer]:
    """A convolution and the BatchNorm that follows it."""
    return [
        KerasLayer(name, "conv2d", path),
        KerasLayer(norm_name, "batch_normalization", norm_path),
    ]


def unit_layers(conv_name: str, norm_name: str, path: str) -> list[KerasLayer]:
    """The two layers of a `ConvNorm`."""
    return conv_and_norm(conv_name, norm_name, f"{path}.conv", f"{path}.bn")


def number_of(name: str, kind: str) -> int | None:
    """The number in an automatic name (`conv2d` is 0, `conv2d_7` is 7), None in any other."""
    match = re.fullmatch(rf"{kind}(?:_(\d+))?", name)
    return int(match[1] or 0) if match else None
