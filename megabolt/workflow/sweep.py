# SPDX-License-Identifier: Apache-2.0
"""Pass 2 of a job: each bin is sorted once and serves the BAM, the caller and the metrics while in memory.

In: a filled `BinStore` with duplicates decided. Out: blocks to the BAM writer in order, calls to the
`CallSink` in order, counts.

Workers sort bins and call chunks; the calling thread writes the BAM and takes the calls. A bin's memory goes
back when its block is written and its last chunk is called; bins are sorted ahead as far as the budget goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.call.engine import MARGIN, CallOptions, ChunkCalls, call_chunk
from megabolt.call.reads import MAX_SPAN
from megabolt.errors import InternalError
from megabolt.formats.bam import RecordBlock
from megabolt.formats.fasta import Reference
from megabolt.reads.arena import BufferPool
from megabolt.reads.bins import HALO, BinBlock, BinStore, Region
from megabolt.workflow.call_job import CallSink, Chunk, chunks_of
from megabolt.workflow.clock import Clock
from megabolt.workflow.metrics import COUNTS, count_reads
from megabolt.workflow.ordered import in_order, worker_pool

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


@dataclass
class _BinWork:
    """A bin in progress: its block, its chunks with their results to come, its counts to come."""

    block: BinBlock
    chunks: list[tuple[Chunk, Future[ChunkCalls]]]
    counts: Future[NDArray[np.int64]]


def sweep(
    store: BinStore,
    writer: BlockWriter | None,
    calling: Calling | None,
    *,
    targets: Targets,
    threads: int,
    memory: int,
    clock: Clock,
    say: Callable[[int], None] | None = None,
) -> NDArray[np.int64]:
    """Write and call all bins; returns the counts of the reads (`metrics.COUNTS`).

    Parameters
    ----------
    writer
        Receives each bin's own records in order, then the unplaced reads; None: no BAM.
    calling
        None: no calls.
    targets
        For the depth on target.
    memory
        Bytes that bins in memory, sorted or not, should not exceed.
    say
        Told the number of bins done.
    """
    bins = _Sweep(store, calling, targets, clock)
    total = np.zeros(len(COUNTS), np.int64)
    order = range(store.layout.n_bins + 1)
    n_sorted, n_called = _bins_in_memory(store, memory, threads)
    pending: deque[_BinWork] = deque()
    n_done = 0
    with worker_pool(threads) as pool, closing(in_order(pool, bins.sort, order, n_sorted)) as blocks:  # type: ignore[type-var]
        for k, block in enumerate(blocks):
            pending.append(bins.start(pool, k, block))
            if writer is not None:
                with clock.work("write BAM"):
                    writer.write(block.own())
            while pending and (len(pending) > n_called or k == len(order) - 1):
                total += bins.finish(pending.popleft())
                n_done += 1
                if say is not None:
                    say(n_done)
    if calling is not None:
        calling.sink.finish()
    return total


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


def _bins_in_memory(store: BinStore, memory: int, threads: int) -> tuple[int, int]:
    """How many sorted bins may wait for the writer, and how many for the caller; at least one of each.

    Calling a bin takes ten times as long as sorting it. A sorted block takes as much again as its bin, which
    is given back when the block is complete.
    """
    largest = max(store.block_bytes(k) for k in range(store.layout.n_bins + 1))
    fitting = max(0, memory - store.used) // max(1, largest)
    n_sorted = min(1 + threads // 2, max(1, fitting // 4))
    return n_sorted, max(1, min(threads + 1, fitting - n_sorted - 1))


class _Sweep:
    """The steps of one bin."""

    def __init__(self, store: BinStore, calling: Calling | None, targets: Targets, clock: Clock) -> None:
        self._store, self._calling, self._targets, self._clock = store, calling, targets, clock
        self._buffers = BufferPool()

    def sort(self, k: int) -> BinBlock:
        """In a worker."""
        with self._clock.work("sort"):
            return self._store.sorted_block(k, self._buffers)

    def start(self, pool: ThreadPoolExecutor, k: int, block: BinBlock) -> _BinWork:
        """Hand the bin's chunks and counts to the workers."""
        chunks = []
        if self._calling is not None and k < self._store.layout.n_bins:
            for region in self._store.layout.regions[k]:
                for chunk in chunks_of(region.contig, region.start, region.stop, self._calling.options.targets):
                    chunks.append((chunk, pool.submit(self._call, block, region, chunk)))
        return _BinWork(block, chunks, pool.submit(self._count, block))

    def _call(self, block: BinBlock, region: Region, chunk: Chunk) -> ChunkCalls:
        calling = self._calling
        if calling is None:
            raise InternalError("a chunk without a caller")
        records = block.around(region, chunk.start, chunk.stop)
        return _call_records(records, chunk, calling, self._clock)

    def _count(self, block: BinBlock) -> NDArray[np.int64]:
        with self._clock.work("count"):
            return count_reads(block.own(), self._targets)

    def finish(self, work: _BinWork) -> NDArray[np.int64]:
        """Pass the bin's calls on and give its memory back; waits for the workers."""
        for chunk, calls in work.chunks:
            found = calls.result()
            if self._calling is not None:
                with self._clock.work("write VCF"):
                    self._calling.sink.add(chunk, found)
        counts = work.counts.result()
        self._buffers.give_back(work.block.records.data)
        return counts
