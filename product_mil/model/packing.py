"""Reductions over the images of each product, shard by shard.

All functions map over the leading shard dimension S, so a batch that is sharded over devices needs
no communication. Padding images belong to segment p, which is computed and then cut off. So they
cannot change any result, not even as 0 x NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Num

from product_mil.batch import Size, Slots


@dataclass(frozen=True)
class Packing:
    """Which product each image slot of S shards belongs to, without labels."""

    segment: Int32[Array, "S n"]  # product slot of each image; p marks padding
    image_index: Int32[Array, "S n"]  # index of the image within its product, from 0
    p: Size  # number of product slots in a shard

    @property
    def is_image(self) -> Bool[Array, "S n"]:
        """Whether a slot holds an image; the others are padding."""
        return self.segment < self.p

    def image_counts(self) -> Float[Array, "S p"]:
        """The number of images that each product has in this batch."""
        return self.sum(jnp.ones(self.segment.shape, jnp.float32))

    def sum(self, x: Float[Array, "S n *e"]) -> Float[Array, "S p *e"]:
        """The sum over each product's images; 0 for a product without images."""
        return self._reduce(jax.ops.segment_sum, x)

    def mean(self, x: Float[Array, "S n *e"]) -> Float[Array, "S p *e"]:
        """The mean over each product's images; 0 for a product without images."""
        counts = jnp.maximum(self.image_counts(), 1)
        return self.sum(x) / counts.reshape(counts.shape + (1,) * (x.ndim - 2))

    def max(self, x: Float[Array, "S n *e"]) -> Float[Array, "S p *e"]:
        """The maximum over each product's images; 0 for a product without images."""
        largest = self._reduce(jax.ops.segment_max, x)
        return jnp.where(jnp.isfinite(largest), largest, 0)

    def log_mean_exp(self, x: Float[Array, "S n *e"]) -> Float[Array, "S p *e"]:
        """Logarithm of the mean of exp(x) over each product's images; 0 for one without images.

        With log-probabilities this is the logarithm of the average of the images' probabilities.
        """
        largest = jax.lax.stop_gradient(self.max(x))
        mean = self.mean(jnp.exp(x - self.spread(largest)))
        return largest + jnp.log(jnp.where(mean > 0, mean, 1))

    def softmax(self, scores: Float[Array, "S n *e"]) -> Float[Array, "S n *e"]:
        """Softmax over each product's images; 0 for padding."""
        largest = jax.lax.stop_gradient(self.max(scores))
        real = self.is_image.reshape(self.segment.shape + (1,) * (scores.ndim - 2))
        exp = jnp.exp(jnp.where(real, scores - self.spread(largest), -jnp.inf))
        total = self.spread(self.sum(exp))
        return exp / jnp.where(real, total, 1)

    def uniform_attention(self) -> Float[Array, "S n"]:
        """Equal attention to all images of a product; 0 for padding."""
        return self.softmax(jnp.zeros(self.segment.shape, jnp.float32))

    def spread(self, x: Num[Array, "S p *e"]) -> Num[Array, "S n *e"]:
        """Give each image its product's value; padding images get 0."""

        def one_shard(xs: Array, ids: Array) -> Array:
            return xs.at[ids].get(mode="fill", fill_value=0)

        return jax.vmap(one_shard)(x, self.segment)

    def _reduce(
        self, operation: Callable[..., Array], x: Float[Array, "S n *e"]
    ) -> Float[Array, "S p *e"]:
        def one_shard(xs: Array, ids: Array) -> Array:
            return operation(xs, ids, num_segments=self.p + 1)[: self.p]

        return jax.vmap(one_shard)(x, self.segment)


def packing_of(slots: Slots) -> Packing:
    """The packing of these slots. It has no labels, so that a head cannot see them."""
    return Packing(jnp.asarray(slots.segment), jnp.asarray(slots.image_index), slots.label.shape[1])


def each_alone(s: Size, n: Size) -> Packing:
    """The packing in which each of `[S, n]` image slots is a product of its own."""
    alone = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (s, n))
    return Packing(alone, jnp.zeros((s, n), jnp.int32), n)
