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
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from product_mil.data.buffers import BufferPool, Region, SharedMemory
from product_mil.data.decode import decode_images
from product_mil.errors import UserError
from product_mil.sources.catalogue import Reader

_READERS = 8  # that a process holds open: those of the sources in use
_SERVE = """
import sys
sys.path[:] = sys.argv[3:]
from product_mil.data.workers import serve
serve(*map(int, sys.argv[1:3]))
"""


class Task(NamedTuple):
    """Pictures to decode into places of a batch of images."""

    number: int  # of the reader, which a process keeps
    reader: Reader
    addresses: Any
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

    def next_reader(self) -> int:
        """A number for `Task.number`."""
        return next(self._numbers)

    @property
    def live(self) -> bool:
        """Whether none has died so far."""
        return not self._failed.is_set()

    def decode(self, task: Task) -> dict[int, str] | None:
        """What `decode_images` returns; None where no process can do it."""
        worker = None
        try:
            worker = self._idle_or_new()
            reasons = worker.ask(task)
        except (EOFError, OSError) as error:
            if worker is not None:
                worker.close()
            if self.live:
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


class Elsewhere:
    """The batches of one reader, in memory that the workers write to."""

    def __init__(self, workers: Workers, reader: Reader, shape: tuple[int, ...]) -> None:
        """`shape` is that of the images of a batch: any axes, then h, w, 3."""
        self._workers, self._reader, self._shape = workers, reader, shape
        self._number = workers.next_reader()
        self._buffers = BufferPool(shape, np.uint8, workers.memory.empty)

    def decode(
        self, addresses: Any, places: Int64[np.ndarray, " m"]
    ) -> tuple[UInt8[np.ndarray, "*b h w 3"], dict[int, str]] | None:
        """A batch with the pictures in their places, and what `decode_images` returns.

        None where no process, or no memory to share, is to be had.
        """
        if not self._workers.live:
            return None
        try:
            images = self._buffers.take()
        except OSError:
            return None
        region = self._workers.memory.region_of(images)
        height, width, channels = self._shape[-3:]
        shape = height, width, channels
        reasons = self._workers.decode(
            Task(self._number, self._reader, addresses, region, shape, places)
        )
        return None if reasons is None else (images, reasons)


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
    def reader(_: int) -> Reader:
        return task.reader

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
                reasons = decode_images(reader(task.number).read(task.addresses), targets)
            except UserError:  # the thread tries, and tells it if it fails too
                reasons = None
            tasks.send(reasons)
