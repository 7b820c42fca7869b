# SPDX-License-Identifier: Apache-2.0
"""A person one of whose haplotypes carries the bases of another copy: its variants are called, and where they are."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.align.engine import PairAligner
from megabolt.align.index import build_index, open_index
from megabolt.formats.bam import open_reads
from megabolt.formats.bases import decode, reverse_complement
from megabolt.formats.lane import FastqLane
from megabolt.paralogs.settle import find_moves
from megabolt.paralogs.templates import usable_records
from megabolt.privacy.consent import GERMLINE_CALLING, authorize
from megabolt.testing.records import FIRST, PAIRED, REVERSE, SECOND, HandRead, make_block
from megabolt.testing.toy_sample import MEMORY, OPEN
from megabolt.workflow import sample_job
from megabolt.workflow.explain_job import SiteQuestion, run_explain
from megabolt.workflow.explain_text import text_of
from megabolt.workflow.germline import run_call, run_germline
from megabolt.workflow.read_groups import read_groups
from megabolt.workflow.read_input import FastqInput

Codes = NDArray[np.uint8]
LENGTH, A, B, SIZE = 60_000, 15_000, 40_000, 3_000
#: The converted stretch, within the copies, and the bases of its own that it keeps.
CONVERTED, KEPT = (1_000, 1_900), (1_333, 1_617)


@dataclass
class Sample:
    """A person with a converted copy.

    snps: 0-based places in the contig where one haplotype differs from the reference.
    """

    reference: Path
    reads: FastqInput
    snps: set[int]
    turned: bool


def place_in_b(within: int, turned: bool) -> int:
    return B + (SIZE - 1 - within if turned else within)


def make_sample(folder: Path, turned: bool, converted: bool = True) -> Sample:
    """Copy B differs from A in one base of 60; of one haplotype it has a stretch of A's, but for a few bases."""
    rng = np.random.default_rng(7)
    genome = rng.integers(0, 4, LENGTH).astype(np.uint8)
    copy = genome[A : A + SIZE].copy()
    copy[30::60] ^= 1
    genome[B : B + SIZE] = reverse_complement(copy) if turned else copy
    (folder / "ref.fa").write_text(f">chr1\n{decode(genome)}\n")
    build_index(folder / "ref.fa")
    haplotypes = [genome.copy(), genome.copy()]
    if converted:
        new = copy.copy()
        new[slice(*CONVERTED)] = genome[A : A + SIZE][slice(*CONVERTED)]
        new[list(KEPT)] ^= 2
        haplotypes[1][B : B + SIZE] = reverse_complement(new) if turned else new
    haplotypes[0][A + 2_000] ^= 3
    haplotypes[1][A - 3_000] ^= 3
    haplotypes[1][B + 8_000] ^= 3
    snps = set(np.flatnonzero((haplotypes[0] != genome) | (haplotypes[1] != genome)).tolist())
    lines: tuple[list[str], list[str]] = ([], [])
    for k in range(LENGTH * 30 // 200):
        haplotype = haplotypes[int(rng.integers(2))]
        start = int(rng.integers(0, LENGTH - 480))
        stop = start + int(np.clip(rng.normal(350, 30), 220, 470))
        ends = haplotype[start : start + 100], reverse_complement(haplotype[stop - 100 : stop])
        for mate, read in enumerate(ends if rng.random() < 0.5 else ends[::-1]):
            read = read.copy()
            read[rng.random(100) < 0.0004] ^= 1
            lines[mate].append(f"@t{k}\n{decode(read)}\n+\n{'F' * 100}\n")
    for mate, text in enumerate(lines):
        (folder / f"R{mate + 1}.fastq").write_text("".join(text))
    lane = FastqLane(folder / "R1.fastq", folder / "R2.fastq")
    return Sample(folder / "ref.fa", FastqInput((lane,), tuple(read_groups("s", [], 1)), None), snps, turned)


def germline(sample: Sample, outdir: Path) -> list[str]:
    run_germline(
        reference=sample.reference, reads=sample.reads, sample="s", outdir=outdir, threads=2, memory=MEMORY,
        open_data=OPEN, say=lambda text: None,
    )  # fmt: skip
    return rows_of(outdir / "s.vcf.gz")


def rows_of(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [line for line in file if not line.startswith("#")]


def places(rows: list[str]) -> set[int]:
    return {int(row.split("\t")[1]) - 1 for row in rows}


@pytest.fixture(scope="module", params=[False, True], ids=["same strand", "other strand"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample"), request.param)


@pytest.fixture(scope="module")
def outdir(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results")
    germline(sample, made)
    return made


def test_variants_of_the_converted_copy(sample: Sample, outdir: Path) -> None:
    rows = rows_of(outdir / "s.vcf.gz")
    assert places(rows) == sample.snps
    assert len(sample.snps) > 15
    assert {row.split("\t")[9][:3].replace("|", "/") for row in rows} == {"0/1"}


def test_the_same_from_the_bam(sample: Sample, outdir: Path, tmp_path: Path) -> None:
    run_call(
        reference=sample.reference, bam=outdir / "s.bam", output=tmp_path / "s.vcf.gz", threads=1, memory=MEMORY,
        open_data=OPEN, say=lambda text: None,
    )  # fmt: skip
    assert rows_of(tmp_path / "s.vcf.gz") == rows_of(outdir / "s.vcf.gz")


def test_the_same_in_little_memory(
    sample: Sample, outdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which cuts the bin in parts, one of them between the copies."""
    parts = []
    monkeypatch.setattr(sample_job.SampleJob, "memory_for_reads", lambda job: 5 << 20)
    original = sample_job.BinStore.parts
    monkeypatch.setattr(
        sample_job.BinStore, "parts", lambda store, threads=1: parts.append(original(store, threads)) or parts[-1]
    )
    rows = germline(sample, tmp_path)
    cuts = [part.start for part in parts[0] if part.bin == 0]
    assert any(A + SIZE < cut < B for cut in cuts)
    assert rows == rows_of(outdir / "s.vcf.gz")


def test_explain_says_where_reads_come_from(sample: Sample, outdir: Path) -> None:
    middle = sum(CONVERTED) // 2 // 60 * 60 + 30
    asked = SiteQuestion("chr1", place_in_b(middle, sample.turned))
    found, name = run_explain(
        reference=sample.reference, bam=outdir / "s.bam", question=asked, open_data=OPEN
    )  # fmt: skip
    assert len(found.came_from) > 5
    assert all(A < place < A + SIZE for place in found.came_from)
    assert "were moved here from a copy of the sequence near chr1:1" in text_of(found, name)
    asked = SiteQuestion("chr1", A + middle)
    found, name = run_explain(reference=sample.reference, bam=outdir / "s.bam", question=asked, open_data=OPEN)
    assert len(found.went_to) > 5
    assert "were moved to a copy of the sequence near chr1:4" in text_of(found, name)


def test_moved_records_are_whole(sample: Sample, outdir: Path) -> None:
    """The block stays sorted and complete; moved reads fit the new place as the CIGAR says."""
    index = open_index(sample.reference)
    permit = authorize("s", GERMLINE_CALLING, open_data=OPEN)
    with open_reads(outdir / "s.bam", permit, reference=sample.reference) as reader:
        block = reader.fetch(0, 0, LENGTH)
    moves = find_moves([block].__iter__, 0, 0, LENGTH, index, PairAligner(index))
    after = moves.applied(block)
    assert after.n == block.n
    assert len(moves.records) > 20
    starts = [int(after.data[o + 8 : o + 12].view("<i4")[0]) for o in after.offsets[:-1].tolist()]
    assert starts[: len(starts)] == sorted(starts)
    assert sorted(names(after)) == sorted(names(block))
    away = np.minimum(np.abs(moves.was[:, 0] - moves.now[:, 0]), LENGTH)
    assert (away > 10_000).all()
    genome = index.fetch(0, 0, LENGTH)
    for record, (start, stop) in zip(moves.records, moves.now.tolist()):
        n_name, n_cigar, length = int(record[12]), int(record[16]), int(record[20])
        packed = record[36 + n_name + 4 * n_cigar :][: length // 2]
        codes = np.stack([packed >> 4, packed & 15], axis=1).ravel()
        assert stop - start == length
        wrong = (codes != np.array([1, 2, 4, 8])[genome[start:stop]]).sum()
        assert wrong <= 8  # a difference in 60 bases, and errors
        assert int(record[4:8].view("<i4")[0]) == 0


def names(block) -> list[bytes]:
    return [block.data[o + 36 : o + 36 + int(block.data[o + 12])].tobytes() for o in block.offsets[:-1].tolist()]


def test_doubtful_reads_without_mates(tmp_path: Path) -> None:
    """Before the aligner was ever asked for anything."""
    (tmp_path / "ref.fa").write_text(f">chr1\n{'ACGTTGCA' * 500}\n")
    build_index(tmp_path / "ref.fa")
    index = open_index(tmp_path / "ref.fa")
    read = HandRead(100, "50M", "ACGTTGCA" * 6 + "AC", mapq=3, flag=PAIRED)
    block = make_block([read])
    block.data[24:28] = 0  # the mate's contig is the read's
    assert find_moves([block].__iter__, 0, 0, 4000, index, PairAligner(index)).records == ()


@pytest.mark.parametrize("length", [0, 500, 501, 9_000])
def test_records_without_bases_or_too_long_are_left_alone(length: int) -> None:
    """The aligner takes reads of up to 500 bases; some files hold longer ones, or none."""
    reads = [
        HandRead(start, f"{max(length, 80)}M", "A" * length, name="t", mapq=3, flag=PAIRED | flag)
        for start, flag in ((100, FIRST), (300, SECOND | REVERSE))
    ]
    block = make_block(reads)
    for offset in block.offsets[:-1].tolist():
        block.data[offset + 24 : offset + 28] = 0  # the mate's contig is the read's
    assert len(usable_records(block, 0, 0, 20_000).facts) == (2 if length == 500 else 0)


def test_copies_as_in_the_reference_stay_alone(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, turned=False, converted=False)
    rows = germline(sample, tmp_path / "out")
    assert places(rows) == sample.snps
    index = open_index(sample.reference)
    permit = authorize("s", GERMLINE_CALLING, open_data=OPEN)
    with open_reads(tmp_path / "out/s.bam", permit, reference=sample.reference) as reader:
        block = reader.fetch(0, 0, LENGTH)
    moves = find_moves([block].__iter__, 0, 0, LENGTH, index, PairAligner(index))
    assert moves.records == ()
    assert moves.applied(block) is block
