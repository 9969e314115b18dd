"""The category tree as a tree of classifiers: one linear classifier a node, over its children.

The probability of a leaf is the product of the probabilities along its path. The cross-entropy of
a leaf is then the sum of those of the nodes on its path: trained together, each node learns from
the images of its own subtree and from nothing else.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from product_mil.model.heads.common import Head, HeadOutput, dropout
from product_mil.model.heads.pooling import linear
from product_mil.model.heads.spec import HeadSpec
from product_mil.model.layers import initializers
from product_mil.model.packing import Packing

Levels = tuple[Sequence[int], Sequence[int]]  # groups of every class at levels 1 and 2


def log_softmax_among(
    logits: Float[Array, "*e g"], parent: Sequence[int], num_parents: int
) -> Float[Array, "*e g"]:
    """Log-probability of each child among the children of its parent."""
    of = jnp.asarray(parent)
    z = jnp.moveaxis(logits, -1, 0)  # g *e
    largest = jax.ops.segment_max(jax.lax.stop_gradient(z), of, num_segments=num_parents)
    z = z - largest[of]
    total = jax.ops.segment_sum(jnp.exp(z), of, num_segments=num_parents)
    return jnp.moveaxis(z - jnp.log(total)[of], 0, -1)


class TreeHead(Head):
    """Classify each image down the tree, then take the mean of the images' probabilities."""

    trains_products: ClassVar[bool] = False
    trains_images: ClassVar[bool] = True

    def __init__(
        self, dim: int, classes: int, *, levels: Levels, dropout_rate: float, rngs: nnx.Rngs
    ):
        del classes  # the levels say it
        self.dropout_rate = dropout_rate
        level1, level2 = (tuple(map(int, level)) for level in levels)
        self.level1, self.level2 = level1, level2  # of every class
        self.level1_of_2 = tuple(level1[level2.index(g)] for g in range(max(level2) + 1))
        zeros = initializers.zeros
        # The classifiers of one level side by side; a column belongs to the node above it.
        self.root = linear(dim, max(level1) + 1, zeros, rngs)
        self.of_level_1 = linear(dim, max(level2) + 1, zeros, rngs)
        self.of_level_2 = linear(dim, len(level2), zeros, rngs)

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Image logits are log-probabilities of the leaves, product logits of their mean."""
        log_probs = self.leaf_log_probs(dropout(x, self.dropout_rate, key))  # S n k
        logits = packing.log_mean_exp(log_probs)  # S p k
        return HeadOutput(logits, log_probs, packing.uniform_attention())

    def leaf_log_probs(self, x: Float[Array, "*e d"]) -> Float[Array, "*e k"]:
        """Sum of log-probabilities along the path to every leaf."""
        first = jax.nn.log_softmax(self.root(x))
        second = log_softmax_among(self.of_level_1(x), self.level1_of_2, first.shape[-1])
        third = log_softmax_among(self.of_level_2(x), self.level2, second.shape[-1])
        level1, level2 = jnp.asarray(self.level1), jnp.asarray(self.level2)
        return first[..., level1] + second[..., level2] + third


SPEC = HeadSpec(
    "tree",
    TreeHead,
    "each image classified down the category tree, probabilities averaged",
    class_axes={"of_level_2": -1},
    needs_levels=True,
    takes_weights=False,
)
