# SPDX-License-Identifier: Apache-2.0
"""The accuracy benchmark at toy size: known counts, filters, calibration, what is kept and what is run again."""

from __future__ import annotations

import json
import math
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pysam
import pytest

from megabolt.compare.job import Counts
from megabolt.compare.variants import VariantClass

OPEN = "simulated for a test"
SNP, INDEL = VariantClass.SNP, VariantClass.INDEL


@pytest.fixture(scope="module")
def bench(checkout: Path) -> Any:
    """The benchmark's modules."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("pipeline", "accuracy"):
            patch.syspath_prepend(str(checkout / "benchmarks" / folder))
        import accuracy_peers  # type: ignore[import-not-found]
        import accuracy_report  # type: ignore[import-not-found]
        import accuracy_scores  # type: ignore[import-not-found]
        import bench_accuracy  # type: ignore[import-not-found]

        yield SimpleNamespace(peers=accuracy_peers, report=accuracy_report, scores=accuracy_scores, main=bench_accuracy)


def test_toy_run(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(checkout / "benchmarks" / "accuracy" / "bench_accuracy.py"))
    assert script["main"](["--toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[1:]] == [
        ["truth", "SNP"],
        ["truth", "indel"],
        ["spoilt", "SNP"],
        ["spoilt", "indel"],
    ]
    assert [line.split()[-1] for line in lines[1:3]] == ["1.00000", "1.00000"]


@pytest.mark.skipif(shutil.which("bcftools") is None, reason="bcftools is not on PATH")
def test_callers_are_run_once_and_stand_with_their_best_filtering(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.main.toy(tmp_path)
    spoilt = made.calls["spoilt"]
    shutil.copy(made.truth, tmp_path / "bam")  # what the made-up callers "call"
    monkeypatch.setitem(bench.peers.COMMANDS, "megabolt", "cp {bam} {vcf}")
    monkeypatch.setitem(bench.peers.COMMANDS, "bcftools", f"cp {spoilt} {{vcf}}")
    worst = bench.peers.Filtering("nothing left", ("-i", "QUAL>1000"))
    monkeypatch.setitem(bench.peers.FILTERINGS, "bcftools", (worst, bench.peers.Filtering("none")))
    sets = [{"name": "s", "truth": made.truth.name, "reference": made.reference.name, "bam": "bam"}]
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    words = [str(tmp_path / "sets.json"), "--open-data", OPEN, "--callers", "megabolt", "bcftools"]
    words += ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    assert bench.main.main(words) == 0
    found = json.loads((tmp_path / "out.json").read_text())["sets"]["s"]
    assert found["callers"]["megabolt"]["total"] == 0
    assert found["callers"]["megabolt"]["cost"]["cpu_seconds"] > 0
    assert found["callers"]["bcftools"]["filtering"] == "none"
    assert found["callers"]["bcftools"]["total"] > 10
    assert found["errors_of_best_peer"] == {"SNP": 0.0, "indel": 0.0}
    assert "| s | bcftools | none |" in (tmp_path / "out.md").read_text()
    shutil.copy(spoilt, tmp_path / "bam")
    assert bench.main.main(words) == 0  # kept
    assert json.loads((tmp_path / "out.json").read_text())["sets"]["s"]["callers"]["megabolt"]["total"] == 0
    assert bench.main.main([*words, "--again"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["sets"]["s"]["callers"]["megabolt"]["total"] > 10
    assert any("SNP errors are 1.00 of the best peer's, not 0.7" in text for text in found["shortfalls"])


def test_a_failing_caller_leaves_nothing(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.peers.COMMANDS, "freebayes", "echo some > {vcf}; false")
    runner = bench.peers.Runner("gatk", None)
    with pytest.raises(SystemExit, match="a step failed"):
        runner.stored("freebayes", tmp_path / "a.bam", tmp_path / "ref.fa", tmp_path / "work")
    assert not (tmp_path / "work" / "freebayes.vcf.gz").exists()


@pytest.mark.skipif(shutil.which("bcftools") is None, reason="bcftools is not on PATH")
def test_hard_filters_of_gatk(bench: Any, tmp_path: Path) -> None:
    names = ("QD", "SOR", "FS", "MQ", "MQRankSum", "ReadPosRankSum")
    header = ["##fileformat=VCFv4.2", "##contig=<ID=c,length=1000>"]
    header += [f'##INFO=<ID={name},Number=1,Type=Float,Description="x">' for name in names]
    records = [
        (10, "A", "C", 50, "QD=20;SOR=1;FS=0;MQ=60"),  # the rank sums of a homozygous site are missing
        (20, "A", "C", 50, "QD=1;SOR=1;FS=0;MQ=60"),
        (30, "A", "C", 50, "QD=20;SOR=4;FS=0;MQ=60"),
        (40, "A", "AC", 50, "QD=20;SOR=4;FS=100;MQ=30"),  # what is bad for a SNP need not be for an indel
        (50, "A", "AC", 50, "QD=20;FS=201;MQ=60"),
        (60, "A", "C,AC", 50, "QD=20;SOR=4;FS=100;MQ=30"),
        (70, "A", "C", 29, "QD=20;SOR=1;FS=0;MQ=60"),
        (80, "A", "C", 50, "QD=20;SOR=1;FS=0;MQ=60;MQRankSum=-13"),
    ]
    plain = tmp_path / "calls.vcf"
    lines = [*header, "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    lines += [f"c\t{pos}\t.\t{ref}\t{alt}\t{qual}\t.\t{info}" for pos, ref, alt, qual, info in records]
    plain.write_text("\n".join(lines) + "\n")
    none, hard = bench.peers.FILTERINGS["gatk"]
    assert bench.peers.filtered(plain, none, tmp_path) == plain
    with pysam.VariantFile(str(bench.peers.filtered(plain, hard, tmp_path))) as file:
        assert [record.pos for record in file] == [10, 40, 60]


def test_decades_of_genotype_quality(bench: Any) -> None:
    qualities = [(i, 15.0) for i in range(300)] + [(300 + i, 35.0) for i in range(300)] + [(600, 99.0), (601, 120.0)]
    wrong = {0, 1, 300, 301, 600, 9999}
    decades = bench.scores.calibration(qualities, wrong)
    assert [(d.low, d.n, d.wrong) for d in decades] == [(10, 300, 2), (30, 300, 2), (90, 2, 1)]
    assert decades[0].promised == pytest.approx(300 * 10**-1.5)
    assert [d.keeps for d in decades] == [True, False, True]
    assert decades[1].chance == pytest.approx(1 - math.exp(-0.18974) * 1.18974, abs=1e-4)  # 2 * 300 * 10^-3.5 allowed


def test_qualities_are_those_inside_the_regions(bench: Any, tmp_path: Path) -> None:
    header = ["##fileformat=VCFv4.2", "##contig=<ID=c,length=1000>"]
    header += [
        f'##FORMAT=<ID={name},Number=1,Type={kind},Description="x">'
        for name, kind in (("GT", "String"), ("GQ", "Integer"))
    ]
    header += ['##FILTER=<ID=Low,Description="x">', "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts"]
    rows = [
        (10, "A", "PASS", "0/1:20"),
        (20, "AAA", ".", "1/1:30"),
        (30, "A", "Low", "0/1:40"),
        (40, "A", "PASS", "0/0:50"),
    ]
    lines = [f"c\t{pos}\t.\t{ref}\tC\t50\t{name}\t.\tGT:GQ\t{call}" for pos, ref, name, call in rows]
    (tmp_path / "calls.vcf").write_text("\n".join([*header, *lines]) + "\n")
    (tmp_path / "some.bed").write_text("c\t20\t60\n")
    assert list(bench.scores.genotype_qualities(tmp_path / "calls.vcf")) == [(0, 20.0), (1, 30.0)]
    assert list(bench.scores.genotype_qualities(tmp_path / "calls.vcf", tmp_path / "some.bed")) == [(1, 30.0)]


def test_scores(bench: Any) -> None:
    counts = {SNP: Counts(90, 90, 5, 10, 3, 1), INDEL: Counts(9, 10, 0, 1, 0, 0)}
    score = bench.scores.Score("x", counts)
    assert (score.errors(SNP), score.errors()) == (15, 16)
    assert score.concordance(SNP) == pytest.approx(90 / 91)
    assert score.concordance() == pytest.approx(100 / 101)
    better = bench.scores.Score("y", {SNP: Counts(1, 1, 0, 0, 0, 0)})
    assert bench.scores.best([score, better]) is better
    assert better.concordance() == 1.0
