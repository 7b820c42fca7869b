# SPDX-License-Identifier: Apache-2.0
"""Show the whole path on a made-up person: simulate, index, run through Snakemake, compare with the truth.

Needs no data and no network; takes a few minutes on two processors, the first compilation of all kernels
included.

Order of operations:
  1. simulate a small genome with repeats, a person's variants, and read pairs with realistic errors;
  2. `megabolt run` on a sheet with that one sample: index, align, mark duplicates, call, compare, report;
  3. print the accuracy reached, the time, and where the report is.

Example:
  megabolt demo --outdir demo
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import time
from pathlib import Path

from megabolt.cli import _options
from megabolt.errors import OutputError, UsageError

log = logging.getLogger(__name__)

SAMPLE = "DEMO"
DECLARATION = "megabolt demo: simulated in this run, nobody's data"

#: What a folder of an earlier demo holds; nothing else is ever removed.
MARKER = "this-is-a-megabolt-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--outdir", type=Path, default=Path("demo"), metavar="D", help="made anew (default: demo)")
    parser.add_argument("--genome-size", type=int, default=2_000_000, metavar="N", help="bases (default: 2000000)")
    parser.add_argument("--depth", type=float, default=25.0, metavar="X", help="mean depth (default: 25)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same data (default: 1)")
    _options.add_resources(parser)
    parser.add_argument("--audit-log", type=Path, metavar="FILE", help="record of decisions and file accesses")


def main(args: argparse.Namespace) -> int:
    threads, memory = _options.threads_of(args), _options.memory_of(args)
    _options.check_folder(args.outdir)
    _fresh(args.outdir)
    began = time.perf_counter()
    _options.prepare_kernels(threads)
    started = time.perf_counter()
    data = args.outdir / "data"
    _simulate(args, data)
    simulated = time.perf_counter()
    from megabolt.workflow.run import run_workflow

    summary = run_workflow(
        {
            "assay": "wgs",
            "sheet": str(_write_sheet(data)),
            "reference": str(data / "ref.fa"),
            "threads": threads,
            "memory": f"{memory >> 20}M",
            "audit_log": str(args.audit_log) if args.audit_log else None,
            "truth": {SAMPLE: {"vcf": str(data / "truth.vcf.gz"), "regions": str(data / "truth.bed")}},
        },
        args.outdir / "results",
    )
    print(
        _verdict(args.outdir / "results" / "report.json")
        + f"compilation    {started - began:8.1f} s, the first time\n"
        + f"simulation     {simulated - started:8.1f} s\n"
        + f"whole workflow {summary.seconds:8.1f} s\n"
        + f"CPU            {_cpu_seconds():8.1f} s of all processes\n"
        + f"report         {summary.report}"
    )
    return 0


def _fresh(outdir: Path) -> None:
    """Remove an earlier demo; refuse a folder with anything else in it."""
    if outdir.is_dir() and any(outdir.iterdir()):
        if not (outdir / MARKER).is_file():
            raise UsageError(f"{outdir} is not empty and not an earlier demo", "Choose another --outdir.")
        shutil.rmtree(outdir)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        (outdir / MARKER).touch()
    except OSError as error:
        raise OutputError(f"{outdir}: cannot be made: {error.strerror}", "Choose another --outdir.") from error


def _simulate(args: argparse.Namespace, data: Path) -> None:
    from megabolt.simulate.genome import GenomeOptions
    from megabolt.simulate.job import SimulationRequest, run_simulate
    from megabolt.simulate.reads import ReadOptions

    request = SimulationRequest(
        outdir=data,
        seed=args.seed,
        depth=args.depth,
        sample=SAMPLE,
        genome=GenomeOptions(size=args.genome_size),
        reads=ReadOptions(duplicates=0.02),
    )
    made = run_simulate(request, args.audit_log)
    log.info("simulated %d pairs of reads and %d variants in %s", made.n_pairs, made.n_variants, data)


def _write_sheet(data: Path) -> Path:
    sheet = data / "samples.tsv"
    header = "patient\tsample\tsex\tstatus\tlane\tfastq_1\tfastq_2\topen_data"
    row = f"{SAMPLE}\t{SAMPLE}\tNA\t0\tL1\tR1.fastq.gz\tR2.fastq.gz\t{DECLARATION}"
    sheet.write_text(f"{header}\n{row}\n", encoding="utf-8")
    return sheet


def _verdict(report: Path) -> str:
    """One line per class of variants: counts, precision, recall and F1."""
    (sample,) = json.loads(report.read_text(encoding="utf-8"))["samples"]
    lines = ["class   truth  found  missed  wrong  precision  recall      F1"]
    for kind, counts in sample["accuracy"]["classes"].items():
        found, missed = counts["tp_truth"], counts["fn"]
        lines.append(
            f"{kind:<6}{found + missed:>7}{found:>7}{missed:>8}{counts['fp']:>7}"
            f"{counts['precision']:>11.4f}{counts['recall']:>8.4f}{counts['f1']:>8.4f}"
        )
    return "\n".join(lines) + "\n"


def _cpu_seconds() -> float:
    """User and system time of this process and of all that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
