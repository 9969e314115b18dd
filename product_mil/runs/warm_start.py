"""Start from the weights of an earlier run, even if it had other categories."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from product_mil.config import ModelConfig
from product_mil.errors import UserError
from product_mil.model.classifier import Model
from product_mil.model.registry import head
from product_mil.runs.opening import open_run
from product_mil.sources.categories import Categories


def warm_start(
    model: Model, settings: ModelConfig, categories: Categories, workdir: Path
) -> tuple[Model, list[str]]:
    """The model with all weights of the run in `workdir` that it can use, and lines on these.

    The whole backbone is taken. In layers with an axis of categories, the parts of common
    categories are taken by id, and the others stay new. Leaves that the earlier head lacks stay
    new, too.

    Raises:
        UserError: there is no run, or it has another backbone or other inputs of the head.
    """
    source = open_run(workdir)
    theirs = source.config.model
    if theirs.backbone != settings.backbone:
        raise UserError(
            f"config.model.weights={workdir}: that run has the backbone {theirs.backbone}, this "
            f"one {settings.backbone}"
        )
    if theirs.layer_norm != settings.layer_norm:
        raise UserError(
            f"config.model.weights={workdir}: that run's head learned with "
            f"layer_norm={theirs.layer_norm}; say config.model.layer_norm={theirs.layer_norm}"
        )
    classes = source.categories.class_of(categories.ids)  # -1: new
    known = classes >= 0
    parameters: dict[str, Array] = {}
    new: list[str] = []
    class_axes = head(settings.pooling).class_axes
    for path, value in model.parameters.items():
        found = source.model.parameters.get(path)
        if found is None:
            new.append(path)
            parameters[path] = value
        elif path.startswith("head/") and path.split("/")[1] in class_axes:
            axis = class_axes[path.split("/")[1]]
            ours, taken = np.array(value), np.take(np.asarray(found), classes[known], axis)
            np.moveaxis(ours, axis, 0)[known] = np.moveaxis(taken, axis, 0)  # a view of ours
            parameters[path] = jnp.asarray(ours)
        elif found.shape == value.shape:
            parameters[path] = jnp.asarray(np.asarray(found))
        else:
            new.append(path)
            parameters[path] = value
    statistics = {
        path: jnp.asarray(np.asarray(source.model.statistics.get(path, value)))
        for path, value in model.statistics.items()
    }
    notes = [
        f"warm start from {source.summary}: {known.sum()} of {len(known)} categories known there"
    ]
    if new:
        notes.append(f"  new leaves: {', '.join(new)}")
    return Model(model.structure, parameters, statistics), notes
