# SPDX-License-Identifier: Apache-2.0
"""`samtools flagstat` and `samtools idxstats` texts.

In: `Counts`. Out: the texts of samtools 1.16.
"""

from __future__ import annotations

from collections.abc import Sequence

from megabolt.formats.fasta import Contig
from megabolt.metrics.counts import FLAGSTAT, Counts

_LINES = (
    ("total", "in total (QC-passed reads + QC-failed reads)", ""),
    ("primary", "primary", ""),
    ("secondary", "secondary", ""),
    ("supplementary", "supplementary", ""),
    ("duplicates", "duplicates", ""),
    ("primary_duplicates", "primary duplicates", ""),
    ("mapped", "mapped", "total"),
    ("primary_mapped", "primary mapped", "primary"),
    ("paired", "paired in sequencing", ""),
    ("read1", "read1", ""),
    ("read2", "read2", ""),
    ("properly_paired", "properly paired", "paired"),
    ("both_mapped", "with itself and mate mapped", ""),
    ("singletons", "singletons", "paired"),
    ("mate_elsewhere", "with mate mapped to a different chr", ""),
    ("mate_elsewhere_hq", "with mate mapped to a different chr (mapQ>=5)", ""),
)


def flagstat_text(counts: Counts) -> str:
    """What `samtools flagstat` prints, over all read groups."""
    passed, failed = (dict(zip(FLAGSTAT, row)) for row in counts.flagstat.sum(axis=0).tolist())
    lines = []
    for key, text, of in _LINES:
        line = f"{passed[key]} + {failed[key]} {text}"
        if of:
            line += f" ({_percent(passed[key], passed[of])} : {_percent(failed[key], failed[of])})"
        lines.append(line)
    return "\n".join(lines) + "\n"


def idxstats_text(counts: Counts, contigs: Sequence[Contig]) -> str:
    """What `samtools idxstats` prints: contig, length, mapped, unmapped records."""
    rows = counts.contigs.tolist()
    lines = [f"{one.name}\t{one.length}\t{mapped}\t{rest}" for one, (mapped, rest) in zip(contigs, rows)]
    return "\n".join([*lines, f"*\t0\t0\t{rows[-1][1]}"]) + "\n"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "N/A"
