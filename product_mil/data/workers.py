"""Processes that decode pictures into memory shared with this one.

Threads decode side by side too, but what they do between two pictures needs the interpreter's
lock: 2 threads lose a twentieth of their time waiting for it, more threads more. A process has a
lock of its own. The threads of the loader stay: each hands its batch to a process and waits.
"""

import functools
import itertools
import logging
import mmap
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from product_mil.data.buffers import Region, SharedMemory
from product_mil.data.reading import Addresses, FileReader
from product_mil.errors import UserError

_READERS = 8  # whose files a process holds open: those of the sources in use
_SERVE = """
import sys
sys.path[:] = sys.argv[3:]
from product_mil.data.workers import serve
serve(*map(int, sys.argv[1:3]))
"""


class Task(NamedTuple):
    """Pictures to decode into places of a batch of images."""

    reader: int  # tells readers apart that have the same paths
    paths: tuple[Path, ...]
    addresses: Addresses
    region: Region
    image_shape: tuple[int, int, int]
    places: Int64[np.ndarray, " m"]  # in the region, in images


class Workers:
    """One process a caller at a time, as many as there were callers at once; kept until the end."""

    def __init__(self) -> None:
        """Raises OSError where the system has no memory to share this way."""
        self.memory = SharedMemory()
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._failed = threading.Event()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array to decode into; one of this process alone where no memory is left to share."""
        try:
            return self.memory.empty(shape, dtype)
        except OSError:
            return np.empty(shape, dtype)

    def next_reader(self) -> int:
        """A number for `Task.reader`."""
        return next(self._numbers)

    def decode(self, task: Task) -> dict[int, str] | None:
        """What `FileReader.decode` returns; None where no process can do it."""
        if self._failed.is_set():
            return None
        worker = None
        try:
            worker = self._idle_or_new()
            reasons = worker.ask(task)
        except (EOFError, OSError) as error:
            if worker is not None:
                worker.close()
            if not self._failed.is_set():
                self._failed.set()
                logging.getLogger(__name__).warning(
                    "a process that decodes images ended (%s): threads decode from now on",
                    error or "killed",
                )
            return None
        self._idle.put(worker)
        return reasons

    def _idle_or_new(self) -> "_Worker":
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return _Worker(self.memory.descriptor)

    def close(self) -> None:
        """End the idle processes."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


@functools.cache
def process_workers() -> Workers | None:
    """The one set of workers of this process; None where the system has no such memory."""
    import atexit

    try:
        workers = Workers()
    except (AttributeError, OSError):
        return None
    atexit.register(workers.close)
    return workers


class _Worker:
    """A process at the other end of a socket, which ends when the socket does."""

    def __init__(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            handed = (theirs.fileno(), memory)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, *map(str, handed), *sys.path],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C goes to a whole group; the parent alone decides
            )
            self._connection = Connection(ours.detach())

    def ask(self, task: Task) -> dict[int, str] | None:
        self._connection.send(task)
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()
        self._process.wait()


def serve(connection: int, memory: int) -> None:
    """Answer tasks until the other end closes; runs in a process of its own."""

    @functools.lru_cache(_READERS)
    def reader(_: int, paths: Sequence[Path]) -> FileReader:
        return FileReader(paths)

    @functools.cache
    def mapped(region: Region) -> mmap.mmap:
        return region.map(memory)

    with Connection(connection) as tasks, suppress(EOFError, OSError):
        while True:
            task: Task = tasks.recv()
            images = np.frombuffer(mapped(task.region), np.uint8, count=task.region.used_bytes)
            images = images.reshape(-1, *task.image_shape)
            targets = (images[place] for place in task.places.tolist())
            try:
                reasons = reader(task.reader, task.paths).decode(task.addresses, targets)
            except UserError:  # the thread tries, and tells it if it fails too
                reasons = None
            tasks.send(reasons)
