"""How far the host runs ahead of the devices, how fast a stage goes, how long it will take yet."""

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

STEPS_IN_FLIGHT = 2  # the host runs this far ahead of the devices
TELL_EVERY_S = 60.0  # how long it will take yet, ...
TELL_FROM_S = 10.0  # ... if so long


class StepsInFlight:
    """The losses of steps that the devices may not have taken yet."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._losses: deque[tuple[int, Any]] = deque()

    def add(self, step: int, loss: Any) -> None:
        """Note a step; wait for the one before the last two.

        Raises:
            UserError: a loss is not finite; `drain` too.
        """
        self._losses.append((step, loss))
        if len(self._losses) > STEPS_IN_FLIGHT:
            self._check_oldest()

    def drain(self) -> None:
        """Wait for all steps under way."""
        while self._losses:
            self._check_oldest()

    def _check_oldest(self) -> None:
        step, loss = self._losses.popleft()
        value = float(jax.device_get(loss))
        if not math.isfinite(value):
            name = self._stage
            raise UserError(
                f"the loss is {value} at step {step} of stage {name}: "
                f"lower config.{name}.learning_rate, or set config.{name}.clip_norm, in a new "
                "--workdir"
            )


class Throughput:
    """What went through the devices since the last evaluation, and the time that it took."""

    def __init__(self, peak_flops_per_s: float) -> None:
        """`peak_flops_per_s` of all devices; 0: utilisation is not told."""
        self._peak_flops_per_s = peak_flops_per_s
        self._flops_a_step: float | None = None
        self.restart()

    def restart(self) -> None:
        """Begin to measure anew: after compiling, and after an evaluation and its checkpoint."""
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
        self._images += int(slots.is_image.sum())
        self._products += int((slots.label >= 0).sum())

    def rates(self) -> dict[str, float]:
        """How fast it went, and the share of time spent waiting for data.

        Where the devices' peak is known also what of it the model's operations use (MFU).
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
    """How long the rest of a stage will take, evaluations and checkpoints included."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._first: tuple[int, float] | None = None  # a step, and when it was done
        self._told_at = -math.inf

    def begin(self, step: int) -> None:
        """Measure from now on, when this step is done: the first one compiled."""
        self._first = step, time.monotonic()

    def seconds(self, step: int) -> float:
        """Seconds from this step to the last; 0 where only the first one is done."""
        if self._first is None or step == self._first[0]:
            return 0.0
        first, done_at = self._first
        return (time.monotonic() - done_at) / (step - first) * (self._num_steps - step)

    def is_time_to_tell(self, step: int) -> bool:
        """Whether it is long, and was not told for a minute; now it is."""
        if self.seconds(step) <= TELL_FROM_S or time.monotonic() - self._told_at < TELL_EVERY_S:
            return False
        self.told()
        return True

    def told(self) -> None:
        """It was told now."""
        self._told_at = time.monotonic()
