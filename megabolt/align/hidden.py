# SPDX-License-Identifier: Apache-2.0
"""Read ends that are not of the sample are hidden from placement, and clipped or left out in the record.

In: packed reads and what tier 1 placed. Out: `PackedReads.hidden`; later, `Alignments` with these ends. Next:
`align/full.py`; `align/record.py`.

A pair placed by tier 1 shows its fragment's length; in the others the mates are compared with each other.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.alignments import CIGAR_S, Alignments, ExtraAlignments
from megabolt.align.choose import FAST, MATE_COLUMNS, PLACE, STATUS, STRAND
from megabolt.align.packed import READS_TYPE, PackedReads
from megabolt.align.tails import fragment_by_overlap, poly_g_tail
from megabolt.align.verify import insert_length
from megabolt.compute.jit import kernel

#: How names of two-colour instruments begin: MiniSeq, NextSeq 500 to 2000, NovaSeq 6000 and X.
TWO_COLOUR_NAMES = (b"MN", b"NB", b"NS", b"NDX", b"VH", b"A0", b"LH")

_TEXT, _FIELDS, _INTS = types.uint8[::1], types.int64[:, ::1], types.int64[::1]


@kernel(types.int64(_TEXT, _TEXT, _FIELDS, _FIELDS, types.int64, types.boolean, types.boolean, READS_TYPE, _FIELDS))
def hide_tails(
    text1: NDArray[np.uint8],
    text2: NDArray[np.uint8],
    fields1: NDArray[np.int64],
    fields2: NDArray[np.int64],
    n_pairs: int,
    adapters: bool,
    poly_g: bool,
    reads: PackedReads,
    placed: NDArray[np.int64],
) -> int:
    """Set `reads.hidden`; returns the number of pairs that have hidden bases and must be packed again.

    placed: int64 [n_pairs, N_COLUMNS]; a pair that tier 1 placed keeps its place, without the hidden bases.
    """
    length, hidden = reads.length, reads.hidden
    n_hidden = 0
    for p in range(n_pairs):
        r1, r2 = 2 * p, 2 * p + 1
        paired = length[r1] > 0 and length[r2] > 0
        fragment = 0
        if placed[p, STATUS] == FAST:
            if paired and adapters:
                fragment = insert_length(
                    (placed[p, PLACE] << 1) | placed[p, STRAND],
                    (placed[p, MATE_COLUMNS + PLACE] << 1) | placed[p, MATE_COLUMNS + STRAND],
                    length[r1],
                    length[r2],
                )
        else:
            if poly_g:
                hidden[r1] = poly_g_tail(text1, fields1[p, 2], length[r1])
                hidden[r2] = poly_g_tail(text2, fields2[p, 2], length[r2])
            if paired and adapters:
                fragment = fragment_by_overlap(reads, p)
        if fragment > 0:
            for mate in range(2):
                behind = length[r1 + mate] - fragment
                if behind > hidden[r1 + mate]:
                    hidden[r1 + mate] = behind
                    column = mate * MATE_COLUMNS
                    if placed[p, STATUS] == FAST and placed[p, column + STRAND] == 1:
                        placed[p, column + PLACE] += behind
        if hidden[r1] + hidden[r2] > 0:
            n_hidden += 1
    return n_hidden


@kernel(types.void(_INTS, _INTS, types.uint8[::1], types.uint32[:, ::1], types.int32[::1]))
def _clip(
    read: NDArray[np.int64],
    hidden: NDArray[np.int64],
    reverse: NDArray[np.uint8],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
) -> None:
    for x in range(len(read)):
        more, n = hidden[read[x]], n_cigar[x]
        if more == 0 or n == 0:
            continue
        end = 0 if reverse[x] else n - 1
        if (cigar[x, end] & np.uint32(15)) == np.uint32(CIGAR_S):
            cigar[x, end] += np.uint32(more << 4)
            continue
        if reverse[x]:
            for w in range(n, 0, -1):
                cigar[x, w] = cigar[x, w - 1]
            end = -1
        cigar[x, end + 1] = np.uint32((more << 4) | CIGAR_S)
        n_cigar[x] = n + 1


def clip_hidden(reads: PackedReads, out: Alignments) -> None:
    """Cover the hidden ends by soft clips."""
    extra: ExtraAlignments = out.extra
    _clip(np.arange(2 * out.n_pairs), reads.hidden, out.reverse, out.cigar, out.n_cigar)
    _clip(extra.read, reads.hidden, extra.reverse, extra.cigar, extra.n_cigar)


def trim_hidden(reads: PackedReads, out: Alignments) -> None:
    """Leave the hidden ends out of the records."""
    out.trimmed[:] = reads.hidden[: 2 * out.n_pairs]
