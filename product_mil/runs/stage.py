"""A stage of training: its plan, its step, its evaluation, and the state that it starts from."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

import product_mil
from product_mil.config import Config, StageConfig
from product_mil.data.faults import FaultList
from product_mil.data.loader import Loaded
from product_mil.data.plan import SequentialPlan, ShuffledPlan, balanced_draws
from product_mil.data.products import Products
from product_mil.devices.mesh import replicate
from product_mil.devices.runtime import peak_flops_per_s
from product_mil.inference.metrics import metrics_of, score_products
from product_mil.inference.step import make_eval_step
from product_mil.inference.trust import TRUST, collect_nll, fit_trust, make_trust_step
from product_mil.model.classifier import Arrays, Model
from product_mil.model.registry import backbone, blocks_of
from product_mil.runs.data import RunData
from product_mil.runs.feed import Feed, open_feed
from product_mil.runs.model import log_prior_of
from product_mil.train.augment import Ranges
from product_mil.train.log import RunLog
from product_mil.train.loop import Stage
from product_mil.train.losses import Target
from product_mil.train.optim import make_optimizer, rate_factors
from product_mil.train.record import FORMAT
from product_mil.train.state import TrainState, initial_state
from product_mil.train.step import make_train_step

# In one pass through the net on a CPU: fewer are slower, more take memory (docs/fine-tuning.md).
PART_IMAGES = 8


def run_record(config: Config, data: RunData, model: Model) -> dict[str, Any]:
    """What travels with the weights of a run: enough to predict without the run's data."""
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "categories": data.categories.to_json(),
        "class_counts": data.class_counts.tolist(),
        "data_fingerprint": data.fingerprint,
        "version": product_mil.__version__,
        "parameters": int(sum(np.prod(leaf.shape) for leaf in model.parameters.values())),
    }


def evaluation_plan(products: Products, shards: int, image_slots: int) -> SequentialPlan:
    """Every product once, in order."""
    return SequentialPlan(products.num_images, shards=shards, image_slots=image_slots)


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


def build_stage(
    config: Config,
    name: str,
    earlier: tuple[str, ...],
    data: RunData,
    model: Model,
    mesh: Mesh,
    record: dict[str, Any],
    log: RunLog,
    faults: FaultList,
    deadline: float = math.inf,
) -> tuple[Stage, Callable[[Model], TrainState]]:
    """A stage, and the state in which it starts from a model like this one.

    It stops at the deadline of `time.monotonic`.
    """
    settings: StageConfig = getattr(config, name)
    shards, image_slots = config.data.shards, settings.images_per_batch // config.data.shards
    draws = None
    if config.data.balance_power:
        draws = balanced_draws(data.train.labels, config.data.balance_power)
    plan = ShuffledPlan(
        data.train.num_images,
        shards=shards,
        image_slots=image_slots,
        seed=config.seed,
        draws=draws,
        labels=data.train.labels,
    )
    valid_plan = evaluation_plan(data.valid, *evaluation_slots(config, settings))
    num_steps = stage_num_steps(settings, plan.num_steps)
    epochs = -(-num_steps // plan.num_steps)
    blocks = () if settings.trainable == "head" else blocks_of(backbone(config.model.backbone))
    optimizer = make_optimizer(
        settings.optimizer,
        learning_rate=settings.learning_rate,
        num_steps=max(num_steps, 1),
        warmup_fraction=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        rate_factors=rate_factors(model.parameters, blocks, settings.learning_rate_decay),
    )
    log_prior = log_prior_of(data.class_counts)
    adjustment, restoring = adjustments(settings, data.train.labels, draws, log_prior)
    decay = average_decay(settings, num_steps)
    ranges = Ranges(**dataclasses.asdict(settings.augment))
    train_step = make_train_step(
        model.structure,
        optimizer,
        target=Target(
            settings.label_smoothing,
            adjustment,
            (settings.level1_loss, settings.level2_loss),
            (data.categories.level1, data.categories.level2),
        ),
        batch_statistics=settings.batch_statistics,
        ema_decay=decay,
        ranges=ranges,
        attention_weighted_from_step=(
            round(settings.attention_weighted_from * num_steps)
            if settings.attention_weighted_from < 1
            else None
        ),
        num_parts=step_parts(settings, config.data.shards),
    )
    eval_step = make_eval_step(model.structure)
    trust_step = make_trust_step(model.structure, restoring)

    @functools.cache
    def feed() -> Feed:
        """Opened at the first batch: a stage that is already complete needs none."""
        selections = (data.train, data.valid)
        opened = open_feed(config, model, selections, mesh, stage=settings, deadline=deadline)
        if opened.note:
            log.say(f"  {opened.note}")
        faults.add(opened.faults)
        return opened

    def train_batches(first_step: int) -> Iterator[Loaded]:
        return feed().batches(data.train, plan, num_steps=num_steps, first_step=first_step)

    def valid_batches() -> Iterator[Loaded]:
        return feed().batches(data.valid, valid_plan)

    def calibrate(parameters: Arrays, statistics: Arrays) -> Arrays:
        if TRUST not in statistics:
            return statistics
        nll = collect_nll(
            len(data.valid),
            valid_batches(),
            Model(model.structure, parameters, statistics).bound(trust_step),
            mesh,
        )
        scored = (data.valid.labels >= 0) & (data.valid.num_images > 0)
        trust = fit_trust(nll[scored], data.valid.num_images[scored] > 1)
        return {**statistics, TRUST: jax.device_put(trust, statistics[TRUST].sharding)}

    def evaluate(parameters: Arrays, statistics: Arrays) -> dict[str, float]:
        scores, unreadable = score_products(
            len(data.valid),
            valid_batches(),
            Model(model.structure, parameters, statistics).bound(eval_step, log_prior),
            mesh,
        )
        faults.add(unreadable)
        values = metrics_of(scores, data.valid, data.categories)
        if TRUST in statistics:
            one, several = np.asarray(statistics[TRUST]).tolist()
            values |= {"trust_one_image": one, "trust_several_images": several}
        return values

    stage = Stage(
        name=name,
        num_steps=num_steps,
        # Each epoch; a stage of very many short epochs is looked at about 40 times.
        evaluate_every_steps=plan.num_steps * -(-epochs // 40),
        patience_evaluations=settings.patience_evaluations,
        checkpoint_every_s=config.checkpoint_every_s,
        train_step=train_step,
        calibrate=calibrate,
        evaluate=evaluate,
        batches=train_batches,
        key=replicate(jax.random.fold_in(jax.random.key(config.seed), len(earlier)), mesh),
        mesh=mesh,
        run_record={**record, "stage": name},
        peak_flops_per_s=peak_flops_per_s(config.model.compute_dtype),
        deadline=deadline,
    )

    def start(model: Model) -> TrainState:
        return initial_state(
            model.parameters,
            model.statistics,
            optimizer,
            trainable=settings.trainable,
            blocks=blocks,
            with_ema=decay > 0,
        )

    return stage, start
