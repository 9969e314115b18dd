"""The mesh of devices. Its one axis, "data", splits batches by shard; all else is replicated.

Where several processes train together (`hosts.py`), the mesh has the devices of all of them, and
each process sends and fetches its own shards.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from product_mil.errors import UserError

Tree = TypeVar("Tree")


def data_mesh(shards: int) -> Mesh:
    """A mesh over all devices, those of other processes too.

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


def own_devices(mesh: Mesh) -> Mesh:
    """The devices of a mesh that are this process's."""
    index = jax.process_index()
    own = [device for device in mesh.devices.flat if device.process_index == index]
    return mesh if len(own) == mesh.size else Mesh(np.asarray(own), ("data",))


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Send a batch to the devices; each gets its shards. A process has the shards of its devices.

    Arrays have the axis of shards first.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if not mesh.is_multi_process:
        return jax.device_put(batch, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch
    )


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """The tree with a copy of each array on every device. All processes have the same arrays."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if not mesh.is_multi_process:
        return jax.device_put(tree, sharding)

    def everywhere(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            bits = everywhere(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(everywhere, tree)


def local(tree: Tree) -> Tree:
    """Replicated arrays as those of one device of this process, where there are several."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def fetch(array: jax.Array, shard_axis: int) -> np.ndarray:
    """The shards of this process of an array with such an axis, on the host."""
    if array.is_fully_addressable:
        return np.asarray(array)
    if array.is_fully_replicated:
        whole = np.asarray(array)
        return np.split(whole, jax.process_count(), axis=shard_axis)[jax.process_index()]
    parts = {part.index[shard_axis].start or 0: part.data for part in array.addressable_shards}
    return np.concatenate([np.asarray(parts[at]) for at in sorted(parts)], axis=shard_axis)
