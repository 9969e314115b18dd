"""Which systems can be trained, on the data and with the weights at hand."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from product_mil.config import Config, load_config, override, problems, refuse
from product_mil.config.start import Random
from product_mil.errors import UserError
from product_mil.model.registry import backbone
from product_mil.model.weights.published import is_at_hand
from product_mil.runs.check import check_config

SUBSTITUTE = "efficientnet_lite0"  # replaces nets without weights; its own are installed with us
NAMED_SUBSTITUTE = "mobilenet_v2"  # used instead of it where --weights names it
SUBSTITUTE_FROM = "blocks/14"  # the second stage trains this block of either, and all after it


@dataclass(frozen=True)
class System:
    """A system of the table: its configuration, and its weight when the budget is divided."""

    name: str
    config: str  # as `load_config` takes it
    share: float


SYSTEMS = (
    System("prior", "prior", 0.1),
    System("tree", "tree", 3.0),
    System("cnn_1", "cnn_1", 4.0),
    System("cnn_2", "cnn_2", 4.0),
    System("cnn_3", "cnn_3", 6.0),
    System("inception_v3", "inception_v3:unlocked", 4.0),
    System("inception_v3-joint", "inception_v3:unlocked_joint", 4.0),
    System("xception", "xception:unlocked", 4.0),
    System("xception-joint", "xception:unlocked_joint", 4.0),
)


@dataclass(frozen=True)
class TableOptions:
    """What the user asks for, by the flags of `product-mil seed-table`."""

    output: Path
    budget_minutes: float = 15.0
    data: str = ""  # empty: the embedded sample
    valid: str = ""
    test: str = ""  # empty: measured on the validation part
    categories: str = ""
    max_products: int = 0
    seed: int = 0
    weights: Sequence[str] = ()  # BACKBONE=FILE or BACKBONE=imagenet
    systems: Sequence[str] = ()  # empty: all


@dataclass(frozen=True)
class Planned:
    """A system whose configuration has the user's data, and weights that are at hand."""

    name: str
    config: Config
    share: float
    note: str = ""


def plan(
    options: TableOptions, overrides: Sequence[tuple[str, str]] = ()
) -> tuple[list[Planned], list[str]]:
    """The systems that can be trained, and a line for each one that cannot, with the reason.

    Systems that become equal, because the same net replaces theirs, are planned once.
    `overrides` change fields of every configuration.

    Raises:
        UserError: a system or backbone is unknown, or a configuration is wrong.
    """
    names = [system.name for system in SYSTEMS]
    for name in options.systems:
        if name not in names:
            raise UserError(
                f"--systems {name}: there is no such system; choose of {', '.join(names)}"
            )
    weights = _named_weights(options.weights)
    planned: dict[str, Planned] = {}
    left_out: list[str] = []
    for system in SYSTEMS:
        if options.systems and system.name not in options.systems:
            continue
        config = load_config(system.config)
        name, note = system.name, ""
        if not isinstance(config.model.start, Random):
            wanted = config.model.backbone
            used = _net_at_hand(wanted, weights)
            if used is None:
                left_out.append(
                    f"{system.name}: no weights of {wanted} at hand, nor of {SUBSTITUTE} in "
                    f"its place; name them with --weights {wanted}=FILE (or =imagenet: download)"
                )
                continue
            model = dataclasses.replace(
                config.model, backbone=used, weights=weights.get(used, "imagenet")
            )
            config = dataclasses.replace(config, model=model)
            if used != wanted:
                name = system.name.replace(wanted, used)
                stage = dataclasses.replace(config.finetune, trainable=SUBSTITUTE_FROM)
                config = dataclasses.replace(config, finetune=stage)
                before = planned[name].note + " and " if name in planned else "in place of "
                note = f"{before}{system.name}, whose weights are not at hand"
                note = note.replace(", whose weights are not at hand and", " and")
        config = _on_data(config, name, options, overrides)
        share = system.share + (planned[name].share if name in planned else 0)
        planned[name] = Planned(name, config, share, note)
    return list(planned.values()), left_out


def _named_weights(items: Sequence[str]) -> dict[str, str]:
    weights: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"--weights {item}: expected BACKBONE=FILE or BACKBONE=imagenet")
        weights[backbone(name).name] = value
    return weights


def _net_at_hand(wanted: str, weights: Mapping[str, str]) -> str | None:
    """The net that a system runs on: its own, or a substitute. None if there are no weights."""
    if wanted in weights or is_at_hand(backbone(wanted)):
        return wanted
    if NAMED_SUBSTITUTE in weights:
        return NAMED_SUBSTITUTE
    return SUBSTITUTE if SUBSTITUTE in weights or is_at_hand(backbone(SUBSTITUTE)) else None


def _on_data(
    config: Config, name: str, options: TableOptions, overrides: Sequence[tuple[str, str]]
) -> Config:
    data = dataclasses.replace(
        config.data,
        train=options.data,
        valid=options.valid,
        categories=options.categories,
        max_products=options.max_products,
    )
    config = dataclasses.replace(config, name=name, seed=options.seed, data=data)
    config, errors = override(config, overrides)
    refuse([*errors, *problems(config), *check_config(config)])
    return config
