# SPDX-License-Identifier: Apache-2.0
"""Call a cohort together: gVCFs of any number of samples in, one multi-sample VCF out.

Takes gVCFs of one sample each, bgzipped and indexed: those of `megabolt call --gvcf` and `megabolt germline --gvcf`,
GATK's (HaplotypeCaller -ERC GVCF) and others with <NON_REF> or <*>.

Order of operations:
  1. records of all samples are left-aligned and brought to one REF per site; deletions that reach over a site are *;
  2. likelihoods of each sample on the alleles of the site, from its records or its reference blocks;
  3. allele frequencies, genotypes, GQ and QUAL of the whole cohort;
  4. with --ped, genotypes of families together, by Mendel's laws; new mutations are marked.

A GVCF argument may also be a folder (its *.g.vcf.gz) or a list (.list, .txt, .tsv: one path per line; behind a tab the
declaration for this sample). To add samples later, run it again with their gVCFs added: nothing is called anew.

Example:
  megabolt joint results/ -o cohort.vcf.gz --reference GRCh38.fa --ped family.ped \\
      --open-data "J. Smith: HG002 to HG004 of Genome in a Bottle, open consent"
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from megabolt.cli import _options
from megabolt.errors import UsageError

log = logging.getLogger("megabolt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", type=Path, nargs="+", metavar="GVCF", help="gVCFs, folders of them, or lists")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="COHORT.vcf.gz", help="calls")
    parser.add_argument("--reference", type=Path, required=True, metavar="REF.fa", help="FASTA, plain or gzipped")
    parser.add_argument("--targets", type=Path, metavar="BED", help="call inside these regions only")
    parser.add_argument("--ped", type=Path, metavar="PED", help="pedigree: refine the genotypes of families")
    parser.add_argument(
        "--de-novo-rate",
        type=float,
        default=1e-6,
        metavar="P",
        help="how often a copy passed on has a new mutation at a site, with --ped (default: 1e-6)",
    )
    parser.add_argument(
        "--min-qual", type=float, default=3.0, metavar="Q", help="leave out sites with QUAL below this (default: 3)"
    )
    _options.add_resources(parser)
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    threads, memory = _options.threads_of(args), _options.memory_of(args)
    _options.check_readable(args.reference, "reference")
    for path, what in ((args.targets, "BED of targets"), (args.ped, "pedigree")):
        if path is not None:
            _options.check_readable(path, what)
    _options.check_output(args.output, (".vcf.gz",))
    if not 0 < args.de_novo_rate < 0.5:
        raise UsageError(f"--de-novo-rate {args.de_novo_rate}: not a rate", "Give a number such as 1e-6.")
    if not args.min_qual >= 0:
        raise UsageError(f"--min-qual {args.min_qual}: not a quality", "Give a number, 0 or more.")
    from megabolt.workflow.joint_job import list_inputs, run_joint

    for path, _ in list_inputs(args.inputs):
        _options.check_readable(path, "gVCF")
        if path.resolve() == args.output.resolve():
            raise UsageError(f"{path} is both input and output", "Name another output.")
    summary = run_joint(
        inputs=args.inputs,
        reference=args.reference,
        output=args.output,
        threads=threads,
        memory=memory,
        targets=args.targets,
        ped=args.ped,
        new_mutations=args.de_novo_rate,
        min_qual=args.min_qual,
        open_data=args.open_data,
        audit_log=args.audit_log,
    )
    log.info("%d samples, %d sites: %s", summary.n_samples, summary.n_sites, args.output)
    if summary.n_without_pl:
        log.warning(
            "%d records without PL are left out: joint calling weighs genotypes, and where a contig is called as a"
            " mixture (chrM) there are none", summary.n_without_pl,
        )  # fmt: skip
    if args.ped is not None:
        log.info("%d families refined, %d new mutations marked", summary.n_families, summary.n_new_mutations)
    report = summary.clock
    log.info(
        "%.1f s, %.1f CPU s, %.0f MB", report["seconds"]["total"], report["cpu_seconds"]["total"],
        report["peak_rss_bytes"] / 1e6,
    )  # fmt: skip
    return 0
