# SPDX-License-Identifier: Apache-2.0
"""Split reads: a place of its own for what an alignment leaves clipped.

In: `Alignments` and packed reads. Out: the same, with long gaps closed and supplementary alignments in `extra`.
Next: `align/record.py`.

1. The seeds inside each long clip name places, and a scan around the alignment finds shifted ones.
2. The affine kernel aligns the read at each; the best one that covers other bases than the alignment is the part.
3. A part on the same strand nearby is first tried as one alignment with a long gap, which stands if it scores
   no less; otherwise the part becomes a supplementary alignment (SAM flag 0x800).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.alignments import (
    CIGAR_D,
    CIGAR_I,
    CIGAR_S,
    SUPPLEMENTARY,
    Alignments,
    ExtraAlignments,
)
from megabolt.align.candidates import ONE, ZERO
from megabolt.align.choose import SAME_PLACE, bases_of, ends_of, first_of, lot, span_of, stop_of
from megabolt.align.extend import (
    DB_PER_POINT,
    MAX_MAPQ,
    MIN_SCORE,
    NEAR_BAND,
    TIE_MAPQ,
    Jobs,
    build_jobs,
    enter_alignments,
    run_jobs,
)
from megabolt.align.packed import READS_TYPE, TABLES_TYPE, PackedReads, Tables
from megabolt.align.table import COUNT_MASK, COUNT_SHIFT, LONG_LIST, PLACE_MASK, SEED, find, seed_hash
from megabolt.align.verify import lightest_in_seed, likelihood_of
from megabolt.compute.bits import EVEN_BITS, U, bases_at, popcount
from megabolt.compute.jit import callee, kernel

#: Shortest clip that is looked at, and the most bases by which its seeds may reach into the alignment.
SHORTEST_CLIP, REACH = 20, 10
#: Lists that are read, places kept per clip, and places aligned.
LONGEST_LIST, MOST_PLACES, MOST_ALIGNED = 64, 96, 6
#: How far from the alignment a clip is scanned for, and the band that closes a gap of up to twice as much.
SCANNED, JOIN_BAND = 200, 116

_INTS, _INTS32, _BYTES, _CIGARS = types.int64[::1], types.int32[::1], types.uint8[::1], types.uint32[:, ::1]
_FLOATS = types.float64[::1]


@callee
def _add(keys: Any, votes: Any, n: Any, key: Any) -> Any:
    """Note a place of a clip, or add to its votes; returns how many places there are."""
    for z in range(n):
        if keys[z] == key:
            votes[z] += 1
            return n
    if n < MOST_PLACES:
        keys[n], votes[n] = key, 1
        n += 1
    return n


@callee
def places_of_seeds(r: Any, first: Any, stop: Any, reads: Any, tables: Any, keys: Any, votes: Any) -> Any:
    """Places named by the seeds inside bases [first, stop) of read r.

    Returns their number, and the bound on places not named, as equation (1) of `align/fast.py`.
    """
    n, bound, last = ZERO, ZERO, np.int64(-SEED)
    for x in range(reads.n_seeds[r]):
        position = np.int64(reads.seeds[U(r * reads.slots + x)])
        if position < first or position + SEED > stop:
            continue
        hash_, strand_of_seed = seed_hash(reads, r, position)
        entry = find(tables, hash_)
        count = np.int64((entry >> U(COUNT_SHIFT)) & COUNT_MASK)
        if count > LONGEST_LIST or count == LONG_LIST:
            continue
        if position >= last + SEED:
            bound += lightest_in_seed(reads, r, position)
            last = position
        payload = np.int64(entry & PLACE_MASK)
        for q in range(count):
            v = np.int64(tables.lists[U(payload + q)]) if count > 1 else payload
            strand = (v & 1) ^ strand_of_seed
            place = (v >> 1) - (position if strand == 0 else reads.length[r] - SEED - position)
            n = _add(keys, votes, n, (place << 1) | strand)
    return n, bound


@callee
def _scan_for_clip(
    r: Any, strand: Any, first: Any, stop: Any, place: Any, reads: Any, tables: Any, keys: Any, votes: Any, n: Any
) -> Any:
    """Places of oriented bases [first, stop), at most 32 of them, on diagonals around `place`."""
    words = reads.reverse if strand else reads.forward
    length = stop - first
    mask = ~U(0) if length >= 32 else (U(1) << U(2 * length)) - U(1)
    sought = bases_at(words, r * reads.words * 32 + first) & mask
    allowed = (length - 16) // 6  # 20 bases with none wrong, 32 with two: neither happens by chance in 400 places
    for x in range(max(place - SCANNED, 32), place + SCANNED + 1):
        wrong = (bases_at(tables.reference, x + first) & mask) ^ sought
        if popcount((wrong | (wrong >> U(1))) & EVEN_BITS) <= allowed:
            n = _add(keys, votes, n, (x << 1) | strand)
    return n


@kernel(
    types.UniTuple(types.int64, 2)(
        types.int64, _BYTES, _INTS32, _INTS32, _BYTES, _CIGARS, _INTS32, READS_TYPE, TABLES_TYPE, _INTS, _INTS,
        _INTS, _INTS, _FLOATS, _INTS, _INTS
    )
)  # fmt: skip
def _list_clips(
    n_reads: int,
    mapped: NDArray[np.uint8],
    contigs: NDArray[np.int32],
    starts: NDArray[np.int32],
    reverse: NDArray[np.uint8],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
    reads: PackedReads,
    tables: Tables,
    clip_read: NDArray[np.int64],
    clip_span: NDArray[np.int64],
    clip_job: NDArray[np.int64],
    clip_place: NDArray[np.int64],
    clip_bound: NDArray[np.float64],
    job_read: NDArray[np.int64],
    job_key: NDArray[np.int64],
) -> tuple[int, int]:
    """The long clips of a batch and the places to align them at; returns the number of clips and of places.

    clip_span: the clipped bases (`choose.span_of`); clip_job: first place of each clip, one more entry at the
    end; clip_place: diagonal of the alignment at that end. There must be room for both ends of every read.
    """
    keys, votes = np.empty(MOST_PLACES, np.int64), np.empty(MOST_PLACES, np.int64)
    n_clips: Any = ZERO
    n_jobs: Any = ZERO
    clip_job[0] = 0
    for r in range(n_reads):
        if mapped[r] == 0:
            continue
        length = reads.length[r]
        strand = np.int64(reverse[r])
        last = n_cigar[r] - 1
        for end in range(2):
            word = cigar[r, 0 if end == 0 else last]
            clipped = np.int64(word >> np.uint32(4))
            if (word & np.uint32(15)) != np.uint32(CIGAR_S) or clipped < SHORTEST_CLIP:
                continue
            # Diagonal of the alignment at this end, and the clip in the direction of the reference.
            place = tables.contig_offset[contigs[r]] + np.int64(starts[r])
            if end == 0:
                place -= clipped
                first, stop = ZERO, clipped
            else:
                for i in range(n_cigar[r]):
                    operation = cigar[r, i] & np.uint32(15)
                    run = np.int64(cigar[r, i] >> np.uint32(4))
                    if operation == np.uint32(CIGAR_D):
                        place += run
                    elif operation == np.uint32(CIGAR_I) or (i == 0 and operation == np.uint32(CIGAR_S)):
                        place -= run
                first, stop = length - clipped, length
            if strand == 0:
                seen_first, seen_stop = first, stop
            else:
                seen_first, seen_stop = length - stop, length - first
            n, bound = places_of_seeds(
                r, max(seen_first - REACH, 0), min(seen_stop + REACH, length), reads, tables, keys, votes
            )
            if end == 0:
                n = _scan_for_clip(r, strand, ZERO, min(clipped, 32), place, reads, tables, keys, votes, n)
            else:
                n = _scan_for_clip(
                    r, strand, max(length - 32, first), length, place, reads, tables, keys, votes, n
                )  # fmt: skip
            if tables.circular[1] > 0:  # the other end of the circle
                at = tables.circular[0] if end == 0 else tables.circular[0] + tables.circular[1]
                if place < at < place + length:
                    around = tables.circular[1] if end == 0 else -tables.circular[1]
                    n = _add(keys, votes, n, ((place + around) << 1) | strand)
            kept = ZERO
            for _ in range(MOST_ALIGNED):
                best = -1
                for z in range(n):
                    if votes[z] > 0 and (best < 0 or votes[z] > votes[best]):
                        best = z
                if best < 0:
                    break
                votes[best] = 0
                # The alignment itself has clipped these bases.
                if (keys[best] & 1) != strand or abs((keys[best] >> 1) - place) > 2:
                    job_read[n_jobs + kept], job_key[n_jobs + kept] = r, keys[best]
                    kept += 1
            if kept == 0:
                continue
            clip_read[n_clips], clip_span[n_clips] = r, span_of(seen_first, seen_stop)
            clip_place[n_clips], clip_bound[n_clips] = place, float(bound)
            n_clips += 1
            n_jobs += kept
            clip_job[n_clips] = n_jobs
    return n_clips, n_jobs


@kernel(
    types.void(
        types.int64, _INTS, _INTS, _INTS, _FLOATS, _INTS, _INTS32, _INTS32, _INTS32, _INTS32, _INTS, READS_TYPE, _INTS,
        _BYTES, _INTS32
    )
)  # fmt: skip
def _choose_parts(
    n_clips: int,
    clip_read: NDArray[np.int64],
    clip_span: NDArray[np.int64],
    clip_job: NDArray[np.int64],
    clip_bound: NDArray[np.float64],
    job_key: NDArray[np.int64],
    score: NDArray[np.int32],
    query_start: NDArray[np.int32],
    query_stop: NDArray[np.int32],
    target_start: NDArray[np.int32],
    window_start: NDArray[np.int64],
    reads: PackedReads,
    part: NDArray[np.int64],
    mapq: NDArray[np.uint8],
    second_score: NDArray[np.int32],
) -> None:
    """The job that explains each clip best (-1: none), how sure it is, and the score of its best rival."""
    span, place = np.empty(MOST_ALIGNED, np.int64), np.empty(MOST_ALIGNED, np.int64)
    for c in range(n_clips):
        r, first = clip_read[c], clip_job[c]
        length, n = reads.length[r], clip_job[c + 1] - clip_job[c]
        clip = clip_span[c]
        part[c], mapq[c], second_score[c] = -1, 0, 0
        best_lot, x = U(0), -1
        for z in range(n):
            j = first + z
            start, stop = np.int64(query_start[j]), np.int64(query_stop[j])
            place[z] = window_start[j] + target_start[j] - start
            span[z] = span_of(length - stop, length - start) if job_key[j] & 1 else span_of(start, stop)
            if score[j] < MIN_SCORE:
                span[z] = 0
                continue
            inside = min(stop_of(span[z]), stop_of(clip)) - max(first_of(span[z]), first_of(clip))
            if 2 * inside < bases_of(span[z]):  # mostly what the alignment covers already
                span[z] = 0
                continue
            luck = lot(reads.name_hash[r >> 1], job_key[j], ONE)
            if x < 0 or score[j] > score[first + x] or (score[j] == score[first + x] and luck > best_lot):
                best_lot, x = luck, z
        if x < 0:
            continue
        part[c] = first + x
        rivals = likelihood_of(16.0 + 0.5 * clip_bound[c])
        for z in range(n):
            same = ((job_key[first + z] ^ job_key[first + x]) & 1) == 0 and abs(place[z] - place[x]) <= SAME_PLACE
            if span[z] != 0 and z != x and not same:
                rivals += likelihood_of(DB_PER_POINT * float(score[first + x] - score[first + z]))
                second_score[c] = max(second_score[c], score[first + z])
        quality = -10.0 * math.log10(rivals / (1.0 + rivals))
        quality = min(quality, 1.5 * float(bases_of(span[x]) - 20), float(MAX_MAPQ))
        mapq[c] = np.uint8(quality) if quality > float(TIE_MAPQ) + 1.0 else np.uint8(0)


def add_parts(out: Alignments, reads: PackedReads, tables: Tables) -> None:
    """Close long gaps, and give the clipped parts of reads supplementary alignments, in `out.extra`."""
    n_reads = 2 * out.n_pairs
    room = 2 * n_reads  # both ends of every read
    clip_read, clip_span, clip_place = (np.empty(room, np.int64) for _ in range(3))
    clip_job, clip_bound = np.empty(room + 1, np.int64), np.empty(room, np.float64)
    job_read, job_key = np.empty(room * MOST_ALIGNED, np.int64), np.empty(room * MOST_ALIGNED, np.int64)
    n_clips, n_jobs = _list_clips(
        n_reads, out.mapped, out.contig, out.start, out.reverse, out.cigar, out.n_cigar, reads, tables, clip_read,
        clip_span, clip_job, clip_place, clip_bound, job_read, job_key,
    )  # fmt: skip
    if n_clips == 0:
        return
    jobs = build_jobs(job_read[:n_jobs].copy(), job_key[:n_jobs].copy(), NEAR_BAND, reads, tables)
    result = run_jobs(jobs, NEAR_BAND)
    part, mapq = np.empty(n_clips, np.int64), np.empty(n_clips, np.uint8)
    second_score = np.empty(n_clips, np.int32)
    _choose_parts(
        n_clips, clip_read, clip_span, clip_job, clip_bound, jobs.key, result.score, result.query_start,
        result.query_stop, result.target_start, jobs.window_start, reads, part, mapq, second_score,
    )  # fmt: skip
    found = np.flatnonzero(part >= 0)
    found = found[~_close_gaps(found, part, clip_read, clip_span, clip_place, jobs, reads, tables, out)]
    extra = ExtraAlignments.allocate(len(found))
    enter_alignments(np.arange(len(found)), part[found], jobs, result, reads, tables, extra)
    extra.read[:], extra.kind[:] = clip_read[found], SUPPLEMENTARY
    extra.mapq[:], extra.second_score[:] = mapq[found], second_score[found]
    out.extra = extra.select(extra.n_cigar > 0)


def _close_gaps(
    found: NDArray[np.int64],
    part: NDArray[np.int64],
    clip_read: NDArray[np.int64],
    clip_span: NDArray[np.int64],
    clip_place: NDArray[np.int64],
    jobs: Jobs,
    reads: PackedReads,
    tables: Tables,
    out: Alignments,
) -> NDArray[np.bool_]:
    """Align reads whose part lies on the same strand nearby with one long gap. Returns which of `found` are closed."""
    read, place = clip_read[found], clip_place[found]
    key = jobs.key[part[found]]
    gap = (key >> 1) - place
    near = np.flatnonzero((key & 1 == out.reverse[read]) & (np.abs(gap) <= 2 * (JOIN_BAND - NEAR_BAND)))
    closed = np.zeros(len(found), np.bool_)
    if len(near) == 0:
        return closed
    middle = np.minimum(place, key >> 1)[near] + np.abs(gap[near]) // 2
    joined = build_jobs(read[near], (middle << 1) | (key[near] & 1), JOIN_BAND, reads, tables)
    result = run_jobs(joined, JOIN_BAND)
    backward, length = (key[near] & 1).astype(bool), reads.length[read[near]]
    start = np.where(backward, length - result.query_stop, result.query_start)
    stop = np.where(backward, length - result.query_start, result.query_stop)
    clip_start, clip_stop = ends_of(clip_span[found[near]])
    inside = np.minimum(stop, clip_stop) - np.maximum(start, clip_start)
    covers = (2 * inside > clip_stop - clip_start) & (stop - start - inside >= SHORTEST_CLIP)
    better = np.flatnonzero(covers & (result.score >= out.score[read[near]]) & (result.n_cigar > 0))
    enter_alignments(read[near[better]], better, joined, result, reads, tables, out)
    closed[near[better]] = True
    return closed
