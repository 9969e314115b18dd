"""Optimisers from optax with one schedule: a linear warm-up, then a cosine to zero."""

import optax

from product_mil.train.state import Arrays


def learning_rate_schedule(
    peak: float, *, num_steps: int, warmup_fraction: float
) -> optax.Schedule:
    """Rises linearly to `peak`, then follows half a cosine to 0 at `num_steps`."""
    warmup_steps = min(round(num_steps * warmup_fraction), num_steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=peak / (warmup_steps + 1),
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=num_steps,
    )


def _kernels(parameters: Arrays) -> dict[str, bool]:
    """Weight decay acts on kernels, not on biases, scales and learned places."""
    return {path: path.endswith("kernel") for path in parameters}


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    num_steps: int,
    warmup_fraction: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019), NAdamW (with Dozat 2016) or SGD with Nesterov momentum.

    Raises:
        ValueError: an unknown name.
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
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule
