"""The parts of a checkpoint, and whether their leaves are those of a model."""

from collections.abc import Mapping
from typing import Any

from product_mil.train.state import TrainState, evaluated_parameters

MAX_LISTED_LEAVES = 10


def parts_of(state: TrainState) -> dict[str, Any]:
    """The parts of a state in a checkpoint: one to predict, and one that only training needs."""
    return {
        "model": {
            "parameters": evaluated_parameters(state),
            "statistics": state.statistics,
        },
        "training": {
            "step": state.step,
            # If there is a moving average, `model` has it, and these are the current parameters.
            "trainable": None if state.ema is None else state.trainable,
            "optimizer": state.optimizer,
            "totals": state.totals,
        },
    }


def state_of(found: Mapping[str, Any], like: TrainState) -> TrainState:
    """The state whose parts these are."""
    parameters, training = found["model"]["parameters"], found["training"]
    chosen = {path: parameters[path] for path in like.trainable}
    return TrainState(
        step=training["step"],
        trainable=chosen if like.ema is None else training["trainable"],
        frozen={path: parameters[path] for path in like.frozen},
        statistics=found["model"]["statistics"],
        optimizer=training["optimizer"],
        ema=None if like.ema is None else chosen,
        totals=training["totals"],
    )


def leaf_mismatches(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A line on each leaf (anything with a shape) that is missing, unused or of another shape."""
    lines = [f"missing: {path}" for path in wanted if path not in found]
    lines += [f"unused: {path}" for path in found if path not in wanted]
    lines += [
        f"{path}: {tuple(found[path].shape)} where the model has {tuple(wanted[path].shape)}"
        for path in wanted
        if path in found and found[path].shape != wanted[path].shape
    ]
    return lines
