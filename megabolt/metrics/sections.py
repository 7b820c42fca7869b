# SPDX-License-Identifier: Apache-2.0
"""The sections of S.metrics.json that come from the reads, and the table of read groups.

In: `Counts`. Out: dictionaries, a tab-separated table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from megabolt.metrics.alignment import insert_histogram
from megabolt.metrics.collector import GroupInfo
from megabolt.metrics.counts import FLAGSTAT, FR, RF, SUMMARY, TANDEM, UNPAIRED, Counts
from megabolt.metrics.histogram import Histogram

#: Proper pairs with a longer template are left out of the insert size's mean and deviation.
LONGEST_INSERT = 10_000


def read_sections(counts: Counts, depth_bases: int) -> dict[str, Any]:
    """The sections `reads`, `depth` and `insert_size`.

    Parameters
    ----------
    depth_bases
        Places that the mean depth is over: the targets, or the known bases of the reference.
    """
    n = _totals(counts, range(len(counts.flagstat)))
    flags = dict(zip(FLAGSTAT, counts.flagstat.sum(axis=(0, 1)).tolist()))
    single = int(counts.summary[:, UNPAIRED, 0].sum())
    total, mapped = n["total_reads"], flags["primary_mapped"]
    histograms = counts.target_depth if counts.targets is not None else counts.depth
    bases = sum(int(one @ np.arange(len(one))) for one in histograms.values())
    inserts = _inserts(counts, range(len(counts.flagstat)))
    return {
        "reads": {
            "pairs": flags["paired"] // 2,
            "single": single,
            "total": total,
            "mapped": mapped,
            "mapped_fraction": _ratio(mapped, total),
            "properly_paired": flags["properly_paired"],
            "properly_paired_fraction": _ratio(flags["properly_paired"], flags["paired"]),
            "duplicates": n["duplicates"],
            "duplicate_fraction": _ratio(n["duplicates"], mapped),
            "supplementary": flags["supplementary"],
            "mapq20_fraction": _ratio(n["mapq20"], total),
            "mismatch_rate": _ratio(n["mismatches"], n["aligned_bases"], 8),
        },
        "depth": {"mean": _ratio(bases, depth_bases, 3), "over_bases": depth_bases},
        "insert_size": {"mean": _rounded(inserts.mean()), "sd": _rounded(inserts.sd())},
    }


_COLUMNS = (
    "sample", "library", "read_group", "platform_unit", "reads", "mapped_fraction", "properly_paired_fraction",
    "duplicate_fraction", "mapq20_fraction", "mismatch_rate", "mean_quality", "mean_read_length", "median_insert_size",
    "insert_size_sd",
)  # fmt: skip


def group_rows(counts: Counts, groups: Sequence[GroupInfo], sample: str) -> list[dict[str, Any]]:
    """The main figures of each read group; records of none are the last row, if there are any."""
    known = list(groups) or [GroupInfo("", sample, "")]
    if len(counts.flagstat) > len(known):
        known.append(GroupInfo("(none)", sample, ""))
    rows = []
    for k, group in enumerate(known):
        n = _totals(counts, [k])
        flags = dict(zip(FLAGSTAT, counts.flagstat[k].sum(axis=0).tolist()))
        if group.identifier == "(none)" and not flags["total"]:
            continue
        bases = counts.quality[k].sum(axis=(0, 1))
        lengths = Histogram(counts.lengths[k].sum(axis=0))
        inserts = _inserts(counts, [k])
        values = (
            group.sample, group.library, group.identifier, group.unit, n["total_reads"],
            _ratio(n["aligned"], n["total_reads"]), _ratio(flags["properly_paired"], flags["paired"]),
            _ratio(n["duplicates"], n["aligned"]), _ratio(n["mapq20"], n["total_reads"]),
            _ratio(n["mismatches"], n["aligned_bases"], 8),
            _ratio(int(bases @ np.arange(len(bases))), int(bases.sum()), 3),
            _ratio(lengths.sum, lengths.count, 2), inserts.median(), _rounded(inserts.sd()),
        )  # fmt: skip
        rows.append(dict(zip(_COLUMNS, values)))
    return rows


def group_table(counts: Counts, groups: Sequence[GroupInfo], sample: str) -> str:
    """`group_rows` as tab-separated text with a header."""
    rows = group_rows(counts, groups, sample)
    lines = ["\t".join(_COLUMNS), *("\t".join(str(value) for value in row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


def _totals(counts: Counts, groups: Sequence[int]) -> dict[str, int]:
    return dict(zip(SUMMARY, counts.summary[list(groups)].sum(axis=(0, 1)).tolist()))


def _inserts(counts: Counts, groups: Sequence[int]) -> Histogram:
    """Insert sizes of all orientations, the longest left out."""
    total = np.zeros(LONGEST_INSERT + 1, np.int64)
    for orientation in (FR, RF, TANDEM):
        one = insert_histogram(counts, groups, orientation).up_to(LONGEST_INSERT)
        total[one.values] += one.weights
    return Histogram(total)


def _ratio(part: int, whole: int, digits: int = 6) -> float:
    return round(part / whole, digits) if whole else 0.0


def _rounded(value: float) -> float:
    return round(value, 2) if math.isfinite(value) else 0.0
