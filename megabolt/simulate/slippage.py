# SPDX-License-Identifier: Apache-2.0
"""Indel errors of polymerases in tandem repeats, as libraries with and without PCR have them.

In: base codes of both haplotypes. Out: `Tracts` and, for each fragment, the template that is sequenced. Next: reads.

A tract is a run of a unit of 1 to 6 bases, at least two of them. On its way to the flow cell a fragment's tract
gains or loses whole units at a rate that depends on the length of the unit and on how many there are. The rates are
those measured in reads of PCR-free and PCR-amplified libraries (reads with an indel in the tract over reads that
span it, away from variants); the curves below are their smooth forms, in phred of the total rate.

Two steps slip, each tract at most once in each:

- cluster: copying on the flow cell. Every library has it; both mates of a pair share it, duplicates do not.
- template: PCR before the flow cell. What a PCR library has above a PCR-free one; all duplicates of a template
  share it, and reads that overlap in it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import inline, kernel
from megabolt.errors import UsageError
from megabolt.simulate.draws import uniform

MAX_PERIOD = 6

#: Most slips of one fragment in each of the two steps; more than this many are not drawn.
MAX_SLIPS = 32

#: Most bases that a template is longer than its fragment: three units of six bases for each slip.
MAX_GROWTH = 2 * MAX_SLIPS * 3 * MAX_PERIOD

#: Bases at a fragment's ends, beyond the reads, that a deletion may bring into a read.
REACH = 64

Curve = tuple[tuple[int, float], ...]

#: Period -> (units, phred of the rate of slips); between two points linear, beyond the last constant; 4 is for 4 to 6.
PCR_FREE: dict[int, Curve] = {
    1: (
        *((2, 47), (4, 45), (5, 42), (6, 38), (7, 34), (8, 30), (9, 26), (10, 23)),
        *((11, 21), (12, 19), (14, 15), (16, 12), (20, 9), (30, 6)),
    ),
    2: ((2, 46), (3, 42), (4, 37), (5, 30), (6, 26), (8, 21), (10, 17), (15, 11), (20, 8)),
    3: ((2, 43), (3, 38), (4, 32), (6, 26), (8, 20), (12, 13)),
    4: ((2, 41), (3, 36), (4, 30), (6, 25), (8, 20), (12, 13)),
}
PCR: dict[int, Curve] = {
    1: (
        *((2, 30), (3, 28), (4, 26), (5, 20), (6, 17), (7, 15), (8, 13), (9, 12), (10, 11)),
        *((11, 9), (12, 7), (13, 6), (16, 6), (20, 5), (30, 4)),
    ),
    2: ((2, 29), (3, 27), (4, 24), (5, 18), (6, 16), (7, 13), (8, 12), (9, 11), (10, 10), (15, 7)),
    3: ((2, 26), (3, 24), (4, 21), (5, 16), (6, 14), (8, 11), (12, 8)),
    4: ((2, 24), (3, 20), (4, 17), (5, 15), (6, 13), (8, 11), (12, 8)),
}


@dataclass(frozen=True)
class Library:
    """How a library was made.

    Parameters
    ----------
    curves
        Rate of slips in tracts, both steps together; None: none.
    outside
        Indel errors per base, tracts or not, half of them insertions: Q48 in PCR-free libraries, Q38 with PCR.
    """

    curves: dict[int, Curve] | None
    outside: float


LIBRARIES = {"none": Library(None, 6e-5), "pcr-free": Library(PCR_FREE, 1.6e-5), "pcr": Library(PCR, 1.6e-4)}

#: Units gained by a slip, and the weights of each for homopolymers up to 12 bases, longer ones, longer units.
#: Gains and losses of one unit in homopolymers, and the 80 % of longer units, are measured; the rest is assumed.
STEPS = np.array([1, -1, 2, -2, 3, -3], np.int64)
_WEIGHTS = (
    (0.64, 0.22, 0.05, 0.05, 0.02, 0.02),
    (0.43, 0.42, 0.06, 0.06, 0.015, 0.015),
    (0.30, 0.50, 0.05, 0.10, 0.02, 0.03),
)
LONG_HOMOPOLYMER = 13


@dataclass(frozen=True)
class Tracts:
    """Tandem tracts of a source, by start.

    Parameters
    ----------
    start
        int64 [n], place of the first base in the source's codes.
    period
        uint8 [n], bases of the unit.
    units
        int32 [n], whole units.
    hazard
        float64 [2, n + 1], sums of -ln(1 - rate) over the tracts before each: template step, cluster step.
    steps
        float64 [3, 6], cumulative weights of `STEPS`.
    """

    start: NDArray[np.int64]
    period: NDArray[np.uint8]
    units: NDArray[np.int32]
    hazard: NDArray[np.float64]
    steps: NDArray[np.float64]


def library_named(name: str) -> Library:
    """One of `LIBRARIES`; `UsageError` if there is none of that name."""
    if name not in LIBRARIES:
        raise UsageError(f"unknown library {name!r}", f"Known: {', '.join(LIBRARIES)}.")
    return LIBRARIES[name]


def outside_tracts(name: str) -> float:
    """Indel errors per base of a library: what `Library.outside` says."""
    return library_named(name).outside


def slip_rate(curves: dict[int, Curve], period: int, units: NDArray[Any]) -> NDArray[np.float64]:
    """P(a copy of a tract has another length), of tracts of one period."""
    points = curves[min(period, 4)]
    phred = np.interp(units, [at for at, _ in points], [value for _, value in points])
    rate: NDArray[np.float64] = 10.0 ** (-phred / 10)
    return rate


def tracts_of(codes: NDArray[np.uint8], contig_start: NDArray[np.int64], library: str) -> Tracts:
    """Tandem tracts of a source with the rates of a library; empty for "none".

    Tracts of one source cost 8 bytes a base, most of it for runs of two or three bases.
    """
    weights = np.array(_WEIGHTS)
    steps = np.cumsum(weights, 1) / weights.sum(1, keepdims=True)
    curves = library_named(library).curves
    if curves is None:
        nothing = np.zeros(0, np.int64)
        return Tracts(nothing, nothing.astype(np.uint8), nothing.astype(np.int32), np.zeros((2, 1)), steps)
    starts, periods, units, rates = [], [], [], []
    for period in range(1, MAX_PERIOD + 1):
        found = _tracts_of_period(codes, contig_start, period)
        starts.append(found[0])
        units.append((found[1] // period).astype(np.int32))
        periods.append(np.full(len(found[0]), period, np.uint8))
        total = slip_rate(curves, period, units[-1])
        cluster = np.minimum(slip_rate(PCR_FREE, period, units[-1]), total)
        rates.append(np.stack([np.log1p(-cluster) - np.log1p(-total), -np.log1p(-cluster)]))
    order = np.argsort(np.concatenate(starts), kind="stable")
    hazard = np.zeros((2, len(order) + 1))
    np.cumsum(np.concatenate(rates, 1)[:, order], 1, out=hazard[:, 1:])
    columns = np.concatenate(starts), np.concatenate(periods), np.concatenate(units)
    return Tracts(columns[0][order], columns[1][order], columns[2][order], hazard, steps)


def _tracts_of_period(
    codes: NDArray[np.uint8], contig_start: NDArray[np.int64], period: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the longest runs of a primitive unit, contig by contig."""
    starts, lengths = [], []
    for low, high in pairwise(contig_start.tolist()):
        begin = np.empty((high - low) // (period + 1) + 1, np.int64)
        length = np.empty_like(begin)
        n = find_tracts(codes[low:high], period, begin, length)
        starts.append(begin[:n] + low)
        lengths.append(length[:n].copy())
    return np.concatenate(starts), np.concatenate(lengths)


@inline
def _is_primitive(codes: Any, start: Any, period: Any) -> Any:
    """Whether a unit is not itself a repeat of a shorter one."""
    for shorter in range(1, period // 2 + 1):
        if period % shorter == 0:
            same = True
            for k in range(period - shorter):
                if codes[start + k] != codes[start + k + shorter]:
                    same = False
            if same:
                return False
    return True


@kernel("int64(uint8[::1], int64, int64[::1], int64[::1])")
def find_tracts(codes: NDArray[np.uint8], period: int, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
    """Runs of one period, at least two units; returns their number. Neighbours share fewer bases than a unit has."""
    n = 0
    begin = 0  # of the run that codes[i] may continue
    size = len(codes)
    for i in range(period, size + 1):
        if i < size and codes[i] < 4 and codes[i] == codes[i - period]:
            continue
        if i - begin >= 2 * period and _is_primitive(codes, begin, period):
            starts[n] = begin
            lengths[n] = i - begin
            n += 1
        begin = i - period + 1
    return n


@inline
def draw_slips(
    state: Any, first: Any, stop: Any, hazard: Any, period: Any, units: Any, steps: Any, n: Any, slips: Any
) -> Any:
    """Add the slips of one step in tracts [first, stop) to slips[n:]; returns how many there are then.

    hazard: one row of `Tracts.hazard`; slips: int64 [2 * MAX_SLIPS, 2], tract and units gained.
    """
    reached = hazard[first]
    limit = n + MAX_SLIPS
    while n < limit:
        reached -= math.log(uniform(state))
        if reached >= hazard[stop]:
            break
        tract = np.searchsorted(hazard, reached, side="right") - 1
        reached = hazard[tract + 1]
        kind = 2 if period[tract] > 1 else (1 if units[tract] >= LONG_HOMOPOLYMER else 0)
        u = uniform(state)
        k = 0
        while steps[kind, k] <= u and k < 5:
            k += 1
        slips[n, 0] = tract
        slips[n, 1] = min(max(STEPS[k], 1 - units[tract]), units[tract])
        n += 1
    return n


@inline
def sort_slips(slips: Any, n: Any) -> Any:
    """By tract, the two of one tract made one; returns how many are left."""
    for i in range(1, n):
        tract, gain = slips[i, 0], slips[i, 1]
        j = i
        while j > 0 and slips[j - 1, 0] > tract:
            slips[j, 0] = slips[j - 1, 0]
            slips[j, 1] = slips[j - 1, 1]
            j -= 1
        slips[j, 0] = tract
        slips[j, 1] = gain
    kept = 0
    for i in range(n):
        if kept > 0 and slips[kept - 1, 0] == slips[i, 0]:
            slips[kept - 1, 1] += slips[i, 1]
        else:
            slips[kept, 0] = slips[i, 0]
            slips[kept, 1] = slips[i, 1]
            kept += 1
    return kept


@inline
def fill_template(
    start: Any, stop: Any, tract_start: Any, period: Any, units: Any, slips: Any, n: Any, template: Any
) -> Any:
    """Where each base of a fragment's template comes from; returns its length.

    template[k] is a place in the codes, or -1 - place for a base of a unit gained. Gained units stand before the
    tract's first base, lost ones are its first: as left-aligned indels are written. A slip in a tract that an earlier
    one has cut into, or that is not in the fragment as a whole, does not happen.
    """
    size = 0
    at = start
    for i in range(n):
        tract = slips[i, 0]
        gained = min(max(slips[i, 1], 1 - units[tract]), units[tract]) * period[tract]
        begin = tract_start[tract]
        if begin < at or begin + units[tract] * period[tract] > stop:
            continue
        while at < begin:
            template[size] = at
            size += 1
            at += 1
        for k in range(gained):
            template[size] = -1 - (begin + k)
            size += 1
        if gained < 0:
            at -= gained
    while at < stop:
        template[size] = at
        size += 1
        at += 1
    return size
