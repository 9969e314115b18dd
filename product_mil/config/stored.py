"""The configuration that a run keeps: opened again, also by later versions, and compared."""

import json
from collections.abc import Mapping
from typing import Any

from product_mil.config.fields import (
    STAGES,
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    StageConfig,
)
from product_mil.config.leaves import flatten_dict
from product_mil.errors import UserError


def differences(stored: dict[str, Any], config: Config) -> list[str]:
    """The fields in which a run's stored configuration differs from `config`, a line each.

    What changes no number (the number of loader threads, how often to save) may differ. A field
    younger than the run has its default there.
    """
    free = {"data.threads", "checkpoint_every_s", "name"}
    there = flatten_dict(json.loads(json.dumps(Config().to_dict())))
    there |= flatten_dict(_with_augmentation_by_stage(stored))
    here = flatten_dict(json.loads(json.dumps(config.to_dict())))
    return [
        f"config.{key}: the run has {there.get(key)!r}, you ask for {here.get(key)!r}"
        for key in sorted(there.keys() | here.keys())
        if key not in free and there.get(key) != here.get(key)
    ]


def config_from_dict(stored: dict[str, Any]) -> Config:
    """The configuration that a run's directory holds; younger fields have their defaults.

    Raises:
        UserError: fields that this version does not know, or no configuration at all.
    """
    beside = ("format", "version")  # what config.json says of itself
    try:
        parts = _with_augmentation_by_stage(stored)
        for name in beside:
            parts.pop(name, None)
        for name, kind in {"data": DataConfig, "model": ModelConfig}.items():
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored[name].items()}
            parts[name] = kind(**values)
        for name in STAGES:
            values = parts.get(name, {})
            augment = AugmentConfig(**values.get("augment", {}))
            parts[name] = StageConfig(**{**values, "augment": augment})
        return Config(**parts)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"the run's config.json is of another version ({error})") from error


def _with_augmentation_by_stage(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration in today's form: older ones had one augmentation for both stages."""
    found = dict(stored)
    both = found.pop("augment", None)
    if both is not None:
        for stage in STAGES:
            found[stage] = {"augment": both, **found.get(stage, {})}
    return found
