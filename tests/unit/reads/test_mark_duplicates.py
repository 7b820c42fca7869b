# SPDX-License-Identifier: Apache-2.0
"""Duplicates against a dictionary version of Picard's rules."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from megabolt.align.record import NO_END
from megabolt.reads.mark_duplicates import LIBRARY_SHIFT, mark_duplicates

NONE = int(NO_END)


def plain_duplicates(signature: list[tuple[int, int]], quality: list[int]) -> list[int]:
    pairs: dict[tuple[int, int], list[int]] = defaultdict(list)
    lone: dict[int, list[int]] = defaultdict(list)
    paired_ends = set()
    for i, (first, second) in enumerate(signature):
        if first == NONE:
            continue
        if second == NONE:
            lone[first].append(i)
            continue
        library = first >> LIBRARY_SHIFT
        pairs[first, second].append(i)
        paired_ends |= {first, library << LIBRARY_SHIFT | second}
    flags = [0] * len(signature)
    for group in pairs.values():
        best = max(group, key=lambda i: (quality[i], -i))
        for i in group:
            flags[i] = int(i != best)
    for end, group in lone.items():
        best = max(group, key=lambda i: (quality[i], -i))
        for i in group:
            flags[i] = int(i != best or end in paired_ends)
    return flags


def mark(signature: list[tuple[int, int]], quality: list[int], threads: int = 1) -> list[int]:
    array = np.array(signature, np.uint64).reshape(-1, 2)
    return [int(x) for x in mark_duplicates(array, np.array(quality, np.int32), threads=threads)]


def random_signature(rng: np.random.Generator, places: int) -> tuple[int, int]:
    kind = rng.random()
    if kind < 0.05:
        return NONE, NONE
    library = int(rng.integers(3)) << LIBRARY_SHIFT
    ends = sorted(int(x) for x in rng.integers(0, places, 2))
    return (library | ends[0], NONE) if kind < 0.25 else (library | ends[0], ends[1])


@pytest.mark.parametrize(
    ("n", "places"), [(0, 9), (1, 9), (50, 4), (3000, 40), (3000, 100000), (50000, 300), (50000, 9000)]
)
def test_agrees_with_the_dictionary_for_any_thread_count(n: int, places: int) -> None:
    rng = np.random.default_rng(n + places)
    signature = [random_signature(rng, places) for _ in range(n)]
    quality = [int(q) for q in rng.integers(0, 50, n)]
    expected = plain_duplicates(signature, quality)
    assert mark(signature, quality) == expected
    assert mark(signature, quality, threads=3) == expected


@pytest.mark.parametrize(
    ("signature", "quality", "flags"),
    [
        pytest.param([(2, 9), (2, 9), (2, 9)], [5, 7, 7], [1, 0, 1], id="best quality stays, first on a tie"),
        pytest.param([(2, 9), (3, 9), (2, 8)], [5, 5, 5], [0, 0, 0], id="the strand is the lowest bit"),
        pytest.param([(2, 9), (1 << 48 | 2, 9)], [5, 5], [0, 0], id="another library"),
        pytest.param([(2, NONE), (2, 9)], [99, 5], [1, 0], id="a pair beats any lone read"),
        pytest.param([(9, NONE), (2, 9)], [99, 5], [1, 0], id="also with its second end"),
        pytest.param([(1 << 48 | 9, NONE), (2, 9)], [99, 5], [0, 0], id="not with another library's"),
        pytest.param([(9, NONE), (9, NONE)], [5, 6], [1, 0], id="lone reads among themselves"),
        pytest.param([(NONE, NONE), (NONE, NONE)], [5, 6], [0, 0], id="unmapped pairs are never copies"),
    ],
)
def test_rules(signature: list[Any], quality: list[int], flags: list[int]) -> None:
    assert mark(signature, quality) == flags
