# SPDX-License-Identifier: Apache-2.0
"""Other places of a read: for its XA tag, and on ALT contigs.

In: `Alignments` and packed reads. Out: the same, with more in `extra` and with `alt_ratio`. Next: `align/record.py`.

Runs only if it is asked for or if the index has ALT contigs. The rules are those of `bwa mem`: XA lists places that
score at least 0.8 of the alignment, and only if there are not too many; an ALT contig that explains a read better
than its place on a primary contig is reported as a supplementary alignment, and the tag pa tells the ratio of the
scores.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.alignments import ALTERNATIVE, SUPPLEMENTARY, Alignments, ExtraAlignments
from megabolt.align.candidates import ZERO
from megabolt.align.choose import FAST, SAME_PLACE, STATUS
from megabolt.align.extend import DB_PER_POINT, MAX_MAPQ, MIN_SCORE, NEAR_BAND, build_jobs, enter_alignments, run_jobs
from megabolt.align.options import AlignOptions
from megabolt.align.packed import READS_TYPE, TABLES_TYPE, PackedReads, Tables
from megabolt.align.split import MOST_PLACES, places_of_seeds
from megabolt.compute.jit import kernel

#: Places aligned per read, best-voted first.
MOST_ALIGNED = 16
#: Share of the alignment's score that a place in XA has at least.
LEAST_SHARE = 0.8

_INTS = types.int64[::1]


@kernel(types.int64(types.uint8[::1], types.int64, _INTS, types.uint8[::1], READS_TYPE, TABLES_TYPE, _INTS, _INTS))
def _list_places(
    wanted: NDArray[np.uint8],
    most: int,
    place: NDArray[np.int64],
    reverse: NDArray[np.uint8],
    reads: PackedReads,
    tables: Tables,
    job_read: NDArray[np.int64],
    job_key: NDArray[np.int64],
) -> int:
    """Places named by the seeds of the wanted reads, `most` of each, other than its own; returns their number."""
    keys, votes = np.empty(MOST_PLACES, np.int64), np.empty(MOST_PLACES, np.int64)
    n_jobs = 0
    for r in range(len(wanted)):
        if wanted[r] == 0:
            continue
        n, _ = places_of_seeds(r, ZERO, reads.length[r], reads, tables, keys, votes)
        for _ in range(most):
            best = -1
            for z in range(n):
                own = (keys[z] & 1) == reverse[r] and abs((keys[z] >> 1) - place[r]) <= SAME_PLACE
                if votes[z] > 0 and not own and (best < 0 or votes[z] > votes[best]):
                    best = z
            if best < 0:
                break
            votes[best] = 0
            job_read[n_jobs], job_key[n_jobs] = r, keys[best]
            n_jobs += 1
    return n_jobs


def find_elsewhere(
    wanted: NDArray[np.uint8], out: Alignments, reads: PackedReads, tables: Tables, *, most: int
) -> ExtraAlignments:
    """Alignments of the wanted reads (uint8 [R]) at other places than their own in `out`, at most `most` of each.

    By read, the best place first, each place once.
    """
    place = tables.contig_offset[np.maximum(out.contig, 0)] + out.start
    room = most * int(wanted.sum())
    job_read, job_key = np.empty(room, np.int64), np.empty(room, np.int64)
    n_jobs = _list_places(wanted, most, place, out.reverse, reads, tables, job_read, job_key)
    if n_jobs == 0:
        return ExtraAlignments.allocate(0)
    jobs = build_jobs(job_read[:n_jobs].copy(), job_key[:n_jobs].copy(), NEAR_BAND, reads, tables)
    result = run_jobs(jobs, NEAR_BAND)
    found = ExtraAlignments.allocate(n_jobs)
    enter_alignments(np.arange(n_jobs), np.arange(n_jobs), jobs, result, reads, tables, found)
    found.read[:] = jobs.read
    found = found.select((found.n_cigar > 0) & (found.score >= MIN_SCORE) & ~_is_known(found, out))
    found = found.select(np.lexsort((found.start, found.contig, -found.score.astype(np.int64), found.read)))
    return found.select(~_repeats(found))


def add_elsewhere(
    placed: NDArray[np.int64], options: AlignOptions, reads: PackedReads, tables: Tables, out: Alignments
) -> None:
    """Add ALTERNATIVE alignments if `options.xa` asks for them, and supplementary ones on ALT contigs.

    placed: int64 [n_pairs, N_COLUMNS], see `align/choose.py`: tier 1 settles no pair that has a place on an ALT contig.
    """
    has_alt = len(tables.is_alt) > 0
    wanted = out.mapped.copy()
    if options.xa == 0:
        wanted &= np.repeat(placed[: out.n_pairs, STATUS] != FAST, 2).astype(np.uint8)
    found = find_elsewhere(wanted, out, reads, tables, most=MOST_ALIGNED)
    if len(found) == 0:
        return
    on_alt = tables.is_alt[found.contig] > 0 if has_alt else np.zeros(len(found), np.bool_)
    parts = [out.extra]
    if has_alt:
        parts.append(_on_alt(found.select(on_alt), out))
    if options.xa:
        alternative = found.select(~on_alt & (found.score >= LEAST_SHARE * out.score[found.read]))
        count = np.bincount(alternative.read, minlength=2 * out.n_pairs)
        alternative = alternative.select(count[alternative.read] <= options.xa)
        alternative.kind[:] = ALTERNATIVE
        parts.append(alternative)
    joined = ExtraAlignments.joined(parts)
    out.extra = joined.select(np.argsort(joined.read, kind="stable"))


def _is_known(found: ExtraAlignments, out: Alignments) -> NDArray[np.bool_]:
    """Which are the read's own alignment, reached from another diagonal."""
    r = found.read
    near: NDArray[np.bool_] = np.abs(found.start.astype(np.int64) - out.start[r]) <= SAME_PLACE
    near &= (found.contig == out.contig[r]) & (found.reverse == out.reverse[r])
    return near


def _repeats(found: ExtraAlignments) -> NDArray[np.bool_]:
    """Which start where a better alignment of the same read does."""
    columns = np.stack([found.read, found.contig, found.start, found.reverse], axis=1)
    _, first = np.unique(columns, axis=0, return_index=True)
    repeats = np.ones(len(found), np.bool_)
    repeats[first] = False
    return repeats


def _on_alt(found: ExtraAlignments, out: Alignments) -> ExtraAlignments:
    """The best ALT alignment of each read that has one better than its own; sets `out.alt_ratio`.

    MAPQ is that of the ALT alignment among all of the read's, which the read's own is one of.
    """
    first = np.ones(len(found), np.bool_)
    first[1:] = found.read[1:] != found.read[:-1]
    second = np.zeros(len(found), np.int64)
    second[:-1] = np.where(first[1:], 0, found.score[1:])
    second = np.maximum(second, out.score[found.read])
    best = first & (found.score > out.score[found.read])
    kept, second = found.select(best), second[best]
    kept.kind[:], kept.second_score[:] = SUPPLEMENTARY, second
    kept.mapq[:] = np.clip(DB_PER_POINT * (kept.score - second), 0, MAX_MAPQ).astype(np.uint8)
    out.alt_ratio[kept.read] = out.score[kept.read] / kept.score
    return kept
