# SPDX-License-Identifier: Apache-2.0
"""The reference genome: FASTA in, base codes out, contig by contig or all in memory.

In: FASTA, plain, gzip or bgzip. Out: contigs (`read_contigs`), `FastaReference` (codes 0..4 of it all). Next:
`megabolt.align.index` packs them to 2 bits; the caller asks either for stretches through the `Reference` protocol.

A reference is nobody's data: no permit is asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U
from megabolt.compute.jit import kernel
from megabolt.errors import InputFormatError
from megabolt.formats.bases import CODE_OF_ASCII, N
from megabolt.formats.inflate import InputStream

#: Reference names that SAM allows (specification 1.2.1).
_NAME = re.compile(rb"[0-9A-Za-z!#$%&+./:;?@^_|~-][0-9A-Za-z!#$%&*+./:;=?@^_|~-]*\Z")
#: Bytes of text handled at once.
_BLOCK = 1 << 22
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


def read_contigs(path: Path | str) -> Iterator[tuple[Contig, NDArray[np.uint8]]]:
    """Read a genome contig by contig: each with its codes 0..4 (uint8 [length]), valid until the next is asked for.

    Holds the longest contig in memory, not the genome. What is accepted and refused is as in `read_fasta`; an error
    may come after some contigs.
    """
    reader = _Reader(Path(path), grown=1 << 22)
    with reader:
        for contig in reader.contigs():
            yield contig, reader.bases[: contig.length]
            reader.n_bases = 0


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
        packed = 4 if stream.is_gzip else 1
    # Room that is not filled costs no memory: pages come when they are written to.
    reader = _Reader(path, grown=packed * os.path.getsize(path) + _BLOCK)
    with reader:
        contigs = tuple(reader.contigs())
    n_bases = reader.n_bases
    reader.reserve(PADDING)
    codes = reader.bases[: n_bases + PADDING]
    codes[n_bases:] = N
    offsets = np.concatenate(([0], np.cumsum([contig.length for contig in contigs], dtype=np.int64)))
    return FastaReference(path, contigs, codes, offsets)


#: What `_take` carries from block to block: the line, whether a line begins, whether the last byte was a CR, and the
#: byte that is no base.
_LINE, _AT_START, _AFTER_CR, _FAULT, _N_STATE = range(5)


class _Reader:
    """Walks through a FASTA in blocks.

    bases: codes of the contigs read so far, from the last time that `n_bases` was set to 0.
    """

    def __init__(self, path: Path, grown: int) -> None:
        self.bases = np.empty(grown, np.uint8)
        self.n_bases = 0
        self._path = path
        self._stream = InputStream(path)
        self._bytes = bytearray(_BLOCK)
        self._block = np.frombuffer(self._bytes, np.uint8)
        self._at, self._size = 0, 0
        self._state = np.array([1, 1, 0, 0], np.int64)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def contigs(self) -> Iterator[Contig]:
        """Read contig after contig into `bases`."""
        self._skip_to_first()
        seen: dict[str, int] = {}
        while self._at < self._size:
            line = int(self._state[_LINE])
            name = _name_of(self._path, self._header(), line)
            if name in seen:
                why = f"contig {name} again (first in line {seen[name]})"
                raise InputFormatError(self._path, f"line {line}", why, "Give each contig its own name.")
            seen[name] = line
            first = self.n_bases
            self._sequence()
            letters = self.bases[first : self.n_bases]
            contig = _contig(self._path, name, line, letters)
            _encode(letters, len(letters), CODE_OF_ASCII)
            yield contig

    def reserve(self, more: int) -> None:
        """Make room in `bases` for more of them."""
        if self.n_bases + more > len(self.bases):
            grown = np.empty(max(2 * len(self.bases), self.n_bases + more), np.uint8)
            grown[: self.n_bases] = self.bases[: self.n_bases]
            self.bases = grown

    def _fill(self) -> bool:
        """The next block, if the last one is used up; False at the end of the file."""
        if self._at == self._size:
            self._at, self._size = 0, self._stream.readinto(self._block)
        return self._at < self._size

    def _skip_to_first(self) -> None:
        while self._fill() and self._block[self._at] in b"\r\n":
            self._state[_LINE] += int(self._block[self._at] == 10)
            self._at += 1
        if self._size == 0:
            raise InputFormatError(self._path, "", "the file is empty", "Check how it was made or copied.")
        first = self._block[self._at]
        if first != ord(">"):
            why = "FASTQ, not FASTA" if first == ord("@") else "sequence before the first header: not FASTA"
            where = f"line {self._state[_LINE]}"
            raise InputFormatError(self._path, where, why, "A FASTA begins with a line like >chr1.")

    def _header(self) -> bytes:
        """The text behind '>' up to the end of the line."""
        text = bytearray()
        while self._fill():
            stop = self._bytes.find(b"\n", self._at, self._size)
            text += self._bytes[self._at : stop if stop >= 0 else self._size]
            if stop >= 0:
                self._at = stop + 1
                self._state[_LINE] += 1
                break
            self._at = self._size
        self._state[_AT_START] = 1
        return bytes(text[1:])

    def _sequence(self) -> None:
        """Append the letters up to the next header, in upper case."""
        while self._fill():
            self.reserve(self._size - self._at)
            taken = np.zeros(2, np.int64)
            _take(self._block, self._at, self._size, _UPPER, self.bases, self.n_bases, self._state, taken)
            self._at, self.n_bases = int(taken[0]), int(taken[1])
            if self._state[_FAULT] >= 0:
                raise _not_a_base(self._path, int(self._state[_LINE]), int(self._state[_FAULT]))
            if self._at < self._size:
                break
        self._fill()


def _name_of(path: Path, header: bytes, line: int) -> str:
    words = header.split(maxsplit=1)
    name = words[0] if words and header[:1] not in b" \t" else b""
    if not _NAME.match(name):
        why = f"the contig name {name.decode('ascii', 'replace')!r} is empty or not allowed in SAM files"
        raise InputFormatError(path, f"line {line}", why, "Rename the contig.")
    return name.decode("ascii")


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


@kernel("void(uint8[::1], int64, int64, uint8[::1], uint8[::1], int64, int64[::1], int64[::1])")
def _take(block: Any, at: Any, size: Any, upper: Any, bases: Any, n: Any, state: Any, taken: Any) -> Any:
    """Append the letters of block[at:size] to `bases`, in upper case, up to a line that begins with '>'.

    taken: where it stopped and the number of bases. State _FAULT becomes the byte that is no base, -1 if there is
    none, and _LINE its line.
    """
    line, at_start, after_cr = state[_LINE], state[_AT_START] != 0, state[_AFTER_CR] != 0
    fault = np.int64(-1)
    while at < size:
        c = block[U(at)]
        letter = upper[c]
        if letter != 0 and not after_cr:
            bases[U(n)] = letter
            n += 1
            at_start = False
        elif c == 10:
            line += 1
            at_start, after_cr = True, False
        elif after_cr:
            fault = np.int64(13)
            break
        elif c == 13:
            after_cr, at_start = True, False
        elif c == 62 and at_start:
            break
        else:
            fault = np.int64(c)
            break
        at += 1
    state[_LINE], state[_AT_START], state[_AFTER_CR], state[_FAULT] = line, at_start, after_cr, fault
    taken[0], taken[1] = at, n


@kernel("void(uint8[::1], int64, uint8[::1])")
def _encode(data: Any, n: Any, code_of_ascii: Any) -> Any:
    for i in range(n):
        data[U(i)] = code_of_ascii[data[U(i)]]
