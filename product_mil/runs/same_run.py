"""Whether the processes that train together were all started on the same run."""

import hashlib
import json
from importlib.metadata import version
from typing import Any

from product_mil.config import Config
from product_mil.config.leaves import flatten_dict
from product_mil.devices.hosts import are_several, from_first, gathered
from product_mil.errors import UserError
from product_mil.model.classifier import Model
from product_mil.runs.data import RunData
from product_mil.version import __version__

# Places of files, whose contents `refuse_other_inputs` compares, and what changes no number.
_FREE = {
    "checkpoint_every_s",
    "name",
    *(f"data.{name}" for name in ("train", "valid", "categories", "threads")),
    *(f"model.{name}" for name in ("weights", "head_init")),
}


def refuse_other_settings(config: Config) -> None:
    """Compare the settings and versions of all processes.

    Raises:
        UserError: those of one differ from those of process 0.
    """
    if not are_several():
        return
    fields = flatten_dict(config.to_dict()).items()
    own: dict[str, Any] = {f"config.{name}": of for name, of in fields if name not in _FREE}
    own |= {"product_mil": __version__}
    own |= {package: version(package) for package in ("jax", "flax", "optax")}
    first, *others = (json.loads(text) for text in gathered(json.dumps(own)))
    for number, other in enumerate(others, 1):
        different = [
            f"{name} is {other.get(name)!r} there, {first.get(name)!r} in process 0"
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if different:
            raise UserError(
                f"process {number} was started otherwise than process 0: {'; '.join(different)}; "
                "give all of them the same command"
            )


def refuse_other_inputs(data: RunData, model: Model) -> None:
    """Compare the data and the weights from which the processes start.

    Raises:
        UserError: those of this process differ from those of process 0.
    """
    if not are_several():
        return
    parts = {
        "data": data.fingerprint,
        "categories": hashlib.sha256(data.categories.to_json().encode()).hexdigest(),
        "weights": model.digest(),
    }
    first = json.loads(from_first(json.dumps(parts)))
    different = [name for name, digest in parts.items() if first[name] != digest]
    found = gathered(" and ".join(different))
    number = next((number for number, text in enumerate(found) if text), None)
    if number is not None:
        raise UserError(
            f"process {number} has other {found[number]} than process 0; give all of them the same "
            "files"
        )
