# SPDX-License-Identifier: Apache-2.0
"""Pass 2 of a job: each bin is sorted once and serves the BAM, the caller and the metrics while in memory.

In: a filled `BinStore` with duplicates decided. Out: blocks to the BAM writer in order, calls to the
`CallSink` in order, counts to the `Collector`.

Workers sort bins, recalibrate their qualities and call chunks; the calling thread writes the BAM and takes the calls.
A block's memory goes back when it is written and its last chunk is called; blocks are sorted ahead as far as the budget
goes. Deep bins come in parts, each a block of its own. A job that only writes makes no blocks: see `reads/pieces.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InternalError
from megabolt.formats.bam import RecordBlock
from megabolt.formats.bgzf import BATCH_BYTES, compress_batch
from megabolt.formats.fasta import Reference
from megabolt.reads.arena import BufferPool
from megabolt.reads.bins import BIN_BASES, FLAG_DUPLICATES, NO_TAG, BinBlock, BinStore, Finish, Part, Region
from megabolt.reads.pieces import FilledPiece, Piece, SortedPart, cut
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import Room, in_order, worker_pool

if TYPE_CHECKING:  # a job that does not call does not load the caller
    from megabolt.align.engine import PairAligner
    from megabolt.call.engine import CallOptions, ChunkCalls
    from megabolt.call.known import KnownIds
    from megabolt.metrics import Collector
    from megabolt.paralogs.settle import Moves
    from megabolt.recalibrate import Applier
    from megabolt.workflow.call_job import CallSink, Chunk
    from megabolt.workflow.file_chunks import FileChunks
    from megabolt.workflow.recalibrate_job import Covariates

Targets = Sequence[NDArray[np.int64]] | None


class BlockWriter(Protocol):
    """What this pass needs of `formats.bam.BamWriter`."""

    @property
    def level(self) -> int: ...

    def write(self, block: RecordBlock) -> None: ...

    def write_blocks(self, begun: RecordBlock, ahead: int, n_bytes: int, blocks: list[bytes]) -> None: ...


@dataclass(frozen=True)
class Calling:
    """How and where to call: options (with targets), the reference, the sink; names of known variants.

    aligner: knows other places of reads; None: all reads stay where they are (see `paralogs/settle.py`).
    """

    reference: Reference
    options: CallOptions
    sink: CallSink
    sample: str
    gvcf: bool = False
    all_sites: bool = False
    ids: KnownIds | None = None
    aligner: PairAligner | None = None


@dataclass(frozen=True)
class Touch:
    """What happens to each block before it is used.

    Attributes
    ----------
    finish
        What becomes of duplicates.
    applier
        Replaces base qualities; None: they stay.
    covariates
        Counts what came of that, for the report; None: nothing is counted.
    collector
        Counts metrics; None: nothing is counted.
    """

    finish: Finish = FLAG_DUPLICATES
    applier: Applier | None = None
    covariates: Covariates | None = None
    collector: Collector | None = None

    @property
    def changes(self) -> bool:
        """Whether it does anything but mark or remove."""
        return self.applier is not None or self.counts

    @property
    def counts(self) -> bool:
        """Whether anything is counted."""
        return self.collector is not None or self.covariates is not None


@dataclass
class _BlockWork:
    """A block in progress: its chunks with their results to come, and its counting."""

    part: Part
    block: BinBlock
    chunks: list[tuple[Chunk, Future[ChunkCalls]]]
    counting: Future[None] | None


def sweep(
    store: BinStore,
    writer: BlockWriter | None,
    calling: Calling | None,
    touch: Touch,
    *,
    threads: int,
    clock: Clock,
    say: Callable[[int], None] | None = None,
) -> None:
    """Write, call and count all bins.

    Parameters
    ----------
    store
        Filled, its flags set. Its budget holds for the blocks at work too.
    writer
        Receives each block's own records in order, then the unplaced reads; None: no BAM.
    calling
        None: no calls.
    say
        Told the number of blocks done.
    """
    finish = touch.finish
    if writer is not None and calling is None and not touch.changes and finish.tagging == NO_TAG:
        _write(store, writer, finish.remove, threads=threads, clock=clock, say=say)
        return
    parts = store.parts(threads)
    n_sorted, n_held = 1 + threads // 2, threads + 1 if calling is not None else int(touch.counts)
    room = _room_for(store, [part.n_bytes for part in parts], n_held + 1, n_sorted + 1, threads)
    bins = _Sweep(store, calling, touch, clock, room)
    pending: deque[_BlockWork] = deque()
    n_done = 0
    n_parts = Counter(part.bin for part in parts if part.bin < store.layout.n_bins)
    bins.find_moves(k for k, n in n_parts.items() if n > 1)
    with (
        worker_pool(threads) as pool,
        closing(in_order(pool, bins.sort, bins.admitted(parts), n_sorted, bins.fits)) as blocks,
    ):
        for part, following, block in zip(parts, [*parts[1:], None], blocks):
            pending.append(bins.start(pool, part, block))
            if writer is not None:
                with clock.work("write BAM"):
                    writer.write(block.own())
            while pending and (len(pending) > n_held or following is None or not bins.fits(following)):
                bins.finish(pending.popleft())
                n_done += 1
                if say is not None:
                    say(n_done)
    if calling is not None:
        calling.sink.finish()


def _write(
    store: BinStore,
    writer: BlockWriter,
    remove: bool,
    *,
    threads: int,
    clock: Clock,
    say: Callable[[int], None] | None,
) -> None:
    """Write all bins, piece by piece; the workers compress as well."""
    parts = store.parts(threads)
    n_sorted = 1 + threads // 2
    sizes = [store.order_bytes(part) for part in parts]
    if store.spilled_bytes or store.used + sum(sizes) > store.budget:
        sizes = [part.n_bytes for part in parts]
    room = _room_for(store, sizes, n_sorted + 2, 0, threads)
    buffers, filler = BufferPool(), store.piece_filler(BATCH_BYTES)
    charged = dict(zip(parts, sizes))
    n_done = 0

    def order(part: Part) -> SortedPart:
        with clock.work("sort"):
            return store.order_of(part, buffers, remove=remove)

    def pack(piece: Piece) -> tuple[FilledPiece, list[bytes]]:
        with clock.work("sort"):
            filled = filler.fill(piece)
        with clock.work("compress"):
            return filled, compress_batch(filled.content, writer.level)

    def admitted() -> Iterator[Part]:
        for part in parts:
            yield part
            room.take(charged[part])

    def fits(part: Part) -> bool:
        return room.fits(charged[part])

    with worker_pool(threads) as pool, ExitStack() as stack:
        ordered = in_order(pool, order, admitted(), n_sorted, fits)
        stack.callback(ordered.close)
        packed = in_order(pool, pack, cut(ordered, BATCH_BYTES), 2 * threads)
        stack.callback(packed.close)
        for filled, blocks in packed:
            with clock.work("write BAM"):
                writer.write_blocks(filled.begun, filled.ahead, filled.piece.n_bytes, blocks)
            filler.give_back(filled)
            for part in filled.piece.done:
                store.forget(part, buffers)
                room.give_back(charged[part.part])
                n_done += 1
                if say is not None:
                    say(n_done)


def call_file(file: FileChunks, calling: Calling, *, threads: int, clock: Clock) -> None:
    """Call the records of a file, chunk by chunk in the order of the genome."""
    from megabolt.workflow.call_job import chunks_of

    options = calling.options

    def call(chunk: Chunk) -> tuple[Chunk, ChunkCalls]:
        with clock.work("read"):
            records = file.take(chunk)
        return chunk, _call_records(records, chunk, calling, clock)

    contigs = enumerate(calling.reference.contigs)
    limits = (options.targets, options.regions)
    chunks = [chunk for k, contig in contigs for chunk in chunks_of(k, 0, contig.length, *limits)]
    with worker_pool(threads) as pool:
        for chunk, calls in in_order(pool, call, chunks, 2 * threads):
            with clock.work("write VCF"):
                calling.sink.add(chunk, calls)
    calling.sink.finish()


def _call_records(
    records: RecordBlock, chunk: Chunk, calling: Calling, clock: Clock, moves: Moves | None = None
) -> ChunkCalls:
    """The calls of a chunk. moves: of its records; None: to be found among them, which are all of a whole chunk."""
    from megabolt.call.engine import ChunkCalls, call_chunk
    from megabolt.workflow.call_job import moves_in

    forced = chunk.contig in calling.options.forced
    if len(records.offsets) == 1 and not (calling.gvcf or calling.all_sites or forced):
        return ChunkCalls([])
    with clock.work("call"):
        if moves is None:
            moves = moves_in([records].__iter__, chunk, calling.reference, calling.options, calling.aligner)
        calls = call_chunk(
            moves.applied(records),
            calling.reference,
            chunk.contig,
            chunk.start,
            chunk.stop,
            calling.options,
            sample=calling.sample,
            gvcf=calling.gvcf,
            all_sites=calling.all_sites,
        )
        if calling.ids is not None:
            calls.variants = calling.ids.name(calls.variants)
        return calls


def _room_for(store: BinStore, sizes: Sequence[int], n_once: int, n_twice: int, threads: int) -> Room:
    """Room for what of `sizes` is at work at a time, at most three quarters of the budget; the store makes it.

    That is `n_once` neighbours and, twice as much each, the `n_twice` that follow: while a block is sorted, its records
    may be there twice. Parts wait for room one by one: a deep bin holds up what comes behind it, not the whole genome.
    """
    total = np.concatenate([[0], np.cumsum(sizes), np.full(n_once + n_twice, sum(sizes))])
    once = total[n_once : n_once + len(sizes)] - total[: len(sizes)]
    behind = total[n_once + n_twice :][: len(sizes)] - total[n_once : n_once + len(sizes)]
    n_bytes = min(int((once + 2 * behind).max(initial=0)), store.budget * 3 // 4)
    store.seal(n_bytes, threads)
    return Room(n_bytes)


class _Sweep:
    """The steps of one block."""

    def __init__(self, store: BinStore, calling: Calling | None, touch: Touch, clock: Clock, room: Room) -> None:
        self._store, self._calling, self._touch, self._clock, self._room = store, calling, touch, clock, room
        self._buffers = BufferPool()
        self._moves: dict[tuple[int, int], Moves] = {}

    def find_moves(self, deep: Iterable[int]) -> None:
        """Find out, for bins whose chunks are called in parts, what moves: that takes all records of a chunk."""
        calling = self._calling
        if calling is None:
            return
        from megabolt.workflow.call_job import chunks_of, moves_in

        for k in deep:
            blocks = partial(self._records_of, k)
            for region in self._store.layout.regions[k]:
                for chunk in chunks_of(region.contig, region.start, region.stop, calling.options.targets):
                    with self._clock.work("call"):
                        found = moves_in(blocks, chunk, calling.reference, calling.options, calling.aligner)
                    self._moves[chunk.contig, chunk.start // BIN_BASES] = found

    def _records_of(self, k: int) -> Iterator[RecordBlock]:
        for block in self._store.records_of(k, halo=True):
            if self._touch.applier is not None:
                self._touch.applier.apply(block)
            yield block

    def fits(self, part: Part) -> bool:
        """Whether there is room to sort a part."""
        return self._room.fits(2 * part.n_bytes)

    def admitted(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts, each of which takes its room."""
        for part in parts:
            yield part
            self._room.take(2 * part.n_bytes)

    def sort(self, part: Part) -> BinBlock:
        """In a worker."""
        with self._clock.work("sort"):
            block = self._store.sorted_part(part, self._buffers, finish=self._touch.finish)
        if self._touch.applier is None:
            return block
        with self._clock.work("recalibrate"):
            if self._touch.applier.options.keep_original:
                from megabolt.recalibrate import keep_original_qualities

                longer = keep_original_qualities(block.records)
                self._buffers.give_back(block.records.data)
                block = replace(block, records=longer)
            self._touch.applier.apply(block.records)
        return block

    def start(self, pool: ThreadPoolExecutor, part: Part, block: BinBlock) -> _BlockWork:
        """Hand the block's chunks and its counting to the workers."""
        self._room.give_back(part.n_bytes)  # it is sorted
        chunks = []
        stretches = part.stretches(self._store.layout)
        if self._calling is not None:
            from megabolt.workflow.call_job import chunks_of

            for region, start, stop in stretches:
                for chunk in chunks_of(region.contig, start, stop, self._calling.options.targets):
                    chunks.append((chunk, pool.submit(self._call, block, region, chunk)))
        regions = [replace(region, start=start, stop=stop) for region, start, stop in stretches]
        counting = pool.submit(self._count, block, regions) if self._touch.counts else None
        return _BlockWork(part, block, chunks, counting)

    def _call(self, block: BinBlock, region: Region, chunk: Chunk) -> ChunkCalls:
        calling = self._calling
        if calling is None:
            raise InternalError("a chunk without a caller")
        records = block.around(region, chunk.start, chunk.stop)
        return _call_records(
            records, chunk, calling, self._clock, self._moves.get((chunk.contig, chunk.start // BIN_BASES))
        )

    def _count(self, block: BinBlock, regions: Sequence[Region]) -> None:
        if self._touch.collector is not None:
            with self._clock.work("metrics"):
                self._touch.collector.add(block, regions)
        if self._touch.covariates is not None:
            with self._clock.work("count covariates"):
                self._touch.covariates.add(block.own())

    def finish(self, work: _BlockWork) -> None:
        """Pass the block's calls on and give its memory back; waits for the workers."""
        for chunk, calls in work.chunks:
            found = calls.result()
            if self._calling is not None:
                with self._clock.work("write VCF"):
                    self._calling.sink.add(chunk, found)
        if work.counting is not None:
            work.counting.result()
        self._buffers.give_back(work.block.records.data)
        self._room.give_back(work.part.n_bytes)
