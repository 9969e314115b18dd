"""Load published weights into a backbone, such that every tensor of the file is used once."""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from product_mil.errors import UserError
from product_mil.model.spec import BackboneSpec
from product_mil.model.weights.files import file_layers
from product_mil.model.weights.layers import Tensor
from product_mil.model.weights.pairing import Pairing, pair


@dataclass(frozen=True)
class ImageNetTop:
    """The classifier of a file "with top": logits = embedding @ kernel + bias."""

    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]


@dataclass(frozen=True)
class LoadedWeights:
    """The loaded file, the number of its tensors, and the top if any."""

    path: Path
    n_tensors: int
    top: ImageNetTop | None


def load_weights(module: nnx.Module, spec: BackboneSpec, path: Path) -> LoadedWeights:
    """Set every parameter and statistic of `module`, in place, from a file.

    The file is a Keras HDF5 file (either layout), a PyTorch `.safetensors`, or the file that
    `published_file` finds.

    Raises:
        UserError: the file is missing, is no weights file, or does not have the tensors of this
            backbone. Then the message names all missing, unused and misshapen tensors, and `module`
            is unchanged.
    """
    if not spec.keras_layers:
        raise UserError(f"backbone {spec.name} reads no weights file; leave the weights out")
    with file_layers(path, spec) as (found, layers):
        pairing = pair(found, layers, module, spec.embedding_dim)
        if pairing.faults:
            raise UserError(
                f"{path}: not the weights of {spec.name} (product-mil inspect-weights says whose "
                f"they are); {pairing.faults}"
            )
        values, broken = _read_values(pairing)
        top = None
        if pairing.top:
            top = ImageNetTop(*(values.pop(f"top/{name}") for name in ("kernel", "bias")))
    if broken:
        raise UserError(f"{path}: {broken}; get the file again, or another")
    for (_, variable, _), value in zip(pairing.pairs, values.values(), strict=True):
        variable[...] = jnp.asarray(value, variable.dtype)
    return LoadedWeights(path, len(values), top)


def fit(module: nnx.Module, spec: BackboneSpec, path: Path) -> tuple[str, int]:
    """The reasons why a file does not fit, empty if it does, and the classes of its top or 0."""
    with file_layers(path, spec) as (found, layers):
        pairing = pair(found, layers, module, spec.embedding_dim)
        faults = pairing.faults or _read_values(pairing)[1]
    return faults, pairing.top["bias"].shape[0] if pairing.top else 0


def _read_values(pairing: Pairing) -> tuple[dict[str, np.ndarray], str]:
    """The tensors in float32 and our shapes, the top's last, and a line on broken ones or ""."""
    values = {name: _float32(data).reshape(v.shape) for name, v, data in pairing.pairs}
    values |= {f"top/{name}": _float32(data) for name, data in pairing.top.items()}
    broken = [name for name, value in values.items() if not np.isfinite(value).all()]
    return values, f"{len(broken)} with NaN or infinite values: {', '.join(broken)}" * bool(broken)


def _float32(data: Tensor) -> np.ndarray:
    with np.errstate(over="ignore"):  # values too large for float32 are reported as infinite
        return np.asarray(data[()]).astype(np.float32)
