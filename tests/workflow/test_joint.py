# SPDX-License-Identifier: Apache-2.0
"""Joint calling end to end: small simulated cohorts, every way to give them, everything that can be wrong with them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysam
import pytest

from megabolt.cli.main import main
from megabolt.errors import InputFormatError
from megabolt.formats.gvcf import GvcfFile
from megabolt.formats.tabix import TabixIndex
from megabolt.privacy.consent import authorize
from megabolt.workflow.joint_job import run_joint

pytestmark = pytest.mark.timeout(300)

OPEN = "test suite: simulated genotypes"
CHECKOUT = Path(__file__).resolve().parent.parent.parent


def maker() -> Any:
    """The benchmark's maker of cohorts."""
    spec = importlib.util.spec_from_file_location("make_cohort", CHECKOUT / "benchmarks/joint/make_cohort.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_cohort"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples over 80 kb."""
    folder = tmp_path_factory.mktemp("cohort")
    module = maker()
    module.HETEROZYGOSITY = 5e-3  # so many that some lie under a deletion
    module.make_cohort(folder, 6, 80_000, 3)
    return folder


def lines(path: Path) -> list[str]:
    with pysam.BGZFile(str(path)) as file:
        return [line.decode() for line in file if not line.startswith(b"#")]


def joint(cohort: Path, output: Path, *inputs: Path, **more: Any) -> list[str]:
    arguments = {"threads": 1, "memory": 1 << 30, "open_data": OPEN, **more}
    run_joint(inputs=inputs or [cohort], reference=cohort / "ref.fa", output=output, **arguments)
    return lines(output)


def alleles_of(ref: str, alts: list[str], genotype: str) -> tuple[str, ...]:
    """Alleles without what they share on the right, so that other REFs do not matter."""
    found = []
    for number in genotype.split("/"):
        a, b = ref, ([ref, *alts][int(number)] if number != "." else "?")
        while min(len(a), len(b)) > 1 and a[-1] == b[-1]:
            a, b = a[:-1], b[:-1]
        found.append(f"{a}>{b}" if b not in ("*", ref) else ("ref" if b == ref else "*"))
    return tuple(sorted(found))


def test_genotypes_are_those_that_were_simulated(cohort: Path, tmp_path: Path) -> None:
    truth = {}
    for line in (cohort / "truth.tsv").read_text().splitlines():
        pos, ref, alts, *genotypes = line.split("\t")
        truth[int(pos)] = [alleles_of(ref, alts.split(","), one) for one in genotypes]
    n_same = n_other = 0
    for line in joint(cohort, tmp_path / "c.vcf.gz"):
        columns = line.rstrip("\n").split("\t")
        for sample, cell in enumerate(columns[9:]):
            values = cell.split(":")
            called = alleles_of(columns[3], columns[4].split(","), values[0])
            if "*" in called or values[3] == "." or int(values[3]) < 20:
                continue
            same = called == truth[int(columns[1])][sample]
            n_same, n_other = n_same + same, n_other + (not same)
    assert n_same > 800
    assert n_other <= 0.005 * n_same


def test_regions_threads_and_ways_to_name_files_change_nothing(cohort: Path, tmp_path: Path) -> None:
    expected = joint(cohort, tmp_path / "a.vcf.gz", region_bases=1 << 20)
    assert any("*" in line.split("\t")[4] for line in expected)
    listed = tmp_path / "cohort.list"
    shutil.copytree(cohort, tmp_path / "files")
    names = sorted(one.name for one in cohort.glob("*.g.vcf.gz"))
    listed.write_text("# a cohort\n" + "".join(f"files/{name}\t{OPEN}\n" for name in names))
    for k, more in enumerate(({"region_bases": 1 << 14}, {"region_bases": 3 << 14, "threads": 2}, {})):
        assert joint(cohort, tmp_path / f"b{k}.vcf.gz", **more) == expected
    assert joint(cohort, tmp_path / "c.vcf.gz", listed, open_data=None) == expected
    assert joint(cohort, tmp_path / "d.vcf.gz", *(cohort / name for name in names)) == expected


def test_csi_indexes_do_as_well(cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "csi"
    shutil.copytree(cohort, folder)
    for path in folder.glob("*.g.vcf.gz"):
        path.with_name(path.name + ".tbi").unlink()
        pysam.tabix_index(str(path), preset="vcf", csi=True, keep_original=True)
    assert joint(folder, tmp_path / "a.vcf.gz", region_bases=1 << 14) == joint(cohort, tmp_path / "b.vcf.gz")


def test_targets_give_the_same_sites(cohort: Path, tmp_path: Path) -> None:
    everything = joint(cohort, tmp_path / "a.vcf.gz")
    bed = tmp_path / "t.bed"
    bed.write_text("sim1\t20000\t30000\nsim1\t70000\t70500\n")
    found = joint(cohort, tmp_path / "b.vcf.gz", targets=bed, region_bases=1 << 14)

    def inside(line: str) -> bool:
        start, ref = int(line.split("\t")[1]) - 1, line.split("\t")[3]
        return any(start < b and start + len(ref) > a for a, b in ((20000, 30000), (70000, 70500)))

    assert found == [line for line in everything if inside(line)]
    assert found


def test_a_family_is_refined_and_the_original_kept(cohort: Path, tmp_path: Path) -> None:
    ped = tmp_path / "f.ped"
    ped.write_text("#family\nF S0003 S0001 S0002 1 0\nF S0001 0 0 1 0\n")
    output = tmp_path / "f.vcf.gz"
    words = [str(cohort), "-o", str(output), "--reference", str(cohort / "ref.fa"), "--ped", str(ped)]
    assert main(["joint", *words, "--threads", "2", "--open-data", OPEN]) == 0
    refined, plain = lines(output), joint(cohort, tmp_path / "p.vcf.gz")
    assert len(refined) == len(plain)
    marked = 0
    for a, b in zip(refined, plain):
        new, old = (line.rstrip("\n").split("\t") for line in (a, b))
        assert new[8] == "GT:AD:DP:GQ:PL:OGT:OGQ"
        marked += "ConfDeNovo=" in new[7]
        for sample in range(6):
            gt, ad, dp, gq, pl, original, original_gq = new[9 + sample].split(":")
            assert f"{original}:{ad}:{dp}:{original_gq}:{pl}" == old[9 + sample]
            assert sample < 3 or (gt, gq) == (original, original_gq)
    # these three are strangers: what is in S0003 alone looks new
    assert marked > 5
    with pysam.VariantFile(str(output)) as calls:
        assert {"hiConfDeNovo", "loConfDeNovo"} <= set(calls.header.info)
        assert all(record.alts for record in calls)


def test_nothing_is_opened_unless_every_sample_may_be(cohort: Path, tmp_path: Path) -> None:
    listed = tmp_path / "cohort.list"
    listed.write_text(f"{cohort}/S0001.g.vcf.gz\t{OPEN}\n{cohort}/S0002.g.vcf.gz\n")
    words = [str(listed), "-o", str(tmp_path / "a.vcf.gz"), "--reference", str(cohort / "ref.fa")]
    log = tmp_path / "log.jsonl"
    assert main(["joint", *words, "--audit-log", str(log)]) == 77
    assert "open-read" not in log.read_text()
    assert "S0002" in log.read_text()
    assert main(["joint", *words, "--audit-log", str(log), "--open-data", OPEN]) == 0
    assert log.read_text().count("open-read") == 2


def rewritten(source: Path, target: Path, change: Callable[[str], str], index: bool = True) -> None:
    with pysam.BGZFile(str(source)) as file:
        text = b"".join(line + b"\n" for line in file).decode()
    with pysam.BGZFile(str(target), "w") as out:
        out.write(change(text).encode())
    if index:
        pysam.tabix_index(str(target), preset="vcf", keep_original=True, force=True)


FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "same sample": (lambda t: t.replace("S0002", "S0001"), "is also in"),
    "length": (lambda t: t.replace("length=80000", "length=80001"), "80001 bases here"),
    "sequence": (lambda t: t.replace("md5=", "md5=0"), "another sequence"),
    "name": (lambda t: t.replace("sim1", "chr1"), "not in the reference"),
    "no gVCF": (lambda t: t.replace("##ALT=<ID=NON_REF", "##ALT=<ID=DEL"), "not a gVCF"),
    "no block allele": (lambda t: t.replace("\t<NON_REF>\t.\t.\tEND", "\tC\t.\t.\tEND", 1), "no <NON_REF>"),
    "two samples": (lambda t: t.replace("\tS0002\n", "\tS0002\tS9\n"), "2 samples"),
    "a word for a number": (lambda t: t.replace(":0,90,810\n", ":0,x,810\n", 1), "cannot be read"),
    "short PL": (lambda t: t.replace(":0,90,810\n", ":0,90\n", 1), "values in PL"),
    "other REF": (lambda t: t.replace("\tG\tA,<NON_REF>", "\tT\tA,<NON_REF>", 1), "REF is T"),
    "no mapping quality": (lambda t: t.replace("MQ=", "MQ=x", 1), "is no number"),
    "few columns": (lambda t: t.replace("\tGT:DP:GQ:MIN_DP:PL\t", "\t", 1), "fewer than ten columns"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(cohort: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, words = FAULTS[fault]
    bad, output = tmp_path / "bad.g.vcf.gz", tmp_path / "out.vcf.gz"
    rewritten(cohort / "S0002.g.vcf.gz", bad, change)
    code = main(
        ["joint", str(cohort / "S0001.g.vcf.gz"), str(bad), "-o", str(output), "--reference", str(cohort / "ref.fa"),
         "--open-data", OPEN, "--threads", "1"]
    )  # fmt: skip
    message = capsys.readouterr().err
    assert code == 1
    assert words in message
    assert "bad.g.vcf.gz" in message
    assert "Traceback" not in message
    assert list(tmp_path.glob("*out.vcf*")) == []


def test_records_without_likelihoods_are_left_out_and_counted(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mitochondria have them: a mixture of any number of alleles, with shares and without PL."""
    first = cohort / "S0001.g.vcf.gz"
    with pysam.BGZFile(str(first)) as file:
        rows = [line.decode().split("\t") for line in file if not line.startswith(b"#")]
    row = next(one for one in rows if one[4].count(",") == 1)
    old = "\t".join(row)
    new = "\t".join([*row[:8], "GT:AD:AF:DP:GQ", "0/1/1:9,8,0:0.5,0:17:99"])
    mixed = tmp_path / "mixed.g.vcf.gz"
    rewritten(first, mixed, lambda text: text.replace(old, new))
    words = ["joint", str(mixed), str(cohort / "S0002.g.vcf.gz"), "--reference", str(cohort / "ref.fa")]
    assert main([*words, "-o", str(tmp_path / "out.vcf.gz"), "--open-data", OPEN, "--threads", "1"]) == 0
    assert "1 records without PL are left out" in capsys.readouterr().err
    found = [line.split("\t") for line in lines(tmp_path / "out.vcf.gz") if line.split("\t")[1] == row[1]]
    assert all(line[9].startswith("./.") for line in found)


def test_records_out_of_order_are_found(cohort: Path, tmp_path: Path) -> None:
    def swapped(text: str) -> str:
        rows = text.split("\n")
        first = next(k for k, row in enumerate(rows) if not row.startswith("#"))
        rows[first + 50], rows[first + 51] = rows[first + 51], rows[first + 50]
        return "\n".join(rows)

    bad = tmp_path / "bad.g.vcf.gz"
    rewritten(cohort / "S0002.g.vcf.gz", bad, swapped, index=False)
    shutil.copy(cohort / "S0002.g.vcf.gz.tbi", tmp_path / "bad.g.vcf.gz.tbi")
    with pytest.raises(InputFormatError, match="not sorted"):
        joint(cohort, tmp_path / "o.vcf.gz", cohort / "S0001.g.vcf.gz", bad)


def test_missing_index_cut_file_and_plain_gzip(cohort: Path, tmp_path: Path) -> None:
    good = (cohort / "S0002.g.vcf.gz").read_bytes()
    bad = tmp_path / "bad.g.vcf.gz"
    bad.write_bytes(good)
    with pytest.raises(InputFormatError, match=r"index \(\.tbi or \.csi\) is missing"):
        joint(cohort, tmp_path / "o.vcf.gz", bad)
    shutil.copy(cohort / "S0002.g.vcf.gz.tbi", tmp_path / "bad.g.vcf.gz.tbi")
    bad.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputFormatError, match="truncated"):
        joint(cohort, tmp_path / "o.vcf.gz", bad)
    bad.write_bytes(good[: len(good) // 2] + b"\0" * 99 + good[len(good) // 2 + 99 :])
    with pytest.raises(InputFormatError, match="bad"):
        joint(cohort, tmp_path / "o.vcf.gz", bad)
    (tmp_path / "bad.g.vcf.gz.tbi").write_bytes(good)
    bad.write_bytes(good)
    with pytest.raises(InputFormatError, match="not a tabix index"):
        joint(cohort, tmp_path / "o.vcf.gz", bad)
    bad = tmp_path / "bad.g.vcf"
    bad.write_text("##fileformat=VCFv4.2\n")
    with pytest.raises(InputFormatError, match="not compressed"):
        joint(cohort, tmp_path / "o.vcf.gz", bad)
    assert not list(tmp_path.glob("*o.vcf*"))


def test_a_gvcf_of_gatk_is_read(shared_data: Path, tmp_path: Path) -> None:
    name = "na12878_chr20_10.0M_platinum52x_hg19/third_party_calls/GATK.expected.testGVCFMode.gatk4.g.vcf"
    path = tmp_path / "gatk.g.vcf.gz"
    pysam.tabix_compress(str(shared_data / name), str(path))
    pysam.tabix_index(str(path), preset="vcf", keep_original=True)
    file = GvcfFile(path, authorize("NA12878", "test", open_data="test suite: NA12878, open consent"))
    (contig,) = file.contigs_with_records()
    with pysam.VariantFile(str(path)) as records:
        expected = [(one.start, one.ref, one.alts[:-1]) for one in records if one.alts and len(one.alts) > 1]
    file.prepare({contig: [0]})
    region = file.read(contig, 0, 70_000_000)
    assert [(one.start, one.ref, one.alts) for one in region.variants] == expected
    assert len(region.block_start) > 1000
    assert (region.block_stop[:-1] <= region.block_start[1:]).all()
    assert all(one.mapq_reads > 0 for one in region.variants)


def test_the_index_says_where_to_begin(cohort: Path) -> None:
    index = TabixIndex(cohort / "S0001.g.vcf.gz.tbi")
    assert index.names == ["sim1"]
    offsets = index.offsets("sim1", [0, 20_000, 79_999, 90_000_000])
    assert 0 <= offsets[0] < offsets[1] < offsets[2]
    assert offsets[3] == -1
    assert index.offsets("chr2", [0]).tolist() == [-1]
