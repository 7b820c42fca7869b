# SPDX-License-Identifier: Apache-2.0
"""`call` on a small genome with X, Y and mitochondria: copies, regions, targets, known alleles, all sites."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.index import build_index
from megabolt.errors import UsageError
from megabolt.formats.fasta import Contig
from megabolt.testing.records import random_reference
from megabolt.workflow.call_request import CallRequest
from megabolt.workflow.copies import padded, read_regions
from megabolt.workflow.germline import run_call

LENGTHS = {"chr1": 60_000, "chrX": 40_000, "chrY": 40_000, "chrM": 3_000}
TEXTS = {name: random_reference(length, k) for k, (name, length) in enumerate(LENGTHS.items())}
STEP = 800  # between variants
PAR = "chrX\t0\t10000\nchrY\t0\t10000\n"
OPEN = "test suite: simulated reads"
CONTIGS = [Contig(name, length, "") for name, length in LENGTHS.items()]


def other(base: str) -> str:
    return "ACGT"[("ACGT".index(base) + 2) % 4]


def changed(name: str, offset: int) -> str:
    """A copy of a contig with a SNP every STEP bases."""
    text = list(TEXTS[name])
    for p in range(offset, len(text) - 200, STEP):
        text[p] = other(text[p])
    return "".join(text)


def copies(sex: str) -> dict[str, list[tuple[str, float]]]:
    """Copies of each contig, with their depth."""
    one, two = changed("chr1", 300), changed("chr1", 700)
    x = [(changed("chrX", 300), 12.0)] * (1 if sex == "male" else 2)
    y = [(changed("chrY", 500), 12.0)] if sex == "male" else []
    heteroplasmic = list(TEXTS["chrM"])
    heteroplasmic[1500] = other(heteroplasmic[1500])
    mito = [(TEXTS["chrM"], 950.0), ("".join(heteroplasmic), 50.0)]
    return {"chr1": [(one, 12.0), (two, 12.0)], "chrX": x, "chrY": y, "chrM": mito}


def write_bam(path: Path, sex: str) -> None:
    header = pysam.AlignmentHeader.from_dict(
        {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": n, "LN": length} for n, length in LENGTHS.items()],
         "RG": [{"ID": "r", "SM": "s", "LB": "l", "PL": "ILLUMINA"}]}
    )  # fmt: skip
    generator = np.random.default_rng(5)
    with pysam.AlignmentFile(str(path), "wb", header=header) as out:
        for k, name in enumerate(LENGTHS):
            reads = []
            for c, (text, depth) in enumerate(copies(sex)[name]):
                for i in range(int(depth * len(text) / 100)):
                    reads.append((int(generator.integers(0, len(text) - 100)), text, f"{name}.{c}.{i}"))
            for start, text, read in sorted(reads):
                record = pysam.AlignedSegment(header)
                record.query_name, record.query_sequence = read, text[start : start + 100]
                record.query_qualities = pysam.qualitystring_to_array("D" * 100)
                record.reference_id, record.reference_start, record.cigarstring = k, start, "100M"
                record.mapping_quality, record.flag = 60, 16 * int(generator.integers(0, 2))
                record.set_tag("RG", "r")
                out.write(record)
    pysam.index(str(path))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies")
    (folder / "ref.fa").write_text("".join(f">{name}\n{text}\n" for name, text in TEXTS.items()))
    build_index(folder / "ref.fa")
    (folder / "par.bed").write_text(PAR)
    for sex in ("male", "female"):
        write_bam(folder / f"{sex}.bam", sex)
    return folder


def call(
    data: Path,
    output: Path,
    sample: str = "male",
    threads: int = 1,
    said: list[str] | None = None,
    targets: Path | None = None,
    **given: Any,
) -> list[str]:
    """Lines of the VCF, without the header."""
    request = CallRequest(par=data / "par.bed", **given)
    run_call(
        reference=data / "ref.fa", bam=data / f"{sample}.bam", output=output, threads=threads, memory=2 << 30,
        targets=targets, request=request, open_data=OPEN, say=(said if said is not None else []).append,
    )  # fmt: skip
    with gzip.open(output, "rt") as file:
        return [line for line in file if not line.startswith("#")]


def genotypes(lines: list[str], contig: str, start: int = 0, stop: int = 10**9) -> set[str]:
    rows = [line.rstrip("\n").split("\t") for line in lines]
    return {row[9].split(":")[0] for row in rows if row[0] == contig and start < int(row[1]) <= stop}


@pytest.mark.parametrize("sex", ["male", "female"])
def test_copies_follow_the_coverage(data: Path, tmp_path: Path, sex: str) -> None:
    said: list[str] = []
    lines = call(data, tmp_path / "c.vcf.gz", sex, said=said)
    assert any(f"sex: {sex} (coverage of X is" in line for line in said)
    assert genotypes(lines, "chr1") == {"0/1"}
    if sex == "male":
        assert genotypes(lines, "chrX", 10_000) == {"1"}
        assert genotypes(lines, "chrX", 0, 10_000) == {"1/1"}
        assert genotypes(lines, "chrY", 10_000) == {"1"}
    else:
        assert genotypes(lines, "chrX") == {"1/1"}
        assert genotypes(lines, "chrY") == set()
    (mito,) = [line.split("\t") for line in lines if line.startswith("chrM")]
    assert (mito[1], mito[6]) == ("1501", "PASS")
    values = dict(zip(mito[8].split(":"), mito[9].split(":")))
    assert values["GT"] == "0/1"
    assert 0.03 < float(values["AF"]) < 0.07
    with gzip.open(tmp_path / "c.vcf.gz", "rt") as file:
        assert any(line.startswith(f"##megaboltNote=sex: {sex}") for line in file)


def test_a_given_sex_is_taken(data: Path, tmp_path: Path) -> None:
    lines = call(data, tmp_path / "c.vcf.gz", "male", sex="female")
    assert genotypes(lines, "chrX") == {"1/1"}
    assert genotypes(lines, "chrY") == set()


def test_records_do_not_depend_on_regions_threads_and_padding(data: Path, tmp_path: Path) -> None:
    whole = call(data, tmp_path / "w.vcf.gz")
    assert len(whole) > 150
    assert call(data, tmp_path / "t.vcf.gz", threads=2) == whole
    for n, names in ((2, tuple(LENGTHS)), (8, ("chr1",))):
        parts = []
        for name in names:
            edges = [LENGTHS[name] * k // n for k in range(n + 1)]
            for k in range(n):
                region = f"{name}:{edges[k] + 1}-{edges[k + 1]}"
                parts += call(data, tmp_path / "p.vcf.gz", regions=(region,), sex="male")
        assert parts == [line for line in whole if line.split("\t")[0] in names]
    assert call(data, tmp_path / "r.vcf.gz", regions=tuple(LENGTHS)) == whole
    bed = tmp_path / "t.bed"
    bed.write_text("chr1\t250\t1200\nchr1\t30000\t40000\nchrX\t9000\t12000\nchrM\t1400\t1600\n")
    inside = call(data, tmp_path / "0.vcf.gz", targets=bed)
    assert inside
    assert set(inside) < set(whole)
    for padding in (50, 100):
        lines = call(data, tmp_path / "q.vcf.gz", targets=bed, padding=padding)
        assert set(inside) <= set(lines) <= set(whole)


def test_all_sites_have_a_record(data: Path, tmp_path: Path) -> None:
    lines = call(data, tmp_path / "a.vcf.gz", regions=("chr1:29001-36000",), all_sites=True)
    rows = [line.rstrip("\n").split("\t") for line in lines]
    assert [int(row[1]) for row in rows] == list(range(29001, 36001))
    variants = [line for line in lines if line.split("\t")[4] != "."]
    assert variants == call(data, tmp_path / "v.vcf.gz", regions=("chr1:29001-36000",))
    assert {row[9].split(":")[0] for row in rows if row[4] == "."} == {"0/0"}


def test_alleles_and_ids(data: Path, tmp_path: Path) -> None:
    text = TEXTS["chr1"]
    head = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    known = tmp_path / "known.vcf"
    rows = [(301, "rs1"), (501, "rs2")]
    known.write_text(head + "".join(f"chr1\t{p}\t{i}\t{text[p - 1]}\t{other(text[p - 1])}\t.\t.\t.\n" for p, i in rows))
    packed = Path(pysam.tabix_index(str(known), preset="vcf", force=True, keep_original=True))
    lines = call(data, tmp_path / "k.vcf.gz", alleles=known, dbsnp=packed, regions=("chr1:1-1000",))
    columns = [line.split("\t") for line in lines]
    found = [(one[1], one[2], one[9][:3]) for one in columns]
    assert found == [("301", "rs1", "0/1"), ("501", "rs2", "0/0"), ("701", ".", "0/1")]


def test_regions_are_read() -> None:
    found = read_regions(["chrX", "chr1:101-200", "chr1:1,000", "chr1:150-300"], CONTIGS)
    assert [one.tolist() for one in found] == [[[100, 300], [999, 60_000]], [[0, 40_000]], [], []]
    for text in ("chrQ", "chr1:0-5", "chr1:9-5", "chr1:5-60001", "chr1:a-b"):
        with pytest.raises(UsageError, match="--region"):
            read_regions([text], CONTIGS)


def test_padding_merges_and_stops_at_the_ends() -> None:
    targets = [np.array([[30, 100], [150, 160], [59_990, 60_000]]), *[np.zeros((0, 2), np.int64)] * 3]
    assert [one.tolist() for one in padded(targets, 50, CONTIGS)] == [[[0, 210], [59_940, 60_000]], [], [], []]
