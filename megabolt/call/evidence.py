# SPDX-License-Identifier: Apache-2.0
"""One pass over the reads: depth, clips, mismatches and left-aligned indels.

In: `Reads`, reference segment. Out: `Evidence`. Next: `candidates.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.call.reads import Reads
from megabolt.compute.bits import load_u64, trailing_zeros
from megabolt.compute.jit import kernel

U = np.uint64
SNP, INSERTION, DELETION = 0, 1, 2
#: Soft clips shorter than this are ends that happened to mismatch, not a sign of a long event.
MIN_CLIP = 6
#: An indel is not moved further left than this.
MAX_SHIFT = 1000


@dataclass(frozen=True)
class Evidence:
    """What the reads say against the reference, in local coordinates.

    depth: int32 [n_ref], reads with an aligned base; fragments: int32 [n_ref], templates (overlap counted once).
    clips: int32 [n_ref], soft clips of at least MIN_CLIP bases that begin or end at the position.
    snp_count: int32 [4 * n_ref], reads with each mismatching base (index 4 * position + code).
    mismatches: int32 [m, 2] (read, 4 * position + code), in read order.
    indels: int64 [k, 6] (position, kind, length, read, query index of the first inserted base, rotation):
    left-aligned, but at position 1 or later, as a VCF record needs a base before; an insertion stands before
    `position`, and its bases are to be rotated right by `rotation`.
    """

    depth: NDArray[np.int32]
    fragments: NDArray[np.int32]
    clips: NDArray[np.int32]
    snp_count: NDArray[np.int32]
    mismatches: NDArray[np.int32]
    indels: NDArray[np.int64]


@kernel(
    "void(uint8[::1], int64[::1], int64[::1], int64[::1], uint8[::1], uint8[::1], int64[::1], uint32[::1],"
    " int64, int32[::1], int32[::1], int32[::1], int32[:, ::1], int64[:, ::1], int64[::1])"
)
def _collect(
    ref: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    base_offset: NDArray[np.int64],
    bases: NDArray[np.uint8],
    qualities: NDArray[np.uint8],
    cigar_offset: NDArray[np.int64],
    cigar: NDArray[np.uint32],
    min_quality: int,
    depth_steps: NDArray[np.int32],
    clips: NDArray[np.int32],
    snp_count: NDArray[np.int32],
    mismatches: NDArray[np.int32],
    indels: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Events of all reads. counts: mismatches and indels met, which may exceed the room given for them."""
    n_mismatches = 0
    n_indels = 0
    for i in range(len(starts)):
        p, q = starts[i], base_offset[i]
        first, last = cigar_offset[i], cigar_offset[i + 1] - 1
        for c in range(first, last + 1):
            op, l = np.int64(cigar[c] & np.uint32(15)), np.int64(cigar[c] >> np.uint32(4))
            if op == 0 or op == 7 or op == 8:
                depth_steps[U(p)] += 1
                depth_steps[U(p + l)] -= 1
                for x0 in range(0, l, 8):
                    word = load_u64(bases, q + x0) ^ load_u64(ref, p + x0)
                    if l - x0 < 8:
                        word &= (U(1) << U(8 * (l - x0))) - U(1)
                    while word != U(0):
                        lane = trailing_zeros(word) >> 3
                        word &= ~(U(255) << U(8 * lane))
                        x = x0 + lane
                        b = np.int64(bases[U(q + x)])
                        if b < 4 and ref[U(p + x)] < 4 and np.int64(qualities[U(q + x)]) >= min_quality:
                            snp_count[U(4 * (p + x) + b)] += 1
                            if n_mismatches < len(mismatches):
                                mismatches[U(n_mismatches), U(0)] = np.int32(i)
                                mismatches[U(n_mismatches), U(1)] = np.int32(4 * (p + x) + b)
                            n_mismatches += 1
                p += l
                q += l
            elif op == 1:
                if first < c < last and p > 0:
                    s, k = p, 0
                    while s > 1 and k < 1000 and ref[s - 1] == bases[q + (l - 1 - (k % l))]:
                        s -= 1
                        k += 1
                    if n_indels < len(indels):
                        indels[n_indels, 0] = s
                        indels[n_indels, 1] = 1
                        indels[n_indels, 2] = l
                        indels[n_indels, 3] = i
                        indels[n_indels, 4] = q
                        indels[n_indels, 5] = k % l
                    n_indels += 1
                q += l
            elif op == 2:
                if first < c < last and p > 0:
                    s = p
                    while s > 1 and p - s < 1000 and ref[s - 1] == ref[s + l - 1]:
                        s -= 1
                    if n_indels < len(indels):
                        indels[n_indels, 0] = s
                        indels[n_indels, 1] = 2
                        indels[n_indels, 2] = l
                        indels[n_indels, 3] = i
                        indels[n_indels, 4] = q
                        indels[n_indels, 5] = 0
                    n_indels += 1
                p += l
            elif op == 4:
                if l >= 6:
                    clips[U(p)] += 1
                q += l
            elif op == 3:
                p += l
    counts[0] = n_mismatches
    counts[1] = n_indels


@kernel("void(int64[::1], int64[::1], int32[::1], int32[::1])")
def _fragment_steps(
    starts: NDArray[np.int64], stops: NDArray[np.int64], mate: NDArray[np.int32], steps: NDArray[np.int32]
) -> None:
    """Difference array of template depth: the spans of the reads, the overlap of mates once."""
    for i in range(len(starts)):
        begin = starts[i]
        m = np.int64(mate[i])
        if 0 <= m < i and stops[m] > begin:
            begin = min(stops[m], stops[i])
        steps[begin] += 1
        steps[stops[i]] -= 1


def collect_evidence(reads: Reads, ref: NDArray[np.uint8], n_ref: int, *, min_base_quality: int) -> Evidence:
    """Depth and events of a chunk.

    Parameters
    ----------
    ref, n_ref
        uint8 [n_ref + PADDING], codes of the reference segment; every read lies within n_ref.
    min_base_quality
        Mismatches of lower quality are not counted as candidates.
    """
    room_mismatches = max(4096, len(reads.bases) // 16)
    room_indels = max(4096, len(reads) // 8)
    counts = np.zeros(2, np.int64)
    while True:
        depth_steps, clips = np.zeros(n_ref + 1, np.int32), np.zeros(n_ref + 1, np.int32)
        snp_count = np.zeros(4 * n_ref, np.int32)
        mismatches = np.empty((room_mismatches, 2), np.int32)
        indels = np.empty((room_indels, 6), np.int64)
        _collect(
            ref, reads.start, reads.stop, reads.base_offset, reads.bases, reads.qualities, reads.cigar_offset,
            reads.cigar, min_base_quality, depth_steps, clips, snp_count, mismatches, indels, counts,
        )  # fmt: skip
        if counts[0] <= room_mismatches and counts[1] <= room_indels:
            break
        room_mismatches, room_indels = int(counts[0]), int(counts[1])
    steps = np.zeros(n_ref + 1, np.int32)
    _fragment_steps(reads.start, reads.stop, reads.mate, steps)
    return Evidence(
        depth=np.cumsum(depth_steps, dtype=np.int32)[:n_ref],
        fragments=np.cumsum(steps, dtype=np.int32)[:n_ref],
        clips=clips[:n_ref],
        snp_count=snp_count,
        mismatches=mismatches[: counts[0]],
        indels=indels[: counts[1]],
    )
