# SPDX-License-Identifier: Apache-2.0
"""Likelihoods on the site's alleles, genotypes and frequencies against plain references."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from megabolt.formats.gvcf import GvcfRegion, GvcfVariant
from megabolt.joint.alleles import Component, Site, make_sites
from megabolt.joint.genotype import call_site, prior_weights
from megabolt.joint.likelihood import SiteData, join_blocks, n_genotypes, site_data, subset


def index(a: int, b: int) -> int:
    a, b = min(a, b), max(a, b)
    return b * (b + 1) // 2 + a


def variant(start: int, ref: str, alts: tuple[str, ...], pl: list[int], ad: tuple[int, ...] = (), ploidy: int = 2):
    n = len(alts) + 2
    return GvcfVariant(
        start, ref, alts, tuple(range(n - 1)), n - 1, n, ploidy, 20, np.array(pl, np.int32),
        np.array(ad, np.int32), 0.0, 0, ".",
    )  # fmt: skip


def region(*blocks: tuple[int, int, int, tuple[int, int, int]]) -> GvcfRegion:
    columns = list(zip(*blocks)) if blocks else [(), (), (), ()]
    return GvcfRegion(
        np.array(columns[0], np.int64), np.array(columns[1], np.int64), np.full(len(columns[0]), 65, np.uint8),
        np.array(columns[2], np.int32), np.full(len(columns[0]), 2, np.int32),
        np.array(columns[3], np.int32).reshape(-1, 3), [],
    )  # fmt: skip


def plain_phred(site: Site, sample: int, n_alleles: int) -> list[float]:
    """The definition: the best genotype of each record that stands for a genotype of the site, summed over records."""
    values = []
    for b in range(n_alleles):
        for a in range(b + 1):
            total = 0.0
            for one in site.components:
                if one.sample == sample:
                    own = range(one.variant.n_alleles)
                    total += min(
                        int(one.variant.pl[index(i, j)])
                        for i, j in product(own, own)
                        if one.masks[a] >> i & 1 and one.masks[b] >> j & 1
                    )
            values.append(total)
    return [one - min(values) for one in values]


def test_likelihoods_equal_the_definition() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        records = []
        for sample in range(4):
            if rng.random() < 0.7:
                alts = tuple(rng.choice(["A", "AT", "ATTT", "ATTC"], rng.integers(1, 3), replace=False).tolist())
                n = len(alts) + 2
                records.append((sample, variant(9, "ATT", alts, rng.integers(0, 99, n_genotypes(n)).tolist())))
            if rng.random() < 0.5:  # one at most: two are another matter, below
                records.append((sample, variant(7, "CGATT", ("C",), rng.integers(0, 99, 6).tolist())))
        blocks = join_blocks([region() for _ in range(4)])
        for site in make_sites(records, 0, 50):
            data = site_data(site, blocks)
            for sample in range(4):
                if any(one.sample == sample for one in site.components):
                    assert data.ploidy[sample] == 2
                    assert data.phred[sample].tolist() == plain_phred(site, sample, 1 + len(site.alts))
                else:
                    assert data.ploidy[sample] == 0


def test_deletions_of_both_copies_span_a_site_twice() -> None:
    one = variant(5, "CGATTA", ("C",), [300, 0, 250, 400, 390, 700], (9, 10, 0))
    two = variant(7, "ATTA", ("A",), [200, 0, 350, 420, 410, 800], (10, 9, 0))
    sites = make_sites([(0, one), (0, two), (1, variant(9, "T", ("G",), [90, 0, 90, 100, 100, 200]))], 0, 50)
    data = site_data(sites[-1], join_blocks([region(), region()]))
    assert sites[-1].alts == ("G", "*")
    # 0/*: either deletion alone; */*: one each, or one twice
    plain = {(0, 0): 500, (0, 2): min(0 + 200, 300 + 0), (2, 2): 0}
    assert {pair: data.phred[0, index(*pair)] for pair in plain} == plain
    assert data.ad[0].tolist() == [9, 0, 19]


def test_reference_blocks_and_missing_samples() -> None:
    blocks = join_blocks([region((0, 8, 9, (0, 9, 90)), (8, 20, 30, (0, 60, 600))), region((0, 9, 5, (0, 15, 99)))])
    site = Site(9, "A", ("C", "T"))
    data = site_data(site, blocks)
    assert data.phred[0].tolist() == [0, 60, 600, 60, 600, 600]
    assert data.ploidy.tolist() == [2, 0]
    assert data.depth.tolist() == [30, -1]
    assert data.ad.tolist() == [[30, 0, 0], [-1, -1, -1]]


def test_a_block_that_knows_nothing_is_no_data() -> None:
    data = site_data(Site(9, "A", ("C",)), join_blocks([region((0, 20, 0, (0, 0, 0)))]))
    assert data.ploidy.tolist() == [0]


def test_haploid_records() -> None:
    one = Component(0, variant(9, "A", ("C",), [50, 0, 70], (1, 9, 0), ploidy=1), (1, 2, 4))
    data = site_data(Site(9, "A", ("C", "T"), [one]), join_blocks([region()]))
    assert data.ploidy.tolist() == [1]
    assert data.phred[0, :3].tolist() == [50, 0, 70]
    assert subset(data, [0, 1]).phred[0, :2].tolist() == [50, 0]
    called = call_site(data, "A", ("C", "T"))
    assert called.gt.tolist() == [[1, -1]]


def test_depths_of_alleles_follow_them() -> None:
    record = variant(9, "ATT", ("A", "AT"), [0] * 10, (3, 5, 7, 0))
    (site,) = make_sites([(0, record), (1, variant(9, "AT", ("A",), [0] * 6, (8, 2, 0)))], 0, 50)
    data = site_data(site, join_blocks([region(), region()]))
    assert site.alts == ("A", "AT")
    assert data.ad.tolist() == [[3, 5, 7], [8, 0, 2]]


def test_subset_keeps_the_likelihoods_of_what_is_left() -> None:
    phred = np.array([[9.0, 5, 3, 8, 0, 7]])
    data = SiteData(phred, np.array([2], np.int32), np.array([9], np.int32), np.array([[1, 2, 3]], np.int32))
    less = subset(data, [0, 2])
    assert less.phred.tolist() == [[2.0, 1.0, 0.0]]
    assert less.ad.tolist() == [[1, 3]]


def plain_call(phred: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frequencies after convergence and posteriors, in plain numbers."""
    n = len(weights)
    frequency = np.full(n, 1 / n)
    pairs = [(a, b) for b in range(n) for a in range(b + 1)]
    for _ in range(500):
        counts, rows = weights.copy(), []
        for row in phred:
            w = np.array(
                [(1 if a == b else 2) * frequency[a] * frequency[b] * 10 ** (-x / 10) for (a, b), x in zip(pairs, row)]
            )
            w /= w.sum()
            rows.append(w)
            for (a, b), x in zip(pairs, w):
                counts[a] += x
                counts[b] += x
        frequency = counts / counts.sum()
    return frequency, rows


@pytest.mark.parametrize("n_alleles", [2, 3])
def test_genotypes_and_frequencies_equal_the_plain_ones(n_alleles: int) -> None:
    rng = np.random.default_rng(n_alleles)
    alts = ("C", "CTT")[: n_alleles - 1]
    for _ in range(20):
        phred = rng.integers(0, 60, (12, n_genotypes(n_alleles))).astype(float)
        phred -= phred.min(axis=1, keepdims=True)
        data = SiteData(phred, np.full(12, 2, np.int32), np.full(12, 30, np.int32), np.zeros((12, n_alleles), np.int32))
        called = call_site(data, "A", alts)
        frequency, rows = plain_call(phred, prior_weights("A", alts))
        assert np.allclose(called.frequency, frequency, atol=2e-3)
        for gt, gq, row in zip(called.gt.tolist(), called.gq.tolist(), rows):
            best = int(row.argmax())
            if row[best] > 0.52:
                assert index(*gt) == best
                assert abs(gq - min(99, -10 * math.log10(max(1e-12, 1 - row[best])))) <= 1
        no_variant = sum(math.log10(row[0]) for row in rows)
        assert called.qual == pytest.approx(max(0.0, -10 * no_variant), rel=0.02, abs=0.2)


def test_a_rare_allele_needs_more_than_a_common_one() -> None:
    weak = [4.0, 0.0, 40.0]
    strong = [300.0, 0.0, 300.0]

    def first(others: list[list[float]]) -> list[int]:
        phred = np.array([weak, *others])
        n = len(phred)
        data = SiteData(phred, np.full(n, 2, np.int32), np.full(n, 9, np.int32), np.zeros((n, 2), np.int32))
        return call_site(data, "A", ("C",)).gt[0].tolist()

    assert first([[0.0, 60.0, 600.0]] * 40) == [0, 0]
    assert first([strong] * 40) == [0, 1]


def test_only_copies_under_a_deletion_are_no_variant() -> None:
    phred = np.array([[300.0, 300, 300, 0, 300, 300]])
    data = SiteData(phred, np.array([2], np.int32), np.array([9], np.int32), np.zeros((1, 3), np.int32))
    called = call_site(data, "A", ("C", "*"))
    assert called.gt.tolist() == [[0, 2]]
    assert called.qual < 1
