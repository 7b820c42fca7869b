# SPDX-License-Identifier: Apache-2.0
"""Call germline variants: BAM or CRAM in, VCF out.

Needs a coordinate-sorted, indexed BAM or CRAM of one sample with duplicates marked, aligned to the same
reference.

Order of operations:
  1. count what differs from the reference, and decide where to look closely;
  2. build haplotypes there from the reads' own alignments, and weigh each read against each haplotype;
  3. genotype, filter, split and left-align; SNPs and indels, one line per allele or site;
  4. with --targets or --region, keep what lies there: each record is the same whatever else is called.

X and Y of males have one copy outside the PAR; mitochondria are a mixture in which an allele may have any share.
`megabolt explain` says why a site is called as it is, or not.

Example:
  megabolt call --reference GRCh38.fa --bam S.bam -o S.vcf.gz --gvcf S.g.vcf.gz \\
      --open-data "J. Smith: HG002 of Genome in a Bottle, open consent"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megabolt.cli import _options
from megabolt.errors import UsageError
from megabolt.privacy.consent import GERMLINE_CALLING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _options.add_reference(parser)
    parser.add_argument("--bam", type=Path, required=True, metavar="S.bam", help="aligned reads, BAM or CRAM, indexed")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        required=True,
        metavar="S.vcf.gz",
        help="calls; S.vcf.gz.tbi comes with it",
    )
    parser.add_argument("--gvcf", type=Path, metavar="S.g.vcf.gz", help="also write how sure the rest is reference")
    _options.add_calling(parser, regions=True)
    _options.add_backend(parser)
    _options.add_resources(parser)
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    _options.check_consent(args, args.bam.stem, GERMLINE_CALLING)
    threads, memory = _options.threads_of(args), _options.memory_of(args)
    if args.gvcf is not None and args.gvcf.absolute() == args.output.absolute():
        raise UsageError(f"{args.output}: both -o and --gvcf name this file", "Give them two names.")
    _options.check_readable(args.reference, "reference")
    _options.check_readable(args.bam, "BAM or CRAM")
    request = _options.call_request_of(args)
    _options.check_output(args.output, (".vcf.gz",))
    if args.gvcf is not None:
        _options.check_output(args.gvcf, (".vcf.gz",))
    _options.prepare_kernels(threads)
    backend = _options.backend_of(args)
    from megabolt.workflow.germline import run_call

    run_call(
        reference=args.reference,
        bam=args.bam,
        output=args.output,
        gvcf=args.gvcf,
        targets=args.targets,
        request=request,
        threads=threads,
        memory=memory,
        open_data=args.open_data,
        audit_log=args.audit_log,
        backend=backend,
    )
    return 0
