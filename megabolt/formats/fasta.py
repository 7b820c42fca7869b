# SPDX-License-Identifier: Apache-2.0
"""The reference genome: FASTA in, base codes in memory out.

In: FASTA, plain, gzip or bgzip. Out: `FastaReference` (codes 0..4 of it all). Next: `megabolt.align.index`
packs it to 2 bits; the caller asks either of them for stretches through the `Reference` protocol.

A reference is nobody's data: no permit is asked for.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U, equal_mask64
from megabolt.compute.jit import kernel
from megabolt.errors import InputFormatError
from megabolt.formats.bases import CODE_OF_ASCII, N
from megabolt.formats.inflate import InputStream

#: Reference names that SAM allows (specification 1.2.1).
_NAME = re.compile(rb"[0-9A-Za-z!#$%&+./:;?@^_|~-][0-9A-Za-z!#$%&*+./:;=?@^_|~-]*\Z")
_LONGEST_CONTIG = (1 << 31) - 1  # SAM's limit

#: ASCII -> upper-case letter of the IUPAC nucleotide code (U and X too); 0 where no base can be meant.
_UPPER: NDArray[np.uint8] = np.zeros(256, np.uint8)
for _letter in b"ACGTUNRYSWKMBDHVX":
    _UPPER[[_letter, _letter + 32]] = _letter


@dataclass(frozen=True)
class Contig:
    """A reference sequence: name, length in bases, MD5 of its upper-case letters (M5 in SAM)."""

    name: str
    length: int
    md5: str


class Reference(Protocol):
    """What aligner, caller and writers need of a reference, whatever form it is kept in."""

    @property
    def contigs(self) -> tuple[Contig, ...]:
        """The contigs in the order of the FASTA."""

    @property
    def path(self) -> Path:
        """The FASTA file."""

    def fetch(self, contig: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Codes 0..4 (uint8 [stop - start]); places outside the contig are N."""


@dataclass(frozen=True)
class FastaReference:
    """A whole genome in memory, one byte a base.

    Attributes
    ----------
    path
        The FASTA file.
    contigs
        In the order of the file.
    codes
        uint8, codes 0..4 of all contigs one after another; PADDING bytes behind them.
    offsets
        int64 [n_contigs + 1], where each contig begins in `codes`.
    """

    path: Path
    contigs: tuple[Contig, ...]
    codes: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def fetch(self, contig: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Codes 0..4 (uint8 [stop - start], a copy); places outside the contig are N."""
        fetched = np.full(max(0, stop - start), N, np.uint8)
        low, high = max(0, start), min(stop, self.contigs[contig].length)
        if low < high:
            first = int(self.offsets[contig])
            fetched[low - start : high - start] = self.codes[first + low : first + high]
        return fetched

    def contig_index(self, name: str) -> int:
        """The ordinal of a contig; `KeyError` if there is none of that name."""
        for i, contig in enumerate(self.contigs):
            if contig.name == name:
                return i
        raise KeyError(name)


def read_fasta(path: Path | str) -> FastaReference:
    """Read a whole genome.

    Lower case is the same base; IUPAC ambiguity codes, U and X become N. Line lengths may differ, empty lines
    and CRLF are accepted. A contig's name is the first word of its header.

    Raises
    ------
    InputFormatError
        Not FASTA, empty, sequence before the first header, a name twice or not allowed in SAM, a contig
        without sequence or of 2^31 bases or more, a character that is no base; names the line.
    """
    path = Path(path)
    with InputStream(path) as stream:
        data = stream.read_all()
    size = len(data) - PADDING
    headers = _headers(path, data, size)
    names = _names(path, data, headers)
    first_base = np.zeros(len(headers) + 1, np.int64)
    fault = np.zeros(2, np.int64)
    n_bases = int(_compact(data, size, _UPPER, headers, first_base, fault))
    if n_bases < 0:
        raise _not_a_base(path, int(fault[0]), int(fault[1]))
    contigs = tuple(
        _contig(path, name, int(headers[i, 2]), data[first_base[i] : first_base[i + 1]]) for i, name in enumerate(names)
    )
    _encode(data, n_bases, CODE_OF_ASCII)
    data[n_bases : n_bases + PADDING] = N
    return FastaReference(path, contigs, data[: n_bases + PADDING], first_base)


def _headers(path: Path, data: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    """int64 [n_contigs, 3]: first byte after '>', end of the line, number of the line."""
    line, i = 1, 0
    while i < size and data[i] in b"\r\n":
        line += data[i] == 10
        i += 1
    if i == size:
        raise InputFormatError(path, "", "the file is empty", "Check how it was made or copied.")
    if data[i] != ord(">"):
        why = "FASTQ, not FASTA" if data[i] == ord("@") else "sequence before the first header: not FASTA"
        raise InputFormatError(path, f"line {line}", why, "A FASTA begins with a line like >chr1.")
    headers = np.empty((1 << 12, 3), np.int64)
    while (n := int(_find_headers(data, size, headers))) > len(headers):
        headers = np.empty((n, 3), np.int64)
    return headers[:n].copy()


def _names(path: Path, data: NDArray[np.uint8], headers: NDArray[np.int64]) -> list[str]:
    seen: dict[str, int] = {}
    for start, stop, line in headers.tolist():
        words = data[start:stop].tobytes().split(maxsplit=1)
        name = words[0] if words and data[start] not in b" \t" else b""
        if not _NAME.match(name):
            why = f"the contig name {name.decode('ascii', 'replace')!r} is empty or not allowed in SAM files"
            raise InputFormatError(path, f"line {line}", why, "Rename the contig.")
        text = name.decode("ascii")
        if text in seen:
            why = f"contig {text} again (first in line {seen[text]})"
            raise InputFormatError(path, f"line {line}", why, "Give each contig its own name.")
        seen[text] = line
    return list(seen)


def _contig(path: Path, name: str, line: int, letters: NDArray[np.uint8]) -> Contig:
    if len(letters) == 0:
        why = f"contig {name} has no sequence"
        raise InputFormatError(path, f"line {line}", why, "Remove it, or check that the file is whole.")
    if len(letters) > _LONGEST_CONTIG:
        why = f"contig {name} is longer than SAM allows (2^31 - 1 bases)"
        raise InputFormatError(path, f"line {line}", why, "Split the contig.")
    return Contig(name, len(letters), hashlib.md5(letters.data, usedforsecurity=False).hexdigest())


def _not_a_base(path: Path, line: int, byte: int) -> InputFormatError:
    shown = repr(chr(byte)) if 32 <= byte < 127 else f"byte {byte}"
    return InputFormatError(path, f"line {line}", f"{shown} is not a base", "Is this a nucleotide FASTA?")


@kernel("int64(uint8[::1], int64, int64[:, ::1])")
def _find_headers(data: Any, size: Any, headers: Any) -> Any:
    """Fill (first byte after '>', end of line, line number) of each header; returns how many there are.

    More than fit are counted, not stored.
    """
    n, line, at_line_start, open_header = 0, 1, True, False
    block = 0
    while block < size:
        mask = equal_mask64(data, block, np.uint8(10))
        if block == 0 or open_header or at_line_start or mask != U(0):
            for i in range(block, min(block + 64, size)):
                c = data[U(i)]
                if at_line_start and c == 62:  # '>'
                    if n < len(headers):
                        headers[n, 0] = i + 1
                        headers[n, 1] = size
                        headers[n, 2] = line
                    open_header = True
                    n += 1
                at_line_start = c == 10
                if c == 10:
                    if open_header and n <= len(headers):
                        headers[n - 1, 1] = i
                    open_header = False
                    line += 1
        block += 64
    return n


@kernel("int64(uint8[::1], int64, uint8[::1], int64[:, ::1], int64[::1], int64[::1])")
def _compact(data: Any, size: Any, upper: Any, headers: Any, first_base: Any, fault: Any) -> Any:
    """Move all bases to the front of `data`, in upper case; fills `first_base` of each contig.

    Returns the number of bases, or -1 with `fault` = (line, byte) at a character that is no base.
    """
    n = 0
    for contig in range(len(headers)):
        first_base[contig] = n
        stop = headers[contig + 1, 0] - 1 if contig + 1 < len(headers) else size
        line = headers[contig, 2]
        for i in range(headers[contig, 1], stop):
            c = data[U(i)]
            letter = upper[c]
            if letter != 0:
                data[U(n)] = letter  # n <= i: what is overwritten was read before
                n += 1
            elif c == 10:
                line += 1
            elif c != 13 or (i + 1 < size and data[U(i + 1)] != 10):
                fault[0] = line
                fault[1] = c
                return -1
    first_base[len(headers)] = n
    return n


@kernel("void(uint8[::1], int64, uint8[::1])")
def _encode(data: Any, n: Any, code_of_ascii: Any) -> Any:
    for i in range(n):
        data[U(i)] = code_of_ascii[data[U(i)]]
