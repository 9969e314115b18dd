"""Processes that decode images into memory which they share with this process.

Threads can decode at the same time, too, but between two images they need the interpreter's lock. 2
threads lose a twentieth of their time by waiting for it, and more threads lose more. Each process
has its own lock. The loader's threads remain: each passes its batch to a process and waits.

Grain's own worker processes would do without this file and most of `buffers.py`. On two cores they
make half as many batches of 256 images a second, and 0.87 times as many on one core, because they
copy each batch between processes (`python -m benchmarks.parts.loader --rounds 6`, 2026-11-28).
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

_READERS = 8  # readers that a process keeps open, for the sources in use
_SERVE = """
import sys
sys.path[:] = sys.argv[3:]
from product_mil.data.workers import serve
serve(*map(int, sys.argv[1:3]))
"""


class Task(NamedTuple):
    """Images to decode into the slots of a batch."""

    number: int  # identifies the reader, which a process keeps
    reader: Reader
    addresses: Any
    region: Region
    image_shape: tuple[int, int, int]
    slots: Int64[np.ndarray, " m"]  # of the region, in images


class Workers:
    """Decoding processes, kept until the program ends.

    A caller borrows an idle one or starts a new one, so there are never more processes than callers
    that wait at the same time.
    """

    def __init__(self) -> None:
        """Make the shared memory; raises OSError if the system has none of this kind."""
        self.memory = SharedMemory()
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._failed = threading.Event()
        self.started = False  # whether there is a process by now

    def next_reader(self) -> int:
        """A new number for `Task.number`."""
        return next(self._numbers)

    @property
    def live(self) -> bool:
        """Whether no process has died so far."""
        return not self._failed.is_set()

    def decode(self, task: Task) -> dict[int, str] | None:
        """Decode in a process, with the result of `decode_images`; None if no process can do it."""
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
            worker = _Worker(self.memory.descriptor)
            self.started = True
            return worker

    def close(self) -> None:
        """End the idle processes."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


class ProcessDecoder:
    """Decodes the batches of one reader by `Workers`, in memory that is shared with them."""

    def __init__(self, workers: Workers, reader: Reader, shape: tuple[int, ...]) -> None:
        """`shape` is that of the images of a batch: any axes, then h, w, 3."""
        self._workers, self._reader, self._shape = workers, reader, shape
        self._number = workers.next_reader()
        self._buffers = BufferPool(shape, np.uint8, workers.memory.empty)

    def decode(
        self, addresses: Any, slots: Int64[np.ndarray, " m"]
    ) -> tuple[UInt8[np.ndarray, "*b h w 3"], dict[int, str]] | None:
        """A batch with the images in their slots, and the result of `decode_images`.

        None if there is no process or no shared memory.
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
            Task(self._number, self._reader, addresses, region, shape, slots)
        )
        return None if reasons is None else (images, reasons)


@functools.cache
def process_workers() -> Workers | None:
    """The workers, of which a program has one set; None if the system has no shared memory."""
    import atexit

    try:
        workers = Workers()
    except (AttributeError, OSError):
        return None
    atexit.register(workers.close)
    return workers


class _Worker:
    """A process that is connected by a socket, and ends when the socket is closed."""

    def __init__(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            handed = (theirs.fileno(), memory)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, *map(str, handed), *sys.path],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C reaches a whole group, but only the parent shall react
            )
            self._connection = Connection(ours.detach())

    def ask(self, task: Task) -> dict[int, str] | None:
        self._connection.send(task)
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()
        self._process.wait()


def serve(connection: int, memory: int) -> None:
    """Decode tasks until the other end closes the socket. This runs in a separate process."""

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
            targets = (images[slot] for slot in task.slots.tolist())
            try:
                reasons = decode_images(reader(task.number).read(task.addresses), targets)
            except UserError:  # the caller's thread tries again, and reports the error
                reasons = None
            tasks.send(reasons)
