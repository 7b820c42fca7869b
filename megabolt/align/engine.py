# SPDX-License-Identifier: Apache-2.0
"""The pair aligner: a batch of pairs through all tiers.

In: `PairBatch`. Out: `Alignments`. Next: `align/record.py`.

1. pack and seed (`seed`), 2. place by a few seeds (`fast`), 3. place by all seeds (`full`), 4. re-score the poor
pairs by alignment (`extend.rescore`) and choose again, 5. align what is not plain (`extend.finish`), 6. place what
that left clipped (`split`), 7. on request, other places (`elsewhere`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megabolt.align.alignments import Alignments, ExtraAlignments
from megabolt.align.choose import FAST, MAPQ, MATE_COLUMNS, N_COLUMNS, N_CONTEXT, PLACE, STATUS, STRAND
from megabolt.align.elsewhere import add_elsewhere, find_elsewhere
from megabolt.align.extend import finish, rescore
from megabolt.align.fast import place_fast
from megabolt.align.full import QUEUE_PER_PAIR, place_full, place_rescored
from megabolt.align.hidden import TWO_COLOUR_NAMES, clip_hidden, hide_tails, trim_hidden
from megabolt.align.index import Index
from megabolt.align.options import AlignOptions
from megabolt.align.packed import LONGEST_INSERT, InsertSize, PackedReads, allocate_reads
from megabolt.align.seed import pack_reads
from megabolt.align.split import add_parts
from megabolt.formats.fastq import PairBatch

__all__ = ["InsertSize", "PairAligner"]


class _Workspace(threading.local):
    """Arrays of one thread, grown when a batch is larger or its reads are longer."""

    def __init__(self) -> None:
        self.n_pairs = 0
        self.longest = 0

    def fit(self, n_pairs: int, longest: int) -> None:
        if n_pairs <= self.n_pairs and longest <= self.longest:
            return
        self.n_pairs, self.longest = max(n_pairs, self.n_pairs), max(longest, self.longest)
        self.reads = allocate_reads(self.n_pairs, self.longest)
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

    def __init__(self, index: Index, options: AlignOptions | None = None) -> None:
        self.index = index
        self.options = options or AlignOptions()
        tables = index.tables()
        if not (self.options.alt and index.is_alt.any()):
            tables = tables._replace(is_alt=np.empty(0, np.uint8))
        self._tables = tables
        self._workspace = _Workspace()

    def align(self, batch: PairBatch, insert_size: InsertSize) -> Alignments:
        """Alignments of the reads of a batch; the same whatever batches came before."""
        work = self._place(batch, insert_size)
        alignments = finish(work.placed, batch.n_pairs, work.reads, self._tables)
        add_parts(alignments, work.reads, self._tables)
        if self.options.xa or len(self._tables.is_alt):
            add_elsewhere(work.placed, self.options, work.reads, self._tables, alignments)
        if self.options.adapters == "trim":
            trim_hidden(work.reads, alignments)
        else:
            clip_hidden(work.reads, alignments)
        return alignments

    def other_places(self, batch: PairBatch, own: Alignments, *, most: int) -> ExtraAlignments:
        """Alignments of reads that have places already, at up to `most` others: by read, the best first."""
        if batch.n_pairs == 0:
            return ExtraAlignments.allocate(0)
        work = self._room_for(batch)
        pack_reads(*batch.text, *batch.fields, batch.n_pairs, False, work.reads)
        return find_elsewhere(own.mapped, own, work.reads, self._tables, most=most)

    def learn_insert_size(self, batches: Sequence[PairBatch]) -> InsertSize:
        """Fragment lengths of a read group from its first batches."""
        found = [np.empty(0, np.int64)]
        for batch in batches:
            work = self._place_by_a_few_seeds(batch, InsertSize(), plain=True)  # gaps falsify what is measured here
            rows = work.placed[: batch.n_pairs]
            first, second = rows[:, :MATE_COLUMNS], rows[:, MATE_COLUMNS : 2 * MATE_COLUMNS]
            sure = (rows[:, STATUS] == FAST) & (first[:, MAPQ] >= 20) & (second[:, MAPQ] >= 20)
            length = work.reads.length[: 2 * batch.n_pairs].reshape(-1, 2)
            inserts = np.where(
                first[:, STRAND] == 0,
                second[:, PLACE] + length[:, 1] - first[:, PLACE],
                first[:, PLACE] + length[:, 0] - second[:, PLACE],
            )
            found.append(inserts[sure])
        return InsertSize.fitted(np.concatenate(found))

    def _hides_poly_g(self, batch: PairBatch) -> bool:
        if self.options.poly_g != "auto" or batch.n_pairs == 0:
            return self.options.poly_g == "on"
        start, length = batch.fields[0][0, :2].tolist()
        return batch.text[0][start : start + length].tobytes().startswith(TWO_COLOUR_NAMES)

    def _room_for(self, batch: PairBatch) -> _Workspace:
        """This thread's workspace, large enough for a batch."""
        n, work = batch.n_pairs, self._workspace
        work.fit(n, int(max(batch.fields[0][:n, 4].max(initial=0), batch.fields[1][:n, 4].max(initial=0))))
        return work

    def _place_by_a_few_seeds(self, batch: PairBatch, insert_size: InsertSize, plain: bool) -> _Workspace:
        """Fill this thread's workspace with the reads of a batch and the placements of those that are plain.

        plain: see `place_fast`.
        """
        n, work = batch.n_pairs, self._room_for(batch)
        pack_reads(*batch.text, *batch.fields, n, False, work.reads)
        place_fast(work.reads, self._tables, insert_size, n, plain, work.placed)
        return work

    def _place(self, batch: PairBatch, insert_size: InsertSize) -> _Workspace:
        """Fill this thread's workspace with the placements of a batch."""
        work = self._place_by_a_few_seeds(batch, insert_size, plain=False)
        n, reads, tables = batch.n_pairs, work.reads, self._tables
        if hide_tails(
            *batch.text, *batch.fields, n, self.options.adapters != "off", self._hides_poly_g(batch), reads, work.placed
        ):
            pack_reads(*batch.text, *batch.fields, n, True, reads)
        place_full(
            reads, tables, insert_size, n, work.placed, work.queue_key, work.queue_read, work.queue_pairs,
            work.contexts, work.queued,
        )  # fmt: skip
        n_queued, n_entries = work.queued.tolist()
        if n_queued:
            keys, penalties, spans = rescore(work.queue_read[:n_entries], work.queue_key[:n_entries], reads, tables)
            place_rescored(
                work.queue_pairs, keys, penalties, spans, work.contexts, n_queued, reads, insert_size, work.placed
            )  # fmt: skip
        if tables.circular[1]:
            _roll_up(work.placed[:n], reads.length[: 2 * n].reshape(n, 2), tables.circular)
        return work


def _roll_up(placed: NDArray[np.int64], length: NDArray[np.int64], circular: NDArray[np.int64]) -> None:
    """Put reads that lie mostly behind the end of the circular contig at its start."""
    offset, size = circular.tolist()
    place = placed[:, PLACE : PLACE + 2 * MATE_COLUMNS : MATE_COLUMNS]
    middle = place + length // 2
    place -= np.where((middle >= offset + size) & (place < offset + size + LONGEST_INSERT), size, 0)
