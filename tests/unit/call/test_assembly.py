# SPDX-License-Identifier: Apache-2.0
"""Long events that aligners only clip at: found by assembly, wherever chunks are cut."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from megabolt.call.assembly import _paths, add_assembled, assembly_sites
from megabolt.call.candidates import Candidates
from megabolt.call.engine import CallOptions, call_chunk
from megabolt.call.evidence import DELETION, INSERTION, SNP, Evidence
from megabolt.formats.bases import decode, encode
from megabolt.formats.vcf import VcfRecord
from megabolt.testing.records import HandRead, TextReference, make_block, random_reference, reads_of_haplotype

SEQUENCE = random_reference(4000, 21)
REFERENCE = TextReference({"c": SEQUENCE})
NOVEL = random_reference(45, 22)
INSERTED = (2000, SEQUENCE[2000], SEQUENCE[2000] + NOVEL)
DELETED = (2000, SEQUENCE[2000:2061], SEQUENCE[2000])


def clip_at_indel(read: HandRead) -> HandRead:
    """What an aligner makes of a read whose indel it cannot place: the longer side aligned, the rest clipped."""
    parts = [(int(n), op) for n, op in re.findall(r"(\d+)([MID])", read.cigar)]
    if len(parts) == 1:
        return read
    (left, _), (gap, kind), (right, _) = parts
    inserted = gap if kind == "I" else 0
    if left >= right:
        return replace(read, cigar=f"{left}M{inserted + right}S")
    deleted = gap if kind == "D" else 0
    return replace(read, start=read.start + left + deleted, cigar=f"{left + inserted}S{right}M")


def sample(*haplotypes: list[tuple[int, str, str]]) -> list[HandRead]:
    reads = []
    for i, events in enumerate(haplotypes):
        reads += reads_of_haplotype(SEQUENCE, events, depth=20, read_length=150, prefix=f"h{i}_")
    return [clip_at_indel(read) for read in reads]


def call(reads: list[HandRead], start: int = 0, stop: int = 4000, **options: bool) -> list[VcfRecord]:
    return call_chunk(make_block(reads), REFERENCE, 0, start, stop, CallOptions(**options)).variants  # type: ignore[arg-type]


@pytest.mark.parametrize("event", [INSERTED, DELETED], ids=["insertion", "deletion"])
@pytest.mark.parametrize("genotype", ["0/1", "1/1"])
def test_clipped_long_indels_are_found(event: tuple[int, str, str], genotype: str) -> None:
    reads = sample([event], [event] if genotype == "1/1" else [])
    (record,) = call(reads)
    assert record.genotype["GT"] == genotype
    assert record.qual > 100
    position, ref, alt = event
    expected = SEQUENCE[:position] + alt + SEQUENCE[position + len(ref) :]
    assert SEQUENCE[: record.start] + record.alts[0] + SEQUENCE[record.stop :] == expected
    assert [r for r in call(reads, assemble=False) if len(r.ref) != len(r.alts[0])] == []


@pytest.mark.parametrize("edge", [1990, 2000, 2001, 2010, 2064, 2200])
def test_chunk_edges_do_not_matter(edge: int) -> None:
    reads = sample([INSERTED], [])
    whole = [r.line() for r in call(reads)]
    cut = [r.line() for r in call(reads, 0, edge) + call(reads, edge, 4000)]
    assert len(whole) == 1
    assert cut == whole


def test_adapters_make_no_variants() -> None:
    """Clips of different sequence at one place assemble to nothing."""
    reads = sample([], [])
    for i in range(10):
        reads.append(HandRead(1900, "100M50S", SEQUENCE[1900:2000] + random_reference(50, 100 + i), f"x{i}"))
    assert call(reads) == []


def test_paths_need_two_reads() -> None:
    reference = random_reference(200, 5)
    variant = reference[:100] + ("A" if reference[100] != "A" else "C") + reference[101:]
    one = [encode(reference), encode(variant)]
    assert _paths(one) == []
    assert [decode(np.frombuffer(p, np.uint8)) for p in _paths([*one, encode(variant)])] == [variant]


def test_a_repetitive_reference_gives_no_graph() -> None:
    reference = "ACGT" * 50
    assert _paths([encode(reference), *[encode(reference[:100] + reference)] * 4]) == []


def test_circles_are_walked_a_bounded_number_of_times() -> None:
    """Reads of a tandem duplication make a circle: paths with one copy more, two more, ... up to the limit."""
    reference = random_reference(200, 6)
    copies = reference[50:120] * 3
    found = {decode(np.frombuffer(p, np.uint8)) for p in _paths([encode(reference), *[encode(copies)] * 4])}
    assert found == {reference[:50] + reference[50:120] * n + reference[120:] for n in (2, 3, 4, 5)}


def test_new_candidates_keep_the_order_and_the_reads() -> None:
    known = Candidates(
        start=np.array([10, 30]),
        stop=np.array([11, 32]),
        kind=np.array([SNP, DELETION], np.uint8),
        length=np.array([1, 2]),
        sequence_offset=np.array([0, 1, 1]),
        sequence=np.array([2, 0], np.uint8),
        read_offset=np.array([0, 2, 3]),
        read=np.array([4, 7, 9], np.int32),
    )
    insertion = (20, 20, INSERTION, bytes([1, 1]))
    merged, members = add_assembled(known, [[(10, 11, SNP, bytes([2])), insertion], [insertion]])
    assert merged.start.tolist() == [10, 20, 30]
    assert merged.length.tolist() == [1, 2, 2]
    assert merged.read_offset.tolist() == [0, 2, 2, 3]
    assert merged.bases(1).tolist() == [1, 1]
    assert [m.tolist() for m in members] == [[0, 1], [1]]
    assert add_assembled(known, [])[0] is known


def as_mismatches(read: HandRead) -> HandRead:
    """What an aligner makes of a gap dearer than the mismatches beside it: no gap at all."""
    parts = [(int(n), op) for n, op in re.findall(r"(\d+)([MID])", read.cigar)]
    if len(parts) == 1:
        return read
    (left, _), (gap, _), (right, _) = parts
    start = read.start if left >= right else read.start + gap
    return replace(read, start=start, cigar=f"{left + right}M")


def test_a_deletion_aligned_as_mismatches_is_found() -> None:
    """Two copies of 60 bases that differ at four places: one is gone, and its reads look like SNPs of the other."""
    unit = random_reference(60, 31)
    second = "".join("ACGT"["ACGT".index(b) ^ 2] if i in (8, 22, 36, 50) else b for i, b in enumerate(unit))
    text = SEQUENCE[:2000] + unit + second + SEQUENCE[2000:]
    deletion = (1999, text[1999:2060], text[1999])
    reads = [
        as_mismatches(read)
        for prefix in "ab"
        for read in reads_of_haplotype(text, [deletion], depth=20, read_length=150, prefix=prefix)
    ]
    records = call_chunk(
        make_block(reads), TextReference({"c": text}), 0, 0, len(text), CallOptions()
    ).variants  # fmt: skip
    haplotype = text
    for record in reversed(records):
        assert record.genotype["GT"] == "1/1"
        haplotype = haplotype[: record.start] + record.alts[0] + haplotype[record.stop :]
    assert haplotype == text[:2000] + text[2060:]


def test_sites_of_assembly() -> None:
    """Cells by hand: three mismatching alleles in one, one in a tandem repeat of 30 bases, none of lone SNPs."""
    unit = random_reference(30, 41)
    text = random_reference(1000, 42)
    text = text[:640] + unit * 3 + text[730:]
    ref = encode(text)
    evidence = Evidence(
        depth=np.full(1000, 30, np.int32),
        fragments=np.full(1000, 30, np.int32),
        clips=np.zeros(1000, np.int32),
        snp_count=np.zeros(4000, np.int32),
        mismatches=np.zeros((0, 2), np.int32),
        indels=np.zeros((0, 6), np.int64),
    )
    start = np.array([130, 140, 150, 260, 300, 680])
    snps = Candidates(
        start=start,
        stop=start + 1,
        kind=np.full(6, SNP, np.uint8),
        length=np.ones(6, np.int64),
        sequence_offset=np.arange(7),
        sequence=np.zeros(7, np.uint8),
        read_offset=np.zeros(7, np.int64),
        read=np.zeros(0, np.int32),
    )
    assert assembly_sites(evidence, snps, ref, 1000, 0) == [128, 640]
    assert assembly_sites(evidence, snps, ref, 1000, 64) == [128, 640], "cells are those of the genome"
    evidence.clips[452] = 4
    assert assembly_sites(evidence, snps, ref, 1000, 0) == [128, 448, 640]
