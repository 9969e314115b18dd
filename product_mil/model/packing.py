"""Reductions over the images of each product, shard by shard.

Every function maps over the leading shard dimension S, so that a batch sharded over devices needs
no communication. Padding images belong to segment p, which is computed and sliced off: what they
hold can change nothing, not even as 0 x NaN.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Num


def _reduce(
    operation: Callable[..., Array], x: Float[Array, "S n *e"], segment: Int32[Array, "S n"], p: int
) -> Float[Array, "S p *e"]:
    return jax.vmap(lambda xs, ids: operation(xs, ids, num_segments=p + 1)[:p])(x, segment)


def segment_sum(
    x: Float[Array, "S n *e"], segment: Int32[Array, "S n"], p: int
) -> Float[Array, "S p *e"]:
    """Sum over each product's images; 0 for a product without images."""
    return _reduce(jax.ops.segment_sum, x, segment, p)


def image_counts(segment: Int32[Array, "S n"], p: int) -> Float[Array, "S p"]:
    """The number of images that each product has in this batch."""
    return segment_sum(jnp.ones(segment.shape, jnp.float32), segment, p)


def segment_mean(
    x: Float[Array, "S n *e"], segment: Int32[Array, "S n"], p: int
) -> Float[Array, "S p *e"]:
    """Mean over each product's images; 0 for a product without images."""
    counts = jnp.maximum(image_counts(segment, p), 1)
    return segment_sum(x, segment, p) / counts.reshape(counts.shape + (1,) * (x.ndim - 2))


def segment_max(
    x: Float[Array, "S n *e"], segment: Int32[Array, "S n"], p: int
) -> Float[Array, "S p *e"]:
    """Maximum over each product's images; 0 for a product without images."""
    largest = _reduce(jax.ops.segment_max, x, segment, p)
    return jnp.where(jnp.isfinite(largest), largest, 0)


def spread(x: Num[Array, "S p *e"], segment: Int32[Array, "S n"]) -> Num[Array, "S n *e"]:
    """Give each image its product's value; padding images get 0."""

    def one_shard(xs: Array, ids: Array) -> Array:
        return xs.at[ids].get(mode="fill", fill_value=0)

    return jax.vmap(one_shard)(x, segment)


def segment_softmax(
    scores: Float[Array, "S n *e"], segment: Int32[Array, "S n"], p: int
) -> Float[Array, "S n *e"]:
    """Softmax over each product's images; 0 for padding."""
    largest = jax.lax.stop_gradient(segment_max(scores, segment, p))
    real = (segment < p).reshape(segment.shape + (1,) * (scores.ndim - 2))
    shifted = jnp.where(real, scores - spread(largest, segment), -jnp.inf)
    exp = jnp.exp(shifted)
    total = spread(segment_sum(exp, segment, p), segment)
    return exp / jnp.where(real, total, 1)


def segment_logmeanexp(
    x: Float[Array, "S n *e"], segment: Int32[Array, "S n"], p: int
) -> Float[Array, "S p *e"]:
    """Logarithm of the mean of exp(x) over each product's images; 0 for a product without images.

    With log-probabilities this is the logarithm of the average of the images' probabilities.
    """
    largest = jax.lax.stop_gradient(segment_max(x, segment, p))
    mean = segment_mean(jnp.exp(x - spread(largest, segment)), segment, p)
    return largest + jnp.log(jnp.where(mean > 0, mean, 1))
