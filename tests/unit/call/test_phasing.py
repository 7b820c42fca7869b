# SPDX-License-Identifier: Apache-2.0
"""Physical phase: sites of one copy share a set, sites that no read links do not."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.call.engine import CallOptions, call_chunk
from megabolt.call.phasing import phase_sets
from megabolt.call.ploidy import genotypes_of
from megabolt.formats.vcf import VcfRecord
from megabolt.testing.records import TextReference, make_block, random_reference, reads_of_haplotype

TEXT = random_reference(3000, 7)
REFERENCE = TextReference({"chrT": TEXT})
Event = tuple[int, str, str]


def snp(position: int) -> Event:
    return position, TEXT[position], "ACGT"[("ACGT".index(TEXT[position]) + 2) % 4]


def call(first: list[Event], second: list[Event]) -> list[VcfRecord]:
    reads = reads_of_haplotype(TEXT, first, depth=20, prefix="a") + reads_of_haplotype(TEXT, second, depth=20)
    return call_chunk(make_block(reads), REFERENCE, 0, 0, len(TEXT), CallOptions()).variants


def test_sets_by_hand() -> None:
    """Two sites, haplotypes none, first, second, both: 0/both against first/second."""
    genotypes = genotypes_of(4, 2)
    sites = [np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])]
    posterior = np.full(10, -50.0)
    posterior[genotypes.index((0, 3))], posterior[genotypes.index((1, 2))] = -10.0, -13.0
    assert phase_sets(posterior, 4, (0, 3), sites) == [[0, 1]]
    posterior[genotypes.index((1, 2))] = -11.0
    assert phase_sets(posterior, 4, (0, 3), sites) == []
    assert phase_sets(posterior, 4, (1, 3), sites) == []  # the first site is homozygous


@pytest.mark.parametrize(
    ("first", "second", "genotypes"),
    [([1500, 1510, 1520], [], {"0|1", "1|0"}), ([1500, 1520], [1510], {"0|1", "1|0"})],
)
def test_sites_of_one_window_are_phased(first: list[int], second: list[int], genotypes: set[str]) -> None:
    records = call([snp(p) for p in first], [snp(p) for p in second])
    assert len(records) == 3
    assert {r.genotype["GT"] for r in records} <= genotypes
    copy = {r.start: r.genotype["GT"].index("1") for r in records}
    assert len({copy[p] for p in first}) == 1
    assert all(copy[p] != copy[first[0]] for p in second)
    assert {r.genotype["PS"] for r in records} == {1501}
    _, ref, alt = snp(1500)
    assert {r.genotype["PID"] for r in records} == {f"1501_{ref}_{alt}"}
    assert all(r.genotype["PGT"] == r.genotype["GT"] for r in records)


def test_homozygous_and_lone_sites_are_not_phased() -> None:
    records = call([snp(500), snp(1500), snp(1510)], [snp(1510)])
    assert [r.genotype["GT"] for r in records] == ["0/1", "0/1", "1/1"]
    assert all("PS" not in r.genotype for r in records)
