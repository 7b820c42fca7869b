# SPDX-License-Identifier: Apache-2.0
"""Copies of X and Y: from coverage, outside the PAR, of both human assemblies."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.call.ploidy import PloidyMap
from megabolt.call.sex import Coverage, copies_of, infer_copies, par_of, ploidy_of
from megabolt.formats.fasta import Contig

GRCH37 = [Contig("1", 249_250_621, ""), Contig("X", 155_270_560, ""), Contig("Y", 59_373_566, "")]
GRCH38 = [Contig("chr1", 248_956_422, ""), Contig("chrX", 156_040_895, ""), Contig("chrY", 57_227_415, "")]
MB = 1_000_000


@pytest.mark.parametrize(
    ("x", "y", "name", "copies"),
    [
        (0.5, 0.5, "male", (1, 1)),
        (1.0, 0.01, "female", (2, 0)),
        (0.93, 0.08, "female", (2, 0)),
        (0.55, 0.35, "male", (1, 1)),
        (0.5, 0.02, "X", (1, 0)),
        (1.0, 0.5, "XXY", (2, 1)),
    ],
)
def test_copies_from_coverage(x: float, y: float, name: str, copies: tuple[int, int]) -> None:
    n = 100_000
    found = infer_copies(Coverage(n, MB), Coverage(int(x * n), MB), Coverage(int(y * n / 2), MB // 2))
    assert found is not None
    assert (found.name, (found.x, found.y)) == (name, copies)
    assert f"{x:.2f}" in found.why


def test_too_few_reads_say_nothing() -> None:
    assert infer_copies(Coverage(0, MB), Coverage(0, MB), Coverage(0, MB)) is None
    assert infer_copies(Coverage(100, MB), Coverage(40, MB), Coverage(40, MB)) is None
    assert infer_copies(Coverage(100_000, MB), Coverage(0, 0), Coverage(0, 0)) is None
    without_y = infer_copies(Coverage(100_000, MB), Coverage(51_000, MB), Coverage(0, 0))
    assert without_y is not None
    assert (without_y.x, without_y.y) == (1, 1)


def copies_at(ploidy: PloidyMap, contig: int, *positions: int) -> list[int]:
    """Copies at 1-based positions."""
    return [int(n) for n in ploidy.at(contig, np.array(positions) - 1)]


def test_males_have_two_copies_in_the_par() -> None:
    """First and last bases of the PAR as the Genome Reference Consortium gives them."""
    ploidy = ploidy_of(GRCH37, copies_of("male"), par_of(GRCH37))
    assert copies_at(ploidy, 0, 1, 10**8) == [2, 2]
    assert copies_at(ploidy, 1, 60_000, 60_001, 2_699_520, 2_699_521) == [1, 2, 2, 1]
    assert copies_at(ploidy, 1, 154_931_043, 154_931_044, 155_260_560, 155_260_561) == [1, 2, 2, 1]
    assert copies_at(ploidy, 2, 10_000, 10_001, 2_649_520, 2_649_521, 59_034_050, 59_363_566) == [1, 2, 2, 1, 2, 2]
    ploidy = ploidy_of(GRCH38, copies_of("male"), par_of(GRCH38))
    assert copies_at(ploidy, 1, 10_000, 10_001, 2_781_479, 2_781_480, 155_701_383, 156_030_895) == [1, 2, 2, 1, 2, 2]
    assert copies_at(ploidy, 2, 10_001, 2_781_480, 56_887_903, 57_217_415, 57_217_416) == [2, 1, 2, 2, 1]


def test_females_have_two_x_and_no_y() -> None:
    ploidy = ploidy_of(GRCH38, copies_of("female"), par_of(GRCH38))
    assert copies_at(ploidy, 1, 1, 50_000, 10**8) == [2, 2, 2]
    assert copies_at(ploidy, 2, 1, 50_000, 10**7) == [0, 0, 0]


def test_other_assemblies_have_no_known_par() -> None:
    other = [Contig("chr1", 100, ""), Contig("chrX", 1000, "")]
    assert par_of(other) is None
    assert ploidy_of(other, copies_of("male"), None).stretches == {1: ((0, 1000, 1),)}
    par = (np.zeros((0, 2), np.int64), np.array([[0, 100], [900, 1000]]))
    assert ploidy_of(other, copies_of("male"), par).within(1, 50, 950) == [(50, 100, 2), (100, 900, 1), (900, 950, 2)]
