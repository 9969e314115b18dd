"""Pooling: one embedding `[S, p, d]` a product from those `[S, n, d]` of its packed images.

A pooling knows neither the classes nor which backbone made the embeddings.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from product_mil.model.layers import initializers
from product_mil.model.packing import Packing


def linear(
    dim_in: int, dim_out: int, kernel_init: initializers.Initializer, rngs: nnx.Rngs
) -> nnx.Linear:
    """A linear layer whose bias starts at 0."""
    zeros = initializers.zeros
    return nnx.Linear(dim_in, dim_out, kernel_init=kernel_init, bias_init=zeros, rngs=rngs)


class Pooled(NamedTuple):
    """The pooled embeddings of products, and what each of their images has to do with it."""

    embedding: Float[Array, "S p d"]
    attention: Float[Array, "S n"]  # share of each image in its product; 0 for padding
    # What each image adds to the embedding; None where images first change one another.
    terms: Float[Array, "S n d"] | None


def pool_slices(
    x: Float[Array, "S n d"], weights: Float[Array, "S n heads"], packing: Packing
) -> Pooled:
    """The weighted mean; head j weighs the j-th slice of the embedding.

    The weights of a product's images add up to 1; attention is the heads' mean weight.
    """
    sliced = x.reshape(*x.shape[:-1], weights.shape[-1], -1)  # S n heads d/heads
    terms = (sliced * weights[..., None]).reshape(x.shape)
    return Pooled(packing.sum(terms), weights.mean(-1), terms)


def pool_mean(x: Float[Array, "S n d"], packing: Packing) -> Pooled:
    """The mean, and uniform attention."""
    attention = packing.uniform_attention()
    return Pooled(packing.mean(x), attention, x * attention[..., None])


class MeanPooling(nnx.Module):
    """The mean of a product's embeddings."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        del dim, rngs

    def __call__(self, x: Float[Array, "S n d"], packing: Packing) -> Pooled:
        """The mean, and uniform attention."""
        return pool_mean(x, packing)


class MaxPooling(nnx.Module):
    """The elementwise maximum of a product's embeddings."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        del dim, rngs

    def __call__(self, x: Float[Array, "S n d"], packing: Packing) -> Pooled:
        """The maximum; attention is the share of the d maxima that an image supplies.

        Images that tie for a maximum share its term evenly.
        """
        pooled = packing.max(x)  # S p d
        wins = (x == packing.spread(pooled)).astype(jnp.float32) * packing.is_image[..., None]
        supplies = wins.sum(-1)  # S n
        attention = supplies / jnp.maximum(packing.spread(packing.sum(supplies)), 1)
        ties = jnp.maximum(packing.spread(packing.sum(wins)), 1)  # S n d
        return Pooled(pooled, attention, x * wins / ties)


class GatedAttention(nnx.Module):
    """Gated attention pooling with several heads (Ilse et al. 2018, equation 9).

    The scoring vectors start at 0, so that pooling starts as the mean.
    """

    def __init__(self, dim: int, *, attention_heads: int, attention_dim: int, rngs: nnx.Rngs):
        if dim % attention_heads:
            raise ValueError(
                f"attention_heads={attention_heads} does not divide the embedding's {dim}"
            )
        self.value = linear(dim, attention_dim, initializers.lecun_normal, rngs)
        self.gate = linear(dim, attention_dim, initializers.lecun_normal, rngs)
        # No bias: softmax subtracts it again.
        self.score = nnx.Linear(
            attention_dim,
            attention_heads,
            use_bias=False,
            kernel_init=initializers.zeros,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "S n d"], packing: Packing) -> Pooled:
        """The mean, weighted in each slice by its own head."""
        scores = self.score(jnp.tanh(self.value(x)) * jax.nn.sigmoid(self.gate(x)))  # S n heads
        return pool_slices(x, packing.softmax(scores), packing)


class SelfAttention(nnx.Module):
    """Self-attention among the images of a product (one pre-norm block), then gated attention.

    Vaswani et al. 2017; the mask keeps products apart. The block's output starts at 0, so that
    pooling starts as the mean.
    """

    def __init__(self, dim: int, *, attention_heads: int, attention_dim: int, rngs: nnx.Rngs):
        self.heads = attention_heads
        self.gated = GatedAttention(
            dim, attention_heads=attention_heads, attention_dim=attention_dim, rngs=rngs
        )
        self.norm = nnx.LayerNorm(
            dim, scale_init=initializers.ones, bias_init=initializers.zeros, rngs=rngs
        )
        width = attention_heads * attention_dim
        self.query_key_value = linear(dim, 3 * width, initializers.lecun_normal, rngs)
        self.project = linear(width, dim, initializers.zeros, rngs)

    def __call__(self, x: Float[Array, "S n d"], packing: Packing) -> Pooled:
        """Mix, then pool."""
        mixed = self.query_key_value(self.norm(x))
        query, keys, value = jnp.split(mixed.reshape(*x.shape[:2], 3 * self.heads, -1), 3, axis=2)
        segment = packing.segment
        same = segment[:, :, None] == segment[:, None, :]  # S n n; true for oneself: never empty
        scores = jnp.einsum("Sqhc,Skhc->Shqk", query, keys) / query.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(same[:, None], scores, -jnp.inf))
        mixed = jnp.einsum("Shqk,Skhc->Sqhc", weights, value).reshape(*x.shape[:2], -1)
        pooled = self.gated(x + self.project(mixed), packing)
        return pooled._replace(terms=None)  # every term depends on the product's other images


Pooling = MeanPooling | MaxPooling | GatedAttention | SelfAttention
