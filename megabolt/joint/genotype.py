# SPDX-License-Identifier: Apache-2.0
"""Genotypes of a cohort at one site: allele frequencies by expectation and maximisation, then posteriors.

In: `SiteData`. Out: `Called`. Next: trio, text.

Genotypes are drawn from allele frequencies (Hardy-Weinberg); frequencies have a Dirichlet prior whose weights are those
of GATK's GenotypeGVCFs in its documentation: 10 for the reference, 10 times the heterozygosity for other alleles.
QUAL is the phred of all samples being without a variant; copies under a deletion (`*`) are no variant of this site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import callee, kernel
from megabolt.joint.alleles import SPANNED
from megabolt.joint.likelihood import SiteData

#: Weight of the reference in the Dirichlet prior, and expected differences per base between two copies.
REF_WEIGHT, SNP_RATE, INDEL_RATE = 10.0, 1e-3, 1.25e-4
MAX_GQ = 99
MAX_QUAL = 100000.0


@dataclass(frozen=True)
class Called:
    """gt: int32 [n_samples, 2], alleles in ascending order, -1 for none; haploid samples have -1 second. gq: int32,
    -1 for none. frequency: float64 [n_alleles]. qual: phred."""

    gt: NDArray[np.int32]
    gq: NDArray[np.int32]
    frequency: NDArray[np.float64]
    qual: float

    def counts(self, n_alleles: int) -> list[int]:
        """Copies of each allele in the called genotypes."""
        called = self.gt[self.gt >= 0]
        return [int(n) for n in np.bincount(called, minlength=n_alleles)]


def prior_weights(ref: str, alts: Sequence[str]) -> NDArray[np.float64]:
    """Dirichlet weights of the reference and each alternative allele."""
    rates = [SNP_RATE if len(one) == len(ref) and one != SPANNED else INDEL_RATE for one in alts]
    return REF_WEIGHT * np.array([1.0, *rates])


def call_site(data: SiteData, ref: str, alts: Sequence[str]) -> Called:
    """Frequencies, genotypes, GQ and QUAL."""
    n_samples, n_alleles = data.ad.shape
    gt, gq = np.empty((n_samples, 2), np.int32), np.empty(n_samples, np.int32)
    frequency, qual = np.empty(n_alleles), np.empty(1)
    harmless = np.array([1, *(one == SPANNED for one in alts)], np.uint8)
    call_genotypes(data.phred, data.ploidy, prior_weights(ref, alts), harmless, gt, gq, frequency, qual)
    return Called(gt, gq, frequency, min(MAX_QUAL, max(0.0, float(qual[0]))))


@callee
def _weights(row: Any, copies: Any, frequency: Any, weight: Any) -> Any:
    """weight: likelihood x prior of each genotype of a sample; returns their sum."""
    n, total = len(frequency), 0.0
    if copies == 1:
        for a in range(n):
            weight[a] = frequency[a] * 10.0 ** (-row[a] / 10.0)
            total += weight[a]
        return total
    for b in range(n):
        for a in range(b + 1):
            g = b * (b + 1) // 2 + a
            twice = 1.0 if a == b else 2.0
            weight[g] = twice * frequency[a] * frequency[b] * 10.0 ** (-row[g] / 10.0)
            total += weight[g]
    return total


@callee
def _log10_no_variant(row: Any, copies: Any, frequency: Any, harmless: Any, total: Any) -> Any:
    """log10 posterior of the likeliest genotypes without a variant, summed."""
    best = -1e300
    n = len(frequency)
    for b in range(n):
        if not harmless[b]:
            continue
        for a in range(b + 1 if copies == 2 else 1):
            if copies == 2 and not harmless[a]:
                continue
            prior = frequency[b] if copies == 1 else frequency[a] * frequency[b] * (1.0 if a == b else 2.0)
            at = b if copies == 1 else b * (b + 1) // 2 + a
            value = np.log10(max(prior, 1e-300)) - row[at] / 10.0
            high = max(best, value)
            best = high + np.log10(10.0 ** (best - high) + 10.0 ** (value - high))
    return min(0.0, best - np.log10(total))


@kernel(
    "void(float64[:, ::1], int32[::1], float64[::1], uint8[::1], int32[:, ::1], int32[::1], float64[::1], float64[::1])"
)
def call_genotypes(
    phred: Any, ploidy: Any, prior: Any, harmless: Any, gt: Any, gq: Any, frequency: Any, qual: Any
) -> None:
    """See `call_site`. prior: Dirichlet weights; harmless: 1 for the reference and `*`."""
    n = len(prior)
    weight, counts = np.empty(phred.shape[1]), np.empty(n)
    for a in range(n):
        frequency[a] = 1.0 / n
    for _ in range(50):
        for a in range(n):
            counts[a] = prior[a]
        for s in range(len(ploidy)):
            if ploidy[s] == 0:
                continue
            total = _weights(phred[s], ploidy[s], frequency, weight)
            if ploidy[s] == 1:
                for a in range(n):
                    counts[a] += weight[a] / total
            else:
                for b in range(n):
                    for a in range(b + 1):
                        share = weight[b * (b + 1) // 2 + a] / total
                        counts[a] += share
                        counts[b] += share
        everything, change = 0.0, 0.0
        for a in range(n):
            everything += counts[a]
        for a in range(n):
            change = max(change, abs(counts[a] / everything - frequency[a]))
            frequency[a] = counts[a] / everything
        if change * everything < 1e-3:
            break
    no_variant = 0.0
    for s in range(len(ploidy)):
        gt[s, 0], gt[s, 1], gq[s] = -1, -1, -1
        if ploidy[s] == 0:
            continue
        total = _weights(phred[s], ploidy[s], frequency, weight)
        no_variant += _log10_no_variant(phred[s], ploidy[s], frequency, harmless, total)
        _choose(weight, ploidy[s], n, total, gt[s], gq[s : s + 1])
    qual[0] = -10.0 * no_variant


@callee
def _choose(weight: Any, copies: Any, n: Any, total: Any, gt: Any, gq: Any) -> None:
    """The likeliest genotype and its GQ."""
    best, n_weights = 0, n if copies == 1 else n * (n + 1) // 2
    for g in range(n_weights):
        if weight[g] > weight[best]:
            best = g
    others = 0.0
    for g in range(n_weights):
        if g != best:
            others += weight[g]
    gq[0] = min(99, max(0, np.int32(round(-10.0 * np.log10(max(others / total, 1e-300))))))
    if copies == 1:
        gt[0], gt[1] = best, -1
        return
    b = 0
    while (b + 1) * (b + 2) // 2 <= best:
        b += 1
    gt[0], gt[1] = best - b * (b + 1) // 2, b
