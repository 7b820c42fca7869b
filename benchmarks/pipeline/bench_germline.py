# SPDX-License-Identifier: Apache-2.0
"""megabolt germline beside a chain of public programs: same reads, both answers checked, cost and ratio.

    python benchmarks/pipeline/bench_germline.py --reference ref.fa -1 R1.fq.gz -2 R2.fq.gz --work work \\
        --truth truth.vcf.gz --regions confident.bed --open-data "J. Smith: HG002, open consent"

Order of operations:
  1. indexes of all programs, and megabolt's kernels, are made first and not counted;
  2. each chain named with --chains, then megabolt, one after another, each with --threads;
  3. all calls are compared with the truth, or, without one, megabolt's with each chain's;
  4. if an answer is poor (--floor), the exit code is 1 and no ratio is printed: speed of wrong answers is no
     figure.

CPU seconds are user and system time of all processes of a step (wait4), wall seconds from start to end,
memory the highest sum of resident sizes of its processes, looked at ten times a second. A program that is not
on PATH is named and its chain skipped. Ratios hold on this machine, for this input, within this run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Calls of the peers below this quality are left out, as their users do; megabolt's own filter speaks for itself.
PEER_MIN_QUAL = 20

ALIGN = (
    "bwa mem -t {threads} -R '@RG\\tID:{sample}\\tSM:{sample}\\tLB:{sample}\\tPL:ILLUMINA' {reference} {r1} {r2}"
    " | samtools fixmate -m -u - - | samtools sort -u -@ {threads} -T {work}/sort - "
    " | samtools markdup -@ {threads} - {work}/peer.bam && samtools index {work}/peer.bam"
)

#: Chains by name: steps (name, shell command) that end with {work}/CHAIN.vcf.gz. Steps of one name are run once.
CHAINS = {
    "bwa-freebayes": [
        ("bwa mem | samtools fixmate, sort, markdup", ALIGN),
        ("freebayes", "freebayes -f {reference} {work}/peer.bam | bcftools view -Oz -o {work}/bwa-freebayes.vcf.gz"),
    ],
    "bwa-bcftools": [
        ("bwa mem | samtools fixmate, sort, markdup", ALIGN),
        (
            "bcftools mpileup | call",
            "bcftools mpileup -f {reference} -a AD,DP -Ou {work}/peer.bam"
            " | bcftools call -mv -Oz -o {work}/bwa-bcftools.vcf.gz",
        ),
    ],
}

PROGRAMS = {
    "bwa-freebayes": ("bwa", "samtools", "freebayes", "bcftools"),
    "bwa-bcftools": ("bwa", "samtools", "bcftools"),
}

VERSION_OF = {"bwa": "bwa 2>&1 | sed -n 's/^Version: //p'", "freebayes": "freebayes --version | sed 's/^version: *//'"}


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


@dataclass
class Result:
    """A chain: its steps with their costs, their sum, its calls, and how right they are (class -> counts)."""

    name: str
    calls: Path
    steps: list[tuple[str, Cost]] = field(default_factory=list)
    total: Cost = field(default_factory=Cost)
    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)


class _MemoryWatch:
    """The highest sum of resident sizes of the processes of a session."""

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
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.is_set():
            total = 0
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    fields = stat.read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self._session:  # session, field 6 of proc(5)
                    total += int(fields[21]) * page  # rss, field 24
            self.peak_bytes = max(self.peak_bytes, total)
            self._stop.wait(0.1)


def measure(command: Sequence[str], log: Path) -> Cost:
    """Run a command in a session of its own; its words go to `log`."""
    with log.open("a", encoding="utf-8") as words:
        words.write(f"$ {shlex.join(command)}\n")
        words.flush()
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
        )
        watch = _MemoryWatch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = max(watch.stop(), usage.ru_maxrss * 1024)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        sys.exit(f"bench_germline: a step failed with exit code {process.returncode}; {log} ends with:\n{tail}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, peak)


def shell(text: str) -> list[str]:
    """A pipe of which any program may fail the step."""
    return ["bash", "-c", f"set -euo pipefail; {text}"]


def megabolt(*words: object) -> list[str]:
    return [sys.executable, "-m", "megabolt", *map(str, words)]


def prepare(args: argparse.Namespace, chains: Sequence[str]) -> Path:
    """A plain FASTA in the working folder with the indexes of all programs; nothing of this is counted."""
    args.work.mkdir(parents=True, exist_ok=True)
    reference: Path = args.work / "reference.fa"
    if not reference.exists():
        opener: Any = gzip.open if args.reference.suffix == ".gz" else open
        with opener(args.reference, "rb") as source, (args.work / "reference.part").open("wb") as target:
            shutil.copyfileobj(source, target)
        (args.work / "reference.part").rename(reference)
    log = args.work / "prepare.log"
    if not Path(f"{reference}.mbx").exists():
        measure(megabolt("index", reference), log)
    measure(megabolt("warmup"), log)
    if chains and not Path(f"{reference}.bwt").exists():
        measure(shell(f"samtools faidx {shlex.quote(str(reference))} && bwa index {shlex.quote(str(reference))}"), log)
    return reference


def run_chain(name: str, args: argparse.Namespace, reference: Path, done: dict[str, Cost]) -> Result:
    """All steps of a chain; a step that another chain has run already keeps its cost."""
    result = Result(name, args.work / f"{name}.vcf.gz")
    values = {
        "reference": shlex.quote(str(reference)),
        "r1": shlex.quote(str(args.fastq_1)),
        "r2": shlex.quote(str(args.fastq_2)),
        "work": shlex.quote(str(args.work)),
        "sample": args.sample,
        "threads": args.threads,
    }
    for step, command in CHAINS[name]:
        if step not in done:
            done[step] = measure(shell(command.format(**values)), args.work / f"{name}.log")
        result.steps.append((step, done[step]))
        result.total.add(done[step])
    measure(shell(f"bcftools index -f -t {shlex.quote(str(result.calls))}"), args.work / f"{name}.log")
    return result


def run_megabolt(args: argparse.Namespace, reference: Path) -> Result:
    """The fused job, warm."""
    outdir = args.work / "megabolt"
    words: list[object] = ["germline", "--reference", reference, "-1", args.fastq_1, "-2", args.fastq_2]
    words += ["--sample", args.sample, "--outdir", outdir, "--threads", args.threads, *declared(args)]
    if args.memory:
        words += ["--memory", args.memory]
    result = Result("megabolt", outdir / f"{args.sample}.vcf.gz")
    result.total = measure(megabolt(*words), args.work / "megabolt.log")
    metrics = json.loads((outdir / f"{args.sample}.metrics.json").read_text())
    for stage in metrics["stages"]:
        result.steps.append((stage["name"], Cost(stage["cpu_seconds"], stage["wall_seconds"])))
    return result


def compare(truth: Path, result: Result, args: argparse.Namespace, reference: Path) -> dict[str, dict[str, Any]]:
    """Counts per class of variants by `megabolt compare`."""
    report = args.work / f"{result.name}.compare.json"
    words: list[object] = ["compare", truth, result.calls, "--reference", reference, "--json", report, *declared(args)]
    if args.regions:
        words += ["--regions", args.regions]
    if result.name != "megabolt":
        words += ["--min-qual", PEER_MIN_QUAL]
    measure(megabolt(*words), args.work / "compare.log")
    return dict(json.loads(report.read_text())["classes"])


def declared(args: argparse.Namespace) -> list[str]:
    return [] if args.open_data is None else ["--open-data", args.open_data]


def missing_programs(chain: str) -> list[str]:
    return [program for program in PROGRAMS[chain] if shutil.which(program) is None]


def versions(programs: Sequence[str]) -> dict[str, str]:
    found = {}
    for program in programs:
        command = VERSION_OF.get(program, f"{program} --version | head -n 1")
        said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        found[program] = (said.stdout + said.stderr).strip().removeprefix(program).strip()
    said = subprocess.run(megabolt("--version"), capture_output=True, text=True, check=True)
    return found | {"megabolt": said.stdout.split()[-1]}


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def poor(results: Sequence[Result], floor: float) -> list[str]:
    """Answers below the floor."""
    return [
        f"{result.name}: {kind} F1 {counts['f1']:.4f} is below {floor}"
        for result in results
        for kind, counts in result.accuracy.items()
        if counts["f1"] < floor
    ]


def table(results: Sequence[Result], against: str) -> str:
    """What everybody took and how right they were; ratios of CPU and wall to megabolt's."""
    ours = results[-1].total
    lines = [f"{'chain':<16}{'CPU s':>9}{'wall s':>9}{'peak GB':>9}{'CPU x':>8}{'wall x':>8}   F1 against {against}"]
    for result in results:
        cost = result.total
        scores = "  ".join(f"{kind} {counts['f1']:.4f}" for kind, counts in result.accuracy.items())
        lines.append(
            f"{result.name:<16}{cost.cpu_seconds:>9.1f}{cost.wall_seconds:>9.1f}{cost.peak_bytes / 1e9:>9.2f}"
            f"{cost.cpu_seconds / ours.cpu_seconds:>8.2f}{cost.wall_seconds / ours.wall_seconds:>8.2f}   {scores}"
        )
    lines.append("")
    for result in results:
        for step, cost in result.steps:
            lines.append(f"  {result.name}: {step}: {cost.cpu_seconds:.1f} CPU s, {cost.wall_seconds:.1f} s")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="FASTA, plain or gzipped")
    parser.add_argument("-1", dest="fastq_1", type=Path, required=True)
    parser.add_argument("-2", dest="fastq_2", type=Path, required=True)
    parser.add_argument("--sample", default="sample")
    parser.add_argument("--truth", type=Path, help="known variants; without them the call sets are compared")
    parser.add_argument("--regions", type=Path, help="count inside this BED only")
    parser.add_argument("--chains", nargs="*", choices=CHAINS, default=["bwa-freebayes"], help="peers to run")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", help="passed on to megabolt")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--floor", type=float, default=0.9, help="lowest F1 that counts as an answer")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--open-data", help="as for megabolt germline")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    chains = []
    for name in dict.fromkeys(args.chains):
        missing = missing_programs(name)
        if missing:
            print(f"skipped {name}: {', '.join(missing)} not on PATH")
        else:
            chains.append(name)
    reference = prepare(args, chains)
    done: dict[str, Cost] = {}
    results = [run_chain(name, args, reference, done) for name in chains]
    ours = run_megabolt(args, reference)
    against = "the truth"
    if args.truth:
        for result in [*results, ours]:
            result.accuracy = compare(args.truth, result, args, reference)
    else:
        against = "megabolt's calls"
        for result in results:
            result.accuracy = compare(ours.calls, result, args, reference)
    results.append(ours)
    found = versions(sorted({program for name in chains for program in PROGRAMS[name]}))
    print(f"{processor()}, {args.threads} threads; " + ", ".join(f"{k} {v}" for k, v in found.items()))
    wrong = poor(results, args.floor)
    if wrong:
        print("no ratio:", "; ".join(wrong), file=sys.stderr)
        return 1
    print(table(results, against))
    if args.json:
        write_json(args.json, results, found, args.threads)
    return 0


def write_json(path: Path, results: Sequence[Result], found: dict[str, str], threads: int) -> None:
    content = {
        "schema_version": 1,
        "processor": processor(),
        "threads": threads,
        "versions": found,
        "chains": [
            {
                "name": result.name,
                **vars(result.total),
                "steps": [{"name": step, **vars(cost)} for step, cost in result.steps],
                "accuracy": result.accuracy,
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
