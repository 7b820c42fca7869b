# SPDX-License-Identifier: Apache-2.0
"""Hybrid selection metrics and coverage per target, as CollectHsMetrics of Picard 2.27 reports them.

In: `Counts` with targets, which stand for the baits too. Out: texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megabolt.formats.fasta import Contig, Reference
from megabolt.metrics.counts import ENRICHMENT, Counts, TargetCounts
from megabolt.metrics.depth import Targets
from megabolt.metrics.histogram import Histogram
from megabolt.metrics.picard import HistogramTable, Value, metrics_text, number, ratio

_STEPS = (1, 2, 10, 20, 30, 40, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000)
_GOALS = (10, 20, 30, 40, 50, 100)
#: Depths above are counted as this one for the median: CollectHsMetrics' COVERAGE_CAP.
_CAP = 200


def hs_text(counts: Counts, sample: str, name: str, contigs: Sequence[Contig], gc: NDArray[np.float64] | None) -> str:
    """The file of CollectHsMetrics.

    Parameters
    ----------
    name
        Of the targets: BAIT_SET.
    gc
        float64 [n_targets]: share of G and C in each; None without a reference.
    """
    if counts.targets is None:
        return ""
    capped = np.zeros(_CAP + 1, np.int64)
    np.add.at(capped, np.minimum(np.arange(len(counts.hs_depth)), _CAP), counts.hs_depth)
    row = hs_row(counts, counts.targets, name, contigs, capped, gc)
    table = HistogramTable(
        ["coverage_or_base_quality", "high_quality_coverage_count"], list(enumerate(capped.tolist()))
    )
    return metrics_text("CollectHsMetrics", sample, [row], table)


def hs_row(
    counts: Counts,
    targets: TargetCounts,
    name: str,
    contigs: Sequence[Contig],
    capped: NDArray[np.int64],
    gc: NDArray[np.float64] | None,
) -> dict[str, Value]:
    """The row of CollectHsMetrics; `capped` is the histogram of the depth up to the cap."""
    n = dict(zip(ENRICHMENT, targets.enrichment.tolist()))
    depth = Histogram(capped)
    territory = int(counts.hs_depth.sum())
    on_target = int(targets.bases.sum())
    genome = sum(contig.length for contig in contigs)
    on, beside, off = n["ON_BAIT_BASES"], n["NEAR_BAIT_BASES"], n["OFF_BAIT_BASES"]
    mean = ratio(on_target, territory)
    low = depth.percentile(0.2)
    fold_80 = mean / low if low else math.nan
    size = library_size(n["SELECTED_PAIRS"], n["SELECTED_UNIQUE_PAIRS"])
    row: dict[str, Value] = {
        "BAIT_SET": name,
        "BAIT_TERRITORY": territory,
        "BAIT_DESIGN_EFFICIENCY": 1,
        "ON_BAIT_BASES": on,
        "NEAR_BAIT_BASES": beside,
        "OFF_BAIT_BASES": off,
        "PCT_SELECTED_BASES": ratio(on + beside, on + beside + off),
        "PCT_OFF_BAIT": ratio(off, on + beside + off),
        "ON_BAIT_VS_SELECTED": ratio(on, on + beside),
        "MEAN_BAIT_COVERAGE": ratio(on, territory),
        "PCT_USABLE_BASES_ON_BAIT": ratio(on, n["PF_BASES"]),
        "PCT_USABLE_BASES_ON_TARGET": ratio(on_target, n["PF_BASES"]),
        "FOLD_ENRICHMENT": ratio(ratio(on, on + beside + off), ratio(territory, genome)),
        "HS_LIBRARY_SIZE": size if size is not None else "",
    }
    for goal in _GOALS:
        row[f"HS_PENALTY_{goal}X"] = _penalty(n, size, on_target, territory, fold_80, goal)
    row |= {"TARGET_TERRITORY": territory, "GENOME_SIZE": genome}
    for key in ENRICHMENT[:7]:
        row[key] = n[key]
    row |= {
        "ON_TARGET_BASES": on_target,
        "PCT_PF_READS": ratio(n["PF_READS"], n["TOTAL_READS"]),
        "PCT_PF_UQ_READS": ratio(n["PF_UNIQUE_READS"], n["TOTAL_READS"]),
        "PCT_PF_UQ_READS_ALIGNED": ratio(n["PF_UQ_READS_ALIGNED"], n["PF_UNIQUE_READS"]),
        "MEAN_TARGET_COVERAGE": mean,
        "MEDIAN_TARGET_COVERAGE": depth.median(),
        "MAX_TARGET_COVERAGE": len(counts.hs_depth) - 1,
        "MIN_TARGET_COVERAGE": int(np.argmax(counts.hs_depth > 0)),
        "ZERO_CVG_TARGETS_PCT": ratio(int((targets.highest == 0).sum()), len(targets.highest)),
    }
    excluded = {key: n[f"EXC_{key}"] for key in ("DUPE", "ADAPTER", "MAPQ", "BASEQ", "OVERLAP")}
    for key, bases in (excluded | {"OFF_TARGET": n["HQ_BASES"] - on_target}).items():
        row[f"PCT_EXC_{key}"] = ratio(bases, n["PF_BASES_ALIGNED"])
    row["FOLD_80_BASE_PENALTY"] = fold_80
    at_least = np.cumsum(counts.hs_depth[::-1])[::-1].tolist()
    for step in _STEPS:
        row[f"PCT_TARGET_BASES_{step}X"] = ratio(at_least[step] if step < len(at_least) else 0, territory)
    dropout = _dropout(targets, gc, territory) if gc is not None else (0.0, 0.0)
    row |= {"AT_DROPOUT": dropout[0], "GC_DROPOUT": dropout[1]}
    row |= {"HET_SNP_SENSITIVITY": math.nan, "HET_SNP_Q": math.nan, "SAMPLE": "", "LIBRARY": "", "READ_GROUP": ""}
    return row


def library_size(pairs: int, unique: int) -> int | None:
    """Distinct molecules in a library of which `pairs` were drawn, `unique` of them different (Lander-Waterman).

    Solves unique / x = 1 - exp(-pairs / x) by bisection, 40 steps, as Picard's estimateLibrarySize; None without
    duplicates.
    """
    if pairs == 0 or unique in (0, pairs):
        return None

    def excess(x: float) -> float:
        return unique / x - 1 + math.exp(-pairs / x)

    low, high = 1.0, 100.0
    while excess(high * unique) > 0:
        high *= 10
    for _ in range(40):
        middle = (low + high) / 2
        value = excess(middle * unique)
        if value == 0:
            break
        low, high = (middle, high) if value > 0 else (low, middle)
    return int(unique * (low + high) / 2)


def _penalty(n: dict[str, int], size: int | None, on_target: int, territory: int, fold_80: float, goal: int) -> float:
    """How many times more must be sequenced than the ideal to bring 80 % of the places to a depth; -1: never."""
    if size is None:
        return 0
    mean, pairs, unique = (
        ratio(n["ON_TARGET_FROM_PAIR_BASES"], territory),
        n["SELECTED_PAIRS"],
        n["SELECTED_UNIQUE_PAIRS"],
    )
    wanted = goal / mean * fold_80 if mean else math.nan
    if not math.isfinite(wanted):
        return -1
    times, step = wanted, 1.0
    rising = wanted >= 1
    for _ in range(10_000):
        got = size * (1 - math.exp(-times * pairs / size)) / unique
        if abs(got - wanted) / wanted <= 0.001:
            fraction = unique * wanted / (pairs * times)
            return 1 / fraction * fold_80 / ratio(on_target, n["PF_UQ_BASES_ALIGNED"])
        if (got > wanted) == rising:
            step /= 2
            rising = not rising
        times += step if rising else -step
    return -1


def _dropout(targets: TargetCounts, gc: NDArray[np.float64], territory: int) -> tuple[float, float]:
    """Percentage points that the bases lack of the targets' share: at GC up to 50 %, and from 50 % on."""
    bin_of = np.floor(gc * 100 + 0.5).astype(np.int64)
    lengths, bases = np.zeros(101), np.zeros(101)
    np.add.at(bases, bin_of, targets.bases)
    np.add.at(lengths, bin_of, targets.lengths)
    if not bases.sum():
        return 0.0, 0.0
    missing = 100 * np.maximum(0, lengths / territory - bases / bases.sum())
    return float(missing[:51].sum()), float(missing[50:].sum())


def target_gc(reference: Reference, targets: Targets) -> NDArray[np.float64]:
    """Share of G and C among the bases of each target: float64 [n_targets]."""
    shares = []
    for contig, intervals in enumerate(targets):
        for start, stop in intervals.tolist():
            codes = reference.fetch(contig, start, stop)
            shares.append(float(((codes == 1) | (codes == 2)).sum()) / max(1, stop - start))
    return np.array(shares, np.float64)


def per_target_text(
    targets: TargetCounts, intervals: Targets, contigs: Sequence[Contig], gc: NDArray[np.float64] | None
) -> str:
    """PER_TARGET_COVERAGE of CollectHsMetrics: 1-based, closed intervals."""
    lines = [
        "chrom\tstart\tend\tlength\tname\t%gc\tmean_coverage\tnormalized_coverage\tmin_normalized_coverage"
        "\tmax_normalized_coverage\tmin_coverage\tmax_coverage\tpct_0x\tread_count"
    ]
    mean = ratio(int(targets.bases.sum()), int(targets.lengths.sum()))
    t = 0
    for contig, places in zip(contigs, intervals):
        for start, stop in places.tolist():
            length = stop - start
            depth = ratio(int(targets.bases[t]), length)
            low, high = min(int(targets.lowest[t]), int(targets.highest[t])), int(targets.highest[t])
            share = float(gc[t]) if gc is not None else math.nan
            values: list[Value] = [
                contig.name, start + 1, stop, length, f"target_{t + 1}", share, depth, ratio(depth, mean),
                ratio(low, mean), ratio(high, mean), low, high, ratio(int(targets.uncovered[t]), length),
                int(targets.reads[t]),
            ]  # fmt: skip
            lines.append("\t".join(number(value) for value in values))
            t += 1
    return "\n".join(lines) + "\n"
