# SPDX-License-Identifier: Apache-2.0
"""What is said of a site is what the caller did there: alleles, reads, windows, haplotypes, the step that decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megabolt.call.engine import CallOptions, call_chunk
from megabolt.call.explain import decided_before, explain
from megabolt.call.explained import AlleleView, Explanation
from megabolt.call.fate import Fate, Step, fate_of, verdict
from megabolt.call.known import Alleles, Event, event_of
from megabolt.call.ploidy import PloidyMap
from megabolt.call.site_reads import left_aligned
from megabolt.call.trace import Trace
from megabolt.formats.bam_records import RecordBlock
from megabolt.testing.records import (
    DUPLICATE,
    FIRST,
    PAIRED,
    REVERSE,
    SECOND,
    HandRead,
    TextReference,
    make_block,
    random_reference,
    reads_of_haplotype,
)
from megabolt.workflow.explain_page import page_of
from megabolt.workflow.explain_text import text_of

LENGTH = 3000
SEQUENCE = random_reference(LENGTH, 7)
REFERENCE = TextReference({"chrT": SEQUENCE})
REPEAT = SEQUENCE[:1000] + "AC" * 12 + "T" + SEQUENCE[1025:]
REPEATED = TextReference({"chrT": REPEAT})


def other(base: str) -> str:
    return "ACGT"[("ACGT".index(base) + 2) % 4]


def snp(position: int, sequence: str = SEQUENCE) -> tuple[int, str, str]:
    return position, sequence[position], other(sequence[position])


def traced(
    block: RecordBlock, site: int, reference: TextReference = REFERENCE, asked: Sequence[Event] = (), **options: Any
) -> Explanation:
    trace = Trace()
    length = reference.contigs[0].length
    call_chunk(block, reference, 0, 0, length, CallOptions(**options), trace=trace)
    return explain(trace, block, reference, 0, site, asked=asked)


def both(events: list[tuple[int, str, str]], depth: int = 20, sequence: str = SEQUENCE) -> list[HandRead]:
    """Reads of a haplotype with the events, and as many of the reference."""
    changed = reads_of_haplotype(sequence, events, depth=depth, prefix="a")
    return changed + reads_of_haplotype(sequence, [], depth=depth, prefix="b")


def only(found: Explanation) -> tuple[AlleleView, Fate]:
    """The one alternative allele at the site, and what became of it."""
    (allele,) = [one for one in found.alleles if one.event is not None]
    return allele, fate_of(found, allele)


def test_a_called_snp() -> None:
    found = traced(make_block(both([snp(1500)])), 1500)
    allele, fate = only(found)
    assert (allele.start, allele.ref, allele.alt) == snp(1500)
    assert fate.step is Step.CALLED
    assert allele.record in found.records
    assert allele.record is not None
    assert allele.record.genotype["GT"] == "0/1"
    reference = found.alleles[0]
    assert (len(reference.used), len(allele.used), len(allele.left_out)) == (20, 20, 0)
    assert 0 < sum(read.reverse for read in allele.used) < 20
    assert (allele.counted, allele.depth, allele.sources) == (20, 40, ("reads",))
    (window,) = found.windows
    assert (window.isolated, window.decided, window.start, window.stop) == (True, True, 1500, 1501)
    best = window.genotypes[0]
    assert (best.copies, best.log10_prior) == ((0, 1), -3.0)
    assert best.share > 0.999
    assert verdict(found)[0].startswith(f"chrT:1501 {allele.ref}>{allele.alt}: called. Genotype 0/1, QUAL ")


def test_a_filtered_call_names_the_filter_and_its_limit() -> None:
    reads = [
        read for read in reads_of_haplotype(SEQUENCE, [snp(1500)], depth=2) if read.start <= 1500 < read.start + 100
    ]
    found = traced(make_block(reads), 1500)
    _, fate = only(found)
    assert len(found.reads) == 2
    assert fate.step is Step.FILTERED
    assert "LowDepth (2 templates are fewer than 3)" in fate.words


def test_reads_of_low_mapq_are_named() -> None:
    reads = reads_of_haplotype(SEQUENCE, [snp(1500)], depth=20, prefix="a", mapq=2)
    reads += reads_of_haplotype(SEQUENCE, [], depth=20, prefix="b")
    found = traced(make_block(reads), 1500)
    allele, fate = only(found)
    assert fate.step is Step.LEFT_OUT
    assert (
        f"{len(allele.left_out)} reads that show it are left out ({len(allele.left_out)} with MAPQ below 5)"
        in fate.words
    )
    assert found.left_out() == {"MAPQ below 5": 20}
    assert found.windows == ()


def test_each_reason_to_leave_a_record_out() -> None:
    text = SEQUENCE[950:1050]
    flags = {"duplicate": DUPLICATE, "secondary alignment": 0x100, "supplementary alignment": 0x800,
             "failed quality control": 0x200}  # fmt: skip
    reads = [HandRead(950, "100M", text, why, flag=flag) for why, flag in flags.items()]
    reads += [HandRead(950, "100M", text, "MAPQ below 5", mapq=4), HandRead(950, "100M", text, "")]
    reads += [HandRead(900, "50M1000N50M", text, "spans more than 1000 bases of the reference")]
    reads += [HandRead(700, "600M", SEQUENCE[700:1300], "longer than 512 bases")]
    found = traced(make_block(reads), 1000)
    whys = {read.name: read.why for read in found.reads if read.name in flags or read.why}
    assert len(whys) == 7
    assert all(name == why for name, why in whys.items())
    assert sum(not read.why for read in found.reads) == 1


def test_too_few_reads_for_a_candidate() -> None:
    reads = reads_of_haplotype(SEQUENCE, [], depth=38, prefix="b")
    changed = SEQUENCE[:1500] + other(SEQUENCE[1500]) + SEQUENCE[1501:]
    reads += [HandRead(1450, "100M", changed[1450:1550], f"a{i}") for i in range(2)]
    allele, fate = only(traced(make_block(reads), 1500))
    assert fate.step is Step.NO_CANDIDATE
    assert (allele.counted, allele.candidate) == (2, -1)
    assert "2 usable reads show it with base quality 10 or more" in fate.words
    assert f"% of a depth of {allele.depth}; a candidate needs 2 reads and 10% (min_snp_fraction)" in fate.words


def test_bases_of_low_quality_are_named() -> None:
    reads = reads_of_haplotype(SEQUENCE, [snp(1500)], depth=10, prefix="a", quality=6)
    reads += reads_of_haplotype(SEQUENCE, [], depth=10, prefix="b")
    allele, fate = only(traced(make_block(reads), 1500))
    assert fate.step is Step.NO_CANDIDATE
    assert (allele.counted, len(allele.used)) == (0, 10)
    assert "(10 more with less, or with a mate that disagrees)" in fate.words


def test_mates_that_disagree_are_worth_nothing() -> None:
    changed = SEQUENCE[:1500] + other(SEQUENCE[1500]) + SEQUENCE[1501:]
    reads = [
        HandRead(1450 + i, "100M", text[1450 + i : 1550 + i], f"t{i}", flag=PAIRED | which)
        for i in range(6)
        for text, which in ((changed, FIRST), (SEQUENCE, SECOND | REVERSE))
    ]
    found = traced(make_block(reads), 1500)
    allele, fate = only(found)
    assert {read.trusted for read in allele.used} == {0}
    assert {read.quality for read in allele.used} == {35}
    assert fate.step is Step.NO_CANDIDATE
    assert all(read.mate >= 0 for read in found.reads)


def test_a_candidate_that_loses_says_what_its_reads_weigh() -> None:
    reads = reads_of_haplotype(SEQUENCE, [snp(1500)], depth=3, prefix="a", mapq=6)
    reads += reads_of_haplotype(SEQUENCE, [], depth=12, prefix="b")
    allele, fate = only(traced(make_block(reads), 1500))
    assert fate.step is Step.LESS_LIKELY
    assert allele.candidate >= 0
    assert not allele.written
    assert allele.record is not None
    assert allele.record.genotype["GT"] == "0/0"
    assert "median MAPQ 6" in fate.words


def test_a_candidate_that_others_explain_names_them() -> None:
    """Reads that end soon after an insertion are aligned as mismatches: their SNPs lose to the insertion."""
    put = SEQUENCE[:1501] + "G" + SEQUENCE[1501:]
    insertion = (1500, SEQUENCE[1500], SEQUENCE[1500] + "G")
    reads = reads_of_haplotype(SEQUENCE, [insertion], depth=20, prefix="a")
    reads += [HandRead(1405 + i, "100M", put[1405 + i : 1505 + i], f"e{i}") for i in range(7)]
    reads += reads_of_haplotype(SEQUENCE, [], depth=20, prefix="b")
    site = next(p for p in range(1501, 1505) if put[p] != SEQUENCE[p])
    found = traced(make_block(reads), site)
    (allele,) = [one for one in found.alleles if one.event is not None and one.start == site and len(one.alt) == 1]
    fate = fate_of(found, allele)
    assert fate.step is Step.LESS_LIKELY
    anchor = SEQUENCE[1500]
    assert f"The haplotypes called in its window have 1501 {anchor}>{anchor}G." in fate.words


@pytest.mark.parametrize("depth", [1, 2])
def test_odd_records_are_no_trouble(depth: int) -> None:
    """No bases, hard clips, padding, insertions at the ends, a gap over the site, names of any letters."""
    text = SEQUENCE[950:1050]
    odd = [
        HandRead(950, "100M", "", "no\x01bases"),
        HandRead(950, "5H100M5H", text, "hard"),
        HandRead(950, "3I97M", text, "begins"),
        HandRead(950, "97M3I", text, "ends"),
        HandRead(950, "50M20N50M", text, "skips"),
        HandRead(950, "40M30D60M", text, "deletes"),
        HandRead(950, "50M2P50M", text, "pads"),
        HandRead(1000, "", text, "placed", flag=0x4),
        HandRead(950, "60M40S", text, "clipped"),
    ] * depth
    found = traced(make_block(odd), 1000)
    assert len(found.reads) == len(odd)
    assert {read.why for read in found.reads if read.name == "no?bases"} == {"no bases"}
    assert {read.why for read in found.reads if read.name == "placed"} == {"unmapped"}
    assert {read.base for read in found.reads if read.name in ("skips", "deletes")} == {-1}
    assert verdict(found)
    assert "<svg" in page_of(found, "S")
    assert "VERDICT" in text_of(found, "S")


def test_a_call_below_the_lowest_qual() -> None:
    block = make_block(both([snp(1500)], depth=4))
    qual = only(traced(block, 1500))[0].record
    assert qual is not None
    assert qual.qual is not None
    allele, fate = only(traced(block, 1500, min_qual=qual.qual + 1))
    assert fate.step is Step.BELOW_MIN_QUAL
    assert not allele.written
    assert allele.record == qual


@pytest.mark.parametrize("site", [999, 1000, 1010, 1023])
def test_an_indel_in_a_repeat_is_found_from_each_base_of_it(site: int) -> None:
    deletion = (999, REPEAT[999:1004], REPEAT[999])
    found = traced(make_block(both([deletion], sequence=REPEAT)), site, REPEATED)
    alleles = [one for one in found.alleles if one.event is not None and len(one.ref) == 5]
    (allele,) = alleles
    assert (allele.start, len(allele.ref), len(allele.alt)) == (999, 5, 1)
    assert fate_of(found, allele).step is Step.CALLED
    (window,) = found.windows
    assert window.start <= 999
    assert window.stop >= 1024
    assert not window.isolated
    assert window.read_stop > 1024 + 25 - 1
    assert window.haplotypes[0].sources == ("reference",)
    carrying = [one for one in window.haplotypes if allele.event in one.events]
    assert "reads" in carrying[0].sources
    assert [one.copies for one in (window.haplotypes[0], carrying[0])] == [1, 1]
    assert min(window.haplotypes[0].favoured, carrying[0].favoured) > 5
    best = window.genotypes[0]
    assert best.copies == (0, window.haplotypes.index(carrying[0]))
    # of repeats with twelve units of two bases 42 in 100 vary; one allele of ten is two units shorter
    assert best.log10_prior == pytest.approx(math.log10(0.42 * 0.1), abs=0.01)
    assert allele.log10_prior == pytest.approx(best.log10_prior)


def test_a_site_without_reads_and_one_without_variants() -> None:
    block = make_block(reads_of_haplotype(SEQUENCE, [], depth=20, stop=1000))
    found = traced(block, 2000)
    assert found.reads == ()
    assert "No record overlaps the site" in verdict(found)[0]
    found = traced(block, 500)
    assert "shows the reference" in verdict(found)[0]
    assert found.windows == ()
    assert len(found.alleles) == 1


def test_an_allele_that_was_asked_for() -> None:
    event = event_of(REFERENCE, 0, *snp(700))
    assert event is not None
    found = traced(make_block(both([snp(1500)])), 700, asked=[event])
    _, fate = only(found)
    assert fate.step is Step.NOT_SHOWN
    assert len(verdict(found)) == 1


def test_a_known_allele_is_a_candidate_without_reads() -> None:
    event = event_of(REFERENCE, 0, *snp(700))
    assert event is not None
    found = traced(make_block(both([snp(1500)])), 700, forced={0: Alleles([event])})
    allele, fate = only(found)
    assert (allele.sources, allele.written, allele.called) == (("known",), True, False)
    assert fate.step is Step.LESS_LIKELY
    assert "fit the best genotype without it better, by" in fate.words


def test_an_assembled_event_says_so() -> None:
    """A deletion of 60 bases that reads only show by clips."""
    events = [(1500, SEQUENCE[1500:1561], SEQUENCE[1500])]
    reads = []
    for read in reads_of_haplotype(SEQUENCE, events, depth=20, prefix="a", read_length=150):
        parts = read.cigar.replace("M", " ").replace("D", " ").split()
        if "D" in read.cigar:  # the aligner clips the shorter side
            left, gap, right = map(int, parts)
            cigar = f"{left}M{right}S" if left >= right else f"{left}S{right}M"
            read = replace(read, cigar=cigar, start=read.start if left >= right else read.start + left + gap)
        reads.append(read)
    found = traced(make_block(reads + reads_of_haplotype(SEQUENCE, [], depth=20, prefix="b", read_length=150)), 1520)
    (allele,) = [one for one in found.alleles if one.event is not None and len(one.ref) > 50]
    assert allele.sources == ("assembly",)
    assert fate_of(found, allele).step is Step.CALLED
    assert found.activity.clips > 0 or found.windows
    assert any("assembly" in one.sources for one in found.windows[0].haplotypes)


def test_no_copies_and_one_copy() -> None:
    block = make_block(both([snp(1500)]))
    none = PloidyMap({0: ((0, LENGTH, 0),)})
    found = traced(block, 1500, ploidy=none)
    allele, fate = only(found)
    assert (found.copies, fate.step) == (0, Step.NO_COPIES)
    one = PloidyMap({0: ((0, LENGTH, 1),)})
    found = traced(make_block(reads_of_haplotype(SEQUENCE, [snp(1500)], depth=20)), 1500, ploidy=one)
    allele, fate = only(found)
    assert (found.copies, fate.step) == (1, Step.CALLED)
    assert allele.record is not None
    assert allele.record.genotype["GT"] == "1"
    assert [g.copies for g in found.windows[0].genotypes] == [(1,), (0,)]


def test_mixtures_tell_the_share() -> None:
    reads = reads_of_haplotype(SEQUENCE, [snp(1500)], depth=5, prefix="a")
    reads += reads_of_haplotype(SEQUENCE, [], depth=95, prefix="b")
    found = traced(make_block(reads), 1500, mixture=frozenset([0]))
    allele, fate = only(found)
    assert found.mixture
    assert fate.step is Step.CALLED
    reads = reads_of_haplotype(SEQUENCE, [snp(1500)], depth=2, prefix="a")[:30]
    reads += reads_of_haplotype(SEQUENCE, [], depth=99, prefix="b")
    allele, fate = only(traced(make_block(reads), 1500, mixture=frozenset([0])))
    if allele.candidate >= 0 and not allele.written:
        assert fate.step is Step.RARE


def test_an_n_of_the_reference_is_named() -> None:
    text = SEQUENCE[:1510] + "NNN" + SEQUENCE[1513:]
    reference = TextReference({"chrT": text})
    changed = [snp(1500), (1520, SEQUENCE[1520], SEQUENCE[1520] + "GATTACA")]
    found = traced(make_block(both(changed)), 1500, reference)
    fates = {one.start: fate_of(found, one) for one in found.alleles if one.event is not None}
    assert fates[1500].step is Step.NOT_SCORED
    assert "N of the reference" in fates[1500].words


def test_deep_windows_say_how_many_reads_were_taken() -> None:
    insertion = (1500, SEQUENCE[1500], SEQUENCE[1500] + "GATTACA")
    found = traced(make_block(both([insertion], depth=50)), 1500, max_reads=40)
    (window,) = found.windows
    assert window.over > 90
    assert 30 <= window.listed <= 41
    assert window.scored <= window.listed


def many_variants() -> tuple[TextReference, RecordBlock]:
    """SNPs, insertions and deletions, close and far, in repeats and out of them, in one or both copies."""
    generator = np.random.default_rng(3)
    text = random_reference(12_000, 11)
    for at in range(500, 11_500, 1000):
        unit = ["A", "CA", "TTG"][at // 1000 % 3]
        text = text[:at] + (unit * 30)[:24] + text[at + 24 :]
    one: list[tuple[int, str, str]] = []
    two: list[tuple[int, str, str]] = []
    p = 200
    while p < 11_700:
        kind = int(generator.integers(0, 3))
        alt = other(text[p]) if kind == 0 else text[p] + random_reference(int(generator.integers(1, 9)), p)
        event = (p, text[p : p + 1 + int(generator.integers(1, 9))], text[p]) if kind == 2 else (p, text[p], alt)
        which = int(generator.integers(0, 3))
        if which != 1:
            one.append(event)
        if which != 0:
            two.append(event)
        p += int(generator.integers(12, 260))
    reads = reads_of_haplotype(text, one, depth=9, prefix="a", read_length=100)
    reads += reads_of_haplotype(text, two, depth=9, prefix="b", read_length=100)
    noisy = []
    for read in reads:
        bases = list(read.sequence)
        for x in np.flatnonzero(generator.random(len(bases)) < 0.01):
            bases[x] = other(bases[x])
        mapq = 60 if generator.random() < 0.9 else int(generator.integers(0, 30))
        noisy.append(replace(read, sequence="".join(bases), mapq=mapq))
    return TextReference({"chrT": text}), make_block(noisy)


def test_what_is_explained_is_what_is_called() -> None:
    """At each record: the same line, and the step that made it."""
    reference, block = many_variants()
    calls = call_chunk(block, reference, 0, 0, 12_000, CallOptions()).variants
    assert len(calls) >= 60
    trace = Trace()
    call_chunk(block, reference, 0, 0, 12_000, CallOptions(), trace=trace)
    for record in calls:
        found = explain(trace, block, reference, 0, record.start)
        assert record.line() in [one.line() for one in found.records]
        held = [one for one in found.alleles if one.record is not None and one.record.line() == record.line()]
        assert {one.alt for one in held if one.called}, record
        step = Step.CALLED if record.filter == "PASS" else Step.FILTERED
        assert {fate_of(found, one).step for one in held if one.called} == {step}
        assert {r.index for r in found.reads if not r.why} == set(
            np.flatnonzero((trace.chunk.reads.start + trace.chunk.origin <= record.start)  # type: ignore[union-attr]
                           & (trace.chunk.reads.stop + trace.chunk.origin > record.start)).tolist()  # type: ignore[union-attr]
        )  # fmt: skip


def test_a_trace_changes_nothing() -> None:
    reference, block = many_variants()
    for gvcf in (False, True):
        plain = call_chunk(block, reference, 0, 0, 12_000, CallOptions(), gvcf=gvcf)
        watched = call_chunk(block, reference, 0, 0, 12_000, CallOptions(), gvcf=gvcf, trace=Trace())
        assert [r.line() for r in plain.variants] == [r.line() for r in watched.variants]
        assert [r.line() for r in plain.reference_blocks] == [r.line() for r in watched.reference_blocks]
        assert plain.stats == watched.stats


def test_indels_of_reads_are_those_of_the_evidence() -> None:
    """Left-aligned here as there, whichever base of a repeat the alignment had them at."""
    reference, block = many_variants()
    trace = Trace()
    call_chunk(block, reference, 0, 0, 12_000, CallOptions(), trace=trace)
    chunk = trace.chunk
    assert chunk is not None
    expected: dict[int, set[tuple[int, int, int]]] = {}
    for p, kind, size, read, _, _ in chunk.evidence.indels.tolist():
        expected.setdefault(read, set()).add((p + chunk.origin, kind, size))
    seen: dict[int, set[tuple[int, int, int]]] = {}
    for site in range(100, 11_900, 9):
        for read_ in explain(trace, block, reference, 0, site).reads:
            for start, stop, kind, bases in read_.indels:
                if read_.index >= 0:
                    seen.setdefault(read_.index, set()).add((start, kind, len(bases) or stop - start))
    n = 0
    for read, events in seen.items():
        assert events <= expected[read]
        n += len(events)
    assert n > 150
    text = "GG" + "CAG" * 5 + "TT"
    repeat = TextReference({"c": random_reference(500, 1) + text + random_reference(500, 2)})
    trace = Trace()
    call_chunk(make_block([]), repeat, 0, 0, 1019, CallOptions(), trace=trace)
    assert trace.chunk is not None
    assert left_aligned(514, 517, b"", trace.chunk)[:2] == left_aligned(502, 505, b"", trace.chunk)[:2]


def test_windows_that_begin_before_the_chunk_belong_to_the_one_before() -> None:
    deletion = (999, REPEAT[999:1004], REPEAT[999])
    block = make_block(both([deletion], sequence=REPEAT))
    trace = Trace()
    call_chunk(block, REPEATED, 0, 1010, LENGTH, CallOptions(), trace=trace)
    assert decided_before(trace, 1015)
    assert not decided_before(trace, 1100)
    trace = Trace()
    call_chunk(block, REPEATED, 0, 0, 1010, CallOptions(), trace=trace)
    assert not decided_before(trace, 1015)
    found = explain(trace, block, REPEATED, 0, 1015)
    assert Step.CALLED in {fate_of(found, one).step for one in found.alleles if one.event is not None}
