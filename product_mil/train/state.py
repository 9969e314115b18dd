"""The state that a training step changes, and the choice of trainable parameters."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from product_mil.model.classifier import Arrays


class TrainState(NamedTuple):
    """The state of a stage; `totals` are sums since the last line in the metrics file."""

    step: Array
    trainable: Arrays
    frozen: Arrays
    statistics: Arrays
    optimizer: optax.OptState
    ema: Arrays | None  # of the trainable parameters
    totals: dict[str, Array]


# The sums of a training step; see `step.make_train_step`.
TOTALS = ("loss", "steps", "correct", "products", "images")
WHOLE_PARTS = ("head", "all")  # values of `trainable` that are not the name of a block


def trainable_prefixes(trainable: str, blocks: Sequence[str]) -> tuple[str, ...]:
    """The prefixes of the paths of trainable parameters.

    `trainable` is `head`, `all`, or one of `blocks`, which are the parts of the backbone in the
    order in which an image passes through them. A block means that block, all after it and the
    head.

    Raises:
        ValueError: `trainable` is none of these.
    """
    if trainable == "all":
        return ("head/", "backbone/")
    if trainable == "head":
        return ("head/",)
    if trainable not in blocks:
        raise ValueError(f"trainable={trainable!r}: expected head, all or one of {list(blocks)}")
    return ("head/", *(f"backbone/{block}/" for block in blocks[blocks.index(trainable) :]))


def partition(
    parameters: Arrays, trainable: str, blocks: Sequence[str] = ()
) -> tuple[Arrays, Arrays]:
    """Split parameters into trainable and frozen, by `trainable_prefixes`.

    Raises:
        ValueError: nothing is trainable, or a parameter is neither the head's nor the backbone's.
    """
    strangers = [path for path in parameters if not path.startswith(("head/", "backbone/"))]
    if strangers:
        raise ValueError(f"parameters outside head/ and backbone/: {', '.join(strangers)}")
    prefixes = trainable_prefixes(trainable, blocks)
    chosen = {path: value for path, value in parameters.items() if path.startswith(prefixes)}
    if not chosen:
        raise ValueError(f"trainable={trainable!r} selects no parameter")
    return chosen, {path: v for path, v in parameters.items() if path not in chosen}


def zero_totals() -> dict[str, Array]:
    """The totals at the beginning of an epoch, which are 0."""
    return {name: jnp.asarray(np.zeros((), np.float32)) for name in TOTALS}


def initial_state(
    parameters: Arrays,
    statistics: Arrays,
    optimizer: optax.GradientTransformation,
    *,
    trainable: str,
    blocks: Sequence[str] = (),
    with_ema: bool,
) -> TrainState:
    """The state before the first step. Its arrays are copies, since steps donate them."""
    chosen, frozen = partition(parameters, trainable, blocks)
    return TrainState(
        step=jnp.asarray(np.zeros((), np.int32)),
        trainable=_copy(chosen),
        frozen=_copy(frozen),
        statistics=_copy(statistics),
        optimizer=jax.jit(optimizer.init)(chosen),
        ema=_copy(chosen) if with_ema else None,
        totals=zero_totals(),
    )


def _copy(arrays: Arrays) -> Arrays:
    """Copies of the arrays, made by NumPy because JAX would compile a program for each shape."""
    return {path: jnp.array(np.array(value)) for path, value in arrays.items()}


def evaluated_parameters(state: TrainState) -> Arrays:
    """The parameters for evaluation, export and the next stage: the moving average if kept."""
    return {**state.frozen, **(state.trainable if state.ema is None else state.ema)}


def abstract(tree: Any) -> Any:
    """The shapes, types and devices of a state, into which a checkpoint can be restored."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
