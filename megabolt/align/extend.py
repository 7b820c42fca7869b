# SPDX-License-Identifier: Apache-2.0
"""Tier 3: banded affine alignment of reads that differ from their place by more than one base.

In: placements of a batch. Out: `Alignments` with CIGAR and score. Next: `align/record.py`.

A read with at most one mismatch needs no alignment: no gap and no clip can score better. Nor does one with two of
which `_is_plain` says so. All others, and the
queued candidates of poor pairs, go through the `banded_affine` kernel in the scores bwa made the field's habit:
match 1, mismatch 4, gap 6 + 1 a base, clip 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.alignments import CIGAR_I, CIGAR_M, CIGAR_S, MAX_CIGAR, Alignments, ExtraAlignments
from megabolt.align.candidates import ONE, ZERO
from megabolt.align.choose import (
    CLIP_EXTEND,
    CLIP_OPEN,
    CONCORDANT,
    FAST,
    MAPQ,
    MATE_COLUMNS,
    NO_RIVAL,
    PENALTY,
    PLACE,
    RIVAL,
    STATUS,
    STRAND,
    mark_gap,
    span_of,
)
from megabolt.align.packed import READS_TYPE, TABLES_TYPE, PackedReads, Tables
from megabolt.align.verify import GAP_EXTEND, GAP_OPEN, differences16, mismatches_at, weight_of_bit
from megabolt.compute.banded_affine import AffineResult, AffineScores
from megabolt.compute.banded_affine.numba_cpu import align_arrays
from megabolt.compute.bits import PADDING, U, bases_at, prefetch, trailing_zeros
from megabolt.compute.jit import callee, kernel

SCORES = AffineScores()
_SCORES = SCORES.as_array()
#: Half-widths of the band: for reads placed well, and for the poor ones (longest gap that is found).
NEAR_BAND, WIDE_BAND = 12, 44
#: Penalty in dB from which a read gets the wide band: that of the shortest gap that leaves the near one.
WIDE_FROM = GAP_OPEN + GAP_EXTEND * NEAR_BAND
#: Alignments that score less are not reported, as in bwa mem (-T 30); shorter reads need four fifths of their bases.
MIN_SCORE = 30
#: dB that one point of score stands for: a good mismatch costs 34 dB and 5 points.
DB_PER_POINT = 6.8
#: Posteriors up to this are ties of two places (3.0 dB) and written as 0; larger ones than MAX_MAPQ as MAX_MAPQ.
TIE_MAPQ, MAX_MAPQ = 3, 60
#: Bases that the two mismatches of a plain read are away from its farther end at least, and its least length.
_INNER, _PLAIN_LENGTH = 20, 64
#: Reads for whose places the cache is asked ahead.
_AHEAD = 16


@dataclass
class Jobs:
    """Queries and targets for the affine kernel, see `compute.banded_affine`.

    read, key: int64 [n], the read of each query and the place (place << 1 | strand) it is aligned around;
    window_start: int64 [n], place of each target's first base in the packed reference.
    """

    read: NDArray[np.int64]
    key: NDArray[np.int64]
    query: NDArray[np.uint8]
    query_offsets: NDArray[np.int64]
    target: NDArray[np.uint8]
    target_offsets: NDArray[np.int64]
    diagonal: NDArray[np.int32]
    window_start: NDArray[np.int64]


@callee
def _unpack(words: Any, position: Any, n: Any, out: Any, at: Any) -> None:
    """Write n 2-bit bases from a position on to out[at:], one a byte, in whole words: up to 31 bytes too many."""
    for done in range(0, n, 32):
        word = bases_at(words, position + done)
        part = out[at + done : at + done + 32]
        for b in range(32):
            part[b] = np.uint8((word >> U(2 * b)) & U(3))


_INTS, _INTS32, _BYTES = types.int64[::1], types.int32[::1], types.uint8[::1]
_CIGARS = types.uint32[:, ::1]


@kernel(
    types.void(
        _INTS, _INTS, types.int64, READS_TYPE, TABLES_TYPE, _BYTES, _INTS, _BYTES, _INTS, _INTS32, _INTS
    )
)  # fmt: skip
def _fill_jobs(
    job_read: NDArray[np.int64],
    job_key: NDArray[np.int64],
    band: int,
    reads: PackedReads,
    tables: Tables,
    query: NDArray[np.uint8],
    query_offsets: NDArray[np.int64],
    target: NDArray[np.uint8],
    target_offsets: NDArray[np.int64],
    diagonal: NDArray[np.int32],
    window_start: NDArray[np.int64],
) -> None:
    """Unpack each read, oriented, and the stretch of its contig that the band covers."""
    reference, contig_offset, contig_stop = tables.reference, tables.contig_offset, tables.contig_stop
    q, t = 0, 0
    for x in range(len(job_read)):
        r, place = job_read[x], job_key[x] >> 1
        packed = reads.reverse if job_key[x] & 1 else reads.forward
        length = reads.length[r]
        query_offsets[x], target_offsets[x] = q, t
        _unpack(packed, r * reads.words * 32, length, query, q)
        q += length
        middle = place + (length >> 1)
        contig = max(np.searchsorted(contig_offset, middle, "right") - 1, 0)
        # A read of which the smaller part lies on a contig has its middle in the filler in front or behind.
        following = min(contig + 1, len(contig_offset) - 1)
        if middle >= contig_stop[contig] and contig_offset[following] < place + length:
            contig = following
        start = max(place - band, contig_offset[contig])
        stop = min(place + length + band, contig_stop[contig])
        if stop <= start:  # the place lies in the filler between contigs: one base, nothing will align
            start = contig_offset[contig]
            stop = start + 1
        _unpack(reference, start, stop - start, target, t)
        t += stop - start
        diagonal[x] = place - start
        window_start[x] = start
    query_offsets[len(job_read)], target_offsets[len(job_read)] = q, t


def build_jobs(
    job_read: NDArray[np.int64], job_key: NDArray[np.int64], band: int, reads: PackedReads, tables: Tables
) -> Jobs:
    """Jobs that align read job_read[x] around place job_key[x] >> 1 on strand job_key[x] & 1, within `band`."""
    n = len(job_read)
    total = int(reads.length[job_read].sum())
    jobs = Jobs(
        read=job_read,
        key=job_key,
        query=np.empty(total + PADDING, np.uint8),
        query_offsets=np.empty(n + 1, np.int64),
        target=np.empty(total + n * 2 * band + PADDING, np.uint8),
        target_offsets=np.empty(n + 1, np.int64),
        diagonal=np.empty(n, np.int32),
        window_start=np.empty(n, np.int64),
    )
    _fill_jobs(
        job_read, job_key, band, reads, tables, jobs.query, jobs.query_offsets, jobs.target, jobs.target_offsets,
        jobs.diagonal, jobs.window_start,
    )  # fmt: skip
    return jobs


def run_jobs(jobs: Jobs, band: int) -> AffineResult:
    """Align jobs on the CPU."""
    return AffineResult(
        *align_arrays(jobs.query, jobs.query_offsets, jobs.target, jobs.target_offsets, jobs.diagonal, band, _SCORES)
    )


@kernel(
    types.void(
        _INTS, _INTS, READS_TYPE, _BYTES, _INTS, _BYTES, _INTS, _INTS32, _INTS32, _INTS32, _INTS32, _INTS32, _CIGARS,
        _INTS32, _INTS, _INTS, _INTS
    )
)  # fmt: skip
def _weigh_alignments(
    job_read: NDArray[np.int64],
    job_key: NDArray[np.int64],
    reads: PackedReads,
    query: NDArray[np.uint8],
    query_offsets: NDArray[np.int64],
    target: NDArray[np.uint8],
    target_offsets: NDArray[np.int64],
    score: NDArray[np.int32],
    query_start: NDArray[np.int32],
    query_stop: NDArray[np.int32],
    target_start: NDArray[np.int32],
    _target_stop: NDArray[np.int32],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
    least: NDArray[np.int64],
    penalty: NDArray[np.int64],
    span: NDArray[np.int64],
) -> None:
    """dB of each alignment, in the weights of `align/verify.py` and with clips; NO_RIVAL below the least score."""
    for x in range(len(job_read)):
        r = job_read[x]
        length = reads.length[r]
        penalty[x], span[x] = NO_RIVAL, 0
        if score[x] < least[x] or n_cigar[x] <= 0:
            continue
        backward = job_key[x] & 1
        classes = reads.class_reverse if backward else reads.class_forward
        start, stop = np.int64(query_start[x]), np.int64(query_stop[x])
        total: Any = 0
        gapped: Any = ZERO
        q: Any = start
        t: Any = np.int64(target_start[x])
        for i in range(n_cigar[x]):
            run, operation = np.int64(cigar[x, i] >> np.uint32(4)), cigar[x, i] & np.uint32(15)
            if operation == np.uint32(CIGAR_M):
                for k in range(run):
                    if query[U(query_offsets[x] + q + k)] != target[U(target_offsets[x] + t + k)]:
                        w, bit = r * reads.words + ((q + k) >> 5), U(1) << U(((q + k) & 31) * 2)
                        total += weight_of_bit(classes, w, ZERO, bit)
                q += run
                t += run
            else:
                total += GAP_OPEN + GAP_EXTEND * run
                gapped = ONE
                if operation == np.uint32(CIGAR_I):
                    q += run
                else:
                    t += run
        for clipped in (start, length - stop):
            if clipped > 0:
                total += CLIP_OPEN + CLIP_EXTEND * clipped
        penalty[x] = total
        covered = span_of(length - stop, length - start) if backward else span_of(start, stop)
        span[x] = mark_gap(covered, gapped)


def rescore(
    job_read: NDArray[np.int64], job_key: NDArray[np.int64], reads: PackedReads, tables: Tables
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Keys, penalties (dB) and spans (`choose.span_of`) of queued candidates after alignment with the wide band.

    The key is that of the diagonal at the read's first base as sequenced: two candidates on either side of one gap
    become one place, and fragments are measured from end to end whatever the strand. The penalty is NO_RIVAL where
    nothing worth reporting aligns.
    """
    jobs = build_jobs(job_read, job_key, WIDE_BAND, reads, tables)
    result = run_jobs(jobs, WIDE_BAND)
    penalty, span = np.empty(len(job_read), np.int64), np.empty(len(job_read), np.int64)
    _weigh_alignments(
        job_read, job_key, reads, jobs.query, jobs.query_offsets, jobs.target, jobs.target_offsets, result.score,
        result.query_start, result.query_stop, result.target_start, result.target_stop, result.cigar, result.n_cigar,
        _least_score(reads.length[job_read]), penalty, span,
    )  # fmt: skip
    first, last = result.target_start - result.query_start, result.target_stop - result.query_stop
    place = jobs.window_start + np.where(job_key & 1, last, first)
    return (place << 1) | (job_key & 1), penalty, span


def _least_score(length: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.minimum(MIN_SCORE, length * 4 // 5)


@callee
def _is_plain(reference: Any, place: Any, words: Any, offset: Any, length: Any, marks: Any) -> Any:
    """Whether a read with two mismatches surely aligns best without gap and clip, in the scores above and NEAR_BAND.

    With both it scores length - 10. A clip does better only if both lie within five bases of one end. One gap (7 at
    least) does better or as well only without any mismatch; two gaps, or a gap and a clip, never do. Such an alignment
    has the read's first or last 16 bases on another diagonal, or changes it there: mismatches further inside are not
    gone then. If on every other diagonal the first 16 and the last 16 bases have two mismatches each, there is none,
    and no other diagonal has fewer than four.
    """
    first, last, n = np.int64(-1), np.int64(-1), (length + 31) >> 5
    for w in range(n):
        if marks[w] != U(0):
            first = 32 * w + (trailing_zeros(marks[w]) >> 1)
            break
    for w in range(n):
        x = marks[w]
        while x != U(0):
            last = 32 * w + (trailing_zeros(x) >> 1)
            x &= x - U(1)
    if length < _PLAIN_LENGTH or place < 32 or last < _INNER or first >= length - _INNER:
        return False
    head = bases_at(words, offset * 32) & U(0xFFFFFFFF)
    tail = bases_at(words, offset * 32 + length - 16) & U(0xFFFFFFFF)
    for shift in range(-NEAR_BAND - 2, NEAR_BAND + 3):  # one end may leave the band's stretch by a gap of two
        if shift != 0:
            fewest = min(
                differences16(reference, place + shift, head),
                differences16(reference, place + shift + length - 16, tail),
            )
            if fewest < 2:
                return False
    return True


@kernel(
    types.int64(
        types.int64[:, ::1], types.int64, READS_TYPE, TABLES_TYPE, _INTS32, _INTS32, _INTS32, _CIGARS, _INTS32, _INTS,
        _INTS
    )
)  # fmt: skip
def _finish_simple(
    placed: NDArray[np.int64],
    n_pairs: int,
    reads: PackedReads,
    tables: Tables,
    contigs: NDArray[np.int32],
    starts: NDArray[np.int32],
    score: NDArray[np.int32],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
    job_read: NDArray[np.int64],
    job_key: NDArray[np.int64],
) -> int:
    """Finish reads without gaps and clips inside their contig; list the others as jobs. Returns their number."""
    contig_offset, contig_stop = tables.contig_offset, tables.contig_stop
    n_jobs = 0
    marks = np.empty(32, np.uint64)
    for r in range(2 * n_pairs):
        column = (r & 1) * MATE_COLUMNS
        ahead = min(r + _AHEAD, 2 * n_pairs - 2 + (r & 1)) >> 1
        if placed[ahead, column + PENALTY] != 0:
            prefetch(tables.reference, placed[ahead, column + PLACE] >> 5)
            prefetch(tables.reference, (placed[ahead, column + PLACE] >> 5) + 4)
        place = placed[r >> 1, column + PLACE]
        contigs[r], starts[r], score[r], n_cigar[r] = -1, -1, 0, 0
        if place < 0:
            continue
        strand = placed[r >> 1, column + STRAND]
        length = reads.length[r]
        contig = max(np.searchsorted(contig_offset, place + (length >> 1), "right") - 1, 0)
        inside = place >= contig_offset[contig] and place + length <= contig_stop[contig]
        words = reads.reverse if strand else reads.forward
        n_mismatches = 99
        if inside and placed[r >> 1, column + PENALTY] == 0:  # the read is what stands there
            n_mismatches = 0
        elif inside:
            n_mismatches = mismatches_at(tables.reference, place, words, r * reads.words, length, marks)
        plain = n_mismatches <= 1
        if n_mismatches == 2 and placed[r >> 1, column + PENALTY] <= WIDE_FROM:
            plain = _is_plain(tables.reference, place, words, r * reads.words, length, marks)
        if not plain:
            job_read[n_jobs], job_key[n_jobs] = r, (place << 1) | strand
            n_jobs += 1
            continue
        contigs[r] = contig
        starts[r] = place - contig_offset[contig]
        score[r] = length - 5 * n_mismatches
        n_cigar[r] = 1
        cigar[r, 0] = np.uint32((length << 4) | CIGAR_M)
    return n_jobs


@kernel(
    types.void(
        _INTS, _INTS, _INTS, _INTS, _INTS32, _INTS32, _INTS32, _INTS32, _CIGARS, _INTS32, _INTS, _INTS, _INTS,
        _INTS32, _INTS32, _BYTES, _INTS32, _CIGARS, _INTS32
    )
)  # fmt: skip
def _enter(
    rows: NDArray[np.int64],
    jobs: NDArray[np.int64],
    job_read: NDArray[np.int64],
    job_key: NDArray[np.int64],
    job_score: NDArray[np.int32],
    query_start: NDArray[np.int32],
    query_stop: NDArray[np.int32],
    target_start: NDArray[np.int32],
    job_cigar: NDArray[np.uint32],
    job_n_cigar: NDArray[np.int32],
    window_start: NDArray[np.int64],
    lengths: NDArray[np.int64],
    contig_offset: NDArray[np.int64],
    contigs: NDArray[np.int32],
    starts: NDArray[np.int32],
    reverse: NDArray[np.uint8],
    score: NDArray[np.int32],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
) -> None:
    for i in range(len(rows)):
        x, row = jobs[i], rows[i]
        r, n = job_read[x], job_n_cigar[x]
        if n <= 0 or n + 2 > MAX_CIGAR:
            continue
        k = 0
        if query_start[x] > 0:
            cigar[row, k] = np.uint32((query_start[x] << 4) | CIGAR_S)
            k += 1
        for w in range(n):
            cigar[row, k] = job_cigar[x, w]
            k += 1
        behind = lengths[r] - query_stop[x]
        if behind > 0:
            cigar[row, k] = np.uint32((behind << 4) | CIGAR_S)
            k += 1
        n_cigar[row] = k
        place = window_start[x] + target_start[x]
        contig = np.searchsorted(contig_offset, place, "right") - 1
        contigs[row], starts[row] = contig, place - contig_offset[contig]
        reverse[row], score[row] = job_key[x] & 1, job_score[x]


def enter_alignments(
    rows: NDArray[np.int64],
    chosen: NDArray[np.int64],
    jobs: Jobs,
    result: AffineResult,
    reads: PackedReads,
    tables: Tables,
    out: Alignments | ExtraAlignments,
) -> None:
    """Write alignment chosen[i] of the affine kernel into row rows[i] of `out`, with soft clips.

    Rows whose alignment has too many operations stay as they were.
    """
    _enter(
        rows, chosen, jobs.read, jobs.key, result.score, result.query_start, result.query_stop, result.target_start,
        result.cigar, result.n_cigar, jobs.window_start, reads.length, tables.contig_offset, out.contig, out.start,
        out.reverse, out.score, out.cigar, out.n_cigar,
    )  # fmt: skip


def finish(placed: NDArray[np.int64], n_pairs: int, reads: PackedReads, tables: Tables) -> Alignments:
    """Alignments of a batch from its placements."""
    out = Alignments.allocate(n_pairs)
    job_read, job_key = np.empty(2 * n_pairs, np.int64), np.empty(2 * n_pairs, np.int64)
    n_jobs = _finish_simple(
        placed, n_pairs, reads, tables, out.contig, out.start, out.score, out.cigar, out.n_cigar, job_read, job_key,
    )  # fmt: skip
    job_read, job_key = job_read[:n_jobs], job_key[:n_jobs]
    penalty = placed[job_read >> 1, (job_read & 1) * MATE_COLUMNS + PENALTY]
    for band, chosen in ((NEAR_BAND, penalty <= WIDE_FROM), (WIDE_BAND, penalty > WIDE_FROM)):
        some = job_read[chosen]
        if len(some) == 0:
            continue
        jobs = build_jobs(some, job_key[chosen], band, reads, tables)
        result = run_jobs(jobs, band)
        good = np.flatnonzero(result.score >= _least_score(reads.length[some]))
        enter_alignments(some[good], good, jobs, result, reads, tables, out)
    _qualify(
        placed, n_pairs, out.contig, out.score, out.n_cigar, out.mapped, out.reverse, out.mapq, out.second_score,
        out.proper,
    )  # fmt: skip
    return out


@kernel(
    types.void(
        types.int64[:, ::1], types.int64, _INTS32, _INTS32, _INTS32, _BYTES, _BYTES, _BYTES, _INTS32, _BYTES
    )
)  # fmt: skip
def _qualify(
    placed: NDArray[np.int64],
    n_pairs: int,
    contig: NDArray[np.int32],
    score: NDArray[np.int32],
    n_cigar: NDArray[np.int32],
    mapped: NDArray[np.uint8],
    reverse: NDArray[np.uint8],
    mapq: NDArray[np.uint8],
    second_score: NDArray[np.int32],
    proper: NDArray[np.uint8],
) -> None:
    """Which reads are mapped, strand, MAPQ, second score and the proper flag, from the placements."""
    for p in range(n_pairs):
        for r in range(2 * p, 2 * p + 2):
            column = (r & 1) * MATE_COLUMNS
            mapped[r], reverse[r], mapq[r], second_score[r] = n_cigar[r] > 0, 0, 0, 0
            if n_cigar[r] <= 0:
                continue
            reverse[r] = placed[p, column + STRAND]
            if placed[p, column + MAPQ] > TIE_MAPQ:
                mapq[r] = min(placed[p, column + MAPQ], MAX_MAPQ)
            rival = placed[p, column + RIVAL]
            if rival < NO_RIVAL:
                points = np.rint((rival - placed[p, column + PENALTY]) / DB_PER_POINT)
                second_score[r] = min(max(score[r] - np.int64(points), 0), score[r])
        beside = mapped[2 * p] & mapped[2 * p + 1] != 0 and contig[2 * p] == contig[2 * p + 1]
        proper[p] = beside and (placed[p, STATUS] == FAST or placed[p, STATUS] == CONCORDANT)
