"""Combine prediction files: blocks of the members' probabilities become blocks of predictions."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Int32

from product_mil.ensemble.files import AlignedMembers
from product_mil.ensemble.parquet import ProductFacts
from product_mil.ensemble.rule_names import Rule
from product_mil.ensemble.rules import FLOOR, combine
from product_mil.inference.predictions import PredictionBlock
from product_mil.inference.step import largest
from product_mil.sources.ids import has_id


def combine_files(
    aligned: AlignedMembers,
    facts: ProductFacts,
    weights: Float64[np.ndarray, " m"],
    rule: Rule,
    *,
    topk: int,
    keep_all: bool,
) -> Iterator[PredictionBlock]:
    """The ensemble's predictions of all products, in the order of the first member.

    Memory does not grow with the number of products beyond a few columns. Images are not known from
    files, so their columns are empty.
    """

    @jax.jit
    def step(probabilities: Any, label: Any) -> Any:
        together = combine(jnp.log(probabilities), weights, rule)
        values, classes = largest(together, topk)
        true = jnp.take_along_axis(together, jnp.maximum(label, 0)[:, None], -1)[:, 0]
        return jnp.exp(values), classes, true, jnp.exp(together) if keep_all else None

    done, labels = 0, aligned.categories.class_of(facts.category_id)
    for probabilities in aligned.blocks():
        chosen = slice(done, done + probabilities.shape[1])
        done = chosen.stop
        label, missing = labels[chosen], aligned.block_rows - len(labels[chosen])
        # Padding to one shape, so that only one program is compiled.
        padded = np.pad(probabilities, ((0, 0), (0, missing), (0, 0)), constant_values=1)
        found = jax.device_get(step(padded, np.pad(label, (0, missing))))
        values, classes, true = (part[: len(label)] for part in found[:3])
        everything = found[3][: len(label)] if keep_all else None
        category = facts.category_id[chosen]
        empty = np.zeros(0, np.int32)
        yield PredictionBlock(
            product_id=aligned.product_id[chosen],
            category_id=category,
            has_category=has_id(category),
            log_prob_true=np.where(label >= 0, true, np.float32(np.nan)),
            num_images=facts.num_images[chosen],
            num_readable_images=facts.num_readable_images[chosen],
            top_class=classes,
            top_probability=values,
            image_index=empty,
            attention=empty.astype(np.float32),
            image_top_class=empty,
            probabilities=everything,
        )


def file_log_probs(
    aligned: AlignedMembers, label: Int32[np.ndarray, " N"]
) -> Iterator[tuple[Float32[np.ndarray, "m b k"], Int32[np.ndarray, " b"]]]:
    """Yield the log-probabilities of all members, and the labels, for consecutive products."""
    done = 0
    for probabilities in aligned.blocks():
        chosen = slice(done, done + probabilities.shape[1])
        done = chosen.stop
        with np.errstate(divide="ignore"):
            yield np.maximum(np.log(probabilities), np.float32(FLOOR)), label[chosen]
