# SPDX-License-Identifier: Apache-2.0
"""What must be known of existing records before their templates can be put together.

In: `RecordBlock`. Out: `Facts`: which read each record is, its read group, a hash of its name, where its UMI and its
original qualities are. Next: `formats/name_join.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import U, equal_mask64, load_i32, load_u16, load_u32, load_u64, trailing_zeros
from megabolt.compute.jit import inline, kernel
from megabolt.errors import InputFormatError
from megabolt.formats.bam_records import BamHeader, RecordBlock

#: Which read of its template a record is: none that counts (secondary, supplementary), the only one, mate 1, mate 2.
OTHER, SINGLE, FIRST, SECOND = range(4)

_NO_GROUP, _UNKNOWN_GROUP, _BAD_TAG, _NO_MATE_NUMBER = range(1, 5)
_DAMAGED = "The file is damaged: make it again, or copy it again and compare its checksum."
_GROUP_ADVICE = "Give each record the read group it belongs to: samtools addreplacerg, Picard AddOrReplaceReadGroups."
_EXPLANATION = {
    _NO_GROUP: ("the record has no read group (RG), but the header has some", _GROUP_ADVICE),
    _UNKNOWN_GROUP: ("the header lacks the record's read group (RG)", _GROUP_ADVICE),
    _BAD_TAG: ("the tags of the record are damaged", _DAMAGED),
    _NO_MATE_NUMBER: (
        "the read is one of a pair, but not said to be the first or the last (flags 0x40, 0x80)",
        "Repair the flags: samtools fixmate, Picard FixMateInformation.",
    ),
}


@dataclass(frozen=True)
class HeaderGroup:
    """A read group of a header: its ID, sample, library (may be empty) and whole @RG line."""

    name: str
    sample: str
    library: str
    line: str


def read_groups_of(header: BamHeader, path: Path | str) -> tuple[HeaderGroup, ...]:
    """The read groups of a header, in its order; none if it has none.

    Raises
    ------
    InputFormatError
        One without ID or without sample (SM), or two with one ID.
    """
    advice = "Put the header right: samtools reheader, or Picard AddOrReplaceReadGroups."
    groups: dict[str, HeaderGroup] = {}
    for line in header.read_groups:
        fields = dict(field.split(":", 1) for field in line.split("\t")[1:] if ":" in field)
        name = fields.get("ID", "")
        if not name:
            raise InputFormatError(path, "header", f"a read group has no ID: {line!r}", advice)
        if name in groups:
            raise InputFormatError(path, "header", f"two read groups have the ID {name}", advice)
        if not fields.get("SM"):
            raise InputFormatError(path, "header", f"read group {name} has no sample (SM)", advice)
        groups[name] = HeaderGroup(name, fields["SM"], fields.get("LB", ""), line)
    return tuple(groups.values())


@dataclass(frozen=True)
class Facts:
    """Facts of the records of a block.

    Attributes
    ----------
    kind
        int64 [n]: OTHER, SINGLE, FIRST or SECOND.
    group
        int64 [n]: index of the read group in the header; 0 where that has none.
    umi
        int64 [n, 2]: where the value of RX is in the block's data, and its length; (0, 0): none.
    original
        int64 [n]: where the value of OQ is, if it is as long as the read; 0: none.
    hash
        uint64 [n, 2]: of name and read group, 128 bits.
    """

    kind: NDArray[np.int64]
    group: NDArray[np.int64]
    umi: NDArray[np.int64]
    original: NDArray[np.int64]
    hash: NDArray[np.uint64]


class Describer:
    """Finds the facts of blocks of one file; may be used by several threads.

    Parameters
    ----------
    groups
        IDs of the header's read groups; none: records need none, and what they say is not looked at.
    path
        What messages call the file.
    """

    def __init__(self, groups: Sequence[str], path: Path | str) -> None:
        encoded = [name.encode() for name in groups]
        self._bounds = np.cumsum([0, *(len(name) for name in encoded)]).astype(np.int64)
        self._text = np.frombuffer(b"".join(encoded) + bytes(8), np.uint8).copy()
        self._path = path

    def describe(self, block: RecordBlock, first_record: int) -> Facts:
        """The facts of a block; releases the GIL.

        Parameters
        ----------
        first_record
            Number of its first record in the file, from 0, for messages.

        Raises
        ------
        InputFormatError
            A record of no or of an unknown read group, damaged tags, a mate without number; names the record.
        """
        n = block.n
        kind, group, original = np.empty((3, n), np.int64)
        facts = Facts(kind, group, np.empty((n, 2), np.int64), original, np.empty((n, 2), np.uint64))
        fault = np.zeros(1, np.int64)
        sound = _describe(
            block.data, block.offsets, self._text, self._bounds, facts.kind, facts.group, facts.umi, facts.original,
            facts.hash, fault,
        )  # fmt: skip
        if sound < n:
            where = f"record {first_record + sound + 1}"
            why, advice = _EXPLANATION[int(fault[0])]
            start = int(block.offsets[sound])
            name = (
                block.data[start + 36 : start + 35 + int(block.data[start + 12])].tobytes().decode("ascii", "replace")
            )
            raise InputFormatError(self._path, f"{where} ({name})", why, advice)
        return facts


# --- kernels ---


@inline
def _size_of_value(data: Any, at: Any, letter: Any, end: Any) -> Any:
    """Bytes of a tag's value of a type (a letter), at data[at]; -1 if there is no such type or it goes on behind."""
    size = np.int64(-1)
    if letter == 90 or letter == 72:  # Z H
        done = np.int64(0)
        while at + done < end and size < 0:
            zero = equal_mask64(data, at + done, np.uint8(0))
            if zero != U(0):
                size = done + trailing_zeros(zero) + 1
            done += 64
    elif letter == 65 or letter == 67 or letter == 99:  # A C c
        size = np.int64(1)
    elif letter == 83 or letter == 115:  # S s
        size = np.int64(2)
    elif letter == 73 or letter == 105 or letter == 102:  # I i f
        size = np.int64(4)
    elif letter == 66 and at + 5 <= end:  # B
        kind = data[U(at)]
        each = np.int64(0)
        if kind == 67 or kind == 99:
            each = np.int64(1)
        elif kind == 83 or kind == 115:
            each = np.int64(2)
        elif kind == 73 or kind == 105 or kind == 102:
            each = np.int64(4)
        if each > 0:
            size = 5 + each * np.int64(load_u32(data, at + 1))
    return size if at + size <= end else np.int64(-1)


@inline
def _same_bytes(data: Any, at: Any, length: Any, text: Any, start: Any, stop: Any) -> Any:
    same = length == stop - start
    for k in range(length):
        if not same:
            break
        same = data[U(at + k)] == text[U(start + k)]
    return same


@inline
def _mix(word: Any) -> Any:
    """The finaliser of MurmurHash3 (Appleby 2016, public domain)."""
    x = (word ^ (word >> U(33))) * U(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> U(33))) * U(0xC4CEB9FE1A85EC53)
    return x ^ (x >> U(33))


@kernel(
    "int64(uint8[::1], int64[::1], uint8[::1], int64[::1], int64[::1], int64[::1], int64[:, ::1], int64[::1],"
    " uint64[:, ::1], int64[::1])"
)
def _describe(
    data: Any,
    offsets: Any,
    group_text: Any,
    group_bounds: Any,
    kinds: Any,
    groups: Any,
    umis: Any,
    originals: Any,
    hashes: Any,
    fault: Any,
) -> Any:
    """Fill the arrays of `Facts`; returns how many records are sound, fault[0] is what the next one has."""
    n_groups = len(group_bounds) - 1
    last = np.int64(0)  # neighbours mostly are of one group
    for i in range(len(offsets) - 1):
        start, end = offsets[U(i)], offsets[U(i + 1)]
        name_size = np.int64(data[U(start + 12)])
        flag = np.int64(load_u16(data, start + 18))
        length = np.int64(load_i32(data, start + 20))
        kind = np.int64(OTHER)
        if flag & 0x900 == 0:
            kind = np.int64(SINGLE)
            if flag & 1 != 0:
                if (flag >> 6) & 3 == 1:
                    kind = np.int64(FIRST)
                elif (flag >> 6) & 3 == 2:
                    kind = np.int64(SECOND)
                else:
                    fault[0] = _NO_MATE_NUMBER
                    return i
        p = start + 36 + name_size + 4 * np.int64(load_u16(data, start + 16)) + ((length + 1) >> 1) + length
        group = np.int64(-1)
        umi = np.int64(0)
        umi_length = np.int64(0)
        original = np.int64(0)
        while p < end:
            size = np.int64(-1)
            if p + 4 <= end:
                size = _size_of_value(data, p + 3, data[U(p + 2)], end)
            if size < 0:
                fault[0] = _BAD_TAG
                return i
            tag = np.int64(load_u16(data, p))
            text = data[U(p + 2)] == 90
            if tag == (82 | (71 << 8)) and text and n_groups > 0:  # RG
                if _same_bytes(data, p + 3, size - 1, group_text, group_bounds[last], group_bounds[last + 1]):
                    group = last
                else:
                    for k in range(n_groups):
                        if _same_bytes(data, p + 3, size - 1, group_text, group_bounds[k], group_bounds[k + 1]):
                            group = np.int64(k)
                            last = np.int64(k)
                    if group < 0:
                        fault[0] = _UNKNOWN_GROUP
                        return i
            elif tag == (82 | (88 << 8)) and text:  # RX
                umi, umi_length = p + 3, size - 1
            elif tag == (79 | (81 << 8)) and text and size == length + 1:  # OQ
                original = p + 3
            p += 3 + size
        if group < 0:
            if n_groups > 0:
                fault[0] = _NO_GROUP
                return i
            group = np.int64(0)
        first = U(group + 1) * U(0x9E3779B97F4A7C15)
        second = first ^ U(0xD1B54A32D192ED03)
        for k in range(0, name_size - 1, 8):
            word = load_u64(data, start + 36 + k)
            left = name_size - 1 - k
            if left < 8:
                word &= (U(1) << U(8 * left)) - U(1)
            first = _mix(first ^ word)
            second = (second ^ (second >> U(29)) ^ word) * U(0x9FB21C651E98DF25)
        kinds[U(i)] = kind
        groups[U(i)] = group
        umis[U(i), 0] = umi
        umis[U(i), 1] = umi_length
        originals[U(i)] = original
        hashes[U(i), 0] = first ^ U(name_size)
        hashes[U(i), 1] = _mix(second)
    return len(offsets) - 1
