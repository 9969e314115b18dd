"""Arrays whose memory is used again, since writing to new memory costs a page fault every 4 KiB."""

import mmap
import os
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]


class BufferPool:
    """Arrays of one shape and type, each of which is used again when nothing refers to it any more.

    An array, a view of it, and a JAX array that shares its memory or is copying from it all hold a
    reference to the owner of the memory, so memory in use is never overwritten.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, allocate: Allocate = np.empty) -> None:
        self._shape, self._dtype, self._allocate = shape, np.dtype(dtype), allocate
        self._owners: list[np.ndarray] = []
        self._free_references = 0  # to an array that nobody holds
        self._lock = threading.Lock()

    def take(self) -> np.ndarray:
        """An array with arbitrary contents. Several threads may call this."""
        with self._lock:
            for i in range(len(self._owners)):
                if self._references(i) == self._free_references:
                    return self._owners[i].view()
            self._owners.append(self._allocate(self._shape, self._dtype))
            self._free_references = self._references(-1)
            return self._owners[-1].view()

    def __len__(self) -> int:
        """The number of arrays made so far."""
        return len(self._owners)

    def _references(self, i: int) -> int:
        return sys.getrefcount(self._owners[i])


class Region(NamedTuple):
    """A part of a file that is in memory."""

    offset_bytes: int
    used_bytes: int

    @property
    def size_bytes(self) -> int:
        """The size of the region in whole pages."""
        return -(-self.used_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY

    def map(self, descriptor: int) -> mmap.mmap:
        """Map the region into this process; where the system can, all its pages at once."""
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        return mmap.mmap(descriptor, self.size_bytes, flags, offset=self.offset_bytes)


class SharedMemory:
    """Arrays in a file in memory, which other processes with its descriptor can map too.

    The file has no name, so it disappears with the last process that has it open.
    """

    def __init__(self) -> None:
        """Make the file; raises AttributeError or OSError if the system has no such files."""
        self.descriptor = os.memfd_create("product_mil")
        self._end_bytes = 0
        self._regions: dict[int, Region] = {}  # by address
        self._free: defaultdict[int, list[tuple[Region, mmap.mmap]]] = defaultdict(list)
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array with arbitrary contents. Its memory is used again when nothing refers to it."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._lock:
            free = self._free[num_bytes]
            region, memory = free.pop() if free else self._grown(num_bytes)
            array = np.ndarray(shape, dtype, buffer=memory)
            self._regions[array.ctypes.data] = region
        weakref.finalize(array, free.append, (region, memory)).atexit = False
        return array

    def region_of(self, array: np.ndarray) -> Region:
        """The region of an array from `empty`, or of a view of the whole of it.

        Raises:
            KeyError: the array comes from somewhere else.
        """
        return self._regions[array.ctypes.data]

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def _grown(self, num_bytes: int) -> tuple[Region, mmap.mmap]:
        region = Region(self._end_bytes, num_bytes)
        os.ftruncate(self.descriptor, self._end_bytes + region.size_bytes)
        self._end_bytes += region.size_bytes
        return region, region.map(self.descriptor)
