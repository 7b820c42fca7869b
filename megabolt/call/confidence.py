# SPDX-License-Identifier: Apache-2.0
"""How sure a genotype is: its posterior, and the chance that the model behind the posterior does not hold.

In: the posterior of a called genotype and what its site shows. Out: GQ. Next: `emit.py`.

Likelihoods take reads for independent and the true haplotypes for known. Neither holds in long repeats and among
misplaced reads, and errors there no longer become rarer as reads pile up. The constants are fits to wrong calls of
four simulated sets (HG002, chr20:1-10 Mb; 15x and 30x, with and without PCR errors), judged on two others
(`benchmarks/accuracy`). PL and QUAL are not touched.
"""

from __future__ import annotations

import math

import numpy as np

MAX_GQ = 99
#: P(model fails) at any site: none of 35,000 calls of SNPs outside repeats, MAPQ 58 and more, GQ above 40, was wrong.
PLAIN = 1e-4
#: P(model fails) by bases of the longest tandem tract beside the site: its true allele may be none of the candidates.
#: SNPs suffer half as much as indels: their reads may lie wrongly about an indel that was missed.
TRACTS = (9.0, 10.0, 15.0, 20.0, 30.0)
LOG10_TRACT_FAILS = (-4.0, -2.85, -2.5, -2.2, -2.0)
SNP_SHARE = 0.5
#: Reads of one tract err together (its own rate of slips, copies of one slipped molecule): so much of what they say
#: about an indel counts, by bases of the tract.
TRACT_WEIGHT = ((10.0, 20.0), (1.0, 0.45))
#: P(the reads of another place made the genotype) = AMONG_MISPLACED x share ** POWER, where share is that of reads
#: that may lie wrongly. Equal copies are seldom an invention: their chance is HOM_SHARE of it.
AMONG_MISPLACED, POWER, HOM_SHARE = 0.6, 2.5, 0.02
#: MAPQ of a read that lies right for sure.
SURE_MAPQ = 60.0


def model_failure(tract: int, mapq: float, *, indel: bool, alike: bool) -> float:
    """P(no hypothesis of the model is true).

    Parameters
    ----------
    tract
        Bases of the longest tandem repeat at the site or beside it.
    mapq
        Root mean square over the site's reads; 1 - (mapq / 60)^2 is the share of misplaced ones if a read's MAPQ is
        60 or 0.
    indel
        Whether an allele is longer or shorter than the reference.
    alike
        Whether all copies carry the same allele.
    """
    fails = 10.0 ** float(np.interp(tract, TRACTS, LOG10_TRACT_FAILS)) if tract > TRACTS[0] or indel else 0.0
    share = max(0.0, 1.0 - (mapq / SURE_MAPQ) ** 2)
    misplaced = AMONG_MISPLACED * math.pow(share, POWER) * (HOM_SHARE if alike else 1.0)
    return min(1.0, PLAIN + fails * (1.0 if indel else SNP_SHARE) + misplaced)


def genotype_quality(log10_wrong: float, tract: int, mapq: float, *, indel: bool, alike: bool) -> int:
    """GQ: Phred of P(the genotype is wrong), 0 to 99.

    (1) P = P(wrong | model)^w + P(model fails), w = 1 but for indels in tandem repeats

    Parameters
    ----------
    log10_wrong
        log10 of 1 - posterior of the genotype.
    tract, mapq, indel, alike
        As in `model_failure`.
    """
    weight = float(np.interp(tract, *TRACT_WEIGHT)) if indel else 1.0
    wrong = 10.0 ** max(-300.0, weight * log10_wrong) + model_failure(tract, mapq, indel=indel, alike=alike)  # (1)
    return max(0, min(MAX_GQ, round(-10 * math.log10(min(1.0, wrong)))))
