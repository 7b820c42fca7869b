# SPDX-License-Identifier: Apache-2.0
"""`megabolt run` around its jobs, which are stand-ins here: progress, resume, failures, kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Does what the jobs promise, slowly enough to be interrupted: outputs appear by renaming, SIGTERM cleans up.
STAND_IN = f"""#!{sys.executable}
import os, sys, time
from megabolt.workflow import guardian
guardian.start_watching()
words = sys.argv[1:]
def put(path):
    with open(path + ".tmp", "w") as file:
        file.write("whole")
        file.flush()
        time.sleep(0.05)
        file.write(" file")
    os.rename(path + ".tmp", path)
def value(option):
    return words[words.index(option) + 1]
if words[0] == "index":
    put(words[1] + ".mbx")
elif words[0] == "report":
    put(value("-o")), put(value("--json"))
else:
    sample, folder = value("--sample"), value("--outdir")
    with open(os.environ["RUN_COUNT"], "a") as count:
        count.write(sample + "\\n")
    time.sleep(float(os.environ.get("JOB_SECONDS", "0")))
    if sample == os.environ.get("FAILS"):
        print("megabolt germline: error: S_1.fq, line 4: bad\\n  Mend it.", file=sys.stderr)
        sys.exit(int(os.environ["CODE"]))
    for suffix in ("bam", "bam.bai", "vcf.gz", "vcf.gz.tbi", "metrics.json"):
        put(f"{{folder}}/{{sample}}.{{suffix}}")
"""

#: `megabolt run` with the stand-in put first on the jobs' PATH.
LAUNCH = """
import signal, sys
# A shell that runs the tests in the background has its children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from megabolt.workflow import run
ours = run._environment
def environment():
    found = ours()
    found["PATH"] = sys.argv[1] + ":" + found["PATH"]
    return found
run._environment = environment
from megabolt.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


class Rig:
    """A sheet of samples and a way to run it."""

    def __init__(self, folder: Path, samples: list[str]) -> None:
        self.folder = folder
        self.samples = samples
        self.out = folder / "out"
        (folder / "bin").mkdir()
        (folder / "bin/megabolt").write_text(STAND_IN)
        (folder / "bin/megabolt").chmod(0o755)
        (folder / "ref.fa").touch()
        lines = ["patient,sample,fastq_1,fastq_2"]
        for name in samples:
            (folder / f"{name}_1.fq").touch()
            (folder / f"{name}_2.fq").touch()
            lines.append(f"{name},{name},{name}_1.fq,{name}_2.fq")
        (folder / "samples.csv").write_text("\n".join(lines))

    def command(self) -> list[str]:
        words = [
            "run",
            "samples.csv",
            "--reference",
            "ref.fa",
            "--outdir",
            "out",
            "--assay",
            "wgs",
            "--threads",
            "1",
        ]
        return [sys.executable, "-c", LAUNCH, str(self.folder / "bin"), *words, "--open-data", "me: made up"]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "RUN_COUNT": str(self.folder / "count"), **more}

    def run(self, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(),
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def jobs(self) -> list[str]:
        count = self.folder / "count"
        return count.read_text().split() if count.exists() else []

    def final_files(self) -> Iterator[Path]:
        for name in self.samples:
            for suffix in ("bam", "bam.bai", "vcf.gz", "vcf.gz.tbi", "metrics.json"):
                yield self.out / name / f"{name}.{suffix}"
        yield self.out / "report.html"
        yield self.out / "report.json"

    def truncated(self) -> list[Path]:
        return [path for path in self.final_files() if path.exists() and path.read_text() != "whole file"]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """In a folder whose name no shell command may take apart."""
    folder = tmp_path / "it's a $(folder)"
    folder.mkdir()
    return Rig(folder, ["A", "B", "C"])


def test_progress_and_resume(rig: Rig) -> None:
    first = rig.run()
    assert first.returncode == 0, first.stderr
    assert first.stdout == "out/report.html\n"
    for name in rig.samples:
        assert f"{name} germline done in " in first.stderr
    assert all(path.exists() for path in rig.final_files())
    again = rig.run()
    assert again.returncode == 0
    assert "0 jobs in" in again.stderr
    assert sorted(rig.jobs()) == ["A", "B", "C"]


@pytest.mark.parametrize("code", [1, 77])
def test_a_failed_sample_stops_no_other_and_its_exit_code_is_passed_on(code: int, rig: Rig) -> None:
    failed = rig.run(FAILS="B", CODE=str(code))
    assert failed.returncode == code
    assert failed.stdout == ""
    assert "FAILED B germline" in failed.stderr
    assert "1 of 9 jobs failed: B germline" in failed.stderr
    assert "megabolt germline: error: S_1.fq, line 4: bad Mend it." in failed.stderr
    assert (rig.out / "C/C.vcf.gz").exists()
    assert not (rig.out / "B/B.vcf.gz").exists()
    assert not (rig.out / "report.html").exists()
    assert rig.run().returncode == 0
    assert sorted(rig.jobs()) == ["A", "B", "B", "C"]


def test_a_new_sample_does_not_repeat_the_old_ones(rig: Rig) -> None:
    assert rig.run().returncode == 0
    (rig.folder / "D_1.fq").touch()
    (rig.folder / "D_2.fq").touch()
    with (rig.folder / "samples.csv").open("a") as sheet:
        sheet.write("\nD,D,D_1.fq,D_2.fq\n")
    assert rig.run().returncode == 0
    assert sorted(rig.jobs()) == ["A", "B", "C", "D"]


def test_two_runs_in_one_folder(rig: Rig) -> None:
    with subprocess.Popen(
        rig.command(), cwd=rig.folder, env=rig.environment(JOB_SECONDS="30"), stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: bool(rig.jobs()))
        second = rig.run()
        process.terminate()
        assert process.wait(30) == 143
    assert second.returncode == 2
    assert f"another `megabolt run` (process {process.pid})" in second.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_ends_the_jobs(number: signal.Signals, code: int, rig: Rig) -> None:
    with subprocess.Popen(
        rig.command(),
        cwd=rig.folder,
        env=rig.environment(JOB_SECONDS="60"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: bool(rig.jobs()))
        process.send_signal(number)
        assert process.wait(40) == code
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert jobs_alive(rig) == []
    assert rig.run().returncode == 0


def test_killed_at_random_moments(rig: Rig) -> None:
    """SIGKILL to `megabolt run` alone: nothing truncated or left running; the next run completes."""
    moments = random.Random(20)
    for _ in range(3):
        with subprocess.Popen(
            rig.command(), cwd=rig.folder, env=rig.environment(JOB_SECONDS="0.3"), stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(moments.uniform(0.5, 5.0))
            process.kill()
        assert rig.truncated() == []
    wait_until(lambda: not jobs_alive(rig))
    last = rig.run()
    assert last.returncode == 0, last.stderr
    assert [path for path in rig.final_files() if not path.exists()] == []
    assert rig.truncated() == []


def test_a_run_that_dies_while_it_starts_snakemake_leaves_none(tmp_path: Path) -> None:
    """The child asks for the parent-death signal when its parent is dead already."""
    orphan = """
import os, sys, time
from megabolt.workflow.run import _die_with_parent
before_program = _die_with_parent()
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    open(sys.argv[1] + ".begun", "w").close()
    before_program()
    open(sys.argv[1], "w").close()
"""
    words = [sys.executable, "-c", orphan, str(tmp_path / "program")]
    # the pipe closes when the child has ended, too
    subprocess.run(words, check=True, stdout=subprocess.PIPE, timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["program.begun"]


def test_a_foreign_lock_is_respected(rig: Rig) -> None:
    locks = rig.out / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").touch()
    done = rig.run()
    assert done.returncode == 2
    assert "locked by a snakemake that megabolt did not start" in done.stderr


def test_without_declaration_nothing_is_made(rig: Rig) -> None:
    done = subprocess.run(
        rig.command()[:-2], cwd=rig.folder, env=rig.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 77
    assert "--open-data" in done.stderr
    assert not rig.out.exists()


def wait_until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def jobs_alive(rig: Rig) -> list[str]:
    """Command lines of stand-in jobs of this rig that are still running."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(rig.folder / "bin/megabolt") in words:
            found.append(" ".join(words))
    return found
