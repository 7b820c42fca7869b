# SPDX-License-Identifier: Apache-2.0
"""Comparison of files: options, report, list of errors, and the gate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabolt.cli import main as cli
from megabolt.compare.job import CompareOptions, run_compare
from megabolt.compare.variants import VariantClass
from megabolt.errors import ConsentRefused, InputFormatError

SEQUENCE = "ACGTTGCATTCAGGCATACCGATTAGCCATGA" * 2
OPEN = "simulated for a test"
HEADER = (
    "##fileformat=VCFv4.2\n##contig=<ID=c,length=64>\n"
    '##FILTER=<ID=LowQual,Description="x">\n##FORMAT=<ID=GT,Number=1,Type=String,Description="x">\n'
)


def write_vcf(path: Path, rows: list[str], samples: str = "S") -> Path:
    """Rows are "pos ref alt qual filter genotype..."."""
    names = samples.replace(",", "\t")
    text = HEADER + f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{names}\n"
    for row in rows:
        pos, ref, alt, qual, filter, *genotypes = row.split()
        text += "\t".join(["c", pos, ".", ref, alt, qual, filter, ".", "GT", *genotypes]) + "\n"
    path.write_text(text)
    return path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    path = tmp_path / "ref.fa"
    path.write_text(f">c\n{SEQUENCE}\n")
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_vcf(tmp_path / "truth.vcf", ["5 T C 50 PASS 0/1", "20 C CA 50 PASS 1/1", "40 A G 50 PASS 0/1"])


def test_counts_report_and_errors(tmp_path: Path, reference: Path, truth: Path) -> None:
    calls = write_vcf(tmp_path / "calls.vcf", ["5 T C 40 PASS 0/1", "20 C CA 30 PASS 0/1", "50 A T 10 PASS 0/1"])
    json_path, errors_path = tmp_path / "counts.json", tmp_path / "errors.tsv"
    result = run_compare(truth, calls, reference, json_path=json_path, errors_path=errors_path, open_data=OPEN)
    snp, indel = result.counts[VariantClass.SNP], result.counts[VariantClass.INDEL]
    assert (snp.tp_truth, snp.tp_calls, snp.fp, snp.fn) == (1, 1, 1, 1)
    assert (indel.tp_truth, indel.fp, indel.fn, indel.allele_calls) == (0, 1, 1, 1)
    assert (snp.precision, snp.recall, snp.f1) == (0.5, 0.5, 0.5)
    report = json.loads(json_path.read_text())
    assert report["schema_version"] == 1
    assert report["classes"]["SNP"]["f1"] == 0.5
    rows = [line.split("\t") for line in errors_path.read_text().splitlines()[1:]]
    assert [(row[1], row[7], row[8]) for row in rows] == [
        ("20", "FN", "yes"),
        ("20", "FP", "yes"),
        ("40", "FN", "no"),
        ("50", "FP", "no"),
    ]


def test_thresholds_and_samples(tmp_path: Path, reference: Path, truth: Path) -> None:
    rows = ["5 T C 40 PASS 0/0 0/1", "40 A G 5 PASS 0/0 0/1", "50 A T 60 LowQual 0/0 0/1"]
    calls = write_vcf(tmp_path / "calls.vcf", rows, "A,B")

    def snp_counts(options: CompareOptions) -> tuple[int, int, int]:
        counts = run_compare(truth, calls, reference, options, open_data=OPEN).counts[VariantClass.SNP]
        return counts.tp_calls, counts.fp, counts.fn

    assert snp_counts(CompareOptions()) == (0, 0, 2)  # the first sample, A, has no variant
    assert snp_counts(CompareOptions(calls_sample="B")) == (2, 0, 0)
    assert snp_counts(CompareOptions(calls_sample="B", min_qual=20)) == (1, 0, 1)
    assert snp_counts(CompareOptions(calls_sample="B", all_records=True)) == (2, 1, 0)


def test_regions_count_what_lies_inside(tmp_path: Path, reference: Path, truth: Path) -> None:
    bed = tmp_path / "regions.bed"
    bed.write_text("c\t0\t10\n")
    result = run_compare(truth, truth, reference, CompareOptions(regions=bed), open_data=OPEN)
    assert result.counts[VariantClass.SNP].tp_truth == 1
    assert result.counts[VariantClass.INDEL].tp_truth == 0


def test_nothing_is_opened_without_a_declaration(reference: Path, truth: Path) -> None:
    with pytest.raises(ConsentRefused):
        run_compare(truth, truth, reference)


def test_file_that_is_no_vcf(tmp_path: Path, reference: Path, truth: Path) -> None:
    bad = tmp_path / "bad.vcf"
    bad.write_text("this is no VCF\n")
    with pytest.raises(InputFormatError, match=r"bad\.vcf"):
        run_compare(truth, bad, reference, open_data=OPEN)


def test_unknown_sample(reference: Path, truth: Path) -> None:
    with pytest.raises(InputFormatError, match="no sample nobody"):
        run_compare(truth, truth, reference, CompareOptions(truth_sample="nobody"), open_data=OPEN)


def test_command_line(reference: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(truth), str(truth), "--reference", str(reference), "--open-data", OPEN]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "class"
    assert lines[1].split()[:5] == ["SNP", "2", "2", "0", "0"]
    assert cli.main([*arguments[:-2]]) == 77
    assert cli.main([*arguments, "--sample", "a,b,c"]) == 2


def test_counts_of_vcfeval_on_real_calls(shared_data: Path) -> None:
    """GATK 4 with other penalties against GATK 3.8; the counts are those of RTG vcfeval 3.12.1 --ref-overlap."""
    calls = shared_data / "na12878_chr20_10.0M_platinum52x_hg19" / "third_party_calls"
    result = run_compare(
        calls / "GATK.expected.testExposureOfSmithWatermanParameters.HC.gatk4.vcf",
        calls / "GATK.expected.testVCFMode.gatk3.8-4-g7b0250253f.alleleSpecific.vcf",
        shared_data / "hg002_chr20_10.0M_nist30x_hg19" / "ref.20.hg19.Npadded.fa.gz",
        open_data="NA12878, Genome in a Bottle: open consent",
    )
    counts = [(c.tp_truth, c.tp_calls, c.fp, c.fn) for c in result.counts.values()]
    assert counts == [(196, 198, 2, 0), (82, 47, 3, 6)]
