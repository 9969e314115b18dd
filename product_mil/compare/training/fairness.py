"""In what the configurations of rivals differ, and whether that is fair."""

from collections.abc import Mapping
from typing import Any

from product_mil.config import Config, flatten_dict
from product_mil.model.heads.spec import OWN_SETTINGS

_FREE = ("name", "seed", "data.threads", "checkpoint_every_s")  # may differ in a fair comparison
_FAIR = ("model.pooling", *(f"model.{name}" for name in OWN_SETTINGS))  # it has to, with its own


def differing_fields(configs: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """Fields of the configurations that are not the same in all, but for name and seed."""
    flat = {name: flatten_dict(config.to_dict()) for name, config in configs.items()}
    keys = sorted({key for fields in flat.values() for key in fields} - set(_FREE))
    found = {key: {name: fields.get(key) for name, fields in flat.items()} for key in keys}
    return {key: values for key, values in found.items() if len(set(map(str, values.values()))) > 1}


def unfair_fields(differing: Mapping[str, Any]) -> list[str]:
    """Those that may not differ where the pooling alone is to be compared."""
    return [key for key in differing if key not in _FAIR]


def remarks(differing: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of them, in a line if anything."""
    unfair = unfair_fields(differing)
    if not unfair:
        return []
    return [
        "not like for like: besides the pooling the runs differ in "
        + ", ".join(f"config.{key}" for key in unfair)
    ]
