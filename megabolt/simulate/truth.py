# SPDX-License-Identifier: Apache-2.0
"""The true alignment of every simulated read, as BAM: for measuring aligners base by base.

In: batches of `simulate_reads` with the place of each base. Out: truth.bam in the order of the reads (mate 1, mate
2, next pair), without SEQ and QUAL. Next: benchmarks/mapping.

CIGARs are in the reference's coordinates: variants and indel errors are I and D, adapter is S. A read that lies
inside an insertion as a whole is written as unmapped, with the place of the insertion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import inline, kernel
from megabolt.formats.bam_records import BamHeader
from megabolt.formats.bgzf import BgzfWriter
from megabolt.formats.fasta import Contig
from megabolt.formats.output import atomic_output
from megabolt.privacy.consent import Permit
from megabolt.simulate.reads import ReadOptions, Source, simulate_reads

Batch = tuple[memoryview, memoryview]

#: BAM operations.
_MATCH, _INSERTION, _DELETION, _CLIP = 0, 1, 2, 4


def reads_with_truth(
    source: Source,
    n_pairs: int,
    seed: int,
    options: ReadOptions,
    contigs: Sequence[Contig],
    path: Path,
    permit: Permit,
    *,
    pairs_per_batch: int = 20_000,
) -> Iterator[Batch]:
    """The batches of `simulate_reads`; the true alignments go to `path` on the way.

    Parameters
    ----------
    contigs
        Those of the reference, in the order of the source's first haplotype.
    path
        The BAM; it appears when the last batch has been taken.
    """
    permit.record("open-write", path)
    places = np.empty((2, pairs_per_batch, options.length), np.int64)
    longest = max(len(contig.name) for contig in contigs)
    out = np.empty(2 * pairs_per_batch * (140 + longest + 4 * (options.length + 2)), np.uint8)
    done = 0
    with atomic_output(path) as temporary, open(temporary, "wb") as file:
        writer = BgzfWriter(file)
        writer.write(BamHeader.build(contigs, sort_order="unsorted").encode())
        for batch in simulate_reads(source, n_pairs, seed, options, pairs_per_batch=pairs_per_batch, places=places):
            n = min(pairs_per_batch, n_pairs - done)
            texts = [np.frombuffer(text, np.uint8) for text in batch]
            size = fill_truth(
                n,
                places,
                texts[0],
                texts[1],
                source.contig_start,
                source.n_first,
                source.anchor,
                source.anchor_reference,
                out,
            )
            writer.write(out[:size])
            done += n
            yield batch
        writer.close()


@inline
def _put16(out: Any, at: Any, value: Any) -> Any:
    out[at] = value & 255
    out[at + 1] = (value >> 8) & 255
    return at + 2


@inline
def _put32(out: Any, at: Any, value: Any) -> Any:
    for k in range(4):
        out[at + k] = (value >> (8 * k)) & 255
    return at + 4


@inline
def _add(cigar: Any, n: Any, operation: Any, length: Any) -> Any:
    """Lengthen the last operation or begin a new one; returns their number."""
    if n > 0 and (cigar[n - 1] & 15) == operation:
        cigar[n - 1] += length << 4
        return n
    cigar[n] = (length << 4) | operation
    return n + 1


@inline
def _true_base(anchor: Any, anchor_reference: Any, place: Any, k: Any) -> Any:
    """(reference position, or -1 - the place it is inserted before; anchor at or before the place).

    k: any anchor at or before the place, from which the search begins.
    """
    while k + 1 < len(anchor) and anchor[k + 1] <= place:
        k += 1
    here = anchor_reference[k] + place - anchor[k]
    if k + 1 < len(anchor) and anchor[k + 1] > anchor[k] and here >= anchor_reference[k + 1]:
        return -1 - anchor_reference[k + 1], k
    return here, k


@inline
def _bin(start: Any, stop: Any) -> Any:
    """The smallest bin of the BAM index (SAM specification 5.3) around [start, stop)."""
    last = stop - 1
    for level in range(5):
        shift = 14 + 3 * level
        if start >> shift == last >> shift:
            return ((1 << (15 - 3 * level)) - 1) // 7 + (start >> shift)
    return 0


@kernel("int64(int64, int64[:, :, ::1], uint8[::1], uint8[::1], int64[::1], int64, int64[::1], int64[::1], uint8[::1])")
def fill_truth(
    n: int,
    places: NDArray[np.int64],
    text1: NDArray[np.uint8],
    text2: NDArray[np.uint8],
    contig_start: NDArray[np.int64],
    n_first: int,
    anchor: NDArray[np.int64],
    anchor_reference: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> Any:
    """BAM records of n pairs; returns their bytes. places: see `simulate_reads`; text: the FASTQ they came with."""
    length = places.shape[2]
    cigar = np.zeros((2, 2 * length + 2), np.int64)
    n_cigar = np.zeros(2, np.int64)
    begin = np.zeros(2, np.int64)
    stop = np.zeros(2, np.int64)
    reverse = np.zeros(2, np.int64)
    mapped = np.zeros(2, np.int64)
    at_text = np.zeros(2, np.int64)
    at = np.int64(0)
    for i in range(n):
        contig = np.int64(0)
        for mate in range(2):
            row = places[mate, i]
            first = np.int64(0)  # cycles from here on have a place; fragments begin with their first base
            while first < length - 1 and row[first] < 0:
                first += 1
            last = length - 1
            while last > first and row[last] < 0:
                last -= 1
            reverse[mate] = 1 if row[last] < row[first] else 0
            low = np.int64(min(row[first], row[last]))
            haplotype_contig = np.int64(np.searchsorted(contig_start, low, side="right") - 1)
            contig = haplotype_contig % n_first
            k = np.int64(np.searchsorted(anchor, low, side="right") - 1)
            m = np.int64(0)
            next_base = np.int64(-1)  # reference position behind the last base aligned
            pending = np.int64(0)  # unaligned bases since then
            begin[mate] = 0
            for c in range(length):
                place = row[length - 1 - c] if reverse[mate] else row[c]
                here = np.int64(-1)
                if place >= 0:
                    here, k = _true_base(anchor, anchor_reference, place, k)
                    if here < 0 and next_base < 0:
                        begin[mate] = -1 - here
                if here < 0:
                    pending += 1
                    continue
                if pending > 0:
                    m = _add(cigar[mate], m, _INSERTION if next_base >= 0 else _CLIP, pending)
                    pending = np.int64(0)
                if next_base < 0:
                    begin[mate] = here
                elif here > next_base:
                    m = _add(cigar[mate], m, _DELETION, here - next_base)
                m = _add(cigar[mate], m, _MATCH, np.int64(1))
                next_base = here + 1
            if pending > 0:
                m = _add(cigar[mate], m, _CLIP, pending)
            mapped[mate] = 1 if next_base >= 0 else 0
            stop[mate] = next_base if next_base >= 0 else begin[mate] + 1
            n_cigar[mate] = m if next_base >= 0 else 0
        for mate in range(2):
            text = text1 if mate == 0 else text2
            other = 1 - mate
            name = at_text[mate] + 1
            size = np.int64(0)
            while text[name + size] != 10:
                size += 1
            at_text[mate] = name + size + 2 * length + 5
            flag = 1 | (64 << mate) | (reverse[mate] << 4) | (reverse[other] << 5)
            flag |= (0 if mapped[mate] else 4) | (0 if mapped[other] else 8)
            if mapped[0] and mapped[1]:
                flag |= 2
            outer = max(stop[0], stop[1]) - min(begin[0], begin[1])
            span = np.int64(0)
            if mapped[0] and mapped[1]:
                leftmost = begin[mate] < begin[other] or (begin[mate] == begin[other] and mate == 0)
                span = outer if leftmost else -outer
            at = _put32(out, at, 32 + size + 1 + 4 * n_cigar[mate])
            at = _put32(out, at, contig)
            at = _put32(out, at, begin[mate])
            out[at] = size + 1
            out[at + 1] = 60 if mapped[mate] else 0
            at = _put16(out, at + 2, _bin(begin[mate], stop[mate]))
            at = _put16(out, at, n_cigar[mate])
            at = _put16(out, at, flag)
            at = _put32(out, at, np.int64(0))
            at = _put32(out, at, contig)
            at = _put32(out, at, begin[other])
            at = _put32(out, at, span)
            for j in range(size):
                out[at + j] = text[name + j]
            out[at + size] = 0
            at += size + 1
            for j in range(n_cigar[mate]):
                at = _put32(out, at, cigar[mate, j])
    return at
