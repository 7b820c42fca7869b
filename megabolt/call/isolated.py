# SPDX-License-Identifier: Apache-2.0
"""Isolated SNPs straight from the pileup, on the scale of the pair-HMM.

In: isolated `Windows`, `Reads`. Out: `SnpCalls`. Next: `emit.py`.

Where nothing but one SNP can differ, the pair-HMM's ratio of two likelihoods is that of the one base: same
quality cap, same MAPQ mixture, same templates, same priors, so QUAL means the same in both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.reads import Reads
from megabolt.compute.jit import kernel

U = np.uint64


@dataclass(frozen=True)
class SnpCalls:
    """One row per candidate SNP.

    candidate: int64 [n]. log10_likelihood: float64 [n, ploidy + 1], by copies of the alternative: 0/0, 0/1, 1/1.
    support: int64 [n, 3, 2], templates that show the reference, the alternative, another base; by forward and
    reverse. log10_spare: float64 [n, 2], likelihoods of 0/x and 1/x (one copy of the unseen x), relative to
    0/0 and 1/1.
    mapq: float64 [n], root mean square.
    """

    candidate: NDArray[np.int64]
    log10_likelihood: NDArray[np.float64]
    support: NDArray[np.int64]
    log10_spare: NDArray[np.float64]
    mapq: NDArray[np.float64]


@kernel("int64(int64, int64, int64, int64[::1], uint32[::1])")
def query_index(position: Any, start: Any, first_base: Any, operations: Any, cigar: Any) -> Any:
    """Index of the base aligned to a reference position, -1 if the read has none there.

    operations: int64 [2], the read's range in `cigar`.
    """
    p, q = start, first_base
    for c in range(operations[0], operations[1]):
        op, l = np.int64(cigar[c] & np.uint32(15)), np.int64(cigar[c] >> np.uint32(4))
        if op == 0 or op == 7 or op == 8:
            if position < p + l:
                return q + position - p
            p += l
            q += l
        elif op == 1 or op == 4:
            q += l
        elif op == 2 or op == 3:
            if position < p + l:
                return -1
            p += l
    return -1


@kernel(
    "void(int64, int64[::1], int64[::1], int64[::1], uint8[::1], uint8[::1], int64[::1], int64[::1], int64, uint8[::1],"
    " uint16[::1], int64[::1], uint8[::1], uint8[::1], int64[::1], uint32[::1], int32[::1],"
    " float64[:, ::1], int64[:, :, ::1], float64[:, ::1], float64[::1])"
)
def _pileup(
    ploidy: Any,
    chosen: Any,
    positions: Any,
    sequence_offset: Any,
    sequence: Any,
    ref: Any,
    starts: Any,
    stops: Any,
    max_span: Any,
    mapq: Any,
    flag: Any,
    base_offset: Any,
    bases: Any,
    qualities: Any,
    cigar_offset: Any,
    cigar: Any,
    mate: Any,
    likelihood: Any,
    support: Any,
    spare: Any,
    rms: Any,
) -> None:
    for k in range(len(chosen)):
        c = chosen[k]
        p = positions[c]
        ref_base, alt_base = ref[p], sequence[sequence_offset[c]]
        likelihood[k, :] = 0.0
        support[k, :, :] = 0
        spare[k, :] = 0.0
        first = np.searchsorted(starts, p - max_span)
        last = np.searchsorted(starts, p + 1)
        squares, n_reads = 0.0, 0
        for i in range(first, last):
            if stops[i] <= p:
                continue
            n_reads += 1
            squares += float(mapq[i]) * float(mapq[i])
            m = np.int64(mate[i])
            if 0 <= m < i and stops[m] > p and starts[m] <= p:
                continue  # counted with its mate
            log_ref, log_alt, log_other = 0.0, 0.0, 0.0
            n_seen = 0
            for side in range(2):
                r: Any = i
                if side == 1:
                    if m <= i or starts[m] > p or stops[m] <= p:
                        break
                    r = m
                q = query_index(p, starts[r], base_offset[r], cigar_offset[r : r + 2], cigar)
                if q < 0 or bases[q] > 3:
                    continue
                n_seen += 1
                quality: Any = max(6, min(np.int64(qualities[q]), min(max(np.int64(mapq[r]), 3), 60)))
                e = 10.0 ** (-0.1 * quality)
                misplaced = max(10.0 ** (-float(mapq[r]) / 10.0), 1e-05)
                fits = 0.0  # log10 of (1 - misplaced) x 1 + misplaced
                not_fits = np.log10((1.0 - misplaced) * e / 3.0 / (1.0 - e) + misplaced)
                if bases[q] == ref_base:
                    log_ref += fits
                    log_alt += not_fits
                    log_other += not_fits
                elif bases[q] == alt_base:
                    log_ref += not_fits
                    log_alt += fits
                    log_other += not_fits
                else:
                    log_ref += not_fits
                    log_alt += not_fits
                    log_other += fits
            if n_seen == 0:
                continue
            likelihood[k, 0] += log_ref
            likelihood[k, ploidy] += log_alt
            top = max(log_ref, log_alt)
            from_ref, from_alt = 10.0 ** (log_ref - top), 10.0 ** (log_alt - top)
            for copies in range(1, ploidy):
                mixed = ((ploidy - copies) * from_ref + copies * from_alt) / ploidy
                likelihood[k, copies] += top + np.log10(mixed)
            share = 1.0 / ploidy
            spare[k, 0] += np.log10((1.0 - share) + share * 10.0 ** (log_other - log_ref))
            spare[k, 1] += np.log10((1.0 - share) + share * 10.0 ** (log_other - log_alt))
            which = 2
            if log_ref - log_alt > 0.5:
                which = 0
            elif log_alt - log_ref > 0.5:
                which = 1
            support[k, which, 1 if np.int64(flag[i]) & 16 else 0] += 1
        rms[k] = np.sqrt(squares / max(1, n_reads))


def pileup_snps(
    chosen: NDArray[np.int64], candidates: Candidates, reads: Reads, ref: NDArray[np.uint8], *, ploidy: int = 2
) -> SnpCalls:
    """Genotype likelihoods of the candidate SNPs numbered `chosen`, where the genome has `ploidy` copies."""
    n = len(chosen)
    calls = SnpCalls(chosen, np.empty((n, ploidy + 1)), np.empty((n, 3, 2), np.int64), np.empty((n, 2)), np.empty(n))
    _pileup(
        ploidy, chosen, candidates.start, candidates.sequence_offset, candidates.sequence, ref, reads.start, reads.stop,
        reads.max_span, reads.mapq, reads.flag, reads.base_offset, reads.bases, reads.qualities,
        reads.cigar_offset, reads.cigar, reads.mate, calls.log10_likelihood, calls.support, calls.log10_spare,
        calls.mapq,
    )  # fmt: skip
    return calls
