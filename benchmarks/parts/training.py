"""A model, its state and its steps as a run has them, and batches of drawn pixels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from product_mil.batch import PackedBatch, Slots
from product_mil.config import Config, ModelConfig
from product_mil.data.loader import Loaded
from product_mil.devices.mesh import data_mesh, put_batch, replicate
from product_mil.inference.step import make_predict_step
from product_mil.runs.model import build_model
from product_mil.train.augment import Ranges
from product_mil.train.losses import Target
from product_mil.train.optim import make_optimizer
from product_mil.train.state import TrainState, initial_state
from product_mil.train.step import NOTHING, make_train_step


class Training(NamedTuple):
    state: TrainState  # donated by the step: use a `fresh` one each time
    fresh: Callable[[], TrainState]
    step: Callable[..., tuple[TrainState, Any]]
    predict_step: Any  # of `model` and a batch
    model: tuple[Any, Any]
    log_prior: Any
    key: Any
    mesh: Any

    def predict(self, batch: Any) -> Any:
        return self.predict_step(*self.model, batch, self.log_prior)

    def put(self, batch: PackedBatch) -> Any:
        return put_batch(batch, self.mesh)


def training(
    backbone: str,
    *,
    classes: int,
    dtype: Any = "float32",
    trainable: str = "all",
    batch_statistics: bool = True,
    pooling: str = "posterior_attention",
    ranges: Ranges = NOTHING,
) -> Training:
    """The step of a stage on random weights, as configs/joint.py:cdiscount has it."""
    model_config = ModelConfig(backbone=backbone, pooling=pooling, compute_dtype=dtype)
    model, _ = build_model(Config(model=model_config), classes)
    optimizer = make_optimizer(
        "nadamw",
        learning_rate=1e-4,
        num_steps=1000,
        warmup_fraction=0.1,
        weight_decay=1e-4,
        clip_norm=1.0,
    )
    step = make_train_step(
        model.structure,
        optimizer,
        target=Target(smoothing=0.1),
        batch_statistics=batch_statistics,
        ema_decay=0.0,
        ranges=ranges,
    )
    mesh = data_mesh(jax.device_count())

    def fresh() -> TrainState:
        state = initial_state(
            model.parameters, model.statistics, optimizer, trainable=trainable, with_ema=False
        )
        return replicate(state, mesh)

    predict_step = make_predict_step(model.structure, topk=10, keep_all=False)
    arrays = replicate((model.parameters, model.statistics), mesh)
    log_prior = np.full(classes, -np.log(classes), np.float32)

    key = replicate(jax.random.key(0), mesh)
    return Training(fresh(), fresh, step, predict_step, arrays, log_prior, key, mesh)


def batch_of(
    counts: list[list[int]], image_slots: int, product_slots: int, size_px: int, classes: int
) -> PackedBatch:
    """Random pixels for products of these numbers of images, shard by shard."""
    shards = len(counts)
    random = np.random.default_rng(0)
    segment = np.full((shards, image_slots), product_slots, np.int32)
    image_index = np.zeros((shards, image_slots), np.int32)
    label = np.full((shards, product_slots), -1, np.int32)
    for shard, of in enumerate(counts):
        owners = np.repeat(np.arange(len(of)), of)
        segment[shard, : len(owners)] = owners
        image_index[shard, : len(owners)] = np.concatenate([np.arange(c) for c in of])
        label[shard, : len(of)] = random.integers(0, classes, len(of))
    images = random.integers(0, 256, (shards, image_slots, size_px, size_px, 3), np.uint8)
    return PackedBatch(images, Slots(segment, image_index, label))


def loaded_of(batch: PackedBatch) -> Loaded:
    return Loaded(batch, np.where(batch.slots.label >= 0, 0, -1).astype(np.int64), [])
