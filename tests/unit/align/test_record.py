# SPDX-License-Identifier: Apache-2.0
"""Packed records against a plain Python record, both seen through pysam."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.alignments import Alignments
from megabolt.align.record import (
    NO_END,
    SIGNATURE_GAP,
    UNPLACED,
    RecordChunk,
    build_records,
)
from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError, InternalError

CONTIGS = [("one", 5000), ("two", 3000)]
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


@dataclass
class Batch:
    """What build_records reads of a PairBatch."""

    n_pairs: int
    text: tuple[Any, Any]
    fields: tuple[Any, Any]
    read_group: int = 0
    first_pair: int = 0
    paired: bool = True


@dataclass
class Place:
    """Where a read is put: CIGAR as (length, letter)."""

    contig: int
    start: int
    cigar: list[tuple[int, str]]
    reverse: bool = False
    mapq: int = 60
    score: int = 100
    second: int = 0


@dataclass
class Read:
    name: str
    bases: str
    qualities: list[int]
    place: Place | None


def make_genome(rng: np.random.Generator) -> list[str]:
    genome = ["".join(rng.choice(list("ACGT"), length)) for _, length in CONTIGS]
    genome[0] = genome[0][:400] + "N" * 40 + genome[0][440:2000] + "N" + genome[0][2001:]
    genome[1] = "N" * 25 + genome[1][25:]
    return genome


def pack(genome: list[str]) -> tuple[Any, Any, Any]:
    text = "".join(genome)
    words = np.zeros(len(text) // 32 + 4, np.uint64)
    for i, letter in enumerate(text):
        words[i // 32] |= np.uint64("ACGT".find(letter) if letter != "N" else 0) << np.uint64(2 * (i % 32))
    unknown = np.array([0] + [letter == "N" for letter in text] + [0], np.int8)
    edges = np.diff(unknown)
    intervals = np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], 1).astype(np.int64)
    offsets = np.array([0, len(genome[0])], np.int64)
    return words, offsets, np.ascontiguousarray(intervals)


def make_batch(pairs: list[tuple[Read, Read]]) -> tuple[Batch, Alignments]:
    texts, tables = [], []
    alignments = Alignments.allocate(len(pairs))
    for m in range(2):
        text, table = b"", []
        for pair in pairs:
            read = pair[m]
            name_start = len(text) + 1
            text += b"@" + read.name.encode() + b"\n"
            sequence_start = len(text)
            text += read.bases.encode() + b"\n+\n"
            quality_start = len(text)
            text += bytes(q + 33 for q in read.qualities) + b"\n"
            table.append((name_start, len(read.name), sequence_start, quality_start, len(read.bases), 0, 0))
        texts.append(np.frombuffer(bytearray(text + bytes(PADDING)), np.uint8))
        tables.append(np.array(table, np.int64))
    for i, pair in enumerate(pairs):
        for m in range(2):
            place, r = pair[m].place, 2 * i + m
            if place is None:
                continue
            alignments.mapped[r] = 1
            alignments.contig[r], alignments.start[r] = place.contig, place.start
            alignments.reverse[r], alignments.mapq[r] = place.reverse, place.mapq
            alignments.score[r], alignments.second_score[r] = place.score, place.second
            alignments.n_cigar[r] = len(place.cigar)
            for k, (length, letter) in enumerate(place.cigar):
                alignments.cigar[r, k] = length << 4 | "MIDNSHP=X".index(letter)
        first, second = pair[0].place, pair[1].place
        alignments.proper[i] = first is not None and second is not None and first.contig == second.contig
    return Batch(len(pairs), (texts[0], texts[1]), (tables[0], tables[1])), alignments


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


def nm_and_md(place: Place, bases: str, genome: list[str]) -> tuple[int, str]:
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
    return edits, f"{md}{run}"


def expected_tlen(first: Place | None, second: Place | None) -> int:
    if first is None or second is None or first.contig != second.contig:
        return 0
    left = min(first.start, second.start)
    right = max(first.start + span(first.cigar), second.start + span(second.cigar))
    return right - left if first.start <= second.start else left - right


def text_of(cigar: list[tuple[int, str]]) -> str:
    return "".join(f"{length}{letter}" for length, letter in cigar)


def check_record(record: Any, pair: tuple[Read, Read], m: int, genome: list[str]) -> None:
    read, mate = pair[m], pair[1 - m]
    place, other = read.place, mate.place
    flag = 0x1 | (0x40, 0x80)[m]
    flag |= 0 if place else 0x4
    flag |= 0 if other else 0x8
    flag |= 0x10 if place and place.reverse else 0
    flag |= 0x20 if other and other.reverse else 0
    flag |= 0x2 if place and other and place.contig == other.contig else 0
    assert record.flag == flag
    assert record.query_name == read.name
    shown = place or other
    shown_mate = other or place
    assert record.reference_id == (shown.contig if shown else -1)
    assert record.reference_start == (shown.start if shown else -1)
    assert record.next_reference_id == (shown_mate.contig if shown_mate else -1)
    assert record.next_reference_start == (shown_mate.start if shown_mate else -1)
    tlen = expected_tlen(pair[0].place, pair[1].place)
    assert record.template_length == (-tlen if m else tlen)
    assert record.mapping_quality == (place.mapq if place else 0)
    assert (record.cigarstring or "") == (text_of(place.cigar) if place else "")
    backwards = place is not None and place.reverse
    bases = read.bases[::-1].translate(COMPLEMENT) if backwards else read.bases
    assert record.query_sequence == bases
    assert list(record.query_qualities) == (read.qualities[::-1] if backwards else read.qualities)
    if shown:
        stop = shown.start + (span(place.cigar) if place else 1)
        assert record.bin == plain_bin(shown.start, stop)
    tags = dict(record.get_tags())
    expected: dict[str, Any] = {"RG": "lane1"}
    if place:
        nm, md = nm_and_md(place, bases, genome)
        expected |= {"NM": nm, "MD": md, "AS": place.score, "XS": place.second}
    if other:
        expected |= {"MC": text_of(other.cigar), "MQ": other.mapq}
    assert tags == expected


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


def random_read(rng: np.random.Generator, name: str, genome: list[str], length: int, mapped: bool) -> Read:
    qualities = [int(q) for q in rng.integers(2, 42, length)]
    if not mapped:
        return Read(name, "".join(rng.choice(list("ACGTN"), length)), qualities, None)
    cigar = random_cigar(rng, length)
    contig = int(rng.integers(2))
    start = int(rng.integers(0, CONTIGS[contig][1] - span(cigar) + 1))
    reverse = bool(rng.integers(2))
    bases, position = "", start
    for count, letter in cigar:
        if letter == "M":
            bases += genome[contig][position : position + count]
            position += count
        elif letter == "D":
            position += count
        else:
            bases += "".join(rng.choice(list("ACGT"), count))
    letters = list(bases)
    for k in np.flatnonzero(rng.random(length) < rng.choice([0, 0.02, 0.9])):
        letters[k] = str(rng.choice(list("ACGTN")))
    bases = "".join(letters)
    bases = bases[::-1].translate(COMPLEMENT) if reverse else bases
    place = Place(contig, start, cigar, reverse, int(rng.integers(61)), int(rng.integers(-300, 70000)), 5)
    return Read(name, bases, qualities, place)


def build(pairs: list[tuple[Read, Read]], genome: list[str], out: RecordChunk | None = None) -> RecordChunk:
    batch, alignments = make_batch(pairs)
    words, offsets, intervals = pack(genome)
    return build_records(batch, alignments, words, offsets, intervals, b"lane1", out or RecordChunk.allocate(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_records_agree_with_the_plain_record(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genome = make_genome(rng)
    pairs = []
    for i in range(300):
        lengths = rng.integers(1, 501, 2) if i % 3 else rng.choice([1, 2, 31, 32, 33, 63, 64, 65, 128, 150, 500], 2)
        name = "r" * int(rng.choice([1, 7, 8, 9, 63, 64, 65, 250])) + str(i)
        mapped = rng.random(2) < 0.85
        pairs.append(tuple(random_read(rng, name, genome, int(n), bool(x)) for n, x in zip(lengths, mapped)))
    chunk = build(pairs, genome)  # type: ignore[arg-type]
    records = decode(chunk, tmp_path)
    assert len(records) == 600
    for i, pair in enumerate(pairs):
        for m in range(2):
            check_record(records[2 * i + m], pair, m, genome)  # type: ignore[arg-type]
    check_keys_and_signatures(chunk, pairs)


def check_keys_and_signatures(chunk: RecordChunk, pairs: list[Any]) -> None:
    for i, pair in enumerate(pairs):
        ends = sorted(plain_end(read.place) for read in pair if read.place)
        ends += [int(NO_END)] * (2 - len(ends))
        assert [int(x) for x in chunk.signature[i]] == ends
        good = sum(min(16383, sum(q for q in read.qualities if q >= 15)) for read in pair if read.place)
        assert chunk.quality_sum[i] == good
        for m in range(2):
            shown = pair[m].place or pair[1 - m].place
            expected = int(UNPLACED)
            if shown:
                expected = shown.contig << 33 | (shown.start + 1) << 1
                expected |= bool(pair[m].place and pair[m].place.reverse)
            assert int(chunk.key[2 * i + m]) == expected


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


def test_a_chunk_can_be_used_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    genome = make_genome(rng)
    large = [tuple(random_read(rng, f"p{i}", genome, 200, True) for _ in range(2)) for i in range(50)]
    chunk = build(large, genome)  # type: ignore[arg-type]
    small = [tuple(random_read(rng, "q", genome, 20, True) for _ in range(2))]
    again = build(small, genome, chunk)  # type: ignore[arg-type]
    assert again is chunk
    assert again.n_records == 2
    assert [r.query_name for r in decode(again, tmp_path)] == ["q", "q"]


def test_a_name_too_long_for_bam_is_refused() -> None:
    genome = make_genome(np.random.default_rng(1))
    read = Read("n" * 255, "ACGT", [30] * 4, None)
    with pytest.raises(InputFormatError, match="read pair 1: the read name is longer than the 254 bytes"):
        build([(read, read)], genome)


def test_a_cigar_that_does_not_fit_is_our_bug() -> None:
    genome = make_genome(np.random.default_rng(1))
    read = Read("n", "ACGT", [30] * 4, Place(0, 100, [(5, "M")]))
    with pytest.raises(InternalError, match="read pair 1, mate 1"):
        build([(read, read)], genome)


def test_an_empty_read_is_a_record_of_one_n(tmp_path: Path) -> None:
    genome = make_genome(np.random.default_rng(1))
    mate = Read("a", genome[0][1000:1010], [30] * 10, Place(0, 1000, [(10, "M")]))
    records = decode(build([(Read("a", "", [], None), mate)], genome), tmp_path)
    assert (records[0].query_sequence, list(records[0].query_qualities)) == ("N", [2])
    assert (records[0].flag, records[0].reference_start) == (0x1 | 0x4 | 0x40, 1000)
    assert records[1].query_sequence == mate.bases
