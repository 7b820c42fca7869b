# SPDX-License-Identifier: Apache-2.0
"""Options that several subcommands share, and the checks that run before any work.

Nothing here opens a person's file: existence and permissions are looked at, the content is the job's
business, which holds a permit.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megabolt.errors import OutputError, UsageError
from megabolt.formats.lane import STANDARD_INPUT, UMI_SOURCES, FastqLane, name_of
from megabolt.formats.output import check_writable
from megabolt.workflow.call_request import EMIT, SEXES, CallRequest
from megabolt.workflow.resources import allowed_threads, default_memory, parse_memory

if TYPE_CHECKING:
    from megabolt.align.options import AlignOptions
    from megabolt.compute.backend import Backend
    from megabolt.workflow.processing import Processing
    from megabolt.workflow.read_input import ReadInput

log = logging.getLogger(__name__)

#: What `align.options.AlignOptions` knows; a test keeps them in step.
ADAPTERS = ("clip", "trim", "off")
POLY_G = ("auto", "on", "off")

#: What `formats.cram.VERSIONS` knows; a test keeps them in step.
CRAM_VERSIONS = ("3.0", "3.1")
TAGGING = ("off", "optical", "all")

#: A file name that says mate 1: S_R1.fq, S_R1_001.fastq.gz, S_1.fq.gz, R1.fq.
_MATE_1 = re.compile(r"(|.*[._-])(R?)1([._].*)")

#: The names of `compute.backend.Backend`, written out so that help costs no import; a test keeps them in step.
BACKENDS = ("auto", "numba", "opencl", "cuda", "reference")


def add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference",
        type=Path,
        required=True,
        metavar="REF.fa",
        help="reference genome (FASTA, plain or gzipped), with its index from `megabolt index` beside it",
    )


def add_fastq(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reads (each file or pair of files is a lane; - is the standard input)")
    group.add_argument(
        "-1",
        dest="fastq_1",
        type=Path,
        nargs="+",
        default=[],
        metavar="R1.fq.gz",
        help="mate 1, one file per lane; unpaired reads if there is no -2",
    )
    group.add_argument(
        "-2",
        dest="fastq_2",
        type=Path,
        nargs="+",
        default=[],
        metavar="R2.fq.gz",
        help="mate 2, in the same order",
    )
    group.add_argument(
        "--interleaved",
        type=Path,
        nargs="+",
        default=[],
        metavar="FQ",
        help="mate 1 and mate 2 of each pair in turn, one file per lane",
    )
    group.add_argument(
        "--single", type=Path, nargs="+", default=[], metavar="FQ", help="unpaired reads, one file per lane"
    )
    group.add_argument(
        "--bam",
        dest="bam_input",
        type=Path,
        metavar="IN.bam",
        help="instead of FASTQ: a BAM, CRAM or unaligned BAM in any order, whose reads are aligned anew; its read"
        " groups are kept, its original qualities (OQ) are taken where it has them",
    )
    group.add_argument(
        "--bam-reference", type=Path, metavar="OLD.fa", help="what a CRAM after --bam was made with, if not --reference"
    )
    group.add_argument(
        "--sample", required=True, metavar="S", help="the sample's name (SM in the BAM, column in the VCF)"
    )
    group.add_argument(
        "--read-group",
        action="append",
        default=[],
        metavar="TEXT",
        help=r"'@RG\tID:lane1\tLB:lib1', once per lane: those of -1 and -2, --interleaved, --single;"
        " default: one per lane, library = sample",
    )
    add_umi(group)


def add_umi(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--umi",
        choices=UMI_SOURCES,
        help="each read has a UMI behind the last ':' or '_' of its name, or in a word RX:Z:... or UMI:... of its"
        " comment (with --bam: in its tag RX); it becomes the tag RX, and tells duplicates apart",
    )


def add_alignment(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("alignment")
    group.add_argument(
        "--adapters",
        choices=ADAPTERS,
        default="clip",
        help="adapters, found by the overlap of mates: soft-clip them, leave them out of the records, or align them"
        " like other bases (default: clip)",
    )
    group.add_argument(
        "--poly-g",
        choices=POLY_G,
        default="auto",
        help="take runs of G at the ends of reads for adapters; auto: if the names are those of a machine with two"
        " colours (default: auto)",
    )
    group.add_argument(
        "--soft-clip", action="store_true", help="supplementary records hold the whole read, soft-clipped"
    )
    group.add_argument(
        "--xa",
        type=int,
        default=0,
        metavar="N",
        help="list other places of a read in its tag XA if there are at most N (default: 0, never)",
    )
    group.add_argument(
        "--no-alt",
        dest="alt",
        action="store_false",
        help="take ALT contigs for ordinary ones, also if REF.fa.alt is there",
    )
    return group


def add_cram(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--cram", action="store_true", help="write S.cram instead of S.bam")


def add_reads_choices(parser: argparse.ArgumentParser) -> None:
    """What a run of many samples offers of `add_processing`."""
    group = parser.add_argument_group("reads")
    add_cram(group)
    _add_duplicates(group)
    _add_bqsr(group)


def _add_duplicates(group: argparse._ActionsContainer) -> None:
    group.add_argument("--remove-duplicates", action="store_true", help="leave them out instead of marking them")
    group.add_argument(
        "--optical-distance",
        type=int,
        default=100,
        metavar="PIXELS",
        help="largest distance of optical duplicates on the flow cell; 2500 for patterned ones (default: 100)",
    )


def _add_bqsr(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--bqsr",
        type=Path,
        nargs="+",
        default=[],
        metavar="KNOWN.vcf.gz",
        help="recalibrate base qualities; known variants are no errors (default: qualities stay as they are)",
    )


def add_processing(parser: argparse.ArgumentParser) -> None:
    """Duplicates, recalibration, and how reads are written."""
    group = parser.add_argument_group("duplicates")
    _add_duplicates(group)
    group.add_argument(
        "--tag-duplicates",
        choices=TAGGING,
        default="off",
        help="tag DT says of what kind a duplicate is: SQ optical, LB of the library (default: off)",
    )
    group.add_argument(
        "--umi-mismatches",
        type=int,
        choices=(0, 1),
        default=1,
        help="a UMI is taken for a misread one of a more frequent one if so many bases differ (default: 1)",
    )
    group.add_argument("--duplex-umi", action="store_true", help="UMIs are of both strands: A-B here is B-A there")
    group = parser.add_argument_group("base quality recalibration (as GATK's BaseRecalibrator and ApplyBQSR)")
    _add_bqsr(group)
    group.add_argument(
        "--quantize-quals", type=int, default=0, metavar="N", help="write so many different qualities (default: all)"
    )
    group.add_argument(
        "--static-quals", type=int, nargs="+", default=[], metavar="Q", help="round qualities to these, as 10 20 30 40"
    )
    group.add_argument("--keep-original-quals", action="store_true", help="write the former qualities to the tag OQ")
    group = parser.add_argument_group("written reads")
    group.add_argument(
        "--compression", type=int, metavar="0-9", help="level of the BAM or CRAM (default: 1 for BAM, which is fast)"
    )
    group.add_argument(
        "--cram-version", choices=CRAM_VERSIONS, default=CRAM_VERSIONS[0], help=f"(default: {CRAM_VERSIONS[0]})"
    )
    group.add_argument("--md5", action="store_true", help="also write the MD5 of the file, for md5sum -c")


def add_metrics_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        type=Path,
        metavar="DIR",
        help="count metrics and write them there, in files that MultiQC knows (default: none)",
    )


def add_threads(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--threads",
        metavar="N",
        help=f"processors to use (default: those this process may use, {allowed_threads()})",
    )


def add_resources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("resources")
    add_threads(group)
    group.add_argument(
        "--memory", metavar="8G", help="memory to stay within (default: three quarters of what is allowed)"
    )
    group.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="folder for what memory does not hold (default: that of the output)",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="numba",
        help="how the caller's kernels are computed; auto takes a GPU if there is one (default: numba)",
    )


def add_consent(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("consent (no data of a person is opened without)")
    group.add_argument(
        "--open-data",
        metavar="TEXT",
        help='declare that the data are simulated or openly consented: "who says so and why"; recorded',
    )
    group.add_argument(
        "--audit-log",
        type=Path,
        metavar="FILE",
        help="append-only record of accesses (default: $MEGABOLT_AUDIT_LOG, else in ~/.local/state)",
    )


def threads_of(args: argparse.Namespace) -> int:
    """`--threads` as a number, at least 1."""
    if args.threads is None:
        return allowed_threads()
    try:
        n_threads = int(args.threads)
    except ValueError:
        n_threads = 0
    if n_threads < 1:
        raise UsageError(f"--threads {args.threads}: not a number of threads", "Give a whole number, at least 1.")
    return n_threads


def backend_of(args: argparse.Namespace) -> Backend:
    """`--backend`, resolved; what auto chose is logged with its reason."""
    from megabolt.compute.backend import resolve

    backend, why = resolve(args.backend)
    if args.backend == "auto":
        log.info("backend %s: %s", backend.value, why)
    return backend


def memory_of(args: argparse.Namespace) -> int:
    """`--memory` in bytes."""
    return default_memory() if args.memory is None else parse_memory(args.memory)


def prepare_kernels(threads: int) -> None:
    """Compile the kernels if this machine has not done so yet: it takes a minute or two, and is said."""
    from megabolt.compute.warmup import is_warm, warm_up

    if not is_warm():
        log.info("compiling kernels for this machine, once: a minute or two")
        warm_up(threads)


def check_consent(args: argparse.Namespace, subject: str, purpose: str) -> None:
    """Refuse at once what would be refused when the data are opened."""
    from megabolt.privacy.consent import check

    check(subject, purpose, open_data=args.open_data, audit_log=args.audit_log)


def check_readable(path: Path, what: str) -> None:
    """Raise `UsageError` unless the path is a file that may be read; it is not opened."""
    if path.is_dir():
        raise UsageError(f"{path}: the {what} is a folder", "Name a file.")
    if not path.exists():
        raise UsageError(f"{path}: the {what} does not exist", "Check the path.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path}: no permission to read the {what}", "Ask its owner, or use a copy.")


def add_calling(parser: argparse.ArgumentParser, *, regions: bool) -> None:
    """What is called where; `regions`: the reads are in an indexed file."""
    group = parser.add_argument_group("what is called")
    group.add_argument("--targets", type=Path, metavar="BED", help="only records that touch these regions")
    group.add_argument("--padding", type=int, default=0, metavar="N", help="bases added around --targets (default 0)")
    if regions:
        group.add_argument(
            "--region",
            action="append",
            default=[],
            metavar="CHR:A-B",
            help="only records that begin here (1-based, inclusive); may be given several times",
        )
    group.add_argument(
        "--sex",
        choices=SEXES,
        default="auto",
        help="copies of X and Y: male, one of each outside the PAR; female, two X, Y is not called;"
        " auto, from the coverage (default)",
    )
    group.add_argument("--par", type=Path, metavar="BED", help="pseudoautosomal regions; known for GRCh37 and GRCh38")
    group.add_argument(
        "--mito-contig",
        metavar="NAME",
        help="contig that is called as a mixture, with the share of each allele; default: chrM, MT",
    )
    group.add_argument(
        "--alleles", type=Path, metavar="VCF", help="alleles that are looked at and written in any case, also 0/0"
    )
    group.add_argument(
        "--dbsnp", type=Path, metavar="VCF.gz", help="known variants, bgzipped and indexed, whose IDs are filled in"
    )
    group.add_argument(
        "--emit", choices=EMIT, default="variants", help="variants (default), or a record for each position"
    )


def call_request_of(args: argparse.Namespace) -> CallRequest:
    """What `add_calling` has asked for."""
    if args.padding < 0:
        raise UsageError(f"--padding {args.padding}: not a number of bases", "Give 0 or more.")
    if args.padding > 0 and args.targets is None:
        raise UsageError("--padding says how far beyond --targets to call, which are not given", "Give --targets BED.")
    files = ((args.targets, "BED of targets"), (args.par, "BED of the PAR"), (args.alleles, "VCF of alleles"))
    for path, what in (*files, (args.dbsnp, "VCF of known variants")):
        if path is not None:
            check_readable(path, what)
    return CallRequest(
        sex=args.sex,
        par=args.par,
        mito_contig=args.mito_contig,
        padding=args.padding,
        regions=tuple(getattr(args, "region", ())),
        alleles=args.alleles,
        dbsnp=args.dbsnp,
        all_sites=args.emit == "all-sites",
    )


def align_options(args: argparse.Namespace) -> AlignOptions:
    """What `add_alignment` has asked for."""
    from megabolt.align.options import AlignOptions

    if args.xa < 0:
        raise UsageError(f"--xa {args.xa}: not a number of places", "Give 0 or more.")
    return AlignOptions(args.adapters, args.poly_g, args.soft_clip, args.xa, args.alt)


def processing_of(args: argparse.Namespace) -> Processing:
    """What `add_processing` and `add_resources` have asked for."""
    from megabolt.reads.bins import NO_TAG, TAG_ALL, TAG_OPTICAL, Finish
    from megabolt.reads.duplicates.finder import DuplicateOptions
    from megabolt.recalibrate import ApplyOptions
    from megabolt.workflow.processing import Processing

    for path in args.bqsr:
        check_readable(path, "VCF of known variants")
    if not args.bqsr and (args.quantize_quals or args.static_quals or args.keep_original_quals):
        raise UsageError(
            "options of recalibration without --bqsr", "Name known variants with --bqsr, or leave these options out."
        )
    if args.scratch is not None:
        if not args.scratch.is_dir():
            raise UsageError(f"{args.scratch}: no such folder", "Make it first, or name another with --scratch.")
        check_writable(args.scratch)
    return Processing(
        duplicates=DuplicateOptions(
            optical_distance=args.optical_distance, umi_mismatches=args.umi_mismatches, duplex=args.duplex_umi
        ),
        finish=Finish(
            remove=args.remove_duplicates,
            tagging={"off": NO_TAG, "optical": TAG_OPTICAL, "all": TAG_ALL}[args.tag_duplicates],
        ),
        known_sites=tuple(args.bqsr),
        recalibration=ApplyOptions(
            quantize_levels=args.quantize_quals,
            static_levels=tuple(args.static_quals),
            keep_original=args.keep_original_quals,
        ),
        level=args.compression,
        cram_version=args.cram_version,
        md5=args.md5,
        scratch=args.scratch,
    )


def reads_of(args: argparse.Namespace) -> ReadInput:
    """FASTQ lanes with their read groups, or the file after --bam."""
    from megabolt.workflow.read_groups import read_groups
    from megabolt.workflow.read_input import AlignmentInput, FastqInput

    if args.bam_input is None:
        lanes = lanes_of(args)
        return FastqInput(tuple(lanes), read_groups(args.sample, args.read_group, len(lanes)), args.umi)
    for name, given in (("-1", args.fastq_1), ("--interleaved", args.interleaved), ("--single", args.single)):
        if given:
            raise UsageError(f"--bam and {name} together", "Give reads as FASTQ, or as one BAM or CRAM.")
    if args.read_group:
        raise UsageError("--bam and --read-group together", "The read groups are those of the file.")
    check_readable(args.bam_input, "file of reads")
    if args.bam_reference is not None:
        check_readable(args.bam_reference, "reference of the CRAM")
    return AlignmentInput(args.bam_input, args.bam_reference, umi=args.umi is not None)


def lanes_of(args: argparse.Namespace) -> list[FastqLane]:
    """The lanes in the order of -1 and -2, --interleaved, --single: all readable, none named twice."""
    if args.fastq_2 and len(args.fastq_1) != len(args.fastq_2):
        raise UsageError(
            f"{len(args.fastq_1)} files after -1 and {len(args.fastq_2)} after -2",
            "Give both mates of each lane, in the same order; unpaired reads come after --single.",
        )
    lanes = [FastqLane(one, two) for one, two in zip(args.fastq_1, args.fastq_2 or [None] * len(args.fastq_1))]
    lanes += [FastqLane(path, interleaved=True) for path in args.interleaved]
    lanes += [FastqLane(path) for path in args.single]
    if not lanes:
        raise UsageError("no reads are given", "Name FASTQ files with -1 and -2, --interleaved or --single.")
    seen = set()
    for path in (path for lane in lanes for path in lane.files):
        if path == STANDARD_INPUT:
            _check_standard_input()
        else:
            check_readable(path, "FASTQ file")
        if path.resolve() in seen:
            raise UsageError(f"{name_of(path)} is given twice", "Each FASTQ file stands once; -1 and -2 differ.")
        seen.add(path.resolve())
    if not args.fastq_2:
        for path in args.fastq_1:
            _refuse_forgotten_mate(path, seen)
    return lanes


def _check_standard_input() -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("the standard input is a terminal, not FASTQ", "Pipe FASTQ into the command.")


def _refuse_forgotten_mate(path: Path, given: set[Path]) -> None:
    """x_R1.fq.gz without -2 while x_R2.fq.gz lies beside it: half of the data would be lost without a word."""
    found = _MATE_1.fullmatch(path.name)
    if found:
        mate = path.with_name(f"{found[1]}{found[2]}2{found[3]}")
        if mate.exists() and mate.resolve() not in given:
            raise UsageError(
                f"{path} is given without a mate file, but {mate.name} lies beside it",
                "Name it with -2; if mate 1 alone is meant, name that with --single.",
            )


def check_output(path: Path, suffixes: Sequence[str]) -> None:
    """The file has one of the suffixes and its folder can be written to."""
    if not path.name.endswith(tuple(suffixes)) or path.name in suffixes:
        raise UsageError(f"{path}: the name must end in {' or '.join(suffixes)}", "The suffix chooses the format.")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder, so {path.name} cannot be written", "Make the folder first.")
    check_writable(path.parent)


def check_folder(path: Path) -> None:
    """The folder can be written to, or could be made: nothing is made here, a refused run leaves no trace."""
    ancestor = path.absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise OutputError(f"{path}: cannot be made, {ancestor} is a file", "Choose another folder for --outdir.")
    check_writable(ancestor)
