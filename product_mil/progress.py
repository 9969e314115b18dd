"""How far long work has come: a bar on a terminal, and in a log a line now and then."""

import logging
import time
from types import TracebackType

from tqdm import tqdm

from product_mil.text import duration

LOG_EVERY_S = 10.0


class Progress:
    """Counts units of work that are done; as a context manager it shows them.

    If standard error is a terminal, a bar moves on it. Otherwise the logger gets a line every
    `LOG_EVERY_S` seconds, with the time that is left.
    """

    def __init__(self, total: int, unit: str, *, label: str = "", shown: bool = True) -> None:
        """`unit` is a plural, such as "images"; with `shown=False` nothing is shown at all."""
        self._total, self._unit, self._label, self._shown = total, unit, label, shown
        self._done = 0
        self._began_s = self._logged_s = time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=label or None,
            unit=f" {unit}",
            unit_scale=True,
            disable=None if shown else True,  # None: where standard error is no terminal
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        """Note that so many more are done."""
        self._done += count
        self._bar.update(count)
        now_s = time.monotonic()
        if self._shown and self._bar.disable and now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            logging.getLogger(__name__).info("%s", self._line(now_s - self._began_s))

    def _line(self, spent_s: float) -> str:
        line = f"{self._done:,} of {self._total:,} {self._unit}"
        if self._done:
            line += f", {duration(spent_s * (self._total - self._done) / self._done)} left"
        return f"{self._label}: {line}" if self._label else line
