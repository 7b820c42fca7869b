# SPDX-License-Identifier: Apache-2.0
"""Reference confidence of a gVCF: how sure it is that nothing differs, in blocks of similar confidence.

In: `Reads`, `Evidence`, the variant records. Out: reference blocks (END, MIN_DP, <NON_REF>) that fill all gaps
between variants without overlap.

Two ways to be wrong at a position are weighed, and the likelier one counts: a SNP, from the base qualities; an
indel, which only reads that span the whole repeat can exclude.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.evidence import Evidence
from megabolt.call.reads import Reads
from megabolt.compute.jit import kernel
from megabolt.formats.bases import LETTERS
from megabolt.formats.vcf import NON_REF, VcfRecord

U = np.uint64
#: Sums are kept in thousandths of a phred, as whole numbers: equal in whatever order and chunk they are made.
_SCALE = 1000
#: A read excludes an indel at a place if it reaches this far beyond it on both sides.
_REACH = 5
#: Tandem tracts of at least this length must be spanned entirely.
_TRACT = 9
_MAX_PL = 99999
#: Phred of a read that spans a place and shows no indel, where every copy has one.
_INDEL_MISSED = 100 * np.log10(2)


@functools.cache
def _tables(ploidy: int) -> NDArray[np.int32]:
    """int32 [2, ploidy + 1, 64]: phred x _SCALE of 0, 1 .. ploidy copies of something else, for a base that agrees /
    differs, by base quality."""
    q = np.arange(64)
    e = np.minimum(0.75, 10 ** (-q / 10))
    right, wrong = 1 - e, e / 3
    share = (np.arange(ploidy + 1) / ploidy)[:, None]
    agree = (1 - share) * right + share * wrong
    differ = (1 - share) * wrong + share * right
    return np.ascontiguousarray(np.round(-10 * np.log10(np.stack([agree, differ])) * _SCALE), np.int32)


@kernel(
    "void(uint8[::1], int64[::1], int64[::1], uint8[::1], int64[::1], uint8[::1], uint8[::1], int64[::1],"
    " uint32[::1], int32[:, :, ::1], int64, int64, int64[:, ::1], int32[::1])"
)
def _accumulate(
    ref: Any,
    starts: Any,
    stops: Any,
    mapq: Any,
    base_offset: Any,
    bases: Any,
    qualities: Any,
    cigar_offset: Any,
    cigar: Any,
    tables: Any,
    low: Any,
    high: Any,
    phred: Any,
    spanning: Any,
) -> None:
    """phred: int64 [high - low, ploidy + 1], sums over reads; spanning: int32, reads that reach beyond both sides."""
    for i in range(len(starts)):
        if stops[i] <= low or starts[i] >= high:
            continue
        a, b = max(low, starts[i] + 5), min(high, stops[i] - 5)
        if a < b:
            spanning[a - low] += 1
            spanning[b - low] -= 1
        cap = min(max(np.int64(mapq[i]), 3), 60)
        p, q = starts[i], base_offset[i]
        for c in range(cigar_offset[i], cigar_offset[i + 1]):
            op, l = np.int64(cigar[c] & np.uint32(15)), np.int64(cigar[c] >> np.uint32(4))
            if op == 0 or op == 7 or op == 8:
                for x in range(max(0, low - p), min(l, high - p)):
                    base = bases[U(q + x)]
                    if base > 3:
                        continue
                    quality: Any = max(6, min(np.int64(qualities[U(q + x)]), cap))
                    differs = 0 if base == ref[U(p + x)] else 1
                    for g in range(phred.shape[1]):
                        phred[U(p + x - low), U(g)] += tables[U(differs), U(g), U(quality)]
                p += l
                q += l
            elif op == 1 or op == 4:
                q += l
            elif op == 2 or op == 3:
                p += l
    total = 0
    for x in range(high - low):
        total += spanning[x]
        spanning[x] = total


@kernel("void(int64[::1], int64[::1], int64, int32[::1], int64, int64, int32[::1])")
def _span_tracts(
    starts: Any,
    stops: Any,
    max_span: Any,
    tract: Any,
    low: Any,
    high: Any,
    spanning: Any,
) -> None:
    """In long tandem tracts only reads that span the tract count."""
    n_ref = len(tract)
    x = max(0, low - 200)
    while x < min(n_ref, high + 1):
        if tract[x] < 9:
            x += 1
            continue
        begin = x
        while x < n_ref and tract[x] >= 9 and x - begin < 400:
            x += 1
        count = 0
        for i in range(np.searchsorted(starts, begin - max_span), np.searchsorted(starts, begin)):
            if starts[i] < begin and stops[i] > x:
                count += 1
        for y in range(max(begin - 1, low), min(x, high)):
            spanning[y - low] = min(spanning[y - low], count)


def reference_blocks(
    reads: Reads,
    evidence: Evidence,
    ref: NDArray[np.uint8],
    tract: NDArray[np.int32],
    contig: str,
    origin: int,
    start: int,
    stop: int,
    covered: Sequence[tuple[int, int]],
    bands: Sequence[int],
    *,
    ploidy: int = 2,
    each: bool = False,
) -> list[VcfRecord]:
    """Reference blocks of [start, stop), contig coordinates, outside `covered`.

    Parameters
    ----------
    tract
        int32, length of the tandem tract over each base of the reference segment.
    covered
        Half-open intervals, contig coordinates, that variant records take.
    bands
        Ascending lower limits of the GQ bands, beginning with 0.
    ploidy
        Copies of the genome in [start, stop).
    each
        A block for each position.
    """
    low, high = start - origin, stop - origin
    phred = np.zeros((high - low, ploidy + 1), np.int64)
    spanning = np.zeros(high - low + 1, np.int32)
    _accumulate(
        ref, reads.start, reads.stop, reads.mapq, reads.base_offset, reads.bases, reads.qualities,
        reads.cigar_offset, reads.cigar, _tables(ploidy), low, high, phred, spanning,
    )  # fmt: skip
    _span_tracts(reads.start, reads.stop, reads.max_span, tract, low, high, spanning)
    others = []
    for copies in range(1, ploidy + 1):
        # an indel: each spanning read that shows none is as unlikely as it is to come from another copy
        missed = 10 * np.log10(ploidy / (ploidy - copies)) if copies < ploidy else _INDEL_MISSED
        others.append(np.minimum((phred[:, copies] - phred[:, 0]) / _SCALE, spanning[:-1] * missed))
    gq = np.clip(np.minimum.reduce(others), 0, 99).astype(np.int64)
    depth = evidence.fragments[low:high].astype(np.int64)
    band = np.searchsorted(np.asarray(bands), gq, side="right")
    free = np.ones(high - low, np.bool_)
    for a, b in covered:
        free[max(0, a - start) : max(0, min(stop, b) - start)] = False
    change = np.flatnonzero((np.diff(band) != 0) | (np.diff(free.astype(np.int8)) != 0) | each) + 1
    begins = np.concatenate([[0], change])
    ends = np.concatenate([change, [high - low]])
    lows = [np.minimum.reduceat(np.maximum(0, x), begins) for x in (gq, depth, *others)]
    blocks = []
    for k in np.flatnonzero(free[begins]).tolist():
        b, e = int(begins[k]), int(ends[k])
        pl = (0, *(min(_MAX_PL, int(low_of[k])) for low_of in lows[2:]))
        letter = chr(LETTERS[ref[low + b]])
        blocks.append(_block(contig, start + b, start + e, letter, int(lows[0][k]), int(lows[1][k]), pl))
    return blocks


def _block(contig: str, start: int, stop: int, letter: str, gq: int, depth: int, pl: tuple[int, ...]) -> VcfRecord:
    genotype = {"GT": "/".join("0" * (len(pl) - 1)), "DP": depth, "GQ": gq, "MIN_DP": depth, "PL": pl}
    return VcfRecord(contig, start, letter, (NON_REF,), None, ".", {"END": stop}, genotype)


def join_reference_blocks(blocks: Sequence[VcfRecord], bands: Sequence[int]) -> list[VcfRecord]:
    """Merge neighbouring blocks of one GQ band, as if their chunks had been one.

    All numbers of a block are minima, so that merging loses nothing. Blocks must be in file order.
    """
    joined: list[VcfRecord] = []
    limits = np.asarray(bands)
    for block in blocks:
        if joined:
            last = joined[-1]
            same_band = np.searchsorted(limits, last.genotype["GQ"], side="right") == np.searchsorted(
                limits, block.genotype["GQ"], side="right"
            )
            same_ploidy = last.genotype["GT"] == block.genotype["GT"]
            if last.contig == block.contig and last.stop == block.start and same_band and same_ploidy:
                a, b = last.genotype, block.genotype
                pl = tuple(min(x, y) for x, y in zip(a["PL"], b["PL"]))
                joined[-1] = _block(
                    last.contig, last.start, block.stop, last.ref, min(a["GQ"], b["GQ"]), min(a["DP"], b["DP"]), pl
                )
                continue
        joined.append(block)
    return joined
