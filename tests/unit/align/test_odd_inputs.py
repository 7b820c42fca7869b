# SPDX-License-Identifier: Apache-2.0
"""`megabolt align` on references and reads that are out of the ordinary, from files to BAM."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.index import build_index
from megabolt.cli.main import main
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.testing.records import random_reference

Pair = tuple[str, str]
LENGTHS = (35, 50, 76, 150, 250, 301, 500)


class Refused(Exception):
    """The command ended with an error."""


def rc(text: str) -> str:
    return decode(reverse_complement(encode(text)))


def write_fasta(path: Path, contigs: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    build_index(path)
    return path


def write_fastq(path: Path, reads: Sequence[str], quality: str = "F") -> Path:
    path.write_text("".join(f"@read{i}\n{read}\n+\n{quality * len(read)}\n" for i, read in enumerate(reads)))
    return path


def align(reference: Path, reads1: Sequence[str], reads2: Sequence[str] | None = None, *options: str) -> list[Any]:
    """Records of the reads, aligned by the command, in the order of the file."""
    folder = reference.parent
    one = write_fastq(folder / "R1.fq", reads1)
    if reads2 is None:
        inputs = ["--single", str(one)]
    else:
        inputs = ["-1", str(one), "-2", str(write_fastq(folder / "R2.fq", reads2))]
    bam = folder / "out.bam"
    words = ["--reference", str(reference), *inputs, "--sample", "S", "-o", str(bam), "--threads", "1"]
    if main(["align", *words, "--memory", "2G", "--open-data", "T. Tester: made up", *options]) != 0:
        raise Refused
    with pysam.AlignmentFile(str(bam)) as file:
        records = list(file)
        sizes = dict(zip(file.references, file.lengths))
    expected = {f"read{i}": (read,) for i, read in enumerate(reads1)}
    if reads2 is not None:
        expected = {f"read{i}": pair for i, pair in enumerate(zip(reads1, reads2))}
    with pysam.FastaFile(str(reference)) as fasta:
        contigs = {name: fasta.fetch(name) for name in sizes}
    check(records, contigs, expected)
    return records


def check(records: list[Any], contigs: dict[str, str], expected: dict[str, tuple[str, ...]]) -> None:
    """Every read once, as it was sequenced; every record fits its contig, its tags and its mate."""
    primary = [read for read in records if not read.is_secondary and not read.is_supplementary]
    by_mate = {(read.query_name, int(read.is_read2)): read for read in primary}
    assert len(by_mate) == len(primary) == sum(len(mates) for mates in expected.values())
    places = [(read.reference_id % (1 << 31), read.reference_start) for read in records]
    assert places == sorted(places)
    for (name, mate), read in by_mate.items():
        assert read.get_forward_sequence() == expected[name][mate]
        assert read.is_paired == (len(expected[name]) == 2)
        if read.is_paired:
            other = by_mate[name, 1 - mate]
            assert read.mate_is_unmapped == other.is_unmapped
            assert read.mate_is_reverse == other.is_reverse
            assert (read.next_reference_id, read.next_reference_start) == (other.reference_id, other.reference_start)
            assert read.template_length == -other.template_length
    for read in records:
        if read.is_unmapped:
            assert read.cigartuples is None
            assert read.mapping_quality == 0
            continue
        contig = contigs[read.reference_name].upper()
        assert 0 <= read.reference_start < read.reference_end <= len(contig)
        assert re.fullmatch(r"(\d+[SH])?\d+M(\d+[MID]\d+M)*(\d+[SH])?", read.cigarstring), read.cigarstring
        assert read.query_length == len(read.query_sequence) == len(read.query_qualities)
        edits = sum(length for operation, length in read.cigartuples if operation in (1, 2))
        for at, place in read.get_aligned_pairs(matches_only=True):
            base = contig[place]
            edits += read.query_sequence[at] != base or base not in "ACGT"
        assert read.get_tag("NM") == edits


def primaries(records: list[Any]) -> dict[tuple[str, int], Any]:
    return {
        (read.query_name, int(read.is_read2)): read
        for read in records
        if not read.is_secondary and not read.is_supplementary
    }


def noisy(text: str, rng: np.random.Generator, rate: float = 0.01) -> str:
    letters = np.array(list(text))
    wrong = rng.random(len(letters)) < rate
    letters[wrong] = rng.choice(list("ACGT"), int(wrong.sum()))
    return "".join(letters)


def pair_at(genome: str, start: int, insert: int, lengths: tuple[int, int], rng: np.random.Generator) -> Pair:
    fragment = genome[start : start + insert]
    return noisy(fragment[: lengths[0]], rng), noisy(rc(fragment)[: lengths[1]], rng)


@pytest.fixture(scope="module")
def genome() -> str:
    return random_reference(60_000, 21)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, genome: str) -> Path:
    return write_fasta(tmp_path_factory.mktemp("plain") / "ref.fa", {"chr1": genome[:45_000], "chr2": genome[45_000:]})


# ------------------------------------------------------------------------------------------- lengths


def placed_right(records: list[Any], starts: list[int], insert: int) -> float:
    found = primaries(records)
    right = 0
    for i, start in enumerate(starts):
        one, two = found[f"read{i}", 0], found[f"read{i}", 1]
        right += (
            one.is_proper_pair and one.reference_start - (one.query_alignment_start if one.cigartuples else 0) == start
        )
        right += two.is_proper_pair and two.reference_end == start + insert
    return right / (2 * len(starts))


@pytest.mark.parametrize("length", LENGTHS)
def test_reads_of_any_length(plain: Path, genome: str, length: int) -> None:
    rng = np.random.default_rng(length)
    starts = rng.integers(0, 44_000, 150).tolist()
    pairs = [pair_at(genome, start, 560, (length, length), rng) for start in starts]
    records = align(plain, [a for a, _ in pairs], [b for _, b in pairs])
    assert placed_right(records, starts, 560) > (0.88 if length < 50 else 0.98)
    sure = [read.mapping_quality >= 30 for read in primaries(records).values()]
    assert np.mean(sure) > (0.9 if length < 50 else 0.99)


@pytest.mark.parametrize("length", LENGTHS)
def test_single_reads_of_any_length(plain: Path, genome: str, length: int) -> None:
    rng = np.random.default_rng(length + 1)
    starts = rng.integers(0, 44_000, 150).tolist()
    reads = [noisy(genome[start : start + length], rng) for start in starts]
    records = align(plain, [rc(read) if i % 2 else read for i, read in enumerate(reads)])
    found = primaries(records)
    right = 0
    for i, start in enumerate(starts):
        read = found[f"read{i}", 0]
        if not read.is_unmapped:
            assert read.is_reverse == bool(i % 2)
            right += read.reference_start - read.query_alignment_start == start
    assert right >= {35: 120, 50: 138}.get(length, 147)


def test_mixed_lengths_in_one_file(plain: Path, genome: str) -> None:
    rng = np.random.default_rng(5)
    starts = rng.integers(0, 44_000, 400).tolist()
    lengths = [tuple(rng.choice(LENGTHS, 2).tolist()) for _ in starts]
    pairs = [pair_at(genome, start, 520, both, rng) for start, both in zip(starts, lengths)]
    records = align(plain, [a for a, _ in pairs], [b for _, b in pairs])
    assert placed_right(records, starts, 520) > 0.97


# ------------------------------------------------------------------------------------------- letters


def test_reads_of_n_only(plain: Path, genome: str) -> None:
    reads1 = ["N" * 150, "N" * 35, genome[1000:1150], "N" * 500]
    reads2 = ["N" * 150, "N" * 500, "N" * 150, rc(genome[2000:2150])]
    found = primaries(align(plain, reads1, reads2))
    assert [found[f"read{i}", mate].is_unmapped for i in range(4) for mate in (0, 1)] == [True] * 4 + [
        False, True, True, False
    ]  # fmt: skip
    assert found["read2", 0].reference_start == 1000
    assert found["read2", 1].reference_start == 1000  # an unmapped read lies with its mate
    assert found["read3", 1].reference_start == 2000


def test_runs_of_n_in_reads(plain: Path, genome: str) -> None:
    starts = list(range(500, 40_500, 1000))
    reads1, reads2 = [], []
    for i, start in enumerate(starts):
        read = genome[start : start + 150]
        first, n = [(0, 40), (110, 40), (55, 40), (20, 5), (0, 100)][i % 5]
        reads1.append(read[:first] + "N" * n + read[first + n :])
        reads2.append(rc(genome[start + 250 : start + 400]))
    found = primaries(align(plain, reads1, reads2))
    for i, start in enumerate(starts):
        read = found[f"read{i}", 0]
        assert read.is_proper_pair
        assert read.reference_start - read.query_alignment_start == start
        assert read.mapping_quality >= 20


def test_poly_g_reads_have_no_place(plain: Path, genome: str) -> None:
    reads1 = ["G" * 150, genome[5000:5150], "G" * 35, "A" * 150]
    reads2 = ["G" * 150, "G" * 150, "G" * 500, "T" * 150]
    found = primaries(align(plain, reads1, reads2))
    assert [read.is_unmapped for read in found.values()].count(False) == 1
    assert found["read1", 0].reference_start == 5000


def test_poly_g_tails_are_not_aligned(plain: Path, genome: str) -> None:
    starts = list(range(300, 40_000, 1000))
    reads1 = [genome[start : start + 100] + "G" * 50 for start in starts]
    reads2 = [rc(genome[start + 250 : start + 400]) for start in starts]
    found = primaries(align(plain, reads1, reads2))
    for i, start in enumerate(starts):
        read = found[f"read{i}", 0]
        assert read.is_proper_pair
        assert read.reference_start == start
        assert 44 <= read.query_length - read.query_alignment_end <= 50


# ------------------------------------------------------------------------------------------- references


def test_lower_case_and_iupac_letters_in_the_reference(tmp_path: Path, genome: str) -> None:
    codes = {
        "R": "AG",
        "Y": "CT",
        "S": "CG",
        "W": "AT",
        "K": "GT",
        "M": "AC",
        "B": "CGT",
        "D": "AGT",
        "H": "ACT",
        "V": "ACG",
    }
    letters = list(genome[:20_000])
    for k, place in enumerate(range(137, 20_000, 211)):
        code = list(codes)[k % 10]
        letters[place] = code if k % 3 else code.lower()
    for place in range(5000, 9000):
        letters[place] = letters[place].lower()
    reference = write_fasta(tmp_path / "ref.fa", {"odd": "".join(letters)})
    starts = list(range(0, 19_000, 130))
    reads1 = [genome[start : start + 150] for start in starts]
    reads2 = [rc(genome[start + 300 : start + 450]) for start in starts]
    found = primaries(align(reference, reads1, reads2))
    for i, start in enumerate(starts):
        for mate, place in ((0, start), (1, start + 300)):
            read = found[f"read{i}", mate]
            assert (read.reference_start, read.cigarstring) == (place, "150M")
            assert read.mapping_quality >= 30


def test_thousands_of_contigs(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    sizes = rng.integers(150, 700, 5000)
    text = random_reference(int(sizes.sum()), 31)
    stops = np.cumsum(sizes)
    contigs = {f"scaffold_{k}": text[stop - size : stop] for k, (size, stop) in enumerate(zip(sizes, stops))}
    reference = write_fasta(tmp_path / "ref.fa", contigs)
    chosen = rng.integers(0, 5000, 600).tolist()
    starts = [int(rng.integers(0, sizes[k] - 149)) for k in chosen]
    inserts = [int(rng.integers(150, min(400, sizes[k] - start) + 1)) for k, start in zip(chosen, starts)]
    names = list(contigs)
    pairs = [
        (contigs[names[k]][start : start + 150], rc(contigs[names[k]][start + insert - 150 : start + insert]))
        for k, start, insert in zip(chosen, starts, inserts)
    ]
    found = primaries(align(reference, [a for a, _ in pairs], [b for _, b in pairs]))
    for i, (k, start, insert) in enumerate(zip(chosen, starts, inserts)):
        one, two = found[f"read{i}", 0], found[f"read{i}", 1]
        assert (one.reference_name, one.reference_start, one.cigarstring) == (names[k], start, "150M")
        assert (two.reference_name, two.reference_start, two.cigarstring) == (names[k], start + insert - 150, "150M")
        assert one.is_proper_pair


def test_reads_that_hang_over_both_ends_of_a_contig(tmp_path: Path) -> None:
    sizes = (30, 40, 60, 80, 100, 120, 140, 149)
    text = random_reference(20_000, 41)
    contigs = {f"c{size}": random_reference(size, 1000 + size) for size in sizes}
    reference = write_fasta(tmp_path / "ref.fa", {"long": text, **contigs})
    reads1, reads2 = [], []
    for k, size in enumerate(sizes):
        around = random_reference(300, 2000 + k)
        left = (150 - size) // 2
        read = around[:left] + contigs[f"c{size}"] + around[left : 150 - size]
        reads1 += [read, read]
        reads2 += [rc(read), rc(text[1000 * k : 1000 * k + 150])]
    found = primaries(align(reference, reads1, reads2))
    for k, size in enumerate(sizes):
        left = (150 - size) // 2
        for name in (f"read{2 * k}", f"read{2 * k + 1}"):
            read = found[name, 0]
            if size <= 40 and read.is_unmapped:
                continue  # as little as the shortest alignment that is reported
            assert read.reference_name == f"c{size}"
            assert read.reference_start <= 2
            assert read.reference_end >= size - 2
            assert abs(read.query_alignment_start - left) <= 2
        assert found[f"read{2 * k + 1}", 1].reference_start == 1000 * k


def test_reads_over_one_end_of_a_contig(tmp_path: Path) -> None:
    contigs = {f"c{k}": random_reference(400, 500 + k) for k in range(20)}
    reference = write_fasta(tmp_path / "ref.fa", contigs)
    reads1, reads2, overs = [], [], []
    for k, contig in enumerate(contigs.values()):
        over = 5 * k + 4
        overs.append(over)
        reads1.append(random_reference(over, 900 + k) + contig[: 150 - over])
        reads2.append(rc(contig[over + 250 :] + random_reference(over, 800 + k)))
    found = primaries(align(reference, reads1, reads2))
    for k, over in enumerate(overs):
        one, two = found[f"read{k}", 0], found[f"read{k}", 1]
        assert one.reference_name == two.reference_name == f"c{k}"
        assert one.reference_start <= 2
        assert two.reference_end >= 398
        assert abs(one.query_alignment_start - over) <= 3
        assert abs(two.query_length - two.query_alignment_end - over) <= 3


def test_one_tiny_contig_is_the_whole_reference(tmp_path: Path) -> None:
    contig = random_reference(30, 77)
    reference = write_fasta(tmp_path / "ref.fa", {"tiny": contig})
    around = random_reference(200, 78)
    reads1 = [contig + around[:5], around[:60] + contig + around[60:120], around[:150]]
    reads2 = [rc(contig + around[:5]), rc(contig + around[:5]), around[50:200]]
    found = primaries(align(reference, reads1, reads2))
    assert found["read2", 0].is_unmapped
    for read in found.values():
        if not read.is_unmapped:
            assert read.reference_end - read.reference_start >= 28


def test_a_reference_of_n_only_places_nothing(tmp_path: Path) -> None:
    reference = write_fasta(tmp_path / "ref.fa", {"n": "N" * 5000})
    read = random_reference(150, 5)
    assert all(one.is_unmapped for one in align(reference, [read, "N" * 150], [rc(read), "N" * 150]))


# ------------------------------------------------------------------------------------------- few reads


def test_an_empty_file_is_refused(plain: Path, genome: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused):
        align(plain, [], [])
    assert "R1.fq: the file is empty" in capsys.readouterr().err
    with pytest.raises(Refused):
        align(plain, [genome[:150]], [])
    assert "R2.fq: the file is empty" in capsys.readouterr().err


def test_one_pair(plain: Path, genome: str) -> None:
    one, two = align(plain, [genome[3000:3150]], [rc(genome[3300:3450])])
    assert (one.reference_start, two.reference_start) == (3000, 3300)
    assert one.is_proper_pair
    assert one.template_length == 450


def test_one_read(plain: Path, genome: str) -> None:
    (one,) = align(plain, [rc(genome[3000:3035])])
    assert (one.reference_start, one.is_reverse) == (3000, True)


def test_fragments_shorter_than_their_reads(plain: Path, genome: str) -> None:
    adapters = "AGATCGGAAGAGCACACGTCTGAACTCCAGTCAC" * 5, "AGATCGGAAGAGCGTCGTGTAGGGAAAGAGTGTAG" * 5
    inserts = [30 + 3 * i for i in range(40)]
    starts = [1000 * i + 17 for i in range(40)]
    reads1, reads2 = [], []
    for start, insert in zip(starts, inserts):
        fragment = genome[start : start + insert]
        reads1.append((fragment + adapters[0])[:150])
        reads2.append((rc(fragment) + adapters[1])[:150])
    found = primaries(align(plain, reads1, reads2))
    outcome: Counter[str] = Counter()
    for i, (start, insert) in enumerate(zip(starts, inserts)):
        for mate in (0, 1):
            read = found[f"read{i}", mate]
            if read.is_unmapped:
                outcome["unmapped"] += 1
                continue
            exact = (read.reference_start, read.reference_end) == (start, start + insert)
            outcome["exact" if exact else "near"] += 1
            assert abs(read.reference_start - start) <= 4
            assert abs(read.reference_end - start - insert) <= 4
    assert outcome["unmapped"] <= 4
    assert outcome["exact"] >= 76
