# SPDX-License-Identifier: Apache-2.0
"""Counts a sample's reads while its sorted blocks pass by.

In: blocks with the regions they own, from any thread and in any order. Out: `Counts`.

Each record must be in one block's own part, each place of the genome in one block's regions. Counts are whole numbers,
so neither threads nor the cut into blocks change them. An accumulator takes a few megabytes for each read group: there
are as many as threads that count at once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fasta import Contig, Reference
from megabolt.metrics.around import RegionLike
from megabolt.metrics.counts import Counts
from megabolt.metrics.depth import Targets, count_depth
from megabolt.metrics.enrichment import count_enrichment
from megabolt.metrics.groups import GroupTable
from megabolt.metrics.reads import count_reads


class BlockLike(Protocol):
    """What is needed of `reads.bins.BinBlock`."""

    @property
    def records(self) -> RecordBlock:
        """Sorted records, the neighbours' among them."""

    def own(self) -> RecordBlock:
        """The block's own records."""


@dataclass(frozen=True)
class GroupInfo:
    """A read group: ID, SM, LB and PU of its @RG line."""

    identifier: str
    sample: str
    library: str
    unit: str = ""


@dataclass(frozen=True)
class MetricsOptions:
    """What is counted besides flagstat, alignment summary, insert sizes and qualities.

    Attributes
    ----------
    gc_bias
        CollectGcBiasMetrics; needs a reference.
    depth
        mosdepth.
    wgs
        CollectWgsMetrics; None: when there are no targets.
    """

    gc_bias: bool = True
    depth: bool = True
    wgs: bool | None = None


class Collector:
    """Counts blocks.

    Parameters
    ----------
    contigs
        Of the reference or the header.
    reference
        None: mismatches and GC are not counted.
    targets
        Per contig int64 [n, 2], sorted, apart (`formats.bed.read_bed`); None without.
    read_groups
        In the order of the header; may be empty.
    """

    def __init__(
        self,
        contigs: Sequence[Contig],
        reference: Reference | None,
        targets: Targets | None,
        read_groups: Sequence[GroupInfo],
        options: MetricsOptions = MetricsOptions(),
    ) -> None:
        self.contigs, self.reference, self.options = tuple(contigs), reference, options
        self.read_groups = tuple(read_groups)
        self.targets = None if targets is None else tuple(np.ascontiguousarray(one, np.int64) for one in targets)
        self.wgs = options.wgs if options.wgs is not None else targets is None
        self.first_target: NDArray[np.int64] = np.zeros(len(self.contigs), np.int64)
        self._target_lengths: NDArray[np.int64] | None = None
        if self.targets is not None:
            ends = np.cumsum([len(one) for one in self.targets], dtype=np.int64)
            self.first_target[1:] = ends[:-1]
            self._target_lengths = np.concatenate([one[:, 1] - one[:, 0] for one in self.targets])
        self._groups = GroupTable.of([group.identifier for group in self.read_groups])
        self._lock = threading.Lock()
        self._idle: list[Counts] = []
        self._busy = 0

    def empty(self) -> Counts:
        """Counts of nothing, of the right shapes."""
        return Counts.empty(self._groups.n_rows, len(self.contigs), self._target_lengths)

    def count(self, block: BlockLike, regions: Sequence[RegionLike], into: Counts) -> None:
        """Count a block into `into`; the GIL is mostly free.

        Parameters
        ----------
        regions
            The pieces of contigs that the block owns, in order: none for the reads without a place.
        """
        count_reads(block.own(), regions, self.reference, self._groups, into, gc_bias=self.options.gc_bias)
        if self.options.depth or self.wgs:
            count_depth(block.records, regions, self.reference, self.targets, self.first_target, into, wgs=self.wgs)
        if self.targets is not None:
            count_enrichment(block.records, regions, self.targets, self.first_target, into)

    def add(self, block: BlockLike, regions: Sequence[RegionLike]) -> None:
        """Count a block into one of this object's own accumulators; from any thread."""
        with self._lock:
            counts = self._idle.pop() if self._idle else None
        if counts is None:
            counts = self.empty()
        self.count(block, regions, counts)
        with self._lock:
            self._idle.append(counts)

    def total(self) -> Counts:
        """The sum of what was added; to be asked when all blocks are."""
        total = self.empty()
        with self._lock:
            for counts in self._idle:
                total += counts
        return total
