"""Optimisers from optax with one schedule: a linear warm-up, then a cosine to zero."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optax

from product_mil.model.classifier import Arrays


def learning_rate_schedule(
    peak: float, *, num_steps: int, warmup_fraction: float
) -> optax.Schedule:
    """A learning rate that rises linearly to `peak`, then falls by a cosine to 0 at `num_steps`."""
    warmup_steps = min(round(num_steps * warmup_fraction), num_steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=peak / (warmup_steps + 1),
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=num_steps,
    )


def _kernels(parameters: Arrays) -> dict[str, bool]:
    """Which parameters have weight decay: kernels, but not biases, scales and embeddings."""
    return {path: path.endswith("kernel") for path in parameters}


def rate_factors(
    paths: Iterable[str], blocks: Sequence[str], decay: float
) -> dict[str, float] | None:
    """Factors of the learning rate by depth: "layer-wise learning rate decay" (Clark et al. 2020).

    The head has 1, the last of the backbone's `blocks` has `decay`, the block before it `decay`
    squared, and so on. A block and its normalisation, which follows it under its name with `_norm`,
    have the same factor. The result is None if all rates are equal.
    """
    if decay == 1:
        return None
    found, factor = {}, 1.0
    for number, block in reversed(list(enumerate(blocks))):
        if number + 1 == len(blocks) or blocks[number + 1] != f"{block}_norm":
            factor *= decay
        found[f"backbone/{block}/"] = factor
    return {
        path: next((f for prefix, f in found.items() if path.startswith(prefix)), 1.0)
        for path in paths
    }


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    num_steps: int,
    warmup_fraction: float,
    weight_decay: float,
    clip_norm: float,
    rate_factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019), NAdamW (with Dozat 2016) or SGD with Nesterov momentum.

    `rate_factors` multiply the update of each parameter, including its weight decay.

    Raises:
        ValueError: the name is unknown.
    """
    rate = learning_rate_schedule(
        learning_rate, num_steps=num_steps, warmup_fraction=warmup_fraction
    )
    if name == "adamw":
        rule = optax.adamw(rate, weight_decay=weight_decay, mask=_kernels)
    elif name == "nadamw":
        rule = optax.nadamw(rate, weight_decay=weight_decay, mask=_kernels)
    elif name == "sgd":
        rule = optax.chain(
            optax.add_decayed_weights(weight_decay, mask=_kernels),
            optax.sgd(rate, momentum=0.9, nesterov=True),
        )
    else:
        raise ValueError(f"unknown optimizer {name!r}")
    if rate_factors is not None:
        factors = dict(rate_factors)

        def scaled(updates: Any, _: Any) -> Any:
            return {path: factors[path] * update for path, update in updates.items()}

        rule = optax.chain(rule, optax.stateless(scaled))
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule
