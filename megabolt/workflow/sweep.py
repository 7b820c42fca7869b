# SPDX-License-Identifier: Apache-2.0
"""Pass 2 of a job: each bin is sorted once and serves the BAM, the caller and the metrics while in memory.

In: a filled `BinStore` with duplicates decided. Out: blocks to the BAM writer in order, calls to the
`CallSink` in order, counts to the `Collector`.

Workers sort bins, recalibrate their qualities and call chunks; the calling thread writes the BAM and takes the calls.
A block's memory goes back when it is written and its last chunk is called; blocks are sorted ahead as far as the budget
goes. Deep bins come in parts, each a block of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.call.engine import MARGIN, CallOptions, ChunkCalls, call_chunk
from megabolt.call.reads import MAX_SPAN
from megabolt.errors import InternalError
from megabolt.formats.bam import RecordBlock
from megabolt.formats.fasta import Reference
from megabolt.metrics import Collector
from megabolt.reads.arena import BufferPool
from megabolt.reads.bins import FLAG_DUPLICATES, HALO, BinBlock, BinStore, Finish, Part, Region
from megabolt.recalibrate import Applier, keep_original_qualities
from megabolt.workflow.call_job import CallSink, Chunk, chunks_of
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import in_order, worker_pool
from megabolt.workflow.recalibrate_job import Covariates

if MARGIN + MAX_SPAN > HALO:
    raise InternalError(f"a bin's halo of {HALO} bases is less than the caller's margin and a read's span")

Targets = Sequence[NDArray[np.int64]] | None


class BlockWriter(Protocol):
    """What this pass needs of `formats.bam.BamWriter`."""

    def write(self, block: RecordBlock) -> None: ...


class ReadSource(Protocol):
    """What calling from a file needs of `formats.bam.BamReader`."""

    def fetch(self, contig: int, start: int, stop: int) -> RecordBlock: ...


@dataclass(frozen=True)
class Calling:
    """How and where to call: options (with targets), the reference, the sink."""

    reference: Reference
    options: CallOptions
    sink: CallSink
    sample: str
    gvcf: bool = False


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
    def counts(self) -> bool:
        """Whether anything is counted."""
        return self.collector is not None or self.covariates is not None


@dataclass
class _BlockWork:
    """A block in progress: its chunks with their results to come, and its counting."""

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
    parts = store.parts()
    n_held = threads + 1 if calling is not None else int(touch.counts)
    n_sorted, n_held = _blocks_at_work(store, parts, threads, n_held)
    bins = _Sweep(store, calling, touch, clock)
    pending: deque[_BlockWork] = deque()
    n_done = 0
    with worker_pool(threads) as pool, closing(in_order(pool, bins.sort, parts, n_sorted)) as blocks:  # type: ignore[type-var]
        for part, block in zip(parts, blocks):
            pending.append(bins.start(pool, part, block))
            if writer is not None:
                with clock.work("write BAM"):
                    writer.write(block.own())
            while pending and (len(pending) > n_held or part is parts[-1]):
                bins.finish(pending.popleft())
                n_done += 1
                if say is not None:
                    say(n_done)
    if calling is not None:
        calling.sink.finish()


def call_file(reader: ReadSource, calling: Calling, *, threads: int, clock: Clock) -> None:
    """Call the records of a file, chunk by chunk in the order of the genome."""

    def call(chunk: Chunk) -> tuple[Chunk, ChunkCalls]:
        with clock.work("read"):
            records = reader.fetch(chunk.contig, max(0, chunk.start - HALO), chunk.stop + HALO)
        return chunk, _call_records(records, chunk, calling, clock)

    contigs = enumerate(calling.reference.contigs)
    chunks = [chunk for k, contig in contigs for chunk in chunks_of(k, 0, contig.length, calling.options.targets)]
    with worker_pool(threads) as pool:
        for chunk, calls in in_order(pool, call, chunks, 2 * threads):
            with clock.work("write VCF"):
                calling.sink.add(chunk, calls)
    calling.sink.finish()


def _call_records(records: RecordBlock, chunk: Chunk, calling: Calling, clock: Clock) -> ChunkCalls:
    if len(records.offsets) == 1 and not calling.gvcf:
        return ChunkCalls([])
    with clock.work("call"):
        return call_chunk(
            records,
            calling.reference,
            chunk.contig,
            chunk.start,
            chunk.stop,
            calling.options,
            sample=calling.sample,
            gvcf=calling.gvcf,
        )


def _blocks_at_work(store: BinStore, parts: Sequence[Part], threads: int, n_held: int) -> tuple[int, int]:
    """How many sorted blocks may wait for the writer, and how many behind it for caller and metrics, `n_held` at most.

    Makes room for them in the budget. Sorting a block takes its memory twice if it comes from scratch.
    """
    largest = max(1, *(part.n_bytes for part in parts))
    room = store.budget * 3 // 4
    fitting = room // largest  # three at least: no part takes more than a quarter
    n_sorted = 1 + threads // 2
    while _blocks_wanted(n_sorted, n_held) > fitting and n_held + n_sorted > 0:
        if n_held >= n_sorted:
            n_held -= 1
        else:
            n_sorted -= 1
    store.seal(min(_blocks_wanted(n_sorted, n_held) * largest, room), threads)
    return n_sorted, n_held


def _blocks_wanted(n_sorted: int, n_held: int) -> int:
    """Blocks in memory: two for each that is sorted, the one being written, those held."""
    return 2 * (n_sorted + 1) + 1 + n_held


class _Sweep:
    """The steps of one block."""

    def __init__(self, store: BinStore, calling: Calling | None, touch: Touch, clock: Clock) -> None:
        self._store, self._calling, self._touch, self._clock = store, calling, touch, clock
        self._buffers = BufferPool()

    def sort(self, part: Part) -> BinBlock:
        """In a worker."""
        with self._clock.work("sort"):
            block = self._store.sorted_part(part, self._buffers, finish=self._touch.finish)
        if self._touch.applier is None:
            return block
        with self._clock.work("recalibrate"):
            if self._touch.applier.options.keep_original:
                longer = keep_original_qualities(block.records)
                self._buffers.give_back(block.records.data)
                block = replace(block, records=longer)
            self._touch.applier.apply(block.records)
        return block

    def start(self, pool: ThreadPoolExecutor, part: Part, block: BinBlock) -> _BlockWork:
        """Hand the block's chunks and its counting to the workers."""
        chunks = []
        stretches = part.stretches(self._store.layout)
        if self._calling is not None:
            for region, start, stop in stretches:
                for chunk in chunks_of(region.contig, start, stop, self._calling.options.targets):
                    chunks.append((chunk, pool.submit(self._call, block, region, chunk)))
        regions = [replace(region, start=start, stop=stop) for region, start, stop in stretches]
        counting = pool.submit(self._count, block, regions) if self._touch.counts else None
        return _BlockWork(block, chunks, counting)

    def _call(self, block: BinBlock, region: Region, chunk: Chunk) -> ChunkCalls:
        calling = self._calling
        if calling is None:
            raise InternalError("a chunk without a caller")
        records = block.around(region, chunk.start, chunk.stop)
        return _call_records(records, chunk, calling, self._clock)

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
