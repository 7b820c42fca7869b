# SPDX-License-Identifier: Apache-2.0
"""Compare called variants with the truth: precision, recall and F1 for SNPs and indels.

Variants agree if they give the same two haplotypes, however they are written; genotypes are compared, phase
is not. Two records may together match one. The conventions are those of RTG vcfeval --ref-overlap.

Order of operations:
  1. read both VCFs; records that fail a filter are left out (--all-records keeps them), reference blocks too;
  2. check that REF is what the reference has;
  3. find the largest set of truth and called variants whose haplotypes are equal;
  4. count, inside the regions if a BED is given; records outside take part in matching only;
  5. look again at what disagrees: sites that share an allele have a wrong genotype (column "GT wrong").

An indel is a record with an alternative allele of another length than REF; all others are SNPs. With
--regions, a record is inside if it overlaps an interval, less the base that its alleles share in front.

Example:
  megabolt compare truth.vcf.gz calls.vcf.gz --reference GRCh38.fa --regions confident.bed \\
      --json counts.json --open-data "J. Smith: HG002 of Genome in a Bottle, open consent"
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from megabolt.cli import _options
from megabolt.errors import UsageError

log = logging.getLogger("megabolt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("truth", type=Path, metavar="TRUTH.vcf.gz", help="what is there")
    parser.add_argument("calls", type=Path, metavar="CALLS.vcf.gz", help="what was called")
    parser.add_argument("--reference", type=Path, required=True, metavar="REF.fa", help="FASTA, plain or gzipped")
    parser.add_argument("--regions", type=Path, metavar="BED", help="count inside these regions only")
    parser.add_argument(
        "--sample",
        metavar="S",
        help="sample of both VCFs, or TRUTH_SAMPLE,CALLS_SAMPLE (default: the first of each)",
    )
    parser.add_argument("--min-qual", type=float, metavar="Q", help="leave out calls with QUAL below this")
    parser.add_argument("--all-records", action="store_true", help="also use records that fail a filter")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts as JSON")
    parser.add_argument("--errors", type=Path, metavar="FILE.tsv", help="write a table of the missed and wrong records")
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    for path, what in (
        (args.truth, "truth VCF"),
        (args.calls, "VCF of calls"),
        (args.reference, "reference"),
    ):
        _options.check_readable(path, what)
    if args.regions is not None:
        _options.check_readable(args.regions, "BED of regions")
    for path, suffix in ((args.json, ".json"), (args.errors, ".tsv")):
        if path is not None:
            _options.check_output(path, (suffix,))
    truth_sample, calls_sample = _samples(args.sample)
    from megabolt.compare.job import CompareOptions, run_compare

    comparison = run_compare(
        args.truth,
        args.calls,
        args.reference,
        CompareOptions(args.regions, truth_sample, calls_sample, args.min_qual, args.all_records),
        json_path=args.json,
        errors_path=args.errors,
        open_data=args.open_data,
        audit_log=args.audit_log,
    )
    sys.stdout.write(comparison.table())
    for side, skipped in (("truth", comparison.skipped_truth), ("calls", comparison.skipped_calls)):
        for reason, count in sorted(skipped.items()):
            log.info("%s: %d records left out: %s", side, count, reason)
    if comparison.n_approximate:
        log.warning("%d places were too complex for a complete search", comparison.n_approximate)
    return 0


def _samples(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    names = text.split(",")
    if len(names) > 2 or not all(names):
        raise UsageError(f"--sample {text}: one name, or two with a comma between them", "Truth first.")
    return names[0], names[-1]
