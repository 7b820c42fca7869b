# SPDX-License-Identifier: Apache-2.0
"""One record per base in a sample's gVCF, and joint calling that does not mind."""

from __future__ import annotations

from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.joint.single import OneRecordPerPlace


def record(start: int, ref: str, alts: tuple[str, ...], gt: str, pl: list[int], ad: list[int]) -> VcfRecord:
    genotype = {"GT": gt, "AD": ad, "DP": sum(ad), "GQ": 50 + start, "PL": pl}
    n = len(alts) + 1
    info = {"AC": [1] * n, "AF": [0.5] * n, "AN": 2, "DP": 30}
    return VcfRecord("c", start, ref, (*alts, NON_REF), 100.0 + start, "PASS", info, genotype)


def joined(*parts: list[VcfRecord]) -> list[VcfRecord]:
    one = OneRecordPerPlace()
    ready = [record for part in parts for record in one(part)]
    return [*ready, *one.finish()]


DELETION = record(9, "ATT", ("A",), "0/1", [300, 0, 280, 400, 390, 700], [14, 12, 0])
SNP = record(10, "T", ("G",), "0/1", [200, 0, 310, 420, 410, 800], [12, 14, 0])
BLOCK = VcfRecord("c", 12, "C", (NON_REF,), None, ".", {"END": 20}, {"GT": "0/0", "DP": 30, "GQ": 60})


def index(a: int, b: int) -> int:
    return b * (b + 1) // 2 + a


def test_a_snp_under_the_other_copys_deletion_gets_star() -> None:
    first, second, block = joined([DELETION, SNP, BLOCK])
    assert (first, block) == (DELETION, BLOCK)
    assert (second.ref, second.alts) == ("T", ("G", "*", NON_REF))
    genotype = second.genotype
    assert genotype["GT"] == "1/2"
    assert genotype["GQ"] == 59
    assert second.info["AC"] == [1, 1, 0]
    pl = genotype["PL"]
    # of SNP and deletion: 200+300, 0+300, 310+300 without `*`; 200+0, 0+0 with one; 200+280 with two
    assert [pl[index(*g)] for g in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))] == [500, 300, 610, 200, 0, 480]
    assert len(pl) == 10
    assert min(pl[index(a, 3)] for a in range(4)) >= 390
    assert genotype["AD"][1:] == [14, 12, 0]


def test_parts_give_what_the_whole_gives() -> None:
    short = record(9, "AT", ("A",), "0/1", [90, 0, 280, 300, 390, 700], [14, 10, 0])
    assert joined([DELETION], [SNP], [BLOCK]) == joined([DELETION, SNP, BLOCK])
    assert joined([short], [], [DELETION], [BLOCK]) == joined([short, DELETION, BLOCK])


def test_two_deletions_at_one_base_become_one_record() -> None:
    short = record(9, "AT", ("A",), "0/1", [90, 0, 280, 300, 390, 700], [14, 10, 0])
    (only,) = joined([short, DELETION])
    assert (only.ref, only.alts, only.genotype["GT"]) == ("ATT", ("A", "AT", NON_REF), "1/2")
    pl = only.genotype["PL"]
    assert [pl[index(*g)] for g in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))] == [390, 90, 370, 300, 0, 580]
    assert only.qual == DELETION.qual


def test_what_does_not_exclude_each_other_stays() -> None:
    insertion = record(10, "T", ("TG",), "0/1", [200, 0, 310, 420, 410, 800], [12, 14, 0])
    assert joined([SNP, insertion]) == [SNP, insertion]
    far = record(12, "T", ("G",), "0/1", [200, 0, 310, 420, 410, 800], [12, 14, 0])
    assert joined([DELETION, far]) == [DELETION, far]
    both = record(9, "ATT", ("A",), "1/1", [300, 90, 0, 400, 390, 700], [0, 26, 0])
    assert joined([both, SNP]) == [both, SNP]  # three copies: nothing can be said
    haploid = record(10, "T", ("G",), "1", [200, 0, 310], [0, 14, 0])
    assert joined([DELETION, haploid]) == [DELETION, haploid]
