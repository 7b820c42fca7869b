# SPDX-License-Identifier: Apache-2.0
"""Windows: stretches whose candidates are explained together.

In: `Candidates`, clips, tandem tracts of the reference. Out: `Windows`. Next: `haplotypes.py` for windows with
several candidates or an indel, `isolated.py` for lone SNPs.

Windows are decided from the data around them and from genome coordinates, never from where a chunk begins: the
greedy merge starts anew after every gap, and in chains that fill a whole grid cell at every multiple of GRID.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.compute.jit import kernel

U = np.uint64
#: Bases of the haplotype beyond the part that reads are trimmed to, so that trimmed reads with indels still fit.
HAP_FLANK = 15
#: Genome grid at which endless chains of candidates are cut.
GRID = 512
#: Candidates of one window are bits of one word.
MAX_CANDIDATES = 60
#: A SNP that touches a tandem tract of this many bases is not isolated: reads that slipped there may show the
#: SNP's other base.
SLIPPING_TRACT = 6
#: Nor is one that reads show an indel so near, if they are at least one in GAP_SHARE: their base may as well stand
#: for the inserted one.
GAP_REACH, GAP_SHARE = 5, 20
#: An indel's tandem extent is not followed further than this.
MAX_EXTENT = 200


@dataclass(frozen=True)
class Windows:
    """Windows in local coordinates, ascending by start.

    start, stop: int64 [n], what the candidates can change (an indel's whole repeat).
    trim_start, trim_stop: int64 [n], reads are cut to this; hap_start, hap_stop: int64 [n], haplotypes cover this.
    candidate_offset: int64 [n + 1] into candidate (int64, ascending in each window).
    isolated: bool [n], one SNP with no indel, tandem tract or pile-up of clips near it: needs no haplotypes.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    trim_start: NDArray[np.int64]
    trim_stop: NDArray[np.int64]
    hap_start: NDArray[np.int64]
    hap_stop: NDArray[np.int64]
    candidate_offset: NDArray[np.int64]
    candidate: NDArray[np.int64]
    isolated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.start)


@kernel(
    "void(uint8[::1], int64, int64[::1], int64[::1], uint8[::1], int64[::1], int64[::1], uint8[::1], int64[:, ::1])"
)
def _extents(
    ref: NDArray[np.uint8],
    n_ref: int,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    sequence_offset: NDArray[np.int64],
    sequence: NDArray[np.uint8],
    extent: NDArray[np.int64],
) -> None:
    """Reference stretch over which each candidate could stand as well: int64 [n, 2]."""
    for c in range(len(starts)):
        p, e, l = starts[c], stops[c], lengths[c]
        i = 0
        if kinds[c] == 0:
            extent[c, 0], extent[c, 1] = p, e
            continue
        if kinds[c] == 1:
            q = sequence_offset[c]
            while p + i < n_ref and i < 200 and ref[p + i] == sequence[q + i % l]:
                i += 1
        else:
            while e + i < n_ref and i < 200 and ref[p + i] == ref[e + i]:
                i += 1
        extent[c, 0], extent[c, 1] = p - 1, e + i + 1


@kernel("int64(int64[:, ::1], int64[::1], int64, int64, int64, int64[:, ::1])")
def _merge(
    extent: NDArray[np.int64],
    order: NDArray[np.int64],
    origin: int,
    gap: int,
    max_width: int,
    windows: NDArray[np.int64],
) -> int:
    """Merge extents, taken in `order`, that are no further apart than `gap`; rows (start, stop, first, last + 1)."""
    n = 0
    chain_start = np.int64(0)
    chain_stop = np.int64(-1000000)
    last_cell = np.int64(-1)
    for k in range(len(order)):
        x, y = extent[order[k], 0], extent[order[k], 1]
        cell = (x + origin) // 512
        fresh = x - chain_stop > gap
        if fresh:
            chain_start, chain_stop = x, y
        chain_stop = max(chain_stop, y)
        # a chain that began before the previous cell is cut where it enters a new one: what lies more than
        # two cells back cannot matter
        cut = cell != last_cell and (chain_start + origin) // 512 < cell - 1
        last_cell = cell
        if n > 0 and not fresh and not cut:
            start, stop = windows[n - 1, 0], windows[n - 1, 1]
            first = windows[n - 1, 2]
            if x - stop <= gap and max(y, stop) - start <= max_width and k - first < 60:
                windows[n - 1, 1] = max(stop, y)
                windows[n - 1, 3] = k + 1
                continue
        windows[n, 0], windows[n, 1], windows[n, 2], windows[n, 3] = x, y, k, k + 1
        n += 1
    return n


@kernel(
    "void(int64[:, ::1], int64[::1], uint8[::1], int64[::1], int64[::1], int64[:, ::1], int32[::1], int32[::1],"
    " int32[::1], int64, int64, int64[:, ::1], boolean[::1])"
)
def _edges(
    windows: NDArray[np.int64],
    order: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    indels: NDArray[np.int64],
    depth: NDArray[np.int32],
    clips: NDArray[np.int32],
    tract: NDArray[np.int32],
    pad: int,
    max_pad: int,
    trim: NDArray[np.int64],
    isolated: NDArray[np.bool_],
) -> None:
    """Where reads are trimmed, and which windows are isolated SNPs."""
    n_ref = len(depth)
    near_indel = np.zeros(n_ref + 1, np.bool_)
    for c in range(len(kinds)):
        if kinds[c] != 0:
            for x in range(max(0, starts[c] - 15), min(n_ref, stops[c] + 15)):
                near_indel[x] = True
    gaps = np.zeros(n_ref + 1, np.int32)  # reads with an indel within GAP_REACH
    for e in range(len(indels)):
        stop = indels[e, 0] + (indels[e, 2] if indels[e, 1] == 2 else 0)
        for x in range(max(0, indels[e, 0] - 5), min(n_ref, stop + 5)):
            gaps[x] += 1
    for w in range(len(windows)):
        start, stop = windows[w, 0], windows[w, 1]
        first, last = windows[w, 2], windows[w, 3]
        any_indel = False
        for k in range(first, last):
            any_indel = any_indel or kinds[order[k]] != 0
        clipped = False
        for x in range(max(0, start - 30), min(n_ref, stop + 30)):
            clipped = clipped or (clips[x] >= 3 and 10 * clips[x] >= depth[x])
        p = starts[order[first]]
        slips = gaps[p] > 0 and 20 * gaps[p] >= depth[p]
        for x in range(max(0, start - 1), min(n_ref, stop + 1)):
            slips = slips or tract[x] >= 6
        isolated[w] = last - first == 1 and not any_indel and not clipped and not near_indel[p] and not slips
        a, b = start - pad, stop + pad
        if any_indel or slips:
            # a read that ends inside a repeat fits any number of its units: the edges leave tandem tracts
            while a > start - max_pad:
                inside = False
                for x in range(max(0, a), min(n_ref, max(0, a) + 12)):
                    inside = inside or tract[x] >= 9
                if not inside:
                    break
                a -= 10
            while b < stop + max_pad:
                inside = False
                for x in range(max(0, min(n_ref, b) - 12), min(n_ref, b)):
                    inside = inside or tract[x] >= 9
                if not inside:
                    break
                b += 10
        trim[w, 0], trim[w, 1] = a, b


def build_windows(
    candidates: Candidates,
    ref: NDArray[np.uint8],
    n_ref: int,
    origin: int,
    indels: NDArray[np.int64],
    depth: NDArray[np.int32],
    clips: NDArray[np.int32],
    tract: NDArray[np.int32],
    *,
    gap: int,
    max_width: int,
    pad: int,
    max_pad: int,
) -> Windows:
    """Group candidates into windows.

    Parameters
    ----------
    ref, n_ref
        uint8 codes of the reference segment, its length without the bases of padding.
    origin
        Contig position of local position 0.
    indels, depth, clips
        Of `Evidence`.
    tract
        int32 [>= n_ref], length of the tandem tract over each base.
    gap, max_width
        Extents at most `gap` apart share a window, unless it would grow beyond `max_width`.
    pad, max_pad
        Bases that trimmed reads keep on each side, before and after the edges leave tandem tracts.
    """
    n = len(candidates)
    extent = np.empty((n, 2), np.int64)
    _extents(
        ref, n_ref, candidates.start, candidates.stop, candidates.kind, candidates.length,
        candidates.sequence_offset, candidates.sequence, extent,
    )  # fmt: skip
    order = np.lexsort((np.arange(n), extent[:, 1], extent[:, 0])).astype(np.int64)
    windows = np.empty((n, 4), np.int64)
    windows = windows[: _merge(extent, order, origin, gap, max_width, windows)]
    trim = np.empty((len(windows), 2), np.int64)
    isolated = np.empty(len(windows), np.bool_)
    _edges(
        windows, order, candidates.kind, candidates.start, candidates.stop, indels, depth[:n_ref], clips[:n_ref],
        tract, pad, max_pad, trim, isolated,
    )  # fmt: skip
    window_of = np.repeat(np.arange(len(windows)), windows[:, 3] - windows[:, 2])
    member = order[np.lexsort((order, window_of))] if n else order
    return Windows(
        start=windows[:, 0].copy(),
        stop=windows[:, 1].copy(),
        trim_start=trim[:, 0].copy(),
        trim_stop=trim[:, 1].copy(),
        hap_start=np.maximum(0, trim[:, 0] - HAP_FLANK),
        hap_stop=np.minimum(n_ref, trim[:, 1] + HAP_FLANK),
        candidate_offset=np.concatenate([[0], windows[:, 3]]).astype(np.int64),
        candidate=member,
        isolated=isolated,
    )
