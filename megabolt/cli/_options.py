# SPDX-License-Identifier: Apache-2.0
"""Options that several subcommands share, and the checks that run before any work.

Nothing here opens a person's file: existence and permissions are looked at, the content is the job's
business, which holds a permit.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megabolt.errors import OutputError, UsageError
from megabolt.formats.output import check_writable
from megabolt.workflow.resources import allowed_threads, default_memory, parse_memory

if TYPE_CHECKING:
    from megabolt.compute.backend import Backend

log = logging.getLogger(__name__)

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
    parser.add_argument(
        "-1",
        dest="fastq_1",
        type=Path,
        nargs="+",
        required=True,
        metavar="R1.fq.gz",
        help="mate 1, one file per lane",
    )
    parser.add_argument(
        "-2",
        dest="fastq_2",
        type=Path,
        nargs="+",
        required=True,
        metavar="R2.fq.gz",
        help="mate 2, in the same order",
    )
    parser.add_argument(
        "--sample", required=True, metavar="S", help="the sample's name (SM in the BAM, column in the VCF)"
    )
    parser.add_argument(
        "--read-group",
        action="append",
        default=[],
        metavar="TEXT",
        help=r"'@RG\tID:lane1\tLB:lib1', once per FASTQ pair; default: one per pair, library = sample",
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


def check_pairs(fastq_1: Sequence[Path], fastq_2: Sequence[Path]) -> None:
    """As many files of mate 1 as of mate 2, all readable, none named twice."""
    if len(fastq_1) != len(fastq_2):
        raise UsageError(
            f"{len(fastq_1)} files after -1 and {len(fastq_2)} after -2",
            "Give both mates of each lane, in the same order.",
        )
    seen = set()
    for path in (*fastq_1, *fastq_2):
        check_readable(path, "FASTQ file")
        if path.resolve() in seen:
            raise UsageError(f"{path} is given twice", "Each FASTQ file stands once; -1 and -2 differ.")
        seen.add(path.resolve())


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
