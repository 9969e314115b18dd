"""Backbones against Keras on JAX, and the two forms of their depthwise convolutions.

    python -m benchmarks.parts.depthwise --backbones mobilenet_v2,xception --batch 16 --repeats 3

needs the extra `test` (Keras). Both sides run in turns in one process, compiled by `jax.jit`,
with the same BatchNorm mode; a step is loss, gradients, SGD and new statistics. Shown is the best
of the repeats: wall time, and CPU time of the process, which a busy machine disturbs less.
"""

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
from flax import nnx
from jax import lax

from product_mil.devices.runtime import keep_freed_memory
from product_mil.model.layers.depthwise import depthwise_conv, depthwise_conv_lax
from product_mil.model.registry import backbone
from tests.model import keras_lite0

Case = tuple[str, str, Callable, tuple]  # what is done, by whom, function, arguments

KERAS_NETS = {
    "convnext_tiny": "ConvNeXtTiny",
    "efficientnet_lite0": "",  # tests/model/keras_lite0.py
    "efficientnet_v2_s": "EfficientNetV2S",
    "inception_resnet_v2": "InceptionResNetV2",
    "inception_v3": "InceptionV3",
    "mobilenet_v2": "MobileNetV2",
    "resnet50_v2": "ResNet50V2",
    "xception": "Xception",
}
# Depthwise layers of the mobile nets, Xception and ConvNeXt-Tiny at 180 px: height and width,
# channels, kernel size, stride.
LAYERS = [
    (90, 32, 3, 1),
    (90, 96, 3, 2),
    (45, 144, 3, 1),
    (12, 384, 3, 1),
    (6, 960, 3, 1),
    (87, 128, 3, 1),
    (22, 728, 3, 1),
    (11, 728, 3, 1),
    (45, 144, 5, 2),
    (12, 672, 5, 1),
    (45, 96, 7, 1),
    (11, 384, 7, 1),
]


def layer_cases(batch: int) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for size, features, taps, stride in LAYERS:
        x = jnp.asarray(random.normal(size=(batch, size, size, features)), jnp.float32)
        kernel = jnp.asarray(random.normal(size=(taps, taps, features)), jnp.float32)
        pads = tuple(lax.padtype_to_pads((size, size), (taps, taps), (stride, stride), "SAME"))
        forms = {"ours": depthwise_conv, "library": depthwise_conv_lax}
        name = f"depthwise {taps}x{taps}, {size} px, {features} channels, stride {stride},"
        for who, form in forms.items():
            function = partial(_apply, form, stride, pads)
            yield f"{name} forward", who, function, (x, kernel)
            yield f"{name} gradients", who, jax.grad(_squares(function), (0, 1)), (x, kernel)


def _apply(form: Callable, stride: int, pads, x, kernel):
    return form(x, kernel, stride, pads)


def _squares(function: Callable) -> Callable:
    return lambda *arguments: jnp.square(function(*arguments)).mean()


def keras_net(name: str, size_px: int) -> Any:
    """Keras' net without a top, its weights random."""
    if name == "efficientnet_lite0":
        return keras_lite0.build(keras)
    make = getattr(keras.applications, KERAS_NETS[name])
    shape = (size_px, size_px, 3)
    return make(input_shape=shape, weights=None, include_top=False, pooling="avg")


def net_cases(name: str, batch: int, size_px: int) -> Iterator[Case]:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size_px, size_px, 3), np.uint8)
    graph, parameters, statistics = nnx.split(
        backbone(name).build(rngs=nnx.Rngs(0)), nnx.Param, nnx.BatchStat
    )
    net = keras_net(name, size_px)
    for layer in net.layers:
        if isinstance(layer, keras.layers.Dropout):  # stochastic depth; ours is off without a key
            layer.rate = 0.0

    def ours(parameters, statistics, pixels, *, batch_statistics):
        module = nnx.merge(graph, parameters, statistics)
        embedding = module(pixels, use_running_statistics=not batch_statistics)
        return embedding, nnx.as_pure(nnx.state(module, nnx.BatchStat))

    def theirs(parameters, statistics, pixels, *, batch_statistics):
        scaled = pixels.astype(jnp.float32) / 127.5 - 1.0  # right or not for this net: same cost
        return net.stateless_call(parameters, statistics, scaled, training=batch_statistics)

    states = {
        "ours": (ours, nnx.as_pure(parameters), nnx.as_pure(statistics)),
        "Keras": (
            theirs,
            [variable.value for variable in net.trainable_variables],
            [variable.value for variable in net.non_trainable_variables],
        ),
    }
    for who, (embed, *state) in states.items():
        forward = partial(embed, batch_statistics=False)
        yield f"{name} forward {size_px} px", who, forward, (*state, pixels)
        for batch_statistics in (False, True):
            mode = "batch" if batch_statistics else "running"
            step = _training_step(partial(embed, batch_statistics=batch_statistics))
            yield f"{name} step {size_px} px, {mode} statistics", who, step, (*state, pixels)


def _training_step(embed: Callable) -> Callable:
    def loss(parameters, statistics, pixels):
        embedding, statistics = embed(parameters, statistics, pixels)
        return jnp.square(embedding).mean(), statistics

    def step(parameters, statistics, pixels):
        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(
            parameters, statistics, pixels
        )
        parameters = jax.tree.map(lambda p, g: p - 1e-3 * g, parameters, gradients)
        return parameters, statistics, value

    return step


def best_times_s(cases: list[Case], repeats: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Best wall and CPU time of each case; every round runs every case once."""
    compiled = {
        (what, who): (jax.jit(function).lower(*arguments).compile(), arguments)
        for what, who, function, arguments in cases
    }
    times = {key: [] for key in compiled}
    for _ in range(repeats + 1):  # the first round warms up
        for key, (function, arguments) in compiled.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(function(*arguments))
            times[key].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        key: (min(wall for wall, _ in of[1:]), min(cpu for _, cpu in of[1:]))
        for key, of in times.items()
    }


def main() -> None:
    keep_freed_memory()  # as a run does, and for the rivals too
    parser = argparse.ArgumentParser(description="Backbones against Keras on JAX")
    parser.add_argument("--backbones", default="mobilenet_v2,xception")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size_px", type=int, default=180)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", action="store_true", help="the single layers too")
    arguments = parser.parse_args()
    cases: list[Case] = []
    for name in arguments.backbones.split(","):
        cases += net_cases(name, arguments.batch, arguments.size_px)
    if arguments.layers:
        cases += layer_cases(arguments.batch)
    times = best_times_s(cases, arguments.repeats)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, {jax.devices()[0].device_kind}, jax {jax.__version__}, "
        f"Keras {keras.__version__}, batch {arguments.batch}, float32"
    )
    print("\n| | wall, ours | wall, other | times | CPU, ours | CPU, other | times | images/s |")
    print("|---|---|---|---|---|---|---|---|")
    for what in dict.fromkeys(what for what, _ in times):
        wall, cpu = times[what, "ours"]
        other = "library" if what.startswith("depthwise") else "Keras"
        other_wall, other_cpu = times[what, other]
        print(
            f"| {what}, against {other} | {wall:.3f} s | {other_wall:.3f} s "
            f"| {other_wall / wall:.1f} | {cpu:.3f} s | {other_cpu:.3f} s "
            f"| {other_cpu / cpu:.1f} | {arguments.batch / wall:.0f} |"
        )


if __name__ == "__main__":
    main()
