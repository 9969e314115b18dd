"""Which rungs can be trained, on the data and with the weights at hand."""

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

SUBSTITUTE = "efficientnet_lite0"  # comes along; for nets whose weights are not at hand
NAMED_SUBSTITUTE = "mobilenet_v2"  # in its place, where --weights names it
SUBSTITUTE_FROM = "blocks/14"  # what of either the second stage trains, and all above


@dataclass(frozen=True)
class Rung:
    """One system: its configuration, and its share of the budget against the others'."""

    name: str
    config: str  # as `load_config` takes it
    share: float


RUNGS = (
    Rung("prior", "prior", 0.1),
    Rung("tree", "tree", 3.0),
    Rung("cnn_1", "cnn_1", 4.0),
    Rung("cnn_2", "cnn_2", 4.0),
    Rung("cnn_3", "cnn_3", 6.0),
    Rung("inception_v3", "inception_v3:unlocked", 4.0),
    Rung("inception_v3-joint", "inception_v3:unlocked_joint", 4.0),
    Rung("xception", "xception:unlocked", 4.0),
    Rung("xception-joint", "xception:unlocked_joint", 4.0),
)


@dataclass(frozen=True)
class Ladder:
    """What is asked for: the flags of `product-mil seed-table`."""

    output: Path
    budget_minutes: float = 15.0
    data: str = ""  # empty: the embedded sample
    valid: str = ""
    test: str = ""  # empty: measured on the validation part
    categories: str = ""
    max_products: int = 0
    seed: int = 0
    weights: Sequence[str] = ()  # BACKBONE=FILE or BACKBONE=imagenet
    rungs: Sequence[str] = ()  # empty: all


@dataclass(frozen=True)
class Planned:
    """A rung made ready for the data and the weights at hand."""

    name: str
    config: Config
    share: float
    note: str = ""


def plan(
    ladder: Ladder, overrides: Sequence[tuple[str, str]] = ()
) -> tuple[list[Planned], list[str]]:
    """The rungs that can be trained, equal ones joined, and what is left out and why.

    `overrides` change fields of all of their configurations.

    Raises:
        UserError: unknown rungs or backbones, or configurations that are wrong.
    """
    names = [rung.name for rung in RUNGS]
    for name in ladder.rungs:
        if name not in names:
            raise UserError(f"--rungs {name}: there is no such rung; choose of {', '.join(names)}")
    weights = _named_weights(ladder.weights)
    planned: dict[str, Planned] = {}
    left_out: list[str] = []
    for rung in RUNGS:
        if ladder.rungs and rung.name not in ladder.rungs:
            continue
        config = load_config(rung.config)
        name, note = rung.name, ""
        if not isinstance(config.model.start, Random):
            wanted = config.model.backbone
            used = _net_at_hand(wanted, weights)
            if used is None:
                left_out.append(
                    f"{rung.name}: no weights of {wanted} at hand, nor of {SUBSTITUTE} in "
                    f"its place; name them with --weights {wanted}=FILE (or =imagenet: download)"
                )
                continue
            model = dataclasses.replace(
                config.model, backbone=used, weights=weights.get(used, "imagenet")
            )
            config = dataclasses.replace(config, model=model)
            if used != wanted:
                name = rung.name.replace(wanted, used)
                stage = dataclasses.replace(config.finetune, trainable=SUBSTITUTE_FROM)
                config = dataclasses.replace(config, finetune=stage)
                before = planned[name].note + " and " if name in planned else "in place of "
                note = f"{before}{rung.name}, whose weights are not at hand"
                note = note.replace(", whose weights are not at hand and", " and")
        config = _on_data(config, name, ladder, overrides)
        share = rung.share + (planned[name].share if name in planned else 0)
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
    """The net that a rung runs on: its own, or one of the substitutes."""
    if wanted in weights or is_at_hand(backbone(wanted)):
        return wanted
    if NAMED_SUBSTITUTE in weights:
        return NAMED_SUBSTITUTE
    return SUBSTITUTE if SUBSTITUTE in weights or is_at_hand(backbone(SUBSTITUTE)) else None


def _on_data(
    config: Config, name: str, ladder: Ladder, overrides: Sequence[tuple[str, str]]
) -> Config:
    data = dataclasses.replace(
        config.data,
        train=ladder.data,
        valid=ladder.valid,
        categories=ladder.categories,
        max_products=ladder.max_products,
    )
    config = dataclasses.replace(config, name=name, seed=ladder.seed, data=data)
    config, errors = override(config, overrides)
    refuse([*errors, *problems(config), *check_config(config)])
    return config
