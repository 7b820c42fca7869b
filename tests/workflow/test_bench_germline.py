# SPDX-License-Identifier: Apache-2.0
"""The benchmark against peer chains, at toy size, so that it cannot rot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megabolt.cli.main import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    size = ["--genome-size", "40000", "--contigs", "1", "--depth", "25", "--seed", "5"]
    assert main(["simulate", "--outdir", str(folder), *size]) == 0
    return folder


def bench(
    checkout: Path, data: Path, work: Path, *words: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "benchmarks/pipeline/bench_germline.py"), "--work", str(work)]
    command += ["--reference", str(data / "ref.fa"), "-1", str(data / "R1.fastq.gz"), "-2", str(data / "R2.fastq.gz")]
    command += ["--sample", "S", "--threads", "2", "--memory", "2G", "--open-data", "the tests: simulated", *words]
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_missing_programs_are_named(checkout: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("bash", "head", "sed"):
        (tmp_path / "bin" / program).symlink_to(str(shutil.which(program)))
    done = bench(checkout, data, tmp_path / "work", "--truth", str(data / "truth.vcf.gz"), path=str(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr
    assert "skipped bwa-freebayes: bwa, samtools, freebayes, bcftools not on PATH" in done.stdout
    assert "megabolt" in done.stdout


def test_poor_answers_give_no_ratio(checkout: Path, data: Path, tmp_path: Path) -> None:
    truth = ["--truth", str(data / "truth.vcf.gz"), "--floor", "1.01", "--chains"]
    done = bench(checkout, data, tmp_path / "work", *truth)
    assert done.returncode == 1
    assert "no ratio" in done.stderr
    assert "CPU x" not in done.stdout


def test_against_the_peers_there_are(checkout: Path, data: Path, tmp_path: Path) -> None:
    words = ["--truth", str(data / "truth.vcf.gz"), "--regions", str(data / "truth.bed")]
    words += ["--chains", "bwa-freebayes", "bwa-bcftools", "--floor", "0.7", "--json", str(tmp_path / "figures.json")]
    done = bench(checkout, data, tmp_path / "work", *words)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["chains"][-1]["name"] == "megabolt"
    for chain in figures["chains"]:
        assert chain["cpu_seconds"] > 0
        assert chain["peak_bytes"] > 1 << 20
        assert chain["accuracy"]["SNP"]["f1"] >= 0.7
        assert f"{chain['name']} " in done.stdout
    peers = 2 if all(map(shutil.which, ("bwa", "samtools", "freebayes", "bcftools"))) else None
    assert peers is None or len(figures["chains"]) == 1 + peers
