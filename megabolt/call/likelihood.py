# SPDX-License-Identifier: Apache-2.0
"""Likelihood of each read under each haplotype of its window, for all windows of a chunk in one batch.

In: `Windows`, `WindowReads`, `Haplotypes`. Out: `Likelihoods`. Next: `genotype.py`.

A read is trimmed to the window and its pad, and none of its bases is believed more than its place: base quality
is capped at MAPQ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.haplotypes import Haplotypes, WindowReads
from megabolt.call.reads import Reads
from megabolt.call.str_model import gap_probabilities
from megabolt.call.windows import Windows
from megabolt.compute.backend import Backend
from megabolt.compute.jit import kernel
from megabolt.compute.pairhmm import PairHmmBatch, log10_likelihood

U = np.uint64
#: Soft-clipped bases next to the trimmed part that are used beyond its edge.
CLIP_SLACK = 5
#: A trimmed read shorter than this says nothing.
MIN_SEGMENT = 10
#: Lowest base quality that is believed: even a bad base is right more often than one in four.
MIN_QUALITY = 6
#: MAPQ above this is not believed (aligners stop telling the truth there).
MAX_MAPQ = 60


@dataclass(frozen=True)
class Likelihoods:
    """log10 P(read | haplotype) of each window.

    read_offset: int64 [n_windows + 1] into read (int32, ascending in each window).
    offset: int64 [n_windows + 1] into log10 (float64), rows of reads, columns of the window's haplotypes.
    """

    read_offset: NDArray[np.int64]
    read: NDArray[np.int32]
    offset: NDArray[np.int64]
    log10: NDArray[np.float64]


@kernel(
    "int64(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int32[::1], int64[::1], int64[::1],"
    " int64[::1], uint32[::1], int64[::1], int64[::1], int64[::1], int64[::1], int32[::1])"
)
def _trim(
    which: Any,
    trim_start: Any,
    trim_stop: Any,
    hap_offset: Any,
    read_offset: Any,
    window_read: Any,
    starts: Any,
    base_offset: Any,
    cigar_offset: Any,
    cigar: Any,
    totals: Any,
    out_offset: Any,
    query_start: Any,
    query_stop: Any,
    out_read: Any,
) -> Any:
    """Part of each read that covers its window's trimmed stretch; reads with too little of it are dropped."""
    n = 0
    n_bases: Any = 0
    n_pairs = 0
    for k in range(len(which)):
        out_offset[k] = n
        n_haps = hap_offset[k + 1] - hap_offset[k]
        if n_haps < 2:
            continue
        a, b = trim_start[which[k]], trim_stop[which[k]]
        for r in range(read_offset[k], read_offset[k + 1]):
            i = window_read[r]
            p, q = starts[i], base_offset[i]
            begin, end = np.int64(-1), np.int64(-1)
            for c in range(cigar_offset[i], cigar_offset[i + 1]):
                op, l = np.int64(cigar[c] & np.uint32(15)), np.int64(cigar[c] >> np.uint32(4))
                if op == 0 or op == 7 or op == 8:
                    if begin < 0 and p + l > a:
                        begin = q + max(0, a - p)
                    if p < b:
                        end = q + min(l, b - p)
                    p += l
                    q += l
                elif op == 1:
                    if begin >= 0 and a < p <= b:
                        end = q + l
                    q += l
                elif op == 4:
                    if c == cigar_offset[i]:
                        if a < p < b:
                            begin = max(q, q + l - (p - a) - 5)
                    elif a < p < b:
                        end = min(q + l, q + (b - p) + 5)
                    q += l
                elif op == 2 or op == 3:
                    p += l
            if begin < 0 or end - begin < 10:
                continue
            out_read[n] = i
            query_start[n], query_stop[n] = begin, end
            n_bases += end - begin
            n_pairs += n_haps
            n += 1
    out_offset[len(which)] = n
    totals[0] = n_bases
    totals[1] = n_pairs
    return n


@kernel(
    "void(int64[::1], int64[::1], int32[::1], int64[::1], int64[::1], uint8[::1], uint8[::1], uint8[::1],"
    " uint8[::1], uint8[::1], int64[::1], int32[:, ::1], int64[::1])"
)
def _fill(
    read_offset: Any,
    hap_offset: Any,
    read: Any,
    query_start: Any,
    query_stop: Any,
    bases: Any,
    qualities: Any,
    mapq: Any,
    out_bases: Any,
    out_qualities: Any,
    out_offset: Any,
    pairs: Any,
    pair_offset: Any,
) -> None:
    """Copy trimmed reads, cap their qualities at MAPQ, pair each with the haplotypes of its window."""
    at = 0
    n_pairs = 0
    for k in range(len(read_offset) - 1):
        pair_offset[k] = n_pairs
        for r in range(read_offset[k], read_offset[k + 1]):
            out_offset[r] = at
            cap: Any = min(max(np.int64(mapq[read[r]]), 3), 60)
            for x in range(query_start[r], query_stop[r]):
                out_bases[at] = bases[x]
                out_qualities[at] = max(min(np.int64(qualities[x]), cap), 6)
                at += 1
            for h in range(hap_offset[k], hap_offset[k + 1]):
                pairs[n_pairs, 0] = r
                pairs[n_pairs, 1] = h
                n_pairs += 1
    pair_offset[len(read_offset) - 1] = n_pairs
    out_offset[len(out_offset) - 1] = at


def score_windows(
    windows: Windows,
    which: NDArray[np.int64],
    window_reads: WindowReads,
    haplotypes: Haplotypes,
    reads: Reads,
    *,
    backend: Backend,
    open_by_tract: NDArray[np.float64] | None = None,
) -> Likelihoods:
    """Pair-HMM of the trimmed reads of the windows `which` against their haplotypes.

    Windows with fewer than two haplotypes get no reads.
    """
    n_all = len(window_reads.read)
    totals = np.zeros(2, np.int64)
    read_offset = np.zeros(len(which) + 1, np.int64)
    query_start, query_stop = np.empty(n_all, np.int64), np.empty(n_all, np.int64)
    read = np.empty(n_all, np.int32)
    n = _trim(
        which, windows.trim_start, windows.trim_stop, haplotypes.offset, window_reads.offset, window_reads.read,
        reads.start, reads.base_offset, reads.cigar_offset, reads.cigar, totals, read_offset,
        query_start, query_stop, read,
    )  # fmt: skip
    out_bases, out_qualities = np.empty(totals[0], np.uint8), np.empty(totals[0], np.uint8)
    out_offset = np.zeros(n + 1, np.int64)
    pairs = np.empty((totals[1], 2), np.int32)
    offset = np.zeros(len(which) + 1, np.int64)
    _fill(
        read_offset, haplotypes.offset, read, query_start, query_stop, reads.bases, reads.qualities, reads.mapq,
        out_bases, out_qualities, out_offset, pairs, offset,
    )  # fmt: skip
    log10 = np.zeros(0)
    if len(pairs):
        gap_open, gap_extend = gap_probabilities(haplotypes.sequence, haplotypes.sequence_offset, open_by_tract)
        batch = PairHmmBatch(
            reads=out_bases,
            qualities=out_qualities,
            read_offsets=out_offset,
            haps=haplotypes.sequence,
            gap_open=gap_open,
            gap_extend=gap_extend,
            hap_offsets=haplotypes.sequence_offset,
            pairs=pairs,
        )
        log10 = log10_likelihood(batch, backend=backend)
    return Likelihoods(read_offset, read[:n].copy(), offset, log10)
