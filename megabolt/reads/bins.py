# SPDX-License-Identifier: Apache-2.0
"""Packed records in bins of the genome, and sorted blocks of them.

In: a `RecordChunk` per batch, in any order and from any thread. Out: coordinate-sorted `RecordBlock`s with
duplicates flagged. Next: the BAM writer and the caller.

A bin is 1 Mb (2^20) of one contig, or a run of whole contigs that together are no longer. A record is stored behind
its sort key::

    63            41 40      39                                   0
    | place + HALO | reverse | ordinal of the record in the input |      place: in the bin, 0-based

so keys are distinct and the sorted order depends on nothing but the input. A pair has 32 ordinals, 16 for the records
of each mate: 40 bits are enough for 3.4e10 pairs, twenty times what a genome of 3 billion reads has.

Records near an inner edge are stored in both bins: a block holds the neighbours' records within HALO bases, and the
caller never needs two blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import NO_END, RECORDS_PER_READ, UNPLACED, RecordChunk
from megabolt.compute.bits import load_u32, load_u64, prefetch, store_u64
from megabolt.compute.jit import inline, kernel
from megabolt.errors import InternalError, ResourceError
from megabolt.formats.bam import RecordBlock
from megabolt.reads.arena import SLAB_BYTES, Arena, BufferPool
from megabolt.reads.mark_duplicates import LIBRARY_SHIFT, mark_duplicates

U = np.uint64
#: A bin at 30x is 200,000 reads and 70 MB: its keys sort in a core's cache, and its block, which comes on top of
#: the bins, costs little even when every thread holds one.
BIN_SHIFT = 20
BIN_BASES = 1 << BIN_SHIFT
#: Bases around a bin whose records its block holds as well: the caller's margin plus the span of a read.
HALO = 4096
_PLACE_SHIFT = 41
_ORDINAL_BITS = 40
_ORDINALS_PER_PAIR = 2 * RECORDS_PER_READ


@dataclass(frozen=True)
class Region:
    """A piece of a contig and the place of its first base in its bin."""

    contig: int
    start: int
    stop: int
    place: int


class BinLayout:
    """How contigs are cut and packed into bins; bin `n_bins` holds the unplaced reads."""

    def __init__(self, contig_lengths: Sequence[int]) -> None:
        self.first_bin = np.zeros(len(contig_lengths), np.int64)
        self.last_bin = np.zeros(len(contig_lengths), np.int64)
        self.place = np.zeros(len(contig_lengths), np.int64)
        self.regions: list[list[Region]] = []
        room = 0  # in the last bin
        for contig, length in enumerate(contig_lengths):
            if length <= room:
                self._append(contig, 0, length, BIN_BASES - room)
                room -= length
                continue
            for start in range(0, max(length, 1), BIN_BASES):
                stop = min(start + BIN_BASES, length)
                self.regions.append([])
                self._append(contig, start, stop, 0)
            room = BIN_BASES - length if length < BIN_BASES else 0

    def _append(self, contig: int, start: int, stop: int, place: int) -> None:
        k = len(self.regions) - 1
        self.regions[k].append(Region(contig, start, stop, place))
        if start == 0:
            self.first_bin[contig] = k
            self.place[contig] = place
        self.last_bin[contig] = k

    @property
    def n_bins(self) -> int:
        """Bins with a place in the genome."""
        return len(self.regions)


@dataclass(frozen=True)
class BinBlock:
    """The sorted records of a bin and of its halo.

    Attributes
    ----------
    records
        The bin's records in the middle, its neighbours' within HALO before and behind.
    place
        int64 [n]: place in the bin of each record; negative before the bin.
    first, last
        The bin's own records are first <= i < last.
    """

    records: RecordBlock
    place: NDArray[np.int64]
    first: int
    last: int

    def own(self) -> RecordBlock:
        """What belongs into the BAM: each record is in one bin's own part."""
        return slice_block(self.records, self.first, self.last)

    def around(self, region: Region, start: int, stop: int) -> RecordBlock:
        """Records of a region's contig that start in [start - HALO, stop + HALO).

        start, stop: inside the region.
        """
        low = region.place + start - region.start - HALO
        high = region.place + stop - region.start + HALO
        if region.place > 0:  # packed contigs: the neighbours are other contigs
            low = max(low, region.place)
        if region.start == 0 and region.stop - region.start < BIN_BASES:
            high = min(high, region.place + region.stop - region.start)
        first, last = np.searchsorted(self.place, [low, high])
        return slice_block(self.records, int(first), int(last))


def slice_block(block: RecordBlock, first: int, last: int) -> RecordBlock:
    """Records first <= i < last, without copying them."""
    base = int(block.offsets[first])
    return RecordBlock(data=block.data[base:], offsets=block.offsets[first : last + 1] - base)


@dataclass
class _Signatures:
    first_pair: int
    signature: NDArray[np.uint64]
    quality_sum: NDArray[np.int32]


class BinStore:
    """Takes the records of a sample apart by bin and gives them back sorted.

    Parameters
    ----------
    contig_lengths
        Of the reference, in its order.
    budget
        Bytes that records and signatures may take.
    """

    def __init__(self, contig_lengths: Sequence[int], budget: int) -> None:
        self.layout = BinLayout(contig_lengths)
        self.budget = budget
        self.n_pairs = 0
        self._arena = Arena(budget)
        self._lock = threading.Lock()
        n = self.layout.n_bins + 1
        self._cursor = np.zeros(n, np.int64)  # next free byte in the bin's open slab
        self._limit = np.zeros(n, np.int64)  # end of the open slab
        self._slabs: list[list[int]] = [[] for _ in range(n)]
        self._ends: list[list[int]] = [[] for _ in range(n)]  # end of the content of each closed slab
        self._counts = np.zeros(n, np.int64)
        self._bytes = np.zeros(n, np.int64)
        self._signatures: list[_Signatures] = []
        self._signature_bytes = 0
        self.duplicate: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def add(self, chunk: RecordChunk, library: int = 0) -> None:
        """Copy a chunk's records into the bins.

        Parameters
        ----------
        library
            Index of the chunk's library, 0..65534: duplicates are looked for within one.

        Raises
        ------
        ResourceError
            The records do not fit the budget.
        """
        signature = chunk.signature[: chunk.n_pairs].copy()
        mapped = signature[:, 0] != NO_END
        signature[mapped, 0] |= U(library) << U(LIBRARY_SHIFT)
        quality_sum = chunk.quality_sum[: chunk.n_pairs].copy()
        # [0]: addresses, [1]: keys; of the bin's own copy, and of that for the neighbour's halo (or -1)
        own = np.empty((2, chunk.n_records), np.int64)
        halo = np.empty((2, chunk.n_records), np.int64)
        with self._lock:
            self._assign(chunk, own, halo)
            self._signatures.append(_Signatures(chunk.first_pair, signature, quality_sum))
            self._signature_bytes += signature.nbytes + quality_sum.nbytes + 12 * chunk.n_pairs
            self.n_pairs += chunk.n_pairs
        _store(chunk.data, chunk.offsets, own, halo, self._arena.data)  # the long part, side by side

    def _assign(self, chunk: RecordChunk, own: NDArray[np.int64], halo: NDArray[np.int64]) -> None:
        status = np.zeros(1, np.int64)
        done = 0
        while True:
            done = _assign(
                chunk.offsets,
                chunk.key,
                chunk.ordinal,
                done,
                chunk.n_records,
                _ORDINALS_PER_PAIR * chunk.first_pair,
                self.layout.first_bin,
                self.layout.last_bin,
                self.layout.place,
                self.layout.n_bins,
                UNPLACED,
                self._cursor,
                self._limit,
                self._counts,
                self._bytes,
                own,
                halo,
                status,
            )
            if done == chunk.n_records:
                return
            self._open_slab(int(status[0]), int(np.diff(chunk.offsets[done : done + 2])[0]))

    def _open_slab(self, k: int, record_bytes: int) -> None:
        if record_bytes + 8 > SLAB_BYTES:
            raise InternalError(f"a record of {record_bytes} bytes is longer than a slab of {SLAB_BYTES}")
        start = None
        if self._arena.used + self._signature_bytes < self.budget:
            start = self._arena.take()
        if start is None:
            raise ResourceError(
                f"the records of the first {self.n_pairs:,} read pairs or single reads fill the"
                f" {self.budget / 1e9:.2f} GB of memory that this job has for them",
                f"Give more with --memory: a million pairs like these take {self._bytes_per_pair() / 1e3:.2f} GB,"
                " besides the reference's index.",
            )
        if self._slabs[k]:
            self._ends[k].append(int(self._cursor[k]))
        self._slabs[k].append(start)
        self._cursor[k] = start
        self._limit[k] = start + SLAB_BYTES

    def _bytes_per_pair(self) -> float:
        return (self._arena.used + self._signature_bytes) / max(1, self.n_pairs)

    @property
    def used(self) -> int:
        """Bytes held."""
        return self._arena.used + self._signature_bytes

    def resolve_duplicates(self, threads: int = 1) -> int:
        """Decide on all duplicates; call it once, when the last chunk is in. Returns how many pairs are."""
        parts = sorted(self._signatures, key=lambda part: part.first_pair)
        expected = 0
        for part in parts:
            if part.first_pair != expected:
                raise InternalError(f"read pair {expected + 1} is missing or there twice")
            expected += len(part.quality_sum)
        signature = np.concatenate([part.signature for part in parts] or [np.zeros((0, 2), np.uint64)])
        quality_sum = np.concatenate([part.quality_sum for part in parts] or [np.zeros(0, np.int32)])
        self._signatures.clear()
        self._signature_bytes = self.n_pairs
        self.duplicate = mark_duplicates(signature, quality_sum, threads=threads)
        return int(self.duplicate.sum())

    def block_bytes(self, k: int) -> int:
        """Bytes of bin k's sorted block, halo included."""
        return int(self._bytes[k])

    def sorted_block(self, k: int, pool: BufferPool) -> BinBlock:
        """The sorted records of bin k (`layout.n_bins`: the unplaced), duplicates flagged; frees the bin.

        The block's `records.data` comes from the pool: give it back with `BufferPool.give_back`.
        """
        n = int(self._counts[k])
        ends = [*self._ends[k], int(self._cursor[k])] if self._slabs[k] else []
        slabs = np.array([self._slabs[k], ends], np.int64).reshape(2, -1)
        keys, sources = np.empty(n, np.uint64), np.empty(n, np.int64)
        _list_records(self._arena.data, slabs, keys, sources)
        order = np.argsort(keys)
        keys = keys[order]
        data = pool.take(int(self._bytes[k]))
        offsets = np.zeros(n + 1, np.int64)
        pair_shift = _ORDINALS_PER_PAIR.bit_length() - 1
        _gather(self._arena.data, sources[order], keys, pair_shift, self.duplicate, data, offsets)
        with self._lock:
            self._arena.release(self._slabs[k])
            self._slabs[k] = []
        if k == self.layout.n_bins:
            return BinBlock(RecordBlock(data, offsets), np.zeros(n, np.int64), 0, n)
        place = (keys >> U(_PLACE_SHIFT)).astype(np.int64) - HALO
        first, last = np.searchsorted(place, [0, BIN_BASES])
        return BinBlock(RecordBlock(data, offsets), place, int(first), int(last))


# --- kernels ---


@inline
def _copy_record(source: Any, start: Any, size: Any, out: Any, p: Any) -> None:
    """Copies exactly `size` bytes: what lies behind may be another thread's; the last blocks overlap."""
    if size >= 64:
        for t in range(0, size, 64):
            shift = min(t, size - 64)
            block = source[start + shift : start + shift + 64]
            target = out[p + shift : p + shift + 64]
            for k in range(64):
                target[k] = block[k]
    else:
        for k in range(size):
            out[np.uint64(p + k)] = source[np.uint64(start + k)]


@kernel(
    "int64(int64[::1], uint64[::1], int64[::1], int64, int64, int64, int64[::1], int64[::1], int64[::1], int64, uint64,"
    " int64[::1], int64[::1], int64[::1], int64[::1], int64[:, ::1], int64[:, ::1], int64[::1])"
)
def _assign(
    offsets: NDArray[np.int64],
    record_key: NDArray[np.uint64],
    record_ordinal: NDArray[np.int64],
    begin: Any,
    n_records: Any,
    first_ordinal: Any,
    first_bin: NDArray[np.int64],
    last_bin: NDArray[np.int64],
    contig_place: NDArray[np.int64],
    unplaced_bin: Any,
    unplaced: Any,
    cursor: NDArray[np.int64],
    limit: NDArray[np.int64],
    counts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    own: NDArray[np.int64],
    halo: NDArray[np.int64],
    status: NDArray[np.int64],
) -> Any:
    """Room for records in their bins; returns how far it came: status[0] is the bin that needs a slab."""
    for i in range(begin, n_records):
        need = offsets[i + 1] - offsets[i] + 8
        ordinal = U(first_ordinal + record_ordinal[i])
        key = record_key[i]
        home = unplaced_bin
        other = np.int64(-1)
        place = np.int64(-HALO)
        other_place = np.int64(0)
        reverse = U(0)
        if key != unplaced:
            contig = key >> U(33)
            start = np.int64((key >> U(1)) & U(0xFFFFFFFF)) - 1
            reverse = key & U(1)
            home = first_bin[contig] + (start >> BIN_SHIFT)
            inside = start & (BIN_BASES - 1)
            place = contig_place[contig] + inside
            if inside < HALO and home > first_bin[contig]:
                other = home - 1
                other_place = BIN_BASES + inside
            elif inside >= BIN_BASES - HALO and home < last_bin[contig]:
                other = home + 1
                other_place = inside - BIN_BASES
        if cursor[home] + need > limit[home]:
            status[0] = home
            return i
        if other >= 0 and cursor[other] + need > limit[other]:
            status[0] = other
            return i
        low = (reverse << U(_ORDINAL_BITS)) | ordinal
        own[0, i] = cursor[home]
        own[1, i] = np.int64(low | (U(place + HALO) << U(_PLACE_SHIFT)))
        cursor[home] += need
        counts[home] += 1
        sizes[home] += need - 8
        halo[0, i] = -1
        if other >= 0:
            halo[0, i] = cursor[other]
            halo[1, i] = np.int64(low | (U(other_place + HALO) << U(_PLACE_SHIFT)))
            cursor[other] += need
            counts[other] += 1
            sizes[other] += need - 8
    return n_records


@kernel("void(uint8[::1], int64[::1], int64[:, ::1], int64[:, ::1], uint8[::1])")
def _store(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    own: NDArray[np.int64],
    halo: NDArray[np.int64],
    arena: NDArray[np.uint8],
) -> None:
    """Write each record, behind its key, to the places it was given."""
    for i in range(own.shape[1]):
        size = offsets[i + 1] - offsets[i]
        p = own[0, i]
        store_u64(arena, p, U(own[1, i]))
        _copy_record(data, offsets[i], size, arena, p + 8)
        p = halo[0, i]
        if p >= 0:
            store_u64(arena, p, U(halo[1, i]))
            _copy_record(data, offsets[i], size, arena, p + 8)


@kernel("void(uint8[::1], int64[:, ::1], uint64[::1], int64[::1])")
def _list_records(
    arena: NDArray[np.uint8], slabs: NDArray[np.int64], keys: NDArray[np.uint64], sources: NDArray[np.int64]
) -> None:
    """Key and address of each record of a bin, slab by slab (row 0: starts, row 1: ends of content)."""
    i = np.int64(0)
    for s in range(slabs.shape[1]):
        p = slabs[0, s]
        while p < slabs[1, s]:
            keys[np.uint64(i)] = load_u64(arena, p)
            sources[np.uint64(i)] = p + 8
            p += 12 + np.int64(load_u32(arena, p + 8))
            i += 1


@kernel("void(uint8[::1], int64[::1], uint64[::1], int64, uint8[::1], uint8[::1], int64[::1])")
def _gather(
    arena: NDArray[np.uint8],
    sources: NDArray[np.int64],
    keys: NDArray[np.uint64],
    pair_shift: Any,
    duplicate: NDArray[np.uint8],
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
) -> None:
    """Records in the order of `sources`; mapped records of duplicates get the flag 0x400.

    So do their supplementary records, as with Picard's MarkDuplicates on records in the order of names and
    `samtools markdup -S`; on sorted records Picard, and samtools without -S, leave those alone.
    """
    n = len(sources)
    p = np.int64(0)
    for i in range(n):
        if i + 12 < n:
            ahead = sources[np.uint64(i + 12)]
            for line in range(6):  # a record of a 150-base read
                prefetch(arena, ahead + 64 * line)
            pair_ahead = (keys[np.uint64(i + 12)] & U((1 << _ORDINAL_BITS) - 1)) >> U(pair_shift)
            prefetch(duplicate, np.int64(pair_ahead))
        source = sources[np.uint64(i)]
        size = 4 + np.int64(load_u32(arena, source))
        _copy_record(arena, source, size, out, p)
        pair = (keys[np.uint64(i)] & U((1 << _ORDINAL_BITS) - 1)) >> U(pair_shift)
        if duplicate[pair] != 0 and (out[np.uint64(p + 18)] & np.uint8(4)) == 0:
            out[np.uint64(p + 19)] |= np.uint8(4)
        p += size
        offsets[np.uint64(i + 1)] = p
