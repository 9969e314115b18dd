"""Everything that a training step changes, and the rule of what it may change."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

Arrays = dict[str, Array]


class TrainState(NamedTuple):
    """The state of a stage; `totals` are sums since the last line in the metrics file."""

    step: Array
    trainable: Arrays
    frozen: Arrays
    statistics: Arrays
    optimizer: optax.OptState
    ema: Arrays | None  # of the trainable parameters
    totals: dict[str, Array]


# What a training step adds up; see `step.make_train_step`.
TOTALS = ("loss", "steps", "correct", "products", "images")

TRAINABLE: dict[str, Callable[[str], bool]] = {
    "head": lambda path: path.startswith("head/"),
    "all": lambda path: True,
}


def partition(parameters: Arrays, trainable: str) -> tuple[Arrays, Arrays]:
    """Split parameters into trainable and frozen by the rule called `trainable`.

    Raises:
        ValueError: the rule selects no parameter, or one is neither the head's nor the backbone's.
    """
    strangers = [path for path in parameters if not path.startswith(("head/", "backbone/"))]
    if strangers:
        raise ValueError(f"parameters outside head/ and backbone/: {', '.join(strangers)}")
    rule = TRAINABLE[trainable]
    chosen = {path: value for path, value in parameters.items() if rule(path)}
    if not chosen:
        raise ValueError(f"trainable={trainable!r} selects no parameter")
    return chosen, {path: v for path, v in parameters.items() if path not in chosen}


def zero_totals() -> dict[str, Array]:
    """Sums at the beginning of an epoch."""
    return {name: jnp.asarray(np.zeros((), np.float32)) for name in TOTALS}


def initial_state(
    parameters: Arrays,
    statistics: Arrays,
    optimizer: optax.GradientTransformation,
    *,
    trainable: str,
    with_ema: bool,
) -> TrainState:
    """The state before the first step; leaves are copies, since steps donate them."""
    chosen, frozen = partition(parameters, trainable)
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
    """Copies made by NumPy: JAX would compile a program for each shape."""
    return {path: jnp.array(np.array(value)) for path, value in arrays.items()}


def evaluated_parameters(state: TrainState) -> Arrays:
    """The parameters that evaluation, export and the next stage use: the average where kept."""
    return {**state.frozen, **(state.trainable if state.ema is None else state.ema)}


def abstract(tree: Any) -> Any:
    """Shapes and types of a state, with where its leaves live, for restoring into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
