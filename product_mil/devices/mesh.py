"""The mesh of devices. Its one axis, "data", splits batches by shard; all else is replicated."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from product_mil.errors import UserError

Tree = TypeVar("Tree")


def data_mesh(shards: int) -> Mesh:
    """A mesh over all devices.

    This is a `Mesh` because the explicit axes of `jax.make_mesh` refuse segment sums.

    Raises:
        UserError: the number of shards is not a multiple of the number of devices.
    """
    devices = jax.devices()
    if shards % len(devices):
        raise UserError(
            f"config.data.shards={shards} does not divide by the {len(devices)} devices; set it to "
            f"a multiple of {len(devices)}, or hide devices (CUDA_VISIBLE_DEVICES)"
        )
    return Mesh(np.asarray(devices), ("data",))


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Send a batch to the devices; each gets its shards."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """The tree with a copy of each array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
