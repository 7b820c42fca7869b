# SPDX-License-Identifier: Apache-2.0
"""Packed BAM records of one chunk, decoded once into flat arrays that every later kernel reads.

In: `RecordBlock` (sorted, duplicates flagged). Out: `Reads`. Next: `evidence.py`.

Coordinates are local: 0 is the first base of the chunk's reference segment. Overlapping mates are reconciled
here, on the qualities: each read stays a read, but what both mates saw is not believed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, load_i32, load_u16, load_u32, store_u16
from megabolt.compute.jit import kernel
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import CODE_OF_NIBBLE

U = np.uint64
#: Unmapped, secondary, failed quality control, duplicate, supplementary: no evidence from these records. The parts of
#: a split read other than the primary one, which has all its bases, would be counted as further templates.
UNUSABLE_FLAGS = 0x4 | 0x100 | 0x200 | 0x400 | 0x800
#: Reads that span more reference than this are dropped (split alignments and spliced reads): it bounds how far
#: a read can reach into a chunk, so that every chunk sees the same reads.
MAX_SPAN = 1000
#: Longest read the pair-HMM takes.
MAX_READ = 512
#: Phred quality of a base without one (0xff in BAM).
MISSING_QUALITY = 30

#: packed byte of two nibbles -> two base codes, first base in the low byte
_TWO_CODES: NDArray[np.uint16] = np.array(
    [int(CODE_OF_NIBBLE[b >> 4]) | int(CODE_OF_NIBBLE[b & 15]) << 8 for b in range(256)], np.uint16
)


@dataclass(frozen=True)
class Reads:
    """Usable reads of a chunk, in the order of their alignment start.

    start, stop: int64 [n], local reference span, half-open. mapq: uint8 [n]; flag: uint16 [n].
    base_offset: int64 [n + 1] into bases (uint8 codes) and qualities (uint8 Phred, reconciled between mates).
    cigar_offset: int64 [n + 1] into cigar (uint32, BAM encoding).
    mate: int32 [n], index of the other read of the same template, -1 if it is not here.
    name_hash: uint64 [n], of the read name: the same for both mates in every chunk.
    max_span: longest reference span of a read.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    mapq: NDArray[np.uint8]
    flag: NDArray[np.uint16]
    base_offset: NDArray[np.int64]
    bases: NDArray[np.uint8]
    qualities: NDArray[np.uint8]
    cigar_offset: NDArray[np.int64]
    cigar: NDArray[np.uint32]
    mate: NDArray[np.int32]
    name_hash: NDArray[np.uint64]
    max_span: int

    def __len__(self) -> int:
        return len(self.start)


@kernel("int64(uint8[::1], int64[::1], int64, int64, int64, int64, int64, int64[::1], int64[::1])")
def _select(
    data: Any,
    offsets: Any,
    contig: Any,
    region_start: Any,
    region_stop: Any,
    end: Any,
    min_mapq: Any,
    chosen: Any,
    totals: Any,
) -> Any:
    """Offsets of the usable records that overlap the region; totals: bases (padded), CIGAR operations, last stop."""
    n = 0
    totals[0] = 0
    totals[1] = 0
    for i in range(len(offsets) - 1):
        o = offsets[i]
        if np.int64(load_i32(data, o + 4)) != contig:
            continue
        start = np.int64(load_i32(data, o + 8))
        if start >= region_stop:
            break
        n_cigar = np.int64(load_u16(data, o + 16))
        length = np.int64(load_i32(data, o + 20))
        if np.int64(load_u16(data, o + 18)) & 0xF04 or np.int64(data[U(o + 13)]) < min_mapq:
            continue
        if n_cigar == 0 or length == 0 or length > 512:
            continue
        cigar = o + 36 + np.int64(data[U(o + 12)])
        span: Any = 0
        for c in range(n_cigar):
            word = np.int64(load_u32(data, cigar + 4 * c))
            op = word & 15
            if op == 0 or op == 2 or op == 3 or op == 7 or op == 8:
                span += word >> 4
        if span == 0 or span > 1000 or start + span <= region_start or start + span > end:
            continue
        chosen[U(n)] = o
        n += 1
        totals[0] += (length + 1) // 2 * 2
        totals[1] += n_cigar
    return n


@kernel(
    "int64(uint8[::1], int64[::1], int64, int64, uint16[::1], int64[::1], int64[::1], uint8[::1], uint16[::1],"
    " int64[::1], uint8[::1], uint8[::1], int64[::1], uint32[::1], uint64[::1])"
)
def _decode(
    data: Any,
    chosen: Any,
    n: Any,
    origin: Any,
    two_codes: Any,
    starts: Any,
    stops: Any,
    mapq: Any,
    flag: Any,
    base_offset: Any,
    bases: Any,
    qualities: Any,
    cigar_offset: Any,
    cigar: Any,
    name_hash: Any,
) -> Any:
    """Fill the arrays of `Reads`; returns the longest reference span."""
    next_base: Any = 0
    next_op = 0
    max_span = 0
    for i in range(n):
        o = chosen[i]
        name_length = np.int64(data[U(o + 12)])
        n_cigar = np.int64(load_u16(data, o + 16))
        length = np.int64(load_i32(data, o + 20))
        starts[i] = np.int64(load_i32(data, o + 8)) - origin
        mapq[i] = data[U(o + 13)]
        flag[i] = np.uint16(load_u16(data, o + 18))
        h = U(0xCBF29CE484222325)  # FNV-1a over the name without its NUL
        for x in range(name_length - 1):
            h = (h ^ U(data[U(o + 36 + x)])) * U(0x100000001B3)
        # MurmurHash3's finaliser: templates are sampled by their hash, so all bits must depend on all letters
        h = (h ^ (h >> U(33))) * U(0xFF51AFD7ED558CCD)
        h = (h ^ (h >> U(33))) * U(0xC4CEB9FE1A85EC53)
        name_hash[i] = h ^ (h >> U(33))
        at = o + 36 + name_length
        span: Any = 0
        cigar_offset[i] = next_op
        for c in range(n_cigar):
            word = load_u32(data, at + 4 * c)
            op = np.int64(word) & 15
            if op == 0 or op == 2 or op == 3 or op == 7 or op == 8:
                span += np.int64(word) >> 4
            cigar[U(next_op)] = np.uint32(word)
            next_op += 1
        stops[i] = starts[i] + span
        max_span = max(max_span, span)
        at += 4 * n_cigar
        base_offset[i] = next_base
        half = (length + 1) // 2
        for x in range(half):
            store_u16(bases, next_base + 2 * x, two_codes[U(data[U(at + x)])])
        at += half
        missing = data[U(at)] == np.uint8(255)
        source = data[at : at + length]
        target = qualities[next_base : next_base + length]
        for x in range(length):
            target[x] = np.uint8(30) if missing else source[x]
        # every read starts at an even place, as its bases come two to a byte; the odd read has a spare N
        if length & 1:
            bases[U(next_base + length)] = np.uint8(4)
        next_base += 2 * half
    base_offset[n] = next_base
    cigar_offset[n] = next_op
    return max_span


@kernel("void(uint8[::1], int64[::1], int64, uint16[::1], uint64[::1], int32[::1])")
def _find_mates(
    data: NDArray[np.uint8],
    chosen: NDArray[np.int64],
    n: int,
    flag: NDArray[np.uint16],
    name_hash: NDArray[np.uint64],
    mate: NDArray[np.int32],
) -> None:
    """Pair reads by name through an open-addressing table; a name met a third time stays single."""
    size = 16
    while size < 2 * n:
        size *= 2
    table = np.full(size, -1, np.int32)
    mask = U(size - 1)
    for i in range(n):
        mate[i] = -1
    for i in range(n):
        if not np.int64(flag[i]) & 1:
            continue
        slot = name_hash[i] & mask
        while table[slot] >= 0:
            j = np.int64(table[slot])
            if (
                name_hash[j] == name_hash[i]
                and mate[j] < 0
                and (flag[i] ^ flag[j]) & np.uint16(0xC0) == np.uint16(0xC0)
            ):
                a, b = chosen[i] + 36, chosen[j] + 36
                length = np.int64(data[U(a - 24)])
                same = length == np.int64(data[U(b - 24)])
                for x in range(length if same else 0):
                    same = same and data[U(a + x)] == data[U(b + x)]
                if same:
                    mate[i] = np.int32(j)
                    mate[j] = np.int32(i)
                    break
            slot = (slot + U(1)) & mask
        if mate[i] < 0:
            table[slot] = np.int32(i)


@kernel("void(int64[::1], int64[::1], int64[::1], uint8[::1], uint8[::1], int64[::1], uint32[::1], int32[::1], int64)")
def _reconcile_mates(
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    base_offset: NDArray[np.int64],
    bases: NDArray[np.uint8],
    qualities: NDArray[np.uint8],
    cigar_offset: NDArray[np.int64],
    cigar: NDArray[np.uint32],
    mate: NDArray[np.int32],
    cap: int,
) -> None:
    """Where mates overlap: agreeing bases are worth at most `cap` each, disagreeing ones nothing.

    Only aligned bases are compared, by reference position: aligned block against aligned block.
    """
    for i in range(len(starts)):
        m = np.int64(mate[i])
        if m <= i or starts[m] >= stops[i]:
            continue
        p, q = starts[i], base_offset[i]
        for c in range(cigar_offset[i], cigar_offset[i + 1]):
            op, l = np.int64(cigar[c] & np.uint32(15)), np.int64(cigar[c] >> np.uint32(4))
            if op == 0 or op == 7 or op == 8:
                p2, q2 = starts[m], base_offset[m]
                for c2 in range(cigar_offset[m], cigar_offset[m + 1]):
                    op2, l2 = np.int64(cigar[c2] & np.uint32(15)), np.int64(cigar[c2] >> np.uint32(4))
                    if op2 == 0 or op2 == 7 or op2 == 8:
                        low, high = max(p, p2), min(p + l, p2 + l2)
                        for x in range(low, high):
                            a, b = U(q + x - p), U(q2 + x - p2)
                            if bases[a] == bases[b]:
                                qualities[a] = min(qualities[a], np.uint8(cap))
                                qualities[b] = min(qualities[b], np.uint8(cap))
                            else:
                                qualities[a] = np.uint8(0)
                                qualities[b] = np.uint8(0)
                        p2 += l2
                        q2 += l2
                    elif op2 == 1 or op2 == 4:
                        q2 += l2
                    elif op2 == 2 or op2 == 3:
                        p2 += l2
                p += l
                q += l
            elif op == 1 or op == 4:
                q += l
            elif op == 2 or op == 3:
                p += l


def usable_records(
    block: RecordBlock, contig: int, region_start: int, region_stop: int, end: int, min_mapq: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets of the records that `decode_reads` takes, in its order; how many bases and CIGAR operations they have.

    end: reads that reach beyond it are left out.
    """
    chosen = np.empty(len(block.offsets), np.int64)
    totals = np.zeros(2, np.int64)
    n = int(_select(block.data, block.offsets, contig, region_start, region_stop, end, min_mapq, chosen, totals))
    return chosen[:n], totals


def decode_reads(
    block: RecordBlock,
    contig: int,
    region_start: int,
    region_stop: int,
    origin: int,
    n_ref: int,
    *,
    min_mapq: int,
    overlap_cap: int,
) -> Reads:
    """Usable reads of `block` that overlap [region_start, region_stop) of the contig.

    Parameters
    ----------
    block
        RecordBlock, sorted by coordinate; records elsewhere are skipped.
    origin
        Contig position that becomes local position 0; at least MAX_SPAN before region_start, or 0.
    n_ref
        Length of the reference segment; reads that reach beyond it (beyond the contig) are left out.
    min_mapq
        Reads below are left out.
    overlap_cap
        Phred quality that an agreeing base of overlapping mates keeps at most.
    """
    chosen, totals = usable_records(block, contig, region_start, region_stop, origin + n_ref, min_mapq)
    n = len(chosen)
    starts, stops = np.empty(n, np.int64), np.empty(n, np.int64)
    mapq, flag = np.empty(n, np.uint8), np.empty(n, np.uint16)
    base_offset, cigar_offset = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    bases = np.full(int(totals[0]) + PADDING, 4, np.uint8)
    qualities = np.zeros(int(totals[0]) + PADDING, np.uint8)
    cigar = np.empty(int(totals[1]), np.uint32)
    name_hash = np.empty(n, np.uint64)
    mate = np.empty(n, np.int32)
    max_span = _decode(
        block.data, chosen, n, origin, _TWO_CODES, starts, stops, mapq, flag, base_offset, bases, qualities,
        cigar_offset, cigar, name_hash,
    )  # fmt: skip
    _find_mates(block.data, chosen, n, flag, name_hash, mate)
    _reconcile_mates(starts, stops, base_offset, bases, qualities, cigar_offset, cigar, mate, overlap_cap)
    return Reads(
        starts, stops, mapq, flag, base_offset, bases, qualities, cigar_offset, cigar, mate, name_hash, int(max_span)
    )  # fmt: skip
