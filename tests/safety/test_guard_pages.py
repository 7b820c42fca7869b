# SPDX-License-Identifier: Apache-2.0
"""Kernels with raw vector loads and stores, run between guard pages: a stray access kills the process.

The other half of this check is `make test-bounds`, which compiles the bounds into the kernels.
"""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.align.index import build_index
from megabolt.cli.main import main
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.testing.records import random_reference

PROGRAM = Path(__file__).with_name("guarded.py")
SIDES = ("end", "start")
LENGTHS = (35, 36, 50, 63, 64, 65, 76, 100, 150, 250, 301, 500)
OPEN = ("--open-data", "T. Tester: made up", "--threads", "2", "--memory", "2G")


def guarded(side: str, case: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_BOUNDSCHECK"}
    return subprocess.run(
        [sys.executable, str(PROGRAM), side, case, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PYTHONMALLOC": "debug"},
    )


def survives(side: str, case: str, *arguments: str) -> None:
    done = guarded(side, case, *arguments)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("side", SIDES)
def test_a_stray_store_is_met(side: str) -> None:
    done = guarded(side, "stray")
    assert done.stdout == "inside\n"
    assert done.returncode == -signal.SIGSEGV


def test_a_stray_store_into_an_array_of_a_kernel_is_met() -> None:
    done = guarded("end", "stray_inside")
    assert done.stdout == "inside\n"
    assert done.returncode == -signal.SIGABRT


@pytest.mark.parametrize("side", SIDES)
def test_algorithms_with_vector_code(side: str) -> None:
    survives(side, "kernels")


def rc(text: str) -> str:
    return decode(reverse_complement(encode(text)))


def fastq(path: Path, reads: Sequence[str], rng: np.random.Generator, ending: str = "\n") -> None:
    """Reads of any quality; the file ends with the last quality if `ending` is empty."""
    records = []
    for i, read in enumerate(reads):
        quality = "".join(chr(33 + int(q)) for q in rng.choice([2, 12, 25, 37], len(read)))
        records.append(f"@read{i}{'x' * (i % 70)}\n{read}\n+\n{quality}")
    text = ("\n".join(records) + ending).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def alignments(path: Path) -> list[str]:
    with pysam.AlignmentFile(str(path)) as records:
        return [record.to_string() for record in records]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ref.fa (one contig is tiny, reads hang over the ends of all), R1.fq.gz, R2.fq.gz, S.fq."""
    rng = np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("guarded")
    one, two = random_reference(9_000, 1), random_reference(1_001, 2)
    repeated = one[:3000] + one[500:2500] + two[:300] + "N" * 50 + one[3000:]
    contigs = {"one": repeated, "two": two, "tiny": random_reference(40, 3)}
    (folder / "ref.fa").write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    build_index(folder / "ref.fa")
    reads1, reads2 = [], []
    for i in range(700):
        contig = random_reference(90, 10 + i) + (repeated, two, contigs["tiny"])[i % 7 // 3] + random_reference(90, 9)
        insert = int(rng.integers(30, 700))
        start = int(rng.integers(0, max(1, len(contig) - insert)))
        fragment = list(contig[start : start + insert])
        for _ in range(i % 12):
            fragment[int(rng.integers(0, len(fragment)))] = str(rng.choice(list("ACGTN")))
        if i % 5 == 0:
            del fragment[len(fragment) // 3 : len(fragment) // 3 + i % 60]
        whole = "".join(fragment)
        lengths = rng.choice(LENGTHS, 2).tolist()
        reads1.append((whole + "AGATCGGAAGAGC" + "G" * 500)[: lengths[0]])
        reads2.append((rc(whole) + "AGATCGGAAGAGC" + "G" * 500)[: lengths[1]])
    fastq(folder / "R1.fq.gz", reads1, rng)
    fastq(folder / "R2.fq.gz", reads2, rng)
    fastq(folder / "S.fq", reads1, rng, ending="")
    return folder


@pytest.mark.parametrize("side", SIDES)
def test_alignment_from_files_to_bam(sample: Path, side: str) -> None:
    for kind, inputs in (("pairs", ["-1", "R1.fq.gz", "-2", "R2.fq.gz"]), ("single", ["--single", "S.fq"])):
        words = [word if word.startswith("-") else str(sample / word) for word in inputs]
        words = ["align", "--reference", str(sample / "ref.fa"), *words, "--sample", "S", *OPEN]
        expected = sample / f"{kind}.bam"
        if not expected.exists():
            assert main([*words, "-o", str(expected)]) == 0
        survives(side, "command", *words, "-o", str(sample / f"{kind}.{side}.bam"))
        found = alignments(sample / f"{kind}.{side}.bam")
        assert len(found) >= 700
        assert found == alignments(expected)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the simulated genome and reads of a person."""
    folder = tmp_path_factory.mktemp("person") / "sim"
    words = ["--outdir", str(folder), "--genome-size", "12000", "--contigs", "2", "--depth", "20", "--seed", "3"]
    assert main(["simulate", *words]) == 0
    build_index(folder / "ref.fa")
    return folder


@pytest.mark.parametrize("side", SIDES)
def test_whole_path_from_files_to_calls(person: Path, side: str) -> None:
    def words(out: Path) -> list[str]:
        reads = ["-1", str(person / "R1.fastq.gz"), "-2", str(person / "R2.fastq.gz")]
        return ["germline", "--reference", str(person / "ref.fa"), *reads, "--sample", "P", *OPEN, "--outdir", str(out)]

    if not (person / "plain").exists():
        assert main(words(person / "plain")) == 0
    survives(side, "command", *words(person / side))
    calls = []
    for folder in (person / "plain", person / side):
        (path,) = folder.rglob("*.vcf.gz")
        with gzip.open(path, "rt") as lines:
            calls.append([line for line in lines if not line.startswith("##")])
    assert len(calls[0]) > 5
    assert calls[0] == calls[1]


@pytest.mark.parametrize("side", SIDES)
def test_index_and_simulation(person: Path, side: str, tmp_path: Path) -> None:
    reference = tmp_path / "ref.fa"
    reference.write_bytes((person / "ref.fa").read_bytes().rstrip(b"\n"))
    survives(side, "command", "index", str(reference))
    build_index(person / "ref.fa")
    with pysam.FastaFile(str(reference)) as fasta:
        assert len(fasta.references) == 2
    folder = tmp_path / "sim"
    words = ["simulate", "--outdir", str(folder), "--genome-size", "12000", "--contigs", "2", "--depth", "2"]
    survives(side, "command", *words, "--seed", "3")
    assert (folder / "ref.fa").read_bytes() == (person / "ref.fa").read_bytes()
