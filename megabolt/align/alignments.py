# SPDX-License-Identifier: Apache-2.0
"""Where the reads of a batch lie: a structure of arrays, one entry per read.

Read r of a batch is mate r % 2 of pair r // 2, in the order of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: CIGAR operations kept per read, clips included; an alignment that needs more is reported with clipped ends.
MAX_CIGAR = 64

#: SAM specification 1.4.6: code of each CIGAR operation in the low four bits of its word.
CIGAR_LETTERS = "MIDNSHP=X"
CIGAR_M, CIGAR_I, CIGAR_D, CIGAR_N, CIGAR_S, CIGAR_H, CIGAR_P, CIGAR_EQUAL, CIGAR_X = range(9)


#: `ExtraAlignments.kind`: part of a split read, a record of its own (SAM flag 0x800); another place (SAM tag XA).
SUPPLEMENTARY, ALTERNATIVE = 1, 2


@dataclass
class ExtraAlignments:
    """K further alignments of some reads, in the order of `read`.

    read: int64 [K], index of the read; kind: uint8 [K], SUPPLEMENTARY or ALTERNATIVE. The others as in `Alignments`,
    for one alignment each; CIGARs cover the whole read with soft clips.
    """

    read: NDArray[np.int64]
    kind: NDArray[np.uint8]
    contig: NDArray[np.int32]
    start: NDArray[np.int32]
    reverse: NDArray[np.uint8]
    mapq: NDArray[np.uint8]
    score: NDArray[np.int32]
    second_score: NDArray[np.int32]
    cigar: NDArray[np.uint32]
    n_cigar: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.read)

    def select(self, rows: NDArray[Any]) -> ExtraAlignments:
        """Some of them: `rows` is an index or a mask."""
        return ExtraAlignments(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[ExtraAlignments]) -> ExtraAlignments:
        """Several, one behind the other; their reads may then be out of order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @classmethod
    def allocate(cls, n: int) -> ExtraAlignments:
        """Room for `n` alignments, all fields but the CIGAR words zero."""
        return cls(
            read=np.zeros(n, np.int64),
            kind=np.zeros(n, np.uint8),
            contig=np.zeros(n, np.int32),
            start=np.zeros(n, np.int32),
            reverse=np.zeros(n, np.uint8),
            mapq=np.zeros(n, np.uint8),
            score=np.zeros(n, np.int32),
            second_score=np.zeros(n, np.int32),
            cigar=np.empty((n, MAX_CIGAR), np.uint32),
            n_cigar=np.zeros(n, np.int32),
        )


@dataclass
class Alignments:
    """Alignments of R = 2 * n_pairs reads.

    Attributes
    ----------
    mapped
        uint8 [R]: 1 where the read has a place.
    contig
        int32 [R]: index of the contig, -1 where unmapped.
    start
        int32 [R]: leftmost aligned reference base, 0-based in the contig, -1 where unmapped.
    reverse
        uint8 [R]: 1 where the reverse complement of the read is what the reference's forward strand shows.
    mapq
        uint8 [R]: Phred-scaled probability that the place is wrong, 0..60.
    score, second_score
        int32 [R]: alignment score (SAM AS) and that of the best other place (SAM XS).
    cigar
        uint32 [R, MAX_CIGAR]: BAM encoding (length << 4 | operation), clips included, in the direction of the
        reference's forward strand.
    n_cigar
        int32 [R]: operations in use, 0 where unmapped.
    proper
        uint8 [n_pairs]: 1 where both mates are mapped, face each other and lie at a believable distance.
    trimmed
        int32 [R]: bases at the end of the read, in the direction of sequencing, that its record leaves out; the
        CIGAR does not cover them.
    alt_ratio
        float32 [R]: score over the best score on an ALT contig (tag pa of bwa), 0 where there is none.
    extra
        Further alignments of split and of ambiguous reads.
    """

    mapped: NDArray[np.uint8]
    contig: NDArray[np.int32]
    start: NDArray[np.int32]
    reverse: NDArray[np.uint8]
    mapq: NDArray[np.uint8]
    score: NDArray[np.int32]
    second_score: NDArray[np.int32]
    cigar: NDArray[np.uint32]
    n_cigar: NDArray[np.int32]
    proper: NDArray[np.uint8]
    trimmed: NDArray[np.int32]
    alt_ratio: NDArray[np.float32]
    extra: ExtraAlignments

    @property
    def n_pairs(self) -> int:
        """Pairs described; reads are twice as many."""
        return len(self.proper)

    @classmethod
    def allocate(cls, n_pairs: int) -> Alignments:
        """All reads unmapped; the CIGAR words are left uninitialised."""
        n_reads = 2 * n_pairs
        return cls(
            mapped=np.zeros(n_reads, np.uint8),
            contig=np.full(n_reads, -1, np.int32),
            start=np.full(n_reads, -1, np.int32),
            reverse=np.zeros(n_reads, np.uint8),
            mapq=np.zeros(n_reads, np.uint8),
            score=np.zeros(n_reads, np.int32),
            second_score=np.zeros(n_reads, np.int32),
            cigar=np.empty((n_reads, MAX_CIGAR), np.uint32),
            n_cigar=np.zeros(n_reads, np.int32),
            proper=np.zeros(n_pairs, np.uint8),
            trimmed=np.zeros(n_reads, np.int32),
            alt_ratio=np.zeros(n_reads, np.float32),
            extra=ExtraAlignments.allocate(0),
        )
