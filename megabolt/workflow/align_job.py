# SPDX-License-Identifier: Apache-2.0
"""Pass 1 of a job: reads to packed records in bins, and their templates to the duplicate finder.

In: batches of reads, index. Out: a filled `BinStore` and `DuplicateFinder`. Next: `workflow/sweep.py`.

The calling thread draws batches (two more threads inflate and parse), N workers align them and write records.
Batches have fixed borders and records carry their ordinal, so nothing depends on which worker took what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Protocol

from megabolt.align.alignments import Alignments
from megabolt.align.engine import InsertSize, PairAligner
from megabolt.align.index import Index
from megabolt.align.options import AlignOptions
from megabolt.align.record import ContigNames, RecordChunk, build_records
from megabolt.formats.fastq import PairBatch
from megabolt.reads.bins import BinStore
from megabolt.reads.duplicates.finder import DuplicateFinder
from megabolt.reads.duplicates.templates import templates_of
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import in_order, worker_pool
from megabolt.workflow.read_groups import ReadGroup
from megabolt.workflow.read_input import PAIRS_PER_BATCH, OpenedReads

#: The insert sizes of a read group are learnt from its first batches, some 16,000 pairs.
LEARNING_BATCHES = 2


class Aligner(Protocol):
    """What this job needs of `align.engine.PairAligner`."""

    def learn_insert_size(self, batches: Sequence[PairBatch]) -> InsertSize: ...

    def align(self, batch: PairBatch, insert_size: InsertSize) -> Alignments: ...


class _Worker:
    """Aligns a batch and stores its records; one chunk of memory per thread."""

    def __init__(
        self,
        aligner: Aligner,
        index: Index,
        groups: Sequence[ReadGroup],
        store: BinStore,
        finder: DuplicateFinder,
        clock: Clock,
        options: AlignOptions,
    ) -> None:
        self._aligner, self._index, self._clock = aligner, index, clock
        self._store, self._finder = store, finder
        self._soft_clip = options.soft_clip
        self._names = ContigNames.of([contig.name for contig in index.contigs])
        self._ids = [group.read_group.encode() for group in groups]
        self._local = threading.local()

    def __call__(self, task: tuple[PairBatch, InsertSize]) -> int:
        batch, insert_size = task
        index, n_pairs = self._index, batch.n_pairs
        with self._clock.work("align"):
            alignments = self._aligner.align(batch, insert_size)
        with self._clock.work("records"):
            chunk = getattr(self._local, "chunk", None) or RecordChunk.allocate(PAIRS_PER_BATCH)
            chunk = self._local.chunk = build_records(
                batch,
                alignments,
                index.packed_reference,
                index.contig_offset,
                index.n_intervals,
                self._ids[batch.read_group],
                chunk,
                names=self._names,
                soft_clip=self._soft_clip,
            )
        with self._clock.work("duplicates"):
            options = self._finder.options
            self._finder.add(templates_of(chunk, want_umi=options.umi, duplex=options.duplex), chunk.first_pair)
        with self._clock.work("bins"):
            self._store.add(chunk)
        batch.release()
        return n_pairs


def align_reads(
    index: Index,
    reads: OpenedReads,
    store: BinStore,
    finder: DuplicateFinder,
    *,
    threads: int,
    clock: Clock,
    options: AlignOptions,
    say: Callable[[int], None] | None = None,
    aligner: Aligner | None = None,
) -> list[InsertSize]:
    """Align all reads of a sample and put their records into bins.

    Parameters
    ----------
    store
        Takes the records.
    finder
        Takes the templates; its libraries are those of the read groups.
    say
        Told the number of pairs and unpaired reads done, after each batch.
    options
        Of the aligner and of its records.
    aligner
        `PairAligner(index, options)` unless given.

    Returns
    -------
    The insert sizes learnt, one for each read group that has pairs.
    """
    aligner = aligner or PairAligner(index, options)
    learnt: dict[int, InsertSize] = {}
    worker = _Worker(aligner, index, reads.read_groups, store, finder, clock, options)
    n_pairs = 0
    with closing(reads.batches) as batches, worker_pool(threads) as pool:  # type: ignore[type-var]
        tasks = _with_insert_sizes(batches, aligner, learnt, reads.take_turns)
        for done in in_order(pool, worker, tasks, 2 * threads):
            n_pairs += done
            if say is not None:
                say(n_pairs)
    return list(learnt.values())


def _with_insert_sizes(
    batches: Iterable[PairBatch], aligner: Aligner, learnt: dict[int, InsertSize], take_turns: bool
) -> Iterator[tuple[PairBatch, InsertSize]]:
    """Each batch with the insert sizes of its read group, which come from the group's first batches of pairs.

    These wait until there are enough of them, or no more can come. Batches know their place: their order is free.
    """
    waiting: dict[int, list[PairBatch]] = {}

    def learn(group: int) -> Iterator[tuple[PairBatch, InsertSize]]:
        first = waiting.pop(group)
        learnt[group] = aligner.learn_insert_size(first)
        yield from ((batch, learnt[group]) for batch in first)

    for batch in batches:
        group = batch.read_group
        if not take_turns:
            for other in [other for other in waiting if other != group]:
                yield from learn(other)
        if not batch.paired:  # unpaired reads have none to learn
            yield batch, InsertSize()
        elif group in learnt:
            yield batch, learnt[group]
        else:
            waiting.setdefault(group, []).append(batch)
            if len(waiting[group]) == LEARNING_BATCHES:
                yield from learn(group)
    for group in list(waiting):
        yield from learn(group)
