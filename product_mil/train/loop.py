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
from product_mil.devices.mesh import put_batch
from product_mil.devices.runtime import step_flops
from product_mil.errors import Interrupted, UserError
from product_mil.text import duration
from product_mil.train.checkpoint import Checkpoints
from product_mil.train.log import RunLog
from product_mil.train.state import Arrays, TrainState, evaluated_parameters, zero_totals
from product_mil.train.stopping import stop_requests

STEPS_IN_FLIGHT = 2  # the host runs this far ahead of the devices
TELL_EVERY_S = 60.0  # how long it will take yet, ...
TELL_FROM_S = 10.0  # ... if so long


@dataclass(frozen=True)
class Stage:
    """What a stage is made of; `evaluate(parameters, statistics)` returns named metrics."""

    name: str
    num_steps: int
    evaluate_every_steps: int
    patience_evaluations: int
    checkpoint_every_s: float
    train_step: Callable[..., tuple[TrainState, Any]]
    calibrate: Callable[[Arrays, Arrays], Arrays]  # statistics fitted on validation products
    evaluate: Callable[[Arrays, Arrays], dict[str, float]]
    batches: Callable[[int], Iterator[Loaded]]  # from a step on
    key: PRNGKeyArray
    mesh: Mesh
    run_record: Mapping[str, Any]
    peak_flops_per_s: float = 0.0  # of all devices; 0: utilisation is not told
    deadline: float = math.inf  # of `time.monotonic`; then it stops as if asked to


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
    for line in checkpoints.set_aside:
        log.say(f"  note: {line}")
    if stage.num_steps == 0 and restored is None:
        _keep_untrained(stage, state, checkpoints, log)
    if is_complete(stage, log, step):
        log.say(f"{stage.name}: complete, {step} steps")
        return state
    _begin(stage, step, log)
    pace = _Pace(stage, step)
    batches = stage.batches(step)
    bar = tqdm(total=stage.num_steps, initial=step, desc=stage.name, unit="step", disable=None)
    with stop_requests() as stop, bar:
        while step < stage.num_steps:
            with pace.waiting():
                loaded = next(batches)
            faults.add(loaded.faults)
            batch = put_batch(loaded.batch, stage.mesh)
            pace.measure_cost(state, batch)
            with jax.transfer_guard("disallow"):
                state, loss = stage.train_step(state, batch, stage.key)
            step += 1
            pace.stepped(loss, loaded)
            _tell(bar, pace, log, stage, step)
            # Read once: who asks later is heard after the next step, and saved then.
            asked = stop() or signal.SIGTERM * (time.monotonic() >= stage.deadline)
            if step % stage.evaluate_every_steps == 0 or step == stage.num_steps:
                pace.drain()
                values = pace.metrics(state)
                parameters = evaluated_parameters(state)
                state = state._replace(statistics=stage.calibrate(parameters, state.statistics))
                found = stage.evaluate(parameters, state.statistics)
                values |= {f"valid/{name}": value for name, value in found.items()}
                log.write(stage.name, step, values)
                log.say(_line(stage, step, values, pace.seconds_a_step()))
                state = state._replace(totals=jax.device_put(zero_totals(), state.step.sharding))
                faults.write()  # what lies before a checkpoint is not met again
                checkpoints.save(state, stage.run_record, values)
                pace.restart()
                if _out_of_patience(stage, log, step):
                    log.say(f"{stage.name}: stopped early, valid/nll no longer falls")
                    break
            elif asked or pace.since_save_s() > stage.checkpoint_every_s:
                pace.drain()
                faults.write()
                checkpoints.save(state, stage.run_record, None)
                pace.saved_at = time.monotonic()
            if asked:
                raise Interrupted(f"stopped at step {step} of stage {stage.name}", asked)
    return state


def _tell(bar: tqdm, pace: "_Pace", log: RunLog, stage: Stage, step: int) -> None:
    """Move the bar by a step; say from the second one on, each minute, how long it will take."""
    if not bar.disable:
        bar.set_postfix_str(_rates(pace.rates()), refresh=False)
    bar.update()
    left_s = pace.seconds_a_step() * (stage.num_steps - step)
    if left_s > TELL_FROM_S and pace.is_time_to_tell():
        rates = _rates(pace.rates())
        log.say(f"{stage.name}: step {step}/{stage.num_steps} | {rates}, {duration(left_s)} left")


def _begin(stage: Stage, step: int, log: RunLog) -> None:
    """Drop what was logged after the checkpoint, and say where the stage goes on."""
    log.cut(stage.name, step)
    if step:
        log.say(f"{stage.name}: goes on at step {step} of {stage.num_steps}")


def _keep_untrained(stage: Stage, state: TrainState, checkpoints: Checkpoints, log: RunLog) -> None:
    """Measure and save a model that has no steps to take: the prior, which is counted."""
    found = stage.evaluate(evaluated_parameters(state), state.statistics)
    values = {f"valid/{name}": value for name, value in found.items()}
    log.write(stage.name, 0, values)
    checkpoints.save(state, stage.run_record, values)


class _Pace:
    """How fast a stage goes, and how far the host runs ahead of the devices."""

    def __init__(self, stage: Stage, step: int) -> None:
        self._stage, self._step = stage, step
        self._losses: deque[Any] = deque()
        self._started: float | None = None  # after the first step: compiling is no throughput
        self._first: tuple[int, float] | None = None  # that step, and when it was done
        self._flops_a_step: float | None = None
        self._begin()
        self.saved_at = time.monotonic()
        self._told_at = -math.inf

    def _begin(self) -> None:
        self._waited_s = 0.0
        self._steps = self._images = self._products = 0  # since `_started`

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        before = time.monotonic()
        yield
        self._waited_s += time.monotonic() - before

    def measure_cost(self, state: TrainState, batch: Any) -> None:
        """Count the floating-point operations of a step, before the first one."""
        if self._stage.peak_flops_per_s and self._flops_a_step is None:
            arguments = state, batch, self._stage.key
            self._flops_a_step = step_flops(self._stage.train_step, *arguments)

    def stepped(self, loss: Any, loaded: Loaded) -> None:
        """Note a step; block on the one before the last two."""
        self._step += 1
        self._losses.append(loss)
        if self._started is None:
            jax.block_until_ready(loss)
            self._started = time.monotonic()
            self._begin()
            self._first = self._step, self._started
        else:
            slots = loaded.batch.slots
            self._steps += 1
            self._images += int(slots.is_image.sum())
            self._products += int((slots.label >= 0).sum())
            if self._first is not None and self._step == self._first[0] + 1:
                jax.block_until_ready(loss)  # so that the second step tells how fast it goes
        if len(self._losses) > STEPS_IN_FLIGHT:
            self._check_oldest()

    def drain(self) -> None:
        """Wait for all steps under way."""
        while self._losses:
            self._check_oldest()

    def _check_oldest(self) -> None:
        value = float(jax.device_get(self._losses.popleft()))
        if not math.isfinite(value):
            name = self._stage.name
            raise UserError(
                f"the loss is {value} at step {self._step - len(self._losses)} of stage {name}: "
                f"lower config.{name}.learning_rate, or set config.{name}.clip_norm, in a new "
                "--workdir"
            )

    def seconds_a_step(self) -> float:
        """Since the first step of this process, evaluations and checkpoints included."""
        if self._first is None or self._step == self._first[0]:
            return 0.0
        return (time.monotonic() - self._first[1]) / (self._step - self._first[0])

    def is_time_to_tell(self) -> bool:
        """Whether nothing was told for a minute; now it is."""
        if time.monotonic() - self._told_at < TELL_EVERY_S:
            return False
        self._told_at = time.monotonic()
        return True

    def since_save_s(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self.saved_at

    def metrics(self, state: TrainState) -> dict[str, float]:
        """Means since the last evaluation, and the rate; the rest of the clock keeps running.

        Raises:
            UserError: not one image could be read.
        """
        totals = {name: float(value) for name, value in jax.device_get(state.totals).items()}
        if totals["images"] == 0:
            raise UserError(
                f"stage {self._stage.name}: no training image could be read since the last "
                "evaluation; bad_records.csv in the run's directory has the reasons"
            )
        return {
            "train/loss": totals["loss"] / max(totals["steps"], 1),
            "train/top1": totals["correct"] / max(totals["products"], 1),
            **self.rates(),
        }

    def rates(self) -> dict[str, float]:
        """How fast since the last evaluation, and the share of time spent waiting for data.

        Where the devices' peak is known also what of it the model's operations use (MFU).
        """
        spent_s = max(time.monotonic() - (self._started or self.saved_at), 1e-9)
        found = {
            "train/images_per_s": self._images / spent_s,
            "train/products_per_s": self._products / spent_s,
            "train/wait_share": self._waited_s / spent_s,
        }
        if self._flops_a_step:
            flops_per_s = self._flops_a_step * self._steps / spent_s
            found["train/mfu"] = flops_per_s / self._stage.peak_flops_per_s
        return found

    def restart(self) -> None:
        """Begin to measure anew, after an evaluation and its checkpoint."""
        self._started = self.saved_at = self._told_at = time.monotonic()
        self._begin()


def _line(stage: Stage, step: int, values: Mapping[str, float], seconds_a_step: float) -> str:
    parts = [
        f"{stage.name}: step {step:5d}/{stage.num_steps}",
        f"train loss {values['train/loss']:.4f} top1 {values['train/top1']:.4f}",
    ]
    if "valid/top1" in values:
        parts.append(f"valid nll {values['valid/nll']:.4f} top1 {values['valid/top1']:.4f}")
    parts.append(f"{_rates(values)}, {duration(seconds_a_step * (stage.num_steps - step))} left")
    return " | ".join(parts)


def _rates(values: Mapping[str, float]) -> str:
    text = (
        f"{values['train/images_per_s']:.0f} images/s, "
        f"{values['train/products_per_s']:.0f} products/s, "
        f"{values['train/wait_share']:.0%} waiting"
    )
    return text + (f", MFU {values['train/mfu']:.0%}" if "train/mfu" in values else "")


def is_complete(stage: Stage, log: RunLog, step: int) -> bool:
    """Whether a stage that was saved at this step has nothing left to do."""
    return step >= stage.num_steps or _out_of_patience(stage, log, step)


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
