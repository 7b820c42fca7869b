# SPDX-License-Identifier: Apache-2.0
"""How often this library's reads show an indel in a tandem repeat, learnt from the reads without any truth.

In: records of some stretches of the genome. Out: gap-open table of `str_model.open_table`. Next: `likelihood.py`.

Libraries differ by 20 dB at the same repeat: a PCR-free curve calls the slips of a PCR library, a PCR curve misses
the alleles of a clean one. Reads of one tract that differ from the reference are either errors or an allele, so an
expectation-maximisation weighs the four kinds of tract (reference, one copy differs, both alike, both differently)
against the error rate of all tracts of that period and length. Cells with few reads follow the measured PCR-free
curve, scaled by what the other lengths of the period show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.indel_priors import LOG10_VARIABLE, POOLED_PERIOD
from megabolt.call.str_model import MAX_PERIOD, MAX_UNITS, open_table, pcr_free_rate, tandem_tracts
from megabolt.compute.bits import PADDING, load_i32, load_u16, load_u32
from megabolt.compute.jit import kernel
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fasta import Reference

U = np.uint64
#: Aligned bases that a read must have on both sides of a tract to tell its length.
FLANK = 5
#: Reads of lower MAPQ may come from another tract.
MIN_MAPQ = 20
#: Tracts with fewer units hardly slip and are many: of those only one in SHORT_SAMPLE is looked at.
MANY_UNITS = (0, 4, 3, 3, 3, 3, 3)
SHORT_SAMPLE = 16
#: A tract with fewer reads says nothing about its alleles.
MIN_READS = 6
#: The library's level is measured where the curve expects more than this, above what misplaced reads show anywhere.
LONG_RATE = 10**-2.5
#: Errors' worth of belief that the library follows the curve, and a period the library; reads' worth that a length
#: follows its period.
LIBRARY_WEIGHT, PERIOD_WEIGHT = 3.0, 5.0
CELL_WEIGHT = 100.0
#: Reads of one tract count as no more than this, so that no odd place (another locus, a third allele) sets a rate.
MAX_WEIGHT = 20.0
#: Of the tracts that vary: one copy differs, both alike, both differently; and the weight of these shares in tracts.
KINDS = (0.58, 0.3, 0.12)
SHARE_WEIGHT = 20.0
#: Share of the wrong reads that show one certain wrong length: without it an allele seen ten times would pass for ten
#: errors.
SLIP_SHARE = 0.4
#: A repeat that slips in every third read is no longer told from one with many alleles.
MAX_RATE = 0.35
MIN_RATE = 1e-5
_ROUNDS = 25


#: Bases looked at beyond a stretch, so that its tracts are whole.
_BEYOND = 1000
#: A stretch with fewer reads says little, and finding its tracts would take longer than reading them.
MIN_STRETCH_READS = 1000


@dataclass(frozen=True)
class TractCounts:
    """What the reads of a stretch of the genome show.

    tracts: int64 [n, 4] (start, stop, period, units). counts: int64 [n, 4], reads across each tract; of the reference's
    length; of the two commonest other lengths. n_reads: usable reads of the stretch; 0 where they are fewer than
    MIN_STRETCH_READS, which are not used.
    """

    tracts: NDArray[np.int64]
    counts: NDArray[np.int64]
    n_reads: int


@kernel("int64(uint8[::1], int64[::1], int64, int64, int64, int64, int64[:, ::1], int64[::1], int32[:, ::1])")
def _add_reads(
    data: Any, offsets: Any, contig: Any, start: Any, stop: Any, min_mapq: Any, tracts: Any, starts: Any, seen: Any
) -> Any:
    """Reads that begin in [start, stop) into `seen` [tracts, 129], by length change -64..64; returns their number."""
    n_reads = 0
    for i in range(len(offsets) - 1):
        o = offsets[i]
        begin = np.int64(load_i32(data, o + 8))
        if np.int64(load_i32(data, o + 4)) != contig or begin < start or begin >= stop:
            continue
        # unmapped, secondary, failed quality control, duplicate, supplementary
        if np.int64(load_u16(data, o + 18)) & 0xF04 or np.int64(data[U(o + 13)]) < min_mapq:
            continue
        n_cigar = np.int64(load_u16(data, o + 16))
        cigar = o + 36 + np.int64(data[U(o + 12)])
        end = begin
        for c in range(n_cigar):
            word = np.int64(load_u32(data, cigar + 4 * c))
            op = word & 15
            if op == 0 or op == 2 or op == 3 or op == 7 or op == 8:
                end += word >> 4
        n_reads += 1
        if end - begin > 1000:  # split or spliced, as `decode_reads` has it
            continue
        for t in range(np.searchsorted(starts, begin + 5), len(starts)):
            a, b = tracts[t, 0], tracts[t, 1]
            if a >= end:
                break
            if b + 5 > end:
                continue
            change: Any = 0
            if n_cigar > 1:
                p = begin
                whole = True
                for c in range(n_cigar):
                    word = np.int64(load_u32(data, cigar + 4 * c))
                    op, l = word & 15, word >> 4
                    if op == 1:
                        if a <= p <= b:
                            change += l
                    elif op == 2 or op == 3:
                        if p <= b and p + l >= a:
                            change -= l
                            # one that takes flanking bases too is another event
                            whole = whole and p >= a and p + l <= b
                        p += l
                    elif op != 4 and op != 5 and op != 6:
                        p += l
                if not whole:
                    continue
            seen[t, min(max(change, -64), 64) + 64] += 1
    return n_reads


@kernel("void(int32[:, ::1], int64[:, ::1])")
def _summarise(seen: Any, counts: Any) -> None:
    """`TractCounts.counts` from reads by length change; `seen` is used up."""
    for t in range(len(seen)):
        n = 0
        for x in range(129):
            n += seen[t, x]
        counts[t, 0], counts[t, 1] = n, seen[t, 64]
        seen[t, 64] = 0
        for rank in range(2):
            best = 0
            for x in range(129):
                if seen[t, x] > seen[t, best]:
                    best = x
            counts[t, 2 + rank] = seen[t, best]
            seen[t, best] = 0


def count_tracts(
    blocks: Iterable[RecordBlock], reference: Reference, contig: int, start: int, stop: int
) -> TractCounts:
    """What the reads that begin in [start, stop) show in the tandem tracts that begin there.

    Parameters
    ----------
    blocks
        Duplicates flagged, in any order, each valid until the next is asked for; other records are left aside.
    """
    low, high = max(0, start - _BEYOND), min(reference.contigs[contig].length, stop + _BEYOND)
    none = np.zeros((0, 4), np.int64)
    tracts, starts, seen = none, none[:, 0], np.zeros((0, 129), np.int32)
    waiting: list[RecordBlock] = []
    n_reads = n_records = 0
    for block in blocks:
        few, n_records = n_records < MIN_STRETCH_READS, n_records + block.n
        if few and n_records < MIN_STRETCH_READS:
            end = int(block.offsets[-1]) + PADDING
            waiting.append(RecordBlock(block.data[:end].copy(), block.offsets.copy()))
            continue
        if few:
            ref = np.ascontiguousarray(reference.fetch(contig, low, high))
            period, length = np.zeros(len(ref), np.uint8), np.zeros(len(ref), np.int32)
            tandem_tracts(ref, 0, len(ref), period, length)
            tracts = whole_tracts(period, length, start - low, stop - low)
            tracts[:, :2] += low
            starts, seen = np.ascontiguousarray(tracts[:, 0]), np.zeros((len(tracts), 129), np.int32)
        for one in (*waiting, block):
            n_reads += _add_reads(one.data, one.offsets, contig, start, stop, MIN_MAPQ, tracts, starts, seen)
        waiting = []
    counts = np.zeros((len(tracts), 4), np.int64)
    _summarise(seen, counts)
    told = (counts[:, 0] >= MIN_READS) & (n_reads >= MIN_STRETCH_READS)
    return TractCounts(tracts[told], counts[told], n_reads if n_reads >= MIN_STRETCH_READS else 0)


def whole_tracts(period: NDArray[np.uint8], length: NDArray[np.int32], start: int, stop: int) -> NDArray[np.int64]:
    """Tracts that begin in [start, stop) and that no longer one overlaps: int64 [n, 4] (start, stop, period, units).

    Of short ones (MANY_UNITS) a sample.
    """
    p, l = period.astype(np.int64), length.astype(np.int64)
    change = np.flatnonzero((np.diff(p) != 0) | (np.diff(l) != 0)) + 1
    first = np.concatenate([[0], change])
    last = np.concatenate([change, [len(p)]])
    units = l[first] // np.maximum(1, p[first])
    good = (p[first] > 0) & (last - first == l[first])
    good &= (units >= np.array(MANY_UNITS)[p[first]]) | (first % SHORT_SAMPLE == 0)
    good &= (first >= start) & (first < stop)
    return np.ascontiguousarray(np.column_stack([first, last, p[first], np.minimum(units, MAX_UNITS)])[good])


def _shares() -> NDArray[np.float64]:
    """Where to start: shares of the four kinds of tract (reference, then KINDS) by cell, float64 [4, cells]."""
    varies = np.full((MAX_PERIOD + 1, MAX_UNITS + 1), 1e-4)
    varies[: POOLED_PERIOD + 1] = np.maximum(varies[: POOLED_PERIOD + 1], 10.0**LOG10_VARIABLE)
    return np.stack([1 - varies.ravel(), *(share * varies.ravel() for share in KINDS)])


def _fit(
    counts: NDArray[np.int64],
    alike: NDArray[np.int64],
    cell: NDArray[np.int64],
    rate: NDArray[np.float64],
    weight: float,
) -> Any:
    """Rates of all cells by expectation-maximisation; returns them with the errors and the reads behind them.

    counts: as `_tract_counts` gives them, of `alike` tracts each; cell: their cell. rate: where to start, and what
    `weight` reads say.
    """
    n, ref, one, two = counts.T.astype(float)
    # (1) errors under each kind of tract, each of a certain length; (2) a read of a tract with two alleles shows
    # either with 1/2
    errors = np.stack([n - ref, n - ref - one, n - one, n - one - two])
    halves = np.stack([0 * n, ref + one, 0 * n, one + two])
    trust = alike * np.minimum(1, MAX_WEIGHT / n)
    shares = start = _shares()
    prior = rate.copy()
    wrong: NDArray[np.float64] = np.zeros(len(rate))
    total: NDArray[np.float64] = np.zeros(len(rate))
    for _ in range(_ROUNDS):
        r = np.clip(rate, MIN_RATE, MAX_RATE)[cell]
        log = (
            errors * np.log(SLIP_SHARE * r) + (n - errors) * np.log1p(-r) - halves * np.log(2) + np.log(shares[:, cell])
        )
        weights = np.exp(log - log.max(axis=0))
        weights /= weights.sum(axis=0)
        wrong[:] = np.bincount(cell, (weights * errors).sum(axis=0) * trust, len(rate))
        total[:] = np.bincount(cell, n * trust, len(rate))
        rate = np.clip((wrong + weight * prior) / (total + weight), MIN_RATE, MAX_RATE)
        kinds = np.stack([np.bincount(cell, w * alike, len(rate)) for w in weights])
        shares = (kinds + SHARE_WEIGHT * start) / (kinds.sum(axis=0) + SHARE_WEIGHT)
    return rate, wrong, total


def _not_falling(rate: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest sequence that never falls, in weighted least squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for r, w in zip(rate.tolist(), weight.tolist()):
        pools.append((r, w, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (r1, w1, n1), (r2, w2, n2) = pools[-2], pools[-1]
            pools[-2:] = [((r1 * w1 + r2 * w2) / (w1 + w2), w1 + w2, n1 + n2)]
    return np.repeat([r for r, _, _ in pools], [n for _, _, n in pools])


def learn_rates(tracts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(a read across a tract shows an indel in it), float64 [MAX_PERIOD + 1, MAX_UNITS + 1].

    Parameters
    ----------
    tracts
        int64 [n, 4] of `whole_tracts`.
    counts
        int64 [n, 4]: reads across each tract; of the reference's length; of the two commonest other lengths.
    """
    curve = np.zeros((MAX_PERIOD + 1, MAX_UNITS + 1))
    for p in range(1, MAX_PERIOD + 1):
        curve[p, 2:] = [pcr_free_rate(p, u) for u in range(2, MAX_UNITS + 1)]
    used = counts[:, 0] >= MIN_READS
    cells = np.minimum(tracts[used, 2], POOLED_PERIOD) * (MAX_UNITS + 1) + tracts[used, 3]
    # most tracts are alike, all their reads as the reference: each kind is looked at once
    kinds, alike = np.unique(np.column_stack([cells, counts[used]]), axis=0, return_counts=True)
    cell, counts = kinds[:, 0], kinds[:, 1:]
    flat = curve.ravel()
    _, wrong, total = _fit(counts, alike, cell, flat, CELL_WEIGHT)
    # the library's level, then each period's: errors seen in long tracts over those that the curve expects there
    long = curve >= LONG_RATE
    seen = np.where(long, wrong.reshape(curve.shape), 0).sum(axis=1)
    expected = np.where(long, total.reshape(curve.shape) * curve, 0).sum(axis=1)
    library = (seen.sum() + LIBRARY_WEIGHT) / (expected.sum() + LIBRARY_WEIGHT)
    scale = (seen + PERIOD_WEIGHT * library) / (expected + PERIOD_WEIGHT)
    scaled = np.clip(curve * scale[:, None], MIN_RATE, MAX_RATE)
    rate, _, total = _fit(counts, alike, cell, scaled.ravel(), CELL_WEIGHT)
    rate, total = rate.reshape(curve.shape), total.reshape(curve.shape)
    for p in range(1, MAX_PERIOD + 1):
        rate[p, 2:] = _not_falling(rate[p, 2:], total[p, 2:] + CELL_WEIGHT)
    rate[POOLED_PERIOD + 1 :] = rate[POOLED_PERIOD]
    return np.asarray(rate)


def learn_open_table(found: Sequence[TractCounts]) -> NDArray[np.float64]:
    """Gap-open table (`str_model.open_table`) of a library, from what its reads show in some stretches."""
    none = np.zeros((0, 4), np.int64)
    tracts = np.concatenate([none, *(one.tracts for one in found)])
    counts = np.concatenate([none, *(one.counts for one in found)])
    return open_table(learn_rates(tracts, counts))
