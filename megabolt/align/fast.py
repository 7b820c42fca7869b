# SPDX-License-Identifier: Apache-2.0
"""Tier 1: pairs whose place a few seeds settle, with a bound that says so.

In: `PackedReads`, index. Out: placements of most pairs. Next: `align/full.py` for the rest.

Four seeds spread over each read are looked up, group by group so that the cache misses overlap. Lists of up to
LONGEST_LIST places are read completely; a seed whose list was read is *resolved*. Every place named is verified
base by base. Any other place must differ from the read inside every resolved seed, so it costs at least

    bound(mate) = sum over disjoint resolved seeds of the dB of the seed's worst base.        (1)

The best concordant pair is accepted when the bounds leave no unseen place within MARGIN dB of it:

    D = min(bound1 + bound2, place1 + bound2, place2 + bound1) - best >= MARGIN               (2)

where place1, place2 are the best listed places of each mate. The pair's own are among them: in a tandem repeat one mate
may lie a period away. (Rare; MAPQ counts with the D of rivals and of pairs elsewhere.) Ties among listed places are
accepted too: they are known completely. Places are compared without gaps, but where a listed rival could come near with
one,

    min(penalty1, ONE_GAP) + min(penalty2, ONE_GAP) + insert - best < MARGIN,                 (3)

its gap is looked for.

A pair whose best places are too bad without gaps gets the best gap at each of its places, rivals as well. One that (2)
leaves gets a second look, at LOOKED_UP_AGAIN seeds a read: a third of tier 2's work, which settles half of these. As
tier 2 would read all lists, in both cases unseen places must be further away: MARGIN_AGAIN instead of MARGIN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.candidates import FAR, LONGEST_GAP, ZERO, is_on_alt, penalty_with_gap_of_key
from megabolt.align.choose import (
    CONVERTED_ALONE,
    CONVERTED_GAP,
    CONVERTED_PAIR,
    FAST,
    MAPQ,
    MATE_COLUMNS,
    NEGLIGIBLE,
    NO_RIVAL,
    PENALTY,
    PLACE,
    RIVAL,
    SAME_PLACE,
    STATUS,
    STRAND,
    UNPLACED,
    converted_cap,
    lot,
    phred_of,
)
from megabolt.align.packed import INSERT_TYPE, LONGEST_INSERT, READS_TYPE, TABLES_TYPE, InsertSize, PackedReads, Tables
from megabolt.align.table import COUNT_MASK, COUNT_SHIFT, PLACE_MASK, SEED, fetch, find_all, first_entry, seed_hash
from megabolt.align.verify import (
    GAP_EXTEND,
    GAP_OPEN,
    insert_length,
    insert_penalty,
    lightest_in_seed,
    likelihood_of,
    penalty_of_key,
)
from megabolt.compute.bits import U
from megabolt.compute.jit import callee, kernel

#: Seeds looked up per read; 5 or 6 settle 0.2 % more pairs at a higher cost.
LOOKED_UP = 4
#: Seeds looked up per read in the second look; with 8 or 16 it and tier 2 take as long together.
LOOKED_UP_AGAIN = 12
#: Longest list that is read in this tier, and places kept per read.
LONGEST_LIST, MOST_PLACES = 8, 16
#: Places of a read for which the cache is asked ahead.
FETCHED_PLACES = 4
#: dB per read above which a pair is left to tier 2: three mismatches at good quality.
WORST_PENALTY = 102
#: dB of a pair with a gap above which it is left to tier 2, which aligns such pairs (`full.POOR_PENALTY`).
WORST_WITH_GAP = 100.0
#: A place far from all others.
_NOWHERE = np.int64(-(1 << 40))
#: dB of the shortest gap.
ONE_GAP = GAP_OPEN + GAP_EXTEND
#: dB of equation (2).
MARGIN = 20.0
#: The same for gaps and in the second look: unseen places then take nothing from a MAPQ of 60.
MARGIN_AGAIN = 80.0
#: What becomes of a pair: more seeds may settle those that are unsure, not the poor ones.
_SETTLED, _UNSURE, _POOR = range(3)
#: Reads looked up together: while they are placed, the cache is asked for the buckets of the next group.
_GROUP = 64
#: A read's row in the arrays of two groups is its number & _RING.
_RING = 2 * _GROUP - 1


@callee
def _ask(
    reads: Any, tables: Any, pairs: Any, start: Any, stop: Any, looked_up: Any, chosen: Any, hashes: Any, strands: Any,
    wanted: Any,
) -> None:  # fmt: skip
    """Choose the seeds of reads start to stop of the listed pairs and ask the cache for their buckets."""
    n_wanted = ZERO
    for i in range(start, stop):
        r = 2 * pairs[U(i >> 1)] + (i & 1)
        row = i & _RING
        n = reads.n_seeds[r]
        for k in range(looked_up):
            x = (k if k < n else -1) if n <= looked_up else (k * (n - 1)) // (looked_up - 1)
            at = row * looked_up + k
            chosen[at], hashes[at] = -1, 0
            if x >= 0:
                chosen[at] = reads.seeds[U(r * reads.slots + x)]
                hash_, strands[at] = seed_hash(reads, r, np.int64(chosen[at]))
                hashes[at] = hash_
                wanted[n_wanted] = first_entry(tables, hash_)
                n_wanted += 1
    fetch(tables.table, wanted, n_wanted)


@callee
def _find(tables: Any, start: Any, stop: Any, looked_up: Any, hashes: Any, entries: Any, wanted: Any) -> None:
    """Entries of the seeds of some reads; the cache is asked for their lists."""
    first = (start & _RING) * looked_up
    last = first + (stop - start) * looked_up
    find_all(tables, hashes, first, last, entries, wanted)
    n_wanted = ZERO
    for x in range(first, last):
        count = (entries[x] >> U(COUNT_SHIFT)) & COUNT_MASK
        if count > U(1) and count <= U(LONGEST_LIST):
            wanted[n_wanted] = np.int64(entries[x] & PLACE_MASK)
            n_wanted += 1
    fetch(tables.lists, wanted, n_wanted)


@callee
def _collect(
    reads: Any, tables: Any, r: Any, row: Any, looked_up: Any, chosen: Any, strands: Any, entries: Any, key: Any,
    n_key: Any, bound: Any, wanted: Any, n_wanted: Any,
) -> Any:  # fmt: skip
    """The places that a few seeds of read r name, and the bound on all others, equation (1).

    Enters what the first places need of the reference in `wanted`, from `n_wanted` on; returns where that ends.
    """
    found, last, sum_ = 0, np.int64(-SEED), 0
    for k in range(looked_up):
        at = row * looked_up + k
        position = np.int64(chosen[at])
        if position < 0:
            continue
        entry = entries[at]
        count = np.int64((entry >> U(COUNT_SHIFT)) & COUNT_MASK)
        if count > LONGEST_LIST or found + count > MOST_PLACES:
            continue
        if position >= last + SEED:
            sum_ += lightest_in_seed(reads, r, position)  # (1)
            last = position
        payload = np.int64(entry & PLACE_MASK)
        for q in range(count):
            v = np.int64(tables.lists[U(payload + q)]) if count > 1 else payload
            strand = (v & 1) ^ strands[at]
            place = (v >> 1) - (position if strand == 0 else reads.length[r] - SEED - position)
            candidate = (place << 1) | strand
            known = False
            for z in range(found):
                known |= key[row, z] == candidate
            if not known:
                key[row, found] = candidate
                found += 1
                if found <= FETCHED_PLACES:
                    wanted[n_wanted] = place >> 5
                    wanted[n_wanted + 1] = (place >> 5) + reads.words - 2
                    n_wanted += 2
    n_key[row] = found
    bound[row] = sum_
    return n_wanted


@callee
def _is_special(row1: Any, tables: Any, key: Any, n1: Any, n2: Any) -> Any:
    """Whether a place of a pair lies on an ALT contig or near an end of the circular one: tier 2 sees to these."""
    offset, length = tables.circular[0], tables.circular[1]
    for mate in range(2):
        for z in range(n1 if mate == 0 else n2):
            place = key[row1 + mate, z] >> 1
            if length > 0 and offset - LONGEST_INSERT < place < offset + length:
                return True
            if len(tables.is_alt) > 0 and is_on_alt(tables, place):
                return True
    return False


@callee
def _place_single(p: Any, r: Any, row: Any, reads: Any, tables: Any, key: Any, n: Any, bound: Any, out: Any) -> Any:
    """Place read r, which has no mate; returns whether its seeds settle it: equation (2) for one read."""
    best, best_lot, x = np.int64(FAR), U(0), -1
    for z in range(n):
        penalty = penalty_of_key(tables, reads, r, key[row, z])
        luck = lot(reads.name_hash[p], key[row, z], ZERO)
        if penalty < best or (penalty == best and luck > best_lot):
            best, best_lot, x = penalty, luck, z
    margin = float(bound - best)
    if x < 0 or best > WORST_PENALTY or margin < MARGIN:
        return False
    mass, rival = likelihood_of(20.0 + 0.5 * margin), np.int64(NO_RIVAL)
    for z in range(n):
        if abs((key[row, z] >> 1) - (key[row, x] >> 1)) > SAME_PLACE:
            penalty = penalty_of_key(tables, reads, r, key[row, z])
            if penalty > ONE_GAP and ONE_GAP - best < MARGIN:  # (3)
                return False
            rival = min(rival, penalty)
            mass += likelihood_of(float(penalty - best))
    quality = min(phred_of(mass), converted_cap(float(rival - best), CONVERTED_ALONE))
    out[p, STATUS] = FAST
    for mate in range(2):
        column = mate * MATE_COLUMNS
        here = mate == (r & 1)
        out[p, column + PLACE] = key[row, x] >> 1 if here else -1
        out[p, column + STRAND] = key[row, x] & 1 if here else 0
        out[p, column + MAPQ] = np.int64(quality) if here else 0
        out[p, column + PENALTY] = best if here else NO_RIVAL
        out[p, column + RIVAL] = rival if here else NO_RIVAL
    return True


@callee
def _best_pair(p: Any, row1: Any, reads: Any, key: Any, n1: Any, n2: Any, penalty: Any, insert: Any) -> Any:
    """The best concordant pair of places (or -1, -1), its dB, and whether one with a gap could come near it, (3)."""
    row2 = row1 + 1
    length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
    best, best_lot, bi, bj = 1e6, U(0), -1, -1
    for i in range(n1):
        for j in range(n2):
            size = insert_length(key[row1, i], key[row2, j], length1, length2)
            if size < insert.low or size > insert.high:
                continue
            s = penalty[0, i] + penalty[1, j] + insert_penalty(size, insert)
            if s > best:
                continue
            luck = lot(reads.name_hash[p], key[row1, i], key[row2, j])
            if s < best or luck > best_lot:
                best, best_lot, bi, bj = s, luck, i, j
    close = False
    if n1 * n2 > 1 and bi >= 0:
        for i in range(n1):
            elsewhere = abs((key[row1, i] >> 1) - (key[row1, bi] >> 1)) > SAME_PLACE
            for j in range(n2):
                if elsewhere or abs((key[row2, j] >> 1) - (key[row2, bj] >> 1)) > SAME_PLACE:
                    size = insert_length(key[row1, i], key[row2, j], length1, length2)
                    if insert.low <= size <= insert.high and penalty[0, i] + penalty[1, j] > ONE_GAP:
                        s = min(penalty[0, i], ONE_GAP) + min(penalty[1, j], ONE_GAP) + insert_penalty(size, insert)
                        close |= s < best + MARGIN
    return bi, bj, best, close


@callee
def _close_gaps(
    p: Any, row1: Any, reads: Any, tables: Any, key: Any, n_key: Any, own1: Any, own2: Any, penalty: Any, gapped: Any,
    marks: Any,
) -> None:  # fmt: skip
    """Give the places of a pair that are not its own their penalties with a gap, and note which have one."""
    for mate in range(2):
        r, row = 2 * p + mate, row1 + mate
        own = own1 if mate == 0 else own2
        for z in range(n_key[row]):
            if penalty[mate, z] > ONE_GAP and abs((key[row, z] >> 1) - own) > SAME_PLACE and reads.length[r] >= 32:
                ungapped = penalty[mate, z]
                penalty[mate, z] = penalty_with_gap_of_key(marks, tables, reads, r, key[row, z], ungapped)
                gapped[mate, z] = penalty[mate, z] < ungapped


@callee
def _is_dear(penalty: Any, bi: Any, bj: Any) -> Any:
    """Whether one of a pair of places is too bad for this tier."""
    return penalty[0, bi] > WORST_PENALTY or penalty[1, bj] > WORST_PENALTY


@callee
def _settle(
    p: Any, row1: Any, gaps: Any, again: Any, reads: Any, tables: Any, insert: Any, key: Any, n_key: Any, bound: Any,
    room: Any, out: Any,
) -> Any:  # fmt: skip
    """Place pair p if its seeds settle it; whether they do, or more seeds may (_SETTLED, _UNSURE, _POOR).

    gaps: the places chosen may have some; again: in the second look.
    """
    penalty, gapped, mass, nearest, level, rival, marks = room
    row2 = row1 + 1
    n1, n2 = n_key[row1], n_key[row2]
    length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
    if length1 == 0 or length2 == 0:
        x = 1 if length1 == 0 else 0
        if len(tables.is_alt) + tables.circular[1] > 0 and _is_special(row1, tables, key, n1, n2):
            return _POOR
        settled = _place_single(p, 2 * p + x, row1 + x, reads, tables, key, n_key[row1 + x], bound[row1 + x], out)
        return _SETTLED if settled else _POOR
    if n1 == 0 or n2 == 0:
        return _UNSURE
    if len(tables.is_alt) + tables.circular[1] > 0 and _is_special(row1, tables, key, n1, n2):
        return _POOR
    for mate in range(2):
        for z in range(n_key[row1 + mate]):
            penalty[mate, z] = penalty_of_key(tables, reads, 2 * p + mate, key[row1 + mate, z])
            gapped[mate, z] = False
    bi, bj, best, close = _best_pair(p, row1, reads, key, n1, n2, penalty, insert)
    needed = MARGIN_AGAIN if again else MARGIN
    if bi < 0:
        return _UNSURE
    if _is_dear(penalty, bi, bj):
        if not gaps:
            return _POOR
        _close_gaps(p, row1, reads, tables, key, n_key, _NOWHERE, _NOWHERE, penalty, gapped, marks)
        bi, bj, best, close = _best_pair(p, row1, reads, key, n1, n2, penalty, insert)
        size = insert_length(key[row1, bi], key[row2, bj], length1, length2)
        # A gap falsifies `size`, and what lies behind the end of a short fragment will be hidden.
        if best > WORST_WITH_GAP or size < max(length1, length2) + LONGEST_GAP:
            return _POOR
        needed = MARGIN_AGAIN
    elif close:  # (3)
        own1, own2 = key[row1, bi] >> 1, key[row2, bj] >> 1
        _close_gaps(p, row1, reads, tables, key, n_key, own1, own2, penalty, gapped, marks)
        bi, bj, best, close = _best_pair(p, row1, reads, key, n1, n2, penalty, insert)
    if _is_dear(penalty, bi, bj):
        return _POOR
    margin = bound[row1] + bound[row2] - best
    beside = min(penalty[0, bi] + bound[row2], penalty[1, bj] + bound[row1]) - best
    for mate in range(2):
        own = key[row1 + mate, bi if mate == 0 else bj] >> 1
        mass[mate], rival[mate], nearest[mate], level[mate] = 0.0, NO_RIVAL, float(NO_RIVAL), CONVERTED_PAIR
        for z in range(n_key[row1 + mate]):
            if abs((key[row1 + mate, z] >> 1) - own) > SAME_PLACE:
                margin = min(margin, min(penalty[mate, z], ONE_GAP) + bound[row2 - mate] - best)
                rival[mate] = min(rival[mate], penalty[mate, z])
    if beside < MARGIN or margin < needed:  # (2)
        return _UNSURE
    if n1 * n2 > 1:
        own_gap = gapped[0, bi] or gapped[1, bj]
        for i in range(n1):
            for j in range(n2):
                size = insert_length(key[row1, i], key[row2, j], length1, length2)
                if size < insert.low or size > insert.high:
                    continue
                s = penalty[0, i] + penalty[1, j] + insert_penalty(size, insert) - best
                gap = own_gap or gapped[0, i] or gapped[1, j]
                likelihood = likelihood_of(s) if s < NEGLIGIBLE else 0.0
                for mate in range(2):
                    row, z, x = row1 + mate, i if mate == 0 else j, bi if mate == 0 else bj
                    if abs((key[row, z] >> 1) - (key[row, x] >> 1)) > SAME_PLACE:
                        mass[mate] += likelihood
                        if s < nearest[mate]:
                            nearest[mate], level[mate] = s, CONVERTED_GAP if gap else CONVERTED_PAIR
    unseen = likelihood_of(20.0 + 0.5 * margin)
    out[p, STATUS] = FAST
    for mate in range(2):
        x = bi if mate == 0 else bj
        column = mate * MATE_COLUMNS
        out[p, column + PLACE] = key[row1 + mate, x] >> 1
        out[p, column + STRAND] = key[row1 + mate, x] & 1
        quality = min(phred_of(mass[mate] + unseen), converted_cap(nearest[mate], level[mate]))
        out[p, column + MAPQ] = np.int64(quality)
        out[p, column + PENALTY] = penalty[mate, x]
        out[p, column + RIVAL] = rival[mate]
    return _SETTLED


@callee
def _place_listed(
    reads: Any, tables: Any, insert: Any, pairs: Any, n_pairs: Any, looked_up: Any, gaps: Any, again: Any, rows: Any,
    room: Any, out: Any,
) -> Any:  # fmt: skip
    """Place the listed pairs by `looked_up` seeds a read; lists the unsure ones in their stead, returns how many."""
    chosen, hashes, strands, entries, key, n_key, bound, wanted = rows
    unsure = ZERO
    _ask(reads, tables, pairs, ZERO, min(_GROUP, 2 * n_pairs), looked_up, chosen, hashes, strands, wanted)
    for first in range(0, 2 * n_pairs, _GROUP):
        stop = min(first + _GROUP, 2 * n_pairs)
        _find(tables, first, stop, looked_up, hashes, entries, wanted)
        n_wanted = ZERO
        for i in range(first, stop):
            n_wanted = _collect(
                reads, tables, 2 * pairs[i >> 1] + (i & 1), i & _RING, looked_up, chosen, strands, entries, key,
                n_key, bound, wanted, n_wanted,
            )  # fmt: skip
        fetch(tables.reference, wanted, n_wanted)
        following = min(stop + _GROUP, 2 * n_pairs)
        _ask(reads, tables, pairs, stop, following, looked_up, chosen, hashes, strands, wanted)
        for i in range(first, stop, 2):
            p = pairs[i >> 1]
            found = _settle(p, i & _RING, gaps, again, reads, tables, insert, key, n_key, bound, room, out)
            if found == _UNSURE:
                pairs[unsure] = p
                unsure += 1
    return unsure


@kernel(types.void(READS_TYPE, TABLES_TYPE, INSERT_TYPE, types.int64, types.boolean, types.int64[:, ::1]))
def place_fast(
    reads: PackedReads, tables: Tables, insert: InsertSize, n_pairs: int, plain: bool, out: NDArray[np.int64]
) -> None:
    """Place the pairs that tier 1 can settle; the STATUS of the others becomes UNPLACED.

    plain: only those without gaps, at the first look. out: int64 [n_pairs, N_COLUMNS], see `align/choose.py`.
    """
    most = (_RING + 1) * LOOKED_UP_AGAIN
    rows = (
        np.empty(most, np.int64), np.empty(most, np.uint64), np.empty(most, np.int64), np.empty(most, np.uint64),
        np.empty((_RING + 1, MOST_PLACES), np.int64), np.zeros(_RING + 1, np.int64), np.zeros(_RING + 1, np.int64),
        np.empty(_GROUP * max(LOOKED_UP_AGAIN, 2 * FETCHED_PLACES), np.int64),
    )  # fmt: skip
    room = (
        np.empty((2, MOST_PLACES), np.int64), np.empty((2, MOST_PLACES), np.bool_), np.zeros(2, np.float64),
        np.zeros(2, np.float64), np.zeros(2, np.float64), np.zeros(2, np.int64), np.empty((2, 32), np.uint64),
    )  # fmt: skip
    few, more = np.int64(LOOKED_UP), np.int64(LOOKED_UP_AGAIN)
    pairs = np.arange(n_pairs)
    for p in range(n_pairs):
        out[p, STATUS] = UNPLACED
    unsure = _place_listed(reads, tables, insert, pairs, n_pairs, few, not plain, False, rows, room, out)
    if not plain:
        _place_listed(reads, tables, insert, pairs, unsure, more, True, True, rows, room, out)
