"""Read the layers of a weights file: Keras' HDF5, or PyTorch's safetensors.

Files are read by h5py and safetensors, so nothing in them can run as code. Only one pickle is read,
which is known by its hash (`torch_pickle.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from product_mil.errors import UserError
from product_mil.files.foreign import Wanted, refuse_foreign
from product_mil.model.keras_layers import KerasLayer
from product_mil.model.spec import BackboneSpec
from product_mil.model.weights.keras_files import keras_file_layers, refuse_other_files
from product_mil.model.weights.layers import FileLayer
from product_mil.model.weights.torch_files import torch_file_layers
from product_mil.model.weights.torch_pickle import read_known_pickle

_LFS_POINTER = b"version https://git-lfs"


_WEIGHTS = Wanted(
    "weights file",
    # These kinds get messages of their own below.
    frozenset({"hdf5", "safetensors", "pickle", "packed", "bson", "other"}),
    "name a Keras .h5 or a .safetensors",
)


@contextmanager
def file_layers(
    path: Path, spec: BackboneSpec | None = None
) -> Iterator[tuple[list[FileLayer], Sequence[KerasLayer]]]:
    """The layers of a file, which stays open, and the backbone's layers with the file's names.

    Raises:
        UserError: the file is missing, incomplete or in no known layout. This may also be raised
            while the layers are read.
    """
    if not path.is_file():
        there = "is no file" if path.exists() else "no such weights file"
        raise UserError(f"{path}: {there}; name a Keras .h5 or a .safetensors")
    try:
        with path.open("rb") as raw:
            empty = not raw.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise UserError(f"{path}: is empty; get the file again")
    refuse_foreign(path, _WEIGHTS)
    layers = spec.keras_layers if spec else ()
    tensors = _torch_tensors(path)
    if tensors is not None:
        yield torch_file_layers(path, tensors, layers, spec.torch_namings if spec else ({},))
        return
    try:
        with h5py.File(path, "r") as file:
            refuse_other_files(file, path)
            yield keras_file_layers(file, path), layers
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a whole HDF5 file ({reason}); get the file again") from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name.

    Raises:
        UserError: the file is not whole, or of another kind.
    """
    import safetensors
    from safetensors.numpy import load_file

    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(f"{path}: a pointer of Git LFS, not the file; run git lfs pull")
        return load_file(path)
    except (
        OSError,
        safetensors.SafetensorError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a whole safetensors file ({reason}); get the file again"
        ) from error


def _torch_tensors(path: Path) -> dict[str, np.ndarray] | None:
    """The tensors of a PyTorch file by name; None for HDF5."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if h5py.is_hdf5(path):
        return None
    tensors = read_known_pickle(path)
    if tensors is None:
        raise UserError(
            f"{path}: no HDF5 file; only Keras' .h5 and .safetensors are read, never a pickle "
            "(but that of efficientnet_lite0's package, unchanged): save the net in one of them"
        )
    return tensors
