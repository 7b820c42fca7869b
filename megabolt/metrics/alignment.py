# SPDX-License-Identifier: Apache-2.0
"""Alignment summary, insert sizes and base qualities as Picard reports them.

In: `Counts`. Out: texts of CollectAlignmentSummaryMetrics, CollectInsertSizeMetrics, MeanQualityByCycle and
QualityScoreDistribution of Picard 2.27.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megabolt.metrics.counts import FIRST, FR, RF, SECOND, SUMMARY, TANDEM, UNPAIRED, Counts
from megabolt.metrics.histogram import Histogram
from megabolt.metrics.picard import HistogramTable, Value, metrics_text, ratio

_CATEGORIES = (
    ("FIRST_OF_PAIR", (FIRST,)),
    ("SECOND_OF_PAIR", (SECOND,)),
    ("PAIR", (FIRST, SECOND)),
    ("UNPAIRED", (UNPAIRED,)),
)
#: A cycle is bad if so many of its bases are.
_BAD_CYCLE = 0.8
#: Insert size: orientations with less of the pairs are left out; the tail behind so many MADs too.
_LEAST_SHARE = 0.05
_DEVIATIONS = 10
_WIDTHS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
_ORIENTATIONS = ((FR, "FR"), (RF, "RF"), (TANDEM, "TANDEM"))

#: Rows of counts that are taken together, with the values of SAMPLE, LIBRARY and READ_GROUP.
Level = tuple[Sequence[int], tuple[str, str, str]]


def all_reads(counts: Counts) -> Level:
    """The level of all reads together."""
    return range(len(counts.flagstat)), ("", "", "")


def alignment_rows(counts: Counts, level: Level) -> list[dict[str, Value]]:
    """Rows of CollectAlignmentSummaryMetrics."""
    groups, names = level
    rows: list[dict[str, Value]] = []
    for category, sides in _CATEGORIES:
        row = _alignment_row(counts, list(groups), sides)
        unpaired_only = category == "UNPAIRED" and not rows
        if row["TOTAL_READS"] or unpaired_only:
            tail = dict(zip(("SAMPLE", "LIBRARY", "READ_GROUP"), names))
            rows.append({"CATEGORY": category, **row, **tail})
    return rows


def _alignment_row(counts: Counts, groups: list[int], sides: tuple[int, ...]) -> dict[str, Value]:
    def pick(array: NDArray[np.int64]) -> NDArray[np.int64]:
        picked: NDArray[np.int64] = array[groups][:, list(sides)].sum(axis=(0, 1))
        return picked

    n = dict(zip(SUMMARY, pick(counts.summary).tolist()))
    lengths = Histogram(pick(counts.lengths))
    mismatches = pick(counts.mismatches)
    mismatches[0] += n["aligned"] - mismatches.sum()  # Picard counts reads of low MAPQ as without mismatches
    bad = sum(
        int((counts.bad_cycles[groups][:, side].sum(axis=0) >= _BAD_CYCLE * max(1, total)).sum())
        for side in sides
        if (total := int(counts.summary[groups, side, 0].sum()))
    )
    aligned, bases, reads = n["aligned"], n["aligned_bases"], n["pf_reads"]
    return {
        "TOTAL_READS": n["total_reads"],
        "PF_READS": reads,
        "PCT_PF_READS": ratio(reads, n["total_reads"]),
        "PF_NOISE_READS": 0,
        "PF_READS_ALIGNED": aligned,
        "PCT_PF_READS_ALIGNED": ratio(aligned, reads),
        "PF_ALIGNED_BASES": bases,
        "PF_HQ_ALIGNED_READS": n["hq_reads"],
        "PF_HQ_ALIGNED_BASES": n["hq_bases"],
        "PF_HQ_ALIGNED_Q20_BASES": n["hq_q20_bases"],
        "PF_HQ_MEDIAN_MISMATCHES": Histogram(mismatches).median(),
        "PF_MISMATCH_RATE": ratio(n["mismatches"], bases),
        "PF_HQ_ERROR_RATE": ratio(n["hq_mismatches"], n["hq_bases"]),
        "PF_INDEL_RATE": ratio(n["indels"], bases),
        "MEAN_READ_LENGTH": ratio(lengths.sum, lengths.count),
        "SD_READ_LENGTH": lengths.sd() if reads else 0,
        "MEDIAN_READ_LENGTH": lengths.median(),
        "MAD_READ_LENGTH": lengths.mad(),
        "MIN_READ_LENGTH": lengths.lowest,
        "MAX_READ_LENGTH": lengths.highest,
        "MEAN_ALIGNED_READ_LENGTH": ratio(n["unclipped_bases"], reads),
        "READS_ALIGNED_IN_PAIRS": n["in_pairs"],
        "PCT_READS_ALIGNED_IN_PAIRS": ratio(n["in_pairs"], aligned),
        "PF_READS_IMPROPER_PAIRS": n["improper"],
        "PCT_PF_READS_IMPROPER_PAIRS": ratio(n["improper"], aligned),
        "BAD_CYCLES": bad,
        "STRAND_BALANCE": ratio(n["forward"], aligned),
        "PCT_CHIMERAS": ratio(n["chimeras"], n["chimera_candidates"]),
        "PCT_ADAPTER": ratio(n["adapters"], reads),
        "PCT_SOFTCLIP": ratio(n["soft_clipped"], lengths.sum),
        "PCT_HARDCLIP": ratio(n["hard_clipped"], lengths.sum),
        "AVG_POS_3PRIME_SOFTCLIP_LENGTH": ratio(n["soft_clipped_3prime"], n["reads_clipped_3prime"]),
    }


def alignment_text(counts: Counts, sample: str, levels: Sequence[Level]) -> str:
    """The file of CollectAlignmentSummaryMetrics, with its histogram of read lengths."""
    rows = [row for level in levels for row in alignment_rows(counts, level)]
    columns = []
    for name, sides in (("PAIRED", [FIRST, SECOND]), ("UNPAIRED", [UNPAIRED])):
        if counts.lengths[:, sides].any():
            columns.append((f"{name}_TOTAL_LENGTH_COUNT", counts.lengths[:, sides].sum(axis=(0, 1))))
            columns.append((f"{name}_ALIGNED_LENGTH_COUNT", counts.aligned_lengths[:, sides].sum(axis=(0, 1))))
    seen = np.flatnonzero(counts.lengths.sum(axis=(0, 1)) + counts.aligned_lengths.sum(axis=(0, 1))).tolist()
    table = HistogramTable(
        ["READ_LENGTH", *(name for name, _ in columns)],
        [[length, *(int(column[length]) for _, column in columns)] for length in seen],
    )
    return metrics_text("CollectAlignmentSummaryMetrics", sample, rows, table)


def insert_histogram(counts: Counts, groups: Sequence[int], orientation: int) -> Histogram:
    """Insert sizes of the pairs of an orientation."""
    more: dict[int, int] = {}
    wanted = set(groups)
    for (group, turned, size), n in counts.far_inserts.items():
        if turned == orientation and group in wanted:
            more[size] = more.get(size, 0) + n
    return Histogram(counts.inserts[list(groups), orientation].sum(axis=0), more)


def insert_rows(counts: Counts, level: Level) -> list[tuple[dict[str, Value], Histogram]]:
    """Rows of CollectInsertSizeMetrics, each with its trimmed histogram."""
    groups, names = level
    found = [(name, insert_histogram(counts, groups, orientation)) for orientation, name in _ORIENTATIONS]
    total = sum(one.count for _, one in found)
    rows = []
    for name, one in found:
        if total == 0 or one.count == 0 or one.count < _LEAST_SHARE * total:
            continue
        trimmed = one.up_to(int(one.median() + _DEVIATIONS * one.mad()))
        row: dict[str, Value] = {
            "MEDIAN_INSERT_SIZE": one.median(),
            "MODE_INSERT_SIZE": one.mode(),
            "MEDIAN_ABSOLUTE_DEVIATION": one.mad(),
            "MIN_INSERT_SIZE": one.lowest,
            "MAX_INSERT_SIZE": one.highest,
            "MEAN_INSERT_SIZE": trimmed.mean(),
            "STANDARD_DEVIATION": trimmed.sd(),
            "READ_PAIRS": one.count,
            "PAIR_ORIENTATION": name,
            **_widths(one),
            **dict(zip(("SAMPLE", "LIBRARY", "READ_GROUP"), names)),
        }
        rows.append((row, trimmed))
    return rows


def _widths(histogram: Histogram) -> dict[str, Value]:
    """Widths of the intervals around the median that hold given shares of the pairs."""
    median = histogram.median()
    far = max(int(median), histogram.highest) + 1
    dense = np.zeros(min(far, 4 * int(median) + (1 << 20)) + 2, np.int64)
    inside = histogram.values < len(dense)
    dense[histogram.values[inside]] = histogram.weights[inside]
    steps = np.arange(len(dense))
    low = np.trunc(median - steps).astype(np.int64)
    high = np.trunc(median + steps).astype(np.int64)
    covered = np.where(low >= 0, dense[np.maximum(low, 0)], 0) + np.where(high < len(dense), _take(dense, high), 0)
    covered[0] = dense[int(median)]  # both ends are the same place
    share = np.cumsum(covered) / histogram.count
    widths: dict[str, Value] = {}
    for percent in _WIDTHS:
        reached = int(np.argmax(share >= percent / 100)) if share[-1] >= percent / 100 else 0
        widths[f"WIDTH_OF_{percent}_PERCENT"] = 2 * reached + 1 if share[-1] >= percent / 100 else 0
    return widths


def _take(array: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.int64]:
    taken: NDArray[np.int64] = array[np.minimum(at, len(array) - 1)]
    return taken


def insert_text(counts: Counts, sample: str, levels: Sequence[Level]) -> str | None:
    """The file of CollectInsertSizeMetrics; None without pairs."""
    found = [(level, *row) for level in levels for row in insert_rows(counts, level)]
    if not found:
        return None
    columns, tables = [], []
    for (_, names), row, histogram in found:
        prefix = next((name for name in reversed(names) if name), "All_Reads")
        columns.append(f"{prefix}.{str(row['PAIR_ORIENTATION']).lower()}_count")
        tables.append(dict(histogram.items()))
    sizes = sorted(set().union(*tables))
    table = HistogramTable(["insert_size", *columns], [[size, *(one.get(size, 0) for one in tables)] for size in sizes])
    return metrics_text("CollectInsertSizeMetrics", sample, [row for _, row, _ in found], table)


def mean_qualities(counts: Counts) -> tuple[list[float], list[float]]:
    """Mean quality of each cycle, of first (and unpaired) reads and of second ones; up to the last cycle seen."""
    means = []
    for sides in ((UNPAIRED, FIRST), (SECOND,)):
        table = counts.quality[:, list(sides)].sum(axis=(0, 1))
        bases = table.sum(axis=1)
        last = int(np.flatnonzero(bases)[-1]) + 1 if bases.any() else 0
        sums = table @ np.arange(table.shape[1])
        means.append((sums[:last] / bases[:last]).tolist())
    return means[0], means[1]


def quality_by_cycle_text(counts: Counts, sample: str) -> str:
    """The file of MeanQualityByCycle: second reads follow behind the first."""
    first, second = mean_qualities(counts)
    rows = list(enumerate([*first, *second], 1))
    return metrics_text("MeanQualityByCycle", sample, [], HistogramTable(["CYCLE", "MEAN_QUALITY"], rows))


def quality_distribution_text(counts: Counts, sample: str) -> str:
    """The file of QualityScoreDistribution: called bases by quality."""
    bases = counts.quality.sum(axis=(0, 1, 2)) - counts.no_calls
    rows = [(int(q), int(bases[q])) for q in np.flatnonzero(bases)]
    table = HistogramTable(["QUALITY", "COUNT_OF_Q"], rows, "java.lang.Byte")
    return metrics_text("QualityScoreDistribution", sample, [], table)
