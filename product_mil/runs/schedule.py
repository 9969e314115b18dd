"""The numbers of a stage: its plans, its steps, and in what portions its batches are computed."""

import jax
import numpy as np
from jaxtyping import Float, Int

from product_mil.config import Config, StageConfig
from product_mil.data.plan import SequentialPlan
from product_mil.data.products import Products
from product_mil.runs.model import log_prior_of

# In one pass through the net on a CPU: fewer are slower, more take memory
# (docs/guide/fine-tuning.md).
PART_IMAGES = 8

# Image slots of a device where products come in calls of any size: a call takes the smallest that
# holds all its images, or else the largest. There are few, because each is compiled: that takes
# seconds. On a CPU small batches are as fast as any; a head alone has many products at a time in an
# export, and XLA sums in another order where there are fewer than 64.
CALL_SLOTS = {"cpu": (PART_IMAGES // 2, PART_IMAGES)}
CALL_SLOTS_OF_HEAD = {"cpu": (64,)}
CALL_SLOTS_ELSEWHERE = (16, 256)


def evaluation_plan(products: Products, shards: int, image_slots: int) -> SequentialPlan:
    """Every product once, in order."""
    return SequentialPlan(products.num_images, shards=shards, image_slots=image_slots)


def call_plan(products: Products, shards: int, *, runs_backbone: bool) -> SequentialPlan:
    """Every product once, in order, in batches of one of few shapes.

    `runs_backbone` says that images go through the net, and not to the head alone.
    """
    of_platform = CALL_SLOTS if runs_backbone else CALL_SLOTS_OF_HEAD
    sizes = of_platform.get(jax.default_backend(), CALL_SLOTS_ELSEWHERE)
    slots = next((size for size in sizes if shards * size >= products.num_images.sum()), sizes[-1])
    slots = max(slots, products.max_images)
    return SequentialPlan(
        products.num_images, shards=shards, image_slots=slots, product_slots=slots
    )


def prediction_slots(*, runs_backbone: bool) -> int:
    """Image slots of a device where nobody says how many: what is fastest, in little memory.

    A net on a CPU takes few images at a time; a head alone takes many.
    """
    if not runs_backbone or jax.default_backend() != "cpu":
        return CALL_SLOTS_ELSEWHERE[-1]
    return PART_IMAGES


def evaluation_slots(config: Config, stage: StageConfig) -> tuple[int, int]:
    """Shards, and image slots of each, of the batches that a stage is evaluated in.

    On a CPU a net that learns sees `PART_IMAGES` at a time, as in training, for the sake of memory;
    otherwise batches are those of training.
    """
    if stage.trainable != "head" and jax.default_backend() == "cpu":
        return jax.device_count(), max(PART_IMAGES, config.data.max_images)
    return config.data.shards, stage.images_per_batch // config.data.shards


def stage_num_steps(stage: StageConfig, steps_per_epoch: int) -> int:
    """Whole epochs, as many as the stage asks for, or its `max_steps` where those are fewer.

    By steps, small data is seen often enough to converge and large data at least `min_epochs`
    times (docs/measured/heads.md).
    """
    epochs = stage.epochs
    if epochs < 0:
        epochs = max(-(-stage.steps // steps_per_epoch), stage.min_epochs)
    num_steps = epochs * steps_per_epoch
    return min(num_steps, stage.max_steps) if stage.max_steps else num_steps


def average_decay(stage: StageConfig, num_steps: int) -> float:
    """The decay of the average of parameters: as given, or by the share it reaches back over."""
    if not stage.ema_memory:
        return stage.ema_decay
    return 1 - 1 / max(stage.ema_memory * num_steps, 1)


def step_parts(stage: StageConfig, shards: int) -> int:
    """In how many parts a batch goes through the net: on one CPU, of at least `PART_IMAGES` images.

    Statistics of a batch need all of it at once, a frozen net keeps nothing for a gradient, and a
    GPU is fastest with whole batches.
    """
    devices = jax.devices()
    whole = stage.batch_statistics or stage.trainable == "head"
    if whole or len(devices) > 1 or devices[0].platform != "cpu":
        return 1
    most = max(stage.images_per_batch // PART_IMAGES, 1)
    return max(parts for parts in range(1, most + 1) if shards % parts == 0)


def adjustments(
    stage: StageConfig,
    labels: Int[np.ndarray, " N"],
    draws: Float[np.ndarray, " N"] | None,
    log_prior: Float[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, " k"] | None, Float[np.ndarray, " k"] | None]:
    """What is added to logits in the loss, and what on validation products as they come.

    Both None where classes are drawn as they are and no adjustment is asked for. The loss goes by
    the frequencies that training sees; the second one undoes the sampling besides.
    """
    if not stage.logit_adjustment and draws is None:
        return None, None
    seen = log_prior
    if draws is not None:
        k = len(log_prior)
        seen = log_prior_of(np.bincount(labels, weights=draws, minlength=k))
    adjustment = np.float32(stage.logit_adjustment) * seen
    return adjustment if stage.logit_adjustment else None, adjustment + log_prior - seen
