# SPDX-License-Identifier: Apache-2.0
"""The records over one site, those that the caller leaves out too: what each shows there, and why it was left out.

In: `RecordBlock`, the chunk's data from a `Trace`. Out: `SiteRead`s. Next: `explain.py`.

Which records are used is asked of `reads.usable_records`, the caller's own choice; only the reason in words is found
here. Indels are moved left as the caller does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from megabolt.call.engine import MARGIN
from megabolt.call.evidence import DELETION, INSERTION, MAX_SHIFT, SNP
from megabolt.call.known import Event
from megabolt.call.reads import MAX_READ, MAX_SPAN, usable_records
from megabolt.errors import InternalError
from megabolt.formats.bam_reader import select_overlaps
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import CODE_OF_NIBBLE, decode

if TYPE_CHECKING:
    from megabolt.call.engine import CallOptions, _Chunk

REVERSE = 0x10
#: An indel that could stand at a place further away than this is not shown there.
_REACH = 200
_FLAGS = (
    (0x4, "unmapped"),
    (0x100, "secondary alignment"),
    (0x800, "supplementary alignment"),
    (0x200, "failed quality control"),
    (0x400, "duplicate"),
)


@dataclass(frozen=True, eq=False)
class SiteRead:
    """A record that overlaps the site.

    Attributes
    ----------
    start, stop
        Contig coordinates of its alignment.
    cigar
        (operation as in BAM, length).
    bases, qualities
        uint8, codes and Phred as in the file.
    index
        Its number in the chunk's `Reads`, -1 if it is left out.
    why
        Why it is left out; empty if it is used.
    base
        Code of its base at the site; -1 for none (deleted, or only in a gap).
    at
        Index of that base in `bases`, -1 for none.
    trusted
        Phred of that base once overlapping mates were reconciled; -1 for none.
    indels
        Those that could stand over the site, contig coordinates, left-aligned.
    mate
        Number in `Reads` of its mate if that overlaps the site too, else -1.
    """

    name: str
    flag: int
    mapq: int
    start: int
    stop: int
    cigar: tuple[tuple[int, int], ...]
    bases: NDArray[np.uint8]
    qualities: NDArray[np.uint8]
    index: int
    why: str
    base: int
    at: int
    trusted: int
    indels: tuple[Event, ...]
    mate: int

    @property
    def reverse(self) -> bool:
        """Whether it lies on the reverse strand."""
        return bool(self.flag & REVERSE)

    @property
    def quality(self) -> int:
        """Phred of the base at the site as in the file, -1 for none."""
        return -1 if self.at < 0 else int(self.qualities[self.at])


def read_site(block: RecordBlock, chunk: _Chunk, options: CallOptions, length: int, site: int) -> list[SiteRead]:
    """Records of the block that overlap a site, in the order of the file.

    Parameters
    ----------
    chunk, options
        What `call_chunk` made of the block, from its trace.
    length
        Of the contig.
    site
        0-based position in the contig.
    """
    low, high = max(0, chunk.start - MARGIN), min(length, chunk.stop + MARGIN)
    used, _ = usable_records(block, chunk.contig, low, high, chunk.origin + chunk.n_ref, options.min_mapq)
    if len(used) != len(chunk.reads):
        raise InternalError(f"{len(used)} usable records, {len(chunk.reads)} reads")
    number = {int(offset): i for i, offset in enumerate(used)}
    rows = np.empty(block.n + 1, np.int64)
    n = int(select_overlaps(block.data, block.offsets, chunk.contig, site, site + 1, rows))
    found = []
    for offset in block.offsets[rows[:n]].tolist():
        found.append(_read(block.data, offset, number.get(offset, -1), chunk, options, site))
    return found


def _read(data: NDArray[np.uint8], offset: int, index: int, chunk: _Chunk, options: CallOptions, site: int) -> SiteRead:
    """Take one record apart (SAM specification 4.2)."""
    head = data[offset : offset + 36].tobytes()
    start = int.from_bytes(head[8:12], "little", signed=True)
    n_name, mapq = head[12], head[13]
    n_cigar, flag = int.from_bytes(head[16:18], "little"), int.from_bytes(head[18:20], "little")
    length = int.from_bytes(head[20:24], "little")
    at = offset + 36
    letters = data[at : at + n_name - 1].tobytes().decode("ascii", "replace")
    name = "".join(letter if letter.isprintable() else "?" for letter in letters)
    at += n_name
    words = data[at : at + 4 * n_cigar].copy().view("<u4").tolist()
    cigar = tuple((int(word) & 15, int(word) >> 4) for word in words)
    at += 4 * n_cigar
    packed = data[at : at + (length + 1) // 2]
    bases = CODE_OF_NIBBLE[np.column_stack([packed >> 4, packed & 15]).ravel()[:length]]
    at += (length + 1) // 2
    qualities = data[at : at + length].copy()
    span = sum(n for op, n in cigar if op in (0, 2, 3, 7, 8))
    place = _index_at(cigar, start, site) if length else -1  # a record may lack its bases
    trusted = int(chunk.reads.qualities[chunk.reads.base_offset[index] + place]) if index >= 0 and place >= 0 else -1
    return SiteRead(
        name=name,
        flag=flag,
        mapq=mapq,
        start=start,
        stop=start + span,
        cigar=cigar,
        bases=bases,
        qualities=qualities,
        index=index,
        why="" if index >= 0 else _reason(flag, mapq, length, span, options),
        base=int(bases[place]) if place >= 0 else -1,
        at=place,
        trusted=trusted,
        indels=tuple(_indels(cigar, start, bases, chunk, site)) if length else (),
        mate=_mate_over(index, chunk, site),
    )


def _reason(flag: int, mapq: int, length: int, span: int, options: CallOptions) -> str:
    for bit, words in _FLAGS:
        if flag & bit:
            return words
    if mapq < options.min_mapq:
        return f"MAPQ below {options.min_mapq}"
    if length == 0 or span == 0:
        return "no bases"
    if length > MAX_READ:
        return f"longer than {MAX_READ} bases"
    if span > MAX_SPAN:
        return f"spans more than {MAX_SPAN} bases of the reference"
    return "reaches beyond the contig"


def _mate_over(index: int, chunk: _Chunk, site: int) -> int:
    mate = int(chunk.reads.mate[index]) if index >= 0 else -1
    here = site - chunk.origin
    return mate if mate >= 0 and chunk.reads.start[mate] <= here < chunk.reads.stop[mate] else -1


def _index_at(cigar: tuple[tuple[int, int], ...], start: int, site: int) -> int:
    """Index of the base aligned to the site, -1 for none."""
    p, q = start, 0
    for op, n in cigar:
        if op in (0, 7, 8):
            if p <= site < p + n:
                return q + site - p
            p, q = p + n, q + n
        elif op in (1, 4):
            q += n
        elif op in (2, 3):
            p += n
    return -1


def _indels(
    cigar: tuple[tuple[int, int], ...], start: int, bases: NDArray[np.uint8], chunk: _Chunk, site: int
) -> list[Event]:
    """Indels between aligned bases that could stand over the site."""
    p, q, found = start, 0, []
    for k, (op, n) in enumerate(cigar):
        inner = 0 < k < len(cigar) - 1 and 0 < p - chunk.origin < chunk.n_ref
        if op in (0, 7, 8):
            p, q = p + n, q + n
        elif op == 1:
            if inner and abs(p - site) <= _REACH:
                found.append(left_aligned(p, p, bases[q : q + n].tobytes(), chunk))
            q += n
        elif op == 2:
            if inner and p - _REACH <= site <= p + n + _REACH:
                found.append(left_aligned(p, p + n, b"", chunk))
            p += n
        elif op == 3:
            p += n
        elif op == 4:
            q += n
    return [event for event in found if reach(event, chunk)[0] <= site < reach(event, chunk)[1]]


def left_aligned(start: int, stop: int, inserted: bytes, chunk: _Chunk) -> Event:
    """An indel (contig coordinates, codes) as far left as it goes, but not before position 1."""
    ref, s, e = chunk.ref, start - chunk.origin, stop - chunk.origin
    first = max(1, s - MAX_SHIFT)
    if inserted:
        while s > first and int(ref[s - 1]) == inserted[-1]:
            inserted = inserted[-1:] + inserted[:-1]
            s -= 1
        return (s + chunk.origin, s + chunk.origin, INSERTION, inserted)
    while s > first and ref[s - 1] == ref[e - 1]:
        s, e = s - 1, e - 1
    return (s + chunk.origin, e + chunk.origin, DELETION, b"")


def reach(event: Event, chunk: _Chunk) -> tuple[int, int]:
    """Stretch (contig coordinates) over which an event could stand as well, as windows see it."""
    start, stop, kind, inserted = event
    if kind == SNP:
        return start, stop
    ref, s, e, i = chunk.ref, start - chunk.origin, stop - chunk.origin, 0
    while e + i < chunk.n_ref and i < _REACH:
        expected = inserted[i % len(inserted)] if kind == INSERTION else int(ref[s + i])
        if int(ref[e + i]) != expected:
            break
        i += 1
    return start - 1, stop + i + 1


def allele_text(event: Event, chunk: _Chunk) -> tuple[int, str, str]:
    """0-based position, REF and ALT of an event, as a record of its own has them."""
    start, stop, kind, bases = event
    begin = start - (kind != SNP)
    ref = decode(chunk.ref[begin - chunk.origin : stop - chunk.origin])
    put = decode(np.frombuffer(bases, np.uint8))
    return begin, ref, put if kind == SNP else ref[:1] + put
