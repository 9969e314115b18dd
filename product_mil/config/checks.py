"""What is wrong with the values of a configuration: each by itself, and some together.

What needs data, nets or devices to be known is in `runs/check.py`.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from product_mil.config.fields import STAGES, Config, StageConfig
from product_mil.config.leaves import flat, leaves
from product_mil.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

_OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def problems(config: Config) -> list[str]:
    """Everything that is wrong with the values themselves, a line each."""
    found = wrong_values(config)
    of_right_type = all(_wrong(flat(config)).values())
    return [*found, *_together(config)] if of_right_type else found


def wrong_values(config: Config) -> list[str]:
    """The values that are of a wrong type or out of their bounds, a line each."""
    values = flat(config)
    found: list[str] = []
    for name, out_of_bounds in _wrong(values).items():
        leaf = leaves()[name]
        wanted = f"must be {leaf.bounds}" if out_of_bounds else f"expected {leaf.expected}"
        found.append(f"config.{name}={values[name]}: {wanted}")
    return found


def refuse(errors: Sequence[str]) -> None:
    """One screen with every error, if there is any."""
    if errors:
        lines = "\n".join(f"  {error}" for error in errors)
        raise UserError(f"the configuration has {len(errors)} error(s):\n{lines}")


def _wrong(values: Mapping[str, Any]) -> dict[str, bool]:
    """The fields with a wrong value; true where it is only out of bounds, and of the right type."""
    from pydantic import ValidationError  # a command's --help does without it

    try:
        _checker().model_validate(values)
    except ValidationError as error:
        return {str(one["loc"][0]): one["type"] in _OUT_OF_BOUNDS for one in error.errors()}
    return {}


@functools.cache
def _checker() -> "type[BaseModel]":
    """What checks the types and bounds of all fields by their dotted names."""
    from pydantic import ConfigDict, Field, create_model

    fields: dict[str, Any] = {
        name: (leaf.kind, Field(**leaf.metadata)) for name, leaf in leaves().items()
    }
    return create_model("Fields", __config__=ConfigDict(strict=True), **fields)


def _together(config: Config) -> Iterator[str]:
    """Values that do not go together."""
    for name in STAGES:
        stage: StageConfig = getattr(config, name)
        if stage.epochs == -1 and stage.steps == 0:
            yield f"config.{name}.steps=0: epochs=-1 needs steps above 0"
        if stage.ema_decay and stage.ema_memory:
            yield (
                f"config.{name}.ema_memory={stage.ema_memory}: sets the decay, as does "
                f"{name}.ema_decay={stage.ema_decay}; set one of them to 0"
            )
        if stage.batch_statistics and stage.trainable != "all":
            yield (
                f"config.{name}.batch_statistics=True: what is frozen keeps its statistics; set "
                "trainable=all or batch_statistics=false"
            )
        shards, images = config.data.shards, stage.images_per_batch
        too_few = images // max(shards, 1) < config.data.max_images
        if shards >= 1 and images >= 1 and (images % shards or too_few):
            yield (
                f"config.{name}.images_per_batch={images}: must be a multiple of data.shards="
                f"{shards} and hold data.max_images={config.data.max_images} in each shard"
            )
