# SPDX-License-Identifier: Apache-2.0
"""The reads of an existing BAM, CRAM or unaligned BAM, to be aligned again.

In: records in any order. Out: `PairBatch`, as `formats/fastq.py` gives. Next: `megabolt.align`.

Reads come back as the sequencer gave them: those that lie on the reverse strand are turned over; secondary and
supplementary records, which repeat bases of others, are left out. Mates are brought together by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError, ResourceError
from megabolt.formats.alignment_file import AlignmentFile
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fastq import FRONT, PairBatch
from megabolt.formats.fastq_scan import MAX_READ, N_FIELDS
from megabolt.formats.name_join import NameJoin
from megabolt.formats.record_facts import SECOND, SINGLE, Describer, Facts, HeaderGroup, read_groups_of
from megabolt.formats.record_text import (
    BAD_QUALITY,
    BASES_ARE_GONE,
    EQUAL_SIGNS,
    HARD_CLIPPED,
    NO_QUALITIES,
    TOO_LONG,
    keep_reads,
    kept_bytes,
    move_reads,
    write_texts,
)
from megabolt.privacy.consent import Permit

_FIRST_GUESS = 700  # bytes of a pair: name, two times 150 bases and qualities
_ORIGINAL = "Align the original FASTQ, or a file that keeps all bases (soft clips)."
_EXPLANATION = {
    HARD_CLIPPED: ("the primary record of a read is hard-clipped: bases are missing", _ORIGINAL),
    BASES_ARE_GONE: ("the primary record of a read has a place but no bases", _ORIGINAL),
    EQUAL_SIGNS: ("bases are written as '=', which says nothing without the reference", "Undo `samtools calmd -e`."),
    NO_QUALITIES: ("the read has no base qualities", "megabolt needs them: align the original FASTQ."),
    BAD_QUALITY: ("a base quality is above 93", "The file is damaged: make it again."),
    TOO_LONG: (f"the read is longer than {MAX_READ} bases", "megabolt takes short reads; drop longer ones."),
}


class AlignedInput:
    """The reads of a BAM or CRAM file as batches.

    Parameters
    ----------
    path, permit, reference, threads
        As for `AlignmentFile`.
    pairs_per_batch
        Each batch has so many pairs, or unpaired reads, but for the last of each read group.
    original_qualities
        Take the qualities from before a recalibration (OQ) where a record has them, as Picard RevertSam does.
    waiting_bytes
        What reads that wait for their mates may take.

    Attributes
    ----------
    header
        Of the file.
    read_groups
        Of the header, in its order; `PairBatch.read_group` counts in them. None: all reads have index 0.
    n_left_out
        Secondary and supplementary records, so far.
    n_without_mate
        Reads of pairs whose mates the file lacks; known at the end. They come last, as unpaired reads.
    """

    def __init__(
        self,
        path: Path | str,
        permit: Permit,
        *,
        reference: Path | None = None,
        threads: int = 1,
        pairs_per_batch: int = 2048,
        original_qualities: bool = True,
        waiting_bytes: int = 1 << 32,
    ) -> None:
        self._file = AlignmentFile(path, permit, reference=reference, threads=threads)
        self.path = Path(path)
        self.header = self._file.header
        try:
            self.read_groups: tuple[HeaderGroup, ...] = read_groups_of(self.header, path)
        except BaseException:
            self._file.close()
            raise
        self.n_left_out = 0
        self.n_without_mate = 0
        self._n_per_batch = pairs_per_batch
        self._original = original_qualities
        self._describer = Describer([group.name for group in self.read_groups], path)
        self._join = NameJoin()
        self._waiting = _WaitingReads(waiting_bytes, path)
        self._builders: dict[tuple[int, bool], _Builder] = {}
        self._n_pairs = 0
        self._n_records = 0

    def batches(self) -> Iterator[PairBatch]:
        """All reads, once: pairs in the order in which their second reads come, unpaired reads as they come.

        Each batch is of one read group, and of pairs or of unpaired reads; batches of several groups take turns.
        """
        for block in self._file.blocks():
            yield from self._take(block)
            self._file.give_back(block)
        yield from self._take_lonely()
        for builder in self._builders.values():
            if builder.n:
                yield self._finish(builder)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AlignedInput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, block: RecordBlock) -> Iterator[PairBatch]:
        first_record = self._n_records
        facts = self._describer.describe(block, first_record)
        self._n_records += block.n
        partner, own, fault = self._join.join(facts.kind, facts.hash)
        if fault >= 0:
            why = "this read is there twice: two primary records of one name, read group and mate number"
            advice = "Was the file merged with itself, or do two runs share a read group?"
            raise InputFormatError(self.path, f"record {first_record + fault + 1}", why, advice)
        self.n_left_out += int((facts.kind == 0).sum())
        rows = np.flatnonzero((partner >= 0) | (facts.kind == SINGLE))
        entries = partner[rows]
        # [k, 2, 4]: of mate 1 and mate 2 of each template: whether it waited, its address, OQ's, and its record
        ends = np.full((len(rows), 2, 4), -1, np.int64)
        umi = np.zeros((len(rows), 3), np.int64)  # whether it waited, address, length
        self._fill(ends[:, 0], block, facts, rows, first_record)
        umi[:, 1:] = facts.umi[rows]
        pairs = np.flatnonzero(entries >= 0)
        self._fill_partners(ends, umi, block, facts, pairs, entries[pairs], first_record)
        seconds = pairs[facts.kind[rows[pairs]] == SECOND]
        ends[seconds] = ends[seconds][:, ::-1]
        for key, chosen in _by_builder(facts.group[rows], entries >= 0):
            yield from self._write(key, block.data, ends[chosen], umi[chosen])
        self._join.release(entries[pairs])
        still = np.flatnonzero(own >= 0)
        still = still[~np.isin(own[still], entries[pairs])]
        self._waiting.release(entries[pairs])
        self._waiting.keep(block, facts, still, own[still], self._original)

    def _fill(
        self, ends: NDArray[np.int64], block: RecordBlock, facts: Facts, rows: NDArray[np.int64], first_record: int
    ) -> None:
        ends[:, 0] = 0
        ends[:, 1] = block.offsets[rows]
        ends[:, 2] = facts.original[rows] if self._original else 0
        ends[:, 3] = first_record + rows

    def _fill_partners(
        self,
        ends: NDArray[np.int64],
        umi: NDArray[np.int64],
        block: RecordBlock,
        facts: Facts,
        pairs: NDArray[np.int64],
        entries: NDArray[np.int64],
        first_record: int,
    ) -> None:
        """The mates that came before: in this block, or among those that wait."""
        record = self._join.record[entries]
        here = record >= first_record
        near, far = pairs[here], pairs[~here]
        rows = record[here] - first_record
        mates = np.empty((len(near), 4), np.int64)
        self._fill(mates, block, facts, rows, first_record)
        ends[near, 1] = mates
        bare = umi[near, 2] == 0
        umi[near[bare], 1:] = facts.umi[rows[bare]]
        waited = entries[~here]
        ends[far, 1, 0] = 1
        ends[far, 1, 1] = self._waiting.address[waited]
        ends[far, 1, 2] = 0  # reads that wait have the qualities that are wanted
        ends[far, 1, 3] = record[~here]
        bare = umi[far, 2] == 0
        umi[far[bare], 0] = 1
        umi[far[bare], 1] = self._waiting.umi[waited[bare]]
        umi[far[bare], 2] = self._waiting.umi_length[waited[bare]]

    def _take_lonely(self) -> Iterator[PairBatch]:
        """Reads whose mates never came."""
        entries = self._join.waiting()
        self.n_without_mate = len(entries)
        ends = np.full((len(entries), 2, 4), -1, np.int64)
        ends[:, 0, 0] = 1
        ends[:, 0, 1] = self._waiting.address[entries]
        ends[:, 0, 2] = 0
        ends[:, 0, 3] = self._join.record[entries]
        umi = np.ones((len(entries), 3), np.int64)
        umi[:, 1], umi[:, 2] = self._waiting.umi[entries], self._waiting.umi_length[entries]
        for key, chosen in _by_builder(self._waiting.group[entries], np.zeros(len(entries), bool)):
            yield from self._write(key, np.zeros(PADDING, np.uint8), ends[chosen], umi[chosen])

    def _write(
        self, key: tuple[int, bool], data: NDArray[np.uint8], ends: NDArray[np.int64], umi: NDArray[np.int64]
    ) -> Iterator[PairBatch]:
        """Write templates into the batch of their group; gives out what is full."""
        builder = self._builders.setdefault(key, _Builder(key[0], key[1], self._n_per_batch))
        done = 0
        while done < len(ends):
            counts = np.array([builder.n, builder.filled, 0, 0], np.int64)
            done = int(
                write_texts(
                    data, self._waiting.data, ends, umi, done, MAX_READ, builder.text, builder.fields[0],
                    builder.fields[1], counts,
                )
            )  # fmt: skip
            builder.n, builder.filled, fault, mate = counts.tolist()
            if fault:
                why, advice = _EXPLANATION[fault]
                raise InputFormatError(self.path, f"record {int(ends[done, mate, 3]) + 1}", why, advice)
            if builder.n == self._n_per_batch:
                yield self._finish(builder)
            elif done < len(ends):
                builder.grow()

    def _finish(self, builder: _Builder) -> PairBatch:
        batch = builder.take()
        batch.first_pair = self._n_pairs
        self._n_pairs += batch.n_pairs
        return batch


def _by_builder(
    group: NDArray[np.int64], paired: NDArray[np.bool_]
) -> Iterator[tuple[tuple[int, bool], NDArray[np.int64]]]:
    """Rows of each read group, pairs and unpaired reads apart, in their order."""
    code = 2 * group + paired
    for one in np.unique(code).tolist():
        yield (one >> 1, bool(one & 1)), np.flatnonzero(code == one)


class _Builder:
    """A batch that is being filled."""

    def __init__(self, group: int, paired: bool, n_per_batch: int) -> None:
        self.group, self.paired, self._n_per_batch = group, paired, n_per_batch
        self._bytes = n_per_batch * _FIRST_GUESS
        self._begin()

    def _begin(self) -> None:
        self.n, self.filled = 0, FRONT
        self.text = np.zeros(FRONT + self._bytes + PADDING, np.uint8)
        self.fields = np.zeros((2, self._n_per_batch, N_FIELDS), np.int64)

    def grow(self) -> None:
        """More room for text."""
        self._bytes += self._bytes // 2 + (1 << 12)
        text = np.zeros(FRONT + self._bytes + PADDING, np.uint8)
        text[: self.filled] = self.text[: self.filled]
        self.text = text

    def take(self) -> PairBatch:
        """What is there as a batch; the builder begins another."""
        one, two = self.fields[0, : self.n], self.fields[1, : self.n]
        batch = PairBatch(self.n, (self.text, self.text), (one, two), self.group, 0, self.paired)
        self._bytes = max(self.filled - FRONT + (self.filled >> 5), 1 << 12)
        self._begin()
        return batch


class _WaitingReads:
    """Copies of the reads whose mates have not come, without their tags, one behind the other.

    The memory of reads that have gone is won back when they are more than those that wait: it never holds more than
    twice the waiting bytes.
    """

    def __init__(self, most_bytes: int, path: Path | str) -> None:
        self._most_bytes, self._path = most_bytes, path
        self.data: NDArray[np.uint8] = np.zeros(PADDING, np.uint8)
        self._filled = 0
        self._alive = 0  # bytes of reads that wait
        self.address, self.umi, self.umi_length, self.group, self._size = np.zeros((5, 0), np.int64)

    def keep(
        self, block: RecordBlock, facts: Facts, rows: NDArray[np.int64], entries: NDArray[np.int64], original: bool
    ) -> None:
        """Copy the reads of some records of a block to entries."""
        if not len(rows):
            return
        self._have_entries(int(entries.max()) + 1)
        sizes = kept_bytes(block.data, block.offsets, rows, facts.umi)
        total = int(sizes.sum())
        self._have_bytes(total)
        starts = self._filled + np.cumsum(sizes) - sizes
        self.address[entries], self._size[entries] = starts, sizes
        self.umi_length[entries] = facts.umi[rows, 1]
        self.umi[entries] = starts + sizes - facts.umi[rows, 1]
        self.group[entries] = facts.group[rows]
        oq = facts.original if original else np.zeros_like(facts.original)
        keep_reads(block.data, block.offsets, rows, facts.umi, oq, starts, self.data)
        self._filled += total
        self._alive += total

    def release(self, entries: NDArray[np.int64]) -> None:
        """Reads that have found their mates; entries that were never kept are let pass."""
        held = entries[entries < len(self._size)]
        self._alive -= int(self._size[held].sum())
        self._size[held] = 0

    def _have_entries(self, n: int) -> None:
        if n > len(self.address):
            grown = np.zeros((5, max(n, 2 * len(self.address))), np.int64)
            for row, old in zip(grown, (self.address, self.umi, self.umi_length, self.group, self._size)):
                row[: len(old)] = old
            self.address, self.umi, self.umi_length, self.group, self._size = grown

    def _have_bytes(self, n: int) -> None:
        if self._alive + n > self._most_bytes:
            raise ResourceError(
                f"{self._path}: the reads that wait for their mates fill {self._most_bytes / 1e9:.2f} GB of memory",
                "Bring the mates together first (samtools collate), or give more with --memory.",
            )
        if self._filled + n + PADDING <= len(self.data):
            return
        data = np.zeros(max(2 * (self._alive + n), 1 << 20) + PADDING, np.uint8)
        alive = np.flatnonzero(self._size)
        alive = alive[np.argsort(self.address[alive])]
        sizes = self._size[alive]
        places = np.cumsum(sizes) - sizes
        move_reads(self.data, self.address[alive], sizes, data)
        self.umi[alive] += places - self.address[alive]
        self.address[alive] = places
        self.data, self._filled = data, int(sizes.sum())
