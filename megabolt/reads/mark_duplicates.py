# SPDX-License-Identifier: Apache-2.0
"""Which templates are copies of one molecule: decided once for the whole sample, by Picard's rules.

In: the signatures and quality sums collected by `reads/bins.py`. Out: a flag per template. Next: sorted blocks.

Pairs with both mates mapped are copies if both unclipped 5' ends, both strands and the library agree; the
pair with the highest sum of base qualities stays, the first of the input on a tie. A lone read, single or with an
unmapped mate, is a copy if any mate of a mapped pair has its end, or if a better read like it has. Unmapped reads
never are. Only primary alignments count; the other records of a read share its fate.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import NO_END
from megabolt.compute.bits import prefetch
from megabolt.compute.jit import inline, kernel

U = np.uint64
#: Bits of a signature's first word below the library.
LIBRARY_SHIFT = 48
_END_MASK = U((1 << LIBRARY_SHIFT) - 1)
#: Pairs per partition: its hash table (16 bytes a slot, half full) stays in a core's cache.
_PARTITION_PAIRS = 1 << 14


def mark_duplicates(
    signature: NDArray[np.uint64], quality_sum: NDArray[np.int32], *, threads: int = 1
) -> NDArray[np.uint8]:
    """Flags of the pairs and single reads that are duplicates.

    Parameters
    ----------
    signature
        uint64 [n, 2]: as in `RecordChunk`, the library's index (below 65535) in the top 16 bits of the first
        word; in the order of the input, which settles ties.
    quality_sum
        int32 [n].

    Returns
    -------
    uint8 [n]: 1 for a duplicate. The same for any number of threads.
    """
    duplicate = np.zeros(len(signature), np.uint8)
    _mark_pairs(signature, quality_sum, duplicate, threads)
    _mark_lone_reads(signature, quality_sum, duplicate)
    return duplicate


def _mark_pairs(
    signature: NDArray[np.uint64], quality_sum: NDArray[np.int32], duplicate: NDArray[np.uint8], threads: int
) -> None:
    n_partitions = 1
    while n_partitions * _PARTITION_PAIRS < len(signature):
        n_partitions *= 2
    bounds, order = _partition(signature, n_partitions, threads)

    def resolve(first: int, last: int) -> None:
        largest = int(np.diff(bounds[first : last + 1]).max(initial=1))
        size = 1 << (2 * largest - 1).bit_length()
        slots = np.zeros(size, np.uint64), np.zeros(size, np.int64)
        for k in range(first, last):
            slots[1].fill(-1)
            _resolve(order[bounds[k] : bounds[k + 1]], signature, quality_sum, *slots, duplicate)

    step = -(-n_partitions // (4 * threads))
    _side_by_side([(resolve, k, min(k + step, n_partitions)) for k in range(0, n_partitions, step)], threads)


def _partition(
    signature: NDArray[np.uint64], n_partitions: int, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounds of the partitions and the pairs in them, in input order; each thread has a stretch of the input."""
    n = len(signature)
    edges = [n * k // threads for k in range(threads + 1)]
    counts = np.zeros((threads, n_partitions), np.int64)
    order = np.empty(n, np.int64)
    stretches = list(zip(edges[:-1], edges[1:], counts, strict=True))
    _side_by_side([(_count, signature, NO_END, *stretch) for stretch in stretches], threads)
    # A partition's pairs come stretch after stretch; its first free places replace the counts.
    starts = np.cumsum(counts.T.ravel()).reshape(n_partitions, threads).T
    bounds = np.concatenate([np.zeros(1, np.int64), starts[-1]])
    counts[:] = starts - counts
    _side_by_side([(_distribute, signature, NO_END, *stretch, order) for stretch in stretches], threads)
    return bounds, order


def _side_by_side(calls: Sequence[tuple[Any, ...]], threads: int) -> None:
    """Run (function, argument, ...) each, on several threads."""
    if threads == 1:
        for function, *arguments in calls:
            function(*arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        for task in [pool.submit(*call) for call in calls]:
            task.result()


def _mark_lone_reads(
    signature: NDArray[np.uint64], quality_sum: NDArray[np.int32], duplicate: NDArray[np.uint8]
) -> None:
    lone = np.flatnonzero((signature[:, 1] == NO_END) & (signature[:, 0] != NO_END))
    if not len(lone):
        return
    ends = signature[lone, 0]
    best_first = np.lexsort((lone, -quality_sum[lone].astype(np.int64), ends))
    lone, ends = lone[best_first], ends[best_first]
    distinct, first, group = np.unique(ends, return_index=True, return_inverse=True)
    keeps = np.zeros(len(lone), bool)
    keeps[first] = True
    bits = max(10, (16 * len(distinct) - 1).bit_length())
    bitmap = np.zeros((1 << bits) // 64, np.uint64)
    in_pairs = np.zeros(len(distinct), np.uint8)
    _find_paired_ends(signature, NO_END, distinct, bitmap, bits, in_pairs)
    duplicate[lone[~keeps | (in_pairs[group] != 0)]] = 1


# --- kernels ---


@inline
def _mix(first: Any, second: Any) -> Any:
    """64-bit hash of two words (the finaliser of SplitMix64 over their combination)."""
    x = first * U(0x9E3779B97F4A7C15) ^ (second + U(0x7F4A7C159E3779B9)) * U(0xC2B2AE3D27D4EB4F)
    x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@kernel("void(uint64[:, ::1], uint64, int64, int64, int64[::1])")
def _count(signature: NDArray[np.uint64], no_end: Any, first: Any, last: Any, counts: NDArray[np.int64]) -> None:
    """Pairs with two mapped mates of [first, last) by the low bits of their hash."""
    mask = U(len(counts) - 1)
    for i in range(U(first), U(last)):
        if signature[i, 1] != no_end:
            counts[_mix(signature[i, 0], signature[i, 1]) & mask] += 1


@kernel("void(uint64[:, ::1], uint64, int64, int64, int64[::1], int64[::1])")
def _distribute(
    signature: NDArray[np.uint64],
    no_end: Any,
    first: Any,
    last: Any,
    free: NDArray[np.int64],
    order: NDArray[np.int64],
) -> None:
    """The same pairs to the places in `order` that begin at free[k] for each value k of those bits."""
    mask = U(len(free) - 1)
    for i in range(U(first), U(last)):
        if signature[i, 1] != no_end:
            k = _mix(signature[i, 0], signature[i, 1]) & mask
            order[U(free[k])] = i
            free[k] += 1


@kernel("void(int64[::1], uint64[:, ::1], int32[::1], uint64[::1], int64[::1], uint8[::1])")
def _resolve(
    order: NDArray[np.int64],
    signature: NDArray[np.uint64],
    quality_sum: NDArray[np.int32],
    hashes: NDArray[np.uint64],
    best: NDArray[np.int64],
    duplicate: NDArray[np.uint8],
) -> None:
    """Open addressing: a slot holds the hash and the best pair so far of one signature; best = -1: free."""
    mask = U(len(best) - 1)
    n = len(order)
    for k in range(n):
        if k + 16 < n:
            prefetch(signature, 2 * order[k + 16])
            prefetch(quality_sum, order[k + 16])
        i = order[k]
        first, second = signature[i, 0], signature[i, 1]
        h = _mix(first, second)
        slot = (h >> U(32)) & mask
        while True:
            j = best[slot]
            if j < 0:
                hashes[slot] = h
                best[slot] = i
                break
            if hashes[slot] == h and signature[j, 0] == first and signature[j, 1] == second:
                if quality_sum[i] > quality_sum[j]:  # equal: the earlier pair stays
                    duplicate[j] = np.uint8(1)
                    best[slot] = i
                else:
                    duplicate[i] = np.uint8(1)
                break
            slot = (slot + U(1)) & mask


@kernel("void(uint64[:, ::1], uint64, uint64[::1], uint64[::1], int64, uint8[::1])")
def _find_paired_ends(
    signature: NDArray[np.uint64],
    no_end: Any,
    ends: NDArray[np.uint64],
    bitmap: NDArray[np.uint64],
    bits: Any,
    found: NDArray[np.uint8],
) -> None:
    """found[k] = 1 if ends[k] (sorted) is an end of a pair; the bitmap spares most look-ups."""
    shift = U(64 - bits)
    for k in range(len(ends)):
        h = _mix(ends[k], U(0)) >> shift
        bitmap[h >> U(6)] |= U(1) << (h & U(63))
    for i in range(len(signature)):
        if signature[i, 1] == no_end:
            continue
        for m in range(2):
            end = signature[i, 0]
            if m == 1:
                end = (end & ~_END_MASK) | signature[i, 1]
            h = _mix(end, U(0)) >> shift
            if (bitmap[h >> U(6)] >> (h & U(63))) & U(1) == U(0):
                continue
            k = np.searchsorted(ends, end)
            if k < len(ends) and ends[k] == end:
                found[k] = np.uint8(1)
