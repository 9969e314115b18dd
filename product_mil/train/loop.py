"""The loop of one stage: steps, evaluations and checkpoints, which can be resumed after a kill."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

from product_mil.data.faults import FaultList
from product_mil.data.loader import Loaded
from product_mil.devices.hosts import Agreement, from_first, gathered, is_first, own_share
from product_mil.devices.mesh import put_batch, replicate
from product_mil.errors import Interrupted, UserError
from product_mil.model.classifier import Arrays
from product_mil.text import duration
from product_mil.train.checkpoint import Checkpoints
from product_mil.train.log import RunLog
from product_mil.train.pace import StepsInFlight, Throughput, TimeLeft, diverged
from product_mil.train.record import VALIDATION
from product_mil.train.state import TrainState, evaluated_parameters, zero_totals
from product_mil.train.stopping import stop_requests


@dataclass(frozen=True)
class Stage:
    """Everything that a stage needs. `evaluate(parameters, statistics)` returns named metrics."""

    name: str
    num_steps: int
    evaluate_every_steps: int
    patience_evaluations: int
    checkpoint_every_s: float
    train_step: Callable[..., tuple[TrainState, Any]]
    calibrate: Callable[[Arrays, Arrays], Arrays]  # statistics fitted on validation products
    evaluate: Callable[[Arrays, Arrays], dict[str, float]]
    batches: Callable[[int], Iterator[Loaded]]  # takes the first step
    key: PRNGKeyArray
    mesh: Mesh
    run_record: Mapping[str, Any]
    peak_flops_per_s: float = 0.0  # of all devices; with 0, utilisation is not reported
    deadline: float = math.inf  # value of `time.monotonic` at which the stage stops


def train_stage(
    stage: Stage, state: TrainState, checkpoints: Checkpoints, log: RunLog, faults: FaultList
) -> TrainState:
    """Train from the last checkpoint, or from `state`, to the end of the stage.

    Raises:
        Interrupted: the user asked to stop, or the deadline passed. The state is saved.
        UserError: the loss is no longer finite, or a checkpoint cannot be written.
    """
    restored = checkpoints.restore(state)
    state = state if restored is None else restored
    step = int(state.step)
    for line in checkpoints.set_aside:
        log.say(f"  note: {line}")
    if stage.num_steps == 0 and restored is None:
        _keep_untrained(stage, state, checkpoints, log)
    if is_complete(stage, log, step):
        log.say(f"{stage.name}: complete, {step} steps")
        return state
    log.cut(stage.name, step)  # removes lines after the checkpoint
    if step:
        log.say(f"{stage.name}: goes on at step {step} of {stage.num_steps}")
    return _take_steps(stage, state, step, checkpoints, log, faults)


def _take_steps(
    stage: Stage,
    state: TrainState,
    step: int,
    checkpoints: Checkpoints,
    log: RunLog,
    faults: FaultList,
) -> TrainState:
    """Take the steps after `step`, to the end or until validation no longer improves."""
    in_flight, left = StepsInFlight(stage.name), TimeLeft(stage.num_steps)
    throughput = Throughput(stage.peak_flops_per_s, own_share().of)
    agreement = Agreement(stage.mesh)
    saved_at, begun = time.monotonic(), step
    batches = stage.batches(step)
    with stop_requests() as stop, _bar(stage, step) as bar:
        while step < stage.num_steps:
            with throughput.waiting():
                loaded = next(batches)
            faults.add(loaded.faults)
            batch = put_batch(loaded.batch, stage.mesh)
            throughput.measure_cost(stage.train_step, state, batch, stage.key)
            with jax.transfer_guard("disallow"):
                state, loss = stage.train_step(state, batch, stage.key)
            step += 1
            in_flight.add(step, loss)
            if step <= begun + 2:  # the first step compiles, and the second one is timed
                jax.block_until_ready(loss)
            if step > begun + 1:
                throughput.count(loaded)
            else:
                throughput.restart()
                left.begin(step)
            _report_progress(bar, throughput, left, log, stage, step)
            evaluates = step % stage.evaluate_every_steps == 0 or step == stage.num_steps
            # Asked once in a step; a later request is served after the next step.
            asked, is_due = _requests(stage, stop(), saved_at, agreement, settles=evaluates)
            if evaluates:
                in_flight.drain()
                values = _train_metrics(stage, state) | throughput.rates()
                with left.evaluating():
                    state, found = _evaluate(stage, state, step)
                values |= _valid(found)
                log.write(stage.name, step, values)
                log.say(_line(stage, step, values, left.seconds(step)))
                _write_faults(faults)  # a resumed run will not meet earlier faults again
                checkpoints.save(state, {**stage.run_record, VALIDATION: found}, values)
                throughput.restart()
                left.logged()
                saved_at = time.monotonic()
                if _out_of_patience(stage, log, step):
                    log.say(f"{stage.name}: stopped early, valid/nll no longer falls")
                    break
            elif asked or is_due:
                in_flight.drain()
                _write_faults(faults)
                checkpoints.save(state, stage.run_record, None)
                saved_at = time.monotonic()
            if asked:
                raise Interrupted(f"stopped at step {step} of stage {stage.name}", asked)
    return state


def _bar(stage: Stage, step: int) -> tqdm:
    """A bar of the steps, on a terminal, of one process."""
    hidden = None if is_first() else True  # None hides it where there is no terminal
    return tqdm(total=stage.num_steps, initial=step, desc=stage.name, unit="step", disable=hidden)


def _requests(
    stage: Stage, asked: int, saved_at: float, agreement: Agreement, *, settles: bool
) -> tuple[int, bool]:
    """The signal by which a process was asked to stop, or 0, and whether a checkpoint is due.

    All processes get the same answer at the same step; with `settles`, no answer is left for later.
    """
    asked = asked or signal.SIGTERM * (time.monotonic() >= stage.deadline)
    is_due = time.monotonic() - saved_at > stage.checkpoint_every_s
    word = agreement.largest(2 * asked + is_due)
    if word or settles:
        word = max(word, agreement.settle())
    return word // 2, bool(word % 2)


def _write_faults(faults: FaultList) -> None:
    """Write the faults that all processes met."""
    for rows in gathered("[]" if is_first() else json.dumps(faults.not_passed_on())):
        faults.add_listed(json.loads(rows))
    if is_first():
        faults.write()


def _report_progress(
    bar: tqdm, throughput: Throughput, left: TimeLeft, log: RunLog, stage: Stage, step: int
) -> None:
    """Move the bar by one step, and log each minute how long the rest will take."""
    if not bar.disable:
        bar.set_postfix_str(_rates(throughput.rates()), refresh=False)
    bar.update()
    if left.is_time_to_log(step):
        rates, time_left = _rates(throughput.rates()), duration(left.seconds(step))
        log.say(f"{stage.name}: step {step}/{stage.num_steps} | {rates}, {time_left} left")


def _keep_untrained(stage: Stage, state: TrainState, checkpoints: Checkpoints, log: RunLog) -> None:
    """Evaluate and save a model without steps: the prior, whose frequencies are counted."""
    found = stage.evaluate(evaluated_parameters(state), state.statistics)
    log.write(stage.name, 0, _valid(found))
    checkpoints.save(state, {**stage.run_record, VALIDATION: found}, _valid(found))


def _evaluate(stage: Stage, state: TrainState, step: int) -> tuple[TrainState, dict[str, float]]:
    """The state with fitted statistics and totals of 0, and its metrics.

    Raises:
        UserError: the last step made parameters infinite; a loss would show it one step later.
    """
    parameters = evaluated_parameters(state)
    trained = jax.device_get([parameters[name] for name in state.trainable])
    if not all(np.isfinite(values).all() for values in jax.tree.leaves(trained)):
        raise diverged(f"parameters are no longer finite after step {step}", stage.name)
    statistics = stage.calibrate(parameters, state.statistics)
    totals = replicate(zero_totals(), stage.mesh)
    found = stage.evaluate(parameters, statistics)
    return state._replace(statistics=statistics, totals=totals), found


def _valid(metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"valid/{name}": value for name, value in metrics.items()}


def _train_metrics(stage: Stage, state: TrainState) -> dict[str, float]:
    """Means over the training products since the last evaluation.

    Raises:
        UserError: no image could be read.
    """
    totals = {name: float(value) for name, value in jax.device_get(state.totals).items()}
    if totals["images"] == 0:
        raise UserError(
            f"stage {stage.name}: no training image could be read since the last "
            "evaluation; bad_records.csv in the run's directory has the reasons"
        )
    return {
        "train/loss": totals["loss"] / max(totals["steps"], 1),
        "train/top1": totals["correct"] / max(totals["products"], 1),
    }


def _line(stage: Stage, step: int, values: Mapping[str, float], left_s: float) -> str:
    parts = [
        f"{stage.name}: step {step:5d}/{stage.num_steps}",
        f"train loss {values['train/loss']:.4f} top1 {values['train/top1']:.4f}",
    ]
    if "valid/top1" in values:
        parts.append(f"valid nll {values['valid/nll']:.4f} top1 {values['valid/top1']:.4f}")
    parts.append(f"{_rates(values)}, {duration(left_s)} left")
    return " | ".join(parts)


def _rates(values: Mapping[str, float]) -> str:
    text = (
        f"{values['train/images_per_s']:.0f} images/s, "
        f"{values['train/products_per_s']:.0f} products/s, "
        f"{values['train/wait_share']:.0%} waiting"
    )
    return text + (f", MFU {values['train/mfu']:.0%}" if "train/mfu" in values else "")


def is_complete(stage: Stage, log: RunLog, step: int) -> bool:
    """Whether a stage that was saved at this step is finished."""
    return step >= stage.num_steps or _out_of_patience(stage, log, step)


def _out_of_patience(stage: Stage, log: RunLog, step: int) -> bool:
    """Whether the likelihood did not improve in the last evaluations up to `step`.

    Evaluations are read from metrics.jsonl, which was cut to the checkpoint, so a resumed run makes
    the same decision.
    """
    if not stage.patience_evaluations:
        return False
    return bool(from_first("out" if _no_longer_improves(stage, log, step) else ""))


def _no_longer_improves(stage: Stage, log: RunLog, step: int) -> bool:
    rows = [row for row in log.metrics() if row["stage"] == stage.name and row["step"] <= step]
    losses = [row["valid/nll"] for row in rows]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= (
        stage.patience_evaluations
    )
