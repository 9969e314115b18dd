"""List the layers of a weights file, and find the backbones that it fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flax import nnx

from product_mil.errors import UserError
from product_mil.model.registry import BACKBONES, backbone
from product_mil.model.weights.files import file_layers
from product_mil.model.weights.load import fit


class LayerShapes(NamedTuple):
    """The name of a layer in a file, with its container, and the shapes of its tensors."""

    name: str
    tensors: dict[str, tuple[int, ...]]


def layer_shapes(path: Path) -> list[LayerShapes]:
    """All layers of a weights file, in its order.

    Raises:
        UserError: the file cannot be read, or is of no known kind.
    """
    with file_layers(path) as (layers, _):
        return [
            LayerShapes(
                f"{layer.container}/{layer.name}" if layer.container else layer.name,
                {name: tuple(tensor.shape) for name, tensor in layer.tensors.items()},
            )
            for layer in layers
        ]


class Fit(NamedTuple):
    """How a file fits a backbone."""

    backbone: str
    faults: str  # the reasons why it does not fit; empty if it does
    classes: int  # number of classes of its top; 0 if it has none


def fits(path: Path, names: Sequence[str] = ()) -> list[Fit]:
    """How the file fits these backbones, by default all that read weights files.

    Raises:
        UserError: a backbone of `names` reads no weights file.
    """
    found = []
    for name in names or [name for name, spec in BACKBONES.items() if spec.keras_layers]:
        spec = backbone(name)
        if not spec.keras_layers:
            raise UserError(f"backbone {name} reads no weights file")
        try:
            found.append(Fit(name, *fit(spec.build(rngs=nnx.Rngs(0)), spec, path)))
        except UserError as error:
            found.append(Fit(name, str(error), 0))
    return found
