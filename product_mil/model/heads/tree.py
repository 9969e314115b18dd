"""The category tree as a tree of classifiers: one linear classifier a node, over its children.

The probability of a leaf is the product of the probabilities along its path. The cross-entropy of
a leaf is then the sum of those of the nodes on its path: trained together, each node learns from
the images of its own subtree and from nothing else.
"""

import functools
import itertools
import operator
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

Levels = Sequence[Sequence[int]]  # the group of each class, at each level; the last is the class


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


def parents_of(above: Sequence[int], groups: Sequence[int]) -> tuple[int, ...]:
    """The group at the level above of each group, from both groups of every class."""
    parent = dict(zip(groups, above, strict=True))
    return tuple(parent[group] for group in range(len(parent)))


class TreeHead(Head):
    """Classify each image down the tree, then take the mean of the images' probabilities."""

    trains_products: ClassVar[bool] = False
    trains_images: ClassVar[bool] = True

    def __init__(
        self, dim: int, classes: int, *, levels: Levels, dropout_rate: float, rngs: nnx.Rngs
    ):
        del classes  # the levels say it
        self.dropout_rate = dropout_rate
        self.levels = tuple(tuple(map(int, level)) for level in levels)
        self.parents = tuple(itertools.starmap(parents_of, itertools.pairwise(self.levels)))
        zeros = initializers.zeros
        # The classifiers of one level side by side; a column belongs to the node above it.
        self.root = linear(dim, max(self.levels[0]) + 1, zeros, rngs)
        for level, parents in enumerate(self.parents, 1):
            setattr(self, f"of_level_{level}", linear(dim, len(parents), zeros, rngs))

    def __call__(
        self, x: Float[Array, "S n d"], packing: Packing, key: PRNGKeyArray | None
    ) -> HeadOutput:
        """Image logits are log-probabilities of the leaves, product logits of their mean."""
        log_probs = self.leaf_log_probs(dropout(x, self.dropout_rate, key))  # S n k
        logits = packing.log_mean_exp(log_probs)  # S p k
        return HeadOutput(logits, log_probs, packing.uniform_attention())

    def leaf_log_probs(self, x: Float[Array, "*e d"]) -> Float[Array, "*e k"]:
        """Sum of log-probabilities along the path to every leaf."""
        of_level = [jax.nn.log_softmax(self.root(x))]
        for level, parents in enumerate(self.parents, 1):
            logits = getattr(self, f"of_level_{level}")(x)
            of_level.append(log_softmax_among(logits, parents, of_level[-1].shape[-1]))
        *above, last = of_level
        of_leaves = [z[..., jnp.asarray(g)] for z, g in zip(above, self.levels, strict=False)]
        return functools.reduce(operator.add, [*of_leaves, last])


SPEC = HeadSpec(
    "tree",
    TreeHead,
    "each image classified down the category tree, probabilities averaged",
    class_axes={},  # takes no weights
    needs_levels=True,
    takes_weights=False,
)
