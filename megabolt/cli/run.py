# SPDX-License-Identifier: Apache-2.0
"""Many samples from a sheet, through Snakemake, with progress and resume.

SHEET is a table (tab- or comma-separated) with the columns patient, sample, sex, status, lane, fastq_1,
fastq_2 of nf-core/sarek, one row for each lane, and if wanted interleaved (1: fastq_1 holds mate 1 and mate 2 in
turn) and open_data; or a list without header, `sample  fq1a,fq1b  fq2a,fq2b`. Without a second file reads are
unpaired. Relative paths are relative to the sheet.

Order of operations:
  1. check the sheet, the options and the declaration of each sample; nothing is made if any is wrong;
  2. build the reference's index if it is missing or older than the FASTA;
  3. each sample: the job of `megabolt germline`, results in OUTDIR/SAMPLE;
  4. with --truth, compare; at the end OUTDIR/report.html and report.json.

Logs are in OUTDIR/logs. If a job fails, the others are finished; the same command again does what is missing.
A run may be killed at any moment: no incomplete file stands under its final name.

Example:
  megabolt run samples.tsv --reference GRCh38.fa --outdir results --assay wgs \\
      --open-data "J. Smith: Genome in a Bottle, open consent"
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megabolt.cli import _options
from megabolt.errors import UsageError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sheet", type=Path, metavar="SHEET", help="sample sheet")
    _options.add_reference(parser)
    parser.add_argument("--outdir", type=Path, required=True, metavar="D", help="folder of the results")
    parser.add_argument("--assay", required=True, choices=("wgs", "wes", "panel"), help="wes and panel need --targets")
    parser.add_argument("--targets", type=Path, metavar="BED", help="call inside these regions only")
    parser.add_argument("--gvcf", action="store_true", help="also write a gVCF for each sample")
    parser.add_argument("--no-bam", dest="bam", action="store_false", help="write no BAM")
    _options.add_reads_choices(parser)
    parser.add_argument(
        "--truth",
        action="append",
        default=[],
        metavar="SAMPLE=VCF[,BED]",
        help="known variants of a sample, and where they are known: the report then has its accuracy",
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="check everything, run nothing")
    _options.add_umi(_options.add_alignment(parser))
    _options.add_resources(parser)
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    config = configuration(args)
    if not args.dry_run:
        _options.prepare_kernels(_options.threads_of(args))
    from megabolt.workflow.run import run_workflow

    summary = run_workflow(config, args.outdir, dry_run=args.dry_run)
    if args.dry_run:
        log.info("nothing was run; what would be is in %s/.megabolt/snakemake.log", args.outdir)
        return 0
    samples = f"{summary.n_samples} sample{'s' * (summary.n_samples > 1)}"
    log.info("%s done, %d jobs in %.1f s", samples, summary.n_jobs, summary.seconds)
    print(summary.report)
    return 0


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """The workflow's configuration from the options, after the checks that need no sheet."""
    threads, memory = _options.threads_of(args), _options.memory_of(args)
    truth = dict(_truth(text) for text in args.truth)
    if args.assay != "wgs" and args.targets is None:
        raise UsageError(f"--assay {args.assay} needs the regions it looks at", "Name their BED file with --targets.")
    _options.check_readable(args.reference, "reference")
    if args.targets is not None:
        _options.check_readable(args.targets, "BED of targets")
    for path in args.bqsr:
        _options.check_readable(path, "VCF of known variants")
    _options.check_folder(args.outdir)
    return {
        "assay": args.assay,
        "sheet": str(args.sheet),
        "reference": str(args.reference),
        "targets": str(args.targets) if args.targets else None,
        "gvcf": args.gvcf,
        "bam": args.bam,
        "threads": threads,
        "memory": f"{memory >> 20}M",
        "open_data": args.open_data,
        "audit_log": str(args.audit_log) if args.audit_log else None,
        "umi": args.umi,
        **asdict(_options.align_options(args)),
        "cram": args.cram,
        "known_sites": [str(path) for path in args.bqsr],
        "remove_duplicates": args.remove_duplicates,
        "optical_distance": args.optical_distance,
        "scratch": str(args.scratch) if args.scratch else None,
        "truth": truth,
    }


def _truth(text: str) -> tuple[str, dict[str, str | None]]:
    name, equals, files = text.partition("=")
    vcf, _, regions = files.partition(",")
    if not (name and equals and vcf):
        raise UsageError(f"--truth {text}: not of the form SAMPLE=VCF or SAMPLE=VCF,BED", "Name the sample.")
    _options.check_readable(Path(vcf), "truth")
    if regions:
        _options.check_readable(Path(regions), "BED of the truth")
    return name, {"vcf": vcf, "regions": regions or None}
