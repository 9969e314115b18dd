"""Variants that are trained before they are compared."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from product_mil.compare.training.fairness import differing_fields, unfair_fields
from product_mil.compare.training.side_by_side import (
    Child,
    Planned,
    num_at_once,
    train_side_by_side,
)
from product_mil.config import Config, load_config, override, problems
from product_mil.config.start import Random
from product_mil.devices.mesh import data_mesh
from product_mil.errors import UserError
from product_mil.runs.check import check_config
from product_mil.runs.data import build_data
from product_mil.runs.embed import cached_embeddings, embeds_once
from product_mil.runs.run import run, trained_stages, untrained_model


class Variant(NamedTuple):
    """A configuration, and the `--config` that it came from, if any."""

    config: Config
    spec: str = ""


def variants_of(items: Sequence[str], overrides: Sequence[str]) -> dict[str, Variant]:
    """The configurations of `NAME=CONFIG[:ARGUMENT][,FIELD=VALUE]`, by name.

    `overrides` are `field=value` for all of them.

    Raises:
        UserError: a configuration is wrong, or the comparison would not be fair.
    """
    variants: dict[str, Variant] = {}
    for item in items:
        name, equals, rest = item.partition("=")
        spec, *own = rest.split(",")
        if not equals or not name or "/" in name or name in variants:
            raise UserError(f"--configs {item}: expected NAME=CONFIG, each name once")
        pairs = [text.partition("=") for text in [*overrides, *own]]
        assignments = [(field, value) for field, _, value in pairs]
        config, errors = override(load_config(spec), assignments)
        errors = [*errors, *problems(config), *check_config(config)]
        if errors:
            raise UserError(f"--configs {name}: {'; '.join(errors)}")
        variants[name] = Variant(config, spec)
    unfair = unfair_fields(differing_fields({name: of.config for name, of in variants.items()}))
    if unfair:
        raise UserError(
            "the configurations cannot be compared fairly: they differ in "
            + ", ".join(f"config.{key}" for key in unfair)
            + "; set these alike, or train the runs yourself and name them with --runs"
        )
    return variants


def train_variants(
    variants: Mapping[str, Variant], seeds: int, directory: Path, child: Child
) -> dict[str, list[Path]]:
    """Train every variant with every seed, and return the runs' directories by variant.

    Runs in `directory` that are trained already are kept. Heads on cached embeddings are trained
    side by side, as many as cores and memory allow; other runs keep all cores busy, and are trained
    one after another. `child` is that of `train_side_by_side`.

    Raises:
        UserError: a run failed; the message begins with its name.
        Interrupted: the user asked to stop. Everything is saved.
    """
    planned = []
    found: dict[str, list[Path]] = {name: [] for name in variants}
    for seed in range(seeds):
        for name, (config, spec) in variants.items():
            one = dataclasses.replace(config, seed=config.seed + seed)
            workdir = directory / f"{name}-{one.seed}"
            planned.append(Planned(workdir.name, one, workdir, spec))
            found[name].append(workdir)
    heads = all(trains_cached_head(of.config) for of in variants.values())
    # A GPU has memory for one process only, since the first one takes most of it.
    at_once = num_at_once(len(planned)) if heads and jax.default_backend() == "cpu" else 1
    try:
        if at_once > 1:
            _fill_cache(planned[0].config)
            logging.getLogger(__name__).info(
                "%d runs, %d at a time; their logs lie in %s", len(planned), at_once, directory
            )
            train_side_by_side(planned, at_once, child)
        else:
            for one in planned:
                _train(one)
    except UserError as error:
        # A run names its own flag, but here the user gave --output.
        raise UserError(str(error).replace("another --workdir", "another --output")) from None
    return found


def trains_cached_head(config: Config) -> bool:
    """Whether a run only trains a head, on embeddings that are computed once."""
    stages = [getattr(config, name) for name in trained_stages(config)]
    return bool(stages) and all(embeds_once(config, stage) for stage in stages)


def _train(one: Planned) -> None:
    try:
        run(one.config, one.workdir)
    except UserError as error:
        raise UserError(f"{one.name}: {error}") from None


def _fill_cache(config: Config) -> None:
    """Embed all images once, so that the runs do not each do it.

    Random weights differ between seeds, so their embeddings can't be shared.
    """
    if not isinstance(config.model.start, Random):
        data = build_data(config)
        model, _ = untrained_model(config, data)
        cached_embeddings(config, model, (data.train, data.valid), data_mesh(config.data.shards))
