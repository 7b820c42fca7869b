# SPDX-License-Identifier: Apache-2.0
"""Reads of two copies of a sequence, put where the person's own haplotypes say.

In: the records of a chunk as the aligner placed them, the aligner. Out: `Moves`, for the caller; files of reads stay as
they are.

An aligner compares a read with the reference. Where one of a person's copies carries the other's bases over some
hundred bases (gene conversion), its reads fit the other copy better and are put there, each with a fair MAPQ: the
variants of the one copy are missed, and false ones called at the other. All templates of both copies together tell
(`haplotypes.py`). Only copies within one chunk are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.engine import PairAligner
from megabolt.compute.bits import PADDING, load_i32
from megabolt.compute.jit import kernel
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import CODE_OF_NIBBLE, NIBBLE_OF_CODE, reverse_complement
from megabolt.formats.fasta import Reference
from megabolt.paralogs.haplotypes import settle_tract
from megabolt.paralogs.templates import (
    FLAG,
    OF_REFERENCE,
    OFFSET,
    START,
    STOP,
    Records,
    Torn,
    covered,
    torn_templates,
    usable_records,
)
from megabolt.paralogs.tracts import TORN, outline_tracts, read_tract

#: Nats that haplotypes must be better than any that leave the templates in place.
LEAST_GAIN = 4.6
#: MAPQ of moved reads, at most.
MAX_MAPQ = 40

#: Templates with rival places in one chunk beyond which it is left alone: nothing but repeats, or a pile-up.
_MOST_UNSURE = 50_000
_REVERSE, _MATE_REVERSE = 0x10, 0x20

#: Blocks of records in any order, each valid until the next is asked for; can be asked for again.
Blocks = Callable[[], Iterable[RecordBlock]]


@dataclass(frozen=True)
class Moves:
    """Records of one contig that come from another copy than the one they were put at, by their new place.

    was, now: int64 [n, 2], first base of each and the one behind its last, where it was and is.
    name_hash: uint64 [n] and flag: int64 [n], by which it is known (`templates.Records`).
    records: as they are now, packed; without tags.
    """

    contig: int
    was: NDArray[np.int64]
    now: NDArray[np.int64]
    name_hash: NDArray[np.uint64]
    flag: NDArray[np.int64]
    records: tuple[NDArray[np.uint8], ...]

    @classmethod
    def none(cls) -> Moves:
        """Nothing moves."""
        nothing = np.empty((0, 2), np.int64)
        return cls(0, nothing, nothing, np.empty(0, np.uint64), np.empty(0, np.int64), ())

    def applied(self, block: RecordBlock) -> RecordBlock:
        """A sorted block with the records moved, still sorted."""
        if not self.records:
            return block
        stays = self._stays(block)
        behind = np.searchsorted(
            _places(block.data, block.offsets), (self.contig << 32) + self.now[:, 0] + 1, side="right"
        )
        # at each cut a record comes in before one that stands there may leave
        cuts = [(int(i), 0, k) for k, i in enumerate(behind)] + [(int(i), 1, 0) for i in np.flatnonzero(~stays)]
        size = np.diff(block.offsets)
        parts, sizes = [], []
        at = 0
        for i, leaves, k in sorted(cuts):
            parts.append(block.data[block.offsets[at] : block.offsets[i]])
            sizes.append(size[at:i])
            at = i + leaves
            if not leaves:
                parts.append(self.records[k])
                sizes.append(np.array([len(self.records[k])], np.int64))
        parts += [block.data[block.offsets[at] : block.offsets[block.n]], np.zeros(PADDING, np.uint8)]
        sizes.append(size[at:])
        return RecordBlock(np.concatenate(parts), np.cumsum(np.concatenate([[0], *sizes])).astype(np.int64))

    def _stays(self, block: RecordBlock) -> NDArray[np.bool_]:
        records = usable_records(block, self.contig, int(self.was[:, 0].min()), int(self.was[:, 1].max()))
        leaving = set(zip(self.name_hash.tolist(), self.flag.tolist(), self.was[:, 0].tolist()))
        stays = np.ones(block.n, np.bool_)
        for row in np.flatnonzero(np.isin(records.name_hash, self.name_hash)).tolist():
            facts = records.facts[row]
            if (int(records.name_hash[row]), int(facts[FLAG]), int(facts[START])) in leaving:
                stays[np.searchsorted(block.offsets, facts[OFFSET])] = False
        return stays


def find_moves(blocks: Blocks, contig: int, start: int, stop: int, reference: Reference, aligner: PairAligner) -> Moves:
    """The records of [start, stop) of a contig that come from another copy there.

    Parameters
    ----------
    blocks
        At least the records of that stretch, duplicates flagged.
    aligner
        Of the same reference; asked for other places of reads.
    """
    names = [np.empty(0, np.uint64)]
    for block in blocks():
        records = usable_records(block, contig, start, stop)
        names.append(records.name_hash[records.unsure])
    named = np.unique(np.concatenate(names))
    if not 0 < len(named) <= _MOST_UNSURE:
        return Moves.none()
    unsure = _collected(blocks, contig, start, stop, lambda some: np.isin(some.name_hash, named))
    torn = torn_templates(unsure, contig, start, stop, aligner)
    outlines = outline_tracts(torn)
    if not outlines:
        return Moves.none()
    spans = np.array([span for outline in outlines for span in outline.spans], np.int64)
    sure = _collected(blocks, contig, start, stop, lambda some: _near(some, spans) & ~np.isin(some.name_hash, named))
    chosen: dict[int, int] = {}
    for outline in outlines:
        tract = read_tract(outline, torn, unsure, sure, reference, contig)
        if tract is None:
            continue
        found = settle_tract(tract)
        if found.gain < LEAST_GAIN:
            continue
        mapq = int(min(10.0 / np.log(10.0) * found.gain, MAX_MAPQ))
        # templates that fit haplotypes of both copies are told by lot: so each copy gets as many as it had
        to_a = _lots(torn.name_hash[tract.torn]) < found.from_a
        for row in np.flatnonzero((tract.kind == TORN) & (to_a != tract.at_a)).tolist():
            chosen[int(tract.torn[row])] = mapq
    return _moves_of(torn, unsure, contig, chosen) if chosen else Moves.none()


def _lots(name_hash: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Of each name a number from 0 to 1, which hangs on nothing else (MurmurHash3's finaliser)."""
    h = name_hash.copy()
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ (h >> np.uint64(33))) * np.uint64(factor)
    return (h ^ (h >> np.uint64(33))).astype(np.float64) * 2.0**-64


def _collected(
    blocks: Blocks, contig: int, start: int, stop: int, wanted: Callable[[Records], NDArray[np.bool_]]
) -> Records:
    """The wanted usable records of some blocks."""
    parts = []
    for block in blocks():
        records = usable_records(block, contig, start, stop)
        parts.append(records.select(wanted(records)))
    return Records.joined(parts)


def _near(records: Records, spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which records overlap one of some spans."""
    near = np.zeros(len(records.facts), np.bool_)
    for low, high in spans.tolist():
        near |= (records.facts[:, STOP] > low) & (records.facts[:, START] < high)
    return near


@kernel("int64[::1](uint8[::1], int64[::1])")
def _places(data: Any, offsets: Any) -> Any:
    """Contig and start of each record in one number, in the order of sorted records; unplaced ones are last."""
    out = np.empty(len(offsets) - 1, np.int64)
    for i in range(len(out)):
        contig = np.int64(load_i32(data, offsets[i] + 4))
        out[i] = (contig if contig >= 0 else np.int64(1) << 30) << 32
        out[i] += np.int64(load_i32(data, offsets[i] + 8)) + 1
    return out


def _moves_of(torn: Torn, unsure: Records, contig: int, chosen: Mapping[int, int]) -> Moves:
    """Moves of templates (numbers in `torn`), each with its new MAPQ."""
    rows = np.repeat(np.array(list(chosen), np.int64), 2)
    mates = np.tile(np.arange(2), len(chosen))
    length = covered(torn.cigar[rows, :, mates], torn.n_cigar[rows, :, mates], OF_REFERENCE)
    spans = torn.start[rows, :, mates][..., None] + np.stack([np.zeros_like(length), length], axis=-1)
    offset = torn.record[rows, mates]
    number = np.argsort(unsure.facts[:, OFFSET])
    flag = unsure.facts[number[np.searchsorted(unsure.facts[number, OFFSET], offset)], FLAG]
    packed = [
        _record(unsure.data, contig, torn, row, mate, chosen[row]) for row, mate in zip(rows.tolist(), mates.tolist())
    ]
    order = np.argsort(spans[:, 1, 0], kind="stable")
    return Moves(
        contig, spans[order, 0], spans[order, 1], torn.name_hash[rows[order]], flag[order],
        tuple(packed[k] for k in order.tolist()),
    )  # fmt: skip


def _record(data: NDArray[np.uint8], contig: int, torn: Torn, row: int, mate: int, mapq: int) -> NDArray[np.uint8]:
    """The record of a mate at its other place (SAM specification 4.2)."""
    start, reverse = torn.start[row, 1].tolist(), torn.reverse[row, 1].tolist()
    low, high = torn.span[row, 1].tolist()
    offset = int(torn.record[row, mate])
    n_name, n_cigar, flag, length = struct.unpack_from("<B3xHHi", data[offset + 12 : offset + 24].tobytes())
    name = data[offset + 36 : offset + 36 + n_name]
    begin = offset + 36 + n_name + 4 * n_cigar
    packed = data[begin : begin + (length + 1) // 2]
    qualities = data[begin + len(packed) : begin + len(packed) + length]
    if bool(flag & _REVERSE) != bool(reverse[mate]):
        codes = CODE_OF_NIBBLE[np.stack([packed >> 4, packed & 15], axis=1).ravel()[:length]]
        nibbles = np.append(NIBBLE_OF_CODE[reverse_complement(codes)], np.zeros(length & 1, np.uint8))
        packed, qualities = nibbles[0::2] << 4 | nibbles[1::2], qualities[::-1]
    flag &= ~(_REVERSE | _MATE_REVERSE)
    flag |= _REVERSE * reverse[mate] | _MATE_REVERSE * reverse[1 - mate]
    cigar = torn.cigar[row, 1, mate, : torn.n_cigar[row, 1, mate]]
    body = struct.pack(
        "<iiBBHHHiiii", contig, start[mate], n_name, mapq, 0, len(cigar), flag, length, contig, start[1 - mate],
        (low - high) if reverse[mate] else (high - low),
    )  # fmt: skip
    body += name.tobytes() + cigar.astype("<u4").tobytes() + packed.tobytes() + qualities.tobytes()
    return np.frombuffer(struct.pack("<i", len(body)) + body, np.uint8)
