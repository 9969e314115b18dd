"""Everything that a training step changes, and the rule of what it may change."""

from collections.abc import Sequence
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
WHOLE_PARTS = ("head", "all")  # what may be trained besides "from this block up"


def trainable_prefixes(trainable: str, blocks: Sequence[str]) -> tuple[str, ...]:
    """Beginnings of the paths that `trainable` lets change.

    It is `head`, `all`, or one of `blocks`, the backbone's parts in the order in which an image
    passes through them: then that part, all after it and the head.

    Raises:
        ValueError: none of these.
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
    """Sums at the beginning of an epoch."""
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
    """The state before the first step; leaves are copies, since steps donate them."""
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
    """Copies made by NumPy: JAX would compile a program for each shape."""
    return {path: jnp.array(np.array(value)) for path, value in arrays.items()}


def evaluated_parameters(state: TrainState) -> Arrays:
    """The parameters that evaluation, export and the next stage use: the average where kept."""
    return {**state.frozen, **(state.trainable if state.ema is None else state.ema)}


def abstract(tree: Any) -> Any:
    """Shapes and types of a state, with where its leaves live, for restoring into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
