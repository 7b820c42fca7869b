# SPDX-License-Identifier: Apache-2.0
"""Reads with their places given by hand, as the aligner would hand them to the writer of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megabolt.align.alignments import ALTERNATIVE, SUPPLEMENTARY, Alignments, ExtraAlignments
from megabolt.compute.bits import PADDING
from megabolt.formats.bases import N, encode
from megabolt.formats.fastq import PairBatch


@dataclass
class Place:
    """Where a read is put: CIGAR as (length, letter)."""

    contig: int
    start: int
    cigar: list[tuple[int, str]]
    reverse: bool = False
    mapq: int = 60
    score: int = 100
    second: int = 0


@dataclass
class Read:
    """One mate. parts: further places of a split read; others: where it might come from as well.

    CIGARs cover the read without its last `trimmed` bases.
    """

    name: str
    bases: str
    qualities: list[int]
    place: Place | None
    parts: list[Place] = field(default_factory=list)
    others: list[Place] = field(default_factory=list)
    trimmed: int = 0
    alt_ratio: float = 0.0
    umi: str = ""

    @property
    def kept(self) -> str:
        """The bases that are not trimmed."""
        return self.bases[: len(self.bases) - self.trimmed]


#: A pair, or a single read.
Template = tuple[Read, ...]


def packed_genome(genome: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Contigs one behind the other: packed bases, start of each contig, intervals of N (see `build_records`)."""
    codes = encode("".join(genome))
    bases = np.zeros((len(codes) // 32 + 4, 32), np.uint64)
    bases.ravel()[: len(codes)] = codes % N
    words = np.bitwise_or.reduce(bases << np.arange(0, 64, 2, dtype=np.uint64), axis=1)
    edges = np.diff((codes == N).astype(np.int8), prepend=0, append=0)
    intervals = np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], 1).astype(np.int64)
    offsets = np.cumsum([0, *(len(contig) for contig in genome)]).astype(np.int64)
    return words, offsets, np.ascontiguousarray(intervals)


def placed_batch(templates: Sequence[Template], first_pair: int = 0) -> tuple[PairBatch, Alignments]:
    """A batch of pairs, or of single reads, and its alignments; pairs on one contig are proper."""
    paired = len(templates[0]) == 2
    texts, tables = [], []
    alignments = Alignments.allocate(len(templates))
    for m in range(1 + paired):
        text, table = b"", []
        for template in templates:
            read = template[m]
            name_start = len(text) + 1
            text += b"@" + read.name.encode() + b" RX:Z:"
            umi_start = len(text)
            text += read.umi.encode() + b"\n"
            sequence_start = len(text)
            text += read.bases.encode() + b"\n+\n"
            quality_start = len(text)
            text += bytes(q + 33 for q in read.qualities) + b"\n"
            umi = (umi_start, len(read.umi)) if read.umi and m == 0 else (0, 0)
            table.append((name_start, len(read.name), sequence_start, quality_start, len(read.bases), *umi))
        texts.append(np.frombuffer(bytearray(text + bytes(PADDING)), np.uint8))
        tables.append(np.array(table, np.int64))
    if not paired:  # as the reader has it
        texts.append(texts[0])
        tables.append(tables[0].copy())
        tables[1][:, 4:] = 0
    extra: list[tuple[int, int, Place]] = []
    for i, template in enumerate(templates):
        for m, read in enumerate(template):
            r = 2 * i + m
            alignments.trimmed[r], alignments.alt_ratio[r] = read.trimmed, read.alt_ratio
            extra += [(r, SUPPLEMENTARY, place) for place in read.parts]
            extra += [(r, ALTERNATIVE, place) for place in read.others]
            if read.place is not None:
                alignments.mapped[r] = 1
                _set_place(alignments, r, read.place)
        places = [read.place for read in template]
        first, second = places[0], places[-1]
        alignments.proper[i] = paired and first is not None and second is not None and first.contig == second.contig
    alignments.extra = ExtraAlignments.allocate(len(extra))
    for x, (r, kind, place) in enumerate(extra):
        alignments.extra.read[x], alignments.extra.kind[x] = r, kind
        _set_place(alignments.extra, x, place)
    batch = PairBatch(len(templates), (texts[0], texts[1]), (tables[0], tables[1]), 0, first_pair, paired)
    return batch, alignments


def _set_place(arrays: Alignments | ExtraAlignments, k: int, place: Place) -> None:
    arrays.contig[k], arrays.start[k] = place.contig, place.start
    arrays.reverse[k], arrays.mapq[k] = place.reverse, place.mapq
    arrays.score[k], arrays.second_score[k] = place.score, place.second
    arrays.n_cigar[k] = len(place.cigar)
    for j, (length, letter) in enumerate(place.cigar):
        arrays.cigar[k, j] = length << 4 | "MIDNSHP=X".index(letter)
