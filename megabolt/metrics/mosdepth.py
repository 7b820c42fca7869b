# SPDX-License-Identifier: Apache-2.0
"""Depth of coverage in mosdepth's files: global.dist.txt, region.dist.txt, summary.txt, regions.bed.

In: `Counts`. Out: texts. As mosdepth does, contigs without any record are left out of distribution and summary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megabolt.formats.fasta import Contig
from megabolt.metrics.counts import Counts, TargetCounts, add_histograms
from megabolt.metrics.depth import Targets

#: Shares below are not written.
_LEAST_SHARE = 8e-5
#: Above this depth, depths that do not occur are left out.
_DENSE = 300


def _seen(counts: Counts) -> list[int]:
    """Contigs with a record placed on them."""
    return [i for i in np.flatnonzero(counts.contigs[:-1].sum(axis=1)).tolist() if i in counts.depth]


def _distribution(name: str, histogram: NDArray[np.int64]) -> list[str]:
    """Share of the places at least as deep, from the deepest down."""
    total = int(histogram.sum())
    lines = []
    reached = 0
    for depth in range(len(histogram) - 1, -1, -1):
        n = int(histogram[depth])
        reached += n
        if (n or depth <= _DENSE) and reached >= _LEAST_SHARE * total > 0:
            lines.append(f"{name}\t{depth}\t{reached / total:.2f}")
    return lines


def distribution_text(counts: Counts, contigs: Sequence[Contig], *, on_target: bool = False) -> str:
    """The text of global.dist.txt, or of region.dist.txt."""
    histograms = counts.target_depth if on_target else counts.depth
    total = np.zeros(1, np.int64)
    lines = []
    for i in _seen(counts):
        if i in histograms:
            lines += _distribution(contigs[i].name, histograms[i])
            total = add_histograms(total, histograms[i])
    return "".join(line + "\n" for line in [*lines, *_distribution("total", total)])


def summary_text(counts: Counts, contigs: Sequence[Contig], targets: Targets | None) -> str:
    """The text of summary.txt: length, bases, mean, least and greatest depth of each contig, and of its targets."""
    lines = ["chrom\tlength\tbases\tmean\tmin\tmax"]
    everywhere, on_target = np.zeros(1, np.int64), np.zeros(1, np.int64)
    nothing = np.zeros(1, np.int64)
    for i in _seen(counts):
        lines.append(_summary(contigs[i].name, counts.depth[i]))
        everywhere = add_histograms(everywhere, counts.depth[i])
        if targets is not None:
            here = counts.target_depth.get(i, nothing)
            lines.append(_summary(f"{contigs[i].name}_region", here))
            on_target = add_histograms(on_target, here)
    lines.append(_summary("total", everywhere))
    if targets is not None:
        lines.append(_summary("total_region", on_target))
    return "\n".join(lines) + "\n"


def _summary(name: str, histogram: NDArray[np.int64]) -> str:
    places = int(histogram.sum())
    bases = int(histogram @ np.arange(len(histogram)))
    seen = np.flatnonzero(histogram)
    low, high = (int(seen[0]), int(seen[-1])) if len(seen) else (0, 0)
    return f"{name}\t{places}\t{bases}\t{bases / places if places else 0:.2f}\t{low}\t{high}"


def regions_text(found: TargetCounts, targets: Targets, contigs: Sequence[Contig]) -> str:
    """The text of regions.bed: the mean depth of each target."""
    lines = []
    t = 0
    for contig, intervals in zip(contigs, targets):
        for start, stop in intervals.tolist():
            lines.append(f"{contig.name}\t{start}\t{stop}\t{int(found.depth_bases[t]) / (stop - start):.2f}\n")
            t += 1
    return "".join(lines)
