"""Read the layers of a weights file: Keras' HDF5 in two layouts, and PyTorch's safetensors.

Keras' legacy layout, that of the published files and of `model.save("x.h5")`, has a group for each
layer. Attributes have the order of layers and the names of tensors, `Conv1/kernel:0` by Keras 2 and
`Conv1/kernel` by Keras 3. The layout of `save_weights("x.weights.h5")` numbers the layers of each
class, and the tensors of each layer.

Files are read by h5py and safetensors, so nothing in them can run as code. Only one pickle is read,
which is known by its hash (`torch_pickle.py`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from product_mil.errors import UserError
from product_mil.files.foreign import Wanted, refuse_foreign
from product_mil.model.keras_layers import KerasLayer
from product_mil.model.spec import BackboneSpec
from product_mil.model.weights.torch_pickle import read_known_pickle

MAX_DEPTH = 20  # of groups; Keras' files have 5
Tensor = h5py.Dataset | np.ndarray
_LFS_POINTER = b"version https://git-lfs"


class FileLayer(NamedTuple):
    """A layer of a file: its tensors by name, or by "0", "1", ... where the file numbers them."""

    name: str
    kind: str | None  # Keras' class in snake case, if the file has it
    container: str
    tensors: dict[str, Tensor]


# The tensors of a kind of layer, in Keras' order: name in a file -> leaf of the module.
TENSORS: dict[str, dict[str, str]] = {
    "conv2d": {"kernel": "kernel", "bias": "bias"},
    "depthwise_conv2d": {"depthwise_kernel": "kernel", "bias": "bias"},
    "separable_conv2d": {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"},
    "dense": {"kernel": "kernel", "bias": "bias"},
    "batch_normalization": {
        "gamma": "scale",
        "beta": "bias",
        "moving_mean": "mean",
        "moving_variance": "var",
    },
    "layer_normalization": {"gamma": "scale", "beta": "bias"},
    "layer_scale": {"gamma": "scale"},
}

_WEIGHTS = Wanted(
    "weights file",
    # These kinds get messages of their own below.
    frozenset({"hdf5", "safetensors", "pickle", "packed", "bson", "other"}),
    "name a Keras .h5 or a .safetensors",
)


@contextmanager
def file_layers(
    path: Path, spec: BackboneSpec | None = None
) -> Iterator[tuple[list[FileLayer], Sequence[KerasLayer]]]:
    """The layers of a file, which stays open, and the backbone's layers with the file's names.

    Raises:
        UserError: the file is missing, incomplete or in no known layout. This may also be raised
            while the layers are read.
    """
    if not path.is_file():
        there = "is no file" if path.exists() else "no such weights file"
        raise UserError(f"{path}: {there}; name a Keras .h5 or a .safetensors")
    try:
        with path.open("rb") as raw:
            empty = not raw.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise UserError(f"{path}: is empty; get the file again")
    refuse_foreign(path, _WEIGHTS)
    layers = spec.keras_layers if spec else ()
    tensors = _torch_tensors(path)
    if tensors is not None:
        yield torch_file_layers(path, tensors, layers, spec.torch_namings if spec else ({},))
        return
    try:
        with h5py.File(path, "r") as file:
            _refuse_other_files(file, path)
            yield keras_file_layers(file, path), layers
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a whole HDF5 file ({reason}); get the file again") from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name.

    Raises:
        UserError: the file is not whole, or of another kind.
    """
    import safetensors
    from safetensors.numpy import load_file

    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(f"{path}: a pointer of Git LFS, not the file; run git lfs pull")
        return load_file(path)
    except (
        OSError,
        safetensors.SafetensorError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a whole safetensors file ({reason}); get the file again"
        ) from error


def _torch_tensors(path: Path) -> dict[str, np.ndarray] | None:
    """The tensors of a PyTorch file by name; None for HDF5."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if h5py.is_hdf5(path):
        return None
    tensors = read_known_pickle(path)
    if tensors is None:
        raise UserError(
            f"{path}: no HDF5 file; only Keras' .h5 and .safetensors are read, never a pickle "
            "(but that of efficientnet_lite0's package, unchanged): save the net in one of them"
        )
    return tensors


def _refuse_other_files(file: h5py.File, path: Path) -> None:
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
