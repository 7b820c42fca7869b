# SPDX-License-Identifier: Apache-2.0
"""What is counted while reads pass by: whole numbers that add up, whatever the threads and the bins.

In: nothing. Out: `Counts`, filled by `metrics.reads`, `metrics.depth` and `metrics.enrichment`. Next: the writers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Cycles and read lengths from here on are counted as this one; this aligner's reads have at most 500 bases.
MAX_CYCLES = 1024
#: Quality values; SAM's highest is 93.
N_QUALITIES = 96
#: Insert sizes from here on are kept one by one.
DENSE_INSERTS = 16_384
#: Mismatches of one read from here on are counted as this many.
MAX_MISMATCHES = 512
#: Depth bins of the high-quality depth: CollectWgsMetrics' COVERAGE_CAP.
COVERAGE_CAP = 250
#: GC bins, percent.
GC_BINS = 101

UNPAIRED, FIRST, SECOND = range(3)
FR, RF, TANDEM = range(3)

#: Lines of `samtools flagstat`, by the order of their counters.
FLAGSTAT = (
    "total", "primary", "secondary", "supplementary", "duplicates", "primary_duplicates", "mapped", "primary_mapped",
    "paired", "read1", "read2", "properly_paired", "both_mapped", "singletons", "mate_elsewhere", "mate_elsewhere_hq",
)  # fmt: skip

#: Counters of the alignment summary; names as in Picard where it has one.
SUMMARY = (
    "total_reads", "pf_reads", "adapters", "aligned", "aligned_bases", "hq_reads", "hq_bases", "hq_q20_bases",
    "mismatches", "hq_mismatches", "indels", "in_pairs", "improper", "forward", "chimeras", "chimera_candidates",
    "soft_clipped", "hard_clipped", "soft_clipped_3prime", "reads_clipped_3prime", "unclipped_bases",
    "mapq20", "duplicates", "deleted_and_inserted",
)  # fmt: skip

#: Bases that CollectWgsMetrics leaves out, and why.
WGS_EXCLUDED = ("mapq", "duplicate", "unpaired", "baseq", "overlap", "capped", "adapter")

#: Counters of the hybrid selection metrics; names as in Picard.
ENRICHMENT = (
    "TOTAL_READS", "PF_READS", "PF_BASES", "PF_UNIQUE_READS", "PF_UQ_READS_ALIGNED", "PF_BASES_ALIGNED",
    "PF_UQ_BASES_ALIGNED", "ON_BAIT_BASES", "NEAR_BAIT_BASES", "OFF_BAIT_BASES", "SELECTED_PAIRS",
    "SELECTED_UNIQUE_PAIRS", "EXC_DUPE", "EXC_ADAPTER", "EXC_MAPQ", "EXC_BASEQ", "EXC_OVERLAP", "HQ_BASES",
    "ON_TARGET_FROM_PAIR_BASES",
)  # fmt: skip


@dataclass
class TargetCounts:
    """Counts on targets, which are numbered over all contigs, in order.

    Attributes
    ----------
    enrichment
        int64 [len(ENRICHMENT)].
    bases, lowest, highest, uncovered
        int64 [n_targets], of the high-quality depth: sum, minimum, maximum, places without any.
    reads
        int64 [n_targets]: reads that put a high-quality base on it.
    depth_bases
        int64 [n_targets]: sum of the depth as mosdepth has it.
    lengths
        int64 [n_targets]: their bases; not a count.
    """

    enrichment: NDArray[np.int64]
    bases: NDArray[np.int64]
    lowest: NDArray[np.int64]
    highest: NDArray[np.int64]
    uncovered: NDArray[np.int64]
    reads: NDArray[np.int64]
    depth_bases: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def empty(cls, lengths: NDArray[np.int64]) -> TargetCounts:
        """No reads yet."""
        n = len(lengths)
        bases, highest, uncovered, reads, depth_bases = (np.zeros(n, np.int64) for _ in range(5))
        lowest = np.full(n, np.iinfo(np.int64).max)
        enrichment = np.zeros(len(ENRICHMENT), np.int64)
        return cls(enrichment, bases, lowest, highest, uncovered, reads, depth_bases, lengths)

    def __iadd__(self, other: TargetCounts) -> TargetCounts:
        """Add counts; a target that is cut between two blocks has both parts' extremes."""
        for name in ("enrichment", "bases", "uncovered", "reads", "depth_bases"):
            getattr(self, name).__iadd__(getattr(other, name))
        np.minimum(self.lowest, other.lowest, out=self.lowest)
        np.maximum(self.highest, other.highest, out=self.highest)
        return self


@dataclass
class Counts:
    """All counts of a sample, or of a part of its blocks.

    Attributes
    ----------
    flagstat
        int64 [groups, 2, len(FLAGSTAT)]; second axis: passed, failed the vendor's checks.
    summary
        int64 [groups, 3, len(SUMMARY)]; second axis: `UNPAIRED`, `FIRST`, `SECOND`.
    lengths
        int64 [groups, 3, MAX_CYCLES + 1]: reads that passed, by number of bases.
    aligned_lengths
        int64 [groups, 3, MAX_CYCLES + 1]: the same by number of bases that are not clipped.
    mismatches
        int64 [groups, 3, MAX_MISMATCHES + 1]: aligned reads of MAPQ 20 or more, by mismatches.
    bad_cycles
        int64 [groups, 3, MAX_CYCLES]: mismatches, and no-calls of unaligned reads, by cycle.
    quality
        int64 [groups, 3, MAX_CYCLES, N_QUALITIES]: bases by cycle and quality.
    no_calls
        int64 [N_QUALITIES]: bases N by quality, out of those in `quality`.
    inserts
        int64 [groups, 3, DENSE_INSERTS]: pairs by orientation (`FR`, `RF`, `TANDEM`) and insert size.
    far_inserts
        (group, orientation, size) -> pairs, for the longer ones.
    gc
        int64 [groups, 3, GC_BINS]: reads, their bases, their errors, by GC of the window at the read's start.
    gc_totals
        int64 [groups, 2]: templates, aligned reads.
    gc_windows
        int64 [GC_BINS]: windows of the reference.
    contigs
        int64 [contigs + 1, 2]: mapped and unmapped records placed there; the last row has those without a place.
    depth
        contig -> int64 [n]: places by depth, as mosdepth counts it; contigs without blocks are missing.
    target_depth
        The same on targets.
    wgs_depth
        int64 [COVERAGE_CAP + 1]: places of known reference by high-quality depth.
    wgs_excluded
        int64 [len(WGS_EXCLUDED)].
    hs_depth
        int64 [n]: places on target by high-quality depth, as CollectHsMetrics counts it.
    targets
        None without targets.
    """

    flagstat: NDArray[np.int64]
    summary: NDArray[np.int64]
    lengths: NDArray[np.int64]
    aligned_lengths: NDArray[np.int64]
    mismatches: NDArray[np.int64]
    bad_cycles: NDArray[np.int64]
    quality: NDArray[np.int64]
    no_calls: NDArray[np.int64]
    inserts: NDArray[np.int64]
    gc: NDArray[np.int64]
    gc_totals: NDArray[np.int64]
    gc_windows: NDArray[np.int64]
    contigs: NDArray[np.int64]
    wgs_depth: NDArray[np.int64]
    wgs_excluded: NDArray[np.int64]
    targets: TargetCounts | None = None
    hs_depth: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    far_inserts: dict[tuple[int, int, int], int] = field(default_factory=dict)
    depth: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    target_depth: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def empty(cls, n_groups: int, n_contigs: int, target_lengths: NDArray[np.int64] | None = None) -> Counts:
        """No reads yet; `n_groups` rows for read groups, `target_lengths` (int64 [n_targets]) None without targets."""
        n = n_groups

        def zeros(*shape: int) -> NDArray[np.int64]:
            return np.zeros(shape, np.int64)

        return cls(
            flagstat=zeros(n, 2, len(FLAGSTAT)),
            summary=zeros(n, 3, len(SUMMARY)),
            lengths=zeros(n, 3, MAX_CYCLES + 1),
            aligned_lengths=zeros(n, 3, MAX_CYCLES + 1),
            mismatches=zeros(n, 3, MAX_MISMATCHES + 1),
            bad_cycles=zeros(n, 3, MAX_CYCLES),
            quality=zeros(n, 3, MAX_CYCLES, N_QUALITIES),
            no_calls=zeros(N_QUALITIES),
            inserts=zeros(n, 3, DENSE_INSERTS),
            gc=zeros(n, 3, GC_BINS),
            gc_totals=zeros(n, 2),
            gc_windows=zeros(GC_BINS),
            contigs=zeros(n_contigs + 1, 2),
            wgs_depth=zeros(COVERAGE_CAP + 1),
            wgs_excluded=zeros(len(WGS_EXCLUDED)),
            targets=None if target_lengths is None else TargetCounts.empty(target_lengths),
        )

    def __iadd__(self, other: Counts) -> Counts:
        """Add the counts of other blocks."""
        for name in _ADDITIVE:
            getattr(self, name).__iadd__(getattr(other, name))
        for key, n in other.far_inserts.items():
            self.far_inserts[key] = self.far_inserts.get(key, 0) + n
        for mine, theirs in ((self.depth, other.depth), (self.target_depth, other.target_depth)):
            for contig, histogram in theirs.items():
                mine[contig] = add_histograms(mine.get(contig), histogram)
        self.hs_depth = add_histograms(self.hs_depth, other.hs_depth)
        if self.targets is not None and other.targets is not None:
            self.targets += other.targets
        return self


_ADDITIVE = (
    "flagstat", "summary", "lengths", "aligned_lengths", "mismatches", "bad_cycles", "quality", "no_calls", "inserts",
    "gc", "gc_totals", "gc_windows", "contigs", "wgs_depth", "wgs_excluded",
)  # fmt: skip


def add_histograms(one: NDArray[np.int64] | None, other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of two histograms of any lengths; a new array, or one of the two."""
    if one is None or len(one) == 0:
        return other.copy()
    if len(one) < len(other):
        one, other = other.copy(), one
    one[: len(other)] += other
    return one
