# SPDX-License-Identifier: Apache-2.0
"""Malformed files of other projects' test suites, with their good counterparts: refused by name, or read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pysam
import pytest

from megabolt.errors import InputFormatError
from megabolt.formats.bam import BamReader, check_contigs, open_reads, read_records
from megabolt.formats.bed import read_bed
from megabolt.formats.fasta import Contig, read_fasta
from megabolt.formats.fastq import read_pairs
from megabolt.privacy.consent import Permit, authorize


@pytest.fixture(scope="module")
def bad_inputs(shared_data: Path) -> Path:
    return shared_data / "bad_inputs"


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: public test files", audit_log=tmp_path / "audit.jsonl")


def n_pairs(path1: Path, path2: Path, permit: Permit) -> int:
    return sum(batch.n_pairs for batch in read_pairs([path1], [path2], permit))


@pytest.mark.parametrize(
    ("name", "where", "why"),
    [
        ("nucleus/malformed.fastq", "line 7 (record 2)", "begins with '\\+'"),
        ("nucleus/malformed2.fastq", "line 7 (record 2)", "begins with '\\+'"),
        ("htslib/fastq/multiline.fq", "line 3 (record 1)", "over several lines"),
        ("htslib/fastq/interleaved.fq", "line 5 (record 2)", "mate 2"),
        ("htslib/fastq/interleaved_casava.fq", "line 5 (record 2)", "mate 2"),
        ("htslib/fastq/r2.fq", "line 1 (record 1)", "mate 2"),
    ],
)
def test_fastq_refused(bad_inputs: Path, permit: Permit, tmp_path: Path, name: str, where: str, why: str) -> None:
    copy = shutil.copy(bad_inputs / name, tmp_path / "copy.fq")
    with pytest.raises(InputFormatError, match=why) as caught:
        n_pairs(bad_inputs / name, Path(copy), permit)
    assert caught.value.path == str(bad_inputs / name)
    assert caught.value.where == where


@pytest.mark.parametrize("name", ["minimal", "single", "longline", "name2"])
def test_fastq_read(bad_inputs: Path, permit: Permit, tmp_path: Path, name: str) -> None:
    path = bad_inputs / "htslib" / "fastq" / f"{name}.fq"
    copy = shutil.copy(path, tmp_path / "copy.fq")
    with pysam.FastxFile(str(path)) as file:
        expected = [(read.name, read.sequence, read.quality) for read in file]
    found = []
    for batch in read_pairs([path], [Path(copy)], permit):
        text = batch.text[0]
        for a, n, s, q, length in batch.fields[0][:, :5].tolist():
            found.append(tuple(text[i : i + k].tobytes().decode() for i, k in ((a, n), (s, length), (q, length))))
    assert found == expected


def test_fastq_pair_read(bad_inputs: Path, permit: Permit) -> None:
    folder = bad_inputs / "htslib" / "fastq"
    assert n_pairs(folder / "r1.fq", folder / "r2.fq", permit) == 5
    with pytest.raises(InputFormatError, match="mate"):
        n_pairs(folder / "r2.fq", folder / "r1.fq", permit)


def test_fasta(bad_inputs: Path) -> None:
    with pytest.raises(InputFormatError, match="before the first header") as caught:
        read_fasta(bad_inputs / "nucleus" / "malformed.fasta")
    assert caught.value.where == "line 1"
    plain, spaced = (read_fasta(bad_inputs / "nucleus" / f"unindexed{x}.fasta") for x in ("", "_emptylines"))
    assert plain.contigs == spaced.contigs
    assert [contig.name for contig in plain.contigs] == ["chrM", "chr1", "chr2"]
    with pytest.raises(InputFormatError, match="again"):
        read_fasta(bad_inputs / "htslib" / "fastq" / "interleaved_casava.fa")


@pytest.mark.parametrize(("name", "where"), [("malformed", "line 4"), ("malformed2", "line 5")])
def test_bed(bad_inputs: Path, name: str, where: str) -> None:
    with pytest.raises(InputFormatError, match="columns") as caught:
        read_bed(bad_inputs / "nucleus" / f"{name}.bed", [Contig("chr1", 1000, "")])
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("samtools/quickcheck/1.quickcheck.badeof.bam", "truncated"),
        ("samtools/quickcheck/2.quickcheck.badheader.bam", "BGZF"),
        ("samtools/quickcheck/5.quickcheck.scramble30.truncated.cram", "truncated"),
        ("samtools/quickcheck/8.quickcheck.cram21.truncated.cram", "truncated"),
        ("samtools/quickcheck/9.quickcheck.cram30.truncated.cram", "truncated"),
        ("hts-specs/cram/3.0/failed/0000_empty_noeof.cram", "truncated"),
        ("nucleus/malformed.sam", "not a BAM"),
        ("nucleus/headerless.sam", "not a BAM"),
    ],
)
def test_alignments_refused(bad_inputs: Path, permit: Permit, tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "ref.fa").write_text(">17\nACGT\n")
    with pytest.raises(InputFormatError, match=why) as caught:
        open_reads(bad_inputs / name, permit, reference=tmp_path / "ref.fa")
    assert caught.value.path == str(bad_inputs / name)


@pytest.mark.parametrize("name", ["6.quickcheck.cram21.ok", "7.quickcheck.cram30.ok"])
def test_whole_cram_of_another_reference(bad_inputs: Path, permit: Permit, tmp_path: Path, name: str) -> None:
    (tmp_path / "ref.fa").write_text(">17\nACGT\n")
    with pytest.raises(InputFormatError, match="no contig 17") as caught:
        open_reads(bad_inputs / "samtools" / "quickcheck" / f"{name}.cram", permit, reference=tmp_path / "ref.fa")
    assert caught.value.path == str(tmp_path / "ref.fa")


@pytest.mark.parametrize(
    "name",
    [
        "samtools/quickcheck/3.quickcheck.ok.bam",
        "samtools/quickcheck/4.quickcheck.ok.bam",
        "nucleus/unindexed.bam",
        "htslib/no_hdr_sq_1.bam",
    ],
)
def test_bam_read(bad_inputs: Path, permit: Permit, name: str) -> None:
    with pysam.AlignmentFile(str(bad_inputs / name), check_sq=False) as file:
        expected = sum(1 for _ in file.fetch(until_eof=True))
    assert read_records(bad_inputs / name, permit, need_sorted=False).n == expected


def test_bam_without_contigs_fits_no_reference(bad_inputs: Path, permit: Permit) -> None:
    path = bad_inputs / "samtools" / "quickcheck" / "10.quickcheck.notargets.bam"
    with (
        BamReader(path, permit, need_sorted=False) as reader,
        pytest.raises(InputFormatError, match="ends before contig 17"),
    ):
        check_contigs(reader.header, [Contig("17", 1000, "")], path)


def test_real_bams_read_as_htslib_reads_them(shared_data: Path, permit: Permit) -> None:
    path = shared_data / "na12878_chr20_10.0M_platinum52x_hg19" / "NA12878_S1.chr20.10_10p1mb.bam"
    with pysam.AlignmentFile(str(path)) as file, BamReader(path, permit) as reader:
        contig = file.references.index("chr20") if "chr20" in file.references else 0
        for start in range(10_000_000, 10_100_000, 17_000):
            expected = [read.query_name for read in file.fetch(file.references[contig], start, start + 300)]
            block = reader.fetch(contig, start, start + 300)
            found = [
                block.data[p + 36 : p + 35 + int(block.data[p + 12])].tobytes().decode()
                for p in block.offsets[:-1].tolist()
            ]
            assert found == expected


def test_real_fastq_read_as_htslib_reads_it(shared_data: Path, permit: Permit) -> None:
    folder = shared_data / "hg002_chr20_10.0M_nist30x_hg19"
    paths = [folder / f"HG002.chr20_10.0-10.1M_R{mate}.fastq.gz" for mate in (1, 2)]
    with pysam.FastxFile(str(paths[0])) as one, pysam.FastxFile(str(paths[1])) as two:
        expected = zip(one, two)
        for batch in read_pairs([paths[0]], [paths[1]], permit):
            for row in range(batch.n_pairs):
                for mate, read in enumerate(next(expected)):
                    text = batch.text[mate]
                    _, _, sequence, quality, length = batch.fields[mate][row, :5].tolist()
                    assert text[sequence : sequence + length].tobytes().decode() == read.sequence
                    assert text[quality : quality + length].tobytes().decode() == read.quality
            batch.release()
        assert next(expected, None) is None
