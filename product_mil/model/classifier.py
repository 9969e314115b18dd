"""The classifier of backbone and head, as a module and as plain arrays that can be trained."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from product_mil.batch import EmbeddedBatch, PackedBatch, Slots
from product_mil.model.heads.common import HeadOutput
from product_mil.model.packing import each_alone, packing_of

T = TypeVar("T")
Arrays = dict[str, Array]  # leaves by path, such as "backbone/blocks/0/kernel"


def layer_norm(x: Float[Array, "*e d"]) -> Float[Array, "*e d"]:
    """Each embedding minus its mean, divided by its standard deviation (Ba et al. 2016).

    There are no parameters. An embedding of zeros, which padding has, stays zero.
    """
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


class Classifier(nnx.Module):
    """Pr(Y | x1..xn) for packed products."""

    def __init__(
        self,
        backbone: Callable[..., Array],
        head: Callable[..., HeadOutput],
        *,
        layer_norm: bool = False,
    ):
        self.backbone = backbone
        self.head = head
        self.layer_norm = layer_norm  # whether the head gets normalised embeddings

    def __call__(
        self,
        batch: PackedBatch | EmbeddedBatch,
        *,
        use_running_statistics: bool,
        key: PRNGKeyArray | None,
        backbone_key: PRNGKeyArray | None = None,
        first_shard: int | Int[Array, ""] = 0,
    ) -> HeadOutput:
        """Classify the products of a packed batch without looking at its labels.

        `use_running_statistics=False` normalises by the batch's statistics over real slots, and
        updates the running statistics. `key` turns on dropout, and `backbone_key` stochastic depth.
        Their random numbers depend on the shard and on the slot in it. If the batch is a part of a
        larger one, `first_shard` is the index of its first shard there.
        """
        embeddings = self.embed(
            batch,
            use_running_statistics=use_running_statistics,
            key=backbone_key,
            first_shard=first_shard,
        )
        return self.fuse(embeddings, batch.slots, key, first_shard)

    def embed(
        self,
        batch: PackedBatch | EmbeddedBatch,
        *,
        use_running_statistics: bool,
        key: PRNGKeyArray | None = None,
        first_shard: int | Int[Array, ""] = 0,
    ) -> Float[Array, "S n d"]:
        """The embedding of each image slot, 0 for padding. `key` is for the backbone."""
        s, n = batch.slots.segment.shape
        real = jnp.asarray(batch.slots.is_image)  # S n
        if isinstance(batch, EmbeddedBatch):
            embeddings = jnp.asarray(batch.embeddings)
        else:
            pixels = jnp.asarray(batch.images).reshape(s * n, *batch.images.shape[2:])
            embeddings = self.backbone(
                pixels,
                use_running_statistics=use_running_statistics,
                mask=real.reshape(s * n),
                keys=None if key is None else image_keys(key, s, n, first_shard).reshape(s * n),
            ).reshape(s, n, -1)
        embeddings = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
        # Sums leave padding out by its segment; this prevents 0 x NaN in the gradients.
        return jnp.where(real[..., None], embeddings, 0)

    def fuse(
        self,
        embeddings: Float[Array, "S n d"],
        slots: Slots,
        key: PRNGKeyArray | None,
        first_shard: int | Int[Array, ""] = 0,
    ) -> HeadOutput:
        """The head's output for the products that the slots describe."""
        x = self.head_input(embeddings)
        if key is None:
            return self.head(x, packing_of(slots), None)

        def one_shard(x: Float[Array, "n d"], slots: Slots, key: PRNGKeyArray) -> HeadOutput:
            alone: Slots = jax.tree.map(lambda of: jnp.asarray(of)[None], slots)
            return jax.tree.map(lambda of: of[0], self.head(x[None], packing_of(alone), key))

        return jax.vmap(one_shard)(x, slots, shard_keys(key, len(x), first_shard))

    def each_alone(self, embeddings: Float[Array, "S n d"]) -> Float[Array, "S n k"]:
        """The logits of every image as if it were the only one of its product."""
        alone = each_alone(*embeddings.shape[:2])
        return self.head(self.head_input(embeddings), alone, None).logits

    def head_input(self, embeddings: Float[Array, "S n d"]) -> Float[Array, "S n d"]:
        """The embeddings as the head gets them."""
        return layer_norm(embeddings) if self.layer_norm else embeddings


def shard_keys(
    key: PRNGKeyArray, shards: int, first_shard: int | Int[Array, ""] = 0
) -> Key[Array, " S"]:
    """A random key for each shard, by its index in the whole batch."""
    return jax.vmap(lambda shard: jax.random.fold_in(key, shard))(first_shard + jnp.arange(shards))


def image_keys(
    key: PRNGKeyArray, shards: int, slots: int, first_shard: int | Int[Array, ""] = 0
) -> Key[Array, "S n"]:
    """A random key for each image slot of each shard, by its index in the whole batch."""
    of_shards = shard_keys(key, shards, first_shard)
    return jax.vmap(lambda of: shard_keys(of, slots))(of_shards)


@dataclass(frozen=True)
class Model:
    """A classifier, as its structure and arrays."""

    structure: Any
    parameters: Arrays
    statistics: Arrays

    def digest(self, version: str = "", *, below: str = "") -> str:
        """The sha256 of the arrays below a path, and of a version, in hexadecimal digits."""
        digest = hashlib.sha256()
        for arrays in (self.parameters, self.statistics):
            for path in sorted(arrays):
                if path.startswith(below):
                    digest.update(path.encode() + np.asarray(arrays[path]).tobytes())
        digest.update(version.encode())
        return digest.hexdigest()

    def backbone_digest(self, version: str = "") -> str:
        """The digest of the backbone alone."""
        return self.digest(version, below="backbone/")

    def bound(self, step: Callable[..., T], *more: Any) -> Callable[[Any], T]:
        """A function of the batch alone that calls a step with the arrays of this model.

        The step takes parameters, statistics, the batch and then `more`.
        """
        return lambda batch: step(self.parameters, self.statistics, batch, *more)


def split_model(model: nnx.Module) -> tuple[Any, Arrays, Arrays]:
    """The structure, the parameters and the running statistics of a module."""
    structure, parameters, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    return structure, _flat(parameters), _flat(statistics)


def merge_model(structure: Any, parameters: Arrays, statistics: Arrays) -> Any:
    """The module of these arrays. This is cheap, and meant for use inside traced functions."""
    return nnx.merge(structure, _nested(parameters), _nested(statistics))


def statistics_of(model: nnx.Module) -> Arrays:
    """The running statistics of a module, as its last forward pass left them."""
    return _flat(nnx.state(model, nnx.BatchStat))


def _flat(state: nnx.State) -> Arrays:
    return {"/".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(state)}


def _nested(arrays: Arrays) -> nnx.State:
    nested: dict[Any, Any] = {}
    for path, array in arrays.items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return nnx.State(nested)
