# SPDX-License-Identifier: Apache-2.0
"""What a sample's reads can come from: FASTQ lanes, or an existing BAM, CRAM or unaligned BAM.

In: paths and read groups. Out: batches for the aligner. Next: `workflow/align_job.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from megabolt.errors import InputFormatError, UsageError
from megabolt.formats.bam_input import AlignedInput
from megabolt.formats.fastq import PairBatch, read_lanes
from megabolt.formats.lane import FastqLane
from megabolt.formats.record_facts import HeaderGroup
from megabolt.privacy.consent import Permit
from megabolt.workflow.read_groups import ReadGroup, header_groups, read_groups

#: Pairs that are aligned together: enough that Python's share of the work, 2 ms a batch, is small; 20 MB of memory.
PAIRS_PER_BATCH = 8192
#: One thread inflates and parses what so many align; only bgzipped files can be inflated by more.
_THREADS_PER_INFLATER = 16


@dataclass
class OpenedReads:
    """Reads that may be drawn.

    Attributes
    ----------
    read_groups
        `PairBatch.read_group` counts in them.
    batches
        All reads, once.
    templates
        What its templates are called: read pairs, reads, or both.
    take_turns
        Batches of several read groups come in turns, not one group after another.
    header
        Header text of the file that they come from; empty for FASTQ.
    notes
        What is worth a word when all have been drawn.
    """

    read_groups: tuple[ReadGroup, ...]
    batches: Iterator[PairBatch]
    templates: str
    take_turns: bool = False
    header: str = ""
    notes: Callable[[], list[str]] = field(default=lambda: [])


class ReadInput(Protocol):
    """Where reads come from."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, "-" among them."""

    @property
    def has_umis(self) -> bool:
        """Whether its reads are told to have UMIs."""

    @property
    def mates_wait(self) -> bool:
        """Whether reads are held in memory until their mates come."""

    def open(self, permit: Permit, sample: str, reference: Path, threads: int, memory: int) -> OpenedReads:
        """Begin to read; reads that wait for their mates may take `memory` bytes."""


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
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for lane in self.lanes for path in lane.files)

    @property
    def has_umis(self) -> bool:
        return self.umi is not None

    @property
    def mates_wait(self) -> bool:
        return False

    def open(self, permit: Permit, sample: str, reference: Path, threads: int, memory: int) -> OpenedReads:
        """Begin to read; no mate waits."""
        kinds = {lane.paired for lane in self.lanes}
        words = "pairs and unpaired reads" if len(kinds) > 1 else "read pairs" if kinds == {True} else "reads"
        batches = read_lanes(
            self.lanes,
            permit,
            pairs_per_batch=PAIRS_PER_BATCH,
            umi=self.umi,
            inflaters=threads // _THREADS_PER_INFLATER,
        )
        return OpenedReads(self.read_groups, batches, words)


@dataclass(frozen=True)
class AlignmentInput:
    """The reads of a BAM, CRAM or unaligned BAM, to be aligned again.

    Attributes
    ----------
    path
        The file, in any order.
    reference
        The FASTA that a CRAM file was made with; None: that of the job.
    original_qualities
        Take base qualities from before a recalibration (tag OQ) where there are some.
    umi
        Its RX tags are UMIs.
    """

    path: Path
    reference: Path | None = None
    original_qualities: bool = True
    umi: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def has_umis(self) -> bool:
        return self.umi

    @property
    def mates_wait(self) -> bool:
        return True

    def open(self, permit: Permit, sample: str, reference: Path, threads: int, memory: int) -> OpenedReads:
        """Begin to read.

        Raises
        ------
        InputFormatError
            No BAM or CRAM, damaged, or not of this sample alone.
        """
        source = AlignedInput(
            self.path,
            permit,
            reference=self.reference or reference,
            threads=threads,
            pairs_per_batch=PAIRS_PER_BATCH,
            original_qualities=self.original_qualities,
            waiting_bytes=memory,
        )
        try:
            groups = groups_of_sample(source.read_groups, sample, self.path)
        except BaseException:
            source.close()
            raise

        def batches() -> Iterator[PairBatch]:
            try:
                yield from source.batches()
            finally:
                source.close()

        def notes() -> list[str]:
            n = source.n_without_mate
            return [f"{n:,} reads lack their mates in {self.path}: they were aligned as unpaired reads"] * (n > 0)

        return OpenedReads(
            groups, batches(), "pairs and unpaired reads", take_turns=True, header=source.header.text, notes=notes
        )


def groups_of_sample(found: tuple[HeaderGroup, ...], sample: str, path: Path) -> tuple[ReadGroup, ...]:
    """The read groups of a header, all of which must be of the sample; a new one if there is none."""
    others = sorted({group.sample for group in found} - {sample})
    if others:
        raise InputFormatError(
            path,
            "header",
            f"the read groups name sample {', '.join(others)}, not {sample}",
            "Name the sample as the file does (--sample), or split the file with samtools split.",
        )
    return header_groups([group.line for group in found]) or read_groups(sample, (), 1)
