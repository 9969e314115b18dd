"""What layers, nets and a training step answer to drawn numbers, in a file of arrays.

    python -m benchmarks.on_gpu.answers layers --output FILE.npz [--default_forms]

checks.py compares the files of two platforms. `--default_forms` computes on a CPU in the forms of
other platforms, so that the comparison itself can be tried where there is no GPU.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.parts.training import batch_of
from product_mil.config import Config, ModelConfig
from product_mil.inference.step import make_embed_step
from product_mil.model.layers.convolutions import conv
from product_mil.model.layers.depthwise import depthwise_conv
from product_mil.model.layers.normalisation import moments, normalise
from product_mil.model.layers.spatial_pools import avg_pool_same, max_pool
from product_mil.runs.model import build_model
from product_mil.train.augment import Ranges
from product_mil.train.losses import Target
from product_mil.train.state import initial_state
from product_mil.train.step import make_train_step

CLASSES = 50
COUNTS = [1, 2, 4, 3, 1, 2, 1, 4, 2, 3, 1]  # images of each product; with padding 32
CHANGED = Ranges(flip=0.5, rotation_deg=15.0, crop=0.2, colors=0.2, erasing=0.3)
Answers = Iterator[tuple[str, Any]]


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers that bfloat16 holds exactly, so that the inputs of all dtypes are the same."""
    numbers = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(jnp.asarray(numbers, "bfloat16"), np.float32)


def layers(dtype: str, _: list[str]) -> Answers:
    """Outputs and gradients of the layers that have a form for each platform."""
    x, narrow = drawn(8, 23, 23, 48), drawn(1, 1, 48, 24, seed=1)
    wide, depth = drawn(3, 3, 48, 24, seed=2), drawn(5, 5, 48, seed=3)
    mask = jnp.arange(8) < 6
    cases: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
        "depthwise 3x3": (partial(depthwise_conv, stride=1, padding="SAME"), [x, depth[:3, :3]]),
        "depthwise 5x5, stride 2": (partial(depthwise_conv, stride=2, padding="SAME"), [x, depth]),
        "1x1 convolution": (partial(conv, stride=1, padding="VALID"), [x, narrow]),
        "1x1 convolution, stride 2": (partial(conv, stride=2, padding="VALID"), [x, narrow]),
        "3x3 convolution, unpadded": (partial(conv, stride=1, padding="VALID"), [x, wide]),
        "3x3 convolution, stride 2": (partial(conv, stride=2, padding="SAME"), [x, wide]),
        "max pool, stride 2": (partial(max_pool, size=3, stride=2, padding="VALID"), [x]),
        "average pool": (avg_pool_same, [x]),
        "moments": (lambda x: jnp.stack(moments(x.astype("float32"), mask)), [x]),
        "normalise": (normalise, [x, *drawn(3, 48, seed=4)]),
    }
    for name, (function, arrays) in cases.items():
        given = [jnp.asarray(array, dtype if array.ndim > 1 else "float32") for array in arrays]

        def answer(dy: Any, *given: Any, f: Callable[..., Any] = function) -> Any:
            out, back = jax.vjp(f, *given)
            return out, back(dy.astype(out.dtype))

        shape = jax.eval_shape(function, *given).shape
        yield name, jax.jit(answer)(jnp.asarray(drawn(*shape, seed=5), dtype), *given)


def nets(dtype: str, backbones: list[str]) -> Answers:
    """Embeddings of each net, with running statistics."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), np.uint8)

    def embeddings(backbone: str) -> Any:
        model = _model(backbone, dtype)
        return make_embed_step(model.structure)(model.parameters, model.statistics, pixels)

    with ThreadPoolExecutor(len(backbones)) as pool:
        yield from zip(backbones, pool.map(embeddings, backbones), strict=True)


def steps(dtype: str, backbones: list[str]) -> Answers:
    """Loss and gradients of a training step with augmentation and dropout.

    With running statistics, since those of a small batch on drawn weights make errors of rounding
    large: two exact forms of EfficientNet-Lite0 then differed by 0.4 % in float32 on one CPU.
    """
    batch = batch_of([COUNTS], 32, 16, 96, CLASSES)

    def step(backbone: str) -> Any:
        model = _model(backbone, dtype)
        keeps_gradients = optax.trace(0.0)
        taken = make_train_step(
            model.structure,
            keeps_gradients,
            target=Target(smoothing=0.1),
            batch_statistics=False,
            ema_decay=0.0,
            ranges=CHANGED,
        )
        state = initial_state(
            model.parameters, model.statistics, keeps_gradients, trainable="all", with_ema=False
        )
        after, loss = taken(state, jax.device_put(batch), jax.random.key(1))
        return {"loss": loss, "gradients": after.optimizer}

    with ThreadPoolExecutor(len(backbones)) as pool:
        for backbone, found in zip(backbones, pool.map(step, backbones), strict=True):
            yield from ((f"{backbone}, {name}", part) for name, part in found.items())


def _model(backbone: str, dtype: Any) -> Any:
    """A net with a head that has an opinion: drawn numbers instead of zeros."""
    config = ModelConfig(
        backbone=backbone,
        weights="imagenet" if backbone == "efficientnet_lite0" else "",
        pooling="posterior_attention",
        dropout=0.2,
        compute_dtype=dtype,
    )
    model, _ = build_model(Config(model=config), CLASSES)
    parameters = {
        path: jnp.asarray(0.05 * drawn(*value.shape, seed=6)) if path.startswith("head/") else value
        for path, value in model.parameters.items()
    }
    return dataclasses.replace(model, parameters=parameters)


KINDS = {"layers": layers, "nets": nets, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers of layers and nets, in a file")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--precision", default="default", help="of products of float32")
    parser.add_argument("--backbones", default="small_cnn")
    parser.add_argument("--default_forms", action="store_true")
    args = parser.parse_args()
    if args.default_forms:
        lax.platform_dependent = lambda *given, default, **_: default(*given)
    with jax.default_matmul_precision(args.precision):
        found = KINDS[args.kind](args.dtype, args.backbones.split(","))
        arrays: dict[str, Any] = {
            f"{name}|{index}": np.asarray(leaf, np.float32)
            for name, tree in found
            for index, leaf in enumerate(jax.tree.leaves(tree))
        }
    np.savez(args.output, **arrays)


if __name__ == "__main__":
    main()
