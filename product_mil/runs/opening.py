"""Open a run, a pretrained directory or a model of the hub, with its newest whole weights.

Nothing is written to its directory, so it may be opened while another process trains in it.
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from product_mil.config import STAGES, config_from_dict
from product_mil.devices.mesh import data_mesh, replicate
from product_mil.errors import UserError
from product_mil.files.hub import hint, local_directory
from product_mil.model.classifier import Arrays, Model
from product_mil.runs.directory import checkpoint_directory, refuse_newer_run
from product_mil.runs.model import build_model, levels_of
from product_mil.runs.pretrained import FILES, description_in, is_pretrained, read_weights
from product_mil.runs.trained import TrainedRun
from product_mil.sources.categories import Categories
from product_mil.train.checkpoint import Checkpoints, DamagedCheckpoint


def open_run(
    workdir: Path, checkpoint: Literal["last", "best"] = "last", mesh: Mesh | None = None
) -> TrainedRun:
    """Load a checkpoint of the last stage that has one, onto all devices or those of `mesh`.

    `workdir` may also be a pretrained directory, which holds one checkpoint, or a model of the
    Hugging Face hub, `hf://owner/name`. The files with which the run began (data, pretrained
    weights) are not needed.

    Raises:
        UserError: there is no run in `workdir`, no checkpoint yet, or one of another version; the
            model cannot be downloaded.
    """
    workdir = local_directory(workdir, FILES)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such directory; name the directory of a run{hint(workdir)}")
    mesh = data_mesh(jax.device_count()) if mesh is None else mesh
    if is_pretrained(workdir):
        found = description_in(workdir)
        restore = partial(read_weights, workdir, found.weights_digest)
        return _opened(workdir, found.step, found.record, mesh, restore)
    refuse_newer_run(workdir)
    before: list[str] = []
    while True:
        damaged: list[str] = []
        try:
            run = _newest_whole(workdir, checkpoint, mesh, damaged)
        except UserError as error:
            damaged.append(str(error))
            run = None
        # A run that is training removes old checkpoints when it has newer ones, so look again.
        if damaged == before or (run is not None and not damaged):
            break
        before = damaged
    if run is None:
        raise UserError(damaged[-1])
    for line in damaged:
        logging.getLogger(__name__).warning("%s: an earlier one is used", line)
    return run


def _newest_whole(workdir: Path, checkpoint: str, mesh: Mesh, damaged: list[str]) -> TrainedRun:
    """Load the first undamaged checkpoint, and add a line to `damaged` for each one before it."""
    for stage in reversed(STAGES):
        directory = checkpoint_directory(workdir, stage)
        if not directory.is_dir():
            continue
        with Checkpoints(directory, read_only=True) as found:
            steps = found.best_first() if checkpoint == "best" else found.steps()[::-1]
            for step in steps:
                try:
                    return _load(workdir, stage, step, found, mesh)
                except DamagedCheckpoint as error:
                    damaged.append(str(error))
    if damaged:
        raise UserError(f"{workdir}: no checkpoint of it is whole. {damaged[0]}")
    raise UserError(
        f"{workdir} holds no checkpoint: give the directory of a run that finished an epoch, or of "
        "an exported model"
    )


def _load(workdir: Path, stage: str, step: int, found: Checkpoints, mesh: Mesh) -> TrainedRun:
    record = found.run_record(step)
    if "config" not in record:
        raise UserError(f"checkpoint {step} of {workdir} was written by another version")
    restore = partial(found.restore_model, step)
    return _opened(workdir, step, {**record, "stage": stage}, mesh, restore)


def _opened(
    workdir: Path,
    step: int,
    record: dict[str, Any],
    mesh: Mesh,
    restore: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]],
) -> TrainedRun:
    """The run of a record. `restore` reads what replaces an untrained model's arrays."""
    config = config_from_dict(record["config"])
    categories = Categories.from_json(record["categories"])
    # Without the pretrained file, which may be gone; all its values are replaced.
    untrained = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=""))
    model, _ = build_model(untrained, len(categories.ids), levels=levels_of(categories))
    parameters, statistics = restore(
        replicate(model.parameters, mesh), replicate(model.statistics, mesh)
    )
    return TrainedRun(
        workdir=workdir,
        stage=record["stage"],
        step=step,
        config=config,
        categories=categories,
        class_counts=np.asarray(record["class_counts"], np.int64),
        model=Model(model.structure, parameters, statistics),
        mesh=mesh,
        record=record,
    )
