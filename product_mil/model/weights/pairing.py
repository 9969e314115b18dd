"""Pair the tensors of a weights file with the leaves of a backbone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from product_mil.model.keras_layers import KerasLayer, number_of
from product_mil.model.weights.layers import TENSORS, FileLayer, Tensor


@dataclass
class Pairing:
    """The pairs of a file's tensors and a module's leaves, and everything that is left over."""

    pairs: list[tuple[str, nnx.Variable, Tensor]] = field(default_factory=list)  # by file's name
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    top: dict[str, Tensor] = field(default_factory=dict)

    @property
    def faults(self) -> str:
        """One line with everything that does not fit; empty if all are paired."""
        kinds = {"missing": self.missing, "unused": self.unused, "misshapen": self.misshapen}
        return "; ".join(f"{len(of)} {kind}: {', '.join(of)}" for kind, of in kinds.items() if of)


def pair(
    found: Sequence[FileLayer], layers: Sequence[KerasLayer], module: nnx.Module, dim: int
) -> Pairing:
    """Pair every tensor of a file with one leaf of the module.

    Layers are matched by name; numbered ones are matched by their rank within their kind. If this
    leaves anything over, layers are matched by their rank in the file's order, whatever their
    names. That is how Keras reads the published files.
    """
    found = _without_scales(found, layers, module)
    by_name = _paired(found, layers, _by_name(found, layers), module, dim)
    if not by_name.faults:
        return by_name
    by_rank = _paired(found, layers, _by_rank(found, layers), module, dim)
    return by_name if by_rank.faults else by_rank


def _by_name(found: Sequence[FileLayer], layers: Sequence[KerasLayer]) -> list[FileLayer | None]:
    """For each layer of the backbone, the layer of its name in the file."""
    named = {layer.name: layer for layer in found}
    taken = {name for layer in layers for name in (layer.name, layer.other_name)}
    taken = {name for name in taken if name and all(number_of(name, k) is None for k in TENSORS)}
    numbered: dict[str, list[tuple[int, FileLayer]]] = defaultdict(list)
    for name in named.keys() - taken:
        for kind in TENSORS:
            number = number_of(name, kind)
            if number is not None:
                numbered[kind].append((number, named[name]))
    for of_kind in numbered.values():
        of_kind.sort(key=lambda pair: pair[0])
    result: list[FileLayer | None] = []
    for layer in layers:
        match = named.get(layer.other_name) if layer.other_name else None
        number = number_of(layer.name, layer.kind)
        if match is None and number is None:
            match = named.get(layer.name)
        elif match is None and number is not None and number < len(numbered[layer.kind]):
            match = numbered[layer.kind][number][1]
        result.append(match)
    return result


def _by_rank(found: Sequence[FileLayer], layers: Sequence[KerasLayer]) -> list[FileLayer | None]:
    """For each layer of the backbone, the next of its kind (and container) in the file."""
    ranked: dict[tuple[str, str], list[FileLayer]] = defaultdict(list)
    has_kinds = all(layer.kind for layer in found)  # such a file numbers within each container
    for layer in found:
        container = layer.container if has_kinds else ""
        ranked[layer.kind or _likely_kind(layer), container].append(layer)
    rest = {key: iter(of) for key, of in ranked.items()}
    return [
        next(rest.get((layer.kind, layer.container if has_kinds else ""), iter(())), None)
        for layer in layers
    ]


def _likely_kind(layer: FileLayer) -> str:
    for tensor, kind in (
        ("pointwise_kernel", "separable_conv2d"),
        ("depthwise_kernel", "depthwise_conv2d"),
        ("moving_mean", "batch_normalization"),
        ("gamma", "layer_normalization"),
    ):
        if tensor in layer.tensors:
            return kind
    kernel = layer.tensors.get("kernel")
    return "layer_scale" if kernel is None else "dense" if len(kernel.shape) == 2 else "conv2d"


def _paired(
    found: Sequence[FileLayer],
    layers: Sequence[KerasLayer],
    matches: Sequence[FileLayer | None],
    module: nnx.Module,
    dim: int,
) -> Pairing:
    result = Pairing()
    state = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    leaves = {".".join(map(str, where)): variable for where, variable in state}
    for layer, match in zip(layers, matches, strict=True):
        if layer.path is None:
            if match is not None:
                _take_top(match, dim, result)
            continue
        kind = TENSORS[layer.kind]
        roles = {tensor: leaves.pop(f"{layer.path}.{leaf}", None) for tensor, leaf in kind.items()}
        # A role has no leaf if the layer is built without it, like a BatchNorm without scale.
        roles = {tensor: leaf for tensor, leaf in roles.items() if leaf is not None}
        tensors = {} if match is None else _by_role(match, list(roles))
        numbered = number_of(layer.name, layer.kind) is not None
        name = f"{layer.kind} (for {layer.path})" if numbered else layer.name
        name = name if match is None else match.name
        for tensor, variable in roles.items():
            shape = _file_shape(variable.shape, tensor, layer.kind)
            data = tensors.pop(tensor, None)
            if data is None:
                result.missing.append(f"{name}/{tensor} {shape}")
            elif data.shape != shape or not jnp.issubdtype(data.dtype, jnp.floating):
                result.misshapen.append(
                    f"{name}/{tensor} {data.shape} {data.dtype}, wanted {shape} of a float type"
                )
            else:
                result.pairs.append((f"{name}/{tensor}", variable, data))
        result.unused += [f"{name}/{tensor}" for tensor in tensors]
    result.missing += leaves  # leaves that the backbone's list of layers does not reach
    used = {id(match) for match in matches}
    for layer in found:
        if id(layer) not in used:
            result.unused += [f"{layer.name}/{tensor}" for tensor in layer.tensors]
    return result


def _by_role(layer: FileLayer, roles: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a file's layer by our names; others keep their names."""
    tensors = dict(layer.tensors)
    numbered = all(name.isdigit() for name in tensors)
    if numbered or len(tensors) == len(roles) == 1:
        names = [*roles, *list(tensors)[len(roles) :]]
        return dict(zip(names, tensors.values(), strict=False))
    if "depthwise_kernel" in roles and "kernel" in tensors:  # Keras 3's name of it
        tensors["depthwise_kernel"] = tensors.pop("kernel")
    return tensors


def _file_shape(shape: tuple[int, ...], tensor: str, kind: str) -> tuple[int, ...]:
    """The shape that Keras gives to a tensor whose leaf has this shape."""
    if tensor == "depthwise_kernel":
        return (*shape, 1)  # h w c 1
    if tensor == "pointwise_kernel":
        return (1, 1, *shape)
    if kind == "conv2d" and len(shape) == 3:  # a convolution with as many groups as channels
        return (*shape[:2], 1, shape[2])
    return shape


def _take_top(layer: FileLayer, dim: int, result: Pairing) -> None:
    """Note the ImageNet classifier as the top, or as misshapen if it does not fit the embedding."""
    tensors = _by_role(layer, ("kernel", "bias"))
    shapes = [tensors[name].shape if name in tensors else None for name in ("kernel", "bias")]
    classes = shapes[1][0] if shapes[1] else 0
    if len(tensors) != 2 or shapes != [(dim, classes), (classes,)]:
        result.misshapen.append(f"{layer.name}/kernel {shapes[0]} with bias {shapes[1]}")
    else:
        result.top = tensors


def _without_scales(
    found: Sequence[FileLayer], layers: Sequence[KerasLayer], module: nnx.Module
) -> Sequence[FileLayer]:
    """Move the scale of a PyTorch BatchNorm into the convolution before it, if ours has no scale.

    scale (k * x - mean) / s = (scale k * x - scale mean) / s is exact with running statistics. In
    files converted from TensorFlow, for which this is meant, every scale is 1.
    """
    named = {layer.name: layer for layer in found}
    for conv, norm in pairwise(layers):
        of_conv, of_norm = named.get(conv.name), named.get(norm.name)
        if norm.kind != "batch_normalization" or of_conv is None or of_norm is None:
            continue
        kernel, mean = of_conv.tensors.get("kernel"), of_norm.tensors.get("moving_mean")
        scale = of_norm.tensors.get("gamma")
        if (
            isinstance(kernel, np.ndarray)  # from PyTorch: Keras' own files have no such scale
            and isinstance(mean, np.ndarray)
            and isinstance(scale, np.ndarray)
            and norm.path is not None
            and getattr(_at(module, norm.path), "scale", None) is None
            and kernel.shape[-1:] == mean.shape == scale.shape
        ):
            of_conv.tensors["kernel"] = kernel * scale
            of_norm.tensors["moving_mean"] = mean * scale
            del of_norm.tensors["gamma"]
    return found


def _at(module: Any, path: str) -> nnx.Module:
    for part in path.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module
