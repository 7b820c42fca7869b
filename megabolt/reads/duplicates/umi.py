# SPDX-License-Identifier: Apache-2.0
"""UMIs that are errors of more frequent ones, among templates with the same ends.

In: rows of some partitions (`duplicates/groups.py`). Out: the same rows, each with the UMI that its own stands for;
after that, templates are copies only if these are equal.

The method is the directional one of UMI-tools (Smith, Heger, Sudbery, Genome Research 27, 2017): a UMI of n copies
takes in one of m copies that differs in one base if n >= 2 m - 1, and what this one can take in. The most frequent
UMI begins, of equally frequent ones the first by code. An N differs from every base, not from an N at the same
position. Of lone reads with the same end, the pairs that have this end count as well, so that a lone read joins
their UMIs. UMIs without a code of bases (see `duplicates/umi_tags.py`) take in nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import callee, inline, kernel

U = np.uint64
_END = (U(1) << U(48)) - U(1)
_MARKER = U(4) << U(16)
_HAS_N, _HASHED = U(1) << U(62), U(1) << U(63)
_N_SHIFT = U(57)
_BASES = (U(1) << U(57)) - U(1)


def join_umis(rows: NDArray[np.uint64], bounds: NDArray[np.int64], pairs: bool) -> None:
    """Replace the UMIs of rows in place; releases the GIL.

    Parameters
    ----------
    rows, bounds
        As `RowStore.take` gives them, rows with UMIs.
    pairs
        Whether they are rows of pairs; otherwise of lone reads and markers.
    """
    largest = int(np.diff(bounds).max(initial=1))
    size = max(16, 1 << (2 * largest - 1).bit_length())
    heads, table = np.empty(size, np.int32), np.empty(size, np.int32)
    following = np.empty(len(rows), np.int32)
    work, umis = np.empty((4, largest), np.int32), np.empty(largest, np.uint64)
    _join(rows, bounds, pairs, heads, following, table, work, np.empty(largest, np.int64), umis)


# --- kernels ---


@inline
def _mix(first: Any, second: Any) -> Any:
    """64-bit hash of two words (the finaliser of SplitMix64 over their combination)."""
    x = first * U(0x9E3779B97F4A7C15) ^ (second + U(0x7F4A7C159E3779B9)) * U(0xC2B2AE3D27D4EB4F)
    x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@callee
def _slot_of(umi: Any, table: NDArray[np.int32], mask: Any, umis: NDArray[np.uint64]) -> Any:
    """Where the table has a UMI, or the free place for it."""
    slot = _mix(umi, U(0)) & mask
    while table[slot] >= 0 and umis[U(table[slot])] != umi:
        slot = (slot + U(1)) & mask
    return slot


@inline
def _length(umi: Any) -> Any:
    """Bases of a UMI that is not hashed."""
    n = 0
    rest = (umi & _BASES) >> U(2)
    while rest != U(0):
        rest >>= U(2)
        n += 1
    return n


@inline
def _neighbour(umi: Any, position: Any, k: Any) -> Any:
    """Number k of 0..3 of the UMIs that differ at a position; itself where there are fewer."""
    shift = U(2 * position)
    if umi & _HAS_N:
        at = (umi >> _N_SHIFT) & U(31)
        if at == U(position):
            return (umi & _BASES) | (U(k) << shift)  # any base for the N
        return umi if k == 0 else umi ^ (U(k) << shift)
    if k == 0:
        return (umi & ~(U(3) << shift)) | _HAS_N | (U(position) << _N_SHIFT)
    return umi ^ (U(k) << shift)


@callee
def _sort_nodes(order: NDArray[np.int32], n: Any, counts: NDArray[np.int64], umis: NDArray[np.uint64]) -> None:
    """By falling count, then by code (Shell's method)."""
    gap = np.int64(1)
    while 3 * gap + 1 < n:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            moved = order[U(i)]
            count, umi = counts[U(moved)], umis[U(moved)]
            j = np.int64(i)
            while j >= gap:
                above = U(order[U(j - gap)])
                if counts[above] > count or (counts[above] == count and umis[above] < umi):
                    break
                order[U(j)] = order[U(j - gap)]
                j -= gap
            order[U(j)] = moved
        gap //= 3


@callee
def _cluster(
    n: Any,
    table: NDArray[np.int32],
    mask: Any,
    counts: NDArray[np.int64],
    umis: NDArray[np.uint64],
    order: NDArray[np.int32],
    leader: NDArray[np.int32],
    queue: NDArray[np.int32],
) -> None:
    """leader = the UMI that stands for each of n different ones."""
    for node in range(n):
        order[U(node)] = np.int32(node)
        leader[U(node)] = np.int32(-1)
    _sort_nodes(order, n, counts, umis)
    for s in range(n):
        first = order[U(s)]
        if leader[U(first)] >= 0:
            continue
        leader[U(first)] = first
        queue[0] = first
        filled = 1
        done = 0
        while done < filled:
            taker = U(queue[U(done)])
            done += 1
            umi = umis[taker]
            if umi == U(0) or umi & _HASHED:
                continue
            for position in range(_length(umi)):
                for k in range(4):
                    other = table[_slot_of(_neighbour(umi, position, k), table, mask, umis)]
                    if other >= 0 and leader[U(other)] < 0 and counts[taker] >= 2 * counts[U(other)] - 1:
                        leader[U(other)] = first
                        queue[U(filled)] = other
                        filled += 1


@kernel(
    "void(uint64[:, ::1], int64[::1], boolean, int32[::1], int32[::1], int32[::1], int32[:, ::1], int64[::1],"
    " uint64[::1])"
)
def _join(
    rows: NDArray[np.uint64],
    bounds: NDArray[np.int64],
    pairs: Any,
    heads: NDArray[np.int32],
    following: NDArray[np.int32],
    table: NDArray[np.int32],
    work: NDArray[np.int32],
    counts: NDArray[np.int64],
    umis: NDArray[np.uint64],
) -> None:
    """See `join_umis`. heads: table of groups; following: next row of a group; table: of the group's UMIs."""
    order, leader, queue, node_of = work[0], work[1], work[2], work[3]
    upper = _END if pairs else U(0)
    for k in range(len(bounds) - 1):
        begin, end = bounds[k], bounds[k + 1]
        size = np.int64(16)
        while size < 2 * (end - begin):
            size *= 2
        for s in range(U(size)):
            heads[s] = np.int32(-1)
        for i in range(U(begin), U(end)):
            slot = _mix(rows[i, 0], rows[i, 1] & upper) & U(size - 1)
            while heads[slot] >= 0:
                j = U(heads[slot])
                if rows[i, 0] == rows[j, 0] and (rows[i, 1] ^ rows[j, 1]) & upper == U(0):
                    break
                slot = (slot + U(1)) & U(size - 1)
            following[i] = heads[slot]
            heads[slot] = np.int32(i)
        for s in range(U(size)):
            if heads[s] < 0 or following[U(heads[s])] < 0:
                continue
            members = 0
            row = np.int64(heads[s])
            while row >= 0:
                members += 1
                row = np.int64(following[U(row)])
            room = np.int64(4)
            while room < 2 * members:
                room *= 2
            for t in range(U(room)):
                table[t] = np.int32(-1)
            n = 0
            members = 0
            row = np.int64(heads[s])
            while row >= 0:
                umi = rows[U(row), 4]
                at = _slot_of(umi, table, U(room - 1), umis)
                if table[at] < 0:
                    table[at] = np.int32(n)
                    umis[U(n)] = umi
                    counts[U(n)] = 0
                    n += 1
                node_of[U(members)] = table[at]
                members += 1
                is_marker = rows[U(row), 2] & _MARKER != U(0)
                counts[U(table[at])] += np.int64(rows[U(row), 1]) if is_marker and not pairs else 1
                row = np.int64(following[U(row)])
            if n == 1:
                continue
            _cluster(n, table, U(room - 1), counts, umis, order, leader, queue)
            members = 0
            row = np.int64(heads[s])
            while row >= 0:
                rows[U(row), 4] = umis[U(leader[U(node_of[U(members)])])]
                members += 1
                row = np.int64(following[U(row)])
