import jax
import numpy as np
import pytest

from product_mil.data.buffers import BufferPool, SharedMemory


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    pool = BufferPool((4, 8), np.uint8)
    first = pool.take()
    first[...] = 1
    second = pool.take()
    second[...] = 2
    assert not np.shares_memory(first, second)
    address = first.ctypes.data
    part = first[1:3].reshape(-1)  # a view of a view keeps its memory too
    del first
    third = pool.take()
    third[...] = 3
    assert part.tolist() == [1] * 16
    del part
    fourth = pool.take()
    assert fourth.ctypes.data == address
    assert (third == 3).all()
    assert (second == 2).all()
    assert len(pool) == 3


def test_a_jax_array_made_of_it_keeps_its_values() -> None:
    """Also where JAX shares the memory instead of copying it, as it may on a CPU."""
    pool = BufferPool((256, 1024), np.float32)
    arrays = []
    for value in range(8):
        buffer = pool.take()
        buffer[...] = value
        arrays.append(jax.device_put(buffer))
        del buffer
    for value in range(8):
        np.testing.assert_array_equal(arrays[value], np.full((256, 1024), value, np.float32))
    jax.block_until_ready(arrays)
    made = len(pool)
    del arrays
    jax.block_until_ready(jax.device_put(np.zeros(1)))  # JAX gives back at its next call
    again = [pool.take() for _ in range(made)]
    assert len(pool) < 2 * made
    assert len({buffer.ctypes.data for buffer in again}) == made


def test_shared_memory_is_used_again_only_when_nobody_holds_it() -> None:
    memory = SharedMemory()
    first = memory.empty((3, 5, 7), np.uint8)
    second = memory.empty((3, 5, 7), np.uint8)
    first[...], second[...] = 1, 2
    regions = [memory.region_of(first), memory.region_of(second)]
    part = first[1].reshape(-1)
    address = first.ctypes.data
    del first
    third = memory.empty((3, 5, 7), np.uint8)
    third[...] = 3
    assert (part == 1).all()
    del part
    fourth = memory.empty((3, 5, 7), np.uint8)
    assert fourth.ctypes.data == address
    assert memory.region_of(fourth) == regions[0]
    with pytest.raises(KeyError):
        memory.region_of(np.empty((3, 5, 7), np.uint8))
    assert (second == 2).all()
    assert (third == 3).all()


def test_shared_memory_is_the_same_where_another_maps_it() -> None:
    memory = SharedMemory()
    memory.empty((5000,), np.uint8)
    array = memory.empty((2, 3), np.int32)
    array[...] = np.arange(6).reshape(2, 3)
    region = memory.region_of(array)
    with region.map(memory.descriptor) as other:
        assert np.frombuffer(other, np.int32, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_pool_takes_the_memory_that_it_is_given() -> None:
    memory = SharedMemory()
    pool = BufferPool((4, 8), np.uint8, memory.empty)
    first, second = pool.take(), pool.take()
    assert memory.region_of(first) != memory.region_of(second)
    address = first.ctypes.data
    del first
    assert pool.take().ctypes.data == address
    assert len(pool) == 2
