# SPDX-License-Identifier: Apache-2.0
"""VCF records, files and their index, checked through pysam."""

from __future__ import annotations

from pathlib import Path

import pysam
import pytest

from megabolt.errors import ConsentRefused, InputFormatError, OutputError, UsageError
from megabolt.formats.fasta import Contig
from megabolt.formats.vcf import NON_REF, VcfRecord, header_text, read_vcf, sort_records, write_vcf
from megabolt.privacy.consent import Permit, authorize

CONTIGS = (Contig("chr1", 1000, "0" * 32), Contig("chr2", 500, "f" * 32))
INFO = {"AC": [1], "AF": [0.5], "AN": 2, "DP": 30, "MQ": 59.9, "QD": 10.0, "SOR": 0.7}
CALL = {"GT": "0/1", "AD": [14, 16], "DP": 30, "GQ": 99, "PL": [400, 0, 380]}


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated calls", audit_log=tmp_path / "audit.jsonl")


def record(contig: str = "chr1", start: int = 99, ref: str = "A", alts: tuple[str, ...] = ("G",)) -> VcfRecord:
    return VcfRecord(contig, start, ref, alts, 123.456, "PASS", INFO, CALL)


def test_line() -> None:
    assert record().line() == (
        "chr1\t100\t.\tA\tG\t123.46\tPASS\tAC=1;AF=0.5;AN=2;DP=30;MQ=59.9;QD=10;SOR=0.7\t"
        "GT:AD:DP:GQ:PL\t0/1:14,16:30:99:400,0,380\n"
    )


def test_missing_values() -> None:
    assert VcfRecord("chr1", 0, "A", (), None, ".").line() == "chr1\t1\t.\tA\t.\t.\t.\t.\n"


def test_stop_and_blocks() -> None:
    block = VcfRecord("chr1", 10, "A", (NON_REF,), None, ".", {"END": 50}, {"GT": "0/0"})
    assert (block.stop, block.is_reference_block) == (50, True)
    assert (record(ref="ACG", start=10).stop, record().is_reference_block) == (13, False)


def test_read_back_by_pysam(tmp_path: Path, permit: Permit) -> None:
    path = tmp_path / "calls.vcf.gz"
    records = [
        record(),
        record(start=199, ref="ACC", alts=("A",)),
        VcfRecord("chr2", 4, "C", ("CA", "CAA"), 50.0, "LowQual", {"DP": 9}, {"GT": "1/2", "AD": [0, 4, 5]}),
    ]
    assert write_vcf(path, records, CONTIGS, "sample one", permit, reference_name="ref.fa", source="megabolt 1") == 3
    with pysam.VariantFile(str(path)) as stream:
        assert list(stream.header.samples) == ["sample one"]
        assert stream.header.contigs["chr2"].length == 500
        assert "md5=" + "f" * 32 in str(stream.header)
        rows = list(stream)
        assert [(r.chrom, r.start, r.ref, r.alts) for r in rows] == [
            (r.contig, r.start, r.ref, r.alts) for r in records
        ]
        assert rows[2].samples[0]["GT"] == (1, 2)
        assert list(rows[2].filter) == ["LowQual"]
        assert [r.start for r in stream.fetch("chr2", 0, 10)] == [4]
    assert (tmp_path / "calls.vcf.gz.tbi").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    again = list(read_vcf(path, permit))
    assert [(r.start, r.ref, r.alts, r.genotype["GT"]) for r in again] == [
        (99, "A", ("G",), "0/1"),
        (199, "ACC", ("A",), "0/1"),
        (4, "C", ("CA", "CAA"), "1/2"),
    ]
    assert again[0].genotype["PL"] == (400, 0, 380)
    assert again[0].qual == pytest.approx(123.46)


def test_no_records(tmp_path: Path, permit: Permit) -> None:
    path = tmp_path / "none.vcf.gz"
    assert write_vcf(path, [], CONTIGS, "s", permit) == 0
    assert list(read_vcf(path, permit)) == []


def test_gvcf_header_and_blocks(tmp_path: Path, permit: Permit) -> None:
    block = VcfRecord(
        "chr1", 0, "A", (NON_REF,), None, ".", {"END": 90},
        {"GT": "0/0", "DP": 20, "GQ": 50, "MIN_DP": 20, "PL": (0, 60, 600)},
    )  # fmt: skip
    path = tmp_path / "calls.g.vcf.gz"
    write_vcf(path, [block], CONTIGS, "s", permit, gvcf=True)
    with pysam.VariantFile(str(path)) as stream:
        (row,) = stream
        assert (row.start, row.stop, row.alts) == (0, 90, (NON_REF,))
        assert "NON_REF" in stream.header.alts
    (again,) = read_vcf(path, permit)
    assert again.stop == 90
    assert again.is_reference_block


def test_long_contigs_get_a_csi_index(tmp_path: Path, permit: Permit) -> None:
    path = tmp_path / "long.vcf.gz"
    contigs = (Contig("big", 600_000_000, "0" * 32),)
    write_vcf(path, [record("big", 599_000_000)], contigs, "s", permit)
    assert (tmp_path / "long.vcf.gz.csi").exists()
    with pysam.VariantFile(str(path)) as stream:
        assert len(list(stream.fetch("big", 598_999_999, 599_000_001))) == 1


def test_sort_follows_the_reference() -> None:
    records = [record("chr2", 5), record("chr1", 9, "AC", ("A",)), record("chr1", 9), record("chr1", 3)]
    assert [(r.contig, r.start, r.ref) for r in sort_records(records, CONTIGS)] == [
        ("chr1", 3, "A"),
        ("chr1", 9, "A"),
        ("chr1", 9, "AC"),
        ("chr2", 5, "A"),
    ]


def test_refusals(tmp_path: Path, permit: Permit) -> None:
    with pytest.raises(UsageError):
        write_vcf(tmp_path / "calls.vcf", [], CONTIGS, "s", permit)
    with pytest.raises(UsageError):
        header_text(CONTIGS, "a\tb")
    with pytest.raises(OutputError):
        write_vcf(tmp_path / "missing" / "calls.vcf.gz", [], CONTIGS, "s", permit)
    bad = tmp_path / "bad.vcf"
    bad.write_text("this is no VCF\n")
    with pytest.raises(InputFormatError):
        list(read_vcf(bad, permit))
    with pytest.raises(ConsentRefused):
        authorize("S1", "test", open_data=None, audit_log=tmp_path / "audit.jsonl")


def test_unknown_sample(tmp_path: Path, permit: Permit) -> None:
    path = tmp_path / "calls.vcf.gz"
    write_vcf(path, [record()], CONTIGS, "s", permit)
    with pytest.raises(InputFormatError, match="no sample t"):
        list(read_vcf(path, permit, sample="t"))


def test_each_opening_is_recorded_first(tmp_path: Path, permit: Permit) -> None:
    path = tmp_path / "calls.vcf.gz"
    write_vcf(path, [record()], CONTIGS, "s", permit)
    list(read_vcf(path, permit))
    log = (tmp_path / "audit.jsonl").read_text()
    assert "open-write" in log
    assert "open-read" in log
    assert "calls.vcf.gz" in log
