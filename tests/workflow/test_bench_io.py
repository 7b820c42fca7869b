# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of input and output, at toy size, so that they cannot rot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pysam
import pytest

from megabolt.cli.main import main

CONSENT = "the tests: simulated"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    size = ["--genome-size", "40000", "--contigs", "1", "--depth", "10", "--duplicates", "0.2", "--seed", "5"]
    assert main(["simulate", "--outdir", str(folder), *size]) == 0
    return folder


def bench(checkout: Path, script: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "benchmarks/io" / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def floor_words(data: Path, work: Path) -> list[object]:
    reads = ["-1", data / "R1.fastq.gz", "-2", data / "R2.fastq.gz"]
    return ["--reference", data / "ref.fa", *reads, "--work", work, "--memory", "2G", "--open-data", CONSENT]


def test_floor(checkout: Path, data: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = bench(checkout, "bench_floor.py", *floor_words(data, tmp_path / "work"), "--json", figures)
    assert done.returncode == 0, done.stderr
    assert "x floor" in done.stdout
    found = json.loads(figures.read_text())
    assert found["unpack"][0]["bytes_in"] == sum((data / f"R{k}.fastq.gz").stat().st_size for k in (1, 2))
    assert found["unpack"][0]["bytes_out"] > 4 * found["templates"] * 150
    # the floor packs the same bytes into the same blocks, but for the one that ends with the header
    assert abs(found["pack"][0]["bytes_out"] - found["bam_bytes"]) < 0.05 * found["bam_bytes"]
    assert found["ratio"] > 1


def test_floor_of_a_poor_answer(checkout: Path, data: Path, tmp_path: Path) -> None:
    done = bench(checkout, "bench_floor.py", *floor_words(data, tmp_path / "work"), "--floor", 1.01)
    assert done.returncode == 1
    assert "no ratio" in done.stderr
    assert "x floor" not in done.stdout


@pytest.fixture(scope="module")
def unsorted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unsorted")
    words = ["--reference", str(data / "ref.fa"), "-1", str(data / "R1.fastq.gz"), "-2", str(data / "R2.fastq.gz")]
    assert main(["index", str(data / "ref.fa")]) == 0
    common = ["--sample", "S", "--memory", "2G", "--open-data", CONSENT]
    assert main(["align", *words, "-o", str(folder / "sorted.bam"), *common]) == 0
    pysam.sort("-n", "-o", str(folder / "unsorted.bam"), str(folder / "sorted.bam"))
    return folder / "unsorted.bam"


def test_markdup_beside_the_peers_there_are(checkout: Path, unsorted: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = ["--work", tmp_path / "work", "--threads", 1, "--memory", "2G", "--open-data", CONSENT, "--json", figures]
    done = bench(checkout, "bench_markdup.py", unsorted, *words)
    assert done.returncode == 0, done.stderr
    runs = {run["name"]: run for run in json.loads(figures.read_text())["runs"]}
    assert runs["megabolt"]["duplicates"] > 0
    for name, program in (("samtools", "samtools"), ("picard", "PicardCommandLine")):
        assert (name in runs) == bool(shutil.which(program))


def test_markdup_of_a_poor_answer(checkout: Path, unsorted: Path, tmp_path: Path) -> None:
    words = ["--work", tmp_path / "work", "--threads", 1, "--memory", "2G", "--open-data", CONSENT]
    done = bench(checkout, "bench_markdup.py", unsorted, *words, "--tolerance", -1)
    assert done.returncode == 1
    assert "no ratio" in done.stderr
    assert "CPU x" not in done.stdout
