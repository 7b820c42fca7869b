# SPDX-License-Identifier: Apache-2.0
"""Physical phase: which heterozygous sites of one window lie on the same copy.

In: posteriors of a window's genotypes over haplotypes. Out: phase sets. Two neighbouring sites are phased where the
genotypes that put their alleles as the best one does are a hundred times as likely as those that put them the other
way round. Names and meaning of PGT, PID and PS are those of GATK's HaplotypeCaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: log10 of how much likelier the phase must be than its opposite.
MIN_LOG10_ODDS = 2.0


def phase_sets(
    posterior: NDArray[np.float64], n_haps: int, best: tuple[int, int], sites: Sequence[NDArray[np.int64]]
) -> list[list[int]]:
    """Sets of sites (indices into `sites`) that are phased with each other, of two or more each.

    Parameters
    ----------
    posterior
        float64, log10 of each diploid genotype over haplotypes in VCF's order.
    best
        Haplotypes of the called genotype.
    sites
        For each site, int64 [n_haps]: the allele of each haplotype. Sites at which both copies of `best` carry
        the same allele join no set.
    """
    second, first = np.tril_indices(n_haps)
    sets: list[list[int]] = []
    before = -1
    for i, alleles in enumerate(sites):
        if alleles[best[0]] == alleles[best[1]]:
            continue
        if before >= 0 and _log10_odds(posterior, first, second, best, sites[before], alleles) >= MIN_LOG10_ODDS:
            sets[-1].append(i)
        else:
            sets.append([i])
        before = i
    return [one for one in sets if len(one) > 1]


def _log10_odds(
    posterior: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    best: tuple[int, int],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
) -> float:
    """log10 odds of the phase of `best` at two sites, among the genotypes that agree with it at both."""
    one, other = (int(x[best[0]]), int(y[best[0]])), (int(x[best[1]]), int(y[best[1]]))

    def log10_sum(p: tuple[int, int], q: tuple[int, int]) -> float:
        straight = (x[first] == p[0]) & (y[first] == p[1]) & (x[second] == q[0]) & (y[second] == q[1])
        turned = (x[first] == q[0]) & (y[first] == q[1]) & (x[second] == p[0]) & (y[second] == p[1])
        chosen = posterior[straight | turned]
        top = float(chosen.max(initial=-1e300))
        return top + float(np.log10((10 ** (chosen - top)).sum())) if top > -1e299 else -1e300

    return log10_sum(one, other) - log10_sum((one[0], other[1]), (other[0], one[1]))
