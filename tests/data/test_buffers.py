import pickle

import jax
import numpy as np

from product_mil.data.buffers import BufferPool


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


def test_another_process_makes_its_own() -> None:
    pool = BufferPool((2, 3), np.uint8)
    pool.take()
    copy = pickle.loads(pickle.dumps(pool))
    assert len(copy) == 0
    assert copy.take().shape == (2, 3)
