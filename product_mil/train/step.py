"""The training step: a jitted pure function of state and batch, for a batch at once or in parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from product_mil.batch import Batch, PackedBatch
from product_mil.model.classifier import Arrays, merge_model, statistics_of
from product_mil.train.augment import Ranges, augment
from product_mil.train.losses import (
    Target,
    image_labels,
    image_loss,
    learned_products,
    product_loss,
)
from product_mil.train.state import TrainState

NOTHING = Ranges()  # no augmentation


class Part(NamedTuple):
    """A batch or some of its shards, with numbers of the whole batch."""

    batch: Batch
    first_shard: Int[Array, ""]  # index of the first shard in the whole batch
    products: Int[Array, ""]  # products of the whole batch that have a loss
    images: Int[Array, ""]  # images of the whole batch that have a loss


def parts_of(batch: Batch, num_parts: int) -> list[Part]:
    """The shards of a batch, in order, divided into equal parts."""
    slots, shards = batch.slots, len(batch.slots.label)
    of_part = shards // num_parts
    products, images = learned_products(slots).sum(), (image_labels(slots) >= 0).sum()
    return [
        Part(
            jax.tree.map(lambda of, at=first: of[at : at + of_part], batch),
            jnp.asarray(first),
            products,
            images,
        )
        for first in range(0, shards, of_part)
    ]


class Gradient(NamedTuple):
    """The gradient and the totals of a batch, which are sums over its parts."""

    parameters: Arrays
    totals: dict[str, Array]


GradientOf = Callable[[TrainState, Part, PRNGKeyArray], tuple[Gradient, Arrays]]


def make_train_step(
    structure: Any,
    optimizer: optax.GradientTransformation,
    *,
    target: Target,
    batch_statistics: bool,
    ema_decay: float,
    ranges: Ranges = NOTHING,
    attention_weighted_from_step: int | None = None,
    num_parts: int = 1,
) -> Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Array]]:
    """A function that takes a training step and returns the new state and the loss.

    Only the trainable parameters are differentiated. The old state is donated.

    Random numbers of dropout, augmentation (within `ranges`) and stochastic depth depend on seed,
    step and slot alone. Stochastic depth is off while the backbone is frozen, because cached
    embeddings cannot have it.

    From `attention_weighted_from_step` on, images are weighted by their attention in their loss.

    The shards of a batch pass through the net in `num_parts` parts, one after another, whose
    gradients are added up. This needs the memory of one part. Each part is a separate call, because
    XLA's CPU runtime uses fewer cores in the body of a loop.

    Raises:
        ValueError: there are several parts, but statistics are over the whole batch.
    """
    if batch_statistics and num_parts > 1:
        raise ValueError("statistics of a batch need the whole batch at once")
    gradient_of = _make_gradient(
        structure, target, batch_statistics, ranges, attention_weighted_from_step
    )
    updated = _make_update(optimizer, ema_decay)

    def whole_step(state: TrainState, batch: Batch, key: PRNGKeyArray) -> tuple[TrainState, Array]:
        (part,) = parts_of(batch, 1)
        found, statistics = gradient_of(state, part, key)
        return updated(state, found, statistics if batch_statistics else state.statistics)

    if num_parts == 1:
        return jax.jit(whole_step, donate_argnums=0)

    def nothing(state: TrainState) -> Gradient:
        totals = {name: of for name, of in state.totals.items() if name != "steps"}
        return jax.tree.map(jnp.zeros_like, Gradient(state.trainable, totals))

    def with_part(so_far: Gradient, state: TrainState, part: Part, key: PRNGKeyArray) -> Gradient:
        found, _ = gradient_of(state, part, key)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), so_far, found)

    def update(state: TrainState, found: Gradient) -> tuple[TrainState, Array]:
        return updated(state, found, state.statistics)

    divided, begun = jax.jit(lambda batch: parts_of(batch, num_parts)), jax.jit(nothing)
    added = jax.jit(with_part, donate_argnums=0)
    finished = jax.jit(update, donate_argnums=0)

    def step_in_parts(
        state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[TrainState, Array]:
        found = begun(state)
        for part in divided(batch):
            found = added(found, state, part, key)
        return finished(state, found)

    return step_in_parts


def _make_gradient(
    structure: Any,
    target: Target,
    batch_statistics: bool,
    ranges: Ranges,
    attention_weighted_from_step: int | None,
) -> GradientOf:
    """A function that returns the gradient and totals of a part, and new running statistics."""

    def loss_of(
        trainable: Arrays, state: TrainState, part: Part, key: PRNGKeyArray
    ) -> tuple[Array, tuple[Arrays, dict[str, Array]]]:
        model = merge_model(structure, {**state.frozen, **trainable}, state.statistics)
        batch, first_shard = part.batch, part.first_shard
        if isinstance(batch, PackedBatch):
            image_key = jax.random.fold_in(key, 1 << 20)
            images = augment(jnp.asarray(batch.images), image_key, ranges, first_shard)
            batch = batch._replace(images=images)
        backbone_learns = any(path.startswith("backbone/") for path in trainable)
        output = model(
            batch,
            use_running_statistics=not batch_statistics,
            key=key,
            backbone_key=jax.random.fold_in(key, 2 << 20) if backbone_learns else None,
            first_shard=first_shard,
        )
        losses = []
        if model.head.trains_products:
            losses.append(product_loss(output, batch.slots, target).out_of(part.products))
        if model.head.trains_images:
            first = attention_weighted_from_step
            by_attention = False if first is None else state.step >= first
            found = image_loss(output, batch.slots, target, by_attention)
            losses.append(found.out_of(part.images))
        loss = jnp.stack(losses).sum()
        label = jnp.asarray(batch.slots.label)
        correct = (output.logits.argmax(-1) == label) & (label >= 0)
        totals = {
            "loss": loss,
            "correct": correct.sum(),
            "products": (label >= 0).sum(),
            "images": batch.slots.is_image.sum(),
        }
        return loss, (statistics_of(model), totals)

    def gradient_of(state: TrainState, part: Part, key: PRNGKeyArray) -> tuple[Gradient, Arrays]:
        step_key = jax.random.fold_in(key, state.step)
        gradient, (statistics, totals) = jax.grad(loss_of, has_aux=True)(
            state.trainable, state, part, step_key
        )
        return Gradient(gradient, totals), statistics

    return gradient_of


def _make_update(
    optimizer: optax.GradientTransformation, ema_decay: float
) -> Callable[[TrainState, Gradient, Arrays], tuple[TrainState, Array]]:
    """A function that returns the state after a gradient and new statistics, and the loss."""

    def updated(state: TrainState, found: Gradient, statistics: Arrays) -> tuple[TrainState, Array]:
        totals = {**found.totals, "steps": jnp.ones(())}
        any_image = totals["images"] > 0
        # Batch statistics without any image are NaN, and would stay NaN.
        gradient = jax.tree.map(lambda g: jnp.where(any_image, g, 0), found.parameters)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.trainable)
        trainable: Arrays = optax.apply_updates(state.trainable, updates)  # type: ignore[assignment]
        statistics = {
            path: jnp.where(any_image, new, state.statistics[path])
            for path, new in statistics.items()
        }
        ema = state.ema
        if ema is not None:
            # Weights that correct the bias of the average to its start (Kingma & Ba 2015).
            steps = state.step.astype(jnp.float32)
            kept, whole = (-jnp.expm1(s * jnp.log(ema_decay)) for s in (steps, steps + 1))
            decay = ema_decay * kept / whole
            ema = {
                k: (decay * old + (1 - decay) * trainable[k]).astype(old.dtype)
                for k, old in ema.items()
            }
        sums = {k: v + totals[k].astype(v.dtype) for k, v in state.totals.items()}
        after = TrainState(
            state.step + 1, trainable, state.frozen, statistics, optimizer_state, ema, sums
        )
        return after, totals["loss"]

    return updated
