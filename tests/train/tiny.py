"""A tiny classifier, its batches and its training step, for tests of what works on any model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from product_mil.batch import PackedBatch, Slots
from product_mil.model.classifier import Classifier, merge_model, split_model
from product_mil.model.heads.common import HeadOutput
from product_mil.train.augment import Ranges
from product_mil.train.losses import Target
from product_mil.train.optim import make_optimizer
from product_mil.train.state import initial_state
from product_mil.train.step import make_train_step
from tests.model.heads.head_cases import built_head

S, N, P, D, K, PX = 4, 6, 4, 8, 5, 6
KEY = jax.random.key(0)
EVERYTHING = Ranges(0.5, 30.0, 10.0, 0.1, 0.2, 0.2, 0.3, 0.5)
LOG_PRIOR = np.log(np.asarray([0.1, 0.3, 0.2, 0.25, 0.15], np.float32))


class TinyNet(nnx.Module):
    """A matrix product and a BatchNorm: all that a step has to know of a backbone."""

    def __init__(self, *, rngs: nnx.Rngs):
        # No bias: BatchNorm subtracts it again, and Adam would blow up its gradient's rounding.
        self.dense = nnx.Linear(PX * PX * 3, D, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(D, momentum=0.9, rngs=rngs, use_fast_variance=False)

    def __call__(
        self,
        pixels: Array,
        *,
        use_running_statistics: bool,
        mask: Array | None = None,
        keys: Array | None = None,
    ) -> Array:
        # Named by the parameters, so that a test in float64 computes in float64 throughout.
        x = pixels.reshape(len(pixels), -1).astype(self.dense.kernel[...].dtype) / 127.5 - 1
        if mask is not None:
            mask = mask[:, None]
            x = jnp.where(mask, x, 0)
        x = self.norm(self.dense(x), use_running_average=use_running_statistics, mask=mask)
        return nnx.relu(x)


def model_of(pooling: str = "gated_attention", dropout_rate: float = 0.0) -> Any:
    rngs = nnx.Rngs(0)
    head = built_head(pooling, D, K, dropout_rate=dropout_rate, rngs=rngs)
    return split_model(Classifier(TinyNet(rngs=rngs), head))


def batch_of(seed: int, s: int = S) -> PackedBatch:
    """Products of 1 to 3 images, with padding, an empty product and an unlabelled one."""
    rng = np.random.default_rng(seed)
    segment = np.tile(np.asarray([0, 1, 1, 2, 2, P], np.int32), (s, 1))
    segment[1 % s] = [P, 0, 0, 0, 1, P]
    place = np.tile(np.asarray([0, 0, 1, 0, 1, 0], np.int32), (s, 1))
    label = rng.integers(0, K, (s, P)).astype(np.int32)
    label[:, 3] = -1
    label[1 % s] = [2, -1, -1, -1]
    images = rng.integers(0, 256, (s, N, PX, PX, 3)).astype(np.uint8)
    return PackedBatch(images, Slots(segment, place, label))


def optimizer_of(name: str = "adamw") -> Any:
    return make_optimizer(
        name,
        learning_rate=3e-2,
        num_steps=60,
        warmup_fraction=0.1,
        weight_decay=1e-3,
        clip_norm=1.0,
    )


@functools.cache
def prepared(
    pooling: str = "gated_attention",
    dropout_rate: float = 0.0,
    *,
    optimizer: str = "adamw",
    batch_statistics: bool = True,
    ema_decay: float = 0.75,
    ranges: Ranges = Ranges(),  # noqa: B008, a tuple
    attention_weighted_from_step: int | None = None,
    num_parts: int = 1,
) -> Any:
    """Structure, arrays, optimiser and train step; tests share what they compile."""
    structure, *arrays = model_of(pooling, dropout_rate)
    rule = optimizer_of(optimizer)
    step = make_train_step(
        structure,
        rule,
        target=Target(0.1),
        batch_statistics=batch_statistics,
        ema_decay=ema_decay,
        ranges=ranges,
        attention_weighted_from_step=attention_weighted_from_step,
        num_parts=num_parts,
    )
    return structure, arrays, rule, step


frozen_stage = functools.partial(prepared, batch_statistics=False, ema_decay=0.0)


def start(arrays: Any, optimizer: Any, trainable: str = "all") -> Any:
    parameters, statistics = arrays
    return initial_state(
        parameters, statistics, optimizer, trainable=trainable, with_ema=trainable == "all"
    )


@functools.partial(jax.jit, static_argnums=0)
def forward(structure: Any, arrays: Any, batch: PackedBatch) -> HeadOutput:
    return merge_model(structure, *arrays)(batch, use_running_statistics=True, key=None)


def host(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:devices]), ("data",))
