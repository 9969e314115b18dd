"""Build a stage of training: its batches, its steps, and the state from which it starts."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from product_mil.config import Config, StageConfig
from product_mil.data.faults import FaultList
from product_mil.data.loader import Loaded
from product_mil.data.plan import SequentialPlan, ShuffledPlan, balanced_draws
from product_mil.devices.mesh import replicate
from product_mil.devices.runtime import peak_flops_per_s
from product_mil.model.classifier import Model
from product_mil.model.registry import backbone, blocks_of
from product_mil.runs.data import RunData
from product_mil.runs.feed import Feed, open_feed
from product_mil.runs.model import log_prior_of
from product_mil.runs.schedule import (
    adjustments,
    average_decay,
    evaluation_plan,
    evaluation_slots,
    stage_num_steps,
    step_parts,
)
from product_mil.runs.validation import Validation
from product_mil.train.augment import Ranges
from product_mil.train.log import RunLog
from product_mil.train.loop import Stage
from product_mil.train.losses import Target
from product_mil.train.optim import make_optimizer, rate_factors
from product_mil.train.record import FORMAT
from product_mil.train.state import TrainState, initial_state
from product_mil.train.step import make_train_step
from product_mil.version import __version__


def run_record(config: Config, data: RunData, model: Model) -> dict[str, Any]:
    """The record that checkpoints keep with the weights, enough to predict without the data."""
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "categories": data.categories.to_json(),
        "class_counts": data.class_counts.tolist(),
        "data_fingerprint": data.fingerprint,
        "version": __version__,
        "parameters": int(sum(np.prod(leaf.shape) for leaf in model.parameters.values())),
    }


@dataclass(frozen=True)
class RunParts:
    """Everything that the stages of a run have in common."""

    config: Config
    data: RunData
    model: Model  # before the first stage
    mesh: Mesh
    record: dict[str, Any]  # of `run_record`
    log: RunLog
    faults: FaultList
    deadline: float = math.inf  # value of `time.monotonic` at which each stage stops


@dataclass(frozen=True)
class StageBatches:
    """The batches of a stage, for training and for validation."""

    run: RunParts
    settings: StageConfig
    plan: ShuffledPlan
    valid_plan: SequentialPlan
    num_steps: int

    @cached_property
    def feed(self) -> Feed:
        """The source of batches, opened at the first one, since a complete stage needs none."""
        run = self.run
        selections = (run.data.train, run.data.valid)
        opened = open_feed(
            run.config, run.model, selections, run.mesh, stage=self.settings, deadline=run.deadline
        )
        if opened.note:
            run.log.say(f"  {opened.note}")
        run.faults.add(opened.faults)
        return opened

    def train(self, first_step: int) -> Iterator[Loaded]:
        """The training batches from a step on."""
        return self.feed.batches(
            self.run.data.train, self.plan, num_steps=self.num_steps, first_step=first_step
        )

    def valid(self) -> Iterator[Loaded]:
        """Batches with every validation product once."""
        return self.feed.batches(self.run.data.valid, self.valid_plan)


def build_stage(
    run: RunParts, name: str, number: int
) -> tuple[Stage, Callable[[Model], TrainState]]:
    """A stage, and a function that returns its first state for a model like the run's.

    `number` counts the stages that the run trains, from 0.
    """
    config, data, model = run.config, run.data, run.model
    settings: StageConfig = getattr(config, name)
    draws = None
    if config.data.balance_power:
        draws = balanced_draws(data.train.labels, config.data.balance_power)
    plan = ShuffledPlan(
        data.train.num_images,
        shards=config.data.shards,
        image_slots=settings.images_per_batch // config.data.shards,
        seed=config.seed,
        draws=draws,
        labels=data.train.labels,
    )
    valid_plan = evaluation_plan(data.valid, *evaluation_slots(config, settings))
    num_steps = stage_num_steps(settings, plan.num_steps)
    epochs = -(-num_steps // plan.num_steps)
    log_prior = log_prior_of(data.class_counts)
    in_loss, restoring = adjustments(settings, data.train.labels, draws, log_prior)
    target = Target(
        settings.label_smoothing,
        in_loss,
        settings.level_losses[: data.categories.depth - 1],
        data.categories.groups[:-1],
    )
    blocks = () if settings.trainable == "head" else blocks_of(backbone(config.model.backbone))
    optimizer = _optimizer(settings, num_steps, model, blocks)
    batches = StageBatches(run, settings, plan, valid_plan, num_steps)
    validation = Validation(
        model.structure, data, batches.valid, run.mesh, run.faults, log_prior, restoring
    )
    stage = Stage(
        name=name,
        num_steps=num_steps,
        # After each epoch, or about 40 times in a stage of many short epochs.
        evaluate_every_steps=plan.num_steps * -(-epochs // 40),
        patience_evaluations=settings.patience_evaluations,
        checkpoint_every_s=config.checkpoint_every_s,
        train_step=_train_step(config, settings, num_steps, model.structure, optimizer, target),
        calibrate=validation.calibrate,
        evaluate=validation.evaluate,
        batches=batches.train,
        key=replicate(jax.random.fold_in(jax.random.key(config.seed), number), run.mesh),
        mesh=run.mesh,
        run_record={**run.record, "stage": name},
        peak_flops_per_s=peak_flops_per_s(config.model.compute_dtype),
        deadline=run.deadline,
    )

    def start(model: Model) -> TrainState:
        return initial_state(
            model.parameters,
            model.statistics,
            optimizer,
            trainable=settings.trainable,
            blocks=blocks,
            with_ema=average_decay(settings, num_steps) > 0,
        )

    return stage, start


def _optimizer(
    settings: StageConfig, num_steps: int, model: Model, blocks: tuple[str, ...]
) -> optax.GradientTransformation:
    """The optimiser of a stage; `blocks` are the parts of the net if it is trained, too."""
    return make_optimizer(
        settings.optimizer,
        learning_rate=settings.learning_rate,
        num_steps=max(num_steps, 1),
        warmup_fraction=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        rate_factors=rate_factors(model.parameters, blocks, settings.learning_rate_decay),
    )


def _train_step(
    config: Config,
    settings: StageConfig,
    num_steps: int,
    structure: Any,
    optimizer: optax.GradientTransformation,
    target: Target,
) -> Callable[..., Any]:
    """The training step of a stage, by `make_train_step`."""
    weighted_from_step = None
    if settings.attention_weighted_from < 1:
        weighted_from_step = round(settings.attention_weighted_from * num_steps)
    return make_train_step(
        structure,
        optimizer,
        target=target,
        batch_statistics=settings.batch_statistics,
        ema_decay=average_decay(settings, num_steps),
        ranges=Ranges(**dataclasses.asdict(settings.augment)),
        attention_weighted_from_step=weighted_from_step,
        num_parts=step_parts(settings, config.data.shards),
    )
