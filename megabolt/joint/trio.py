# SPDX-License-Identifier: Apache-2.0
"""Genotypes of families: likelihoods of parents and children together, with Mendel's laws and new mutations as prior.

In: `SiteData`, `Called`, families. Out: refined genotypes and GQ, candidates of new mutations. Next: text.

Of a nuclear family, P(f, m, c1, c2, ... | data) is P(f) P(m) times the product over children of P(c | f, m) and all
likelihoods; parents' priors are Hardy-Weinberg with the cohort's frequencies. Each copy a child gets is one of the
parent's two, or with the rate of new mutations any other allele. Children are independent given their parents, so the
sum over all children's genotypes factors, and families of any size cost the same per child.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import callee, kernel
from megabolt.joint.genotype import Called
from megabolt.joint.likelihood import SiteData

#: GQ of all three that makes a candidate sure, and of the child that makes one at all.
SURE_GQ, LIKELY_GQ = 20, 10
#: A new mutation is not seen in many others.
MAX_COPIES, MAX_FREQUENCY = 4, 0.001


@dataclass(frozen=True)
class Family:
    """Numbers of samples; -1 for a parent who is not there."""

    father: int
    mother: int
    children: tuple[int, ...]


@dataclass(frozen=True)
class Refined:
    """gt, gq as in `Called`. sure, likely: samples with a candidate of a new mutation."""

    gt: NDArray[np.int32]
    gq: NDArray[np.int32]
    sure: tuple[int, ...]
    likely: tuple[int, ...]


def refine(data: SiteData, called: Called, families: Sequence[Family], rate: float) -> Refined:
    """Genotypes of all samples, those of families refined.

    Who is a child in one family and a parent in another takes the genotype from the family that has the parents.
    Families with a member who is not diploid here are left as they are.
    """
    gt, gq = called.gt.copy(), called.gq.copy()
    children = {child for family in families for child in family.children}
    done: set[int] = set()
    sure: list[int] = []
    likely: list[int] = []
    for family in families:
        members = [family.father, family.mother, *family.children]
        if any(one >= 0 and data.ploidy[one] == 1 for one in members):
            continue
        posterior = family_posterior(data, called.frequency, family, rate)
        for one, row in zip(members, posterior):
            if one < 0 or data.ploidy[one] == 0 or one in done or (one in children and one not in family.children):
                continue
            done.add(one)
            gt[one], gq[one] = _best(row)
    for family in families:
        for child in family.children:
            level = _new_mutation(family, child, gt, gq, called, data)
            if level:
                (sure if level == 2 else likely).append(child)
    return Refined(gt, gq, tuple(sorted(sure)), tuple(sorted(likely)))


def family_posterior(
    data: SiteData, frequency: NDArray[np.float64], family: Family, rate: float
) -> NDArray[np.float64]:
    """float64 [2 + n_children, n_genotypes]: posteriors of father, mother, children; each row sums to 1."""
    members = [family.father, family.mother, *family.children]
    likelihood = np.ones((len(members), data.phred.shape[1]))
    for k, one in enumerate(members):
        if one >= 0 and data.ploidy[one] == 2:
            likelihood[k] = 10.0 ** (-data.phred[one] / 10.0)
    posterior = np.zeros_like(likelihood)
    fill_posterior(likelihood, frequency, rate, posterior)
    return posterior


def _best(row: NDArray[np.float64]) -> tuple[tuple[int, int], int]:
    best = int(row.argmax())
    others = float(row.sum() - row[best]) if row[best] < 0.5 else float(np.delete(row, best).sum())
    gq = min(99, max(0, round(-10 * float(np.log10(max(others, 1e-300))))))
    b = 0
    while (b + 1) * (b + 2) // 2 <= best:
        b += 1
    return (best - b * (b + 1) // 2, b), gq


def _new_mutation(
    family: Family, child: int, gt: NDArray[np.int32], gq: NDArray[np.int32], called: Called, data: SiteData
) -> int:
    """2: surely, 1: likely, 0: no new mutation in a child."""
    if family.father < 0 or family.mother < 0:
        return 0
    trio = [family.father, family.mother, child]
    if any(data.ploidy[one] != 2 for one in trio) or gq[child] < LIKELY_GQ:
        return 0
    parents = {int(a) for one in trio[:2] for a in gt[one]}
    new = [int(a) for a in gt[child] if int(a) not in parents]
    if len(new) != 1:
        return 0
    copies = gt[gt >= 0]
    n_new = int((copies == new[0]).sum())
    if n_new > max(MAX_COPIES, MAX_FREQUENCY * len(copies)) or data.ad[child, new[0]] == 0:
        return 0
    if any(data.ad[one, new[0]] > 0 for one in trio[:2]):
        return 1
    return 2 if all(gq[one] >= SURE_GQ for one in trio) else 1


@callee
def _passed_on(a: Any, b: Any, x: Any, rate: Any, n: Any) -> Any:
    """P(a parent a/b passes on x)."""
    other = rate / max(1, n - 1)
    return 0.5 * ((1.0 - rate if a == x else other) + (1.0 - rate if b == x else other))


@callee
def _child(fa: Any, fb: Any, ma: Any, mb: Any, likelihood: Any, rate: Any, n: Any, weight: Any) -> Any:
    """weight: P(c | f, m) x likelihood of each genotype of a child; returns their sum."""
    total = 0.0
    for y in range(n):
        for x in range(y + 1):
            p = _passed_on(fa, fb, x, rate, n) * _passed_on(ma, mb, y, rate, n)
            if x != y:
                p += _passed_on(fa, fb, y, rate, n) * _passed_on(ma, mb, x, rate, n)
            g = y * (y + 1) // 2 + x
            weight[g] = p * likelihood[g]
            total += weight[g]
    return total


@kernel("void(float64[:, ::1], float64[::1], float64, float64[:, ::1])")
def fill_posterior(likelihood: Any, frequency: Any, rate: Any, posterior: Any) -> None:
    """See `family_posterior`; rows of `likelihood`: father, mother, children, each with a best value near 1."""
    n, n_children = len(frequency), len(likelihood) - 2
    weight, sums = np.empty((n_children, likelihood.shape[1])), np.empty(n_children)
    for fb in range(n):
        for fa in range(fb + 1):
            f = fb * (fb + 1) // 2 + fa
            father = likelihood[0, f] * frequency[fa] * frequency[fb] * (1.0 if fa == fb else 2.0)
            for mb in range(n):
                for ma in range(mb + 1):
                    m = mb * (mb + 1) // 2 + ma
                    both = father * likelihood[1, m] * frequency[ma] * frequency[mb] * (1.0 if ma == mb else 2.0)
                    for c in range(n_children):
                        sums[c] = _child(fa, fb, ma, mb, likelihood[2 + c], rate, n, weight[c])
                        both *= sums[c]
                    if both <= 0.0:
                        continue
                    posterior[0, f] += both
                    posterior[1, m] += both
                    for c in range(n_children):
                        for g in range(likelihood.shape[1]):
                            posterior[2 + c, g] += both * weight[c, g] / sums[c]
    for k in range(len(posterior)):
        total = 0.0
        for g in range(posterior.shape[1]):
            total += posterior[k, g]
        for g in range(posterior.shape[1]):
            posterior[k, g] = posterior[k, g] / total if total > 0 else 1.0 / posterior.shape[1]
