"""One stage: steps, evaluations, checkpoints; killed at any moment, it goes on where it was."""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

from product_mil.data.faults import FaultList
from product_mil.data.loader import Loaded
from product_mil.errors import UserError
from product_mil.train.checkpoint import Checkpoints
from product_mil.train.log import RunLog
from product_mil.train.mesh import put_batch
from product_mil.train.state import Arrays, TrainState, evaluated_parameters, zero_totals

STEPS_IN_FLIGHT = 2  # the host runs this far ahead of the devices


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved its state."""


@dataclass(frozen=True)
class Stage:
    """What a stage is made of; `evaluate(parameters, statistics)` returns named metrics."""

    name: str
    earlier: tuple[str, ...]  # the stages before it
    num_steps: int
    evaluate_every_steps: int
    patience_evaluations: int
    checkpoint_every_s: float
    train_step: Callable[..., tuple[TrainState, Any]]
    evaluate: Callable[[Arrays, Arrays], dict[str, float]]
    batches: Callable[[int], Iterator[Loaded]]  # from a step on
    key: PRNGKeyArray
    mesh: Mesh
    run_record: Mapping[str, Any]


def train_stage(
    stage: Stage, state: TrainState, checkpoints: Checkpoints, log: RunLog, faults: FaultList
) -> TrainState:
    """Train from the last checkpoint, or from `state`, to the stage's end.

    Raises:
        Interrupted: asked to stop; the state is saved.
        UserError: the loss is no longer finite, or a checkpoint cannot be written.
    """
    restored = checkpoints.restore(state)
    state = state if restored is None else restored
    step = int(state.step)
    if step >= stage.num_steps or _out_of_patience(stage, log, step):
        log.say(f"{stage.name}: complete, {step} steps")
        return state
    log.cut((*stage.earlier, stage.name), step)
    if restored is not None:
        log.say(f"{stage.name}: goes on at step {step} of {stage.num_steps}")
    losses: deque[Any] = deque()
    saved_at = time.monotonic()
    started: float | None = None  # at the end of the first step: compiling is no throughput
    waited_s, images_before = 0.0, 0.0
    batches = stage.batches(step)
    with (
        _stop_requests() as stop,
        tqdm(
            total=stage.num_steps, initial=step, desc=stage.name, unit="step", disable=None
        ) as bar,
    ):
        while step < stage.num_steps:
            before = time.monotonic()
            loaded = next(batches)
            waited_s += time.monotonic() - before
            faults.add(loaded.faults)
            batch = put_batch(loaded.batch, stage.mesh)
            with jax.transfer_guard("disallow"):
                state, loss = stage.train_step(state, batch, stage.key)
            step += 1
            losses.append(loss)
            if len(losses) > STEPS_IN_FLIGHT:
                _check_finite(losses.popleft(), stage.name, step - STEPS_IN_FLIGHT)
            bar.update()
            if started is None:
                images_before = float(jax.device_get(state.totals["images"]))
                log.say(f"{stage.name}: first step after {time.monotonic() - saved_at:.1f} s")
                started, waited_s = time.monotonic(), 0.0
            if step % stage.evaluate_every_steps == 0 or step == stage.num_steps:
                while losses:
                    _check_finite(losses.popleft(), stage.name, step - len(losses))
                totals = jax.device_get(state.totals)
                spent_s = time.monotonic() - started
                values = _train_metrics(totals, float(totals["images"]) - images_before, spent_s)
                values["train/wait_share"] = waited_s / max(spent_s, 1e-9)
                found = stage.evaluate(evaluated_parameters(state), state.statistics)
                values |= {f"valid/{name}": value for name, value in found.items()}
                log.write(stage.name, step, values)
                log.say(_line(stage, step, values))
                state = state._replace(totals=jax.device_put(zero_totals(), state.step.sharding))
                checkpoints.save(state, stage.run_record, values)
                saved_at = started = time.monotonic()
                waited_s, images_before = 0.0, 0.0
                if _out_of_patience(stage, log, step):
                    log.say(f"{stage.name}: stopped early, valid/nll no longer falls")
                    break
            elif stop() or time.monotonic() - saved_at > stage.checkpoint_every_s:
                while losses:
                    _check_finite(losses.popleft(), stage.name, step - len(losses))
                checkpoints.save(state, stage.run_record, None)
                saved_at = time.monotonic()
            if stop():
                raise Interrupted(f"stopped at step {step} of stage {stage.name}")
    return state


def _train_metrics(totals: Mapping[str, Any], images: float, spent_s: float) -> dict[str, float]:
    products = max(float(totals["products"]), 1)
    return {
        "train/loss": float(totals["loss"]) / max(float(totals["steps"]), 1),
        "train/top1": float(totals["correct"]) / products,
        "train/images_per_s": images / max(spent_s, 1e-9),
    }


def _line(stage: Stage, step: int, values: Mapping[str, float]) -> str:
    parts = [
        f"{stage.name}: step {step:5d}/{stage.num_steps}",
        f"train loss {values['train/loss']:.4f} top1 {values['train/top1']:.4f}",
    ]
    if "valid/top1" in values:
        parts.append(f"valid nll {values['valid/nll']:.4f} top1 {values['valid/top1']:.4f}")
    parts.append(
        f"{values['train/images_per_s']:.0f} images/s, {values['train/wait_share']:.0%} waiting"
    )
    return " | ".join(parts)


def _out_of_patience(stage: Stage, log: RunLog, step: int) -> bool:
    """Whether the last evaluations up to `step` brought no better likelihood.

    Read from metrics.jsonl, which was cut to the checkpoint: a resumed run decides the same.
    """
    if not stage.patience_evaluations:
        return False
    rows = [row for row in log.metrics() if row["stage"] == stage.name and row["step"] <= step]
    losses = [row["valid/nll"] for row in rows]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= (
        stage.patience_evaluations
    )


def _check_finite(loss: Any, stage: str, step: int) -> None:
    value = float(jax.device_get(loss))
    if not math.isfinite(value):
        raise UserError(
            f"the loss is {value} at step {step} of stage {stage}: lower "
            f"config.{stage}.learning_rate, or set config.{stage}.clip_norm, in a new --workdir"
        )


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and Ctrl-C into a question that the loop asks after each step."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt  # asked twice: at once, without saving
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread, where no signals arrive
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
