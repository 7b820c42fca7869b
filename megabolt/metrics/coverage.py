# SPDX-License-Identifier: Apache-2.0
"""GC bias and whole-genome coverage as Picard reports them.

In: `Counts`. Out: texts of CollectGcBiasMetrics (detail and summary) and CollectWgsMetrics of Picard 2.27.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from megabolt.metrics.alignment import Level
from megabolt.metrics.around import WINDOW
from megabolt.metrics.counts import WGS_EXCLUDED, Counts
from megabolt.metrics.histogram import Histogram
from megabolt.metrics.picard import HistogramTable, Value, metrics_text, ratio

_GC_RANGES = ((0, 19), (20, 39), (40, 59), (60, 79), (80, 100))
_WGS_STEPS = (1, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100)
_LEVEL_NAMES = ("All Reads", "Read Group")


def _phred(errors: int, bases: int) -> int:
    """Phred score of an error rate, rounded; 0 without errors, as in the detail table."""
    return round(-10 * math.log10(errors / bases)) if errors and bases else 0


def gc_texts(counts: Counts, sample: str, levels: Sequence[Level]) -> tuple[str, str] | None:
    """The files of CollectGcBiasMetrics, detail and summary; None without aligned reads."""
    details: list[dict[str, Value]] = []
    summaries: list[dict[str, Value]] = []
    windows = counts.gc_windows.tolist()
    for groups, names in levels:
        reads, bases, errors = (row.tolist() for row in counts.gc[list(groups)].sum(axis=0))
        clusters, aligned = counts.gc_totals[list(groups)].sum(axis=0).tolist()
        if aligned == 0:
            continue
        tail: dict[str, Value] = dict(zip(("SAMPLE", "LIBRARY", "READ_GROUP"), names))
        head: dict[str, Value] = {"ACCUMULATION_LEVEL": _LEVEL_NAMES[names != ("", "", "")], "READS_USED": "ALL"}
        per_window = ratio(sum(reads), sum(windows))
        for gc in range(len(windows)):
            row: dict[str, Value] = {
                "GC": gc,
                "WINDOWS": windows[gc],
                "READ_STARTS": reads[gc],
                "MEAN_BASE_QUALITY": _phred(errors[gc], bases[gc]),
                "NORMALIZED_COVERAGE": ratio(ratio(reads[gc], windows[gc]), per_window),
                "ERROR_BAR_WIDTH": ratio(ratio(math.sqrt(reads[gc]), windows[gc]), per_window),
            }
            details.append({**head, **row, **tail})
        dropout = _dropout(reads, windows)
        summary: dict[str, Value] = {
            "WINDOW_SIZE": WINDOW,
            "TOTAL_CLUSTERS": clusters,
            "ALIGNED_READS": aligned,
            "AT_DROPOUT": dropout[0],
            "GC_DROPOUT": dropout[1],
        }
        for low, high in _GC_RANGES:
            with_windows = [gc for gc in range(low, high + 1) if windows[gc]]
            n, of = sum(reads[gc] for gc in with_windows), sum(windows[gc] for gc in with_windows)
            summary[f"GC_NC_{low}_{high}"] = ratio(n, of * per_window)
        summaries.append({**head, **summary, **tail})
    if not details:
        return None
    classes = ("picard.analysis.GcBiasDetailMetrics", "picard.analysis.GcBiasSummaryMetrics")
    return (
        metrics_text("CollectGcBiasMetrics", sample, details, metrics_class=classes[0]),
        metrics_text("CollectGcBiasMetrics", sample, summaries, metrics_class=classes[1]),
    )


def _dropout(reads: Sequence[int], windows: Sequence[int]) -> tuple[float, float]:
    """Percentage points that the reads lack of the windows' share: at GC up to 50 %, and above."""
    missing = [
        100 * max(0.0, ratio(window, sum(windows)) - ratio(read, sum(reads))) for read, window in zip(reads, windows)
    ]
    return sum(missing[:51]), sum(missing[51:])


def wgs_row(counts: Counts) -> dict[str, Value]:
    """The row of CollectWgsMetrics; the theoretical sensitivity, a random simulation there, is left open."""
    depth = Histogram(counts.wgs_depth)
    excluded = dict(zip(WGS_EXCLUDED, counts.wgs_excluded.tolist()))
    everything = depth.sum + sum(excluded.values())
    row: dict[str, Value] = {
        "GENOME_TERRITORY": depth.count,
        "MEAN_COVERAGE": depth.mean(),
        "SD_COVERAGE": depth.sd(),
        "MEDIAN_COVERAGE": depth.median(),
        "MAD_COVERAGE": depth.mad(),
    }
    for name, key in (
        ("ADAPTER", "adapter"), ("MAPQ", "mapq"), ("DUPE", "duplicate"), ("UNPAIRED", "unpaired"), ("BASEQ", "baseq"),
        ("OVERLAP", "overlap"), ("CAPPED", "capped"),
    ):  # fmt: skip
        row[f"PCT_EXC_{name}"] = ratio(excluded[key], everything)
    row["PCT_EXC_TOTAL"] = ratio(everything - depth.sum, everything)
    at_least = np.cumsum(counts.wgs_depth[::-1])[::-1].tolist()
    for step in _WGS_STEPS:
        row[f"PCT_{step}X"] = ratio(at_least[step], depth.count)
    for percent in (80, 90, 95):
        low = depth.percentile(1 - percent / 100)
        row[f"FOLD_{percent}_BASE_PENALTY"] = depth.mean() / low if low else math.nan
    row["HET_SNP_SENSITIVITY"] = math.nan
    row["HET_SNP_Q"] = math.nan
    return row


def wgs_text(counts: Counts, sample: str) -> str:
    """The file of CollectWgsMetrics."""
    rows = list(enumerate(counts.wgs_depth.tolist()))
    table = HistogramTable(["coverage", "high_quality_coverage_count"], rows)
    return metrics_text("CollectWgsMetrics", sample, [wgs_row(counts)], table)
