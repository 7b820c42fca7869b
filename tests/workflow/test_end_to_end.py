# SPDX-License-Identifier: Apache-2.0
"""The whole path with real jobs: demo, run, resume, kills; small, but everything is there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pysam
import pytest

from megabolt.cli.main import main

pytestmark = pytest.mark.timeout(600)

FILES = ("bam", "bam.bai", "vcf.gz", "vcf.gz.tbi", "metrics.json")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished demo."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    words = ["--outdir", str(folder), "--genome-size", "90000", "--depth", "22", "--threads", "2", "--memory", "2G"]
    assert main(["demo", *words]) == 0
    return folder


def records(vcf: Path) -> list[str]:
    """The calls without the header, which has dates and commands."""
    with pysam.VariantFile(str(vcf)) as calls:
        return [str(record) for record in calls]


def alignments(bam: Path) -> list[str]:
    with pysam.AlignmentFile(str(bam)) as reads:
        return [read.to_string() for read in reads]


def whole(folder: Path, sample: str) -> None:
    """Whatever stands under a final name is complete."""
    stem = folder / sample / sample
    if Path(f"{stem}.bam").exists():
        pysam.quickcheck(f"{stem}.bam")  # type: ignore[attr-defined]
    if Path(f"{stem}.vcf.gz").exists():
        assert Path(f"{stem}.vcf.gz").read_bytes().endswith(b"\x03\0\0\0\0\0\0\0\0\0")  # BGZF's end of file
    if Path(f"{stem}.metrics.json").exists():
        json.loads(Path(f"{stem}.metrics.json").read_text())
    if (folder / "report.json").exists():
        json.loads((folder / "report.json").read_text())
        assert (folder / "report.html").read_text().endswith("</html>\n")


def test_demo_reaches_the_accuracy_of_an_easy_genome(demo: Path) -> None:
    (sample,) = json.loads((demo / "results/report.json").read_text())["samples"]
    classes = sample["accuracy"]["classes"]
    assert classes["SNP"]["f1"] >= 0.98
    assert classes["indel"]["f1"] >= 0.85
    page = (demo / "results/report.html").read_text()
    for words in ("read pairs", "Ti/Tv", "SNP F1", "Time per stage", "align"):
        assert words in page


def test_demo_leaves_what_is_promised(demo: Path) -> None:
    stem = demo / "results/DEMO/DEMO"
    for suffix in FILES:
        assert Path(f"{stem}.{suffix}").stat().st_size > 0
    assert not list(demo.rglob(".*.tmp"))
    whole(demo / "results", "DEMO")
    metrics = json.loads(Path(f"{stem}.metrics.json").read_text())
    assert metrics["reads"]["mapped_fraction"] > 0.95
    assert metrics["versions"]["megabolt"]
    assert {stage["name"] for stage in metrics["stages"]} >= {"align", "mark duplicates"}


def test_demo_refuses_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").touch()
    assert main(["demo", "--outdir", str(tmp_path)]) == 2
    assert "not an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def command(demo: Path, outdir: Path) -> list[str]:
    words = ["run", str(demo / "data/samples.tsv"), "--reference", str(demo / "data/ref.fa"), "--assay", "wgs"]
    return [*words, "--outdir", str(outdir), "--threads", "2", "--memory", "2G"]


def test_run_gives_what_germline_gives_for_any_number_of_threads(demo: Path, tmp_path: Path) -> None:
    data = demo / "data"
    words = ["germline", "--reference", str(data / "ref.fa"), "--sample", "DEMO", "--outdir", str(tmp_path)]
    words += ["-1", str(data / "R1.fastq.gz"), "-2", str(data / "R2.fastq.gz"), "--read-group", "ID:DEMO.L1\\tPU:L1"]
    assert main([*words, "--threads", "1", "--memory", "2G", "--open-data", "the tests: simulated"]) == 0
    assert records(tmp_path / "DEMO.vcf.gz") == records(demo / "results/DEMO/DEMO.vcf.gz")
    assert alignments(tmp_path / "DEMO.bam") == alignments(demo / "results/DEMO/DEMO.bam")


def test_killed_at_random_moments_and_run_again(demo: Path, tmp_path: Path) -> None:
    """SIGKILL to the run alone or with all that it has started: nothing truncated, and each rerun completes.

    MEGABOLT_KILLS says how often (20 before a release).
    """
    moments = random.Random(8)
    expected = records(demo / "results/DEMO/DEMO.vcf.gz")
    for i in range(int(os.environ.get("MEGABOLT_KILLS", "3"))):
        out = tmp_path / f"out{i}"
        with subprocess.Popen(
            [sys.executable, "-m", "megabolt", *command(demo, out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            time.sleep(moments.uniform(0.5, 9.0))
            if i % 2:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        whole(out, "DEMO")
        again = subprocess.run(
            [sys.executable, "-m", "megabolt", *command(demo, out)], capture_output=True, text=True, check=False
        )
        assert again.returncode == 0, again.stderr
        whole(out, "DEMO")
        assert records(out / "DEMO/DEMO.vcf.gz") == expected
        assert list(out.rglob(".*.tmp")) == []


def test_a_finished_run_is_left_alone(demo: Path) -> None:
    stem = demo / "results/DEMO/DEMO"
    before = {suffix: Path(f"{stem}.{suffix}").stat().st_mtime_ns for suffix in FILES}
    truth = f"DEMO={demo / 'data/truth.vcf.gz'},{demo / 'data/truth.bed'}"
    assert main([*command(demo, demo / "results"), "--truth", truth]) == 0
    assert before == {suffix: Path(f"{stem}.{suffix}").stat().st_mtime_ns for suffix in FILES}
