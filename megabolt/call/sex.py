# SPDX-License-Identifier: Apache-2.0
"""Sex chromosomes: how many copies of X and Y a sample has, and where that does not hold.

In: names and lengths of contigs, coverage of autosomes, X and Y. Out: `SexCopies`, `PloidyMap`.

The pseudoautosomal regions (PAR) of X and Y recombine with each other: a male has two copies of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.call.ploidy import DIPLOID, PloidyMap
from megabolt.formats.fasta import Contig

SEXES = ("auto", "male", "female")
#: Length of X or Y -> PAR of that assembly (Genome Reference Consortium), 0-based, half-open.
_PAR = {
    155_270_560: ((60_000, 2_699_520), (154_931_043, 155_260_560)),  # X of GRCh37
    59_373_566: ((10_000, 2_649_520), (59_034_049, 59_363_566)),  # Y of GRCh37
    156_040_895: ((10_000, 2_781_479), (155_701_382, 156_030_895)),  # X of GRCh38
    57_227_415: ((10_000, 2_781_479), (56_887_902, 57_217_415)),  # Y of GRCh38
}
#: X below this share of the autosomes' coverage is one copy; Y above this one is there. Males have one half of both;
#: a female's Y has what is like other places, a twentieth at most.
_ONE_X, _ANY_Y = 0.75, 0.2
#: Reads that one copy of X or Y would give, below which nothing is said.
_MIN_EXPECTED = 100
_AUTOSOME = re.compile(r"(chr)?([1-9]|1[0-9]|2[0-2])\Z")


@dataclass(frozen=True)
class SexCopies:
    """Copies of X and Y outside the PAR. why: where that is known from, for log and header."""

    x: int
    y: int
    why: str

    @property
    def name(self) -> str:
        """male, female, or what the copies are."""
        return {(1, 1): "male", (2, 0): "female"}.get((self.x, self.y), "X" * self.x + "Y" * self.y)


@dataclass(frozen=True)
class Coverage:
    """Reads that begin in some places, and the bases there that are not N."""

    reads: int
    bases: int


def is_autosome(name: str) -> bool:
    """Whether a contig is one of the autosomes 1 to 22, by its name."""
    return _AUTOSOME.match(name) is not None


def is_x(name: str) -> bool:
    """Whether a contig is X, by its name."""
    return name in ("X", "chrX")


def is_y(name: str) -> bool:
    """Whether a contig is Y, by its name."""
    return name in ("Y", "chrY")


def has_sex_chromosomes(contigs: Sequence[Contig]) -> bool:
    """Whether the reference has X or Y."""
    return any(is_x(one.name) or is_y(one.name) for one in contigs)


def par_of(contigs: Sequence[Contig]) -> tuple[NDArray[np.int64], ...] | None:
    """PAR of X and Y (int64 [n, 2] by contig), None if X or Y is not that of GRCh37 or GRCh38."""
    found = []
    for one in contigs:
        sexual = is_x(one.name) or is_y(one.name)
        if sexual and one.length not in _PAR:
            return None
        found.append(np.array(_PAR[one.length] if sexual else [], np.int64).reshape(-1, 2))
    return tuple(found)


def infer_copies(autosomes: Coverage, x: Coverage, y: Coverage) -> SexCopies | None:
    """Copies of X and Y from coverage; None where there are too few reads to tell."""
    if autosomes.reads == 0 or autosomes.bases == 0:
        return None
    rate = autosomes.reads / autosomes.bases
    if rate * x.bases / 2 < _MIN_EXPECTED:
        return None
    x_share = x.reads / (rate * x.bases)
    found = f"coverage of X is {x_share:.2f} of the autosomes'"
    if rate * y.bases / 2 < _MIN_EXPECTED:  # no Y in the reference or in the targets
        has_y = x_share < _ONE_X
    else:
        y_share = y.reads / (rate * y.bases)
        has_y = y_share >= _ANY_Y
        found += f", of Y {y_share:.2f}"
    return SexCopies(1 if x_share < _ONE_X else 2, int(has_y), found)


def copies_of(sex: str) -> SexCopies:
    """Copies of a sample whose sex is given: male or female."""
    return SexCopies(1, 1, "given") if sex == "male" else SexCopies(2, 0, "given")


def ploidy_of(
    contigs: Sequence[Contig], copies: SexCopies, par: Sequence[NDArray[np.int64]] | None, haploid: Sequence[int] = ()
) -> PloidyMap:
    """The ploidy of each stretch.

    Parameters
    ----------
    par
        By contig, int64 [n, 2]: diploid in whoever has a Y.
    haploid
        Ordinals of contigs with one copy: mitochondria, for their reference blocks.
    """
    stretches: dict[int, tuple[tuple[int, int, int], ...]] = {}
    for k, contig in enumerate(contigs):
        if k in haploid:
            stretches[k] = ((0, contig.length, 1),)
            continue
        if not (is_x(contig.name) or is_y(contig.name)):
            continue
        n = copies.x if is_x(contig.name) else copies.y
        shared = DIPLOID if n > 0 else 0
        rows, at = [], 0
        for start, stop in [] if par is None else par[k].tolist():
            rows += [(at, start, n), (start, stop, shared)]
            at = stop
        rows.append((at, contig.length, n))
        stretches[k] = tuple(row for row in rows if row[0] < row[1])
    return PloidyMap(stretches)
