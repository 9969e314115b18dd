"""Requests to stop: signals that become a question which the training loop asks."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Turn SIGTERM, SIGHUP and Ctrl-C into a question that the loop asks after each step.

    The answer is the signal's number, 0 while there was none. A SIGHUP that is ignored (under
    nohup) stays ignored.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        # A closed terminal may send SIGHUP more than once.
        if number != signal.SIGHUP and any(one != signal.SIGHUP for one in asked):
            raise KeyboardInterrupt  # asked twice: at once, without saving
        asked.append(number)

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread, where no signals arrive
        yield lambda: 0
        return
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
