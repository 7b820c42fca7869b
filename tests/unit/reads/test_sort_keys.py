# SPDX-License-Identifier: Apache-2.0
"""The order of keys is that of a plain sort, however they are spread."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.reads.sort_keys import sort_keys


def spread_keys() -> dict[str, NDArray[np.uint64]]:
    rng = np.random.default_rng(3)
    places = rng.integers(0, 1 << 20, 5000).astype(np.uint64) << np.uint64(41)
    ordinals = rng.permutation(5000).astype(np.uint64)
    strand = rng.integers(0, 2, 5000).astype(np.uint64) << np.uint64(40)
    heap = np.where(rng.random(5000) < 0.3, np.uint64(777 << 41), places)
    return {
        "even": places | strand | ordinals,
        "one place": strand | ordinals,
        "a heap": heap | strand | ordinals,
        "far out": np.append(ordinals, np.uint64((1 << 64) - 1)),
        "dense": ordinals,
        "sorted": np.sort(places | ordinals),
        "backwards": np.sort(places | ordinals)[::-1].copy(),
        **{f"{n} keys": (places | ordinals)[:n] for n in (0, 1, 2, 3, 5, 64, 65, 66)},
        "65 at one place": ordinals[:65],
    }


@pytest.mark.parametrize("name", spread_keys())
def test_keys_come_sorted_with_their_sources(name: str) -> None:
    keys = spread_keys()[name]
    sources = np.arange(len(keys), dtype=np.int64) * 3
    before = keys.copy()
    found, places = sort_keys(keys, sources)
    assert found.tolist() == sorted(before.tolist())
    assert np.array_equal(before[places // 3], found)
    assert np.array_equal(keys, before)
