# SPDX-License-Identifier: Apache-2.0
"""Known variants: places where a mismatch is no sign of an error.

In: VCF files, plain, gzip or bgzip, any number of them, sorted or not. Out: `KnownSites`, one bit per base of the
reference. Next: `counting`. A list of known variants is nobody's data: no permit is asked for.

A record covers its REF allele, or up to INFO/END where that is given, as htsjdk sees it; FILTER does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U
from megabolt.compute.jit import callee, kernel
from megabolt.errors import InputFormatError
from megabolt.formats.fasta import Contig
from megabolt.formats.inflate import InputStream

#: Bytes of text handled at once; a line must fit.
_BLOCK = 1 << 23
_MOST_JOINED = 1 << 16
_ADVICE = "Is it a VCF? Check it with bcftools view."
_FAULTS = {
    1: ("has fewer than 8 columns", _ADVICE),
    2: ("the position is not a whole number", _ADVICE),
    3: ("the variant lies beyond the end of its contig", "Use known sites of this reference."),
}


@dataclass(frozen=True)
class KnownSites:
    """The places of known variants.

    Attributes
    ----------
    words
        uint64, bit i % 64 of word i // 64 is set where place i is known; contigs one after another, each beginning
        with a word.
    bits
        int64 [contigs], bit of each contig's first base.
    joined
        int64 [k, 2], sorted, apart: ranges [start, stop) of bits b for which one variant covers both b and b + 1.
    n_records
        Records read on contigs of the reference.
    """

    words: NDArray[np.uint64]
    bits: NDArray[np.int64]
    joined: NDArray[np.int64]
    n_records: int

    @property
    def nbytes(self) -> int:
        """Memory, in bytes: an eighth of the genome's bases and what long variants take."""
        return self.words.nbytes + self.joined.nbytes


def read_known_sites(paths: Sequence[Path | str], contigs: Sequence[Contig]) -> KnownSites:
    """Read known variants; contigs that the reference lacks are skipped.

    Raises
    ------
    InputFormatError
        Not a VCF, a damaged line, a place beyond its contig, or a file with variants but none on the reference.
    """
    sizes = np.array([(contig.length + 63) // 64 + 1 for contig in contigs], np.int64)
    bits = 64 * np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    words = np.zeros(int(sizes.sum()) + 1, np.uint64)
    table = _ContigTable(contigs)
    joined: list[NDArray[np.int64]] = []
    total = 0
    for path in paths:
        total += _read_file(Path(path), table, bits, words, joined)
    rows = np.concatenate(joined) if joined else np.zeros((0, 2), np.int64)
    return KnownSites(words, bits[:-1].copy(), _merge(rows), total)


class _ContigTable:
    """The contigs as the parser takes them: names one after another, where each ends, lengths."""

    def __init__(self, contigs: Sequence[Contig]) -> None:
        names = [contig.name.encode() for contig in contigs]
        self.text = np.frombuffer(b"".join(names) or b"\0", np.uint8).copy()
        self.ends = np.cumsum([0, *(len(name) for name in names)]).astype(np.int64)
        self.lengths = np.array([contig.length for contig in contigs], np.int64)


def _read_file(
    path: Path, table: _ContigTable, bits: NDArray[np.int64], words: NDArray[np.uint64], out: list[NDArray[np.int64]]
) -> int:
    buffer = np.zeros(_BLOCK + PADDING, np.uint8)
    joined = np.empty((_MOST_JOINED, 2), np.int64)
    state = np.zeros(6, np.int64)  # line, records, records elsewhere, rows of joined, fault, contig of the last line
    with InputStream(path) as stream:
        filled, at_end, at_start = 0, False, True
        while not at_end:
            read = stream.readinto(buffer[filled:_BLOCK])
            at_end = filled + read < _BLOCK
            filled += read
            if at_start and not buffer[:filled].tobytes().startswith(b"##fileformat=VCF"):
                why = "BCF data" if buffer[:3].tobytes() == b"BCF" else "not a VCF"
                raise InputFormatError(path, "line 1", why, "Known sites are VCF files: bcftools view -O z.")
            at_start = False
            if at_end and filled and buffer[filled - 1] != 10:
                buffer[filled] = 10
                filled += 1
            used = 0
            while True:
                state[3] = 0
                used = int(
                    _parse(buffer, used, filled, table.text, table.ends, table.lengths, bits, words, joined, state)
                )
                out.append(joined[: state[3]].copy())
                if state[4]:
                    raise InputFormatError(path, f"line {state[0] + 1}", *_FAULTS[int(state[4])])
                if state[3] < _MOST_JOINED:
                    break
            if used == 0 and filled >= _BLOCK:
                raise InputFormatError(path, f"line {state[0] + 1}", "the line is too long", _ADVICE)
            buffer[: filled - used] = buffer[used:filled].copy()
            filled -= used
    if state[2] and not state[1]:
        why = f"none of its {int(state[2]):,} variants lies on a contig of the reference"
        raise InputFormatError(path, "", why, "Use known sites of this reference (chr1 is not 1).")
    return int(state[1])


def _merge(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranges sorted and, where they overlap or touch, merged."""
    if not len(rows):
        return rows
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    reach = np.maximum.accumulate(rows[:, 1])
    first = np.concatenate([[True], rows[1:, 0] > reach[:-1]])
    last = np.append(first[1:], True)
    return np.ascontiguousarray(np.stack([rows[first, 0], reach[last]], axis=1))


@callee
def _same_name(data: Any, start: Any, stop: Any, text: Any, first: Any, last: Any) -> Any:
    if stop - start != last - first:
        return False
    k = 0
    while k < stop - start and data[U(start + k)] == text[U(first + k)]:
        k += 1
    return k == stop - start


@callee
def _number(data: Any, start: Any, stop: Any) -> Any:
    """A whole number of at most 18 digits, or -1."""
    if start >= stop or stop - start > 18:
        return np.int64(-1)
    value = np.int64(0)
    for k in range(start, stop):
        digit = np.int64(data[U(k)]) - 48
        if digit < 0 or digit > 9:
            return np.int64(-1)
        value = 10 * value + digit
    return value


@callee
def _end_of(data: Any, start: Any, stop: Any) -> Any:
    """END of the INFO column, or -1."""
    k = start
    while k + 4 < stop:
        if data[U(k)] == 69 and data[U(k + 1)] == 78 and data[U(k + 2)] == 68 and data[U(k + 3)] == 61:
            last = k + 4
            while last < stop and data[U(last)] != 59:
                last += 1
            return _number(data, k + 4, last)
        while k < stop and data[U(k)] != 59:
            k += 1
        k += 1
    return np.int64(-1)


@kernel(
    "int64(uint8[::1], int64, int64, uint8[::1], int64[::1], int64[::1], int64[::1], uint64[::1], int64[:, ::1],"
    " int64[::1])"
)
def _parse(
    data: Any, begin: Any, filled: Any, text: Any, ends: Any, lengths: Any, bits: Any, words: Any, joined: Any,
    state: Any,
) -> Any:  # fmt: skip
    """Enter the whole lines of data[begin:filled]; returns where it stopped: see `_read_file` for the state.

    It stops early when `joined` is full.
    """
    tabs = np.empty(8, np.int64)
    place = begin
    n_contigs = len(lengths)
    while place < filled and state[3] < joined.shape[0]:
        n_tabs, k = 0, place
        while k < filled and data[U(k)] != 10:
            if data[U(k)] == 9 and n_tabs < 8:
                tabs[U(n_tabs)] = k
                n_tabs += 1
            k += 1
        if k == filled:
            break
        stop = k
        if stop > place and data[U(stop - 1)] == 13:
            stop -= 1
        if stop > place and data[U(place)] != 35:
            if n_tabs < 7:
                state[4] = 1
                return place
            contig = state[5]
            if contig >= n_contigs or not _same_name(data, place, tabs[0], text, ends[U(contig)], ends[U(contig + 1)]):
                contig = 0
                while contig < n_contigs and not _same_name(
                    data, place, tabs[0], text, ends[U(contig)], ends[U(contig + 1)]
                ):
                    contig += 1
                state[5] = contig
            pos = _number(data, tabs[0] + 1, tabs[1])
            if pos < 0:
                state[4] = 2
                return place
            if contig < n_contigs:
                info_stop = tabs[7] if n_tabs > 7 else stop
                end = _end_of(data, tabs[6] + 1, info_stop)
                if end < pos:
                    end = pos + (tabs[3] - tabs[2] - 1) - 1
                if pos > lengths[U(contig)]:
                    state[4] = 3
                    return place
                first = max(pos - 1, np.int64(0)) + bits[U(contig)]
                last = min(end, lengths[U(contig)]) + bits[U(contig)]
                for b in range(first, last):
                    words[U(b >> 6)] |= U(1) << U(b & 63)
                if last - first > 1:
                    joined[U(state[3]), 0] = first
                    joined[U(state[3]), 1] = last - 1
                    state[3] += 1
                state[1] += 1
            else:
                state[2] += 1
        state[0] += 1
        place = k + 1
    return place
