# SPDX-License-Identifier: Apache-2.0
"""Covariates of base quality recalibration counted read by read in plain Python: the oracle of `recalibrate`.

In: reads made by hand or taken from a file. Out: tallies. Each rule is written down on its own, column by column of
the alignment; nothing is shared with the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from megabolt.compute.bits import PADDING
from megabolt.formats.bam_records import RecordBlock
from megabolt.testing.records import PAIRED, REVERSE, SECOND, HandRead, pack

MATE_REVERSE = 0x20
_UNWANTED = 0x704
_COMPLEMENT = dict(zip("ACGTN", "TGCAN"))

#: A column of an alignment: index in the read and place on the reference, None where there is none.
Column = tuple[int | None, int | None]
#: Spreads the errors of a read (columns, sequence, qualities, errors by index of base; text of the reference).
Spread = Callable[[Sequence[Column], str, Sequence[int], dict[int, float], str], dict[int, float]]


@dataclass(frozen=True)
class MatedRead(HandRead):
    """A read with its mate's place and the fragment's length."""

    mate: int = -1
    size: int = 0


def block_of(reads: Sequence[MatedRead], tag: bytes = b"RGZa\0") -> RecordBlock:
    """Records with mates and the tag RG, in the order given."""
    records = []
    for k, read in enumerate(reads):
        record = bytearray(pack(read, k) + tag)
        record[0:4] = (len(record) - 4).to_bytes(4, "little")
        record[24:28] = (0 if read.mate >= 0 else -1).to_bytes(4, "little", signed=True)
        record[28:32] = read.mate.to_bytes(4, "little", signed=True)
        record[32:36] = read.size.to_bytes(4, "little", signed=True)
        records.append(bytes(record))
    offsets = np.cumsum([0, *map(len, records)]).astype(np.int64)
    return RecordBlock(np.frombuffer(b"".join(records) + bytes(PADDING), np.uint8).copy(), offsets)


@dataclass
class Tallies:
    """Bases and errors by (quality, cycle) and (quality, context)."""

    cycles: Counter[tuple[int, int]] = field(default_factory=Counter)
    cycle_errors: dict[tuple[int, int], float] = field(default_factory=dict)
    contexts: Counter[tuple[int, str]] = field(default_factory=Counter)
    context_errors: dict[tuple[int, str], float] = field(default_factory=dict)
    reads: int = 0


def operations(cigar: str) -> list[tuple[int, str]]:
    """Length and letter of each operation of a CIGAR."""
    parts, number = [], ""
    for letter in cigar:
        if letter.isdigit():
            number += letter
        else:
            parts.append((int(number), letter))
            number = ""
    return parts


def columns_of(read: MatedRead) -> list[Column]:
    """One (index in the read, place) per column of the alignment, without clips; None where there is none."""
    columns: list[Column] = []
    i, p = 0, read.start
    for size, op in operations(read.cigar):
        for _ in range(size):
            if op in "M=X":
                columns.append((i, p))
            elif op == "I":
                columns.append((i, None))
            elif op == "D":
                columns.append((None, p))
            i += op in "M=XIS"
            p += op in "M=XD"
    return columns


def without_adapter(read: MatedRead, columns: list[Column]) -> list[Column]:
    """Columns inside the fragment."""
    reverse, mate_reverse = bool(read.flag & REVERSE), bool(read.flag & MATE_REVERSE)
    places = [p for _, p in columns if p is not None]
    if not read.flag & PAIRED or read.size == 0 or read.mate < 0 or reverse == mate_reverse:
        return columns
    if reverse:
        if places[-1] > read.mate and places[0] <= read.mate - 1 <= places[-1]:
            last = max(k for k, (_, p) in enumerate(columns) if p is not None and p <= read.mate - 1)
            columns = columns[last + 1 :]
    else:
        boundary = read.start + abs(read.size)
        if read.start <= read.mate + read.size and places[0] <= boundary <= places[-1]:
            first = min(k for k, (_, p) in enumerate(columns) if p is not None and p >= boundary)
            columns = columns[:first]
    while columns and columns[0][0] is None:
        columns = columns[1:]
    while columns and columns[-1][0] is None:
        columns = columns[:-1]
    return columns


def masked(columns: Sequence[Column], sites: Sequence[tuple[int, int]]) -> set[int]:
    """Indices of bases at known sites, found site by site."""
    found: set[int] = set()
    places = [p for _, p in columns if p is not None]
    bases = [i for i, _ in columns if i is not None]
    for start, stop in sites:
        end = stop - 1
        if end < places[0] or start > places[-1]:
            continue
        first, last = bases[0], bases[-1]
        for k, (i, p) in enumerate(columns):
            following = [j for j, _ in columns[k:] if j is not None]
            if p == start:
                first = i if i is not None else following[0] - 1
            if p == end:
                last = i if i is not None else following[0]
        found.update(range(first, last + 1))
    return found


def count_slowly(
    reads: Sequence[MatedRead],
    text: str,
    sites: Sequence[tuple[int, int]],
    tallies: Tallies,
    spread: Spread | None = None,
) -> None:
    """Add the reads, all on one contig.

    Parameters
    ----------
    text
        The contig.
    sites
        Known variants, [start, stop) each.
    tallies
        What is added to.
    spread
        Spreads errors over neighbours where the alignment is uncertain (`testing.baq`).
    """
    for read in reads:
        if read.flag & _UNWANTED or read.mapq in (0, 255):
            continue
        columns = without_adapter(read, columns_of(read))
        quality = read.quality if isinstance(read.quality, tuple) else (read.quality,) * len(read.sequence)
        errors = {i: float(p is not None and text[p] != read.sequence[i]) for i, p in columns if i is not None}
        if spread is not None:
            errors = spread(columns, read.sequence, quality, errors, text)
        tallies.reads += 1
        _count_bases(read, quality, errors, masked(columns, sites), tallies)


def _count_bases(
    read: MatedRead, quality: Sequence[int], errors: dict[int, float], hidden: set[int], tallies: Tallies
) -> None:
    low, high = min(errors), max(errors) + 1
    shown = list(read.sequence)
    for order in (range(low, high), range(high - 1, low - 1, -1)):
        for i in order:
            if quality[i] > 2:
                break
            shown[i] = "N"
    reverse = bool(read.flag & REVERSE)
    for i, error in errors.items():
        if i in hidden or quality[i] < 6 or read.sequence[i] == "N":
            continue
        cycle = high - i if reverse else i - low + 1
        key = quality[i], -cycle if read.flag & PAIRED and read.flag & SECOND else cycle
        before = i + 1 if reverse else i - 1
        pair = shown[before] + shown[i] if low <= before < high else "N"
        context = "".join(_COMPLEMENT[one] for one in pair) if reverse else pair
        tallies.cycles[key] += 1
        tallies.cycle_errors[key] = tallies.cycle_errors.get(key, 0.0) + error
        if "N" not in context:
            named = quality[i], context
            tallies.contexts[named] += 1
            tallies.context_errors[named] = tallies.context_errors.get(named, 0.0) + error
