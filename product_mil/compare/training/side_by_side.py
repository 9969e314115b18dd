"""Several runs at the same time, each in a process with cores of its own.

A head on cached embeddings keeps little more than one core busy (docs/guide/compare.md).
"""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, NamedTuple

from product_mil.config import Config
from product_mil.devices.memory import free_memory_bytes
from product_mil.errors import Interrupted, UserError
from product_mil.text import duration
from product_mil.train.stopping import stop_requests

RUN_BYTES = 1_500_000_000  # of memory for a run; 0.7 GB measured with a head of 93 categories
_START = """
import importlib
import sys
sys.path[:] = sys.argv[2:]
importlib.import_module(sys.argv[1]).main()
"""
_POLL_S = 0.2  # between two checks whether the user asked to stop
_LOG_EVERY_S = 30.0
_PATIENCE_S = 60.0  # for a run to save its state when this process fails
_LOGGER = logging.getLogger(__name__)


class Planned(NamedTuple):
    """A run to train, from its beginning or from its last checkpoint."""

    name: str
    config: Config
    workdir: Path
    spec: str = ""  # `--config` that it came from, if any; running its file may register a head


class Child(NamedTuple):
    """The program that trains one run in a separate process."""

    module: str  # whose `main` does what `cli.one_run` does
    imports: tuple[str, ...] = ()  # Python files that it runs first, which may register heads


def num_at_once(num_runs: int) -> int:
    """The number of runs that cores and free memory allow at the same time, at least 1."""
    return max(1, min(num_runs, len(_cores()), free_memory_bytes() // RUN_BYTES))


def train_side_by_side(planned: Sequence[Planned], at_once: int, child: Child) -> None:
    """Train every run, `at_once` at a time, and log a line on all of them every half minute.

    A child process reads which run to train from standard input, and reports by lines on standard
    output and error. A run's lines are kept in its own log; its warnings are logged here too, with
    its name before them.

    Raises:
        UserError: a run failed. The others were asked to stop, and have saved their state.
        Interrupted: this process was asked to stop. All runs have saved their state.
    """
    waiting, running = list(planned), dict[str, _Run]()
    heard: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    free = [_cores()[i::at_once] for i in range(at_once)]
    progress = _Progress(len(planned))
    asked, failed = 0, ""
    with stop_requests() as stop:
        try:
            while running or (waiting and not (asked or failed)):
                while waiting and free and not (asked or failed):
                    one = waiting.pop(0)
                    running[one.name] = _Run(one, free.pop(), heard, child)
                if stop() and not asked:
                    asked = stop()
                    _stop(running)
                progress.log_if_due(running)
                with suppress(queue.Empty):
                    name, kind, line = heard.get(timeout=_POLL_S)
                    if kind == "output":
                        running[name].heard(line)
                    elif kind == "warning":
                        _LOGGER.info("%s: %s", name, line)
                    else:
                        ended = running.pop(name)
                        ended.close()
                        free.append(ended.cores)
                        reason = ended.failure()
                        if not reason:
                            progress.finished(name)
                        elif not (asked or failed):
                            failed = f"{name}: {reason}"
                            _stop(running)
        finally:
            _stop(running)  # a second request ends those at once that were asked before
            for run in running.values():
                run.end()
    if asked:
        raise Interrupted("all runs stopped", asked)
    if failed:
        raise UserError(failed)


class _Event(NamedTuple):
    """A line that a child process wrote, or that it ended."""

    name: str
    kind: Literal["output", "warning", "ended"]
    line: str = ""


class _Progress:
    """Logs one line on all runs every half minute, and one after each run."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started = self._logged = time.monotonic()

    def finished(self, name: str) -> None:
        """Count a run that is trained, and log how many are left."""
        self._done += 1
        spent_s = time.monotonic() - self._started
        left_s = spent_s / self._done * (self._total - self._done)
        left = f", about {duration(left_s)} left" if left_s else ""
        _LOGGER.info("%s is trained: %d of %d runs%s", name, self._done, self._total, left)

    def log_if_due(self, running: Mapping[str, "_Run"]) -> None:
        """Log what each run does, if the last line is half a minute old."""
        if running and time.monotonic() - self._logged > _LOG_EVERY_S:
            self._logged = time.monotonic()
            now = ", ".join(f"{name} {run.doing}" for name, run in running.items())
            _LOGGER.info("%d of %d runs are trained; %s", self._done, self._total, now)


def _stop(running: Mapping[str, "_Run"]) -> None:
    for run in running.values():
        run.process.terminate()


class _Run:
    """A run in a separate process, and the threads that read its output."""

    def __init__(
        self, planned: Planned, cores: list[int], events: "queue.SimpleQueue[_Event]", child: Child
    ) -> None:
        self.cores, self._planned, self._events = cores, planned, events
        self.doing = "starts"  # the last step that it reported
        self._errors: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, child.module, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # Ctrl-C reaches a whole group, but only this process shall react
        )
        request = {
            "imports": child.imports,
            "spec": planned.spec,
            "config": planned.config.to_dict(),
            "workdir": str(planned.workdir),
            "cores": cores if hasattr(os, "sched_setaffinity") else [],
        }
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, and its output says why
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        threading.Thread(target=self._listen, daemon=True).start()

    def heard(self, line: str) -> None:
        """Note a line of output. Lines of evaluations begin with the step."""
        step, bar, _ = line.partition(" | ")
        if bar:
            self.doing = " ".join(step.split())

    def failure(self) -> str:
        """The reason why the run failed, in one line; empty if it did not."""
        status = self.process.returncode
        if status == 0:
            return ""
        if self._errors:
            return self._errors[-1]
        log = self._planned.workdir / "log.txt"
        return f"its process ended with status {status}; its last lines are in {log}"

    def end(self) -> None:
        """Wait until the run has saved its state and ended, for at most `_PATIENCE_S`."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE_S)
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Close the pipe to the process."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def _listen(self) -> None:
        warnings = threading.Thread(target=self._listen_to_warnings, daemon=True)
        warnings.start()
        for line in _lines(self.process.stdout):
            self._events.put(_Event(self._planned.name, "output", line))
        warnings.join()
        self.process.wait()
        self._events.put(_Event(self._planned.name, "ended"))

    def _listen_to_warnings(self) -> None:
        for line in _lines(self.process.stderr):
            if line.startswith("error: "):
                self._errors.append(line.removeprefix("error: "))  # reported once, at the end
            else:
                self._events.put(_Event(self._planned.name, "warning", line))


def _lines(stream: IO[bytes] | None) -> Iterator[str]:
    """The lines of a process, until it closes the stream."""
    assert stream is not None
    with stream:
        for line in stream:
            text = line.decode("utf-8", "backslashreplace").rstrip()
            if text:
                yield text


def _cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
