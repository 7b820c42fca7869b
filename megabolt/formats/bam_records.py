# SPDX-License-Identifier: Apache-2.0
"""Packed BAM records in memory, and the header they need (SAM specification, chapters 1.3 and 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U, load_i32, load_u16, load_u32, prefetch
from megabolt.compute.jit import kernel
from megabolt.errors import InputFormatError
from megabolt.formats.fasta import Contig
from megabolt.formats.sam_header import all_lines, field_of, lines_of, program_chain

_MAGIC = b"BAM\x01"
#: Of what `hop_records` asks the cache for: lines, and how many bytes ahead.
_LINES, _AHEAD = 6, 2048
_ADVICE = "The file is damaged: make it again, or copy it again and compare its checksum."

#: What `walk_records` may find wrong.
_BAD_SIZE, _BAD_CONTIG, _BAD_PLACE, _BAD_LENGTHS, _BAD_CIGAR, _UNSORTED = range(1, 7)
_EXPLANATION = {
    _BAD_SIZE: ("the size of the record is impossible", _ADVICE),
    _BAD_CONTIG: ("the record lies on a contig that the header lacks", _ADVICE),
    _BAD_PLACE: ("the record lies beyond the end of its contig", "Were header and records put together?"),
    _BAD_LENGTHS: ("the parts of the record do not fit its size", _ADVICE),
    _BAD_CIGAR: ("the CIGAR and the sequence differ in length", "Make the file again with the aligner."),
    _UNSORTED: ("the records are not sorted by coordinate", "Sort the file: samtools sort."),
}


@dataclass(frozen=True)
class RecordBlock:
    """Packed BAM alignment records.

    Attributes
    ----------
    data
        uint8, the records one after another, each starting with its block_size; PADDING spare bytes behind.
    offsets
        int64 [n + 1], start of each record; offsets[n] is the end of the last.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of records."""
        return len(self.offsets) - 1


def empty_block() -> RecordBlock:
    """A block without records."""
    return RecordBlock(np.zeros(PADDING, np.uint8), np.zeros(1, np.int64))


@dataclass(frozen=True)
class BamHeader:
    """The header of a BAM file.

    Attributes
    ----------
    contigs
        In the order of their numbers in the records; md5 is empty where the file does not tell it.
    text
        SAM header lines, each with its newline.
    """

    contigs: tuple[Contig, ...]
    text: str

    @classmethod
    def build(
        cls,
        contigs: Sequence[Contig],
        read_groups: Sequence[str] = (),
        *,
        command_line: str = "",
        sort_order: str = "coordinate",
        earlier: str = "",
    ) -> BamHeader:
        """The header of a new file: @HD, @SQ with M5, @RG, @PG, @CO.

        Parameters
        ----------
        contigs
            Those of the reference, in its order.
        read_groups
            Whole @RG lines, without newline.
        command_line
            What the user typed; becomes CL of @PG.
        sort_order
            SO of @HD.
        earlier
            Header text of the file that the reads come from, if any: its @PG chain goes on, its @CO lines stay.
        """
        lines = [_first_line(sort_order)]
        for contig in contigs:
            m5 = f"\tM5:{contig.md5}" if contig.md5 else ""
            lines.append(f"@SQ\tSN:{contig.name}\tLN:{contig.length}{m5}")
        lines.extend(read_groups)
        lines.extend(program_chain(earlier, command_line))
        lines.extend(lines_of(earlier, "@CO"))
        return cls(tuple(contigs), "".join(line + "\n" for line in lines))

    def continued(self, *, command_line: str = "", sort_order: str = "coordinate") -> BamHeader:
        """This header for a file with the same records in another order: all lines stay, @PG gets one more.

        Contigs that only the binary part names get an @SQ line: readers want both.
        """
        known = {field_of(line, "SN"): line for line in lines_of(self.text, "@SQ")}
        lines = [_first_line(sort_order)]
        lines += [known.get(one.name, f"@SQ\tSN:{one.name}\tLN:{one.length}") for one in self.contigs]
        lines += [*lines_of(self.text, "@RG"), *program_chain(self.text, command_line)]
        written = ("@HD", "@SQ", "@RG", "@PG")
        lines += [line for line in all_lines(self.text) if line.split("\t", 1)[0] not in written]
        return BamHeader(self.contigs, "".join(line + "\n" for line in lines))

    def encode(self) -> bytes:
        """The header as it stands in a BAM file, inflated."""
        text = self.text.encode()
        parts = [_MAGIC, struct.pack("<i", len(text)), text, struct.pack("<i", len(self.contigs))]
        for contig in self.contigs:
            name = contig.name.encode() + b"\0"
            parts.append(struct.pack("<i", len(name)) + name + struct.pack("<i", contig.length))
        return b"".join(parts)

    @property
    def read_groups(self) -> tuple[str, ...]:
        """The @RG lines."""
        return tuple(lines_of(self.text, "@RG"))


def decode_header(data: bytes, path: Path) -> tuple[BamHeader, int] | None:
    """A header and its length, from the first inflated bytes of a BAM; None if more of them are needed.

    Raises
    ------
    InputFormatError
        Not a BAM header.
    """
    if data[:4] != _MAGIC[: len(data[:4])]:
        raise InputFormatError(path, "byte 0", "not a BAM file", "Name a BAM or CRAM file.")
    try:
        (text_size,) = struct.unpack_from("<i", data, 4)
        (n_contigs,) = struct.unpack_from("<i", data, 8 + text_size) if text_size >= 0 else (-1,)
        if text_size < 0 or n_contigs < 0:
            raise InputFormatError(path, "header", "impossible sizes in the header", _ADVICE)
        text = data[8 : 8 + text_size].rstrip(b"\0").decode("utf-8", "replace")
        place, found = 12 + text_size, []
        for _ in range(n_contigs):
            (name_size,) = struct.unpack_from("<i", data, place)
            if not 1 < name_size <= 1 << 16:
                raise InputFormatError(path, "header", "impossible contig name in the header", _ADVICE)
            (length,) = struct.unpack_from("<i", data, place + 4 + name_size)
            found.append((data[place + 4 : place + 3 + name_size].decode("ascii", "replace"), length))
            place += 8 + name_size
    except struct.error:
        return None
    md5 = _md5_of_text(text)
    contigs = tuple(Contig(name, length, md5.get(name, "")) for name, length in found)
    return BamHeader(contigs, text if not text or text.endswith("\n") else text + "\n"), place


def _first_line(sort_order: str) -> str:
    return f"@HD\tVN:1.6\tSO:{sort_order}"


def _md5_of_text(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if line.startswith("@SQ\t"):
            fields = dict(field.split(":", 1) for field in line.split("\t")[1:] if ":" in field)
            if "SN" in fields and "M5" in fields:
                found[fields["SN"]] = fields["M5"].lower()
    return found


def check_contigs(header: BamHeader, contigs: Sequence[Contig], path: Path | str) -> None:
    """Raise `InputFormatError` unless the header has the reference's contigs, in its order.

    Names and lengths must agree, and the MD5 where both are known.
    """
    advice = "Use the reference that the reads were aligned to."
    for i, contig in enumerate(contigs):
        if i >= len(header.contigs):
            why = f"the header ends before contig {contig.name} of the reference"
            raise InputFormatError(path, "header", why, advice)
        other = header.contigs[i]
        if other.name != contig.name:
            why = f"contig {i + 1} is {other.name}, in the reference it is {contig.name}"
            raise InputFormatError(path, "header", why, advice)
        if other.length != contig.length:
            why = f"contig {contig.name} has {other.length} bases, in the reference {contig.length}"
            raise InputFormatError(path, "header", why, advice)
        if other.md5 and contig.md5 and other.md5 != contig.md5:
            why = f"contig {contig.name} has another sequence than in the reference (M5 differs)"
            raise InputFormatError(path, "header", why, advice)
    if len(header.contigs) > len(contigs):
        why = f"the reference lacks contig {header.contigs[len(contigs)].name}"
        raise InputFormatError(path, "header", why, advice)


class RecordWalker:
    """Finds and checks the records in inflated bytes that come in pieces; counts them for messages."""

    def __init__(self, header: BamHeader, path: Path, *, need_sorted: bool = True, n_before: int = 0) -> None:
        self._lengths = np.array([contig.length for contig in header.contigs], np.int64)
        self._path = path
        self._need_sorted = need_sorted
        self._state = np.array([0, -1, 0], np.int64)  # previous (contig, pos); fault
        self._n = n_before

    def walk(self, data: NDArray[np.uint8], start: int, stop: int, at_most: int | None = None) -> NDArray[np.int64]:
        """Offsets (int64 [n + 1]) of the whole records of data[start:stop]; the last is where the rest begins.

        at_most: how many there may be, if that is known.

        Raises
        ------
        InputFormatError
            A record is damaged or out of order; names its number.
        """
        offsets = np.empty((stop - start) // 37 + 2 if at_most is None else at_most + 1, np.int64)
        n = int(walk_records(data, start, stop, self._lengths, self._need_sorted, offsets, self._state))
        self._n += n
        fault = int(self._state[2])
        if fault:
            raise InputFormatError(self._path, f"record {self._n + 1}", *_EXPLANATION[fault])
        return offsets if n + 1 == len(offsets) else offsets[: n + 1].copy()


@kernel("boolean(uint8[::1], int64, int64, int64[::1])")
def hop_records(data: Any, start: Any, stop: Any, found: Any) -> Any:
    """found: number of the whole records of data[start:stop], where the rest begins; False: a size is impossible."""
    n = 0
    place = start
    sound = True
    while place + 36 <= stop:
        for line in range(_LINES):  # a record's worth, some records ahead: the chain of sizes would wait for each
            prefetch(data, min(place + _AHEAD, stop) + 64 * line)
        size = np.int64(load_i32(data, place))
        if size < 33:
            sound = False
            break
        if place + 4 + size > stop:
            break
        place += 4 + size
        n += 1
    found[0], found[1] = n, place
    return sound


@kernel("int64(uint8[::1], int64, int64, int64[::1], boolean, int64[::1], int64[::1])")
def walk_records(
    data: Any, start: Any, stop: Any, contig_length: Any, need_sorted: Any, offsets: Any, state: Any
) -> Any:
    """Fill `offsets` with the start of each whole record of data[start:stop]; returns how many there are.

    state: the previous record's contig (no contig is last) and pos; the fault of the record behind the last
    sound one, or 0.
    """
    n = 0
    place = start
    state[2] = 0
    offsets[0] = place
    while place + 36 <= stop:
        size = np.int64(load_i32(data, place))
        if size < 33:
            state[2] = _BAD_SIZE
            return n
        if place + 4 + size > stop:
            break
        contig, pos = np.int64(load_i32(data, place + 4)), np.int64(load_i32(data, place + 8))
        if contig < -1 or contig >= len(contig_length):
            state[2] = _BAD_CONTIG
            return n
        if pos < -1 or (contig >= 0 and pos >= contig_length[contig]):
            state[2] = _BAD_PLACE
            return n
        name_size = np.int64(data[U(place + 12)])
        n_operations = np.int64(load_u16(data, place + 16))
        length = np.int64(load_i32(data, place + 20))
        cigar = place + 36 + name_size
        fixed = 32 + name_size + 4 * n_operations
        if length < 0 or name_size < 1 or fixed + (length + 1) // 2 + length > size or data[U(cigar - 1)] != 0:
            state[2] = _BAD_LENGTHS
            return n
        consumed = np.int64(0)
        for k in range(n_operations):
            operation = np.int64(load_u32(data, cigar + 4 * k))
            if (0x193 >> (operation & 15)) & 1 != 0:  # M I S = X
                consumed += operation >> 4
        if n_operations > 0 and length > 0 and consumed != length:
            state[2] = _BAD_CIGAR
            return n
        if need_sorted:
            rank = contig if contig >= 0 else np.int64(1) << 40
            if rank < state[0] or (rank == state[0] and pos < state[1]):
                state[2] = _UNSORTED
                return n
            state[0], state[1] = rank, pos
        place += 4 + size
        n += 1
        offsets[n] = place
    return n
