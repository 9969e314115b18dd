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
from product_mil.errors import Interrupted, UserError
from product_mil.text import duration
from product_mil.train.cost import free_memory_bytes
from product_mil.train.stopping import stop_requests

RUN_BYTES = 1_500_000_000  # of memory for a run; 0.7 GB measured with a head of 93 categories
_START = """
import importlib
import sys
sys.path[:] = sys.argv[2:]
importlib.import_module(sys.argv[1]).main()
"""
_POLL_S = 0.2  # between two looks whether somebody asked to stop
_TELL_EVERY_S = 30.0
_PATIENCE_S = 60.0  # for a run to save itself where this process fails
_LOGGER = logging.getLogger(__name__)


class Planned(NamedTuple):
    """A run to train, or to go on with."""

    name: str
    config: Config
    workdir: Path
    spec: str = ""  # `--config` that it came from, if any; running its file may register a head


class Child(NamedTuple):
    """What trains one run in a process of its own."""

    module: str  # whose `main` does what `cli.one_run` does
    imports: tuple[str, ...] = ()  # Python files that it runs first, which may register heads


def num_at_once(num_runs: int) -> int:
    """How many runs the cores and the free memory allow at the same time; at least one."""
    return max(1, min(num_runs, len(_cores()), free_memory_bytes() // RUN_BYTES))


def train_side_by_side(planned: Sequence[Planned], at_once: int, child: Child) -> None:
    """Train every run; a line for all of them is logged now and then.

    The child is told its run on standard input, and answers with lines on standard output and
    error. What a run says is kept in its own log; its warnings are logged here too, after its name.

    Raises:
        UserError: a run failed; the others were asked to stop, and saved.
        Interrupted: this process was asked to stop; all runs have saved.
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
                progress.tell(running)
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
            _stop(running)  # those asked before end at once
            for run in running.values():
                run.end()
    if asked:
        raise Interrupted("all runs stopped", asked)
    if failed:
        raise UserError(failed)


class _Event(NamedTuple):
    """What a run was heard to do."""

    name: str
    kind: Literal["output", "warning", "ended"]
    line: str = ""


class _Progress:
    """One line for all runs, every half minute and after each run."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started = self._told = time.monotonic()

    def finished(self, name: str) -> None:
        """Count a run that is trained, and tell it."""
        self._done += 1
        spent_s = time.monotonic() - self._started
        left_s = spent_s / self._done * (self._total - self._done)
        left = f", about {duration(left_s)} left" if left_s else ""
        _LOGGER.info("%s is trained: %d of %d runs%s", name, self._done, self._total, left)

    def tell(self, running: Mapping[str, "_Run"]) -> None:
        """Tell what each run does, if the last line is half a minute old."""
        if running and time.monotonic() - self._told > _TELL_EVERY_S:
            self._told = time.monotonic()
            now = ", ".join(f"{name} {run.doing}" for name, run in running.items())
            _LOGGER.info("%d of %d runs are trained; %s", self._done, self._total, now)


def _stop(running: Mapping[str, "_Run"]) -> None:
    for run in running.values():
        run.process.terminate()


class _Run:
    """A run in a process of its own, and threads that listen to it."""

    def __init__(
        self, planned: Planned, cores: list[int], events: "queue.SimpleQueue[_Event]", child: Child
    ) -> None:
        self.cores, self._planned, self._events = cores, planned, events
        self.doing = "starts"  # the step that it told last
        self._errors: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, child.module, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # Ctrl-C goes to a whole group; this process alone decides
        )
        told = {
            "imports": child.imports,
            "spec": planned.spec,
            "config": planned.config.to_dict(),
            "workdir": str(planned.workdir),
            "cores": cores if hasattr(os, "sched_setaffinity") else [],
        }
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it ended already, and its lines say why
            self.process.stdin.write(json.dumps(told).encode() + b"\n")
            self.process.stdin.flush()
        threading.Thread(target=self._listen, daemon=True).start()

    def heard(self, line: str) -> None:
        """Note a line; those of evaluations begin with the step."""
        step, bar, _ = line.partition(" | ")
        if bar:
            self.doing = " ".join(step.split())

    def failure(self) -> str:
        """Why it failed, in one line; empty if it did not."""
        status = self.process.returncode
        if status == 0:
            return ""
        if self._errors:
            return self._errors[-1]
        log = self._planned.workdir / "log.txt"
        return f"its process ended with status {status}; its last lines are in {log}"

    def end(self) -> None:
        """Wait until it has saved and ended, but not for ever."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE_S)
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Close what is left of the connection."""
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
                self._errors.append(line.removeprefix("error: "))  # told once, in the end
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
