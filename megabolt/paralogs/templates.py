# SPDX-License-Identifier: Apache-2.0
"""Templates that fit two places.

In: sorted records of a stretch of one contig, the aligner. Out: `Torn`. Next: `tracts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.align.alignments import MAX_CIGAR, Alignments, ExtraAlignments
from megabolt.align.engine import PairAligner
from megabolt.compute.bits import PADDING, U, load_i32, load_u16, load_u32
from megabolt.compute.jit import kernel
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fastq import FRONT, PairBatch
from megabolt.formats.fastq_scan import MAX_READ, N_FIELDS
from megabolt.formats.record_text import move_reads, write_texts

#: Below this MAPQ of a mate the aligner has seen a place that the template fits nearly as well: a rival four and more
#: differences worse leaves 40.
SURE_MAPQ = 40
#: Columns of a described record.
OFFSET, START, STOP, FLAG, QUALITY, N_FACTS = range(6)
REVERSE, FIRST, LAST = 0x10, 0x40, 0x80
#: CIGAR operations, one bit each, that take bases of the reference (M, D, N, =, X), of the read (M, I, S, =, X).
OF_REFERENCE, OF_READ = 0x18D, 0x193
#: Mates of one template are no further apart (bases), at either place.
_LONGEST_TEMPLATE = 1600
#: Templates that are asked for at once.
_AT_ONCE = 2048
#: Other places of a read that are looked at: one is wanted, the second tells that it is not the only one, and one of
#: them may be out of the mate's reach.
_MOST_PLACES = 5
#: Share of its score that a read keeps at the other place: there are 5 differences in 100 bases at most.
_LEAST_SHARE = 0.7


@dataclass(frozen=True)
class Records:
    """Usable records of a contig that have mates on it, by start, flag and name.

    data: uint8, the records and PADDING spare bytes.
    facts: int64 [n, N_FACTS], offset in `data`, start, stop (behind the last base), flag, MAPQ.
    name_hash: uint64 [n].
    """

    data: NDArray[np.uint8]
    facts: NDArray[np.int64]
    name_hash: NDArray[np.uint64]

    @property
    def unsure(self) -> NDArray[np.bool_]:
        """Which have a rival place."""
        found: NDArray[np.bool_] = self.facts[:, QUALITY] < SURE_MAPQ
        return found

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """Some records in their order, whatever the order of the parts."""
        begin = np.cumsum([0, *(len(part.data) - PADDING for part in parts)])
        data = [part.data[: len(part.data) - PADDING] for part in parts]
        facts = np.concatenate([np.empty((0, N_FACTS), np.int64), *(part.facts for part in parts)])
        facts[:, OFFSET] += np.repeat(begin[:-1], [len(part.facts) for part in parts])
        names = np.concatenate([np.empty(0, np.uint64), *(part.name_hash for part in parts)])
        order = np.lexsort((names, facts[:, FLAG], facts[:, START]))
        return cls(np.concatenate([*data, np.zeros(PADDING, np.uint8)]), facts[order], names[order])

    def select(self, rows: NDArray[np.bool_]) -> Records:
        """Some of them, copied."""
        facts = self.facts[rows]
        sizes = record_sizes(self.data, facts[:, OFFSET])
        data = np.zeros(int(sizes.sum()) + PADDING, np.uint8)
        move_reads(self.data, facts[:, OFFSET].copy(), sizes, data)
        facts[:, OFFSET] = np.cumsum(sizes) - sizes
        data[int(sizes.sum()) :] = 0
        return Records(data, facts, self.name_hash[rows])


@dataclass(frozen=True)
class Torn:
    """Templates with one other place that they fit, by their leftmost base.

    record: int64 [n, 2], offsets of mate 1 and mate 2 in the data of the records; name_hash: uint64 [n].
    start: int64, reverse: uint8, n_cigar: int32 [n, 2, 2] and cigar: uint32 [n, 2, 2, MAX_CIGAR], by place (own, other)
    and mate. span: int64 [n, 2, 2], by place, first base and the one behind the last of the whole template.
    crowded: int64 [k, 2], spans of the templates that have several other places.
    """

    record: NDArray[np.int64]
    start: NDArray[np.int64]
    reverse: NDArray[np.uint8]
    cigar: NDArray[np.uint32]
    n_cigar: NDArray[np.int32]
    span: NDArray[np.int64]
    name_hash: NDArray[np.uint64]
    crowded: NDArray[np.int64]


@kernel("int64(uint8[::1], int64[::1], int64, int64, int64, int64, int64[:, ::1], uint64[::1])")
def _describe(
    data: Any, offsets: Any, contig: Any, low: Any, high: Any, longest: Any, facts: Any, name_hash: Any
) -> Any:
    """Facts of the records that begin in [low, high) and have 1 to `longest` bases; returns their number."""
    n = 0
    for i in range(len(offsets) - 1):
        o = offsets[i]
        if np.int64(load_i32(data, o + 4)) != contig:
            continue
        start = np.int64(load_i32(data, o + 8))
        flag = np.int64(load_u16(data, o + 18))
        # paired; neither unmapped, nor secondary, supplementary, bad or a duplicate
        if start < low or start >= high or flag & 0xF0D != 1 or np.int64(load_i32(data, o + 24)) != contig:
            continue
        n_cigar = np.int64(load_u16(data, o + 16))
        length = np.int64(load_i32(data, o + 20))
        if n_cigar == 0 or n_cigar > MAX_CIGAR or length == 0 or length > longest:
            continue
        n_name = np.int64(data[U(o + 12)])
        stop = start
        for c in range(n_cigar):
            word = np.int64(load_u32(data, o + 36 + n_name + 4 * c))
            if (0x18D >> (word & 15)) & 1:  # M, D, N, =, X take reference
                stop += word >> 4
        h = U(0xCBF29CE484222325)  # FNV-1a
        for x in range(n_name - 1):
            h = (h ^ U(data[U(o + 36 + x)])) * U(0x100000001B3)
        facts[n, 0], facts[n, 1], facts[n, 2] = o, start, stop
        facts[n, 3], facts[n, 4] = flag, np.int64(data[U(o + 13)])
        name_hash[n] = h
        n += 1
    return n


def record_sizes(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes of the records at some offsets."""
    words = data[offsets[:, None] + np.arange(4)].reshape(-1, 4)
    sizes: NDArray[np.int64] = words.view("<i4")[:, 0].astype(np.int64) + 4
    return sizes


def usable_records(block: RecordBlock, contig: int, low: int, high: int) -> Records:
    """The usable records of a block, in any order, that begin in [low, high) of a contig; not copied."""
    facts, name_hash = np.empty((block.n, N_FACTS), np.int64), np.empty(block.n, np.uint64)
    n = int(_describe(block.data, block.offsets, contig, low, high, MAX_READ, facts, name_hash))
    return Records(block.data, facts[:n], name_hash[:n])


def pair_up(records: Records, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows (int64 [k, 2]) of mate 1 and mate 2 of the templates that have exactly these two among `rows`.

    The mates face each other; in the order of the first of each.
    """
    order = rows[np.argsort(records.name_hash[rows], kind="stable")]
    names = records.name_hash[order]
    same = names[1:] == names[:-1]
    lone = same.copy()
    lone[1:] &= ~same[:-1]
    lone[:-1] &= ~same[1:]
    left = np.flatnonzero(lone)
    pairs = np.stack([order[left], order[left + 1]], axis=1)
    flag = records.facts[pairs, FLAG]
    start = records.facts[pairs, START]
    reverse = flag & REVERSE > 0
    facing = reverse[:, 0] != reverse[:, 1]
    facing &= (flag[:, 0] ^ flag[:, 1]) & (FIRST | LAST) == FIRST | LAST
    facing &= np.abs(start[:, 1] - start[:, 0]) <= _LONGEST_TEMPLATE
    pairs, flag = pairs[facing], flag[facing]
    pairs = np.where((flag[:, :1] & FIRST) > 0, pairs, pairs[:, ::-1])
    ordered: NDArray[np.int64] = pairs[np.argsort(pairs.min(axis=1), kind="stable")]
    return ordered


def torn_templates(records: Records, contig: int, low: int, high: int, aligner: PairAligner) -> Torn:
    """Templates among `records`, which all have a rival place, that fit one other place in [low, high)."""
    pairs = pair_up(records, np.arange(len(records.facts)))
    owns, others, kept = [], [], []
    n = 0
    for first in range(0, max(1, len(pairs)), _AT_ONCE):
        batch, some = _texts(records, pairs[first : first + _AT_ONCE])
        placed = _own_alignments(records, contig, some)
        elsewhere = aligner.other_places(batch, placed, most=_MOST_PLACES)
        elsewhere = elsewhere.select(elsewhere.score >= _LEAST_SHARE * placed.score[elsewhere.read])
        elsewhere.read[:] += 2 * n
        owns.append(placed)
        others.append(elsewhere)
        kept.append(some)
        n += len(some)
    own, other, pairs = _Places.joined(owns), ExtraAlignments.joined(others), np.concatenate(kept)
    bounds = np.searchsorted(other.read, np.arange(2 * len(pairs) + 1))
    chosen: list[tuple[int, int, int]] = []
    crowded: list[int] = []
    for k in range(len(pairs)):
        a, b, c = bounds[2 * k : 2 * k + 3].tolist()
        if b - a > 0 and c - b > 0:
            places = _faced(other, range(a, b), range(b, c))
            if len(places) > 1:
                crowded.append(k)
            elif places:
                chosen.append((k, *places[0]))
    rows = np.array(chosen, np.int64).reshape(-1, 3)
    inside = other.contig[rows[:, 1]] == contig
    rows = rows[inside & (other.start[rows[:, 1:]] >= low).all(axis=1) & (other.start[rows[:, 1:]] < high).all(axis=1)]
    return _torn(records, pairs, own, other, rows, np.array(crowded, np.int64))


class _Places(NamedTuple):
    """Of `Alignments`, what is needed here."""

    start: NDArray[np.int32]
    reverse: NDArray[np.uint8]
    cigar: NDArray[np.uint32]
    n_cigar: NDArray[np.int32]

    @classmethod
    def joined(cls, parts: Sequence[Alignments]) -> _Places:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls._fields))


def _faced(other: ExtraAlignments, ones: range, twos: range) -> list[tuple[int, int]]:
    """Pairs of places at which the mates face each other."""
    found = []
    for x in ones:
        for y in twos:
            if other.contig[x] != other.contig[y] or other.reverse[x] == other.reverse[y]:
                continue
            forward, backward = (y, x) if other.reverse[x] else (x, y)
            distance = int(other.start[backward]) - int(other.start[forward])
            if -MAX_READ < distance <= _LONGEST_TEMPLATE:
                found.append((x, y))
    return found


def _texts(records: Records, pairs: NDArray[np.int64]) -> tuple[PairBatch, NDArray[np.int64]]:
    """The reads as the aligner takes them, and the pairs that are among them: those whose bases are all there."""
    ends = np.zeros((len(pairs), 2, 4), np.int64)
    ends[:, :, 1] = records.facts[pairs, OFFSET]
    umis = np.zeros((len(pairs), 3), np.int64)
    text = np.zeros(FRONT + len(pairs) * (300 + 4 * MAX_READ) + PADDING, np.uint8)
    fields = np.zeros((2, len(pairs), N_FIELDS), np.int64)
    counts = np.array([0, FRONT, 0, 0], np.int64)
    done, whole = 0, np.ones(len(pairs), np.bool_)
    while done < len(pairs):
        done = int(write_texts(records.data, text, ends, umis, done, MAX_READ, text, fields[0], fields[1], counts))
        if counts[2]:
            whole[done] = False
            done += 1
    n = int(counts[0])
    return PairBatch(n, (text, text), (fields[0, :n], fields[1, :n]), 0, 0), pairs[whole]


def _own_alignments(records: Records, contig: int, pairs: NDArray[np.int64]) -> Alignments:
    """The places that the records have. Their score: a point a base."""
    own = Alignments.allocate(len(pairs))
    facts = records.facts[pairs.ravel()]
    own.mapped[:], own.contig[:] = 1, contig
    own.start[:], own.reverse[:] = facts[:, START], facts[:, FLAG] & REVERSE > 0
    own.score[:] = facts[:, STOP] - facts[:, START]
    put_cigars(records.data, facts[:, OFFSET].copy(), own.cigar, own.n_cigar)
    return own


@kernel("void(uint8[::1], int64[::1], uint32[:, ::1], int32[::1])")
def put_cigars(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], cigar: NDArray[np.uint32], n_cigar: NDArray[np.int32]
) -> None:
    """Copy the CIGARs of the records at some offsets; cigar: [n, MAX_CIGAR]."""
    for i in range(len(offsets)):
        o = offsets[i]
        n_cigar[i] = np.int32(load_u16(data, o + 16))
        at = o + 36 + np.int64(data[U(o + 12)])
        for c in range(n_cigar[i]):
            cigar[i, c] = np.uint32(load_u32(data, at + 4 * c))


def covered(cigar: NDArray[np.uint32], n_cigar: NDArray[np.int32], operations: int) -> NDArray[np.int64]:
    """Bases that alignments cover; cigar: uint32 [..., MAX_CIGAR]. operations: OF_REFERENCE or OF_READ."""
    counted = (np.uint32(operations) >> (cigar & np.uint32(15)) & np.uint32(1)).astype(np.int64)
    counted *= np.arange(cigar.shape[-1]) < n_cigar[..., None]
    total: NDArray[np.int64] = (counted * (cigar >> np.uint32(4))).sum(axis=-1)
    return total


def _torn(
    records: Records,
    pairs: NDArray[np.int64],
    own: _Places,
    other: ExtraAlignments,
    rows: NDArray[np.int64],
    crowded: NDArray[np.int64],
) -> Torn:
    reads = 2 * rows[:, :1] + np.arange(2)  # of `own`
    there = rows[:, 1:]
    start = np.stack([own.start[reads], other.start[there]], axis=1).astype(np.int64)
    cigar = np.stack([own.cigar[reads], other.cigar[there]], axis=1)
    n_cigar = np.stack([own.n_cigar[reads], other.n_cigar[there]], axis=1)
    stop = start + covered(cigar, n_cigar, OF_REFERENCE)
    facts = records.facts[pairs[crowded]]
    return Torn(
        record=records.facts[pairs[rows[:, 0]], OFFSET],
        start=start,
        reverse=np.stack([own.reverse[reads], other.reverse[there]], axis=1),
        cigar=cigar,
        n_cigar=n_cigar,
        span=np.stack([start.min(axis=2), stop.max(axis=2)], axis=2),
        name_hash=records.name_hash[pairs[rows[:, 0], 0]],
        crowded=np.stack([facts[:, :, START].min(axis=1), facts[:, :, STOP].max(axis=1)], axis=1),
    )
