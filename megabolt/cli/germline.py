# SPDX-License-Identifier: Apache-2.0
"""One sample from FASTQ to BAM, VCF and metrics, in one job.

Leaves in the folder D: S.bam and S.bam.bai (sorted, duplicates marked; not with --no-bam; S.cram with --cram),
S.vcf.gz and its .tbi, S.g.vcf.gz with --gvcf, S.metrics.json (reads, mapped, duplicates, depth, insert size, Ti/Tv,
time and CPU seconds of each stage, versions), the folder metrics with files that MultiQC knows, and
S.recalibration.table with --bqsr. Each file appears when it is complete.

Order of operations:
  1. read, align and pair the reads; keep them as packed records, in bins of the genome, in memory as far as --memory
     goes, the rest in --scratch;
  2. decide on duplicates once for the whole sample, within each library;
  3. with --bqsr: count covariates, fit the table;
  4. bin by bin: sort, recalibrate, write the BAM, call variants, count metrics.

The answer does not depend on threads or memory.

Example:
  megabolt germline --reference GRCh38.fa -1 S_L1_R1.fq.gz S_L2_R1.fq.gz -2 S_L1_R2.fq.gz S_L2_R2.fq.gz \\
      --sample S --outdir results --open-data "J. Smith: HG002 of Genome in a Bottle, open consent"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megabolt.cli import _options
from megabolt.privacy.consent import GERMLINE_CALLING
from megabolt.workflow.sheet import check_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _options.add_reference(parser)
    _options.add_fastq(parser)
    parser.add_argument(
        "--outdir", type=Path, required=True, metavar="D", help="folder of the results; made if missing"
    )
    parser.add_argument("--gvcf", action="store_true", help="also write how sure the rest is reference (S.g.vcf.gz)")
    _options.add_calling(parser, regions=False)
    parser.add_argument("--no-bam", dest="bam", action="store_false", help="do not write the BAM")
    _options.add_cram(parser)
    _options.add_alignment(parser)
    _options.add_processing(parser)
    _options.add_backend(parser)
    _options.add_resources(parser)
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    check_name(args.sample, "--sample")
    _options.check_consent(args, args.sample, GERMLINE_CALLING)
    options = _options.align_options(args)
    threads, memory = _options.threads_of(args), _options.memory_of(args)
    _options.check_readable(args.reference, "reference")
    reads, processing = _options.reads_of(args), _options.processing_of(args)
    request = _options.call_request_of(args)
    _options.check_folder(args.outdir)
    _options.prepare_kernels(threads)
    backend = _options.backend_of(args)
    from megabolt.workflow.germline import run_germline

    run_germline(
        reference=args.reference,
        reads=reads,
        sample=args.sample,
        outdir=args.outdir,
        threads=threads,
        memory=memory,
        align_options=options,
        processing=processing,
        gvcf=args.gvcf,
        targets=args.targets,
        request=request,
        bam=args.bam,
        cram=args.cram,
        open_data=args.open_data,
        audit_log=args.audit_log,
        backend=backend,
    )
    return 0
