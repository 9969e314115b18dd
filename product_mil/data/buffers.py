"""Arrays that are used again: fresh memory costs a page fault every 4 KiB when it is written."""

import sys
import threading
from typing import Any

import numpy as np


class BufferPool:
    """Arrays of one shape and type; one is given out again once nothing refers to it any more.

    Whoever holds an array, or a view of it, or a JAX array that shares its memory or still copies
    from it, holds a reference to what owns the memory, and so keeps it from being overwritten.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._owners: list[np.ndarray] = []
        self._free_references = 0  # to an array that nobody holds
        self._lock = threading.Lock()

    def take(self) -> np.ndarray:
        """An array with any contents; may be called from several threads."""
        with self._lock:
            for i in range(len(self._owners)):
                if self._references(i) == self._free_references:
                    return self._owners[i].view()
            self._owners.append(np.empty(self._shape, self._dtype))
            self._free_references = self._references(-1)
            return self._owners[-1].view()

    def __len__(self) -> int:
        """Arrays made so far."""
        return len(self._owners)

    def _references(self, i: int) -> int:
        return sys.getrefcount(self._owners[i])

    def __reduce__(self) -> Any:
        """Another process makes its own arrays."""
        return BufferPool, (self._shape, self._dtype)
