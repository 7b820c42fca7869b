# SPDX-License-Identifier: Apache-2.0
"""Slabs and buffers: handed out once, used again, given back."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from megabolt.reads.arena import SLAB_BYTES, Arena, BufferPool


def test_arena_hands_released_slabs_out_again() -> None:
    arena = Arena(3 * SLAB_BYTES)
    starts = [arena.take() for _ in range(4)]
    assert starts == [0, SLAB_BYTES, 2 * SLAB_BYTES, None]
    arena.data[:] = 1
    arena.release([SLAB_BYTES, 0])
    assert arena.used == SLAB_BYTES
    assert {arena.take(), arena.take()} == {0, SLAB_BYTES}
    assert arena.take() is None


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="memory cannot be given back here")
def test_memory_goes_to_the_system_when_asked() -> None:
    arena = Arena(4 * SLAB_BYTES, SLAB_BYTES)
    starts = [arena.take() or 0 for _ in range(4)]
    arena.data[:] = 1
    arena.release([starts[3]])
    arena.release([starts[2], starts[1]], to_system=True)
    assert [int(arena.data[start]) for start in starts] == [1, 0, 0, 1]


def test_slabs_may_be_small() -> None:
    arena = Arena(5 * 16384 + 100, 16384)
    assert arena.n_slabs == 5
    assert [arena.take() for _ in range(6)] == [0, 16384, 32768, 49152, 65536, None]
    assert len(arena.data) > 5 * 16384


def test_pool_prefers_the_smallest_buffer_that_fits() -> None:
    pool = BufferPool()
    small, large = pool.take(1000), pool.take(100_000)
    pool.give_back(large)
    pool.give_back(small)
    assert pool.take(900) is small
    assert pool.take(900) is large
    assert isinstance(pool.take(10), np.ndarray)
