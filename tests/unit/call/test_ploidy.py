# SPDX-License-Identifier: Apache-2.0
"""Genotypes of any number of copies: their order, their likelihoods, and the records that come of them."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megabolt.call.emit import genotype_priors
from megabolt.call.engine import CallOptions, call_chunk
from megabolt.call.genotype import MIN_MISPLACED, Genotypes, genotype_windows, summarise_site
from megabolt.call.indel_priors import EventPriors
from megabolt.call.ploidy import PloidyMap, genotype_index, genotypes_of, n_genotypes
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.testing.records import TextReference, make_block, random_reference, reads_of_haplotype

LENGTH = 3000
SEQUENCE = random_reference(LENGTH, 7)
REFERENCE = TextReference({"chrT": SEQUENCE})


def spec_order(n_alleles: int, ploidy: int) -> list[tuple[int, ...]]:
    """The recursion of VCF 4.4, section 1.6.2."""
    if ploidy == 0:
        return [()]
    return [(*rest, a) for a in range(n_alleles) for rest in spec_order(a + 1, ploidy - 1)]


@pytest.mark.parametrize(("n_alleles", "ploidy"), list(itertools.product((1, 2, 3, 5), (1, 2, 3, 4))))
def test_genotypes_stand_in_the_order_of_the_specification(n_alleles: int, ploidy: int) -> None:
    genotypes = genotypes_of(n_alleles, ploidy)
    assert genotypes == spec_order(n_alleles, ploidy)
    assert len(genotypes) == n_genotypes(n_alleles, ploidy)
    assert [genotype_index(g) for g in genotypes] == list(range(len(genotypes)))


def test_priors_of_diploids_are_those_of_one_and_two_copies() -> None:
    half = math.log10(2)
    assert genotype_priors([-3.0, -4.0]) == pytest.approx([0, -3, -3 - half, -4, -7, -4 - half])
    assert genotype_priors([-3.0], 1) == [0, -3]
    assert genotype_priors([-3.0], 3) == pytest.approx([0, -3, -3 - half, -3 - math.log10(3)])


def window_genotypes(fits: np.ndarray[Any, Any], ploidy: int) -> Genotypes:
    """One window whose haplotypes carry no SNP, the first, the second, both ..; fits: log10 P, reads by haplotypes."""
    n_reads, n_haps = fits.shape
    n_events = max(1, (n_haps - 1).bit_length())
    reads = SimpleNamespace(
        mapq=np.full(n_reads, 60, np.uint8), flag=np.zeros(n_reads, np.uint16), mate=np.full(n_reads, -1, np.int32)
    )
    windows = SimpleNamespace(candidate_offset=np.array([0, n_events]), candidate=np.arange(n_events))
    candidates = SimpleNamespace(start=10 * np.arange(n_events), kind=np.zeros(n_events, np.uint8))
    haplotypes = SimpleNamespace(offset=np.array([0, n_haps]), mask=np.arange(n_haps, dtype=np.uint64))
    likelihoods = SimpleNamespace(
        read_offset=np.array([0, n_reads]), read=np.arange(n_reads, dtype=np.int32), offset=np.array([0, fits.size]),
        log10=np.ascontiguousarray(fits).ravel(),
    )  # fmt: skip
    parts: list[Any] = [windows, np.zeros(1, np.int64), candidates, reads, haplotypes, likelihoods]
    priors = EventPriors(np.full(n_events, -3.0), np.zeros(n_events, np.int64), np.zeros(0))
    return genotype_windows(*parts, priors=priors, further_prior=1e-2, ploidy=ploidy)


def plain_prior(genotype: tuple[int, ...]) -> float:
    """Prior of one genotype, as the formula says it."""
    events = 0
    for h in genotype:
        events |= h
    most = max((genotype.count(h) for h in genotype if h), default=1)
    return -3.0 - 2.0 * (events.bit_count() - 1) - math.log10(most) if events else 0.0


def plain_posterior(fits: np.ndarray[Any, Any], genotype: tuple[int, ...]) -> float:
    """Prior and likelihood of one genotype, as the formulas say it."""
    misplaced = MIN_MISPLACED
    best = fits.max(axis=1, keepdims=True)
    mixed = np.log10((1 - misplaced) * 10 ** (fits - best) + misplaced) + best
    total = float(np.log10((10 ** mixed[:, list(genotype)]).mean(axis=1)).sum())
    return total + plain_prior(genotype)


@pytest.mark.parametrize(("ploidy", "n_haps"), [(1, 4), (2, 4), (3, 4), (4, 3), (6, 2)])
def test_posteriors_agree_with_the_plain_formula(ploidy: int, n_haps: int) -> None:
    fits = np.random.default_rng(ploidy).uniform(-6, -0.1, (12, n_haps))
    found = window_genotypes(fits, ploidy)
    genotypes = genotypes_of(n_haps, ploidy)
    expected = [plain_posterior(fits, g) for g in genotypes]
    assert found.posterior.tolist() == pytest.approx(expected, abs=1e-9)
    assert found.prior.tolist() == pytest.approx([plain_prior(g) for g in genotypes], abs=1e-9)
    assert tuple(found.best[0].tolist()) == genotypes[int(np.argmax(expected))]


def test_more_copies_combine_fewer_haplotypes() -> None:
    fits = np.random.default_rng(1).uniform(-6, -0.1, (8, 30))
    fits[:, 29] = -0.01
    for ploidy, limit in ((1, 24), (2, 24), (4, 16)):
        found = window_genotypes(fits, ploidy)
        assert found.n_haps[0] == limit
        assert {0, 29} <= set(found.hap[: found.n_haps[0]].tolist())


@pytest.mark.parametrize("ploidy", [1, 2, 3])
def test_sites_sum_the_genotypes_of_haplotypes(ploidy: int) -> None:
    n_haps, alleles = 4, np.array([0, 1, 3, 2])  # 3 of 3 alleles: something else, a reference copy
    generator = np.random.default_rng(3)
    posterior = generator.uniform(-9, 0, n_genotypes(n_haps, ploidy))
    got, support, spare = np.empty(n_genotypes(3, ploidy)), np.empty((4, 2), np.int64), np.empty(3)
    fits = generator.uniform(-6, 0, (5, n_haps))
    summarise_site(posterior, fits.ravel(), np.ones(5, np.int8), ploidy, n_haps, 5, alleles, 3, got, support, spare)
    expected = dict.fromkeys(genotypes_of(3, ploidy), 0.0)
    for value, genotype in zip(posterior, genotypes_of(n_haps, ploidy)):
        expected[tuple(sorted(int(alleles[h]) % 3 for h in genotype))] += 10**value
    assert got.tolist() == pytest.approx([math.log10(v) for v in expected.values()])
    assert support.sum() == 5


def sample(copies: list[bool], depth: int = 30) -> RecordBlock:
    """`depth` reads, shared out to copies that carry a SNP at 500, an insertion at 1500, or nothing."""
    events = [(500, SEQUENCE[500], "ACGT"["TGCA".index(SEQUENCE[500])]), (1500, SEQUENCE[1500], SEQUENCE[1500] + "GAT")]
    reads = []
    for i, carries in enumerate(copies):
        reads += reads_of_haplotype(SEQUENCE, events if carries else [], depth=depth // len(copies), prefix=f"c{i}")
    return make_block(reads)


def call(block: RecordBlock, stretches: list[tuple[int, int, int]], gvcf: bool = False) -> tuple[list[VcfRecord], ...]:
    options = CallOptions(ploidy=PloidyMap({0: tuple(stretches)}))
    calls = call_chunk(block, REFERENCE, 0, 0, LENGTH, options, gvcf=gvcf)
    return calls.variants, calls.reference_blocks


@pytest.mark.parametrize(
    ("copies", "genotype"),
    [([True], "1"), ([True, False], "0/1"), ([False, False, True], "0/0/1"), ([False, True, True, True], "0/1/1/1")],
)
def test_genotypes_of_each_ploidy(copies: list[bool], genotype: str) -> None:
    n = len(copies)
    records, _ = call(sample(copies), [(0, LENGTH, n)])
    assert [(r.start, r.genotype["GT"]) for r in records] == [(500, genotype), (1500, genotype)]
    for record in records:
        assert len(record.genotype["PL"]) == n + 1
        assert record.info["AN"] == n
        assert record.info["AC"] == [sum(copies)]
        assert record.info["AF"] == [pytest.approx(sum(copies) / n)]
        assert record.genotype["GQ"] > 10


@pytest.mark.parametrize("ploidy", [1, 2, 3])
def test_gvcf_of_each_ploidy(ploidy: int) -> None:
    records, blocks = call(sample([True] * ploidy), [(0, LENGTH, ploidy)], gvcf=True)
    for record in records:
        assert record.alts[-1] == NON_REF
        values = record.genotype["PL"]
        assert len(values) == n_genotypes(3, ploidy)
        assert values[genotype_index((1,) * ploidy)] == 0
        assert values[genotype_index((2,) * ploidy)] > 60
    for block in blocks:
        assert block.genotype["GT"] == "/".join("0" * ploidy)
        assert len(block.genotype["PL"]) == ploidy + 1
        assert list(block.genotype["PL"]) == sorted(block.genotype["PL"])
    assert max(block.genotype["GQ"] for block in blocks) >= 40


def test_ploidy_changes_where_it_is_said() -> None:
    records, blocks = call(sample([True]), [(0, 1000, 2), (1000, 2000, 1), (2000, LENGTH, 0)], gvcf=True)
    assert [r.genotype["GT"] for r in records] == ["1/1", "1"]
    assert {b.genotype["GT"] for b in blocks if b.stop <= 1000} == {"0/0"}
    assert {b.genotype["GT"] for b in blocks if b.start >= 1000} == {"0"}
    assert max(b.stop for b in blocks) == 2000
    records, _ = call(sample([True]), [(0, LENGTH, 0)])
    assert records == []
