"""Published weights into a backbone: Keras' HDF5 files, every tensor to exactly one leaf.

The layout is that of `keras.Model.save("x.h5")` and of the files that Keras Applications
publishes: a group for each layer, its order and its tensors' names in attributes. Tensors are
named `Conv1/kernel:0` by Keras 2 and `Conv1/kernel` by Keras 3; both are read. Read by h5py alone:
nothing in a file can run.
"""

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np
import xxhash
from flax import nnx
from jaxtyping import Float

from product_mil.cache import cache_root
from product_mil.errors import UserError
from product_mil.model.backbones import BackboneSpec
from product_mil.model.blocks import BatchNorm, Conv, DepthwiseConv

# For each type of module: how Keras names an unnamed layer of it, and tensor -> leaf.
KERAS_TENSORS: dict[type[nnx.Module], tuple[str, dict[str, str]]] = {
    Conv: ("conv2d", {"kernel": "kernel"}),
    DepthwiseConv: ("depthwise_conv2d", {"depthwise_kernel": "kernel"}),
    BatchNorm: (
        "batch_normalization",
        {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"},
    ),
}
TOP = "predictions"  # the ImageNet classifier: in the files "with top", no part of a backbone


@dataclass(frozen=True)
class ImageNetTop:
    """The classifier of a file "with top": logits = embedding @ kernel + bias."""

    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded: the file, its `weights_fingerprint`, tensors set, and the top if any."""

    path: Path
    fingerprint: str
    n_tensors: int
    top: ImageNetTop | None


def load_weights(module: nnx.Module, spec: BackboneSpec, source: str) -> LoadedWeights:
    """Set every parameter and statistic of `module`, in place, from a Keras HDF5 file.

    `source` is the path of a file, or `imagenet`: the published file, downloaded once into the
    user's cache (root in the environment variable PRODUCT_MIL_CACHE, if set).

    Raises:
        UserError: no such file, no Keras HDF5 file, or not the tensors of this backbone; then all
            missing, unused and misshapen tensors are named and `module` is as before.
    """
    path = _published_file(spec) if source == "imagenet" else Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if not spec.keras_layers:
        raise UserError(f"backbone {spec.name} reads no weights file; leave the weights out")
    try:
        with h5py.File(path, "r") as file:
            tensors = _keras_tensors(file, path)
            values, top = _matched_values(tensors, module, spec, path)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole HDF5 file ({_one_line(error)}); get the file again"
        ) from error
    for variable, value in values:
        variable[...] = jnp.asarray(value, variable.dtype)
    loaded = LoadedWeights(path, weights_fingerprint(path), len(values), top)
    logging.getLogger(__name__).info(
        "%s: %d tensors from %s (xxh3_128 %s)", spec.name, len(values), path, loaded.fingerprint
    )
    return loaded


def weights_fingerprint(path: str | Path) -> str:
    """xxh3_128 of the file's content, as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def weights_cache_dir() -> Path:
    """Where downloaded weights live: `weights` in PRODUCT_MIL_CACHE or the user's cache."""
    return cache_root() / "weights"


def _published_file(spec: BackboneSpec) -> Path:
    """The published file in the cache, downloaded if need be, its hash checked.

    Where no hash is published, the sha256 of the first download is kept beside the file.
    """
    import pooch

    if spec.weights is None:
        raise UserError(f"backbone {spec.name} has no published weights; name a file or none")
    published = spec.weights
    path = weights_cache_dir() / published.file_name
    remembered = path.with_name(path.name + ".sha256")
    known = published.hash
    if known is None and remembered.is_file():
        known = f"sha256:{remembered.read_text().strip()}"
    pooch.get_logger().setLevel("WARNING")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(published.url, known, path.name, path.parent)
        if published.hash is None and not remembered.is_file():
            remembered.write_text(pooch.file_hash(str(path), alg="sha256") + "\n")
    except ValueError as error:  # pooch: another hash
        raise UserError(f"{path}: {_one_line(error)}; delete the file and try again") from error
    except OSError as error:  # requests' errors are OSErrors too
        raise UserError(
            f"cannot get {published.file_name} ({type(error).__name__}); download {published.url} "
            f"elsewhere and put it at {path}, or name a file instead of 'imagenet'"
        ) from error
    return path


def _keras_tensors(file: h5py.File, path: Path) -> dict[str, dict[str, h5py.Dataset]]:
    """Layer name -> tensor name -> data set, in the file's order, layers without tensors left out.

    A tensor's name is its last part without Keras 2's ":0".
    """
    root = file.get("model_weights", file)
    if not isinstance(root, h5py.Group) or not _names(root, "layer_names"):
        raise UserError(
            f"{path}: an HDF5 file, but not in the layout of Keras' published weights "
            "(no attribute layer_names); save the model with model.save('name.h5')"
        )
    tensors = {}
    for layer in _names(root, "layer_names"):
        for name in _names(root[layer], "weight_names"):
            data = root[f"{layer}/{name}"]
            if not isinstance(data, h5py.Dataset):
                raise KeyError(f"{layer}/{name} is no data set")
            tensor = re.sub(r":\d+$", "", name.split("/")[-1])
            tensors.setdefault(layer, {})[tensor] = data
    return tensors


def _names(group: Any, attribute: str) -> list[str]:
    """A list of strings in attributes; Keras splits long ones into `name0`, `name1`, ..."""
    chunks = [attribute] if attribute in group.attrs else []
    while not chunks or chunks[0] != attribute:
        if f"{attribute}{len(chunks)}" not in group.attrs:
            break
        chunks.append(f"{attribute}{len(chunks)}")
    raw = [name for chunk in chunks for name in np.ravel(group.attrs[chunk])]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in raw]


def _matched_values(
    tensors: dict[str, dict[str, h5py.Dataset]], module: nnx.Module, spec: BackboneSpec, path: Path
) -> tuple[list[tuple[nnx.Variable, np.ndarray]], ImageNetTop | None]:
    """Pair every tensor with one leaf of the module and read it, or raise with all that differ."""
    leaves = {
        ".".join(map(str, where)): variable
        for where, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    }
    unused = {(layer, tensor): data for layer, of in tensors.items() for tensor, data in of.items()}
    missing, misshapen, pairs = [], [], []
    for layer, where in _named_layers(tensors, module, spec):
        for tensor, leaf in KERAS_TENSORS[type(_at(module, where))][1].items():
            variable = leaves.pop(f"{where}.{leaf}", None)
            if variable is None:  # this layer is built without it (a BatchNorm without scale)
                continue
            shape = variable.shape
            data = unused.pop((layer, tensor), None)
            if tensor == "depthwise_kernel":
                shape = (*shape, 1)
                if data is None:  # Keras 3's name
                    data = unused.pop((layer, "kernel"), None)
            if data is None:
                missing.append(f"{layer}/{tensor} {shape}")
            elif data.shape != shape or data.dtype.kind != "f":
                misshapen.append(f"{layer}/{tensor} {data.shape} {data.dtype}, wanted {shape}")
            else:
                pairs.append((variable, data))
    missing += leaves  # leaves that the backbone's list of layers does not reach
    top = _top(unused, spec, misshapen)
    faults = {"missing": missing, "unused": ["/".join(key) for key in unused]}
    faults["misshapen"] = misshapen
    if any(faults.values()):
        told = "; ".join(f"{len(of)} {kind}: {', '.join(of)}" for kind, of in faults.items() if of)
        raise UserError(f"{path}: not the weights of {spec.name}; {told}")
    values = [(variable, data[()].reshape(variable.shape)) for variable, data in pairs]
    return values, top


def _top(
    unused: dict[tuple[str, str], h5py.Dataset], spec: BackboneSpec, misshapen: list[str]
) -> ImageNetTop | None:
    """Take the ImageNet classifier out of `unused`, if the file has one."""
    kernel, bias = unused.pop((TOP, "kernel"), None), unused.pop((TOP, "bias"), None)
    if kernel is None and bias is None:
        return None
    shapes = [None if data is None else data.shape for data in (kernel, bias)]
    classes = shapes[1][0] if shapes[1] else 0
    if kernel is None or bias is None or shapes != [(spec.embedding_dim, classes), (classes,)]:
        misshapen.append(f"{TOP}/kernel {shapes[0]} with bias {shapes[1]}")
        return None
    return ImageNetTop(kernel[()].astype(np.float32), bias[()].astype(np.float32))


def _named_layers(
    tensors: dict[str, dict[str, h5py.Dataset]], module: nnx.Module, spec: BackboneSpec
) -> list[tuple[str, str]]:
    """Give each layer of the backbone its name in this file.

    Keras numbers unnamed layers by how many of the type the process had made before
    (`conv2d_94`), so that only their order counts: the k-th of a type by number is the k-th of
    the type in the backbone's list.
    """
    named = {layer for layer, _ in spec.keras_layers}
    by_type = defaultdict(list)
    for layer in tensors:
        match = re.fullmatch(r"([a-z0-9_]*?[a-z0-9])(?:_(\d+))?", layer)
        if match and layer not in named:
            by_type[match[1]].append((int(match[2] or 0), layer))
    ranked = {stem: iter(sorted(layers)) for stem, layers in by_type.items()}
    result = []
    for name, where in spec.keras_layers:
        stem = KERAS_TENSORS[type(_at(module, where))][0]
        unnamed = (0, f"{stem} (for {where})")
        result.append((name or next(ranked.get(stem, iter(())), unnamed)[1], where))
    return result


def _at(module: Any, path: str) -> nnx.Module:
    for part in path.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
