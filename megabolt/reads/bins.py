# SPDX-License-Identifier: Apache-2.0
"""Packed records in bins of the genome, and sorted blocks of them.

In: a `RecordChunk` per batch, in any order and from any thread. Out: coordinate-sorted `RecordBlock`s with
duplicates flagged. Next: the BAM writer and the caller.

A bin is 1 Mb (2^20) of one contig, or a run of whole contigs that together are no longer. Records near an inner edge
are stored in both bins: a block holds the neighbours' records within HALO bases, and the caller never needs two blocks.

Records lie in slabs of an arena that takes what the budget allows. When it is full, the fullest bins' slabs are sorted
and go to scratch; so a bin's data are sorted runs and a rest, and nothing depends on the budget but the way there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import RecordChunk
from megabolt.compute.bits import PADDING
from megabolt.errors import InternalError, ResourceError
from megabolt.formats.bam import RecordBlock
from megabolt.reads.arena import BufferPool
from megabolt.reads.bin_contents import BinContents, spans_of
from megabolt.reads.bin_filling import BinFiller
from megabolt.reads.bin_kernels import (
    BIN_BASES,
    HALO,
    N_BYTES,
    N_TOTAL,
    ORDER_BYTES,
    PLACE_SHIFT,
    SOURCE_SHIFT,
    end_bytes,
    list_records,
    select,
    weigh,
)
from megabolt.reads.bin_layout import BinBlock, BinLayout, Part, Region, slice_block
from megabolt.reads.packing import NO_TAG, TAG_ALL, TAG_BYTES, TAG_OPTICAL, Packed, gather
from megabolt.reads.pieces import PieceFiller, SortedPart
from megabolt.reads.scratch import SpillFile
from megabolt.reads.sort_keys import sort_keys

__all__ = [
    "BIN_BASES",
    "FLAG_DUPLICATES",
    "HALO",
    "NO_TAG",
    "TAG_ALL",
    "TAG_OPTICAL",
    "BinBlock",
    "BinLayout",
    "BinStore",
    "Finish",
    "Part",
    "Region",
    "slice_block",
]

U = np.uint64
#: Of the ordinals of pairs from FASTQ: 32 for a pair.
PAIR_SHIFT = 5
#: A block takes at most this part of the budget.
_BLOCK_SHARE = 4
_KEY_END = 1 << 63
_NO_BITS = np.zeros(0, np.uint8)
_MAX_CELLS = 1 << 20


@dataclass(frozen=True)
class Finish:
    """What becomes of duplicates in sorted blocks.

    Attributes
    ----------
    remove
        They are left out: all records of a duplicate template.
    tagging
        NO_TAG; TAG_OPTICAL: optical ones get the tag DT:Z:SQ; TAG_ALL: the others DT:Z:LB (Picard's TAGGING_POLICY).
    """

    remove: bool = False
    tagging: int = NO_TAG


FLAG_DUPLICATES = Finish()


class BinStore:
    """Takes the records of a sample apart by bin and gives them back sorted.

    Parameters
    ----------
    contig_lengths
        Of the reference, in its order.
    budget
        Bytes that records in memory may take: unsorted ones, blocks at work (see `seal`), buffers.
    scratch
        Opens a file for the records that do not fit; None: they must fit.
    ordinal_shift
        Bits of an ordinal below the number of its template: 5 for pairs from FASTQ, 0 where each record has a number.
    contig_names
        For messages.

    Attributes
    ----------
    duplicate, optical
        To be set before blocks are asked for: uint8, a bit per template (bit t & 7 of byte t >> 3); empty: none is.
    """

    def __init__(
        self,
        contig_lengths: Sequence[int],
        budget: int,
        scratch: Callable[[], SpillFile] | None = None,
        *,
        ordinal_shift: int = PAIR_SHIFT,
        contig_names: Sequence[str] = (),
    ) -> None:
        self.layout = BinLayout(contig_lengths)
        self.budget = budget
        self.duplicate: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.optical: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._shift, self._names = ordinal_shift, contig_names
        self._contents = BinContents(self.layout.n_bins + 1, budget, scratch)
        self._filler = BinFiller(self.layout, self._contents, budget, ordinal_shift)
        self._lock = threading.Lock()  # for what follows, and for giving memory back
        self._parts: list[list[Part]] | None = None
        self._parts_left = np.ones(self.layout.n_bins + 1, np.int64)

    @property
    def n_pairs(self) -> int:
        """Pairs and single reads taken."""
        return self._filler.n_pairs

    @property
    def used(self) -> int:
        """Bytes of memory held."""
        return self._contents.arena.used

    @property
    def spilled_bytes(self) -> int:
        """Bytes written to scratch, compressed."""
        return self._contents.spilled_bytes

    # --- filling ---

    def pack(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Packed:
        """Records (int64 [n + 1]: where each begins in the uint8 data) as `add` takes them too: to pack them early,
        while a core's cache holds them. Safe for threads, releases the GIL.
        """
        return self._filler.pack(data, offsets)

    def add(self, chunk: RecordChunk, early: Packed | None = None) -> None:
        """Copy a chunk's records into the bins. Safe for threads.

        Parameters
        ----------
        early
            The records, from `pack`; `chunk.data` is not looked at then.

        Raises
        ------
        ResourceError
            The records do not fit the budget, and there is no scratch; or one is too long for any bin.
        OutputError
            Scratch cannot be written.
        """
        self._filler.add(chunk, early)

    def seal(self, room: int = 0, threads: int = 1) -> None:
        """All records are in: leave `room` bytes of the budget to sorted blocks.

        Sorting takes at most twice the `n_bytes` of its part, the block that comes of it once. What is in the way goes
        to scratch, if there is one, the last bins first, as they are wanted last.
        """
        self._filler.seal(room, threads)

    # --- sorted blocks ---

    def block_bytes(self, k: int) -> int:
        """Memory of bin k's sorted block, halo included."""
        return int(self._contents.table[k, N_BYTES])

    def parts(self, threads: int = 1) -> list[Part]:
        """All bins in order, the unplaced last; bins that exceed a quarter of the budget in parts.

        To be asked when all records are in; deep bins are read through for it, once.

        Raises
        ------
        ResourceError
            So many records begin at one place that they are more than that.
        """
        if self._parts is None:
            with ThreadPoolExecutor(threads) as pool:
                self._parts = list(pool.map(self._parts_of, range(self._contents.n_bins)))
            self._parts_left[:] = [len(parts) for parts in self._parts]
        return [part for parts in self._parts for part in parts]

    def _whole(self, k: int) -> Part:
        return Part(k, 0, BIN_BASES, 0, _KEY_END, self.block_bytes(k))

    def _parts_of(self, k: int) -> list[Part]:
        if self.block_bytes(k) <= self.budget // _BLOCK_SHARE:
            return [self._whole(k)]
        placed = k < self.layout.n_bins
        halo, shift = HALO, PLACE_SHIFT
        if not placed:  # cut by ordinal
            halo, shift = (
                0,
                max(0, (self._filler.n_templates << self._shift).bit_length() - _MAX_CELLS.bit_length() + 1),
            )
        n_cells = BIN_BASES + 2 * HALO if placed else _MAX_CELLS
        weights = np.zeros(n_cells, np.int64)
        for data, start, stop in self._contents.buffers(k, 0, _KEY_END):
            weigh(data, start, stop, shift, weights)
        total = np.concatenate([[0], np.cumsum(weights)])  # weight of the cells before each
        parts = []
        cell, last = 0, n_cells - 2 * halo
        while cell < last:
            high = int(np.searchsorted(total, total[cell] + self.budget // _BLOCK_SHARE, side="right")) - 1
            stop = min(high - 2 * halo, last)
            if stop <= cell:
                raise self._too_deep(k, cell, int(total[cell + 1 + 2 * halo] - total[cell]))
            n_bytes = int(total[stop + 2 * halo] - total[cell])
            places = (cell, stop) if placed else (0, BIN_BASES)
            parts.append(Part(k, *places, cell << shift, (stop + 2 * halo) << shift, n_bytes))
            cell = stop
        return parts

    def _too_deep(self, k: int, place: int, n_bytes: int) -> ResourceError:
        where = "among the unplaced reads"
        if k < self.layout.n_bins:
            region = max((r for r in self.layout.regions[k] if r.place <= place), key=lambda r: r.place)
            name = self._names[region.contig] if self._names else f"contig {region.contig + 1}"
            where = f"around {name}:{region.start + place - region.place + 1:,}"
        return ResourceError(
            f"the reads {where} take {n_bytes / 1e6:,.0f} MB, more than a quarter of the"
            f" {self.budget / 1e6:,.0f} MB of memory that this job has for records",
            f"Give {(4 * n_bytes - self.budget) / 1e6 + 1:,.0f} MB more with --memory.",
        )

    def sorted_part(self, part: Part, pool: BufferPool, *, finish: Finish = FLAG_DUPLICATES) -> BinBlock:
        """The sorted records of a part of `parts()`; the bin is freed with its last part.

        The block's `records.data` comes from the pool: give it back with `BufferPool.give_back`. Safe for threads.
        """
        block = self._sort(part, pool, finish)
        self._leave(part)
        return block

    def _leave(self, part: Part, *, to_system: bool = True) -> None:
        with self._lock:
            self._parts_left[part.bin] -= 1
            if self._parts_left[part.bin] == 0:
                self._contents.free(part.bin, to_system=to_system)

    def order_of(self, part: Part, pool: BufferPool, *, remove: bool = False) -> SortedPart:
        """The order of the own records of a part of `parts()`, which stay where they are until `forget`.

        Sorting takes at most the `n_bytes` of the part. Safe for threads.

        Parameters
        ----------
        remove
            Leave duplicates out.
        """
        self._check_flags()
        data, keys, sources, borrowed = self._ordered(part, pool)
        if part.bin < self.layout.n_bins:
            low, high = (U(place + HALO) << U(PLACE_SHIFT) for place in (part.start, part.stop))
            first, last = np.searchsorted(keys, np.array([low, high], np.uint64))
            keys, sources = keys[first:last], sources[first:last]
        ends = np.empty(len(keys) + 1, np.int64)
        n = end_bytes(keys, sources, self._shift, self.duplicate if remove else _NO_BITS, ends)
        return SortedPart(part, data, borrowed, keys[:n], sources[:n], ends[: n + 1])

    def order_bytes(self, part: Part) -> int:
        """Memory that `order_of` takes for a part: for its records as well, unless they are taken from the arena."""
        if self._in_arena(part):
            return int(self._contents.table[part.bin, N_TOTAL]) * ORDER_BYTES
        return part.n_bytes

    def forget(self, ordered: SortedPart, pool: BufferPool) -> None:
        """The records of a part have been taken; the bin is freed with its last part. Safe for threads."""
        if ordered.borrowed:
            pool.give_back(ordered.data)
        self._leave(ordered.part, to_system=False)  # nobody wants it, and slab by slab it would break up huge pages

    def piece_filler(self, size: int) -> PieceFiller:
        """What fills pieces of `size` bytes with records that are marked as duplicates where they are."""
        return PieceFiller(size, self._shift, self.duplicate)

    def sorted_block(self, k: int, pool: BufferPool, *, finish: Finish = FLAG_DUPLICATES) -> BinBlock:
        """As `sorted_part`, of the whole bin k (`layout.n_bins`: the unplaced), however large it is."""
        block = self._sort(self._whole(k), pool, finish)
        with self._lock:
            self._contents.free(k)
        return block

    def blocks_of(self, k: int, pool: BufferPool, *, finish: Finish = FLAG_DUPLICATES) -> Iterator[BinBlock]:
        """The blocks of bin k's parts, in order."""
        for part in self.parts():
            if part.bin == k:
                yield self.sorted_part(part, pool, finish=finish)

    def _sort(self, part: Part, pool: BufferPool, finish: Finish) -> BinBlock:
        self._check_flags()
        data, keys, sources, borrowed = self._ordered(part, pool)
        records, keys = self._gather(data, sources, keys, finish, pool, part.n_bytes)
        if borrowed:
            pool.give_back(data)
        if part.bin == self.layout.n_bins:
            return BinBlock(records, np.zeros(len(keys), np.int64), 0, len(keys))
        place = (keys >> U(PLACE_SHIFT)).astype(np.int64) - HALO
        first, last = np.searchsorted(place, [part.start, part.stop])
        return BinBlock(records, place, int(first), int(last))

    def _ordered(
        self, part: Part, pool: BufferPool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.int64], bool]:
        """A part's records: the array they are in, their keys and sources in order, whether it is from the pool."""
        data, spans, n, borrowed = self._collect(part, pool)
        keys, sources = np.empty(n, np.uint64), np.empty(n, np.int64)
        list_records(data, spans, keys, sources)
        return data, *sort_keys(keys, sources), borrowed

    def _check_flags(self) -> None:
        for bits in (self.duplicate, self.optical):
            if 0 < 8 * len(bits) < self._filler.n_templates:
                raise InternalError(f"flags of {8 * len(bits)} templates, records of {self._filler.n_templates}")

    def _in_arena(self, part: Part) -> bool:
        return part.low == 0 and part.high == _KEY_END and not self._contents.pieces[part.bin]

    def _collect(self, part: Part, pool: BufferPool) -> tuple[NDArray[np.uint8], NDArray[np.int64], int, bool]:
        """Where the records of a part are: array, spans, their number, whether the array is from the pool."""
        contents = self._contents
        if self._in_arena(part):
            slabs = contents.slabs(part.bin)
            return contents.arena.data, spans_of(slabs), int(contents.table[part.bin, N_TOTAL]), False
        buffer = pool.take(part.n_bytes)
        filled = np.zeros(2, np.int64)
        for data, start, stop in contents.buffers(part.bin, part.low, part.high):
            select(data, start, stop, part.low, part.high, buffer, filled)
        return buffer, np.array([[0, filled[0]]], np.int64), int(filled[1]), True

    def _gather(
        self,
        data: NDArray[np.uint8],
        sources: NDArray[np.int64],
        keys: NDArray[np.uint64],
        finish: Finish,
        pool: BufferPool,
        n_bytes: int,
    ) -> tuple[RecordBlock, NDArray[np.uint64]]:
        """The records in the order given, finished, and their keys."""
        out = pool.take(n_bytes + (TAG_BYTES * len(keys) if finish.tagging else 0))
        offsets = np.zeros(len(keys) + 1, np.int64)
        n = gather(
            data,
            sources,
            keys,
            self._shift,
            self.duplicate,
            self.optical,
            int(finish.remove),
            finish.tagging,
            out,
            offsets,
        )
        return RecordBlock(out, offsets[: n + 1]), keys[:n]

    def records_of(self, k: int, *, halo: bool = False) -> Iterator[RecordBlock]:
        """Bin k's own records, unsorted, duplicates flagged, megabyte by megabyte; the bin keeps them.

        A block is valid until the next is asked for. All records must be in. Safe for threads. halo: those around it
        as well.
        """
        self._check_flags()
        low, high = (
            (HALO << PLACE_SHIFT, (HALO + BIN_BASES) << PLACE_SHIFT)
            if k < self.layout.n_bins and not halo
            else (0, _KEY_END)
        )
        room = self._contents.frame_bytes
        pool, buffer = BufferPool(), np.empty(room + PADDING, np.uint8)
        filled = np.zeros(2, np.int64)
        for data, start, stop in self._contents.buffers(k, low, high):
            if filled[0] + stop - start > room:
                yield from self._unsorted(buffer, filled, pool)
                filled[:] = 0
            select(data, start, stop, low, high, buffer, filled)
        if filled[0]:
            yield from self._unsorted(buffer, filled, pool)

    def _unsorted(
        self, buffer: NDArray[np.uint8], filled: NDArray[np.int64], pool: BufferPool
    ) -> Iterator[RecordBlock]:
        keys, sources = np.empty(filled[1], np.uint64), np.empty(filled[1], np.int64)
        list_records(buffer, np.array([[0, filled[0]]], np.int64), keys, sources)
        block, _ = self._gather(buffer, sources, keys, FLAG_DUPLICATES, pool, int((sources >> SOURCE_SHIFT).sum()))
        yield block
        pool.give_back(block.data)
