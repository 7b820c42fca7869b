# SPDX-License-Identifier: Apache-2.0
"""Build the index of a reference genome.

Writes REF.fa.mbx next to the FASTA: the genome in two bits per base, its contigs with their MD5, and the
table of seeds; up to 3.6 bytes per base. All other commands need it. The file appears when it is complete; an
existing one is replaced. An index of another FASTA, of another version of megabolt, or a damaged one is refused by
the commands that use it.

Alternate contigs are those named in REF.fa.alt beside the FASTA, if there is such a file (as for bwa).

Building takes about 2 bytes of memory per base.

Example:
  megabolt index GRCh38.fa --circular chrM
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megabolt.cli._options import check_readable, threads_of
from megabolt.formats.output import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", type=Path, metavar="REF.fa", help="reference genome (FASTA, plain or gzipped)")
    parser.add_argument(
        "--circular", metavar="NAME", help="contig that is a circle: reads across its end are placed (default: none)"
    )
    parser.add_argument("--threads", metavar="N", help="processors to use (default: those that are allowed)")


def main(args: argparse.Namespace) -> int:
    threads = threads_of(args)
    check_readable(args.reference, "reference")
    check_writable(args.reference.absolute().parent)
    from megabolt.align.index import build_index

    print(build_index(args.reference, threads, args.circular))
    return 0
