# SPDX-License-Identifier: Apache-2.0
"""Building the index table: seeds of the reference, sorted by hash, entered into buckets.

In: the packed reference and its stretches without N. Out: the table in parts, range by range. Next: `align/index.py`.

1. Every thread counts the seeds of its stretches by partition, the upper bits of the hash.
2. Every thread scatters them: each has its own part of each partition. A key of 64 bits holds what is left of the
   hash, then place and strand: there are as many partitions as the 48 bits of hash need to be all present.
3. Partitions are sorted and the entries they need counted; the fullest sets the size of a range.
4. Each partition fills its own range of buckets, which no other touches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.seed import collect_reference_seeds
from megabolt.align.table import (
    BUCKET,
    COUNT_MASK,
    COUNT_SHIFT,
    LONG_LIST,
    LONGEST_SHORT_LIST,
    MARKER_PAYLOAD,
    MOST_FLANKS,
    PLACE_MASK,
    SEED,
    TAG_MASK,
    TAG_SHIFT,
    bucket_of,
    crowded_bucket_of,
    marker_of,
    next_bucket,
    slot_of,
)
from megabolt.compute.bits import U
from megabolt.compute.jit import callee, kernel

#: Entries per slot of the table, on average and in its fullest range: fuller tables probe more lines.
_LOAD, _HIGHEST_LOAD = 0.75, 0.9
#: Bits of a hash.
_HASH_BITS = 48
#: Bases of a stretch whose seeds are collected at once, and partitions that are entered at once.
CHUNK = 1 << 18
_BLOCK = 64

#: Behind every place.
_NONE = U((1 << 64) - 1)
_ONE = np.int64(1)

_PIECES = list[tuple[int, int]]


@kernel("void(uint64[::1], int64, int64, int64[::1])")
def _count_partitions(hashes: NDArray[np.uint64], n: int, partition_bits: int, counts: NDArray[np.int64]) -> None:
    for i in range(n):
        counts[hashes[i] >> U(_HASH_BITS - partition_bits)] += 1


@kernel("void(uint64[::1], uint64[::1], int64, int64, int64, int64[::1], uint64[::1])")
def _scatter(
    hashes: NDArray[np.uint64],
    places: NDArray[np.uint64],
    n: int,
    partition_bits: int,
    place_bits: int,
    cursor: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> None:
    """keys: the hash below the partition's bits, then place << 1 | strand in `place_bits` bits."""
    rest = (U(1) << U(_HASH_BITS - partition_bits)) - U(1)
    for i in range(n):
        partition = hashes[i] >> U(_HASH_BITS - partition_bits)
        keys[U(cursor[partition])] = ((hashes[i] & rest) << U(place_bits)) | places[i]
        cursor[partition] += 1


@callee
def _stop_of(keys: Any, i: Any, stop: Any, shift: Any) -> Any:
    """Behind the last of the sorted keys from i on that equal keys[i] above `shift` bits."""
    j = i + 1
    while j < stop and (keys[j] >> shift) == (keys[i] >> shift):
        j += 1
    return j


@callee
def _flanks_in(keys: Any, i: Any, stop: Any, shift: Any) -> Any:
    """Distinct seeds in a core's sorted keys [i, stop)."""
    distinct = 0
    while i < stop:
        i = _stop_of(keys, i, stop, shift)
        distinct += 1
    return distinct


@kernel("void(uint64[::1], int64[::1], int64, int64, int64, int64[::1])")
def _count_entries(
    keys: NDArray[np.uint64],
    edges: NDArray[np.int64],
    first: int,
    last: int,
    place_bits: int,
    entries: NDArray[np.int64],
) -> None:
    """Entries that the sorted partitions [first, last) need."""
    for partition in range(first, last):
        i, stop, needed = edges[partition], edges[partition + 1], 0
        while i < stop:
            core_stop = _stop_of(keys, i, stop, U(place_bits + 8))
            flanks = _flanks_in(keys, i, core_stop, U(place_bits))
            needed += flanks + (1 if flanks > MOST_FLANKS else 0)
            i = core_stop
        entries[partition] = needed


@callee
def _put(table: Any, bucket: Any, range_buckets: Any, entry: Any) -> Any:
    """Put an entry into the first free slot of the chain from a bucket on."""
    while True:
        for slot in range(BUCKET):
            if table[bucket * U(BUCKET) + U(slot)] == U(0):
                table[bucket * U(BUCKET) + U(slot)] = entry
                return
        bucket = next_bucket(bucket, range_buckets)


@callee
def _list_entry(hash_: Any, count: Any, payload: Any) -> Any:
    shown = count if count <= LONGEST_SHORT_LIST else LONG_LIST
    return ((hash_ & TAG_MASK) << U(TAG_SHIFT)) | (U(shown) << U(COUNT_SHIFT)) | U(payload)


@callee
def _seed_entry(
    keys: Any,
    i: Any,
    stop: Any,
    place_mask: Any,
    hash_: Any,
    lists: Any,
    n_lists: Any,
) -> Any:
    """The entry of a seed with the keys [i, stop), its list written; and the new length of the lists."""
    count = stop - i
    if count == 1:
        return _list_entry(hash_, _ONE, np.int64(keys[i] & place_mask)), n_lists
    if count > LONGEST_SHORT_LIST:
        lists[n_lists] = U(count)
        n_lists += 1
    entry = _list_entry(hash_, count, n_lists)
    for k in range(i, stop):
        lists[n_lists] = keys[k] & place_mask
        n_lists += 1
    return entry, n_lists


@callee
def _listed(entry: Any, lists: Any) -> Any:
    """Length and offset of an entry's list; (1, -1) if it has a place of its own."""
    count = np.int64((entry >> U(COUNT_SHIFT)) & COUNT_MASK)
    payload = np.int64(entry & PLACE_MASK)
    if count == 1:
        return 1, -1
    return (np.int64(lists[payload - 1]) if count == LONG_LIST else count), payload


@callee
def _holds(entry: Any, lists: Any, keys: Any, i: Any, stop: Any, place_mask: Any) -> Any:
    """Whether an entry names all places of the keys [i, stop)."""
    count, offset = _listed(entry, lists)
    if count == 1:
        return stop - i == 1 and (entry & PLACE_MASK) == (keys[i] & place_mask)
    k = offset
    for j in range(i, stop):
        place = keys[j] & place_mask
        while k < offset + count and lists[k] < place:
            k += 1
        if k == offset + count or lists[k] != place:
            return False
    return True


@callee
def _merge(
    entry: Any,
    lists: Any,
    n_lists: Any,
    keys: Any,
    i: Any,
    stop: Any,
    place_mask: Any,
) -> Any:
    """An entry whose list, a new one, also names the places of the keys [i, stop)."""
    count, offset = _listed(entry, lists)
    total = count + stop - i
    if total > LONGEST_SHORT_LIST:
        lists[n_lists] = U(total)
        n_lists += 1
    payload, k = n_lists, 0
    for _ in range(total):
        old = _NONE
        if k < count:
            old = (entry & PLACE_MASK) if offset < 0 else lists[offset + k]
        new = (keys[i] & place_mask) if i < stop else _NONE
        if old < new:
            lists[n_lists] = old
            k += 1
        else:
            lists[n_lists] = new
            i += 1
        n_lists += 1
    return _list_entry(entry >> U(TAG_SHIFT), total, payload), n_lists


@kernel("int64(uint64[::1], int64[::1], int64, int64, int64, int64, uint64, uint64[::1], uint64[::1])")
def _enter(
    keys: NDArray[np.uint64],
    edges: NDArray[np.int64],
    first: int,
    last: int,
    partition_bits: int,
    place_bits: int,
    range_buckets: np.uint64,
    tables: NDArray[np.uint64],
    lists: NDArray[np.uint64],
) -> int:
    """Enter the sorted partitions [first, last) into their ranges (`tables`, zeroed, is these ranges only).

    Entries count their list offsets from the start of `lists`. Returns the length of the lists, or -1 if there is
    no room for them. Places that one find cannot tell apart (another seed with the same tag comes first in the
    chain) are merged into the list that it returns.
    """
    place_mask = (U(1) << U(place_bits)) - U(1)
    seed_shift, core_shift = U(place_bits), U(place_bits + 8)
    n_buckets = range_buckets << U(partition_bits)
    n_lists = 0
    for partition in range(first, last):
        start, stop = edges[partition], edges[partition + 1]
        if n_lists + (stop - start) + (stop - start) // LONGEST_SHORT_LIST > len(lists):
            return -1
        table = tables[(partition - first) * np.int64(range_buckets) * BUCKET :]
        table = table[: np.int64(range_buckets) * BUCKET]
        above = U(partition) << U(_HASH_BITS - partition_bits)
        base = U(partition) * range_buckets
        for crowded_turn in range(2):
            i = start
            while i < stop:
                core_stop = _stop_of(keys, i, stop, core_shift)
                crowded = False
                if core_stop - i > MOST_FLANKS:
                    crowded = _flanks_in(keys, i, core_stop, seed_shift) > MOST_FLANKS
                hash_ = above | (keys[i] >> seed_shift)
                home = bucket_of(hash_, n_buckets) - base
                if crowded and crowded_turn == 0:
                    marker = (marker_of(hash_) << U(COUNT_SHIFT)) | U(MARKER_PAYLOAD)
                    _put(table, home, range_buckets, marker)
                elif crowded == (crowded_turn == 1):
                    j = i
                    while j < core_stop:
                        seed_stop = _stop_of(keys, j, core_stop, seed_shift)
                        hash_ = above | (keys[j] >> seed_shift)
                        entry, n_lists = _seed_entry(keys, j, seed_stop, place_mask, hash_, lists, n_lists)
                        bucket = crowded_bucket_of(hash_, home, range_buckets) if crowded else home
                        _put(table, bucket, range_buckets, entry)
                        j = seed_stop
                i = core_stop
        i = start
        while i < stop:
            seed_stop = _stop_of(keys, i, stop, seed_shift)
            hash_ = above | (keys[i] >> seed_shift)
            slot = slot_of(table, bucket_of(hash_, n_buckets) - base, range_buckets, hash_)
            if not _holds(table[slot], lists, keys, i, seed_stop, place_mask):
                count, _ = _listed(table[slot], lists)
                if n_lists + count + (seed_stop - i) + 1 > len(lists):
                    return -1
                table[slot], n_lists = _merge(table[slot], lists, n_lists, keys, i, seed_stop, place_mask)
            i = seed_stop
    return n_lists


@kernel("void(uint64[::1], uint64)")
def _rebase(table: NDArray[np.uint64], offset: np.uint64) -> None:
    """Move the list offsets of a part of the table."""
    for i in range(len(table)):
        if ((table[i] >> U(COUNT_SHIFT)) & COUNT_MASK) > U(1):
            table[i] += offset


class TableBuilder:
    """The table of a reference, in parts.

    Attributes
    ----------
    range_buckets
        Buckets of a range: as many as a partition's entries need.
    n_buckets
        Of the whole table.
    most_listed
        Words that the lists will not exceed.
    """

    def __init__(self, words: NDArray[np.uint64], pieces: _PIECES, threads: int) -> None:
        """`pieces`: stretches without N of the packed reference `words`, overlapping by SEED - 1 bases if cut."""
        self._threads = threads
        self._place_bits = (len(words) * 32).bit_length() + 1
        self._partition_bits = max(4, _HASH_BITS + self._place_bits - 64)
        self._collect(words, pieces)
        entries = self._sort()
        full, mean = int(entries.max()), float(entries.mean())
        self.range_buckets = max(4, int(full / (BUCKET * _HIGHEST_LOAD)) + 1, int(mean / (BUCKET * _LOAD)) + 1)
        self.n_buckets = self.range_buckets << self._partition_bits
        # Beyond all keys and one count per long list: the few lists that are written a second time, merged.
        self.most_listed = len(self._keys) * 2 + (1 << 16)

    def _collect(self, words: NDArray[np.uint64], pieces: _PIECES) -> None:
        """Keys of all seeds, by partition."""
        longest = max((b - a for a, b in pieces), default=0)
        counts = np.zeros((self._threads, 1 << self._partition_bits), np.int64)

        def count(t: int) -> None:
            hashes, places = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
            for start, stop in pieces[t :: self._threads]:
                n = collect_reference_seeds(words, start, stop, hashes, places)
                _count_partitions(hashes, n, self._partition_bits, counts[t])

        def scatter(t: int) -> None:
            hashes, places = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
            for start, stop in pieces[t :: self._threads]:
                n = collect_reference_seeds(words, start, stop, hashes, places)
                _scatter(hashes, places, n, self._partition_bits, self._place_bits, cursor[t], self._keys)

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(count, range(self._threads)))
            self._edges = np.concatenate(([0], np.cumsum(counts.sum(axis=0))))
            cursor = self._edges[:-1] + np.cumsum(counts, axis=0) - counts
            self._keys = np.empty(int(self._edges[-1]), np.uint64)
            list(pool.map(scatter, range(self._threads)))

    def _blocks(self) -> list[tuple[int, int]]:
        n = 1 << self._partition_bits
        return [(first, min(first + _BLOCK, n)) for first in range(0, n, _BLOCK)]

    def _sort(self) -> NDArray[np.int64]:
        """Sort every partition; entries that each needs."""
        entries = np.zeros(1 << self._partition_bits, np.int64)

        def sort(block: tuple[int, int]) -> None:
            for partition in range(*block):
                self._keys[self._edges[partition] : self._edges[partition + 1]].sort()
            _count_entries(self._keys, self._edges, *block, self._place_bits, entries)

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(sort, self._blocks()))
        return entries

    def parts(self, first_offset: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        """Parts of the table and of the lists, in order; the first list lies at `first_offset` of the whole."""
        offset = first_offset
        with ThreadPoolExecutor(self._threads) as pool:
            for table, lists in _in_order(pool, self._part, self._blocks(), 2 * self._threads):
                _rebase(table, U(offset))
                offset += len(lists)
                yield table, lists

    def _part(self, block: tuple[int, int]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        first, last = block
        room = int(self._edges[last] - self._edges[first])
        room += room // LONGEST_SHORT_LIST + 64
        while True:
            table = np.zeros((last - first) * self.range_buckets * BUCKET, np.uint64)
            lists = np.empty(room, np.uint64)
            n_lists = _enter(
                self._keys, self._edges, first, last, self._partition_bits, self._place_bits, U(self.range_buckets),
                table, lists,
            )  # fmt: skip
            if n_lists >= 0:
                return table, lists[:n_lists].copy()
            room *= 2


_Part = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[tuple[int, int]], _Part], jobs: Sequence[tuple[int, int]], ahead: int
) -> Iterator[_Part]:
    """Results in the order of the jobs, of which at most `ahead` are computed before they are asked for."""
    waiting: deque[Future[_Part]] = deque()
    for job in jobs:
        waiting.append(pool.submit(work, job))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def stretches(start: int, stop: int, n_intervals: NDArray[np.int64]) -> _PIECES:
    """Parts of [start, stop) between its Ns, cut into pieces that overlap by SEED - 1 bases."""
    cuts = [start, *n_intervals.ravel().tolist(), stop]
    pieces = []
    for a, b in zip(cuts[0::2], cuts[1::2], strict=True):
        for first in range(a, b - SEED + 1, CHUNK):
            pieces.append((first, min(first + CHUNK + SEED - 1, b)))
    return pieces
