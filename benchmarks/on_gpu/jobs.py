"""Commands with a limit on their time, whose rows of JSON are read as they come."""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]


def child_environment(**changes: str) -> dict[str, str]:
    """The environment with these changes, for commands that find this checkout from anywhere."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, **changes}


def last_line(said: str) -> str:
    """The last line that a command wrote, as the reason of its end."""
    return (said.strip().splitlines() or ["no word"])[-1][:300]


def rows_of(
    command: list[str], box_s: float, environment: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Rows that the command prints; one more says why, where it fails or its time is up.

    Its whole session of processes ends with it.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        ) as process,
    ):
        late = threading.Event()

        def end() -> None:
            late.set()
            _kill(process)

        clock = threading.Timer(box_s, end)
        clock.start()
        try:
            for line in process.stdout or ():
                if line.startswith("{"):
                    yield json.loads(line)
            process.wait()
        finally:
            clock.cancel()
            _kill(process)
        if late.is_set():
            yield {"what": f"stopped after {box_s:.0f} s"}
        elif process.returncode:
            errors.seek(0)
            yield {"what": f"failed ({process.returncode}): {_reason(errors.read())}"}


def _reason(said: str) -> str:
    """The last line that names an error, which XLA lets a stack follow; else the last one."""
    lines = said.strip().splitlines() or ["no word"]
    named = [line for line in lines if re.search(r"Error\b|Check failed", line)]
    return (named or lines)[-1][:300]


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
