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

Costs are defined in runs.py. A program that is not on PATH is named and its chain skipped. Ratios hold on this
machine, for this input, within this run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs import BWA, FINISH, Cost, measure, megabolt, missing, prepare_megabolt, processor, quoted, shell, versions

#: Calls of the peers below this quality are left out, as their users do; megabolt's own filter speaks for itself.
PEER_MIN_QUAL = 20

#: Chains by name: steps (name, shell command) that end with {work}/CHAIN.vcf.gz. Steps of one name are run once.
CHAINS = {
    "bwa-freebayes": [
        ("bwa mem | samtools fixmate, sort, markdup", BWA + FINISH),
        ("freebayes", "freebayes -f {reference} {bam} | bcftools view -Oz -o {work}/bwa-freebayes.vcf.gz"),
    ],
    "bwa-gatk": [
        ("bwa mem | samtools fixmate, sort, markdup", BWA + FINISH),
        (
            "gatk HaplotypeCaller",
            "gatk HaplotypeCaller -R {reference} -I {bam} -O {work}/bwa-gatk.vcf.gz"
            " --native-pair-hmm-threads {threads}",
        ),
    ],
    "bwa-bcftools": [
        ("bwa mem | samtools fixmate, sort, markdup", BWA + FINISH),
        (
            "bcftools mpileup | call",
            "bcftools mpileup -f {reference} -a AD,DP -Ou {bam} | bcftools call -mv -Oz -o {work}/bwa-bcftools.vcf.gz",
        ),
    ],
}

PROGRAMS = {
    "bwa-freebayes": ("bwa", "samtools", "freebayes", "bcftools"),
    "bwa-gatk": ("bwa", "samtools", "gatk", "bcftools"),
    "bwa-bcftools": ("bwa", "samtools", "bcftools"),
}


@dataclass
class Result:
    """A chain: its steps with their costs, their sum, its calls, and how right they are (class -> counts)."""

    name: str
    calls: Path
    steps: list[tuple[str, Cost]] = field(default_factory=list)
    total: Cost = field(default_factory=Cost)
    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)


def prepare(args: argparse.Namespace, chains: Sequence[str]) -> Path:
    """A plain FASTA in the working folder with the indexes of all programs; nothing of this is counted."""
    reference = prepare_megabolt(args.reference, args.work)
    if chains and not Path(f"{reference}.bwt").exists():
        dictionary = quoted(reference.with_suffix(".dict"))
        index = shell(
            f"samtools faidx {quoted(reference)} && bwa index {quoted(reference)}"
            f" && samtools dict {quoted(reference)} -o {dictionary}"
        )
        measure(index, args.work / "prepare.log")
    return reference


def run_chain(name: str, args: argparse.Namespace, reference: Path, done: dict[str, Cost]) -> Result:
    """All steps of a chain; a step that another chain has run already keeps its cost."""
    result = Result(name, args.work / f"{name}.vcf.gz")
    values = {
        "reference": quoted(reference),
        "reads": quoted(args.fastq_1, args.fastq_2),
        "work": quoted(args.work),
        "bam": quoted(args.work / "peer.bam"),
        "sample": args.sample,
        "threads": args.threads,
    }
    for step, command in CHAINS[name]:
        if step not in done:
            done[step] = measure(shell(command.format(**values)), args.work / f"{name}.log")
        result.steps.append((step, done[step]))
        result.total.add(done[step])
    measure(shell(f"bcftools index -f -t {quoted(result.calls)}"), args.work / f"{name}.log")
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
        absent = missing(PROGRAMS[name])
        if absent:
            print(f"skipped {name}: {', '.join(absent)} not on PATH")
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
