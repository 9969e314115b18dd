"""A layer of a weights file, and what its tensors are called."""

from typing import NamedTuple

import h5py
import numpy as np

Tensor = h5py.Dataset | np.ndarray


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
