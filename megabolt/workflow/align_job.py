# SPDX-License-Identifier: Apache-2.0
"""Pass 1 of a job: FASTQ to packed records in bins.

In: FASTQ lanes, index. Out: a filled `BinStore`, duplicates decided. Next: `workflow/sweep.py`.

The calling thread draws batches (two more threads inflate and parse), N workers align them and write records.
Batches have fixed borders and records carry their ordinal, so nothing depends on which worker took what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Protocol

from megabolt.align.alignments import Alignments
from megabolt.align.engine import InsertSize, PairAligner
from megabolt.align.index import Index
from megabolt.align.options import AlignOptions
from megabolt.align.record import ContigNames, RecordChunk, build_records
from megabolt.errors import UsageError
from megabolt.formats.fastq import PairBatch, read_lanes
from megabolt.formats.lane import FastqLane
from megabolt.privacy.consent import Permit
from megabolt.reads.bins import BinStore
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import in_order, worker_pool
from megabolt.workflow.read_groups import ReadGroup

#: Pairs that are aligned together: enough that Python's share of the work, 2 ms a batch, is small; 20 MB of memory.
PAIRS_PER_BATCH = 8192
#: The insert sizes of a read group are learnt from its first batches, some 16,000 pairs.
LEARNING_BATCHES = 2


class Aligner(Protocol):
    """What this job needs of `align.engine.PairAligner`."""

    def learn_insert_size(self, batches: Sequence[PairBatch]) -> InsertSize: ...

    def align(self, batch: PairBatch, insert_size: InsertSize) -> Alignments: ...


@dataclass(frozen=True)
class FastqInput:
    """FASTQ files of one sample; the k-th lane is the k-th read group. `umi` as in `read_lanes`."""

    lanes: tuple[FastqLane, ...]
    read_groups: tuple[ReadGroup, ...]
    umi: str | None = None

    def __post_init__(self) -> None:
        if not len(self.lanes) == len(self.read_groups) > 0:
            raise UsageError(
                f"{len(self.lanes)} lanes, {len(self.read_groups)} read groups", "Give as many of each, at least one."
            )

    @property
    def templates(self) -> str:
        """What its templates are called: read pairs, reads, or both."""
        kinds = {lane.paired for lane in self.lanes}
        return "pairs and unpaired reads" if len(kinds) > 1 else "read pairs" if kinds == {True} else "reads"


class _Worker:
    """Aligns a batch and stores its records; one chunk of memory per thread."""

    def __init__(
        self,
        aligner: Aligner,
        index: Index,
        groups: Sequence[ReadGroup],
        store: BinStore,
        clock: Clock,
        options: AlignOptions,
    ) -> None:
        self._aligner, self._index, self._store, self._clock = aligner, index, store, clock
        self._soft_clip = options.soft_clip
        self._names = ContigNames.of([contig.name for contig in index.contigs])
        self._ids = [group.read_group.encode() for group in groups]
        libraries = list(dict.fromkeys(group.library for group in groups))
        self._library = [libraries.index(group.library) for group in groups]
        self._local = threading.local()

    def __call__(self, task: tuple[PairBatch, InsertSize]) -> int:
        batch, insert_size = task
        index, n_pairs = self._index, batch.n_pairs
        with self._clock.work("align"):
            alignments = self._aligner.align(batch, insert_size)
        with self._clock.work("records"):
            chunk = getattr(self._local, "chunk", None) or RecordChunk.allocate(PAIRS_PER_BATCH)
            self._local.chunk = build_records(
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
        with self._clock.work("bins"):
            self._store.add(self._local.chunk, self._library[batch.read_group])
        batch.release()
        return n_pairs


def align_reads(
    index: Index,
    reads: FastqInput,
    permit: Permit,
    store: BinStore,
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
    learnt: list[InsertSize] = []
    worker = _Worker(aligner, index, reads.read_groups, store, clock, options)
    n_pairs = 0
    with (
        closing(read_lanes(reads.lanes, permit, pairs_per_batch=PAIRS_PER_BATCH, umi=reads.umi)) as batches,  # type: ignore[type-var]
        worker_pool(threads) as pool,
    ):
        for done in in_order(pool, worker, _with_insert_sizes(batches, aligner, learnt), 2 * threads):
            n_pairs += done
            if say is not None:
                say(n_pairs)
    return learnt


def _with_insert_sizes(
    batches: Iterable[PairBatch], aligner: Aligner, learnt: list[InsertSize]
) -> Iterator[tuple[PairBatch, InsertSize]]:
    """Each batch with the insert sizes of its read group, which come from the group's first batches."""
    for _, group in groupby(batches, key=lambda batch: batch.read_group):
        yield from _learn_first(group, aligner, learnt)


def _learn_first(
    group: Iterator[PairBatch], aligner: Aligner, learnt: list[InsertSize]
) -> Iterator[tuple[PairBatch, InsertSize]]:
    first = list(islice(group, LEARNING_BATCHES))
    insert_size = InsertSize()  # unpaired reads have none to learn
    if first[0].paired:
        insert_size = aligner.learn_insert_size(first)
        learnt.append(insert_size)
    for batch in chain(first, group):
        yield batch, insert_size
