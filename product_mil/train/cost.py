"""The cost of a stage, measured by a few steps before it begins, and its memory."""

import resource
import statistics
import sys
import time
from dataclasses import dataclass

import jax

from product_mil.devices.hosts import largest
from product_mil.devices.mesh import put_batch
from product_mil.text import duration
from product_mil.train.loop import Stage
from product_mil.train.state import TrainState


@dataclass(frozen=True)
class StepCost:
    """Seconds that a step takes, and that the first one takes in addition."""

    compile_s: float
    step_s: float


def measure_steps(
    stage: Stage, state: TrainState, *, seconds: float, at_least: int
) -> tuple[StepCost, TrainState]:
    """Take the first steps of a stage, for these seconds and at least this number of steps.

    Images that are embedded once are embedded now. Nothing is saved. The returned state is that
    after the steps, since the state before them is donated.
    """
    batches = stage.batches(0)
    times_s: list[float] = []
    while len(times_s) < stage.num_steps:
        started = time.monotonic()
        batch = put_batch(next(batches).batch, stage.mesh)
        if not times_s:
            started = time.monotonic()  # embedding is not part of the step
        state, loss = stage.train_step(state, batch, stage.key)
        jax.block_until_ready(loss)
        times_s.append(time.monotonic() - started)
        enough = len(times_s) >= at_least and sum(times_s[1:]) >= seconds
        if largest(int(enough or time.monotonic() >= stage.deadline)):
            break
    # The first step compiles, and the next ones allocate memory and wait for the loader to start.
    step_s = statistics.median(times_s[1 + (len(times_s) - 1) // 2 :] or times_s)
    return StepCost(max(times_s[0] - step_s, 0), step_s), state


def expected_time(stage: Stage, cost: StepCost, *, step: int, evaluation_s: float) -> str:
    """A line on how long a stage takes from this step on."""
    steps = stage.num_steps - step
    evaluations = -(-steps // stage.evaluate_every_steps)
    seconds = steps * cost.step_s + evaluations * evaluation_s
    return (
        f"{stage.name}: {steps} steps of {_short(cost.step_s)} and {evaluations} evaluations, "
        f"about {duration(seconds)}; compiled in {cost.compile_s:.0f} s"
    )


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def peak_memory_bytes() -> int:
    """The peak of used memory: of the devices if they report it, otherwise of this process."""
    used = [
        (device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()
    ]
    if any(used):
        return max(used)
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
