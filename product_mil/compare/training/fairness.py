"""Which fields of the compared configurations differ, and whether the comparison is fair."""

from collections.abc import Mapping
from typing import Any

from product_mil.config import Config, flatten_dict
from product_mil.model.heads.spec import OWN_SETTINGS

_FREE = ("name", "seed", "data.threads", "checkpoint_every_s")  # these never matter
# The pooling is what is compared, and each pooling has settings of its own.
_FAIR = ("model.pooling", *(f"model.{name}" for name in OWN_SETTINGS))


def differing_fields(configs: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """The value of each field that differs between configurations, by field and name.

    Fields without influence on the comparison, such as the seed, are left out.
    """
    flat = {name: flatten_dict(config.to_dict()) for name, config in configs.items()}
    keys = sorted({key for fields in flat.values() for key in fields} - set(_FREE))
    found = {key: {name: fields.get(key) for name, fields in flat.items()} for key in keys}
    return {key: values for key, values in found.items() if len(set(map(str, values.values()))) > 1}


def unfair_fields(differing: Mapping[str, Any]) -> list[str]:
    """The fields that may not differ if the pooling alone is to be compared."""
    return [key for key in differing if key not in _FAIR]


def remarks(differing: Mapping[str, Any]) -> list[str]:
    """A line on unfair differences, or nothing."""
    unfair = unfair_fields(differing)
    if not unfair:
        return []
    return [
        "not like for like: besides the pooling the runs differ in "
        + ", ".join(f"config.{key}" for key in unfair)
    ]
