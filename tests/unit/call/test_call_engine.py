# SPDX-License-Identifier: Apache-2.0
"""The whole caller on small hand-made samples: alleles, genotypes, chunks, targets, gVCF."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from megabolt.call.engine import CallOptions, ChunkCalls, call_chunk
from megabolt.call.filters import Thresholds
from megabolt.call.genotype import MIN_MISPLACED
from megabolt.call.reference_confidence import join_reference_blocks
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.testing.records import (
    FIRST,
    PAIRED,
    SECOND,
    HandRead,
    TextReference,
    make_block,
    random_reference,
    reads_of_haplotype,
)

Event = tuple[int, str, str]
LENGTH = 3000
SEQUENCE = random_reference(LENGTH, 7)
REFERENCE = TextReference({"chrT": SEQUENCE})


def other(base: str) -> str:
    return "ACGT"[("ACGT".index(base) + 2) % 4]


def snp(position: int, sequence: str = SEQUENCE) -> Event:
    return position, sequence[position], other(sequence[position])


def sample(first: list[Event], second: list[Event], depth: int = 20, sequence: str = SEQUENCE) -> RecordBlock:
    """`depth` reads from each of two haplotypes."""
    return make_block(
        reads_of_haplotype(sequence, first, depth=depth, prefix="a")
        + reads_of_haplotype(sequence, second, depth=depth, prefix="b")
    )


def call(block: RecordBlock, reference: TextReference = REFERENCE, **options: object) -> list[VcfRecord]:
    length = reference.contigs[0].length
    return call_chunk(block, reference, 0, 0, length, CallOptions(**options)).variants  # type: ignore[arg-type]


def summary(records: list[VcfRecord]) -> list[tuple[int, str, str, str]]:
    return [(r.start, r.ref, ",".join(r.alts), r.genotype["GT"]) for r in records]


def test_no_variants_no_calls() -> None:
    assert call(sample([], [])) == []
    assert call(make_block([])) == []


def test_isolated_snps() -> None:
    het, hom = snp(500), snp(1500)
    records = call(sample([het, hom], [hom]))
    assert summary(records) == [(*het, "0/1"), (*hom, "1/1")]
    assert all(r.filter == "PASS" and r.contig == "chrT" for r in records)
    assert records[0].genotype["AD"] == [20, 20]
    assert records[0].genotype["DP"] == 40
    assert records[1].genotype["AD"] == [0, 40]
    assert records[0].genotype["PL"][1] == 0
    assert records[1].genotype["PL"][2] == 0


def test_quality_of_a_hom_snp_by_hand() -> None:
    """Ten reads, all T, base quality 30, MAPQ 60.

    Each read's ratio P(T | ref) / P(T | alt) is (1 - m) (e / 3) / (1 - e) + m with e = 10^-3, m = 10^-5.
    log10 posteriors: 0/0 = 10 log10(ratio); 0/1 = 10 log10((1 + ratio) / 2) - 3; 1/1 = -3 - log10 2.
    """
    reference = TextReference({"c": "ACGTCAGGTCATGCCTGTAC" + "A" + "GATTACA" * 5})
    text = reference.sequences["c"]
    reads = [HandRead(5, "30M", text[5:20] + "T" + text[21:35], quality=30) for _ in range(10)]
    (record,) = call(make_block(reads), reference)
    e, m = 1e-3, MIN_MISPLACED
    ratio = (1 - m) * (e / 3) / (1 - e) + m
    hom_ref, het, hom_alt = 10 * math.log10(ratio), 10 * math.log10((1 + ratio) / 2) - 3, -3 + math.log10(0.5)
    total = math.log10(10**het + 10**hom_alt + 10**hom_ref)
    assert summary([record]) == [(20, "A", "T", "1/1")]
    assert record.qual == pytest.approx(-10 * (hom_ref - total), abs=1e-6)
    assert record.genotype["PL"] == [round(10 * -math.log10(ratio) * 10), round(-100 * math.log10((1 + ratio) / 2)), 0]
    assert record.genotype["GQ"] == round(-10 * math.log10(10 ** (het - total) + 1e-4))


def test_pileup_and_windows_share_one_scale() -> None:
    """The same SNP from the pileup, and through the pair-HMM because of clips that pile up beside it."""
    reads = reads_of_haplotype(SEQUENCE, [snp(1500)], depth=20, prefix="a")
    reads += reads_of_haplotype(SEQUENCE, [], depth=20, prefix="b")
    clipped = [HandRead(1525, "20S80M", "A" * 20 + SEQUENCE[1525:1605], f"c{i}") for i in range(8)]
    (pileup,) = call(make_block(reads))
    (window,) = call(make_block(reads + clipped))
    assert window.qual == pytest.approx(pileup.qual, rel=0.01)
    assert window.genotype["AD"] == pileup.genotype["AD"]
    assert window.genotype["PL"] == pytest.approx(pileup.genotype["PL"], rel=0.02)


def test_mates_are_one_observation() -> None:
    """Four templates whose mates both show the SNP are four, not eight."""
    position = 1000
    text = SEQUENCE[:position] + other(SEQUENCE[position]) + SEQUENCE[position + 1 :]
    alt = [
        HandRead(start + i, "100M", text[start + i : start + i + 100], f"t{i}", flag=PAIRED | which)
        for i in range(4)
        for start, which in ((930, FIRST), (950, SECOND))
    ]
    ref = [HandRead(930 + i, "100M", SEQUENCE[930 + i : 1030 + i], f"r{i}") for i in range(6)]
    (record,) = call(make_block(alt + ref))
    assert record.genotype["AD"] == [6, 4]
    assert record.genotype["DP"] == 10


@pytest.mark.parametrize(("first", "second", "genotype"), [(True, False, "0/1"), (True, True, "1/1")])
@pytest.mark.parametrize("length", [1, 3, 12, 30])
def test_indels(length: int, first: bool, second: bool, genotype: str) -> None:
    start = 1000
    deletion = (start, SEQUENCE[start : start + length + 1], SEQUENCE[start])
    inserted = random_reference(length, 3)
    insertion = (2000, SEQUENCE[2000], SEQUENCE[2000] + inserted)
    events = [deletion, insertion]
    records = call(sample(events if first else [], events if second else []))
    found = summary(records)
    assert len(found) == 2
    for (position, ref, alt), (at, got_ref, got_alt, got) in zip(events, found):
        assert got == genotype
        assert len(got_ref) - len(got_alt) == len(ref) - len(alt)
        expected = SEQUENCE[:position] + alt + SEQUENCE[position + len(ref) :]
        assert SEQUENCE[:at] + got_alt + SEQUENCE[at + len(got_ref) :] == expected
        assert at <= position


def test_indel_in_a_repeat_is_written_leftmost() -> None:
    text = SEQUENCE[:1000] + "CAAAAAAG" + SEQUENCE[1008:]
    reference = TextReference({"c": text})
    at_the_end = (1005, "AA", "A")
    records = call(sample([at_the_end], [at_the_end], sequence=text), reference)
    assert summary(records) == [(1000, "CA", "C", "1/1")]


def test_likelihoods_do_not_depend_on_the_prior() -> None:
    """PL says what the reads say: an indel that is rarer by 10^3 has the same, and a QUAL that is less by 30."""
    event = (1000, SEQUENCE[1000], SEQUENCE[1000] + "GATTACA")
    block = sample([event], [], depth=6)
    (common,), (rare,) = (call(block, indel_prior=prior) for prior in (1e-4, 1e-7))
    assert common.genotype["PL"] == rare.genotype["PL"]
    assert common.qual == pytest.approx((rare.qual or 0) + 30, abs=0.01)


def test_two_alleles_of_one_place_are_one_record() -> None:
    assert SEQUENCE[1500] == "C"
    records = call(sample([(1500, "C", "A")], [(1500, "C", "G")]))
    assert summary(records) == [(1500, "C", "A,G", "1/2")]
    assert records[0].genotype["AD"] == [0, 20, 20]
    assert len(records[0].genotype["PL"]) == 6
    assert records[0].genotype["PL"][4] == 0  # 0/0 0/1 1/1 0/2 1/2 2/2


def test_two_indels_of_one_place_share_their_reference() -> None:
    text = SEQUENCE[:1500] + "GATCATCATC" + SEQUENCE[1510:]
    reference = TextReference({"c": text})
    short, long = (1500, "GATC", "G"), (1500, "GATCATC", "G")
    records = call(sample([short], [long], sequence=text), reference)
    assert summary(records) == [(1500, "GATCATC", "GATC,G", "1/2")]


def test_mnp_comes_out_as_snps() -> None:
    alt = "".join(other(b) for b in SEQUENCE[1500:1503])
    records = call(sample([(1500, SEQUENCE[1500:1503], alt)], []))
    assert summary(records) == [(1500 + i, SEQUENCE[1500 + i], alt[i], "0|1") for i in range(3)]


def test_snp_under_a_deletion_of_the_other_copy() -> None:
    assert SEQUENCE[1503] != SEQUENCE[1511]  # the deletion stands leftmost
    deletion = (1503, SEQUENCE[1503:1512], SEQUENCE[1503])
    records = call(sample([deletion], [snp(1507)]))
    assert [(r.start, r.genotype["GT"]) for r in records] == [(1503, "0|1"), (1507, "1|0")]
    # the deleted copy supports neither allele of the SNP
    assert records[1].genotype["AD"][0] == 0


def test_low_quality_is_marked_and_dropped() -> None:
    reads = reads_of_haplotype(SEQUENCE, [], depth=10, prefix="r")
    reads += reads_of_haplotype(SEQUENCE, [snp(1500)], depth=3, prefix="v", quality=20, start=1300, stop=1700)
    (record,) = call(make_block(reads))
    assert record.filter == "LowQual"
    assert record.qual < 20
    assert call(make_block(reads), min_qual=20.0) == []
    (record,) = call(make_block(reads), thresholds=Thresholds(low_qual=5.0))
    assert record.filter == "PASS"


def test_misplaced_reads_are_not_believed() -> None:
    """MAPQ caps what a read can say: the same alternative reads at MAPQ 3 and below the limit."""
    high = sample([snp(1500)], [])
    (record,) = call(high)
    low = make_block(
        reads_of_haplotype(SEQUENCE, [snp(1500)], depth=15, prefix="a", mapq=6)
        + reads_of_haplotype(SEQUENCE, [], depth=15, prefix="b")
    )
    weaker = call(low)
    assert record.qual > 300
    assert not weaker or weaker[0].qual < 100


def test_two_reads_that_share_two_differences_are_enough() -> None:
    """Errors do not strike twice at the same two places; that both reads belong elsewhere is as unlikely."""
    events = [snp(1500), snp(1520)]
    reads = reads_of_haplotype(SEQUENCE, events, depth=2, prefix="a", quality=37)
    reads += reads_of_haplotype(SEQUENCE, [], depth=10, prefix="b", quality=37)
    found = call(make_block(reads))
    assert summary(found) == [(*event, "0|1") for event in events]
    assert [r.filter for r in found] == ["PASS", "PASS"]


def mixed_sample() -> tuple[RecordBlock, TextReference]:
    """20 kb with single SNPs, clusters, indels and a long chain of variants, on both haplotypes."""
    text = random_reference(20000, 11)
    generator = np.random.default_rng(5)
    events: list[Event] = []
    position = 300
    while position < 19500:
        kind = int(generator.integers(0, 6))
        if kind < 4:
            events.append(snp(position, text))
        elif kind == 4:
            n = int(generator.integers(1, 15))
            events.append((position, text[position : position + n + 1], text[position]))
        else:
            n = int(generator.integers(1, 15))
            events.append((position, text[position], text[position] + random_reference(n, position)))
        step = 12 if 8000 < position < 11000 else int(generator.choice([3, 9, 20, 40, 150, 600]))
        position += len(events[-1][1]) + step
    choice = generator.integers(0, 3, len(events))
    first = [e for e, c in zip(events, choice) if c != 1]
    second = [e for e, c in zip(events, choice) if c != 0]
    return sample(first, second, sequence=text), TextReference({"c": text})


def call_in_chunks(
    block: RecordBlock, reference: TextReference, size: int, offset: int = 0, gvcf: bool = False
) -> list[ChunkCalls]:
    length = reference.contigs[0].length
    edges = [0, *range(offset or size, length, size), length]
    return [call_chunk(block, reference, 0, a, b, CallOptions(), gvcf=gvcf) for a, b in itertools.pairwise(edges)]


def lines(chunks: list[ChunkCalls]) -> list[str]:
    records = sorted((r for c in chunks for r in c.variants), key=lambda r: (r.start, r.ref, r.alts))
    return [r.line() for r in records]


@pytest.mark.parametrize(("size", "offset"), [(10000, 0), (5000, 0), (1000, 0), (3333, 17), (512, 3)])
def test_chunks_do_not_change_the_calls(size: int, offset: int) -> None:
    block, reference = mixed_sample()
    whole = lines(call_in_chunks(block, reference, 20000))
    assert len(whole) > 100
    assert lines(call_in_chunks(block, reference, size, offset)) == whole


def test_threads_do_not_change_the_calls() -> None:
    block, reference = mixed_sample()
    edges = list(range(0, 20000, 4000))

    def one(start: int) -> ChunkCalls:
        return call_chunk(block, reference, 0, start, start + 4000, CallOptions())

    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(one, edges))
    assert lines(threaded) == lines(call_in_chunks(block, reference, 20000))


def test_targets_restrict_what_is_written() -> None:
    block = sample([snp(500), snp(1500), (2000, SEQUENCE[2000:2011], SEQUENCE[2000])], [])
    targets = (np.array([[100, 400], [1500, 1501], [2005, 2008]]),)
    records = call(block, targets=targets)
    assert [r.start for r in records] == [1500, 2000]
    assert call(block, targets=(np.zeros((0, 2), np.int64),)) == []


def covered(records: list[VcfRecord]) -> list[int]:
    depth = [0] * (max(r.stop for r in records) + 1)
    for r in records:
        for x in range(r.start, r.stop):
            depth[x] += 1
    return depth[:-1]


def test_gvcf_blocks_fill_the_gaps() -> None:
    block = sample([snp(500), (1500, SEQUENCE[1500:1511], SEQUENCE[1500])], [])
    calls = call_chunk(block, REFERENCE, 0, 0, LENGTH, CallOptions(), gvcf=True)
    assert [r.alts[-1] for r in calls.variants] == [NON_REF, NON_REF]
    assert len(calls.variants[0].genotype["PL"]) == 6
    assert len(calls.variants[0].genotype["AD"]) == 3
    depth = covered(calls.variants + calls.reference_blocks)
    assert len(depth) == LENGTH
    assert set(depth) == {1}
    for r in calls.reference_blocks:
        assert r.ref == SEQUENCE[r.start]
        assert r.genotype["GT"] == "0/0"
    middle = next(r for r in calls.reference_blocks if r.start <= 1000 < r.stop)
    assert middle.genotype["GQ"] >= 60
    assert middle.genotype["MIN_DP"] >= 38


@pytest.mark.parametrize("beside", [[], [snp(1520)]], ids=["pileup", "window"])
def test_unseen_allele_of_a_gvcf(beside: list[Event]) -> None:
    """One copy of an unseen allele halves each template (3 phred); 0/x is as bad as 0/0 where nobody shows 0."""
    block = sample([snp(1500), *beside], [snp(1500)])
    records = call_chunk(block, REFERENCE, 0, 0, LENGTH, CallOptions(), gvcf=True).variants
    hom_ref, het, hom_alt, ref_other, alt_other, both_other = records[0].genotype["PL"]
    assert hom_alt == 0
    assert alt_other == pytest.approx(40 * 10 * math.log10(2), rel=0.3)  # a window holds reads beside the site too
    assert het >= alt_other * 0.95
    assert ref_other == pytest.approx(hom_ref, rel=0.05)
    assert both_other >= alt_other


@pytest.mark.parametrize(("size", "offset"), [(1000, 0), (700, 13)])
def test_chunks_do_not_change_the_gvcf(size: int, offset: int) -> None:
    block, reference = mixed_sample()
    bands = CallOptions().gq_bands

    def blocks(chunks: list[ChunkCalls]) -> list[str]:
        return [r.line() for r in join_reference_blocks([b for c in chunks for b in c.reference_blocks], bands)]

    whole = call_in_chunks(block, reference, 20000, gvcf=True)
    cut = call_in_chunks(block, reference, size, offset, gvcf=True)
    assert lines(cut) == lines(whole)
    assert blocks(cut) == blocks(whole)


def test_unsure_reference_has_low_gq() -> None:
    reads = reads_of_haplotype(SEQUENCE, [], depth=2, start=1000, stop=2000)
    calls = call_chunk(make_block(reads), REFERENCE, 0, 0, LENGTH, CallOptions(), gvcf=True)
    empty = calls.reference_blocks[0]
    assert (empty.start, empty.genotype["GQ"], empty.genotype["MIN_DP"]) == (0, 0, 0)
    thin = next(r for r in calls.reference_blocks if r.start <= 1500 < r.stop)
    assert 3 <= thin.genotype["GQ"] <= 12


def test_edges_of_the_contig() -> None:
    """A SNP in the first covered bases of a contig, and one in the last."""
    first, last = snp(3), snp(LENGTH - 4)
    records = call(
        make_block(
            [HandRead(0, "100M", SEQUENCE[:3] + first[2] + SEQUENCE[4:100], f"a{i}") for i in range(12)]
            + [HandRead(LENGTH - 100, "100M", SEQUENCE[-100:-4] + last[2] + SEQUENCE[-3:], f"b{i}") for i in range(12)]
        )
    )
    assert summary(records) == [(*first, "1/1"), (*last, "1/1")]


def test_indel_in_the_first_bases_of_a_contig() -> None:
    """CAAAAAA: the record stands on the first base. AAAAAA: reads may as well begin one base later: no call."""
    tail = "CGTC" + SEQUENCE[:500]
    for head, expected in (("CAAAAAA", [(0, "CA", "C", "1/1")]), ("AAAAAA", [])):
        text = head + tail
        reads = [HandRead(0, "4M1D95M", text[:4] + text[5:100], f"d{i}") for i in range(12)]
        assert summary(call(make_block(reads), TextReference({"c": text}))) == expected


def test_deep_windows_take_a_sample_of_the_templates() -> None:
    events = [snp(1500), snp(1510)]
    block = sample(events, [], depth=100)
    full = call(block)
    few = call(block, max_reads=60)
    assert summary(full) == summary(few) == [(*event, "0|1") for event in events]
    assert 50 <= sum(few[0].genotype["AD"]) <= 60
    assert min(few[0].genotype["AD"]) >= 15
    assert few[0].genotype["DP"] <= 60
    assert few[0].info["DP"] == full[0].info["DP"] == 200


@pytest.mark.parametrize(
    ("run", "end", "genotype", "isolated"),
    [(12, "gap", "1/1", 0), (12, "run", "1/1", 0), (1, "gap", "1/1", 0), (1, "run", "0/1", 1)],
)
def test_a_read_that_slipped_beside_a_snp_is_no_reference(run: int, end: str, genotype: str, isolated: int) -> None:
    """A > C ends a run of A; twelve reads show it, one has an A more and then the C.

    Aligned as an insertion of C ("gap"), or ending with the run, that read shows the reference's A at the SNP. Only
    where no run is that could slip, a read that ends there speaks for the reference.
    """
    left, right = random_reference(300, 8) + "G", "T" + random_reference(300, 9)
    alt = left + "A" * run + "C" + right
    place, start = 301 + run, 252
    reads = [HandRead(240 + i, "100M", alt[240 + i : 340 + i], f"a{i}", quality=40) for i in range(12)]
    slipped = left + "A" * (run + 1) + ("C" + right if end == "gap" else "")
    cigar = f"{place + 1 - start}M" + ("1I60M" if end == "gap" else "")
    reads.append(HandRead(start, cigar, slipped[start : place + (62 if end == "gap" else 1)], "r", quality=40))
    block = make_block(sorted(reads, key=lambda r: r.start))
    reference = TextReference({"c": left + "A" * (run + 1) + right})
    calls = call_chunk(block, reference, 0, 0, 10**6, CallOptions())
    assert summary(calls.variants) == [(place, "A", "C", genotype)]
    assert calls.stats.get("isolated_windows", 0) == isolated
