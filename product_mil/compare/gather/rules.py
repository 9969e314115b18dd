"""A run's own answers, and those of other rules on its images' probabilities, in one pass.

The rules need no training. They show how much of a joint model's gain a better way of averaging
would have brought already.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Int32

from product_mil.batch import Batch, Slots
from product_mil.compare.answers import Answers
from product_mil.data.loader import Loaded
from product_mil.devices.mesh import put_batch
from product_mil.ensemble.rule_names import IMAGE_RULES
from product_mil.inference.calibrate import fit_temperature
from product_mil.inference.step import largest
from product_mil.model.classifier import Arrays, merge_model
from product_mil.model.packing import packing_of
from product_mil.sources.categories import Categories

OWN = "own"  # the answers of the run itself
NO_LIKELIHOOD = ("vote",)  # votes are not probabilities


def rule_logits(
    image_logits: Float[Array, "S n k"], slots: Slots
) -> dict[str, Float[Array, "S p k"]]:
    """Unnormalised logits of each product, by each rule of `IMAGE_RULES`."""
    packing = packing_of(slots)
    log_probs = jax.nn.log_softmax(image_logits)
    mean = packing.mean(jnp.exp(log_probs))
    top = jax.nn.one_hot(log_probs.argmax(-1), log_probs.shape[-1], dtype=log_probs.dtype)
    earliest = -packing.max(-packing.image_index.astype(jnp.float32))
    is_first = packing.image_index == packing.spread(earliest).astype(jnp.int32)
    first = packing.sum(jnp.where(is_first[..., None], log_probs, 0))
    return {
        "geometric_mean": packing.mean(log_probs),
        "maximum": packing.max(log_probs),
        # Ties go to the higher mean probability; half of it is below 1, so no vote is outweighed.
        "vote": packing.sum(top) + mean / 2,
        "first_image": first,
    }


class RuleScores(NamedTuple):
    """The scores of each of r rules on each product slot."""

    top1: Int32[Array, "r S p"]  # class index
    in_top5: Bool[Array, "r S p"]
    confidence: Float[Array, "r S p"]
    log_prob_true: Float[Array, "r S p"]
    calibrated_confidence: Float[Array, "r S p"]
    calibrated_log_prob_true: Float[Array, "r S p"]


def _all_logits(
    structure: Any, with_rules: bool, parameters: Arrays, statistics: Arrays, batch: Batch
) -> Float[Array, "r S p k"]:
    model = merge_model(structure, parameters, statistics)
    output = model(batch, use_running_statistics=True, key=None)
    logits = [output.logits]
    if with_rules:
        rules = rule_logits(output.image_logits, batch.slots)
        logits += [rules[name] for name in IMAGE_RULES]
    return jnp.stack(logits)


def make_score_step(structure: Any, *, with_rules: bool) -> Callable[..., RuleScores]:
    """A jitted function that scores a batch by the model and, if it averages, by each rule.

    The function takes parameters, statistics, a batch, the logarithm of the prior `[k]` and the
    temperature of each rule `[r]`.
    """

    def score_step(
        parameters: Arrays,
        statistics: Arrays,
        batch: Batch,
        log_prior: Float[Array, " k"],
        temperatures: Float[Array, " r"],
    ) -> RuleScores:
        logits = _all_logits(structure, with_rules, parameters, statistics, batch)
        has_image = packing_of(batch.slots).image_counts() > 0
        scaled = logits / temperatures[:, None, None, None]
        raw, calibrated = (
            jnp.where(has_image[..., None], jax.nn.log_softmax(values), log_prior)
            for values in (logits, scaled)
        )
        label = jnp.maximum(jnp.asarray(batch.slots.label), 0)[None, ..., None]
        _, top = largest(raw, min(5, raw.shape[-1]))

        def of_label(log_probs: Float[Array, "r S p k"]) -> Float[Array, "r S p"]:
            return jnp.take_along_axis(log_probs, label, -1)[..., 0]

        return RuleScores(
            top1=top[..., 0],
            in_top5=(top == label).any(-1),
            confidence=jnp.exp(raw.max(-1)),
            log_prob_true=of_label(raw),
            calibrated_confidence=jnp.exp(calibrated.max(-1)),
            calibrated_log_prob_true=of_label(calibrated),
        )

    return jax.jit(score_step)


def answers_of(
    scores: dict[str, np.ndarray], categories: Categories, temperatures: list[float] | None
) -> dict[str, Answers]:
    """The answers of the run, under the name `OWN`, and of each rule that was scored."""
    found: dict[str, Answers] = {}
    for row, name in enumerate((OWN, *IMAGE_RULES)[: len(scores["top1"])]):
        likely = name not in NO_LIKELIHOOD
        calibrated = likely and temperatures is not None

        def column(field: str, known: bool, row: int = row) -> np.ndarray | None:
            return scores[field][row].astype(np.float32) if known else None

        found[name] = Answers(
            guess=categories.ids[scores["top1"][row]],
            in_top5=scores["in_top5"][row],
            confidence=column("confidence", likely),
            log_prob_true=column("log_prob_true", likely),
            temperature=temperatures[row] if temperatures is not None and likely else None,
            calibrated_confidence=column("calibrated_confidence", calibrated),
            calibrated_log_prob_true=column("calibrated_log_prob_true", calibrated),
        )
    return found


def make_log_probs_step(
    structure: Any, *, with_rules: bool
) -> Callable[..., Float[Array, "r S p k"]]:
    """A jitted function that returns all log-probabilities of a batch, to fit temperatures."""

    def log_probs_step(
        parameters: Arrays, statistics: Arrays, batch: Batch
    ) -> Float[Array, "r S p k"]:
        logits = _all_logits(structure, with_rules, parameters, statistics, batch)
        return jax.nn.log_softmax(logits)

    return jax.jit(log_probs_step)


def fit_temperatures(
    labels: Int[np.ndarray, " N"],
    batches: Iterable[Loaded],
    step: Callable[..., Array],
    mesh: Mesh,
) -> list[float]:
    """One temperature for each rule, by the likelihood of validation products (Guo et al. 2017)."""
    blocks, places = [], []
    for loaded in batches:
        real = loaded.positions >= 0
        blocks.append(np.asarray(step(put_batch(loaded.batch, mesh)))[:, real])
        places.append(loaded.positions[real])
    label = labels[np.concatenate(places)]
    return [fit_temperature(rule, label) for rule in np.concatenate(blocks, 1)]
