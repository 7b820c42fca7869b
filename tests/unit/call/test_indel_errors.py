# SPDX-License-Identifier: Apache-2.0
"""The indel errors of a library in tandem repeats, learnt without truth."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.call import indel_errors
from megabolt.call.indel_errors import (
    MAX_RATE,
    MIN_STRETCH_READS,
    TractCounts,
    _not_falling,
    count_tracts,
    learn_open_table,
    learn_rates,
    whole_tracts,
)
from megabolt.call.str_model import MAX_UNITS, OPEN, pcr_free_rate, tandem_tracts
from megabolt.testing.records import HandRead, TextReference, make_block, random_reference

REFERENCE = random_reference(60, 3) + "CAAAAAAAAAAAAG" + random_reference(60, 4)
FIRST_A, LAST_A = 61, 73


def tracts_of(text: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    codes = np.array(["ACGTN".index(b) for b in text], np.uint8)
    period, length = np.zeros(len(codes), np.uint8), np.zeros(len(codes), np.int32)
    tandem_tracts(codes, 0, len(codes), period, length)
    return period, length


@pytest.fixture
def any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch counts however few its reads are."""
    monkeypatch.setattr(indel_errors, "MIN_STRETCH_READS", 1)


def counted(*blocks: list[HandRead], start: int = 0, stop: int = len(REFERENCE)) -> TractCounts:
    return count_tracts(map(make_block, blocks), TextReference({"c": REFERENCE}), 0, start, stop)


def read(start: int, stop: int, change: int, at: int = FIRST_A, mapq: int = 60) -> HandRead:
    """A read over [start, stop) whose tract is longer or shorter by `change` A."""
    before, after = REFERENCE[start:at], REFERENCE[at:stop]
    if change > 0:
        return HandRead(start, f"{at - start}M{change}I{stop - at}M", before + "A" * change + after, mapq=mapq)
    if change < 0:
        cigar = f"{at - start}M{-change}D{stop - at + change}M"
        return HandRead(start, cigar, before + after[-change:], mapq=mapq)
    return HandRead(start, f"{stop - start}M", before + after, mapq=mapq)


def test_tracts_are_whole_and_long_enough() -> None:
    period, length = tracts_of("GCT" + "A" * 6 + "GC" + "AT" * 5 + "GCC")
    assert whole_tracts(period, length, 0, len(period)).tolist() == [[3, 9, 1, 6], [11, 21, 2, 5]]
    assert whole_tracts(period, length, 4, len(period)).tolist() == [[11, 21, 2, 5]], "begins before the stretch"


def test_of_short_tracts_a_sample_is_looked_at() -> None:
    period, length = tracts_of(random_reference(20000, 11))
    found = whole_tracts(period, length, 0, 20000).tolist()
    expected, x = [], 0
    while x < 20000:
        p, l = int(period[x]), int(length[x])
        alone = p > 0 and set(zip(period[x : x + l].tolist(), length[x : x + l].tolist())) == {(p, l)}
        if alone and (x == 0 or (period[x - 1], length[x - 1]) != (p, l)):
            if x % 16 == 0 or l // p >= (4 if p == 1 else 3):
                expected.append([x, x + l, p, l // p])
        x += 1
    # a tract that follows one of the same kind is not told from it
    expected = [
        row
        for row in expected
        if (period[row[1] - 1], length[row[1] - 1])
        != tuple((period[row[1]], length[row[1]]) if row[1] < 20000 else (0, 0))
    ]
    assert found == expected
    assert sum(row[3] == 2 and row[2] == 1 for row in found) > 20


@pytest.mark.usefixtures("any_number")
def test_counts_of_a_tract() -> None:
    """Length changes by hand: 0, 0, +1, -1, -1, +2, 0; a read that ends too early and one of low MAPQ do not count."""
    stop = len(REFERENCE)
    changes = [0, 0, 1, -1, -1, 2]
    reads = [read(10 + i, stop - 5, change) for i, change in enumerate(changes)]
    reads += [read(20, LAST_A + 4, -1), read(21, stop - 5, -1, mapq=19), read(22, LAST_A + 5, 0)]
    found = counted(reads)
    assert found.n_reads == 8
    assert found.counts[found.tracts[:, 3] == 12].tolist() == [[7, 3, 2, 1]]
    assert found.tracts[found.tracts[:, 3] == 12].tolist() == [[FIRST_A, LAST_A, 1, 12]]
    halves = counted(reads[::-1][:4], reads[::2], reads[1::2])
    assert halves.n_reads == 11, "blocks of any order add up"
    assert counted(reads, start=12).n_reads == 6, "two begin before the stretch"
    assert counted(reads, start=FIRST_A + 1).tracts.tolist() == [], "the tract begins before it"


def test_stretches_of_few_reads_are_left_aside() -> None:
    reads = [read(10, len(REFERENCE) - 5, 0)] * (MIN_STRETCH_READS - 1)
    assert counted(reads).n_reads == len(counted(reads).tracts) == 0
    assert counted([*reads[:400], reads[0]], reads[400:]).n_reads == MIN_STRETCH_READS
    duplicates = [replace(reads[0], flag=0x400)] * 5
    assert counted(reads, duplicates).n_reads == 0
    assert counted([*reads, reads[0]]).counts[:, 0].max() == MIN_STRETCH_READS


def simulated(
    rng: np.random.Generator,
    rate: float,
    units: int,
    n_tracts: int,
    depth: int,
    period: int = 1,
    kinds: tuple[float, ...] = (0.7, 0.15, 0.1, 0.05),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tracts and counts: of the shares `kinds` reference, one copy, both alike, both differently; errors by 1 or 2."""
    rows = []
    for kind in rng.choice(4, n_tracts, p=kinds):
        alleles = [(0, 0), (0, -1), (2, 2), (1, -1)][kind]
        seen: dict[int, int] = {}
        for _ in range(depth):
            change = alleles[rng.integers(2)]
            if rng.random() < rate:
                change += int(rng.choice([-1, 1, -2], p=[0.5, 0.35, 0.15]))
            seen[change] = seen.get(change, 0) + 1
        others = [*sorted((v for k, v in seen.items() if k != 0), reverse=True), 0, 0]
        rows.append([depth, seen.get(0, 0), others[0], others[1]])
    tracts = np.array([[100 * i, 100 * i + units * period, period, units] for i in range(n_tracts)])
    return tracts, np.array(rows)


@pytest.mark.parametrize(("rate", "depth"), list(itertools.product([0.001, 0.02, 0.12], [12, 30])))
def test_rates_are_found_among_alleles(rate: float, depth: int) -> None:
    """Clean, PCR-free-like and PCR-like libraries, three tracts in ten with alleles of their own."""
    tracts, counts = simulated(np.random.default_rng(5), rate, 12, 400, depth)
    found = learn_rates(tracts, counts)[1, 12]
    assert 0.6 * rate < found < 1.6 * rate + 0.001


def test_short_tracts_slip_in_libraries_with_pcr() -> None:
    """One read in a thousand has an indel in a run of two bases, where the curve expects one in 50,000."""
    tracts, counts = simulated(np.random.default_rng(8), 1e-3, 2, 20000, 8, kinds=(1, 0, 0, 0))
    rates = learn_rates(tracts, counts)
    assert 0.8e-3 < rates[1, 2] < 1.2e-3
    assert rates[1, 3] >= rates[1, 2]


def test_alleles_of_long_repeats_are_no_errors() -> None:
    """Two of three tracts of 18 dinucleotides have alleles of their own; a read in fourteen is wrong."""
    kinds = (0.33, 0.32, 0.08, 0.27)
    tracts, counts = simulated(np.random.default_rng(5), 0.07, 18, 60, 20, 2, kinds)
    assert 0.05 < learn_rates(tracts, counts)[2, 18] < 0.1


def test_little_data_follow_the_curve() -> None:
    tracts, counts = simulated(np.random.default_rng(6), 0.2, 12, 1, 12)
    rates = learn_rates(tracts, counts)
    assert 0.7 * pcr_free_rate(1, 12) < rates[1, 12] < 4 * pcr_free_rate(1, 12)
    empty = learn_rates(tracts[:0], counts[:0])
    assert empty[2, 10] == pytest.approx(pcr_free_rate(2, 10))


def test_one_length_teaches_the_others() -> None:
    """A library without slips in runs of 12 has few in runs of 16, which none of its reads cross."""
    tracts, counts = simulated(np.random.default_rng(7), 0.001, 12, 400, 30)
    rates = learn_rates(tracts, counts)
    assert rates[1, 16] < 0.3 * pcr_free_rate(1, 16)
    assert (np.diff(rates[1, 2 : MAX_UNITS + 1]) >= 0).all()
    assert rates.max() <= MAX_RATE


def test_pools_of_violators() -> None:
    """By hand: 3 and 1 with weights 1 and 3 pool to 1.5; 2 stays; 5, 4 pool to 4.5."""
    got = _not_falling(np.array([3.0, 1, 2, 5, 4]), np.array([1.0, 3, 1, 1, 1]))
    assert got.tolist() == [1.5, 1.5, 2, 4.5, 4.5]


@pytest.mark.usefixtures("any_number")
def test_table_of_reads() -> None:
    """Sixty reads across one run of 12 A, half of them with slips of all kinds: its gaps open more easily."""
    clean = [read(5 + i % 20, len(REFERENCE) - 3, 0) for i in range(60)]
    noisy = [read(5 + i % 20, len(REFERENCE) - 3, [0, -1, 0, 1, 0, -2, 0, 2][i % 8]) for i in range(64)]
    tables = [learn_open_table([counted(reads)]) for reads in (clean, noisy)]
    assert tables[0][1, 12] < OPEN[1, 12] < tables[1][1, 12]
    assert tables[0][0, 0] == OPEN[0, 0], "outside tracts nothing is learnt"
    assert (learn_open_table([counted(noisy[::2]), counted(noisy[1::2])]) != tables[1]).any(), "two tracts"
    assert learn_open_table([]) == pytest.approx(OPEN)
