# SPDX-License-Identifier: Apache-2.0
"""Sort an existing BAM or CRAM and mark its duplicates, without aligning anything.

Takes records in any order: as an aligner writes them, sorted by name, sorted by coordinate. They stay as they are but
for the duplicate flag; duplicates are found as Picard MarkDuplicates finds them, within each library. Read groups and
the chain of programs are kept.

Order of operations:
  1. read the records into bins of the genome, in memory as far as --memory goes, the rest in --scratch; join mates;
  2. decide on duplicates once for the whole file;
  3. with --bqsr: count covariates, fit the table (S.recalibration.table beside the output);
  4. sort by coordinate, recalibrate, and write BAM or CRAM and its index.

Example:
  megabolt markdup aligned.bam -o S.bam --metrics qc --open-data "J. Smith: HG002, open consent"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megabolt.cli import _options
from megabolt.errors import UsageError
from megabolt.privacy.consent import ALIGNMENT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN.bam", help="BAM or CRAM, in any order")
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="S.bam", help="the file to write: .bam or .cram"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="REF.fa",
        help="what the reads were aligned to: needed for CRAM and for --bqsr, and for all of --metrics",
    )
    parser.add_argument("--umi", action="store_true", help="the tags RX are UMIs, which tell duplicates apart")
    _options.add_metrics_folder(parser)
    _options.add_processing(parser)
    _options.add_resources(parser)
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    _options.check_readable(args.source, "file of reads")
    _options.check_consent(args, args.source.stem, ALIGNMENT)
    threads, memory = _options.threads_of(args), _options.memory_of(args)
    if args.reference is not None:
        _options.check_readable(args.reference, "reference")
    _options.check_output(args.output, (".bam", ".cram"))
    if args.output.exists() and args.output.samefile(args.source):
        raise UsageError(f"{args.output} is the input", "Write to another file.")
    processing = _options.processing_of(args)
    _options.prepare_kernels(threads)
    from megabolt.workflow.germline import run_markdup

    run_markdup(
        source=args.source,
        output=args.output,
        threads=threads,
        memory=memory,
        reference=args.reference,
        umi=args.umi,
        processing=processing,
        metrics_folder=args.metrics,
        open_data=args.open_data,
        audit_log=args.audit_log,
    )
    return 0
