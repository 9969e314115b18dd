"""Read the layers of Keras' HDF5 files, in two layouts.

The legacy layout, that of the published files and of `model.save("x.h5")`, has a group for each
layer. Attributes have the order of layers and the names of tensors, `Conv1/kernel:0` by Keras 2 and
`Conv1/kernel` by Keras 3. The layout of `save_weights("x.weights.h5")` numbers the layers of each
class, and the tensors of each layer.
"""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from product_mil.errors import UserError
from product_mil.model.weights.layers import FileLayer, Tensor

MAX_DEPTH = 20  # of groups; Keras' files have 5


def refuse_other_files(file: h5py.File, path: Path) -> None:
    """Refuse links to other files and storage in other files, which could be any files."""

    def fault(name: str, link: object) -> str | None:
        if name.count("/") > MAX_DEPTH:
            return f"more than {MAX_DEPTH} groups within groups"
        data = file[name] if isinstance(link, h5py.HardLink) else None
        stored_outside = isinstance(data, h5py.Dataset) and (data.external or data.is_virtual)
        if stored_outside or isinstance(link, h5py.ExternalLink):
            return f"{name} lies in another file"
        return None

    found = file.visititems_links(fault)  # stops at the first
    if found is not None:
        raise UserError(f"{path}: {found}; save the weights as one plain file")


def keras_file_layers(file: h5py.File, path: Path) -> list[FileLayer]:
    """The layers with tensors of an HDF5 file in either layout of Keras.

    Raises:
        UserError: the file has neither layout.
        KeyError, OSError, RuntimeError, ValueError: the file is damaged.
    """
    root = file.get("model_weights", file)
    if isinstance(root, h5py.Group) and _names(root, "layer_names"):
        return _legacy_layers(root)
    numbered = file.get("layers")
    if isinstance(numbered, h5py.Group):
        return _numbered_layers(numbered)
    raise UserError(
        f"{path}: an HDF5 file, but in neither layout of Keras' weights (no attribute layer_names, "
        "no group layers); save the model with model.save('name.h5')"
    )


def _legacy_layers(root: h5py.Group) -> list[FileLayer]:
    layers = []
    for group in _names(root, "layer_names"):
        found: dict[str, dict[str, Tensor]] = {}
        for name in _names(root[group], "weight_names"):
            data = root[f"{group}/{name}"]
            if not isinstance(data, h5py.Dataset):
                raise KeyError(f"{group}/{name} is no data set")
            *above, tensor = re.sub(r":\d+$", "", name).split("/")
            found.setdefault(above[-1] if above else group, {})[tensor] = data
        # A Sequential has several layers; any other group is one layer, whatever its prefixes.
        container = group if len(found) > 1 else ""
        for name, tensors in found.items():
            layers.append(FileLayer(name if container else group, None, container, tensors))
    return layers


def _numbered_layers(root: h5py.Group, container: str = "") -> list[FileLayer]:
    layers = []
    for name, group in sorted(root.items(), key=lambda item: _by_number(item[0])):
        if not isinstance(group, h5py.Group):
            raise KeyError(f"{group.name} is no group")
        inner = group.get("layers")
        if isinstance(inner, h5py.Group):
            layers += _numbered_layers(inner, name)
            continue
        variables = group.get("vars")
        if isinstance(variables, h5py.Group) and len(variables):
            tensors: dict[str, Tensor] = {}
            for key in sorted(variables, key=_by_number):
                data = variables[key]
                if not isinstance(data, h5py.Dataset):
                    raise KeyError(f"{data.name} is no data set")
                tensors[key] = data
            given = str(variables.attrs.get("name", f"{container}/{name}".removeprefix("/")))
            layers.append(FileLayer(given, re.sub(r"_\d+$", "", name), container, tensors))
    return layers


def _by_number(name: str) -> tuple[str, int]:
    stem = name.rstrip("0123456789")
    return stem.rstrip("_"), int(name[len(stem) :] or 0)


def _names(group: Any, attribute: str) -> list[str]:
    """A list of strings in attributes, which Keras splits into `name0`, `name1`, ... if long."""
    chunks = [attribute] if attribute in group.attrs else []
    while not chunks or chunks[0] != attribute:
        if f"{attribute}{len(chunks)}" not in group.attrs:
            break
        chunks.append(f"{attribute}{len(chunks)}")
    raw = [name for chunk in chunks for name in np.ravel(group.attrs[chunk])]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in raw]
