# SPDX-License-Identifier: Apache-2.0
"""Tier 2: every candidate place of a pair, each scored as carefully as the winner.

In: pairs that tier 1 left. Out: placements, or a queue of candidates for the affine kernel. Next: `align/extend.py`.

1. All seeds are looked up; short lists are read completely.
2. A masked seed (long list) is searched only inside the insert window of the other mate's places, or intersected
   with the other mate's rarest seeds.
3. Every candidate is verified base by base; the best-voted get the one-gap kernel, rivals as well as the winner:
   a rival scored less carefully makes confident mistakes.
4. A mate without a good concordant place is searched around its mate's good places. A read that fits nowhere is
   looked up by the inner bases of its seeds as well.
5. If the seed bound (equation 1 of `align/fast.py`) leaves room for unseen places within reach, longer lists are
   read, masked seeds intersected, and 3 and 4 repeated for what is new.
6. The pair is chosen (`align/choose.py`); a poor one is queued for the affine kernel instead, with what lies beside
   its mates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.candidates import (
    ANCHOR_WITHIN,
    FAR,
    LONE_LIST,
    MOST_ANCHORS,
    MOST_WINDOWS,
    ONE,
    SECOND_LIST,
    ZERO,
    add_cores,
    add_neighbours,
    allocate_candidates,
    allocate_seeds,
    ask,
    bound_unseen,
    intersect,
    join_lone,
    look_up,
    prefer_primary,
    rescue,
    resolve_rarest,
    resolve_short,
    search_windows,
    unroll_circle,
    verify,
)
from megabolt.align.choose import (
    DISCORDANT,
    FAST,
    LONE,
    MOST_PAIRS,
    N_CONTEXT,
    NO_RIVAL,
    QUEUED,
    RAREST1,
    RAREST2,
    SKIPPED1,
    STATUS,
    UNPLACED,
    Found,
    choose,
    mark_gap,
    note_context,
    sort_by_key,
    span_of,
    unseen_bound,
    unseen_margin,
)
from megabolt.align.packed import INSERT_TYPE, READS_TYPE, TABLES_TYPE, InsertSize, PackedReads, Tables
from megabolt.align.verify import insert_length
from megabolt.compute.jit import allocating_callee, callee, kernel

#: Candidates further than this from the best are dropped before pairing.
PRUNE = 115
#: A mate with a place up to this has no others aligned by penalty than those that would be paired unaligned.
WELL_PLACED = 34
#: Second round if the bound leaves unseen places within this many dB of the best pair.
SECOND_ROUND_MARGIN = 20.0
#: Reads above this penalty are looked up by the inner bases of their seeds as well.
CORES_FROM = 150
#: Pairs above this penalty, and those that are not proper, are re-scored by the affine kernel; candidates it sees per
#: mate, by penalty, by votes, and by penalty among those beside a good place of the other mate (long and several gaps
#: are dear until they are aligned).
POOR_PENALTY = 100.0
BY_PENALTY, BY_VOTES, BESIDE = 0, 1, 2
QUEUE_BY_PENALTY, QUEUE_BY_VOTES = 12, 4  # and QUEUE_BY_VOTES beside
QUEUE_PER_PAIR = 2 * (QUEUE_BY_PENALTY + 2 * QUEUE_BY_VOTES)

_INTS, _TABLE, _FLOATS = types.int64[::1], types.int64[:, ::1], types.float64[:, ::1]


@callee
def _enumerate(c: Any, s: Any, p: Any, reads: Any, tables: Any, insert: Any, stamp: Any) -> None:
    """Steps 1 and 2: the candidates that seeds name."""
    for mate in range(2):
        resolve_short(c, s, mate, reads.length[2 * p + mate], tables.lists, stamp)
        bound_unseen(s, mate)
    length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
    found1, found2 = c.n[0], c.n[1]
    if found1 == 0 and found2 == 0:
        intersect(c, s, length1, length2, tables.lists, insert, stamp)
        return
    if 0 < found2 <= MOST_WINDOWS:
        search_windows(c, s, ZERO, found2, length1, length2, tables.lists, insert, stamp)
    if 0 < found1 <= MOST_WINDOWS:
        search_windows(c, s, ONE, found1, length2, length1, tables.lists, insert, stamp)


@callee
def _ask_next(s: Any, p: Any, n_pairs: Any, reads: Any, tables: Any, out: Any) -> Any:
    """The first pair from p on that tier 1 left, n_pairs if there is none; the cache is asked for its buckets."""
    while p < n_pairs and out[p, STATUS] == FAST:
        p += 1
    if p < n_pairs:
        for mate in range(2):
            ask(s, mate, 2 * p + mate, reads, tables)
    return p


@allocating_callee
def _allocate_found(n: Any) -> Any:
    """Room for n places of each mate."""
    return Found(np.empty((2, n), np.int64), np.empty((2, n), np.int64), np.empty((2, n), np.int64))


@callee
def _keep(c: Any, mate: Any, best: Any, length: Any, found: Any) -> Any:
    """Copy the candidates worth pairing, sorted by key; returns their number."""
    kept = ZERO
    for z in range(c.n[mate]):
        if c.penalty[mate, z] <= best + PRUNE:
            found.key[mate, kept], found.penalty[mate, kept] = c.key[mate, z], c.penalty[mate, z]
            found.span[mate, kept] = mark_gap(span_of(ZERO, length), c.gapped[mate, z])
            kept += 1
    sort_by_key(found, mate, kept)
    return kept


@callee
def _score(
    c: Any, s: Any, p: Any, best: Any, verified: Any, rescued: Any, reads: Any, tables: Any, insert: Any, context: Any,
    stamp: Any,
) -> None:  # fmt: skip
    """Steps 3 and 4 for the candidates that are new; `best`, `verified` and `rescued` say what has been done."""
    if verified[0] == c.n[0] and verified[1] == c.n[1]:
        return
    if tables.circular[1] > 0:
        unroll_circle(c, verified[0], verified[1], tables, insert)
    for mate in range(2):
        best[mate] = verify(c, mate, verified[mate], best[mate], 2 * p + mate, reads, tables)
        verified[mate] = c.n[mate]
    for mate in range(2):
        before = c.n[mate]
        if before > 0 and reads.length[2 * p + 1 - mate] > 0:
            lowest = rescue(
                c, mate, rescued[mate], best[mate], best[1 - mate], s.bound[1 - mate], 2 * p + 1 - mate, reads, tables,
                insert, stamp,
            )  # fmt: skip
            if lowest < 0:
                context[SKIPPED1 + mate] = 1.0
            else:
                best[1 - mate] = lowest
                verified[1 - mate] = c.n[1 - mate]
            rescued[mate] = before


@callee
def _note_anchors(c: Any, mate: Any, limit: Any, anchors: Any) -> Any:
    """Enter the keys of the first candidates of a mate of at most `limit` dB; returns how many."""
    n = 0
    for z in range(c.n[mate]):
        if c.penalty[mate, z] <= limit:
            anchors[n] = c.key[mate, z]
            n += 1
            if n == MOST_ANCHORS:
                break
    return n


@callee
def _is_beside(key: Any, anchors: Any, n: Any, length: Any, length_other: Any, insert: Any) -> Any:
    """Whether a place of a read faces one of the other mate's anchors, an insert away."""
    for y in range(n):  # noqa: SIM110 kernels know no generators
        if insert.low <= insert_length(key, anchors[y], length, length_other) <= insert.high:
            return True
    return False


@callee
def _enqueue(
    c: Any, mate: Any, r: Any, reads: Any, best_own: Any, best_other: Any, insert: Any, first: Any, anchors: Any,
    queue_key: Any, queue_read: Any,
) -> Any:  # fmt: skip
    """Put the best candidates of a mate on the queue, of each kind; returns how many."""
    kept = ZERO
    n_anchors = _note_anchors(c, 1 - mate, best_other + ANCHOR_WITHIN, anchors)
    length, length_other = reads.length[r], reads.length[r ^ 1]
    for kind in range(3):
        for _ in range(QUEUE_BY_PENALTY if kind == BY_PENALTY else QUEUE_BY_VOTES):
            best = -1
            for z in range(c.n[mate]):
                if c.votes[mate, z] < 0 or c.penalty[mate, z] == FAR:
                    continue
                better = best < 0
                if not better and kind == BY_VOTES:
                    better = c.votes[mate, z] > c.votes[mate, best]
                elif not better:
                    better = c.penalty[mate, z] < c.penalty[mate, best]
                if better and (
                    kind != BESIDE or _is_beside(c.key[mate, z], anchors, n_anchors, length, length_other, insert)
                ):
                    best = z
            if best < 0 or (kind == BY_VOTES and c.votes[mate, best] < 2):
                break
            if kind == BY_PENALTY and best_own <= WELL_PLACED and c.penalty[mate, best] > best_own + PRUNE:
                break
            queue_key[first + kept] = c.key[mate, best]
            queue_read[first + kept] = r
            c.votes[mate, best] = -1  # taken
            kept += 1
    return kept


@kernel(
    types.void(
        READS_TYPE, TABLES_TYPE, INSERT_TYPE, types.int64, _TABLE, _INTS, _INTS, _TABLE, _FLOATS, _INTS
    )
)  # fmt: skip
def place_full(
    reads: PackedReads,
    tables: Tables,
    insert: InsertSize,
    n_pairs: int,
    out: NDArray[np.int64],
    queue_key: NDArray[np.int64],
    queue_read: NDArray[np.int64],
    queue_pairs: NDArray[np.int64],
    contexts: NDArray[np.float64],
    queued: NDArray[np.int64],
) -> None:
    """Place the pairs tier 1 left, or queue them for the affine kernel (STATUS QUEUED).

    Parameters
    ----------
    out
        int64 [n_pairs, N_COLUMNS], placements.
    queue_key, queue_read
        int64 [n_pairs * QUEUE_PER_PAIR]: candidates and their reads (out).
    queue_pairs
        int64 [n_pairs, 4]: pair, its first candidate, how many of mate 1, of mate 2 (out).
    contexts
        float64 [n_pairs, N_CONTEXT] (out).
    queued
        int64 [2]: pairs and candidates on the queue (out).
    """
    c, s = allocate_candidates(), allocate_seeds()
    found = _allocate_found(c.key.shape[1])
    pairs, scores = np.empty((MOST_PAIRS, 2), np.int64), np.empty(MOST_PAIRS, np.float64)
    best, verified, rescued = np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64)
    anchors, context = np.empty(MOST_ANCHORS, np.int64), np.zeros(N_CONTEXT, np.float64)
    n_queued, n_entries = ZERO, ZERO
    following = _ask_next(s, ZERO, n_pairs, reads, tables, out)
    while following < n_pairs:
        p = following
        stamp = p + 1
        for mate in range(2):
            c.n[mate] = 0
            best[mate], verified[mate], rescued[mate] = FAR, 0, 0
            look_up(s, mate, 2 * p + mate, reads, tables)
        following = _ask_next(s, p + 1, n_pairs, reads, tables, out)
        for i in range(N_CONTEXT):
            context[i] = 0.0
        _enumerate(c, s, p, reads, tables, insert, stamp)
        reached = 0.0
        _score(c, s, p, best, verified, rescued, reads, tables, insert, context, stamp)
        for mate in range(2):
            if best[mate] > CORES_FROM:
                add_cores(c, s, mate, 2 * p + mate, reads, tables, stamp)
        if c.n[0] + c.n[1] == 0 and (reads.length[2 * p] == 0 or reads.length[2 * p + 1] == 0):
            lone = ZERO if reads.length[2 * p] > 0 else ONE
            add_neighbours(c, s, lone, 2 * p + lone, reads, tables, stamp)
        for round_ in range(2):
            _score(c, s, p, best, verified, rescued, reads, tables, insert, context, stamp)
            if len(tables.is_alt) > 0:
                best[0] = prefer_primary(c, ZERO, best[0], tables)
                best[1] = prefer_primary(c, ONE, best[1], tables)
            length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
            note_context(s, length1 == 0 or length2 == 0, context)
            n1, n2 = _keep(c, ZERO, best[0], length1, found), _keep(c, ONE, best[1], length2, found)
            reached = choose(p, found, n1, n2, reads, insert, context, pairs, scores, out)
            everything_seen = context[RAREST1] == 0.0 and context[RAREST2] == 0.0
            if round_ == 1 or everything_seen:
                break
            if unseen_margin(context, best[0], best[1], reached) >= SECOND_ROUND_MARGIN:
                break
            enough = reached + SECOND_ROUND_MARGIN + 10.0
            longest = np.int64(SECOND_LIST if length1 > 0 and length2 > 0 else LONE_LIST)
            for mate in range(2):
                resolve_rarest(c, s, mate, reads.length[2 * p + mate], tables.lists, longest, enough, stamp)
                bound_unseen(s, mate)
            # A seed over an error may name a few places and hide the true one, whose seeds are all in long lists. What
            # may lie there as well, but not fit better, is the cap's business: a thousand places cost 0.3 ms. (The
            # bound is the first round's: from the places of lists read since no mate has been searched yet.)
            hidden = unseen_bound(context, best[0], best[1]) < reached
            if hidden and length1 > 0 and length2 > 0 and context[RAREST1] > 0.0 and context[RAREST2] > 0.0:
                intersect(c, s, length1, length2, tables.lists, insert, stamp)
            elif length1 == 0 or length2 == 0:
                join_lone(c, s, ZERO if length1 > 0 else ONE, length1 + length2, tables.lists, stamp)
        poor = out[p, STATUS] == DISCORDANT or (out[p, STATUS] != UNPLACED and reached > POOR_PENALTY)
        if out[p, STATUS] == LONE:
            poor = POOR_PENALTY < best[0] < FAR or POOR_PENALTY < best[1] < FAR
        if poor:
            k1 = _enqueue(c, ZERO, 2 * p, reads, best[0], best[1], insert, n_entries, anchors, queue_key, queue_read)
            k2 = _enqueue(
                c, ONE, 2 * p + 1, reads, best[1], best[0], insert, n_entries + k1, anchors, queue_key, queue_read
            )
            queue_pairs[n_queued, 0], queue_pairs[n_queued, 1] = p, n_entries
            queue_pairs[n_queued, 2], queue_pairs[n_queued, 3] = k1, k2
            for i in range(N_CONTEXT):
                contexts[n_queued, i] = context[i]
            n_queued += 1
            n_entries += k1 + k2
            out[p, STATUS] = QUEUED
    queued[0], queued[1] = n_queued, n_entries


@kernel(types.void(_TABLE, _INTS, _INTS, _INTS, _FLOATS, types.int64, READS_TYPE, INSERT_TYPE, _TABLE))
def place_rescored(
    queue_pairs: NDArray[np.int64],
    queue_key: NDArray[np.int64],
    queue_penalty: NDArray[np.int64],
    queue_span: NDArray[np.int64],
    contexts: NDArray[np.float64],
    n_queued: int,
    reads: PackedReads,
    insert: InsertSize,
    out: NDArray[np.int64],
) -> None:
    """Place the queued pairs by what the affine kernel found of their candidates.

    queue_key, queue_penalty, queue_span: int64 [n], see `extend.rescore`; a penalty of NO_RIVAL is hopeless.
    """
    found = _allocate_found(QUEUE_PER_PAIR)
    n = np.zeros(2, np.int64)
    pairs, scores = np.empty((MOST_PAIRS, 2), np.int64), np.empty(MOST_PAIRS, np.float64)
    for q in range(n_queued):
        p, x = queue_pairs[q, 0], queue_pairs[q, 1]
        for mate in range(2):
            n[mate] = 0
            for _ in range(queue_pairs[q, 2 + mate]):
                if queue_penalty[x] < NO_RIVAL:
                    found.key[mate, n[mate]], found.penalty[mate, n[mate]] = queue_key[x], queue_penalty[x]
                    found.span[mate, n[mate]] = queue_span[x]
                    n[mate] += 1
                x += 1
            sort_by_key(found, mate, n[mate])
        choose(p, found, n[0], n[1], reads, insert, contexts[q], pairs, scores, out)
