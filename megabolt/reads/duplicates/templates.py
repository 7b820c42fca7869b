# SPDX-License-Identifier: Apache-2.0
"""What duplicates are recognised by: 5' ends, sums of qualities, places on the flow cell and UMIs.

In: a `RecordChunk` of the aligner, or any `RecordBlock` of BAM records. Out: `Templates` (a row per pair or single
read) or `RecordEnds` (a row per record). Next: `duplicates/finder.py`.

Places come from read names, as Picard's default READ_NAME_REGEX takes them: the last three of five or seven fields
between colons are tile, x and y, cut to 16 bits. Beyond Picard, a name of eight fields has its UMI last and the place
before it, and a DNBSEQ name (...L1C003R0120000001) tells the column and the row of a field of view; all its reads
count as neighbours, for their numbers tell nothing about distance. Such places serve for optical duplicates only,
never to break a tie, so that flags are Picard's whatever the names.

A UMI is the text of the RX tag in 2 bits a base, first base highest, behind a leading 1; what stands between its parts
is left out, lower case is upper case. One N is kept with its position; a text with more, with other letters or
of more than 28 bases is a hash of itself with bit 63 set, which is near nothing. 0: no UMI.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import RecordChunk
from megabolt.compute.bits import PADDING, equal_mask64, load_i32, load_u16, load_u32, trailing_zeros
from megabolt.compute.jit import callee, inline, kernel
from megabolt.formats.bam import RecordBlock

U = np.uint64
#: Bits of `Templates.flags`: mate 1 lies on the reverse strand; Picard would not read a place from this name; a lone
#: read that the metrics count as half a pair.
MATE1_REVERSE, OTHER_NAME, HALF_PAIR = 1, 2, 8
#: `join_ends`: no second end, for the mate is unmapped or there is none; the mate is mapped, but not in the file;
#: the mate is said to be mapped, but not where (RNEXT *): Picard takes the read for a lone one then.
ALONE, MATE_ABSENT, MATE_NOWHERE = -1, -2, -3
#: Second end of a read whose mate is mapped but not in the file: it can make lone reads duplicates, never be one.
ABSENT_MATE = U(0xFFFFFFFFFFFFFFFE)
#: Room between the ends of neighbouring contigs in `RecordEnds.end`: clips may be half as long.
END_GAP = 1 << 20

_NO_END = U(0xFFFFFFFFFFFFFFFF)
_MIN_QUALITY = np.uint8(15)
_MAX_SUM = 16383
_FAILED = 16384  # what a read that failed the vendor's checks loses
_UNMAPPED, _REVERSE, _PAIRED_REVERSE, _QC_FAIL, _NOT_PRIMARY = 0x4, 0x10, 0x20, 0x200, 0x900
_LONGEST_UMI = 28
_HAS_N, _HASHED = U(1) << U(62), U(1) << U(63)
_N_SHIFT = U(57)


@dataclass
class Templates:
    """A row per template (pair or single read).

    Attributes
    ----------
    signature
        uint64 [n, 2]: the two unclipped 5' ends as in `RecordChunk`, the lower first; second `NO_END` for a lone
        read, `ABSENT_MATE` for a mapped read whose mapped mate is missing. The top 16 bits of both are free.
    quality_sum
        int32 [n]: Picard's score, -32768..32767.
    location
        int32 [n, 3]: tile, x, y, each in 16 bits with sign; -1: unknown.
    read_group
        uint16 [n]: index of the read group, below 32768.
    flags
        uint8 [n]: MATE1_REVERSE, OTHER_NAME, HALF_PAIR.
    unmapped, others
        uint16 [n]: unmapped reads; secondary and supplementary records. For the metrics alone.
    umi
        uint64 [n], or None: see the module.
    index
        int64 [n], or None: number of the template in the input, which settles ties and is its place among
        the flags. None: templates follow one another.
    """

    signature: NDArray[np.uint64]
    quality_sum: NDArray[np.int32]
    location: NDArray[np.int32]
    read_group: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    unmapped: NDArray[np.uint16]
    others: NDArray[np.uint16]
    umi: NDArray[np.uint64] | None = None
    index: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """Templates."""
        return len(self.quality_sum)


@dataclass
class RecordEnds:
    """A row per record of a block.

    Attributes
    ----------
    end
        uint64 [n]: unclipped 5' end << 1 | reverse, on a line that holds all contigs (`end_offsets`); hard
        clips count. `NO_END` for unmapped, secondary and supplementary records.
    score
        int32 [n]: sum of the base qualities >= 15, at most 16,383, less 16,384 if the vendor's checks failed.
    location
        int32 [n, 3]: tile, x, y of the name.
    flags
        uint8 [n]: OTHER_NAME.
    umi
        uint64 [n], or None.
    """

    end: NDArray[np.uint64]
    score: NDArray[np.int32]
    location: NDArray[np.int32]
    flags: NDArray[np.uint8]
    umi: NDArray[np.uint64] | None = None


def end_offsets(contig_lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each contig begins on the line of `RecordEnds.end`: int64 [contigs + 1]."""
    steps = np.asarray(contig_lengths, np.int64) + END_GAP
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(steps)]) + END_GAP // 2


def ends_of_records(
    block: RecordBlock, offsets: NDArray[np.int64], *, want_umi: bool = False, duplex: bool = False
) -> RecordEnds:
    """Unclipped 5' ends, scores, places and UMIs of any BAM records; releases the GIL.

    Parameters
    ----------
    block
        In any order; damaged records are not looked for.
    offsets
        `end_offsets` of the header's contigs.
    want_umi
        Read the RX tags.
    duplex
        UMIs are in the order of the strands: see `templates_of`. Needs the MC tag for pairs on one contig and strand.
    """
    n = block.n
    umi = np.zeros(n if want_umi else 0, np.uint64)
    ends = RecordEnds(
        end=np.empty(n, np.uint64),
        score=np.empty(n, np.int32),
        location=np.empty((n, 3), np.int32),
        flags=np.zeros(n, np.uint8),
        umi=umi if want_umi else None,
    )
    _ends(
        block.data,
        block.offsets,
        offsets,
        want_umi,
        duplex,
        ends.end,
        ends.score,
        ends.location,
        ends.flags,
        umi,
    )
    return ends


def join_ends(
    ends: RecordEnds,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    mate1_reverse: NDArray[np.bool_],
    read_group: NDArray[np.uint16],
) -> Templates:
    """Templates from the ends of records that were paired by name.

    Parameters
    ----------
    first, second
        int64 [n]: rows of `ends` for the two mates; second may be ALONE, MATE_ABSENT or MATE_NOWHERE. A row without
        an end must come second, or be alone.
    mate1_reverse
        bool [n]: strand of mate 1.
    read_group
        uint16 [n].

    Returns
    -------
    Templates in that order; `unmapped` and `others` are 0: fill them in for the metrics.
    """
    alone = second < 0
    one, other = ends.end[first], np.where(alone, _NO_END, ends.end[np.maximum(second, 0)])
    other = np.where(second == MATE_ABSENT, ABSENT_MATE, other)
    signature = np.stack([np.minimum(one, other), np.maximum(one, other)], axis=1)
    score = ends.score[first] + np.where(other >= ABSENT_MATE, 0, ends.score[np.maximum(second, 0)])
    flags = (ends.flags[first] & OTHER_NAME) | np.where(mate1_reverse, MATE1_REVERSE, 0)
    flags |= np.where(second == MATE_NOWHERE, HALF_PAIR, 0)
    return Templates(
        signature=np.ascontiguousarray(signature, np.uint64),
        quality_sum=score.astype(np.int32),
        location=np.ascontiguousarray(ends.location[first]),
        read_group=np.asarray(read_group, np.uint16),
        flags=flags.astype(np.uint8),
        unmapped=np.zeros(len(first), np.uint16),
        others=np.zeros(len(first), np.uint16),
        umi=None if ends.umi is None else ends.umi[first],
    )


def templates_of(chunk: RecordChunk, *, want_umi: bool = False, duplex: bool = False) -> Templates:
    """What a chunk's records tell about its templates; releases the GIL.

    Parameters
    ----------
    chunk
        As `build_records` fills it. Its arrays are copied: it may be filled again.
    want_umi
        Read the RX tags of the first records.
    duplex
        RX is A-B, and B-A on the other strand of the molecule: as in Picard's DUPLEX_UMI, A-B where the 5' end of
        mate 1 lies below that of mate 2, B-A otherwise.
    """
    n = chunk.n_pairs
    out = Templates(
        signature=chunk.signature[:n].copy(),
        quality_sum=chunk.quality_sum[:n].copy(),
        location=np.empty((n, 3), np.int32),
        read_group=np.full(n, chunk.read_group, np.uint16),
        flags=np.zeros(n, np.uint8),
        unmapped=np.zeros(n, np.uint16),
        others=np.zeros(n, np.uint16),
        umi=np.zeros(n, np.uint64) if want_umi else None,
    )
    _templates(
        chunk.data,
        chunk.offsets,
        chunk.ordinal,
        chunk.n_records,
        out.signature,
        want_umi,
        duplex,
        out.location,
        out.flags,
        out.unmapped,
        out.others,
        out.umi if out.umi is not None else np.zeros(0, np.uint64),
    )
    return out


def umi_code(text: str, *, swap: bool = False) -> int:
    """The number of a UMI: see the module. swap: the second of its two parts comes first."""
    data = np.frombuffer(bytearray(text.encode() + bytes(PADDING)), np.uint8)
    return int(_umi_code(data, len(text.encode()), swap))


# --- kernels: p = start of the record ---


@callee
def _number(data: NDArray[np.uint8], start: Any, stop: Any) -> Any:
    """The digits at the start of [start, stop), a minus before them allowed; none: 1 << 40. Wraps like an int."""
    i = start
    minus = i < stop and data[U(i)] == 45
    if minus:
        i += 1
    begin = i
    value = np.int64(0)
    while i < stop and data[U(i)] >= 48 and data[U(i)] <= 57:
        value = (value * 10 + np.int64(data[U(i)]) - 48) & 0xFFFFFFFF
        i += 1
    if i == begin:
        return np.int64(1) << 40
    return np.int64(-value if minus else value)


@callee
def _field_of_view(data: NDArray[np.uint8], start: Any, stop: Any) -> Any:
    """(column, row) of a DNBSEQ name, .. L1 C003 R012 0000001 and perhaps /1, as column << 8 | row; else -1."""
    if stop - start > 2 and data[U(stop - 2)] == 47:
        stop -= 2
    i = stop
    while i > start and data[U(i - 1)] >= 48 and data[U(i - 1)] <= 57:
        i -= 1
    if stop - i < 4 or i - start < 7:
        return np.int64(-1)
    if data[U(i - 1)] != 82 or data[U(i - 5)] != 67 or data[U(i - 7)] != 76:  # R C L
        return np.int64(-1)
    column = _number(data, i - 4, i - 1)
    if data[U(i - 6)] < 48 or data[U(i - 6)] > 57 or column > 127 or column < 0:
        return np.int64(-1)
    row = _number(data, i, i + 3)
    return -1 if row > 255 else column << 8 | row


@inline
def _short(value: Any) -> Any:
    """The low 16 bits with their sign."""
    return ((value + 32768) & 0xFFFF) - 32768


@callee
def _locate(data: NDArray[np.uint8], start: Any, length: Any, location: NDArray[np.int32], i: Any) -> Any:
    """Tile, x, y of a read name to location[i]; returns OTHER_NAME or 0."""
    for k in range(3):
        location[i, k] = -1
    colons = 0
    a = b = c = d = np.int64(0)  # the last four colons, d the last
    for t in range(0, length, 64):
        mask = equal_mask64(data, start + t, np.uint8(58))
        if length - t < 64:
            mask &= (U(1) << U(length - t)) - U(1)
        if t == 0:
            mask &= ~U(1)  # a colon in front ends no field
        while mask != U(0):
            a, b, c, d = b, c, d, start + t + trailing_zeros(mask)
            colons += 1
            mask &= mask - U(1)
    stop = start + length
    other = np.uint8(0)
    if colons == 4 or colons == 6:
        a, b, c = b, c, d
    elif colons == 7:
        stop = d
        other = np.uint8(OTHER_NAME)
    elif colons == 0:
        view = _field_of_view(data, start, stop)
        if view >= 0:
            location[i, 0], location[i, 1], location[i, 2] = view, 0, 0
            other = np.uint8(OTHER_NAME)
        return other
    else:
        return other
    tile, x, y = _number(data, a + 1, b), _number(data, b + 1, c), _number(data, c + 1, stop)
    if max(tile, x, y) < np.int64(1) << 40:
        location[i, 0], location[i, 1], location[i, 2] = _short(tile), _short(x), _short(y)
    return other


@callee
def _tag(data: NDArray[np.uint8], p: Any, stop: Any, first: Any, second: Any) -> Any:
    """Where the value of a Z tag begins, or -1."""
    words = load_u32(data, p + 12)
    length = np.int64(load_i32(data, p + 20))
    c = p + 36 + np.int64(words & 255) + 4 * np.int64(load_u16(data, p + 16)) + ((length + 1) >> 1) + length
    while c + 3 < stop:
        kind = data[U(c + 2)]
        if data[U(c)] == first and data[U(c + 1)] == second and kind == 90:
            return c + 3
        c += 3
        if kind == 65 or kind == 67 or kind == 99:  # A C c
            c += 1
        elif kind == 83 or kind == 115:  # S s
            c += 2
        elif kind == 73 or kind == 105 or kind == 102:  # I i f
            c += 4
        elif kind == 90 or kind == 72:  # Z H
            while c < stop and data[U(c)] != 0:
                c += 1
            c += 1
        elif kind == 66:  # B
            element = data[U(c)]
            size = 1 if element == 67 or element == 99 else 2 if element == 83 or element == 115 else 4
            c += 5 + size * np.int64(load_i32(data, c + 1))
        else:
            return np.int64(-1)
    return np.int64(-1)


@callee
def _encode_umi(data: NDArray[np.uint8], start: Any, length: Any, swap: Any) -> Any:
    """See the module."""
    cut = np.int64(0)
    if swap:
        while cut < length and data[U(start + cut)] >= 65:
            cut += 1
        if cut == length:
            cut = np.int64(0)
    code = U(1)
    hashed = U(0xCBF29CE484222325)
    bases = 0
    unknown = np.int64(-1)
    plain = True
    for k in range(length):
        at = k + cut
        letter = data[U(start + (at if at < length else at - length))] & np.uint8(0xDF)
        if letter < 65:  # - + _ and the like, bit 5 taken away
            continue
        if letter == 95:
            continue
        hashed = (hashed ^ U(letter)) * U(0x100000001B3)
        value = U(0)
        if letter == 67:
            value = U(1)
        elif letter == 71:
            value = U(2)
        elif letter == 84:
            value = U(3)
        elif letter == 78 and unknown < 0:
            unknown = np.int64(bases)
        elif letter != 65:
            plain = False
        code = (code << U(2)) | value
        bases += 1
    if bases == 0:
        return U(0)
    if bases > _LONGEST_UMI or not plain:
        return hashed | _HASHED
    if unknown >= 0:
        code |= _HAS_N | (U(bases - 1 - unknown) << _N_SHIFT)
    return code


@kernel("uint64(uint8[::1], int64, boolean)")
def _umi_code(data: NDArray[np.uint8], length: Any, swap: Any) -> Any:
    return _encode_umi(data, 0, length, swap)


@callee
def _umi(data: NDArray[np.uint8], p: Any, stop: Any, swap: Any) -> Any:
    """UMI of a record's RX tag."""
    start = _tag(data, p, stop, 82, 88)
    if start < 0:
        return U(0)
    length = np.int64(0)
    while start + length < stop and data[U(start + length)] != 0:
        length += 1
    return _encode_umi(data, start, length, swap)


@callee
def _five_prime(data: NDArray[np.uint8], p: Any) -> Any:
    """Unclipped 5' end of a mapped record on its contig, 0-based; soft and hard clips count."""
    n_cigar = np.int64(load_u16(data, p + 16))
    words = p + 36 + np.int64(data[U(p + 12)])
    start = np.int64(load_i32(data, p + 8))
    reverse = load_u16(data, p + 18) & _REVERSE
    clip = np.int64(0)
    if reverse == 0:
        for k in range(n_cigar):
            word = np.int64(load_u32(data, words + 4 * k))
            if word & 15 != 4 and word & 15 != 5:
                break
            clip += word >> 4
        return start - clip
    span = np.int64(0)
    for k in range(n_cigar):
        word = np.int64(load_u32(data, words + 4 * k))
        kind = word & 15
        if kind == 4 or kind == 5:
            clip += word >> 4
        else:
            clip = np.int64(0)
            if kind == 0 or kind == 2 or kind == 3 or kind == 7 or kind == 8:
                span += word >> 4
    return start + span - 1 + clip


@callee
def _score(data: NDArray[np.uint8], p: Any) -> Any:
    """Sum of the qualities that count: see `RecordEnds.score`."""
    length = np.int64(load_i32(data, p + 20))
    first = p + 36 + np.int64(data[U(p + 12)]) + 4 * np.int64(load_u16(data, p + 16)) + ((length + 1) >> 1)
    total = np.int32(0)
    if length > 0 and data[U(first)] != 255:
        for quality in data[first : first + length]:
            total += np.int32(quality) if quality >= _MIN_QUALITY else np.int32(0)
    total = min(total, np.int32(_MAX_SUM))
    return total - np.int32(_FAILED) if load_u16(data, p + 18) & _QC_FAIL else total


@callee
def _text_five_prime(data: NDArray[np.uint8], c: Any, start: Any, reverse: Any) -> Any:
    """`_five_prime` for the CIGAR text of an MC tag."""
    clip = np.int64(0)
    span = np.int64(0)
    leading = np.int64(-1)
    while data[U(c)] != 0:
        value = np.int64(0)
        while data[U(c)] >= 48 and data[U(c)] <= 57:
            value = 10 * value + np.int64(data[U(c)]) - 48
            c += 1
        kind = data[U(c)]
        if kind == 0:
            break
        c += 1
        if kind == 83 or kind == 72:  # S H
            clip += value
        else:
            leading = clip if leading < 0 else leading
            clip = np.int64(0)
            if kind != 73 and kind != 80:  # I P
                span += value
    if reverse == 0:
        return start - max(leading, np.int64(0))
    return start + span - 1 + clip


@callee
def _mate1_is_lower(data: NDArray[np.uint8], p: Any, stop: Any) -> Any:
    """Whether the 5' end of mate 1 lies below or at that of mate 2, as this record tells; True if unknown."""
    flag = np.int64(load_u16(data, p + 18))
    if flag & 0x1 == 0 or flag & 0xC != 0:
        return True
    contig, mate_contig = load_i32(data, p + 4), load_i32(data, p + 24)
    first = flag & 0x40 != 0
    if contig != mate_contig:
        return first == (contig < mate_contig)
    mate_start = np.int64(load_i32(data, p + 28))
    mate = mate_start
    cigar = _tag(data, p, stop, 77, 67)  # MC
    if cigar >= 0:
        mate = _text_five_prime(data, cigar, mate_start, flag & _PAIRED_REVERSE)
    return first == (_five_prime(data, p) <= mate)


@kernel(
    "void(uint8[::1], int64[::1], int64[::1], boolean, boolean, uint64[::1], int32[::1], int32[:, ::1], uint8[::1],"
    " uint64[::1])"
)
def _ends(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    contig_offset: NDArray[np.int64],
    want_umi: Any,
    duplex: Any,
    end: NDArray[np.uint64],
    score: NDArray[np.int32],
    location: NDArray[np.int32],
    flags: NDArray[np.uint8],
    umi: NDArray[np.uint64],
) -> None:
    for i in range(U(len(end))):
        p = offsets[i]
        flag = np.int64(load_u16(data, p + 18))
        contig = np.int64(load_i32(data, p + 4))
        end[i] = _NO_END
        score[i] = np.int32(0)
        if flag & _UNMAPPED == 0 and flag & _NOT_PRIMARY == 0 and contig >= 0:
            low = contig_offset[U(contig)]
            place = low + max(_five_prime(data, p), np.int64(-END_GAP // 2))
            place = min(place, contig_offset[U(contig + 1)] - END_GAP // 2 - 1)
            end[i] = U(place) << U(1) | U(flag & _REVERSE != 0)
            score[i] = _score(data, p)
        flags[i] = _locate(data, p + 36, np.int64(data[U(p + 12)]) - 1, location, i)
        if want_umi:
            swap = duplex and not _mate1_is_lower(data, p, offsets[i + U(1)])
            umi[i] = _umi(data, p, offsets[i + U(1)], swap)


@kernel(
    "void(uint8[::1], int64[::1], int64[::1], int64, uint64[:, ::1], boolean, boolean, int32[:, ::1], uint8[::1],"
    " uint16[::1], uint16[::1], uint64[::1])"
)
def _templates(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    ordinal: NDArray[np.int64],
    n_records: Any,
    signature: NDArray[np.uint64],
    want_umi: Any,
    duplex: Any,
    location: NDArray[np.int32],
    flags: NDArray[np.uint8],
    unmapped: NDArray[np.uint16],
    others: NDArray[np.uint16],
    umi: NDArray[np.uint64],
) -> None:
    for r in range(U(n_records)):
        i = U(ordinal[r]) >> U(5)
        if ordinal[r] & 15 != 0:
            others[i] += np.uint16(1)
            continue
        p = offsets[r]
        flag = np.int64(load_u16(data, p + 18))
        if flag & _UNMAPPED != 0:
            unmapped[i] += np.uint16(1)
        if ordinal[r] & 31 != 0:
            continue
        flags[i] = _locate(data, p + 36, np.int64(data[U(p + 12)]) - 1, location, i)
        if flag & _REVERSE != 0:
            flags[i] |= np.uint8(MATE1_REVERSE)
        if want_umi:
            swap = duplex and signature[i, 1] < ABSENT_MATE and not _mate1_is_lower(data, p, offsets[r + U(1)])
            umi[i] = _umi(data, p, offsets[r + U(1)], swap)
