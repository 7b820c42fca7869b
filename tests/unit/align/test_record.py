# SPDX-License-Identifier: Apache-2.0
"""Packed records against a plain Python record, both seen through pysam."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.alignments import MAX_CIGAR
from megabolt.align.record import (
    NO_END,
    RECORDS_PER_READ,
    SIGNATURE_GAP,
    UNPLACED,
    ContigNames,
    RecordChunk,
    build_records,
)
from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError, InternalError
from megabolt.testing.placed import Place, Read, Template, packed_genome, placed_batch

#: Longer than the smallest bins of the index, 16,384 bases.
CONTIGS = [("one", 36_000), ("two", 20_000)]
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def make_genome(rng: np.random.Generator) -> list[str]:
    genome = ["".join(rng.choice(list("ACGT"), length)) for _, length in CONTIGS]
    genome[0] = genome[0][:400] + "N" * 40 + genome[0][440:2000] + "N" + genome[0][2001:]
    genome[1] = "N" * 25 + genome[1][25:]
    return genome


def decode(chunk: RecordChunk, folder: Path) -> list[Any]:
    header = b"@HD\tVN:1.6\n" + b"".join(b"@SQ\tSN:%s\tLN:%d\n" % (n.encode(), length) for n, length in CONTIGS)
    raw = b"BAM\1" + struct.pack("<i", len(header)) + header + struct.pack("<i", len(CONTIGS))
    for name, length in CONTIGS:
        raw += struct.pack("<i", len(name) + 1) + name.encode() + b"\0" + struct.pack("<i", length)
    path = folder / "records.bam"
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(raw + chunk.data[: chunk.n_bytes].tobytes())
    with pysam.AlignmentFile(str(path), check_sq=False) as file:
        return list(file.fetch(until_eof=True))


# --- the plain record ---


def span(cigar: list[tuple[int, str]]) -> int:
    return sum(length for length, letter in cigar if letter in "MDN=X")


def text_of(cigar: list[tuple[int, str]]) -> str:
    return "".join(f"{length}{letter}" for length, letter in cigar)


def reverse_complement(bases: str) -> str:
    return bases[::-1].translate(COMPLEMENT)


def nm_and_md(place: Place, read: Read, genome: list[str]) -> tuple[int, str]:
    bases = reverse_complement(read.kept) if place.reverse else read.kept
    position, offset, edits, run, md = place.start, 0, 0, 0, ""
    for length, letter in place.cigar:
        if letter in "M=X":
            for _ in range(length):
                ours, theirs = bases[offset], genome[place.contig][position]
                if ours == theirs and ours != "N":
                    run += 1
                else:
                    md, run, edits = f"{md}{run}{theirs}", 0, edits + 1
                position, offset = position + 1, offset + 1
        elif letter == "I":
            offset, edits = offset + length, edits + length
        elif letter == "S":
            offset += length
        elif letter == "N":
            position += length
        elif letter == "D":
            md += f"{run}^{genome[place.contig][position : position + length]}"
            run, position, edits = 0, position + length, edits + length
    assert offset == len(bases)
    return edits, f"{md}{run}"


def expected_tlen(ours: Place | None, mate: Place | None, is_second: bool) -> int:
    if ours is None or mate is None or ours.contig != mate.contig:
        return 0
    left = min(ours.start, mate.start)
    right = max(ours.start + span(ours.cigar), mate.start + span(mate.cigar))
    leftmost = ours.start < mate.start or (ours.start == mate.start and not is_second)
    return right - left if leftmost else left - right


def split_entry(place: Place, read: Read, genome: list[str]) -> str:
    sign = "-" if place.reverse else "+"
    nm = nm_and_md(place, read, genome)[0]
    return f"{CONTIGS[place.contig][0]},{place.start + 1},{sign},{text_of(place.cigar)},{place.mapq},{nm};"


def other_entry(place: Place, read: Read, genome: list[str]) -> str:
    sign = "-" if place.reverse else "+"
    nm = nm_and_md(place, read, genome)[0]
    return f"{CONTIGS[place.contig][0]},{sign}{place.start + 1},{text_of(place.cigar)},{nm};"


def expected_tags(template: Template, m: int, k: int, genome: list[str]) -> dict[str, Any]:
    """Tags of the k-th record of a read."""
    read = template[m]
    other = template[1 - m].place if len(template) == 2 else None
    tags: dict[str, Any] = {"RG": "lane1"}
    places = [read.place, *read.parts]
    place = places[k]
    if place:
        nm, md = nm_and_md(place, read, genome)
        tags |= {"NM": nm, "MD": md, "AS": place.score, "XS": place.second}
        if read.parts:
            rest = [p for j, p in enumerate(places) if p and j != k]
            tags["SA"] = "".join(split_entry(p, read, genome) for p in rest)
        if read.others and k == 0:
            tags["XA"] = "".join(other_entry(p, read, genome) for p in read.others)
        if read.alt_ratio and k == 0:
            tags["pa"] = float(np.float32(read.alt_ratio))
    if other:
        tags |= {"MC": text_of(other.cigar), "MQ": other.mapq}
    if template[0].umi:
        tags["RX"] = template[0].umi.replace("+", "-").replace("_", "-")
    return tags


def check_record(record: Any, template: Template, m: int, k: int, genome: list[str], soft_clip: bool = False) -> None:
    """The k-th record of mate m: 0 is the primary one."""
    paired = len(template) == 2
    read = template[m]
    place = read.parts[k - 1] if k else read.place
    other = template[1 - m].place if paired else None
    flag = 0x800 if k else 0
    flag |= 0 if place else 0x4
    flag |= 0x10 if place and place.reverse else 0
    if paired:
        flag |= 0x1 | (0x40, 0x80)[m]
        flag |= 0 if other else 0x8
        flag |= 0x20 if other and other.reverse else 0
        flag |= 0x2 if read.place and other and read.place.contig == other.contig else 0
    assert record.flag == flag
    assert record.query_name == read.name
    shown = place or other
    shown_mate = (other or read.place) if paired else None
    assert record.reference_id == (shown.contig if shown else -1)
    assert record.reference_start == (shown.start if shown else -1)
    assert record.next_reference_id == (shown_mate.contig if shown_mate else -1)
    assert record.next_reference_start == (shown_mate.start if shown_mate else -1)
    assert record.template_length == expected_tlen(place, other, m == 1)
    assert record.mapping_quality == (place.mapq if place else 0)
    bases, qualities = read.kept, read.qualities[: len(read.kept)]
    cigar = place.cigar if place else []
    if place and place.reverse:
        bases, qualities = reverse_complement(bases), qualities[::-1]
    if k and not soft_clip:
        before = cigar[0][0] if cigar[0][1] == "S" else 0
        behind = cigar[-1][0] if cigar[-1][1] == "S" else 0
        bases = bases[before : len(bases) - behind]
        qualities = qualities[before : len(qualities) - behind]
        cigar = [(length, letter.replace("S", "H")) for length, letter in cigar]
    assert (record.cigarstring or "") == text_of(cigar)
    assert record.query_sequence == (bases or "N")
    assert list(record.query_qualities) == (qualities or [2])
    assert dict(record.get_tags()) == expected_tags(template, m, k, genome)


def check_all(records: list[Any], templates: Sequence[Template], genome: list[str], soft_clip: bool = False) -> None:
    left = iter(records)
    for template in templates:
        for m, read in enumerate(template):
            for k in range(1 + len(read.parts)):
                check_record(next(left), template, m, k, genome, soft_clip)
    assert next(left, None) is None


def plain_bin(start: int, stop: int) -> int:
    for shift, first in ((14, 4681), (17, 585), (20, 73), (23, 9), (26, 1)):
        if start >> shift == (stop - 1) >> shift:
            return first + (start >> shift)
    return 0


def plain_end(place: Place) -> int:
    clip = place.cigar[-1 if place.reverse else 0]
    clipped = clip[0] if clip[1] in "SH" else 0
    end = place.start + span(place.cigar) - 1 + clipped if place.reverse else place.start - clipped
    offset = [0, CONTIGS[0][1]][place.contig]
    return (offset + place.contig * SIGNATURE_GAP + SIGNATURE_GAP // 2 + end) << 1 | place.reverse


# --- random reads ---


def random_cigar(rng: np.random.Generator, length: int) -> list[tuple[int, str]]:
    kind = int(rng.integers(6))
    if kind == 0 or length < 12:
        return [(length, "M")]
    a = int(rng.integers(1, length - 10))
    if kind == 1:
        return [(a, "S"), (length - a, "M")]
    if kind == 2:
        return [(length - a, "M"), (a, "S")]
    gap = int(rng.integers(1, 9))
    if kind == 3:
        return [(a, "M"), (gap, "D"), (length - a, "M")]
    if kind == 4:
        return [(a, "M"), (gap, "I"), (length - a - gap, "M")]
    return [(2, "S"), (a, "M"), (1, "I"), (1, "M"), (300, "D"), (length - a - 6, "M"), (2, "S")]


def random_place(rng: np.random.Generator, length: int) -> Place:
    cigar = random_cigar(rng, length)
    contig = int(rng.integers(2))
    start = int(rng.integers(0, CONTIGS[contig][1] - span(cigar) + 1))
    if rng.random() < 0.6:  # near an N, or across the border of two bins
        start = int(rng.integers(0, 2500)) if rng.random() < 0.5 else (1 << 14) - int(rng.integers(1, 400))
    score = int(rng.integers(-300, 70000))
    return Place(contig, start, cigar, bool(rng.integers(2)), int(rng.integers(61)), score, int(rng.integers(300)))


def random_read(rng: np.random.Generator, name: str, genome: list[str], length: int, mapped: bool) -> Read:
    qualities = [int(q) for q in rng.integers(2, 42, length)]
    if not mapped:
        return Read(name, "".join(rng.choice(list("ACGTN"), length)), qualities, None)
    place = random_place(rng, length)
    bases, position = "", place.start
    for count, letter in place.cigar:
        if letter == "M":
            bases += genome[place.contig][position : position + count]
            position += count
        elif letter == "D":
            position += count
        else:
            bases += "".join(rng.choice(list("ACGT"), count))
    letters = list(bases)
    for k in np.flatnonzero(rng.random(length) < rng.choice([0, 0.02, 0.9])):
        letters[k] = str(rng.choice(list("ACGTN")))
    bases = "".join(letters)
    return Read(name, reverse_complement(bases) if place.reverse else bases, qualities, place)


def add_extras(rng: np.random.Generator, read: Read) -> None:
    """Parts and other places anywhere, trimmed ends, a ratio to ALT; alone and together."""
    length = len(read.bases)
    if read.place and rng.random() < 0.4:
        read.parts = [
            random_place(rng, length) for _ in range(int(rng.choice([1, 1, 1, 2, 2, 3, 3, RECORDS_PER_READ - 1])))
        ]
    if read.place and rng.random() < 0.3:
        read.others = [random_place(rng, length) for _ in range(int(rng.integers(1, 9)))]
    if read.place and rng.random() < 0.2:
        read.alt_ratio = float(rng.random())
    if rng.random() < 0.3:  # the machine read on into the adapter, which the places do not cover
        read.trimmed = int(rng.integers(1, 80))
        read.bases += "".join(rng.choice(list("ACGTN"), read.trimmed))
        read.qualities += [int(q) for q in rng.integers(2, 42, read.trimmed)]
        if read.place is None and rng.random() < 0.5:
            read.trimmed = len(read.bases)


def build(
    templates: Sequence[Template], genome: list[str], out: RecordChunk | None = None, soft_clip: bool = False
) -> RecordChunk:
    batch, alignments = placed_batch(templates)
    words, offsets, intervals = packed_genome(genome)
    return build_records(
        batch,
        alignments,
        words,
        offsets,
        intervals,
        b"lane1",
        out or RecordChunk.allocate(1),
        names=ContigNames.of([name for name, _ in CONTIGS]),
        soft_clip=soft_clip,
    )


def random_templates(rng: np.random.Generator, genome: list[str], n_mates: int, extras: bool) -> list[Template]:
    templates: list[Template] = []
    for i in range(100 if extras else 300):
        lengths = rng.integers(1, 501, 2) if i % 3 else rng.choice([1, 2, 31, 32, 33, 63, 64, 65, 128, 150, 500], 2)
        name = "r" * int(rng.choice([1, 7, 8, 9, 63, 64, 65, 251])) + f"{i:03}"
        mapped = rng.random(2) < 0.85
        reads = [random_read(rng, name, genome, int(n), bool(x)) for n, x in zip(lengths, mapped)][:n_mates]
        if extras:
            reads[0].umi = str(rng.choice(["", "A", "ACGTACGT", "ACG+TTA", "NAC_GGT", "ACGT-ACGT"]))
            for read in reads:
                add_extras(rng, read)
        templates.append(tuple(reads))
    return templates


@pytest.mark.parametrize("extras", [False, True], ids=["plain", "extras"])
@pytest.mark.parametrize("n_mates", [2, 1], ids=["pairs", "single"])
@pytest.mark.parametrize("seed", range(3))
def test_records_agree_with_the_plain_record(tmp_path: Path, seed: int, n_mates: int, extras: bool) -> None:
    rng = np.random.default_rng(seed)
    genome = make_genome(rng)
    templates = random_templates(rng, genome, n_mates, extras)
    soft_clip = seed == 2
    chunk = build(templates, genome, soft_clip=soft_clip)
    records = decode(chunk, tmp_path)
    check_all(records, templates, genome, soft_clip)
    assert chunk.n_records == len(records)
    assert (chunk.n_records > n_mates * len(templates)) == extras
    check_keys(chunk, templates)
    check_signatures(chunk, templates)
    for n, record in enumerate(records):  # not pysam's: htslib computes the bin anew
        stored = struct.unpack_from("<H", chunk.data, int(chunk.offsets[n]) + 14)[0]
        start, stop = record.reference_start, record.reference_end or record.reference_start + 1
        assert stored == (plain_bin(start, stop) if start >= 0 else 4680)


def check_keys(chunk: RecordChunk, templates: Sequence[Template]) -> None:
    n = 0
    for i, template in enumerate(templates):
        for m, read in enumerate(template):
            for k, place in enumerate([read.place, *read.parts]):
                shown = place or template[-1 - m].place
                expected = int(UNPLACED)
                if shown:
                    expected = shown.contig << 33 | (shown.start + 1) << 1 | bool(place and place.reverse)
                assert int(chunk.key[n]) == expected
                assert int(chunk.ordinal[n]) == (2 * i + m) * RECORDS_PER_READ + k
                n += 1


def check_signatures(chunk: RecordChunk, templates: Sequence[Template]) -> None:
    for i, template in enumerate(templates):
        ends = sorted(plain_end(read.place) for read in template if read.place)
        ends += [int(NO_END)] * (2 - len(ends))
        assert [int(x) for x in chunk.signature[i]] == ends
        kept = [read.qualities[: len(read.kept)] for read in template if read.place]
        assert chunk.quality_sum[i] == sum(min(16383, sum(q for q in row if q >= 15)) for row in kept)


def test_lower_case_and_ambiguity_codes_are_read(tmp_path: Path) -> None:
    genome = make_genome(np.random.default_rng(1))
    piece = genome[0][1000:1010]
    read = Read("a", piece.lower()[:8] + "RY", [30] * 10, Place(0, 1000, [(10, "M")]))
    mate = Read("a", "ACGTT", [30] * 5, None)
    record = decode(build([(read, mate)], genome), tmp_path)[0]
    assert record.query_sequence == piece[:8] + "NN"
    assert record.get_tag("NM") == 2


def test_both_mates_at_one_start_have_opposite_template_lengths(tmp_path: Path) -> None:
    genome = make_genome(np.random.default_rng(1))
    reads = [Read("a", "A" * 10, [30] * 10, Place(0, 1000, [(10, "M")], reverse=m == 1)) for m in range(2)]
    records = decode(build([(reads[0], reads[1])], genome), tmp_path)
    assert [r.template_length for r in records] == [10, -10]


def split_pair(genome: list[str]) -> Template:
    """Mate 1 is split: its first 30 bases lie on the other contig, backwards."""
    bases = reverse_complement(genome[1][200:230]) + genome[0][1000:1070]
    front = Place(1, 200, [(70, "S"), (30, "M")], reverse=True, mapq=17, score=30)
    mate = Place(0, 1200, [(5, "S"), (45, "M")], reverse=True, mapq=44)
    qualities = list(range(2, 42)) + [40] * 60
    return (
        Read("a", bases, qualities, Place(0, 1000, [(30, "S"), (70, "M")], mapq=55), parts=[front]),
        Read("a", reverse_complement("ACGTA" + genome[0][1200:1245]), [30] * 50, mate),
    )


def test_a_split_read_by_hand(tmp_path: Path) -> None:
    """Hard clips on the reverse strand: the bases kept are the first of the read, turned round."""
    genome = make_genome(np.random.default_rng(1))
    first, part, mate = decode(build([split_pair(genome)], genome), tmp_path)
    assert (first.flag, part.flag, mate.flag) == (0x63, 0x1 | 0x2 | 0x10 | 0x20 | 0x40 | 0x800, 0x93)
    assert (part.cigarstring, part.query_sequence) == ("70H30M", genome[1][200:230])
    assert list(part.query_qualities) == list(range(31, 1, -1))
    assert first.get_tag("SA") == "two,201,-,70S30M,17,0;"
    assert part.get_tag("SA") == "one,1001,+,30S70M,55,0;"
    assert (part.next_reference_id, part.next_reference_start, part.template_length) == (0, 1200, 0)
    assert (first.template_length, mate.template_length) == (245, -245)
    assert (first.get_tag("MC"), part.get_tag("MC"), part.get_tag("MQ")) == ("5S45M", "5S45M", 44)
    assert (mate.get_tag("MC"), mate.get_tag("MQ")) == ("30S70M", 55)
    assert not mate.has_tag("SA")


def test_a_supplementary_record_of_a_read_with_an_unmapped_mate_points_to_where_that_mate_is(tmp_path: Path) -> None:
    genome = make_genome(np.random.default_rng(1))
    first, mate = split_pair(genome)
    mate.place = None
    records = decode(build([(first, mate)], genome), tmp_path)
    assert [(r.next_reference_id, r.next_reference_start) for r in records] == [(0, 1000)] * 3
    assert (records[2].reference_id, records[2].reference_start) == (0, 1000)


def test_a_chunk_can_be_used_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    genome = make_genome(rng)
    large = random_templates(rng, genome, 2, True)
    chunk = build(large, genome)
    small = [tuple(random_read(rng, "q", genome, 20, True) for _ in range(2))]
    again = build(small, genome, chunk)
    assert again is chunk
    assert again.n_records == 2
    assert [r.query_name for r in decode(again, tmp_path)] == ["q", "q"]
    assert build([split_pair(genome)], genome, chunk).n_records == 3


@pytest.mark.parametrize(
    ("n_parts", "n_others"), [(RECORDS_PER_READ - 1, 60), (RECORDS_PER_READ - 1, 0), (0, 300), (0, 0)]
)
def test_memory_grows_before_the_longest_records_reach_its_end(n_parts: int, n_others: int) -> None:
    """Whatever the buffer's size, the space for over-long stores behind the content stays."""
    rng = np.random.default_rng(4)
    genome = make_genome(rng)
    busy = [(1, "S"), *[(1, "M"), (1, "I")] * ((MAX_CIGAR - 2) // 2), (500 - MAX_CIGAR + 2, "S")]
    assert len(busy) == MAX_CIGAR

    def read(umi: str) -> Read:
        far = Place(0, 100, [(1, "M"), (3900, "D"), (499, "M")], score=70000)
        part = Place(1, 2900, [*busy[:3], (9000, "D"), *busy[4:]], reverse=True, mapq=60, score=70000)
        bases = "".join(rng.choice(list("ACGT"), 500))
        return Read("n" * 254, bases, [41] * 500, far, [part] * n_parts, [part] * n_others, alt_ratio=0.5, umi=umi)

    batch, alignments = placed_batch([(read("ACGT" * 60), read(""))])
    names = ContigNames.of(["a" * 250, "b" * 250])
    chunk = RecordChunk.allocate(1)
    arguments = (batch, alignments, *packed_genome(genome), b"lane1", chunk)
    size = build_records(*arguments, names=names).n_bytes
    for spare in (*range(-3000, 3000, 61), 100_000):
        chunk.data = np.zeros(size + spare, np.uint8)
        build_records(*arguments, names=names)
        assert chunk.n_bytes == size
        assert size <= len(chunk.data) - PADDING


def test_names_of_254_bytes_are_the_longest(tmp_path: Path) -> None:
    genome = make_genome(np.random.default_rng(1))
    records = decode(build([(Read("n" * 254, "ACGT", [30] * 4, None),)], genome), tmp_path)
    assert records[0].query_name == "n" * 254
    long = Read("n" * 255, "ACGT", [30] * 4, None)
    with pytest.raises(InputFormatError, match="read pair 1: the read name is longer than the 254 bytes"):
        build([(long, long)], genome)
    with pytest.raises(InputFormatError, match="read 1: the read name is longer"):
        build([(long,)], genome)


def test_an_alignment_that_does_not_fit_is_our_bug() -> None:
    genome = make_genome(np.random.default_rng(1))
    wrong = [
        Read("n", "ACGT", [30] * 4, Place(0, 100, [(5, "M")])),
        Read("n", "ACGT", [30] * 4, Place(0, 100, [(4, "S")])),
        Read("n", "", [], Place(0, 100, [(4, "D")])),
        Read("n", "ACGT", [30] * 4, Place(0, 100, [(4, "M")]), trimmed=1),
        Read("n", "ACGT", [30] * 4, None, trimmed=5),
        Read("n", "ACGT", [30] * 4, None, trimmed=-1),
    ]
    for read in wrong:
        with pytest.raises(InternalError, match="read pair 1, mate 1: the alignment"):
            build([(read, Read("n", "A", [30], None))], genome)


def test_further_alignments_that_do_not_fit_are_our_bug() -> None:
    genome = make_genome(np.random.default_rng(1))
    place = Place(0, 100, [(4, "M")])
    wrong = [
        Read("n", "ACGT", [30] * 4, None, [place]),
        Read("n", "ACGT", [30] * 4, None, others=[place]),
        Read("n", "ACGT", [30] * 4, place, [place] * RECORDS_PER_READ),
        Read("n", "ACGT", [30] * 4, place, [Place(0, 100, [(5, "M")])]),
        Read("n", "ACGT", [30] * 4, place, [Place(0, 100, [(4, "S")])]),
        Read("n", "ACGT", [30] * 4, place, [Place(2, 100, [(4, "M")])]),
        Read("n", "ACGT", [30] * 4, place, [Place(0, -1, [(4, "M")])]),
        Read("n", "ACGT", [30] * 4, place, [Place(0, 1, [])]),
    ]
    for read in wrong:
        with pytest.raises(InternalError, match="read pair 1, mate 2: further alignments"):
            build([(Read("n", "A", [30], None), read)], genome)
    assert build([(Read("n", "ACGT", [30] * 4, place, [place]),)], genome).n_records == 2


def test_further_alignments_out_of_order_or_without_names_are_our_bug() -> None:
    genome = make_genome(np.random.default_rng(1))
    batch, alignments = placed_batch([split_pair(genome), split_pair(genome)])
    words, offsets, intervals = packed_genome(genome)
    arguments: Any = (batch, alignments, words, offsets, intervals, b"", RecordChunk.allocate(1))
    with pytest.raises(InternalError, match="without names"):
        build_records(*arguments)
    names = ContigNames.of(["one", "two"])
    assert build_records(*arguments, names=names).n_records == 6
    alignments.extra.read[:] = alignments.extra.read[::-1].copy()
    with pytest.raises(InternalError, match="out of order"):
        build_records(*arguments, names=names)


def test_an_empty_read_is_a_record_of_one_n(tmp_path: Path) -> None:
    genome = make_genome(np.random.default_rng(1))
    mate = Read("a", genome[0][1000:1010], [30] * 10, Place(0, 1000, [(10, "M")]))
    records = decode(build([(Read("a", "", [], None), mate)], genome), tmp_path)
    assert (records[0].query_sequence, list(records[0].query_qualities)) == ("N", [2])
    assert (records[0].flag, records[0].reference_start) == (0x1 | 0x4 | 0x40, 1000)
    assert records[1].query_sequence == mate.bases
