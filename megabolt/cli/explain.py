# SPDX-License-Identifier: Apache-2.0
"""Explain a site: why a variant was called there, or why not.

Calls the place as `megabolt call` does, with the same code and the same reads, and prints what was done: the reads,
those that were left out and why, candidates, window, haplotypes, likelihoods, genotypes, the record, and which
threshold decided. With --allele it says where that allele was lost.

Examples:
  megabolt explain --reference GRCh38.fa --bam S.bam --site chr20:10001436 --html site.html \\
      --open-data "J. Smith: HG002 of Genome in a Bottle, open consent"
  megabolt explain --reference GRCh38.fa --bam S.bam --site chr20:10001436 --allele 'CAT>C' --open-data "..."
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from megabolt.cli import _options
from megabolt.errors import UsageError
from megabolt.privacy.consent import GERMLINE_CALLING
from megabolt.workflow.call_request import SEXES, CallRequest

log = logging.getLogger(__name__)

#: Bases drawn on both sides of the site, at most.
_WIDEST = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _options.add_reference(parser)
    parser.add_argument("--bam", type=Path, required=True, metavar="S.bam", help="aligned reads, BAM or CRAM, indexed")
    parser.add_argument("--site", required=True, metavar="CHR:POS", help="the place, 1-based")
    parser.add_argument(
        "--allele", metavar="'REF>ALT'", help="an allele that begins at the place, as in a VCF: where was it lost?"
    )
    parser.add_argument("--html", type=Path, metavar="S.html", help="also write a page with the reads drawn")
    parser.add_argument(
        "--flank", type=int, default=60, metavar="N", help="bases drawn on both sides of the place (default: 60)"
    )
    group = parser.add_argument_group("as given to `megabolt call`")
    group.add_argument("--sex", choices=SEXES, default="auto", help="copies of X and Y (default: from the coverage)")
    group.add_argument("--par", type=Path, metavar="BED", help="pseudoautosomal regions")
    group.add_argument("--mito-contig", metavar="NAME", help="contig that is called as a mixture")
    group.add_argument("--alleles", type=Path, metavar="VCF", help="alleles that are looked at in any case")
    _options.add_backend(parser)
    _options.add_threads(parser)
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    _options.check_consent(args, args.bam.stem, GERMLINE_CALLING)
    threads = _options.threads_of(args)
    if not 1 <= args.flank <= _WIDEST:
        raise UsageError(f"--flank {args.flank}: not a number of bases from 1 to {_WIDEST}", "The default is 60.")
    _options.check_readable(args.reference, "reference")
    _options.check_readable(args.bam, "BAM or CRAM")
    for path, what in ((args.par, "BED of the PAR"), (args.alleles, "VCF of alleles")):
        if path is not None:
            _options.check_readable(path, what)
    if args.html is not None:
        _options.check_output(args.html, (".html",))
    from megabolt.workflow.explain_job import read_question, run_explain
    from megabolt.workflow.explain_text import text_of

    question = read_question(args.site, args.allele)
    _options.prepare_kernels(threads)
    found, sample = run_explain(
        reference=args.reference,
        bam=args.bam,
        question=question,
        page=args.html,
        flank=args.flank,
        request=CallRequest(sex=args.sex, par=args.par, mito_contig=args.mito_contig, alleles=args.alleles),
        open_data=args.open_data,
        audit_log=args.audit_log,
        backend=_options.backend_of(args),
        say=log.info,
    )
    print(text_of(found, sample), end="")
    return 0
