"""The plans and the number of steps of a stage, and the sizes of its batches."""

import jax
import numpy as np
from jaxtyping import Float, Int

from product_mil.config import Config, StageConfig
from product_mil.data.plan import SequentialPlan
from product_mil.data.products import Products
from product_mil.runs.model import log_prior_of

# Images in one pass through the net on a CPU: with fewer it is slower, with more it takes more
# memory (docs/guide/fine-tuning.md).
PART_IMAGES = 8

# Image slots of a device for calls with any number of products. A call uses the smallest size that
# holds all its images, or else the largest. There are few sizes, because to compile one takes
# seconds. On a CPU small batches are as fast as large ones. A head alone gets at least 64 images,
# because with fewer XLA would sum in another order than in an export.
CALL_SLOTS = {"cpu": (PART_IMAGES // 2, PART_IMAGES)}
CALL_SLOTS_OF_HEAD = {"cpu": (64,)}
CALL_SLOTS_DEFAULT = (16, 256)


def evaluation_plan(products: Products, shards: int, image_slots: int) -> SequentialPlan:
    """The plan that has every product once, in order."""
    return SequentialPlan(products.num_images, shards=shards, image_slots=image_slots)


def call_slots(*, runs_backbone: bool) -> tuple[int, ...]:
    """The numbers of image slots that a device may get in a call, ascending.

    `runs_backbone` says that images pass through the net, and not only through the head.
    """
    of_platform = CALL_SLOTS if runs_backbone else CALL_SLOTS_OF_HEAD
    return of_platform.get(jax.default_backend(), CALL_SLOTS_DEFAULT)


def call_plan(products: Products, shards: int, *, runs_backbone: bool) -> SequentialPlan:
    """The plan that has every product once, in order, in batches of one of `call_slots`."""
    sizes = call_slots(runs_backbone=runs_backbone)
    slots = next((size for size in sizes if shards * size >= products.num_images.sum()), sizes[-1])
    slots = max(slots, products.max_images)
    return SequentialPlan(
        products.num_images, shards=shards, image_slots=slots, product_slots=slots
    )


def prediction_slots(*, runs_backbone: bool) -> int:
    """The default number of image slots of a device: the fastest one that needs little memory.

    A net on a CPU takes few images at a time, and a head alone takes many.
    """
    if not runs_backbone or jax.default_backend() != "cpu":
        return CALL_SLOTS_DEFAULT[-1]
    return PART_IMAGES


def evaluation_slots(config: Config, stage: StageConfig) -> tuple[int, int]:
    """The number of shards, and of image slots in each, of a stage's evaluation batches.

    A net that is trained on a CPU gets `PART_IMAGES` at a time, as in training, to save memory.
    Otherwise batches have the size of training batches.
    """
    if stage.trainable != "head" and jax.default_backend() == "cpu":
        return jax.device_count(), max(PART_IMAGES, config.data.max_images)
    return config.data.shards, stage.images_per_batch // config.data.shards


def stage_num_steps(stage: StageConfig, steps_per_epoch: int) -> int:
    """The number of steps of a stage: its whole epochs, or `max_steps` if that is less.

    If epochs follow from `steps`, small data are seen often enough to converge, and large data at
    least `min_epochs` times (docs/measured/heads.md).
    """
    epochs = stage.epochs
    if epochs < 0:
        epochs = max(-(-stage.steps // steps_per_epoch), stage.min_epochs)
    num_steps = epochs * steps_per_epoch
    return min(num_steps, stage.max_steps) if stage.max_steps else num_steps


def average_decay(stage: StageConfig, num_steps: int) -> float:
    """The decay of the moving average of parameters, as given or by the steps that it covers."""
    if not stage.ema_memory:
        return stage.ema_decay
    return 1 - 1 / max(stage.ema_memory * num_steps, 1)


def step_parts(stage: StageConfig, shards: int) -> int:
    """The number of parts in which a batch passes through the net.

    On a single CPU these have at least `PART_IMAGES` images. There is one part if batch statistics
    need the whole batch, for a frozen net, which keeps nothing for gradients, and on a GPU, which
    is fastest with whole batches.
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
    """Two vectors to add to logits.

    The first goes into the training loss, and corrects for the class frequencies that training
    sees. The second restores the natural frequencies in validation. Both are None if classes are
    drawn as they are, and no adjustment is asked for.
    """
    if not stage.logit_adjustment and draws is None:
        return None, None
    seen = log_prior
    if draws is not None:
        k = len(log_prior)
        seen = log_prior_of(np.bincount(labels, weights=draws, minlength=k))
    adjustment = np.float32(stage.logit_adjustment) * seen
    return adjustment if stage.logit_adjustment else None, adjustment + log_prior - seen
