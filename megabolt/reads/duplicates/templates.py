# SPDX-License-Identifier: Apache-2.0
"""What duplicates are recognised by: 5' ends, sums of qualities, places on the flow cell and UMIs.

In: a `RecordChunk` of the aligner, or any `RecordBlock` of BAM records. Out: `Templates` (a row per pair or single
read) or `RecordEnds` (a row per record). Next: `duplicates/finder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import RecordChunk
from megabolt.compute.bits import load_i32, load_u16, load_u32
from megabolt.compute.jit import callee, kernel
from megabolt.formats.bam import RecordBlock
from megabolt.reads.duplicates.places import OTHER_NAME, locate
from megabolt.reads.duplicates.umi_tags import read_umis

U = np.uint64
#: Bits of `Templates.flags`, besides OTHER_NAME: mate 1 lies on the reverse strand; a lone read that the metrics count
#: as half a pair.
MATE1_REVERSE, HALF_PAIR = 1, 8
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
_UNMAPPED, _REVERSE, _QC_FAIL, _NOT_PRIMARY = 0x4, 0x10, 0x200, 0x900


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
        int32 [n, 3]: tile, x, y, each in 16 bits with sign; -1: unknown. See `places.py`.
    read_group
        uint16 [n]: index of the read group, below 32768.
    flags
        uint8 [n]: MATE1_REVERSE, OTHER_NAME, HALF_PAIR.
    unmapped, others
        uint16 [n]: unmapped reads; secondary and supplementary records. For the metrics alone.
    umi
        uint64 [n], or None: see `umi_tags.py`.
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
        UMIs are in the order of the strands: see `umi_tags.py`.
    """
    n = block.n
    starts = np.ascontiguousarray(block.offsets[:-1])
    ends = RecordEnds(
        end=np.empty(n, np.uint64),
        score=np.empty(n, np.int32),
        location=np.empty((n, 3), np.int32),
        flags=np.zeros(n, np.uint8),
        umi=_umis(block.data, starts, duplex) if want_umi else None,
    )
    _ends(block.data, starts, offsets, ends.end, ends.score)
    locate(block.data, starts, ends.location, ends.flags)
    return ends


def _umis(data: NDArray[np.uint8], starts: NDArray[np.int64], duplex: bool) -> NDArray[np.uint64]:
    umi = np.empty(len(starts), np.uint64)
    five_prime = np.empty(len(starts) if duplex else 0, np.int64)
    if duplex:
        _five_primes(data, starts, five_prime)
    read_umis(data, starts, five_prime, umi)
    return umi


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
        UMIs are in the order of the strands: see `umi_tags.py`.
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
    )
    starts = np.empty(n, np.int64)
    _look_at(chunk.data, chunk.offsets, chunk.ordinal, chunk.n_records, starts, out.flags, out.unmapped, out.others)
    locate(chunk.data, starts, out.location, out.flags)
    if want_umi:
        out.umi = _umis(chunk.data, starts, duplex)
    return out


# --- kernels: p = start of the record ---


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


@kernel("void(uint8[::1], int64[::1], int64[::1])")
def _five_primes(data: NDArray[np.uint8], starts: NDArray[np.int64], five_prime: NDArray[np.int64]) -> None:
    for i in range(U(len(starts))):
        five_prime[i] = _five_prime(data, starts[i])


@kernel("void(uint8[::1], int64[::1], int64[::1], uint64[::1], int32[::1])")
def _ends(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    contig_offset: NDArray[np.int64],
    end: NDArray[np.uint64],
    score: NDArray[np.int32],
) -> None:
    """See `RecordEnds`."""
    for i in range(U(len(starts))):
        p = starts[i]
        flag = np.int64(load_u16(data, p + 18))
        contig = np.int64(load_i32(data, p + 4))
        end[i] = _NO_END
        score[i] = np.int32(0)
        if flag & _UNMAPPED == 0 and flag & _NOT_PRIMARY == 0 and contig >= 0:
            place = contig_offset[U(contig)] + max(_five_prime(data, p), np.int64(-END_GAP // 2))
            place = min(place, contig_offset[U(contig + 1)] - END_GAP // 2 - 1)
            end[i] = U(place) << U(1) | U(flag & _REVERSE != 0)
            score[i] = _score(data, p)


@kernel("void(uint8[::1], int64[::1], int64[::1], int64, int64[::1], uint8[::1], uint16[::1], uint16[::1])")
def _look_at(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    ordinal: NDArray[np.int64],
    n_records: Any,
    starts: NDArray[np.int64],
    flags: NDArray[np.uint8],
    unmapped: NDArray[np.uint16],
    others: NDArray[np.uint16],
) -> None:
    """Of each template the start of its first record, the strand of mate 1 and what the metrics count."""
    for r in range(U(n_records)):
        i = U(ordinal[r]) >> U(5)
        if ordinal[r] & 15 != 0:
            others[i] += np.uint16(1)
            continue
        flag = np.int64(load_u16(data, offsets[r] + 18))
        if flag & _UNMAPPED != 0:
            unmapped[i] += np.uint16(1)
        if ordinal[r] & 31 == 0:
            starts[i] = offsets[r]
            if flag & _REVERSE != 0:
                flags[i] |= np.uint8(MATE1_REVERSE)
