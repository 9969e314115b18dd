"""Bring the tensors of a PyTorch file into Keras' layout, in which backbones list their layers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from product_mil.errors import UserError
from product_mil.model.keras_layers import KerasLayer
from product_mil.model.weights.layers import FileLayer, Tensor

# PyTorch's names of the same tensors, and the order of axes that Keras has.
_TORCH_TENSORS: dict[str, dict[str, str]] = {
    "conv2d": {"weight": "kernel", "bias": "bias"},
    "depthwise_conv2d": {"weight": "depthwise_kernel", "bias": "bias"},
    "dense": {"weight": "kernel", "bias": "bias"},
    "batch_normalization": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
    "layer_normalization": {"weight": "gamma", "bias": "beta"},
    "layer_scale": {"": "gamma"},
}
# Neither is part of the net: a counter, and torchvision's second classifier.
_TORCH_IGNORED = re.compile(r"(.*\.)?num_batches_tracked|AuxLogits\..*")


def torch_file_layers(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    layers: Sequence[KerasLayer],
    namings: Sequence[Mapping[str | None, str]],
) -> tuple[list[FileLayer], list[KerasLayer]]:
    """The layers of a PyTorch file in Keras' layout, and `layers` with the file's names.

    A naming maps the path of each module to its prefix in the file. The naming that fits best is
    used.

    Raises:
        UserError: the backbone has no naming for PyTorch files.
    """
    tensors = {k: v for k, v in tensors.items() if not _TORCH_IGNORED.fullmatch(k)}
    if not namings:
        raise UserError(f"{path}: this backbone reads Keras' .h5 files, not PyTorch's")

    def fit(naming: Mapping[str | None, str]) -> int:
        prefixes = tuple(naming.values())
        return sum(key.rpartition(".")[0] in prefixes for key in tensors)

    naming = max(namings, key=fit)
    renamed = [layer._replace(name=naming[layer.path], other_name="") for layer in layers]
    found = []
    for layer in renamed:
        of_layer: dict[str, Tensor] = {}
        for theirs, ours in _TORCH_TENSORS[layer.kind].items():
            value = tensors.pop(f"{layer.name}.{theirs}".removesuffix("."), None)
            if value is not None:
                of_layer[ours] = _keras_axes(value, layer.kind)
        if of_layer:
            found.append(FileLayer(layer.name, layer.kind, "", of_layer))
    rest: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        layer, _, tensor = key.rpartition(".")
        rest.setdefault(layer, {})[tensor] = value
    return [*found, *(FileLayer(name, None, "", of) for name, of in rest.items())], renamed


def _keras_axes(value: np.ndarray, kind: str) -> np.ndarray:
    if kind == "conv2d" and value.ndim == 4:
        return value.transpose(2, 3, 1, 0)  # O I H W -> H W I O
    if kind == "depthwise_conv2d" and value.ndim == 4:
        return value.transpose(2, 3, 0, 1)  # C 1 H W -> H W C 1
    if kind == "dense" and value.ndim == 2:
        return value.T
    if kind == "layer_scale":  # torchvision: [c, 1, 1]
        return value.reshape(value.shape[0], -1)[:, 0] if value.ndim == 3 else value
    return value
