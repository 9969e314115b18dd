"""Limit how far the host runs ahead of the devices, and measure speed and remaining time."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from product_mil.data.loader import Loaded
from product_mil.devices.runtime import step_flops
from product_mil.errors import UserError

STEPS_IN_FLIGHT = 2  # the host runs this many steps ahead of the devices
LOG_EVERY_S = 60.0  # between two lines on the remaining time
LOG_FROM_S = 10.0  # a shorter remaining time is not logged


def diverged(what: str, stage: str) -> UserError:
    """The error that ends a run whose numbers are no longer finite."""
    return UserError(
        f"{what} of stage {stage}: lower config.{stage}.learning_rate, or set "
        f"config.{stage}.clip_norm, in a new --workdir"
    )


class StepsInFlight:
    """The losses of steps that the devices may not have finished yet."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._losses: deque[tuple[int, Any]] = deque()

    def add(self, step: int, loss: Any) -> None:
        """Note a step, and wait for the step before the last two.

        Raises:
            UserError: a loss is not finite. `drain` raises it too.
        """
        self._losses.append((step, loss))
        if len(self._losses) > STEPS_IN_FLIGHT:
            self._check_oldest()

    def drain(self) -> None:
        """Wait for all steps."""
        while self._losses:
            self._check_oldest()

    def _check_oldest(self) -> None:
        step, loss = self._losses.popleft()
        value = float(jax.device_get(loss))
        if not math.isfinite(value):
            raise diverged(f"the loss is {value} at step {step}", self._stage)


class Throughput:
    """Counts images, products and time since the last evaluation."""

    def __init__(self, peak_flops_per_s: float, processes: int = 1) -> None:
        """Take the peak of all devices; with 0, utilisation is not reported.

        What one of several `processes` loads stands for all, as they load equal shares.
        """
        self._peak_flops_per_s, self._processes = peak_flops_per_s, processes
        self._flops_a_step: float | None = None
        self.restart()

    def restart(self) -> None:
        """Start measuring again, after compilation or after an evaluation and its checkpoint."""
        self._started, self._waited_s = time.monotonic(), 0.0
        self._steps = self._images = self._products = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        before = time.monotonic()
        yield
        self._waited_s += time.monotonic() - before

    def measure_cost(self, train_step: Callable[..., Any], *arguments: Any) -> None:
        """Count the floating-point operations of a step, before the first one."""
        if self._peak_flops_per_s and self._flops_a_step is None:
            self._flops_a_step = step_flops(train_step, *arguments)

    def count(self, loaded: Loaded) -> None:
        """Count a step of this batch."""
        slots = loaded.batch.slots
        self._steps += 1
        self._images += int(slots.is_image.sum()) * self._processes
        self._products += int((slots.label >= 0).sum()) * self._processes

    def rates(self) -> dict[str, float]:
        """The speed, and the share of time spent waiting for data.

        If the peak of the devices is known, also the share of it that is used (MFU).
        """
        spent_s = max(time.monotonic() - self._started, 1e-9)
        found = {
            "train/images_per_s": self._images / spent_s,
            "train/products_per_s": self._products / spent_s,
            "train/wait_share": self._waited_s / spent_s,
        }
        if self._flops_a_step:
            flops_per_s = self._flops_a_step * self._steps / spent_s
            found["train/mfu"] = flops_per_s / self._peak_flops_per_s
        return found


class TimeLeft:
    """Estimates the remaining time of a stage, including evaluations and checkpoints."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._first: tuple[int, float] | None = None  # a step, and when it was done
        self._has_evaluated = False
        self._logged_at = -math.inf

    def begin(self, step: int) -> None:
        """Start measuring after this step, the first one, which included compilation."""
        self._first = step, time.monotonic()

    def seconds(self, step: int) -> float:
        """Seconds from this step to the last; 0 if only the first one is done."""
        if self._first is None or step == self._first[0]:
            return 0.0
        first, done_at = self._first
        return (time.monotonic() - done_at) / (step - first) * (self._num_steps - step)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Leave the time inside out if it is the first evaluation, since that one compiles."""
        before = time.monotonic()
        yield
        if self._first is not None and not self._has_evaluated:
            step, done_at = self._first
            self._first = step, done_at + time.monotonic() - before
        self._has_evaluated = True

    def is_time_to_log(self, step: int) -> bool:
        """Whether the time is long and was not logged for a minute; a true answer counts as log."""
        if self.seconds(step) <= LOG_FROM_S or time.monotonic() - self._logged_at < LOG_EVERY_S:
            return False
        self.logged()
        return True

    def logged(self) -> None:
        """Note that the remaining time was logged now."""
        self._logged_at = time.monotonic()
