# SPDX-License-Identifier: Apache-2.0
"""Which row of the recalibration table each record belongs to.

A row is a platform unit (PU of @RG, or its ID where it has none), as in GATK: read groups of one unit share a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import U, load_i32, load_u16, load_u32
from megabolt.compute.jit import kernel
from megabolt.formats.bam_records import RecordBlock

#: What `GroupMap.rows_of` says of a record without a read group, and of one with an unknown one.
WITHOUT_GROUP, UNKNOWN_GROUP = -1, -2

_FNV_START, _FNV_FACTOR = 0xCBF29CE484222325, 0x100000001B3


@dataclass(frozen=True)
class GroupMap:
    """From the tag RG of a record to its row.

    Attributes
    ----------
    names
        Of the rows: platform unit or ID, in the order of the header, each once.
    hashes
        uint64 [read groups], FNV-1a of the IDs, sorted.
    rows
        int32 [read groups], the row of each.
    """

    names: tuple[str, ...]
    hashes: NDArray[np.uint64]
    rows: NDArray[np.int32]

    @classmethod
    def of_lines(cls, lines: Iterable[str]) -> GroupMap:
        """From the @RG lines of a header (`BamHeader.read_groups`)."""
        pairs = []
        for line in lines:
            fields = dict(field.split(":", 1) for field in line.split("\t")[1:] if ":" in field)
            pairs.append((fields.get("ID", ""), fields.get("PU") or fields.get("ID", "")))
        return cls.of_pairs(pairs)

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[str, str]]) -> GroupMap:
        """From (ID, name of the row) of each read group."""
        names = tuple(dict.fromkeys(name for _, name in pairs))
        found = sorted((_hash(identity.encode()), names.index(name)) for identity, name in pairs)
        hashes = np.array([one for one, _ in found], np.uint64)
        return cls(names, hashes, np.array([row for _, row in found], np.int32))

    def rows_of(self, block: RecordBlock) -> NDArray[np.int32]:
        """int32 [n]: the row of each record, WITHOUT_GROUP or UNKNOWN_GROUP."""
        rows = np.empty(block.n, np.int32)
        _find_rows(block.data, block.offsets, self.hashes, self.rows, rows)
        return rows


def _hash(text: bytes) -> int:
    value = _FNV_START
    for byte in text:
        value = (value ^ byte) * _FNV_FACTOR & 0xFFFFFFFFFFFFFFFF
    return value


@kernel("void(uint8[::1], int64[::1], uint64[::1], int32[::1], int32[::1])")
def _find_rows(data: Any, offsets: Any, hashes: Any, rows: Any, out: Any) -> Any:
    """The row of each record's RG:Z; records end where their tags are cut short."""
    for i in range(len(offsets) - 1):
        place, stop = offsets[i], offsets[i + 1]
        length = np.int64(load_i32(data, place + 20))
        place += 36 + np.int64(data[U(place + 12)]) + 4 * np.int64(load_u16(data, place + 16))
        place += (length + 1) // 2 + length
        out[U(i)] = WITHOUT_GROUP
        while place + 3 < stop:
            kind = data[U(place + 2)]
            if kind == 90 or kind == 72:  # Z, H
                is_group = data[U(place)] == 82 and data[U(place + 1)] == 71 and kind == 90
                place += 3
                value = U(_FNV_START)
                if is_group:
                    while place < stop and data[U(place)] != 0:
                        value = (value ^ U(data[U(place)])) * U(_FNV_FACTOR)
                        place += 1
                    out[U(i)] = UNKNOWN_GROUP
                    for k in range(len(hashes)):
                        if hashes[U(k)] == value:
                            out[U(i)] = rows[U(k)]
                            break
                    break
                while place < stop and data[U(place)] != 0:
                    place += 1
                place += 1
            elif kind == 66:  # B
                width = np.int64(4)
                if data[U(place + 3)] == 99 or data[U(place + 3)] == 67:
                    width = np.int64(1)
                elif data[U(place + 3)] == 115 or data[U(place + 3)] == 83:
                    width = np.int64(2)
                if place + 8 > stop:
                    break
                place += 8 + width * np.int64(load_u32(data, place + 4))
            elif kind == 65 or kind == 99 or kind == 67:  # A, c, C
                place += 4
            elif kind == 115 or kind == 83:  # s, S
                place += 5
            elif kind == 105 or kind == 73 or kind == 102:  # i, I, f
                place += 7
            else:
                break
