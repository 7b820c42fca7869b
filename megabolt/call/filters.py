# SPDX-License-Identifier: Apache-2.0
"""Named filters: why a record is not trusted.

In: QUAL, depth and strand counts of a record. Out: the text of its FILTER column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_PHRED = 500.0


@dataclass(frozen=True)
class Thresholds:
    """Limits of the filters.

    Attributes
    ----------
    low_qual
        LowQual: QUAL below. 7 had the fewest errors on simulated 15x and 30x reads; on two further sets, with and
        without PCR errors, it left 0.88 and 0.84 of the errors that 20 leaves.
    low_depth
        LowDepth: fewer templates.
    snp_strand, indel_strand
        StrandBias: Fisher's exact test of allele by strand is above (Phred). The limits are those that GATK's
        documentation of hard filters recommends for FS.
    """

    low_qual: float = 7.0
    low_depth: int = 3
    snp_strand: float = 60.0
    indel_strand: float = 200.0

    def descriptions(self) -> dict[str, str]:
        """What each filter means, for the header."""
        return {
            "LowQual": f"QUAL is below {self.low_qual:g}",
            "LowDepth": f"Fewer than {self.low_depth} templates over the site",
            "StrandBias": f"FS is above {self.snp_strand:g} (SNP) or {self.indel_strand:g} (indel)",
        }


def filter_names(thresholds: Thresholds, qual: float, depth: int, fisher: float, is_snp: bool) -> str:
    """FILTER of a record: PASS, or the names of the filters that it fails, with ';' between."""
    failed = [
        ("LowQual", qual < thresholds.low_qual),
        ("LowDepth", depth < thresholds.low_depth),
        ("StrandBias", fisher > (thresholds.snp_strand if is_snp else thresholds.indel_strand)),
    ]
    return ";".join(name for name, fails in failed if fails) or "PASS"


def fisher_strand(ref: Sequence[int], alt: Sequence[int]) -> float:
    """Phred of Fisher's exact test, two-sided, of the table (forward, reverse) by allele; at most 500."""
    a, b, c, d = ref[0], ref[1], alt[0], alt[1]
    if min(a + b, c + d, a + c, b + d) == 0:
        return 0.0
    total = unlikely = 1.0  # chances of the tables with these margins, relative to the one that was seen
    for step in (1, -1):
        w, x = 1.0, (a, b, c, d)
        while True:
            x = (x[0] + step, x[1] - step, x[2] - step, x[3] + step)
            if min(x) < 0:
                break
            gone, come = (x[1] + 1) * (x[2] + 1), x[0] * x[3]
            w *= gone / come if step > 0 else (x[0] + 1) * (x[3] + 1) / (x[1] * x[2])
            total += w
            if w <= 1.0 + 1e-7:  # whatever the last bits are
                unlikely += w
            if w < 1e-16 or total > 1e60:
                break
    return min(_MAX_PHRED, 10 * math.log10(total / unlikely))
