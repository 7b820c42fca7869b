# SPDX-License-Identifier: Apache-2.0
"""The text format of Picard's metrics files (htsjdk's MetricsFile), which MultiQC and R scripts read.

In: rows and histograms. Out: text. The header names the tool whose definitions hold, and us.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megabolt import __version__

Value = str | int | float
_CLASSES = {
    "CollectAlignmentSummaryMetrics": "picard.analysis.AlignmentSummaryMetrics",
    "CollectInsertSizeMetrics": "picard.analysis.InsertSizeMetrics",
    "CollectGcBiasMetrics": "picard.analysis.GcBiasDetailMetrics",
    "CollectWgsMetrics": "picard.analysis.WgsMetrics",
    "CollectHsMetrics": "picard.analysis.directed.HsMetrics",
}


@dataclass(frozen=True)
class HistogramTable:
    """The histogram of a metrics file: names of its columns, its rows, the Java class of the first column."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    key_class: str = "java.lang.Integer"


def number(value: Value) -> str:
    """A value as Picard writes it: at most six decimals, `?` for what is no number."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "?"
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def metrics_text(
    tool: str,
    sample: str,
    rows: Sequence[Mapping[str, Value]],
    histogram: HistogramTable | None = None,
    *,
    metrics_class: str = "",
) -> str:
    """A whole metrics file.

    Parameters
    ----------
    tool
        The Picard program whose definitions hold.
    sample
        MultiQC takes it from INPUT=.
    rows
        Of the metrics table, with the same names in each; none: no table.
    metrics_class
        If it is not the tool's first.
    """
    lines = ["## htsjdk.samtools.metrics.StringHeader"]
    lines.append(f"# {tool} INPUT={sample}.bam (counted by megabolt {__version__} with the definitions of this tool)")
    lines.append("")
    if rows:
        lines.append(f"## METRICS CLASS\t{metrics_class or _CLASSES[tool]}")
        lines.append("\t".join(rows[0]))
        lines += ["\t".join(number(value) for value in row.values()) for row in rows]
        lines.append("")
    if histogram is not None:
        lines.append(f"## HISTOGRAM\t{histogram.key_class}")
        lines.append("\t".join(histogram.columns))
        lines += ["\t".join(number(value) for value in row) for row in histogram.rows]
    return "\n".join(lines) + "\n\n"


def ratio(part: float, whole: float) -> float:
    """0 where there is nothing to divide by, as Picard's MathUtil.divide."""
    return part / whole if whole else 0.0
