# SPDX-License-Identifier: Apache-2.0
"""Duplication metrics as Picard MarkDuplicates defines and writes them; MultiQC reads the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from megabolt.formats.output import atomic_output, output_error

#: Steps of sequencing for which the return is estimated.
_MOST_COVERAGE = 100


@dataclass(frozen=True)
class DuplicationMetrics:
    """Counts of one library (picard.sam.DuplicationMetrics).

    Attributes
    ----------
    unpaired_reads_examined
        Mapped reads that are single or have an unmapped mate.
    read_pairs_examined
        Pairs of which both mates are mapped.
    secondary_or_supplementary_reads, unmapped_reads
        Records of the kind.
    unpaired_read_duplicates, read_pair_duplicates
        Duplicates among the first two.
    read_pair_optical_duplicates
        Those of the last that are optical.
    """

    library: str
    unpaired_reads_examined: int
    read_pairs_examined: int
    secondary_or_supplementary_reads: int
    unmapped_reads: int
    unpaired_read_duplicates: int
    read_pair_duplicates: int
    read_pair_optical_duplicates: int

    @property
    def fraction_duplicated(self) -> float:
        """Duplicates among all mapped reads; 0 without reads."""
        reads = self.unpaired_reads_examined + 2 * self.read_pairs_examined
        duplicates = self.unpaired_read_duplicates + 2 * self.read_pair_duplicates
        return duplicates / reads if reads else 0.0

    @property
    def estimated_library_size(self) -> int | None:
        """Molecules of the library, from its pairs without the optical duplicates; None without duplicates."""
        examined = self.read_pairs_examined - self.read_pair_optical_duplicates
        return estimate_library_size(examined, self.read_pairs_examined - self.read_pair_duplicates)


def estimate_library_size(pairs: int, distinct: int) -> int | None:
    """Distinct molecules x such that `pairs` draws give `distinct`: distinct / x = 1 - exp(-pairs / x).

    The equation of Lander and Waterman (Genomics 2, 1988), solved by 40 bisections as Picard does. None where no
    pair is a duplicate.
    """
    if pairs <= 0 or distinct >= pairs or distinct <= 0:
        return None

    def excess(x: float) -> float:
        return distinct / x - 1 + math.exp(-pairs / x)

    low, high = 1.0, 100.0
    while excess(high * distinct) > 0:
        high *= 10.0
    for _ in range(40):
        middle = (low + high) / 2
        value = excess(middle * distinct)
        if value == 0:
            break
        if value > 0:
            low = middle
        else:
            high = middle
    return int(distinct * (low + high) / 2)


def return_of_investment(metrics: DuplicationMetrics) -> list[float]:
    """Distinct pairs that 1, 2, .. 100 times the sequencing would give, in units of those there are."""
    size = metrics.estimated_library_size
    if size is None:
        return []
    distinct = metrics.read_pairs_examined - metrics.read_pair_duplicates
    times = range(1, _MOST_COVERAGE + 1)
    return [size * (1 - math.exp(-(x * metrics.read_pairs_examined) / size)) / distinct for x in times]


def write_duplication_metrics(
    path: Path | str,
    metrics: Sequence[DuplicationMetrics],
    set_sizes: Mapping[tuple[int, int], int],
    *,
    command_line: str = "megabolt",
) -> None:
    """Write Picard's metrics file: see `duplication_report`. Raises OutputError."""
    started = f"{datetime.now(UTC):%a %b %d %H:%M:%S UTC %Y}"
    text = duplication_report(metrics, set_sizes, command_line, started)
    try:
        with atomic_output(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise output_error(path, error) from error


def duplication_report(
    metrics: Sequence[DuplicationMetrics], set_sizes: Mapping[tuple[int, int], int], command_line: str, started: str
) -> str:
    """Text of Picard's metrics file.

    Parameters
    ----------
    metrics
        Of each library.
    set_sizes
        (pairs, optical duplicates) of a group -> groups: see `Duplicates`.
    command_line, started
        For the comment lines.
    """
    lines = ["## htsjdk.samtools.metrics.StringHeader", f"# {command_line}"]
    lines += ["## htsjdk.samtools.metrics.StringHeader", f"# Started on: {started}", ""]
    lines += ["## METRICS CLASS\tpicard.sam.DuplicationMetrics", "\t".join(_COLUMNS)]
    lines += [_row(one) for one in sorted(metrics, key=lambda one: one.library)]
    roi = return_of_investment(metrics[0]) if len(metrics) == 1 else []
    lines += ["", *_histogram(roi, set_sizes), ""]
    return "\n".join(lines) + "\n"


_COLUMNS = (
    "LIBRARY",
    "UNPAIRED_READS_EXAMINED",
    "READ_PAIRS_EXAMINED",
    "SECONDARY_OR_SUPPLEMENTARY_RDS",
    "UNMAPPED_READS",
    "UNPAIRED_READ_DUPLICATES",
    "READ_PAIR_DUPLICATES",
    "READ_PAIR_OPTICAL_DUPLICATES",
    "PERCENT_DUPLICATION",
    "ESTIMATED_LIBRARY_SIZE",
)


def _row(one: DuplicationMetrics) -> str:
    size = one.estimated_library_size
    values = [
        one.library,
        one.unpaired_reads_examined,
        one.read_pairs_examined,
        one.secondary_or_supplementary_reads,
        one.unmapped_reads,
        one.unpaired_read_duplicates,
        one.read_pair_duplicates,
        one.read_pair_optical_duplicates,
        _number(one.fraction_duplicated),
        "" if size is None else size,
    ]
    return "\t".join(str(value) for value in values)


def _histogram(roi: Sequence[float], set_sizes: Mapping[tuple[int, int], int]) -> list[str]:
    """The return of more sequencing beside the sizes of groups: all, optical (with the one kept), without these."""
    everything: Counter[int] = Counter()
    optical: Counter[int] = Counter()
    rest: Counter[int] = Counter()
    for (pairs, close), n in set_sizes.items():
        everything[pairs] += n
        rest[pairs - close] += n
        if close:
            optical[close + 1] += n
    columns = {"all_sets": everything, "optical_sets": optical, "non_optical_sets": rest}
    columns = {name: column for name, column in columns.items() if column.total()}  # Picard leaves out empty ones
    bins = {x for column in columns.values() for x, n in column.items() if n}
    titles = ["set_size", *columns]
    if roi:
        bins |= set(range(1, len(roi) + 1))
        titles[:1] = ["BIN", "CoverageMult"]
    if not bins:
        return []
    lines = ["## HISTOGRAM\tjava.lang.Double", "\t".join(titles)]
    for x in sorted(bins):
        first = [_number(roi[x - 1]) if x <= len(roi) else "0"] if roi else []
        lines.append("\t".join([f"{x}.0", *first, *(str(column[x]) for column in columns.values())]))
    return lines


def _number(value: float) -> str:
    """At most six decimals."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
