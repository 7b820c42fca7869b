# SPDX-License-Identifier: Apache-2.0
"""Banded affine alignment on the processor: one job per int16 SIMD lane, then a scalar walk back per job.

A row of the band is indexed by k = (target index - query index) - diagonal + band, 0 <= k <= 2 * band, so all
lanes share the loops whatever their diagonals. In these coordinates (i-1, j-1) is (i-1, k), (i-1, j) is
(i-1, k+1) and (i, j-1) is (i, k-1). The forward pass keeps nothing but H of every cell: the walk back finds
again which of M, E and F made it, and a gap is found by its length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import load_u64
from megabolt.compute.jit import kernel
from megabolt.compute.simd import (
    LANES_I16,
    aligned_empty,
    load,
    maximum,
    minimum,
    saturating_sub,
    splat,
    store,
    where,
)

if TYPE_CHECKING:
    from megabolt.compute.banded_affine import AffineJobs, AffineResult, AffineScores

W = LANES_I16
U = np.uint64
MAX_CIGAR = 64
IS_M, IS_I, IS_D = 0, 1, 2
#: Below every score of a cell inside band and target (at worst -1000 - 15 - 15 * 257), and far enough above
#: -32768 that nothing wraps: cells outside the target get this as their pair score.
FORBIDDEN = -16384
#: N of a target; N of a query stays 4, so that the two are never equal.
TARGET_N = 5
#: The bit that only N has, in each of eight base codes.
ANY_N = U(0x0404040404040404)


def align(jobs: AffineJobs, scores: AffineScores) -> AffineResult:
    """See `megabolt.compute.banded_affine.align`."""
    from megabolt.compute.banded_affine import AffineResult

    return AffineResult(
        *align_arrays(
            jobs.query,
            jobs.query_offsets,
            jobs.target,
            jobs.target_offsets,
            jobs.diagonal,
            jobs.band,
            scores.as_array(),
        )
    )


def align_arrays(
    query: NDArray[np.uint8],
    query_offsets: NDArray[np.int64],
    target: NDArray[np.uint8],
    target_offsets: NDArray[np.int64],
    diagonal: NDArray[np.int32],
    band: int,
    scores: NDArray[np.int16],
) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """`align` for hot loops: no checks, thread-safe, the GIL is free meanwhile.

    Parameters
    ----------
    query, query_offsets, target, target_offsets, diagonal, band
        The fields of `AffineJobs`.
    scores
        int16 [5]: match, mismatch, gap_open, gap_extend, clip (`AffineScores.as_array()`).

    Returns
    -------
    score, query_start, query_stop, target_start, target_stop (int32 [n]), cigar (uint32 [n, 64]), n_cigar
    (int32 [n]): the fields of `AffineResult`, in its order.
    """
    n = len(diagonal)
    ends = np.zeros((6, n), np.int32)
    cigar = np.zeros((n, MAX_CIGAR), np.uint32)
    if n:
        query_length = np.diff(query_offsets)
        order = np.argsort(query_length, kind="stable")  # lanes of a group have the same number of rows, or nearly
        longest = int(query_length[order[-1]])
        width = 2 * int(band) + 2
        H = aligned_empty((longest + 1) * width * W, np.int16)
        small = aligned_empty((longest + (longest + width) + width + 3) * W, np.int16)
        _align(query, query_offsets, target, target_offsets, diagonal, band, scores, order, H, small, ends, cigar)
    return ends[0], ends[1], ends[2], ends[3], ends[4], cigar, ends[5]


@kernel("void(uint8[::1], uint8[::1], int64, int64, int64, int64, int16[::1], int16[::1])")
def _pack_lane(
    query: NDArray[np.uint8],
    target: NDArray[np.uint8],
    shift: Any,
    n_rows: Any,
    n_places: Any,
    lane: Any,
    Q: NDArray[np.int16],
    T: NDArray[np.int16],
) -> None:
    """Write one job's bases into its lane; what lies beyond the query is N, beyond the target FORBIDDEN."""
    n = len(query)
    at = U(lane)
    for i in range(n):
        Q[at] = query[i]
        at += U(W)
    for _ in range(n, n_rows):
        Q[at] = 4
        at += U(W)
    inside = min(max(-shift, 0), n_places)
    outside = max(inside, min(len(target) - shift, n_places))
    at = U(lane)
    for _ in range(inside):
        T[at] = FORBIDDEN
        at += U(W)
    if outside > inside:
        for code in target[inside + shift : outside + shift]:
            T[at] = code if code < 4 else TARGET_N
            at += U(W)
    for _ in range(outside, n_places):
        T[at] = FORBIDDEN
        at += U(W)


@kernel("int64(uint8[::1], uint8[::1], int64, int64, int16[::1])")
def _pair_score(
    query: NDArray[np.uint8], target: NDArray[np.uint8], i: Any, offset: Any, scores: NDArray[np.int16]
) -> Any:
    """s of query base i (from 1) and target base i + offset."""
    base = query[U(i - 1)]
    same = base == target[U(i - 1 + offset)] and base < 4
    return np.int64(scores[0]) if same else -np.int64(scores[1])


@kernel("UniTuple(int64, 2)(int16[::1], int64, int64, int64, int64, int64, int64, int64)")
def _gap_to(
    H: NDArray[np.int16], row_size: Any, cell: Any, i: Any, k: Any, band: Any, opening: Any, extend: Any
) -> Any:
    """The gap, deletions first and shortest first, that made H of a cell which M did not make."""
    h = np.int64(H[U(cell)])
    for length in range(1, k + 1):
        if np.int64(H[U(cell - length * W)]) - opening - length * extend == h:
            return IS_D, length
    for length in range(1, min(i - 1, 2 * band - k) + 1):
        if np.int64(H[U(cell - length * (row_size - W))]) - opening - length * extend == h:
            return IS_I, length
    return IS_M, 1  # not reached: one of the three made it


@kernel(
    "void(uint8[::1], uint8[::1], int64, int64, int16[::1], int16[::1], int64, int64, int64, int64, int32[:],"
    "uint32[::1])"
)
def _trace_lane(
    query: NDArray[np.uint8],
    target: NDArray[np.uint8],
    diagonal: Any,
    band: Any,
    scores: NDArray[np.int16],
    H: NDArray[np.int16],
    row_size: Any,
    lane: Any,
    best: Any,
    best_row: Any,
    ends: NDArray[np.int32],
    cigar: NDArray[np.uint32],
) -> None:
    """Walk back from the best end of one job. Rows i from 1; cell (i, k) sees target base i + k + shift."""
    match = np.int64(scores[0])
    opening, extend, clip = np.int64(scores[2]), np.int64(scores[3]), np.int64(scores[4])
    n, shift = len(query), diagonal - band
    total = best if best_row == n else best + clip  # M(i, j) of the end
    if best_row == 0 or total < FORBIDDEN // 2:  # the band misses the target
        return
    i, k = best_row, max(0, 1 - best_row - shift)
    at = i * row_size + k * W + lane  # of cell (i, k) in H
    while True:  # (5): the leftmost end of the best row
        if H[U(at)] >= total:
            start = 0 if i == 1 else -clip
            if _pair_score(query, target, i, k + shift, scores) + max(start, H[U(at - row_size)]) == total:
                break
        k += 1
        at += W
    target_stop = i + k + shift
    n_runs, operation, run = 0, IS_M, 1
    while True:  # cell (i, k) is an aligned pair of bases
        h = np.int64(H[U(at - row_size)])
        start = 0 if i == 1 else -clip
        if start >= h:
            break
        # Eight equal bases that earned eight matches: nothing but M can have made any of the eight cells.
        if i > 9 and H[U(at - 9 * row_size)] == h - 8 * match and h - 8 * match > -clip:
            bases = load_u64(query, i - 9)
            if bases == load_u64(target, i - 9 + k + shift) and bases & ANY_N == U(0) and operation == IS_M:
                run += 8
                i -= 8
                at -= 8 * row_size
                continue
        i -= 1
        at -= row_size
        while True:  # what made h, the H of cell (i, k)?
            start = 0 if i == 1 else -clip
            pair_score = _pair_score(query, target, i, k + shift, scores)
            if h == pair_score + max(start, np.int64(H[U(at - row_size)])):
                step, length = IS_M, 1
            else:
                step, length = _gap_to(H, row_size, at, i, k, band, opening, extend)
            if step == operation:
                run += length
            else:
                if n_runs < MAX_CIGAR:
                    cigar[U(MAX_CIGAR - 1 - n_runs)] = np.uint32(run << 4 | operation)
                n_runs += 1
                operation, run = step, length
            if step == IS_M:
                break
            if step == IS_D:
                k -= length
                at -= length * W
            else:
                i -= length
                k += length
                at -= length * (row_size - W)
            h = np.int64(H[U(at)])
    score = total - (0 if i == 1 else -clip)
    if score <= 0:
        cigar[:] = 0
        return
    if n_runs < MAX_CIGAR:
        cigar[U(MAX_CIGAR - 1 - n_runs)] = np.uint32(run << 4 | operation)
    n_runs += 1
    ends[0] = score
    ends[1], ends[2] = i - 1, best_row
    ends[3], ends[4] = i - 1 + k + shift, target_stop
    if n_runs > MAX_CIGAR:
        ends[5] = -1
        cigar[:] = 0
        return
    ends[5] = n_runs
    gap = MAX_CIGAR - n_runs  # the runs were written from the right end of the row
    if gap > 0:
        for c in range(n_runs):
            cigar[U(c)] = cigar[U(c + gap)]
            cigar[U(c + gap)] = 0


@kernel(
    "void(uint8[::1], int64[::1], uint8[::1], int64[::1], int32[::1], int64, int16[::1], int64[::1],"
    "int16[::1], int16[::1], int32[:,::1], uint32[:,::1])"
)
def _align(
    query: NDArray[np.uint8],
    query_offsets: NDArray[np.int64],
    target: NDArray[np.uint8],
    target_offsets: NDArray[np.int64],
    diagonal: NDArray[np.int32],
    band: Any,
    scores: NDArray[np.int16],
    order: NDArray[np.int64],
    H: NDArray[np.int16],
    small: NDArray[np.int16],
    ends: NDArray[np.int32],
    cigar: NDArray[np.uint32],
) -> None:
    """All jobs, W at a time. H: [longest query + 1, 2 * band + 2, W]; small: room for the other vectors."""
    match, mismatch = splat(H, scores[0]), splat(H, -scores[1])
    open_extend, extend = splat(H, scores[2] + scores[3]), splat(H, scores[3])
    clip, zero = splat(H, scores[4]), splat(H, 0)
    never, forbidden = splat(H, -FORBIDDEN), splat(H, FORBIDDEN)
    n_cells = 2 * band + 1
    row_size = (n_cells + 1) * W  # the spare cell at the right end stays forbidden
    longest = len(H) // row_size - 1
    Q = small[: longest * W]  # base i of each query
    T = small[longest * W : (2 * longest + n_cells + 1) * W]  # target base that cell (i, k) sees: at i + k
    F = small[(2 * longest + n_cells + 1) * W : (2 * longest + 2 * n_cells + 2) * W]  # row i-1, then row i
    lanes = small[(2 * longest + 2 * n_cells + 2) * W :]  # query length, best end, and its row
    for k in range(n_cells + 1):
        store(H, k * W, forbidden)  # row 0
    n_jobs = len(order)
    for first in range(0, n_jobs, W):
        n_lanes: Any = min(W, n_jobs - first)
        n_rows = query_offsets[order[first + n_lanes - 1] + 1] - query_offsets[order[first + n_lanes - 1]]
        for lane in range(W):
            if lane < n_lanes:
                job = order[first + lane]
                query_start, target_start = query_offsets[job], target_offsets[job]
                n, m = query_offsets[job + 1] - query_start, target_offsets[job + 1] - target_start
                shift = np.int64(diagonal[job]) - band  # x = i + k sees target base x + shift
            else:  # a spare lane: nothing but forbidden cells
                query_start = target_start = n = m = shift = np.int64(0)
            lanes[U(lane)] = n
            _pack_lane(query[query_start : query_start + n], target[target_start : target_start + m], shift,
                       n_rows, n_rows + n_cells, lane, Q, T)  # fmt: skip
        for k in range(n_cells + 1):
            store(F, k * W, forbidden)
        length = load(lanes, 0)
        best, best_row = splat(H, -32768), zero
        start = zero  # start(1); then -clip
        for i in range(1, n_rows + 1):
            above, here = (i - 1) * row_size, i * row_size
            base = load(Q, (i - 1) * W)
            h_diagonal = load(H, above)  # H(i-1, j-1)
            e = row_best = forbidden
            for k in range(n_cells):
                o = k * W
                h_up, f_up = load(H, above + o + W), load(F, o + W)  # of (i-1, j)
                t = load(T, (i - 1) * W + o)
                pair_score = where(base == t, match, minimum(mismatch, t))  # t is FORBIDDEN outside the target
                m_ij = pair_score + maximum(start, h_diagonal)  # (1)
                f = maximum(h_up - open_extend, f_up - extend)  # (3)
                m_or_f = maximum(m_ij, f)
                store(H, here + o, maximum(m_or_f, e))  # (4)
                store(F, o, f)
                # (2) for the next cell. Opening from E never pays, so H without E will do: a shorter chain
                e = maximum(m_or_f - open_extend, e - extend)
                h_diagonal = h_up
                row_best = maximum(row_best, m_ij)
            store(H, here + n_cells * W, forbidden)
            row = splat(H, i)
            stop = where(length > row, clip, where(length == row, zero, never))
            end = saturating_sub(row_best, stop)
            better = end > best  # (5): the first row of the best ones
            best, best_row = where(better, end, best), where(better, row, best_row)
            start = zero - clip
        store(lanes, W, best)
        store(lanes, 2 * W, best_row)
        for lane in range(n_lanes):
            job = order[first + lane]
            _trace_lane(
                query[query_offsets[job] : query_offsets[job + 1]],
                target[target_offsets[job] : target_offsets[job + 1]],
                np.int64(diagonal[job]), band, scores, H, row_size, lane,
                np.int64(lanes[U(W + lane)]), np.int64(lanes[U(2 * W + lane)]), ends[:, job], cigar[job],
            )  # fmt: skip
