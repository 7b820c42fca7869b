# SPDX-License-Identifier: Apache-2.0
"""Copies of the genome: how many there are of each stretch, and genotypes of any number of them.

Genotypes stand in VCF's order (VCF 4.4, section 1.6.2): with sorted copies a0 <= a1 <= ..., those with the smaller
last copy come first, among them those with the smaller last but one, and so on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

DIPLOID = 2


def n_genotypes(n_alleles: int, ploidy: int) -> int:
    """How many genotypes of `ploidy` copies there are over `n_alleles` alleles."""
    return math.comb(n_alleles + ploidy - 1, ploidy)


def genotype_index(copies: Sequence[int]) -> int:
    """Place of the genotype of the ascending `copies` in VCF's order."""
    return sum(math.comb(a + i, i + 1) for i, a in enumerate(copies))


def genotypes_of(n_alleles: int, ploidy: int) -> list[tuple[int, ...]]:
    """All genotypes in VCF's order, each ascending."""
    return sorted(itertools.combinations_with_replacement(range(n_alleles), ploidy), key=lambda g: g[::-1])


@dataclass(frozen=True)
class PloidyMap:
    """Copies of each stretch of the genome that a sample has.

    Attributes
    ----------
    stretches
        Of contigs (ordinals) that are not diploid throughout: (start, stop, copies), 0-based, half-open, ascending
        and without gaps from 0 to the contig's length. No copies: nothing is called there.
    """

    stretches: Mapping[int, tuple[tuple[int, int, int], ...]] = field(default_factory=dict)

    def at(self, contig: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Copies at each of the positions (int64)."""
        rows = self.stretches.get(contig)
        if rows is None:
            return np.full(len(positions), DIPLOID, np.int64)
        begins = np.array([start for start, _, _ in rows], np.int64)
        copies = np.array([n for _, _, n in rows], np.int64)
        return copies[np.maximum(0, np.searchsorted(begins, positions, side="right") - 1)]

    def within(self, contig: int, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The stretches of [start, stop)."""
        rows = self.stretches.get(contig, ((start, stop, DIPLOID),))
        cut = ((max(start, a), min(stop, b), n) for a, b, n in rows)
        return [(a, b, n) for a, b, n in cut if a < b]


#: Two copies of everything.
ALL_DIPLOID = PloidyMap()
