# SPDX-License-Identifier: Apache-2.0
"""The aligners' speed benchmark at toy size, so that it cannot rot; and that it sees what is wrong with a BAM."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pysam
import pytest

from megabolt.cli.main import main

#: The first of these tests may have to compile all kernels.
pytestmark = pytest.mark.timeout(1800)

HEADER = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "c1", "LN": 10_000}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench_align")
    size = ["--genome-size", "40000", "--contigs", "1", "--pairs", "2000", "--duplicates", "0.1", "--seed", "6"]
    assert main(["simulate", "--outdir", str(folder), *size]) == 0
    return folder


@pytest.fixture(scope="module")
def script(checkout: Path) -> dict[str, Any]:
    folder = checkout / "benchmarks" / "pipeline"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return runpy.run_path(str(folder / "bench_align.py"))


def bench(
    checkout: Path, data: Path, work: Path, *words: str, path: str = "", mates: int = 2
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "benchmarks/pipeline/bench_align.py"), "--work", str(work)]
    command += ["--reference", str(data / "ref.fa"), "-1", str(data / "R1.fastq.gz")]
    command += ["-2", str(data / "R2.fastq.gz")] if mates == 2 else []
    command += ["--memory", "2G", "--open-data", "the tests: simulated", *words]
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def folder_of_programs(folder: Path, **own: str) -> str:
    """A PATH that has what the benchmark itself needs, and programs of the test's own (name -> shell text)."""
    folder.mkdir()
    for program in ("bash", "head", "sed", "sleep", "touch"):
        (folder / program).symlink_to(str(shutil.which(program)))
    for name, text in own.items():
        (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def record(name: str, flag: int, start: int, cigar: str = "20M") -> pysam.AlignedSegment:
    one = pysam.AlignedSegment(pysam.AlignmentHeader.from_dict(HEADER))
    one.query_name, one.flag, one.reference_id, one.reference_start, one.cigarstring = name, flag, 0, start, cigar
    one.query_sequence = "A" * one.infer_query_length()
    return one


def write_bam(path: Path, records: list[pysam.AlignedSegment], index: bool = True) -> Path:
    with pysam.AlignmentFile(str(path), "wb", header=HEADER) as file:
        for one in records:
            file.write(one)
    if index:
        pysam.index(str(path))
    return path


def run_of(script: dict[str, Any], bam: Path) -> Any:
    return script["Run"]("megabolt", 1, script["Cost"](1.0, 1.0, 1), 1, script["read_answer"](bam))


def pairs(*names: str) -> list[pysam.AlignedSegment]:
    """Proper pairs at 100 and 300, sorted."""
    return [record(name, 0x63, 100) for name in names] + [record(name, 0x93, 300) for name in names]


def test_against_the_peers_there_are(checkout: Path, data: Path, tmp_path: Path) -> None:
    words = ["--threads", "1", "--repeats", "2", "--peers", "bwa", "strobealign", "--json", str(tmp_path / "f.json")]
    done = bench(checkout, data, tmp_path / "work", *words)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["templates"] == 2000
    assert figures["runs"][-1]["name"] == "megabolt"
    for run in figures["runs"]:
        assert run["cpu_seconds_per_million"] == pytest.approx(run["cpu_seconds"] * 500)
        assert run["answer"]["primary"] == 4000
        assert run["answer"]["right"] > 3800
        assert run["answer"]["duplicates"] > 100
        assert len(run["rounds"]) == 2
        assert f"\n{run['name']} " in done.stdout
    for peer in ("bwa", "strobealign"):
        here = shutil.which(peer) is not None and shutil.which("samtools") is not None
        assert (f"skipped {peer}" in done.stdout) != here
        assert (peer in {run["name"] for run in figures["runs"]}) == here


def test_reads_without_mates(checkout: Path, data: Path, tmp_path: Path) -> None:
    words = ["--peers", "bwa", "--json", str(tmp_path / "f.json")]
    done = bench(checkout, data, tmp_path / "work", *words, mates=1)
    assert done.returncode == 0, done.stderr
    assert "CPU s/M reads" in done.stdout
    figures = json.loads((tmp_path / "f.json").read_text())
    assert (figures["templates"], figures["reads"]) == (2000, 2000)
    for run in figures["runs"]:
        assert (run["answer"]["primary"], run["answer"]["proper"]) == (2000, 0)
        assert run["answer"]["right"] > 1850


def test_poor_answers_give_no_ratio(checkout: Path, data: Path, tmp_path: Path) -> None:
    done = bench(checkout, data, tmp_path / "work", "--peers", "--floor", "1.01")
    assert done.returncode == 1
    assert "no ratio: megabolt" in done.stderr
    assert "CPU x" not in done.stdout


def test_a_peer_that_fails_is_left_out(checkout: Path, data: Path, tmp_path: Path) -> None:
    minimap2 = '[[ "$1" == -ax ]] && exit 3; [[ "$1" == -x ]] && touch "$4"; exit 0'
    path = folder_of_programs(tmp_path / "bin", minimap2=minimap2, samtools="exit 0")
    done = bench(checkout, data, tmp_path / "work", "--peers", "minimap2", "bwa", path=path)
    assert done.returncode == 0, done.stderr
    assert "skipped bwa: bwa not on PATH" in done.stdout
    assert "left out minimap2" in done.stderr
    assert "exit code 3" in done.stderr
    assert "\nmegabolt " in done.stdout
    assert "\nminimap2 " not in done.stdout


def test_what_a_bam_holds(script: dict[str, Any], tmp_path: Path) -> None:
    records = [
        record("sim0_1_101+_301-_F_c1", 0x63, 100),
        record("sim1_1_101+_301-_F_c1", 0x463, 104, "5S15M"),
        record("sim0_1_101+_301-_F_c1", 0x93, 300),
        record("sim0_1_101+_301-_F_c1", 0x893, 340, "10H10M"),
        record("sim1_1_101+_301-_F_c1", 0x493, 340),
    ]
    answer = script["read_answer"](write_bam(tmp_path / "a.bam", records))
    assert (answer.records, answer.primary, answer.supplementary) == (5, 4, 1)
    assert (answer.mapped, answer.proper, answer.duplicates) == (4, 4, 2)
    assert answer.right == 3
    assert answer.sorted
    assert answer.indexed


def test_names_that_say_nothing_have_no_right_place(script: dict[str, Any], tmp_path: Path) -> None:
    assert script["read_answer"](write_bam(tmp_path / "a.bam", pairs("r1", "r2"))).right is None


def test_faults_are_found(script: dict[str, Any], tmp_path: Path) -> None:
    n_reads, names = script["name_sum"]((name, mate) for name in ("r1", "r2") for mate in (1, 2))

    def said(records: list[pysam.AlignedSegment], index: bool = True) -> list[str]:
        run = run_of(script, write_bam(tmp_path / f"{len(list(tmp_path.iterdir()))}.bam", records, index))
        return [text.partition(": ")[2] for text in script["faults"]([run], n_reads, names, 0.9, 0.02)]

    assert said(pairs("r1", "r2")) == []
    assert said(pairs("r1")) == ["2 primary records of 4 reads", "mapped 0.5000 is below 0.9"]
    assert said(pairs("r1", "r3")) == ["the names are not those of the FASTQ"]
    assert said(pairs("r1", "r1")) == ["the names are not those of the FASTQ"]
    assert said(list(reversed(pairs("r1", "r2"))), index=False) == ["not sorted by coordinate", "no index"]


def test_shares_far_from_the_others_are_found(script: dict[str, Any], tmp_path: Path) -> None:
    n_reads, names = script["name_sum"]((name, mate) for name in ("r1", "r2") for mate in (1, 2))
    runs = [run_of(script, write_bam(tmp_path / f"{i}.bam", pairs("r1", "r2"))) for i in range(3)]
    runs[2].name = "other"
    for one in runs[2:]:
        one.answer = script["Answer"](**{**vars(one.answer), "duplicates": 1, "proper": 2})
    found = script["faults"](runs, n_reads, names, 0.9, 0.02)
    assert found == [
        "other, 1 threads: proper -0.5000 from the median of all aligners",
        "other, 1 threads: duplicates +0.2500 from the median of all aligners",
    ]


def test_fastq_names(script: dict[str, Any], tmp_path: Path) -> None:
    for mate in (1, 2):
        with pysam.BGZFile(str(tmp_path / f"R{mate}.fq.gz"), "w") as file:
            file.write(f"@a/{mate} extra\nA\n+\nI\n@b\tmore\nA\n+\nI\n".encode())
    both = script["reads_of"]([tmp_path / "R1.fq.gz", tmp_path / "R2.fq.gz"])
    assert both == script["name_sum"]((name, mate) for name in "ab" for mate in (1, 2))
    assert script["reads_of"]([tmp_path / "R1.fq.gz"]) == script["name_sum"]((name, 0) for name in "ab")


def test_what_threads_gain_is_taken_within_rounds(script: dict[str, Any], tmp_path: Path) -> None:
    one = run_of(script, write_bam(tmp_path / "a.bam", pairs("r1", "r2")))
    cost = type(one.cost)
    one.costs = [cost(10.0, wall) for wall in (10.0, 20.0, 12.0)]
    two = script["Run"](**{**vars(one), "threads": 2, "costs": [cost(10.0, wall) for wall in (5.0, 11.0, 6.5)]})
    assert script["scaling"]([one, two]) == [
        "megabolt: 2 threads are 1.85 times as fast as 1 (rounds: 2.00, 1.82, 1.85)"
    ]
    assert script["scaling"]([one]) == []
