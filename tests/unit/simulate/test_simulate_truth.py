# SPDX-License-Identifier: Apache-2.0
"""truth.bam: the true alignment of each read, against the sequences themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pysam
import pytest
from numpy.typing import NDArray

from megabolt.cli import main as cli
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.formats.fasta import Contig
from megabolt.privacy.consent import authorize
from megabolt.simulate import reads as reads_module
from megabolt.simulate.haplotypes import PhasedVariant, diploid_source
from megabolt.simulate.reads import QualityProfile, ReadOptions, parse_name
from megabolt.simulate.truth import reads_with_truth

OPEN = "simulated for a test"


def random_bases(size: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 4, size).astype(np.uint8)


class Made:
    """Reads of two contigs with known indels, and their truth."""

    def __init__(self, folder: Path, options: ReadOptions, n_pairs: int, with_variants: bool = True) -> None:
        self.sequences = {"a": random_bases(9000, 1), "b_2": random_bases(4000, 2)}
        contigs = list(self.sequences.items())
        base = decode(contigs[0][1][3000:3001])
        deleted = decode(contigs[0][1][5000:5031])
        changed = "ACGT"[(int(contigs[1][1][2000]) + 1) % 4]
        variants = [
            PhasedVariant(0, 3000, base, (base + "ACGTTGCA",), (1, 0)),
            PhasedVariant(0, 5000, deleted, (deleted[0],), (1, 1)),
            PhasedVariant(1, 2000, decode(contigs[1][1][2000:2001]), (changed,), (0, 1)),
        ]
        source = diploid_source(contigs, variants if with_variants else [])
        permit = authorize("test", "simulate", open_data=OPEN)
        path = folder / "truth.bam"
        named = [Contig(name, len(codes), "") for name, codes in contigs]
        text = [b"", b""]
        for batch in reads_with_truth(source, n_pairs, 5, options, named, path, permit, pairs_per_batch=300):
            text = [so_far + bytes(more) for so_far, more in zip(text, batch)]
        self.bases = [mate.decode().splitlines()[1::4] for mate in text]
        self.names = [name[1:] for name in text[0].decode().splitlines()[0::4]]
        with pysam.AlignmentFile(str(path), check_sq=False) as file:
            self.records = list(file)

    def oriented(self, record: pysam.AlignedSegment, i: int) -> NDArray[np.uint8]:
        codes = encode(self.bases[i % 2][i // 2])
        return reverse_complement(codes) if record.is_reverse else codes


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> ReadOptions:
    monkeypatch.setitem(reads_module.PROFILES, "perfect", QualityProfile((93,), (1.0,), (1.0,)))
    return ReadOptions(length=60, insert_mean=200, insert_sd=30, insertion_error=0, deletion_error=0, profile="perfect")


def test_one_record_a_read_in_order(tmp_path: Path, exact: ReadOptions) -> None:
    made = Made(tmp_path, exact, 1000, with_variants=False)
    assert len(made.records) == 2000
    for i, record in enumerate(made.records):
        origin = parse_name(record.query_name)
        assert record.query_name == made.names[i // 2]
        assert record.is_read1 == (i % 2 == 0)
        assert record.is_paired
        assert record.is_proper_pair
        assert record.reference_name == origin.contig
        assert record.reference_start == origin.start[i % 2]
        assert record.is_reverse == origin.reverse[i % 2] != record.mate_is_reverse
        assert record.cigarstring == "60M"
        assert record.next_reference_start == origin.start[1 - i % 2]
    first, second = made.records[:2]
    assert first.template_length == -second.template_length
    ends = [first.reference_start, second.reference_start]
    assert abs(first.template_length) == max(ends) + 60 - min(ends)


def test_aligned_bases_are_the_reference_but_for_the_variants(tmp_path: Path, exact: ReadOptions) -> None:
    made = Made(tmp_path, exact, 4000)
    seen = {"I": 0, "D": 0, "SNP": 0}
    for i, record in enumerate(made.records):
        if record.is_unmapped:
            continue
        codes = made.oriented(record, i)
        assert sum(n for op, n in record.cigartuples if op != 2) == 60
        for query, place in record.get_aligned_pairs(matches_only=True):
            if codes[query] != made.sequences[record.reference_name][place]:
                assert (record.reference_name, place) == ("b_2", 2000)
                seen["SNP"] += 1
        seen["I"] += "8I" in record.cigarstring
        seen["D"] += "30D" in record.cigarstring
        if record.reference_name == "a" and record.reference_start < 4990 and record.reference_end > 5040:
            assert "30D" in record.cigarstring
    assert min(seen.values()) > 5


def test_a_read_that_begins_in_an_insertion_is_clipped(tmp_path: Path, exact: ReadOptions) -> None:
    made = Made(tmp_path, exact, 12_000)
    clipped = [r for r in made.records if not r.is_unmapped and r.cigartuples[0][0] == 4]
    assert len(clipped) > 2
    assert {r.reference_start for r in clipped} == {3001}
    assert all(r.cigartuples[0][1] <= 8 for r in clipped)


def test_adapter_is_clipped(tmp_path: Path, exact: ReadOptions) -> None:
    options = ReadOptions(
        length=60, insert_mean=45, insert_sd=0, insertion_error=0, deletion_error=0, profile="perfect"
    )
    for record in Made(tmp_path, options, 20, with_variants=False).records:
        assert record.cigarstring == ("15S45M" if record.is_reverse else "45M15S")


def test_indel_errors_are_in_the_truth(tmp_path: Path, exact: ReadOptions) -> None:
    options = ReadOptions(
        length=60, insert_mean=200, insert_sd=30, insertion_error=0.01, deletion_error=0.01, profile="perfect"
    )
    made = Made(tmp_path, options, 500, with_variants=False)
    wrong = 0
    for i, record in enumerate(made.records):
        codes = made.oriented(record, i)
        for query, place in record.get_aligned_pairs(matches_only=True):
            wrong += codes[query] != made.sequences[record.reference_name][place]
    assert wrong == 0
    text = "".join(record.cigarstring for record in made.records)
    assert text.count("I") > 300
    assert text.count("D") > 300


def test_command_writes_the_same_reads_with_truth(tmp_path: Path) -> None:
    arguments = ["simulate", "--genome-size", "50000", "--pairs", "50", "--seed", "2"]
    assert cli.main([*arguments, "--outdir", str(tmp_path / "plain")]) == 0
    assert cli.main([*arguments, "--outdir", str(tmp_path / "truth"), "--truth-bam"]) == 0
    for name in ("R1.fastq.gz", "R2.fastq.gz"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "truth" / name).read_bytes()
    assert not (tmp_path / "plain" / "truth.bam").exists()
    with pysam.AlignmentFile(str(tmp_path / "truth" / "truth.bam")) as file:
        assert sum(1 for _ in file.fetch(until_eof=True)) == 100


def test_haplotypes_have_no_reference_to_align_to(tmp_path: Path) -> None:
    (tmp_path / "h.fa").write_text(">a\n" + decode(random_bases(2000, 3)) + "\n")
    haplotype = str(tmp_path / "h.fa")
    arguments = ["simulate", "--outdir", str(tmp_path / "out"), "--haplotypes", haplotype, haplotype, "--truth-bam"]
    assert cli.main([*arguments, "--open-data", OPEN]) == 2
