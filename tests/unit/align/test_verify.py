# SPDX-License-Identifier: Apache-2.0
"""Penalties against plain counting."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.align.packed import InsertSize, allocate_reads
from megabolt.align.verify import (
    GAP_EXTEND,
    GAP_OPEN,
    insert_length,
    insert_penalty,
    lightest_in_seed,
    mismatches_at,
    penalty_at,
    penalty_with_gap,
)

WEIGHTS = np.array([34, 25, 17, 7])


def pack(codes: np.ndarray) -> np.ndarray:
    words = np.zeros(len(codes) // 32 + 4, np.uint64)
    for i, code in enumerate(codes):
        words[i >> 5] |= np.uint64(int(code) << (2 * (i & 31)))
    return words


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100, 150, 256])
@pytest.mark.parametrize("place", [0, 1, 31, 32, 77])
def test_penalty_is_the_sum_over_mismatches(length: int, place: int) -> None:
    rng = np.random.default_rng(length * 100 + place)
    reference = rng.integers(0, 4, 600).astype(np.uint8)
    read = reference[place : place + length].copy()
    wrong = rng.random(length) < 0.2
    read[wrong] = (read[wrong] + 1) % 4
    classes = rng.integers(0, 4, length).astype(np.uint8)
    packed = pack(reference), place, pack(read)
    assert penalty_at(*packed, pack(classes), 0, length) == WEIGHTS[classes[wrong]].sum()
    marks = np.empty(32, np.uint64)
    assert mismatches_at(*packed, 0, length, marks) == wrong.sum()
    at = [i for i in range(length) if (int(marks[i >> 5]) >> (2 * (i & 31))) & 1]
    assert at == np.flatnonzero(wrong).tolist()


def best_with_one_gap(reference: np.ndarray, place: int, read: np.ndarray, cost: np.ndarray, longest: int) -> int:
    """Every gap and every break, by brute force."""
    n = len(read)

    def mismatch_cost(at: int) -> np.ndarray:
        return np.where(reference[at : at + n] != read, cost, 0)

    best = int(mismatch_cost(place).sum())
    for gap in range(-longest, longest + 1):
        if gap == 0:
            continue
        for left, right in ((place, place + gap), (place + gap, place)):
            a, b = mismatch_cost(left), mismatch_cost(right)
            for k in range(n + 1):
                best = min(best, int(a[:k].sum() + b[k:].sum()) + GAP_OPEN + GAP_EXTEND * abs(gap))
    return best


@pytest.mark.parametrize("gap", [-12, -3, -1, 0, 1, 5, 12])
def test_one_gap_kernel_finds_the_best_break(gap: int) -> None:
    rng = np.random.default_rng(gap + 50)
    reference = rng.integers(0, 4, 500).astype(np.uint8)
    place, n = 150, 120
    if gap >= 0:
        read = np.concatenate([reference[place : place + 70], reference[place + 70 + gap : place + n + gap]])
    else:
        inserted = rng.integers(0, 4, -gap).astype(np.uint8)
        read = np.concatenate([reference[place : place + 60], inserted, reference[place + 60 : place + n + gap]])
    classes = rng.integers(0, 4, n).astype(np.uint8)
    read[[20, 100]] = (read[[20, 100]] + 1) % 4
    words, quality = pack(read), pack(classes)
    here, there = np.empty(32, np.uint64), np.empty(32, np.uint64)
    ungapped = penalty_at(pack(reference), place, words, quality, 0, n)
    best = penalty_with_gap(pack(reference), place, words, quality, 0, n, ungapped, 12, here, there)
    assert best == best_with_one_gap(reference, place, read, WEIGHTS[classes], 12)


def test_the_worst_base_bounds_a_seed() -> None:
    classes = np.zeros(150, np.uint8)
    classes[40], classes[80], classes[120] = 1, 2, 3
    reads = allocate_reads(1, 150)
    reads.class_forward[:5] = pack(classes)[:5]
    assert [lightest_in_seed(reads, 0, p) for p in (0, 30, 60, 110, 126)] == [34, 25, 17, 7, 34]


def test_insert_penalty_is_flat_in_the_tails() -> None:
    library = InsertSize(400.0, 80.0, 35, 900)
    assert insert_penalty(400, library) == 0.0
    assert insert_penalty(480, library) == pytest.approx(2.1714724)
    assert insert_penalty(890, library) == 28.0


def test_only_facing_ends_have_an_insert() -> None:
    ahead, behind = (1000 << 1) | 0, (1250 << 1) | 1
    assert insert_length(ahead, behind, 150, 150) == 400
    assert insert_length(behind, ahead, 150, 150) == 400
    assert insert_length(ahead, ahead, 150, 150) == -1
