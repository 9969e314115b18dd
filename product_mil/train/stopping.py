"""Requests to stop, by signals that the training loop asks for."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """A function that the loop calls after each step to learn of SIGTERM, SIGHUP or Ctrl-C.

    It returns the number of the signal, or 0 if there was none. A SIGHUP that is ignored (under
    nohup) stays ignored. A second signal stops at once, without saving.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        # A closed terminal may send SIGHUP more than once.
        if number != signal.SIGHUP and any(one != signal.SIGHUP for one in asked):
            raise KeyboardInterrupt  # the second request: stop at once, without saving
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
