# SPDX-License-Identifier: Apache-2.0
"""The pair aligner: a batch of pairs through all tiers.

In: `PairBatch`. Out: `Alignments`. Next: `align/record.py`.

1. pack and seed (`seed`), 2. place by a few seeds (`fast`), 3. place by all seeds (`full`), 4. re-score the poor
pairs by alignment (`extend.rescore`) and choose again, 5. align what is not plain (`extend.finish`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.align.alignments import Alignments
from megabolt.align.extend import finish, rescore
from megabolt.align.fast import FAST, MAPQ1, MATE_COLUMNS, N_COLUMNS, PLACE1, STATUS, STRAND1, place_fast
from megabolt.align.full import N_CONTEXT, QUEUE_PER_PAIR, place_full, place_rescored
from megabolt.align.index import Index
from megabolt.align.seed import PackedReads, allocate_reads, pack_reads
from megabolt.formats.fastq import PairBatch

#: Longest fragment that can count as a proper pair; the index keeps more filler than this between contigs.
LONGEST_INSERT = 3500
#: Shortest fragment: shorter ones are adapter dimers.
SHORTEST_INSERT = 35
#: Pairs a library must show before its insert sizes are believed.
_ENOUGH_PAIRS = 100


@dataclass(frozen=True)
class InsertSize:
    """Fragment lengths of a read group, in bases: mean, standard deviation, and the range of proper pairs."""

    mean: float = 400.0
    sd: float = 200.0
    low: int = SHORTEST_INSERT
    high: int = 1600

    @staticmethod
    def fitted(inserts: NDArray[np.int64]) -> InsertSize:
        """Fit to fragment lengths: the middle half sets the range in which mean and sd are taken, as in bwa."""
        if len(inserts) < _ENOUGH_PAIRS:
            return InsertSize()
        q25, q75 = np.percentile(inserts, (25, 75))
        spread = max(q75 - q25, 10.0)
        kept = inserts[(inserts >= q25 - 2 * spread) & (inserts <= q75 + 2 * spread)]
        mean, sd = float(kept.mean()), max(float(kept.std()), 5.0)
        high = min(LONGEST_INSERT, int(mean + 6 * sd) + 1)
        return InsertSize(mean, sd, SHORTEST_INSERT, high)


class _Workspace(threading.local):
    """Arrays of one thread, grown when a batch is larger or its reads are longer."""

    def __init__(self) -> None:
        self.n_pairs = 0
        self.longest = 0
        self.words = 0
        self.slots = 0

    def fit(self, n_pairs: int, longest: int) -> None:
        if n_pairs <= self.n_pairs and longest <= self.longest:
            return
        self.n_pairs, self.longest = max(n_pairs, self.n_pairs), max(longest, self.longest)
        self.reads, self.words, self.slots = allocate_reads(self.n_pairs, self.longest)
        self.placed = np.zeros((self.n_pairs, N_COLUMNS), np.int64)
        self.queue_key = np.zeros(self.n_pairs * QUEUE_PER_PAIR, np.int64)
        self.queue_read = np.zeros(self.n_pairs * QUEUE_PER_PAIR, np.int64)
        self.queue_pairs = np.zeros((self.n_pairs, 4), np.int64)
        self.contexts = np.zeros((self.n_pairs, N_CONTEXT), np.float64)
        self.queued = np.zeros(2, np.int64)

    reads: PackedReads
    placed: NDArray[np.int64]
    queue_key: NDArray[np.int64]
    queue_read: NDArray[np.int64]
    queue_pairs: NDArray[np.int64]
    contexts: NDArray[np.float64]
    queued: NDArray[np.int64]


class PairAligner:
    """Aligns batches of read pairs to an index; safe to use from several threads."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._workspace = _Workspace()

    def align(self, batch: PairBatch, insert_size: InsertSize) -> Alignments:
        """Alignments of the reads of a batch; the same whatever batches came before."""
        work = self._place(batch, insert_size)
        return finish(work.placed, batch.n_pairs, work.reads, work.words, self.index)

    def learn_insert_size(self, batches: Sequence[PairBatch]) -> InsertSize:
        """Fragment lengths of a read group from its first batches."""
        found = [np.empty(0, np.int64)]
        for batch in batches:
            work = self._place(batch, InsertSize())
            rows = work.placed[: batch.n_pairs]
            sure = (rows[:, STATUS] == FAST) & (rows[:, MAPQ1] >= 20) & (rows[:, MAPQ1 + MATE_COLUMNS] >= 20)
            length = work.reads.length[: 2 * batch.n_pairs].reshape(-1, 2)
            place1, place2 = rows[:, PLACE1], rows[:, PLACE1 + MATE_COLUMNS]
            inserts = np.where(rows[:, STRAND1] == 0, place2 + length[:, 1] - place1, place1 + length[:, 0] - place2)
            found.append(inserts[sure])
        return InsertSize.fitted(np.concatenate(found))

    def _place(self, batch: PairBatch, insert_size: InsertSize) -> _Workspace:
        """Fill this thread's workspace with the placements of a batch."""
        n, work, index = batch.n_pairs, self._workspace, self.index
        longest = int(max(batch.fields[0][:n, 4].max(initial=0), batch.fields[1][:n, 4].max(initial=0)))
        work.fit(n, longest)
        reads = work.reads
        pack_reads(batch.text[0], batch.text[1], batch.fields[0], batch.fields[1], n, work.words, work.slots, *reads)
        packed = (
            reads.forward,
            reads.reverse,
            reads.class_forward,
            reads.class_reverse,
            reads.length,
            reads.name_hash,
            reads.seeds,
            reads.n_seeds,
            n,
            work.words,
            work.slots,
        )
        tables = (index.packed_reference, index.table, index.lists, index.tag_shift)
        insert = (insert_size.mean, insert_size.sd, insert_size.low, insert_size.high)
        place_fast(*packed, *tables, *insert, work.placed)
        place_full(
            *packed,
            *tables,
            *insert,
            work.placed,
            work.queue_key,
            work.queue_read,
            work.queue_pairs,
            work.contexts,
            work.queued,
        )
        n_queued, n_entries = work.queued.tolist()
        if n_queued:
            keys, penalties = rescore(work.queue_read[:n_entries], work.queue_key[:n_entries], reads, work.words, index)
            place_rescored(
                work.queue_pairs,
                keys,
                penalties,
                work.contexts,
                n_queued,
                reads.length,
                reads.name_hash,
                *insert,
                work.placed,
            )
        return work
