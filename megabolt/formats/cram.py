# SPDX-License-Identifier: Apache-2.0
"""CRAM by way of htslib: decoded into memory, encoded from a BAM file."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pysam
from pysam.utils import SamtoolsError

from megabolt.errors import InputFormatError, OutputError, UsageError
from megabolt.formats.fasta import Contig
from megabolt.formats.inflate import InputStream

#: The last bytes of a whole file, by major version (CRAM specification, chapter 9).
_END = {
    2: bytes.fromhex("0b000000ffffffff0fe0454f460000000001000001000606010001000100"),
    3: bytes.fromhex("0f000000ffffffff0fe0454f4600000000010005bdd94f0001000606010001000100ee63014b"),
}
#: Versions of the format that can be written.
VERSIONS = ("3.0", "3.1")
_RIGHT_FASTA = "Name the FASTA the reads were aligned to."
_PIECE = 1 << 22  # bases looked at together
_samtools = threading.Lock()


def check_end(path: Path) -> None:
    """Raise `InputFormatError` unless the file is a CRAM that ends as whole files of its version do."""
    try:
        with open(path, "rb") as file:
            head = file.read(26)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64))
            tail = file.read()
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        raise InputFormatError(path, "", why, "Check the path and its permissions.") from error
    if head[:4] != b"CRAM":
        raise InputFormatError(path, "byte 0", "not a CRAM file", "Name a BAM or CRAM file.")
    if len(head) < 26 or not tail.endswith(_END.get(head[4], b"")):
        why = "the end-of-file container is missing: the file is truncated"
        raise InputFormatError(path, f"byte {size}", why, "Make it again, or copy it again.")


@contextmanager
def decoded(path: Path, reference: Path, region: str = "", *, header_only: bool = False) -> Iterator[Path]:
    """A CRAM file, or a region of it, as BAM in a file that has no name and never reaches a disk.

    Raises
    ------
    InputFormatError
        It cannot be decoded: damaged, or another reference.
    """
    with _memory_file() as target:
        # with -T htslib would put the reference's lengths into the header, so the header is asked for without
        what = ["-H"] if header_only else ["-T", str(reference)]
        options = ["-u", "-b", "-o", str(target), *what]
        try:
            with _one_at_a_time():
                pysam.view(*options, str(path), *([region] if region else []), catch_stdout=False)
        except SamtoolsError as error:
            why = f"cannot be decoded ({last_line(error)})"
            raise InputFormatError(path, "", why, "Is it whole, and is this its reference?") from error
        yield target


def check_reference(fasta: Path, contigs: Sequence[Contig], shown: Path, reads: Path) -> None:
    """Raise unless an indexed FASTA (called `shown` in messages) has all the contigs: lengths, and MD5 where known.

    `reads`: the file whose contigs they are.

    htslib writes a CRAM without reference where a contig is missing, and one that cannot be read with the true
    reference where its sequence is another, and does not say so. Reads the whole FASTA: 10 s for a human genome.
    """
    rows = [line.split("\t") for line in Path(f"{fasta}.fai").read_text().splitlines()]
    lengths = {row[0]: int(row[1]) for row in rows}
    for contig in contigs:
        if lengths.get(contig.name) != contig.length:
            why = f"the reference has no contig {contig.name} of {contig.length} bases, as {reads} does"
            raise InputFormatError(shown, "", why, _RIGHT_FASTA)
    with pysam.FastaFile(str(fasta)) as file:
        for contig in contigs:
            if contig.md5 and _md5_of(file, contig) != contig.md5:
                why = f"contig {contig.name} has another sequence in {reads} (M5 differs)"
                raise InputFormatError(shown, "", why, _RIGHT_FASTA)


def _md5_of(file: pysam.FastaFile, contig: Contig) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, contig.length, _PIECE):
        digest.update(file.fetch(contig.name, start, min(start + _PIECE, contig.length)).upper().encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class CramOptions:
    """How to encode.

    Attributes
    ----------
    version
        "3.0", which everything reads, or "3.1": smaller, and unknown to older programs.
    level
        0 to 9; None: htslib's own choice.
    """

    version: str = "3.0"
    level: int | None = None

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise UsageError(f"CRAM {self.version} cannot be written", f"Choose {' or '.join(VERSIONS)}.")


def encode(bam: Path, fasta: Path, cram: Path, crai: Path, threads: int, shown: Path, options: CramOptions) -> None:
    """Make a CRAM and its index from a sorted BAM.

    Parameters
    ----------
    fasta
        As `indexed_reference` gives it, and `check_reference` accepts it.
    shown
        The name for messages.

    Raises
    ------
    OutputError
        The disk is full, or the reference is not the one of the BAM.
    """
    # NM stays in the file, for 0.4 % of its size: htslib can make it again from the reference, htsjdk cannot
    words = ["-C", "--no-PG", "--output-fmt-option", f"version={options.version}", "--output-fmt-option", "store_nm=1"]
    words += ["-@", str(max(0, threads - 1))]
    if options.level is not None:
        words += ["--output-fmt-option", f"level={options.level}"]
    try:
        with _one_at_a_time():
            pysam.view(*words, "-T", str(fasta), "-o", str(cram), str(bam), catch_stdout=False)
            pysam.index("-o", str(crai), str(cram))
    except SamtoolsError as error:
        why = f"{shown} cannot be written as CRAM: {last_line(error)}"
        raise OutputError(why, "Check the disk, and that the reference is the aligner's.") from error


@contextmanager
def indexed_reference(fasta: Path) -> Iterator[Path]:
    """A FASTA that htslib can use: with its .fai, and inflated unless it is bgzip with its .gzi.

    If these are missing beside the file, a link or a copy in a private folder serves.
    """
    if Path(f"{fasta}.fai").exists() and (fasta.suffix != ".gz" or Path(f"{fasta}.gzi").exists()):
        yield fasta
        return
    with tempfile.TemporaryDirectory(prefix="megabolt-") as folder, InputStream(fasta) as stream:
        private = Path(folder) / "reference.fa"
        if stream.is_gzip:
            with open(private, "wb") as file:
                buffer = bytearray(1 << 20)
                while n := stream.readinto(buffer):
                    file.write(memoryview(buffer)[:n])
        else:
            private.symlink_to(fasta.resolve())
        with _one_at_a_time():
            pysam.faidx(str(private))
        yield private


def last_line(error: Exception) -> str:
    """The last line that samtools wrote before it failed."""
    lines = [line for line in str(error).replace("\\n", "\n").splitlines() if line.strip(" '\"")]
    return lines[-1].strip() if lines else "samtools failed"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """samtools inside pysam keeps its state in globals. It says little, and looks for references nowhere else."""
    with _samtools:
        before = os.environ.get("REF_PATH")
        os.environ["REF_PATH"] = os.devnull  # else a missing reference may be asked for over the network
        verbosity = pysam.set_verbosity(0)
        try:
            yield
        finally:
            pysam.set_verbosity(verbosity)
            if before is None:
                del os.environ["REF_PATH"]
            else:
                os.environ["REF_PATH"] = before


@contextmanager
def _memory_file() -> Iterator[Path]:
    """A file in memory, or a private one in the temporary folder where the system has no such thing."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("megabolt")
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="megabolt-") as folder:  # mode 0700
        yield Path(folder) / "decoded.bam"
