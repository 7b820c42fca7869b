# SPDX-License-Identifier: Apache-2.0
"""Align reads: FASTQ or BAM in, sorted and duplicate-marked BAM or CRAM with index out.

Order of operations:
  1. read pairs or unpaired reads, look up their seeds, place, extend and pair them; insert sizes are learnt
     from the first pairs;
  2. decide on duplicates once for the whole sample, within each library;
  3. with --bqsr: count covariates, fit the table (S.recalibration.table beside the output);
  4. sort by coordinate, recalibrate, and write BAM or CRAM and its index.

What memory does not hold goes to --scratch. The records do not depend on threads or memory.

Example:
  megabolt align --reference GRCh38.fa -1 S_R1.fq.gz -2 S_R2.fq.gz --sample S -o S.bam \\
      --open-data "J. Smith: HG002 of Genome in a Bottle, open consent"
  megabolt align --reference GRCh38.fa --bam old.cram --bam-reference hg19.fa --sample S -o S.cram --open-data "..."
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megabolt.cli import _options
from megabolt.privacy.consent import ALIGNMENT
from megabolt.workflow.sheet import check_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _options.add_reference(parser)
    _options.add_fastq(parser)
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        required=True,
        metavar="S.bam",
        help="the file to write: .bam or .cram",
    )
    _options.add_metrics_folder(parser)
    _options.add_alignment(parser)
    _options.add_processing(parser)
    _options.add_resources(parser)
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    check_name(args.sample, "--sample")
    _options.check_consent(args, args.sample, ALIGNMENT)
    options = _options.align_options(args)
    threads, memory = _options.threads_of(args), _options.memory_of(args)
    _options.check_readable(args.reference, "reference")
    _options.check_output(args.output, (".bam", ".cram"))
    reads, processing = _options.reads_of(args), _options.processing_of(args)
    _options.prepare_kernels(threads)
    from megabolt.workflow.germline import run_align

    run_align(
        reference=args.reference,
        reads=reads,
        sample=args.sample,
        output=args.output,
        threads=threads,
        memory=memory,
        align_options=options,
        processing=processing,
        metrics_folder=args.metrics,
        open_data=args.open_data,
        audit_log=args.audit_log,
    )
    return 0
