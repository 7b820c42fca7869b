# SPDX-License-Identifier: Apache-2.0
"""Posteriors of families against brute force over all genotypes of all members."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from megabolt.joint.genotype import Called, call_site
from megabolt.joint.likelihood import SiteData, n_genotypes
from megabolt.joint.trio import Family, family_posterior, refine


def data_of(phred: np.ndarray, ad: np.ndarray | None = None, n_alleles: int = 2) -> SiteData:
    n = len(phred)
    depths = np.zeros((n, n_alleles), np.int32) if ad is None else ad.astype(np.int32)
    return SiteData(np.asarray(phred, float), np.full(n, 2, np.int32), np.full(n, 30, np.int32), depths)


def plain_posterior(phred: np.ndarray, frequency: np.ndarray, members: list[int], rate: float) -> np.ndarray:
    """Sums over the genotypes of everybody, mutations copy by copy."""
    n = len(frequency)
    pairs = [(a, b) for b in range(n) for a in range(b + 1)]
    result = np.zeros((len(members), len(pairs)))

    def passes(pair: tuple[int, int], x: int) -> float:
        return sum(0.5 * (1 - rate if one == x else rate / (n - 1)) for one in pair)

    for genotypes in product(range(len(pairs)), repeat=len(members)):
        father, mother = pairs[genotypes[0]], pairs[genotypes[1]]
        p = 1.0
        for a, b in (father, mother):
            p *= frequency[a] * frequency[b] * (1 if a == b else 2)
        for child in genotypes[2:]:
            x, y = pairs[child]
            both = passes(father, x) * passes(mother, y)
            p *= both if x == y else both + passes(father, y) * passes(mother, x)
        for one, g in zip(members, genotypes):
            p *= 1.0 if one < 0 else 10 ** (-phred[one, g] / 10)
        for k, g in enumerate(genotypes):
            result[k, g] += p
    return result / result.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "family", [Family(0, 1, (2,)), Family(0, 1, (2, 3)), Family(-1, 1, (2, 3)), Family(0, -1, (2,))]
)
@pytest.mark.parametrize("n_alleles", [2, 3])
def test_posteriors_equal_brute_force(family: Family, n_alleles: int) -> None:
    rng = np.random.default_rng(len(family.children) + n_alleles)
    for rate in (1e-8, 1e-3, 0.2):
        phred = rng.integers(0, 50, (4, n_genotypes(n_alleles))).astype(float)
        frequency = rng.dirichlet(np.ones(n_alleles))
        found = family_posterior(data_of(phred, n_alleles=n_alleles), frequency, family, rate)
        members = [family.father, family.mother, *family.children]
        assert np.allclose(found, plain_posterior(phred, frequency, members, rate), atol=1e-9)


def test_a_weak_error_in_a_child_is_put_right() -> None:
    # parents surely 0/0 and 1/1; the child's reads say 0/0 by a little
    phred = np.array([[0.0, 90, 900], [900.0, 90, 0], [0.0, 6, 200]])
    data = data_of(phred, np.array([[30, 0], [0, 30], [4, 0]]))
    called = call_site(data, "A", ("C",))
    refined = refine(data, called, [Family(0, 1, (2,))], 1e-6)
    assert refined.gt.tolist() == [[0, 0], [1, 1], [0, 1]]
    assert refined.gq[2] >= 40
    assert (refined.sure, refined.likely) == ((), ())


def test_a_new_mutation_is_marked() -> None:
    phred = np.array([[0.0, 120, 1200], [0.0, 120, 1200], [600.0, 0, 600]])
    data = data_of(phred, np.array([[40, 0], [40, 0], [20, 20]]))
    called = call_site(data, "A", ("C",))
    refined = refine(data, called, [Family(0, 1, (2,))], 1e-6)
    assert refined.gt.tolist() == [[0, 0], [0, 0], [0, 1]]
    assert refined.sure == (2,)
    assert refined.gq.min() >= 20
    # one read of it in a parent makes it doubtful
    hint = data_of(phred, np.array([[39, 1], [40, 0], [20, 20]]))
    again = refine(hint, call_site(hint, "A", ("C",)), [Family(0, 1, (2,))], 1e-6)
    assert (again.sure, again.likely) == ((), (2,))


def test_thin_parents_make_it_inherited_rather_than_new() -> None:
    phred = np.array([[0.0, 9, 90], [0.0, 120, 1200], [600.0, 0, 600]])
    data = data_of(phred, np.array([[3, 0], [40, 0], [20, 20]]))
    refined = refine(data, call_site(data, "A", ("C",)), [Family(0, 1, (2,))], 1e-6)
    assert refined.gt.tolist() == [[0, 1], [0, 0], [0, 1]]
    assert refined.sure == ()


def test_haploid_members_leave_the_family_as_it_is() -> None:
    phred = np.array([[0.0, 50, 99999], [0.0, 50, 500], [40.0, 0, 99999]])
    data = data_of(phred)
    data.ploidy[[0, 2]] = 1
    called = Called(
        np.array([[0, -1], [0, 0], [1, -1]], np.int32), np.array([50, 50, 40], np.int32), np.ones(2) / 2, 50
    )
    refined = refine(data, called, [Family(0, 1, (2,))], 1e-6)
    assert refined.gt.tolist() == called.gt.tolist()
    assert refined.gq.tolist() == called.gq.tolist()
