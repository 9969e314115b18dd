"""Read the only pickle that is allowed: EfficientNet-Lite0's ImageNet weights from their package.

A pickle can run code when it is read. This one cannot, since its bytes are first compared with a
known sha256, and the unpickler only knows the names below. Every other pickle is refused.

The layout is that of PyTorch before version 1.6: three pickles that describe the format, one with
the tensors by name, one with the keys of storages in order, and then each storage as a count and
raw values.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from product_mil.errors import UserError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE_BYTES = 18_826_032


def read_known_pickle(path: Path) -> dict[str, np.ndarray] | None:
    """The tensors of the known file by their names; None if `path` holds anything else.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if path.stat().st_size != SIZE_BYTES:
            return None
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        return None
    return _tensors(content)


def _tensors(content: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(content)
    for _ in range(3):  # a magic number, the version of the format, sizes of C's integers
        _TensorsAlone(file).load()
    unpickler = _TensorsAlone(file)
    tensors: dict[str, np.ndarray] = unpickler.load()
    for key in _TensorsAlone(file).load():
        storage = unpickler.storages[key]
        (count,) = np.frombuffer(file.read(8), "<i8")
        # The values are written in place, because the tensors are views of the storages.
        storage[:] = np.frombuffer(file.read(count * storage.itemsize), storage.dtype)
    return dict(tensors)


def _rebuild_tensor(storage: np.ndarray, offset: int, shape: Any, strides: Any, *_: Any) -> Any:
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


class _TensorsAlone(pickle.Unpickler):
    """An unpickler that only knows tensors, their storages and the dictionary of tensors."""

    KNOWN = {  # noqa: RUF012
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The object of a known name; raises `UnpicklingError` for any other."""
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is no tensor")
        return self.KNOWN[module, name]

    def persistent_load(self, reference: Any) -> np.ndarray:
        """The storage of that key, which is filled when all tensors are known."""
        _, dtype, key, _, size, _ = reference
        return self.storages.setdefault(key, np.zeros(size, dtype))
