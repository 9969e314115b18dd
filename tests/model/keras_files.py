"""Keras' own nets with random weights, saved in the layouts that weights files come in."""

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.model import keras_lite0

# Of each backbone: its function in keras.applications, and Keras' scaling of its pixels.
NETS = {
    "convnext_tiny": ("ConvNeXtTiny", 0.0),
    "efficientnet_lite0": ("", 0.0),  # tests/model/keras_lite0.py
    "efficientnet_v2_s": ("EfficientNetV2S", 0.0),
    "inception_resnet_v2": ("InceptionResNetV2", 127.5),
    "inception_v3": ("InceptionV3", 127.5),
    "mobilenet_v2": ("MobileNetV2", 127.5),
    "resnet50_v2": ("ResNet50V2", 127.5),
    "xception": ("Xception", 127.5),
}


def scaled(name: str, pixels: np.ndarray) -> np.ndarray:
    """Pixels as Keras' net wants them (0: it scales by itself)."""
    half = NETS[name][1]
    if name == "efficientnet_lite0":
        return (pixels.astype(np.float32) - 127.0) / 128.0
    return pixels.astype(np.float32) / half - 1.0 if half else pixels.astype(np.float32)


def build(keras: Any, name: str, seed: int = 0) -> Any:
    """The net for any image size, with an ImageNet top; outputs embedding and logits.

    Every weight is random, stochastic depth is off, numbered names begin at 0.
    """
    keras.utils.clear_session()
    if name == "efficientnet_lite0":
        net = keras_lite0.build(keras)
    else:
        make = getattr(keras.applications, NETS[name][0])
        net = make(weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3))
    embedding, top = net.output, "predictions"
    if name == "convnext_tiny":  # with the top, Keras names the last normalisation
        norm = keras.layers.LayerNormalization(epsilon=1e-6, name="convnext_tiny_head_layernorm")
        embedding, top = norm(net.layers[-2].output), "convnext_tiny_head_dense"
    logits = keras.layers.Dense(1000, name=top)(embedding)
    both = keras.Model(net.input, [embedding, logits])
    random = np.random.default_rng(seed)
    both.set_weights([_random_like(random, variable) for variable in both.weights])
    for layer in both.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return both


def fixed_size(keras: Any, net: Any, size_px: int) -> Any:
    """MobileNetV2 with the weights of `net` for one size of images: the embedding alone."""
    fixed = keras.applications.MobileNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=(size_px, size_px, 3)
    )
    fixed.set_weights(net.get_weights()[:-2])
    return fixed


def _random_like(random: np.random.Generator, variable: Any) -> np.ndarray:
    """Random values through which float32 carries: no layer explodes, starves or saturates.

    With others the nets are chaotic: Keras compiled twice disagrees with itself.
    """
    shape, name = variable.shape, variable.path.rsplit("/", 1)[-1]
    if name == "moving_variance":
        return random.uniform(0.5, 1.5, shape)
    if name == "gamma":
        return random.uniform(0.5, 1.3, shape)
    if name == "beta":
        return random.normal(0.4, 0.3, shape)
    if "se_reduce" in variable.path or "se_expand" in variable.path:
        return random.normal(size=shape) * 0.3 / max(shape[-2:]) ** 0.5
    if name.endswith("kernel"):  # one filter sees its taps only in a depthwise layer
        depthwise = "depthwise" in variable.path or "dwconv" in variable.path
        fan_in = np.prod(shape[:2]) if depthwise and len(shape) == 4 else np.prod(shape[:-1])
        return random.normal(size=shape) * (2.0 / fan_in) ** 0.5
    return random.normal(size=shape) * 0.3


def save(net: Any, path: Path) -> Path:
    """As Keras 3 writes it: legacy layout for `.h5`, numbered layout for `.weights.h5`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.name.endswith(".weights.h5"):
            net.save_weights(path)
        else:
            net.save(path)
    return path


def save_as_published(keras: Any, net: Any, path: Path, made_before: int = 94) -> Path:
    """The layout and naming of Keras 2, whose process had made `made_before` of each kind."""
    with h5py.File(path, "w") as file:
        names = []
        for layer in net.layers:
            stem, _, number = layer.name.rpartition("_")
            kind = layer.name if not number.isdigit() else stem
            if kind in ("conv2d", "batch_normalization", "layer_normalization"):
                count = int(number) if number.isdigit() else 0
                name = f"{kind}_{count + made_before}"
            else:
                name = layer.name
            names.append(name.encode())
            group = file.create_group(name)
            tensors = {}
            inner = layer.layers if isinstance(layer, keras.Sequential) else [layer]
            for of in inner:
                prefix = of.name if of is not layer else name
                for variable in of.weights:
                    tensors[f"{prefix}/{_keras_2_name(keras, of, variable)}:0"] = variable
            group.attrs["weight_names"] = [key.encode() for key in tensors]
            for key, variable in tensors.items():
                group.create_dataset(key, data=np.asarray(variable.value))
        for index, chunk in enumerate(np.array_split(np.asarray(names), 4)):  # Keras splits it
            file.attrs[f"layer_names{index}"] = chunk
    return path


def _keras_2_name(keras: Any, layer: Any, variable: Any) -> str:
    if isinstance(layer, keras.layers.DepthwiseConv2D) and variable.name == "kernel":
        return "depthwise_kernel"
    return "Variable" if variable.name == "variable" else variable.name  # ConvNeXt's layer scale
