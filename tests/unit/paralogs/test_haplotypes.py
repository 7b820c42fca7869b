# SPDX-License-Identifier: Apache-2.0
"""The search for the haplotypes of two copies, held to its formula and to a plain search."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.paralogs.haplotypes import (
    BOTH_ALIKE,
    FIRST_STRETCH,
    FURTHER_STRETCH,
    MISPLACED,
    _climb,
    _log_prior,
    _weights,
    settle_tract,
)
from megabolt.paralogs.tracts import AT_A, AT_B, NOTHING, TORN, Tract

Codes = NDArray[np.uint8]


def make_tract(rng: np.random.Generator, haplotypes: Codes, alleles: Codes, per_haplotype: int) -> Tract:
    """Templates of a1, a2, b1, b2 that cover eight sites each; those at the ends surely lie where they do."""
    n = alleles.shape[0]
    bases, kinds, placed = [], [], []
    for h in range(4):
        for _ in range(per_haplotype):
            first = int(rng.integers(-3, n - 4))
            base = np.full(n, NOTHING, np.uint8)
            seen = np.arange(max(0, first), min(n, first + 8))
            base[seen] = haplotypes[h][seen]
            wrong = seen[rng.random(len(seen)) < 0.003]
            base[wrong] = (base[wrong] + 1) % 4
            sure = first < 0 or first + 8 > n
            kinds.append((AT_A if h < 2 else AT_B) if sure else TORN)
            like_a = (base == alleles[:, 0]).sum() - (base == alleles[:, 1]).sum()
            placed.append(h < 2 if sure or like_a == 0 else like_a > 0)
            bases.append(base)
    return Tract(
        alleles, np.array(bases), np.full((len(bases), n), 35, np.uint8), np.array(kinds, np.int8),
        np.arange(len(bases)), np.array(placed),
    )  # fmt: skip


def two_copies(n: int) -> tuple[Codes, Codes]:
    """Alleles of n sites at which copies A and B differ; the haplotypes of a person like the reference."""
    alleles = np.stack([np.arange(n) % 4, (np.arange(n) + 1) % 4, np.full(n, 255)], axis=1).astype(np.uint8)
    return alleles, alleles[:, [0, 0, 1, 1]].T.copy()


def plain_prior(own: Codes, haplotypes: Codes) -> float:
    total = 0.0
    for copy in (0, 2):
        stretches = []
        for h in (copy, copy + 1):
            runs, at = set(), 0
            for away, group in groupby(haplotypes[h] != own[h]):
                length = len(list(group))
                if away:
                    runs.add((at, at + length, haplotypes[h][at : at + length].tobytes()))
                at += length
            stretches.append(runs)
        together = stretches[0] | stretches[1]
        if together:
            total -= FIRST_STRETCH + FURTHER_STRETCH * (len(together) - 1)
            total -= BOTH_ALIKE * (stretches[0] == stretches[1])
    return total


def plain_log(tract: Tract, own: Codes, haplotypes: Codes) -> float:
    """ln P(templates, haplotypes), by (1)."""
    error = 10.0 ** (-0.1 * tract.quality)
    total = plain_prior(own, haplotypes)
    for t, base in enumerate(tract.base):
        seen = np.flatnonzero(base != NOTHING)
        p = [np.prod(np.where(base[seen] == h[seen], 1 - error[t, seen], error[t, seen] / 3)) for h in haplotypes]
        a, b = p[0] + p[1], p[2] + p[3]
        share = {TORN: 0.5, AT_A: 1 - MISPLACED, AT_B: MISPLACED}[int(tract.kind[t])]
        total += math.log(0.5 * (share * a + (1 - share) * b) if tract.kind[t] != TORN else 0.25 * (a + b))
    return total


def climbed(tract: Tract) -> tuple[Codes, float]:
    error = 10.0 ** (-0.1 * tract.quality.astype(float))
    return _climb(tract, np.log1p(-error), np.log(error / 3.0), _weights(tract.kind))


@pytest.mark.parametrize("seed", range(6))
def test_result_is_the_formula_and_no_plain_step_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alleles, own = two_copies(10)
    alleles[4, 2] = (alleles[4, 0] + 2) % 4
    haplotypes = own.copy()
    h, first = int(rng.integers(4)), int(rng.integers(1, 5))
    haplotypes[h, first : first + 4] = alleles[first : first + 4, 0 if h > 1 else 1]
    haplotypes[int(rng.integers(4)), 4] = alleles[4, 2]
    tract = make_tract(rng, haplotypes, alleles, 12)
    found, score = climbed(tract)
    assert score == pytest.approx(plain_log(tract, own, found), abs=1e-6)
    for h in range(4):
        for column in (0, 1):
            for i in range(10):
                for j in range(i + 1, 11):
                    other = found.copy()
                    other[h, i:j] = alleles[i:j, column]
                    assert plain_log(tract, own, other) < score + 0.5 + 1e-6


@pytest.mark.parametrize("seed", range(40))
def test_prior(seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, own = two_copies(6)
    haplotypes = np.where(rng.random((4, 6)) < 0.3, own[[2, 3, 0, 1]], own).astype(np.uint8)
    if seed % 2:
        haplotypes[1], haplotypes[3] = haplotypes[0], haplotypes[2]
    assert _log_prior(own, haplotypes) == pytest.approx(plain_prior(own, haplotypes))


@pytest.mark.parametrize("copy", [0, 2])
def test_converted_haplotype_is_found_and_its_templates_go_home(copy: int) -> None:
    alleles, own = two_copies(20)
    haplotypes = own.copy()
    haplotypes[copy + 1, 4:15] = own[2 - copy, 4:15]
    tract = make_tract(np.random.default_rng(3), haplotypes, alleles, 40)
    found = settle_tract(tract)
    got = {found.haplotypes[copy].tobytes(), found.haplotypes[copy + 1].tobytes()}
    assert got == {haplotypes[0 + copy].tobytes(), haplotypes[1 + copy].tobytes()}
    assert (found.haplotypes[2 - copy] == own[2 - copy]).all()
    assert found.gain > 10
    # those that show nothing but the converted stretch fit three haplotypes, two or one of them at the other copy
    from_a = np.repeat([True, True, False, False], 40)
    seen = tract.base != NOTHING
    inside = ~seen[:, :4].any(axis=1) & ~seen[:, 15:].any(axis=1)
    sure = np.where(from_a, found.from_a, 1 - found.from_a)[~inside & (np.arange(160) // 40 == copy + 1)]
    assert np.median(sure) > 0.9


def test_nothing_is_gained_where_the_copies_are_as_in_the_reference() -> None:
    alleles, own = two_copies(20)
    found = settle_tract(make_tract(np.random.default_rng(4), own, alleles, 40))
    assert (found.haplotypes == own).all()
    assert found.gain < 1
