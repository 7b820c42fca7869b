# SPDX-License-Identifier: Apache-2.0
"""Steps of a pipeline benchmark and what they cost: shared by the scripts in this folder.

CPU seconds are user and system time of all processes of a step (wait4), wall seconds from start to end, memory the
highest sum of resident sizes of its processes, looked at ten times a second.
"""

from __future__ import annotations

import gzip
import itertools
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Read group of all peers, as SAM writes it; megabolt makes the same by itself.
READ_GROUP = r"@RG\tID:{sample}\tSM:{sample}\tLB:{sample}\tPL:ILLUMINA"

BWA = f"bwa mem -t {{threads}} -R '{READ_GROUP}' {{reference}} {{reads}}"

#: From an aligner's SAM on a pipe to a sorted, duplicate-marked and indexed {bam}.
FINISH = (
    " | samtools fixmate -m -u - - | samtools sort -u -@ {threads} -T {work}/sort -"
    " | samtools markdup -@ {threads} - {bam} && samtools index {bam}"
)

VERSION_OF = {
    "bwa": "bwa 2>&1 | sed -n 's/^Version: //p'",
    "bwa-mem2": "bwa-mem2 version 2> /dev/null | tail -n 1",
    "freebayes": "freebayes --version | sed 's/^version: *//'",
    "snap-aligner": "snap-aligner 2>&1 | sed -n 's/^Welcome to SNAP version \\(.*\\)\\.$/\\1/p'",
}


@dataclass
class Cost:
    """What a step, or a chain of them, took."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, other: Cost) -> None:
        """Follow with another step."""
        self.cpu_seconds += other.cpu_seconds
        self.wall_seconds += other.wall_seconds
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)


class StepFailed(SystemExit):
    """A step ended with an error; not caught, it ends the benchmark with what the step said last."""


class _MemoryWatch:
    """The highest sum of resident sizes of the processes of a session.

    It shares the processors with what it looks at: it looks for new processes once a second, at those it knows ten
    times, and costs 0.3 % of one processor.
    """

    def __init__(self, session: int) -> None:
        self.peak_bytes = 0
        self._session = session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.peak_bytes

    def _look(self) -> None:
        members: list[str] = []
        for turn in itertools.count():
            if turn % 10 == 0:
                members = [name for name in os.listdir("/proc") if name.isdigit() and self._resident(name)]
            self.peak_bytes = max(self.peak_bytes, sum(map(self._resident, members)))
            if self._stop.wait(0.1):
                return

    def _resident(self, process: str) -> int:
        """Bytes; 0 if it has ended or is of another session."""
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return 0
        if int(fields[3]) != self._session:  # session, field 6 of proc(5)
            return 0
        return int(fields[21]) * os.sysconf("SC_PAGE_SIZE")  # rss, field 24


def measure(command: Sequence[str], log: Path, processors: int | None = None) -> Cost:
    """Run a command in a session of its own; its words go to `log`.

    Parameters
    ----------
    command
        Program and arguments; `StepFailed` if it fails.
    log
        Text file that is added to.
    processors
        All its processes together may use this many processors; None: all that there are.
    """
    allowed = os.sched_getaffinity(0)
    with log.open("a", encoding="utf-8") as words:
        words.write(f"$ {shlex.join(command)}\n")
        words.flush()
        began = time.perf_counter()
        if processors is not None:
            os.sched_setaffinity(0, sorted(allowed)[:processors])  # children inherit it
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
            )
        finally:
            os.sched_setaffinity(0, allowed)
        watch = _MemoryWatch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        # a child's highest resident size begins with that of the process it was forked from, which may be larger
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = max(watch.stop(), usage.ru_maxrss * 1024 if usage.ru_maxrss > ours else 0)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        name = Path(sys.argv[0]).stem
        raise StepFailed(f"{name}: a step failed with exit code {process.returncode}; {log} ends with:\n{tail}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, peak)


def shell(text: str) -> list[str]:
    """A pipe of which any program may fail the step."""
    return ["bash", "-c", f"set -euo pipefail; {text}"]


def megabolt(*words: object) -> list[str]:
    """megabolt of this interpreter."""
    return [sys.executable, "-m", "megabolt", *map(str, words)]


def quoted(*paths: Path) -> str:
    """Paths as words of a shell command."""
    return shlex.join(map(str, paths))


def missing(programs: Sequence[str]) -> list[str]:
    """Those that are not on PATH."""
    return [program for program in programs if shutil.which(program) is None]


def prepare_megabolt(fasta: Path, work: Path) -> Path:
    """A plain FASTA in the working folder with megabolt's index; kernels compiled. Nothing of this is counted."""
    work.mkdir(parents=True, exist_ok=True)
    reference = work / "reference.fa"
    if not reference.exists():
        opener: Any = gzip.open if fasta.suffix == ".gz" else open
        with opener(fasta, "rb") as source, (work / "reference.part").open("wb") as target:
            shutil.copyfileobj(source, target)
        (work / "reference.part").rename(reference)
    log = work / "prepare.log"
    if not Path(f"{reference}.mbx").exists():
        measure(megabolt("index", reference), log)
    measure(megabolt("warmup"), log)
    return reference


def versions(programs: Sequence[str]) -> dict[str, str]:
    """Program -> version, megabolt's last."""
    found = {}
    for program in programs:
        command = VERSION_OF.get(program, f"{program} --version | head -n 1")
        said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        found[program] = (said.stdout + said.stderr).strip().removeprefix(program).strip()
    said = subprocess.run(megabolt("--version"), capture_output=True, text=True, check=True)
    return found | {"megabolt": said.stdout.split()[-1]}


def processor() -> str:
    """The processor's name, as it calls itself."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
