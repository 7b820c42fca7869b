# SPDX-License-Identifier: Apache-2.0
"""Tier 1: pairs whose place a few seeds settle, with a bound that says so.

In: `PackedReads`, index. Out: placements of most pairs. Next: `align/full.py` for the rest.

Four seeds spread over each read are looked up, in groups so that the cache misses overlap. Lists of up to
LONGEST_LIST places are read completely; a seed whose list was read is *resolved*. Every place named is verified
base by base. Any other place must differ from the read inside every resolved seed, so it costs at least

    bound(mate) = sum over disjoint resolved seeds of the dB of the seed's worst base.        (1)

The best concordant pair is accepted when the bounds leave no unseen place within MARGIN dB of it:

    D = min(bound1 + bound2, rival1 + bound2, rival2 + bound1) - best >= MARGIN               (2)

where rival1, rival2 are the best other listed places of each mate. Ties among listed places are accepted too:
they are known completely. Places are compared without gaps, but where a listed rival could come near with one,

    min(penalty1, ONE_GAP) + min(penalty2, ONE_GAP) + insert - best < MARGIN,                 (3)

its gap is looked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.candidates import FAR, ZERO, is_on_alt, penalty_with_gap_of_key
from megabolt.align.choose import (
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
from megabolt.align.table import COUNT_MASK, COUNT_SHIFT, PLACE_MASK, SEED, fetch_bucket, find, seed_hash
from megabolt.align.verify import (
    GAP_EXTEND,
    GAP_OPEN,
    insert_length,
    insert_penalty,
    lightest_in_seed,
    likelihood_of,
    penalty_of_key,
)
from megabolt.compute.bits import U, prefetch
from megabolt.compute.jit import allocating_callee, callee, kernel

#: Seeds looked up per read; 5 or 6 settle 0.2 % more pairs at a higher cost.
LOOKED_UP = 4
#: Longest list that is read in this tier, and places kept per read.
LONGEST_LIST, MOST_PLACES = 8, 16
#: dB per read above which a pair is left to tier 2: three mismatches at good quality.
WORST_PENALTY = 102
#: dB of the shortest gap.
ONE_GAP = GAP_OPEN + GAP_EXTEND
#: dB of equation (2).
MARGIN = 20.0
#: Reads looked up together.
_GROUP = 64


@allocating_callee
def _collect(reads: Any, tables: Any, n_reads: Any, key: Any, n_key: Any, bound: Any) -> None:
    """The places that a few seeds of each read name, and the bound on all others, equation (1)."""
    chosen = np.empty(_GROUP * LOOKED_UP, np.int64)
    hashes = np.empty(_GROUP * LOOKED_UP, np.uint64)
    strands = np.empty(_GROUP * LOOKED_UP, np.int64)
    entries = np.empty(_GROUP * LOOKED_UP, np.uint64)
    for group in range(0, n_reads, _GROUP):
        stop = min(n_reads, group + _GROUP)
        for r in range(group, stop):
            n = reads.n_seeds[r]
            for k in range(LOOKED_UP):
                slot = (r - group) * LOOKED_UP + k
                x = (k if k < n else -1) if n <= LOOKED_UP else (k * (n - 1)) // (LOOKED_UP - 1)
                chosen[slot] = -1
                if x >= 0:
                    chosen[slot] = reads.seeds[U(r * reads.slots + x)]
                    hashes[slot], strands[slot] = seed_hash(reads, r, chosen[slot])
                    fetch_bucket(tables, hashes[slot])
        for slot in range((stop - group) * LOOKED_UP):
            if chosen[slot] >= 0:
                entries[slot] = find(tables, hashes[slot])
                count = (entries[slot] >> U(COUNT_SHIFT)) & COUNT_MASK
                if count > U(1) and count <= U(LONGEST_LIST):
                    prefetch(tables.lists, np.int64(entries[slot] & PLACE_MASK))
        for r in range(group, stop):
            found, last, sum_ = 0, -SEED, 0
            for k in range(LOOKED_UP):
                slot = (r - group) * LOOKED_UP + k
                position = chosen[slot]
                if position < 0:
                    continue
                count = np.int64((entries[slot] >> U(COUNT_SHIFT)) & COUNT_MASK)
                if count > LONGEST_LIST or found + count > MOST_PLACES:
                    continue
                if position >= last + SEED:
                    sum_ += lightest_in_seed(reads, r, position)  # (1)
                    last = position
                payload = np.int64(entries[slot] & PLACE_MASK)
                for q in range(count):
                    v = np.int64(tables.lists[U(payload + q)]) if count > 1 else payload
                    strand = (v & 1) ^ strands[slot]
                    place = (v >> 1) - (position if strand == 0 else reads.length[r] - SEED - position)
                    candidate = (place << 1) | strand
                    known = False
                    for z in range(found):
                        known |= key[r, z] == candidate
                    if not known:
                        key[r, found] = candidate
                        found += 1
                        if found <= 4:
                            prefetch(tables.reference, place >> 5)
                            prefetch(tables.reference, (place >> 5) + reads.words - 2)
            n_key[r] = found
            bound[r] = sum_


@callee
def _is_special(p: Any, tables: Any, key: Any, n1: Any, n2: Any) -> Any:
    """Whether a place of pair p lies on an ALT contig or near an end of the circular one: tier 2 sees to these."""
    offset, length = tables.circular[0], tables.circular[1]
    for mate in range(2):
        for z in range(n1 if mate == 0 else n2):
            place = key[2 * p + mate, z] >> 1
            if length > 0 and offset - LONGEST_INSERT < place < offset + length:
                return True
            if len(tables.is_alt) > 0 and is_on_alt(tables, place):
                return True
    return False


@callee
def _place_single(p: Any, r: Any, reads: Any, tables: Any, key: Any, n: Any, bound: Any, out: Any) -> Any:
    """Place read r, which has no mate; returns whether its seeds settle it: equation (2) for one read."""
    best, best_lot, x = np.int64(FAR), U(0), -1
    for z in range(n):
        penalty = penalty_of_key(tables, reads, r, key[r, z])
        luck = lot(reads.name_hash[p], key[r, z], ZERO)
        if penalty < best or (penalty == best and luck > best_lot):
            best, best_lot, x = penalty, luck, z
    margin = float(bound - best)
    if x < 0 or best > WORST_PENALTY or margin < MARGIN:
        return False
    mass, rival = likelihood_of(20.0 + 0.5 * margin), np.int64(NO_RIVAL)
    for z in range(n):
        if abs((key[r, z] >> 1) - (key[r, x] >> 1)) > SAME_PLACE:
            penalty = penalty_of_key(tables, reads, r, key[r, z])
            if penalty > ONE_GAP and ONE_GAP - best < MARGIN:  # (3)
                return False
            rival = min(rival, penalty)
            mass += likelihood_of(float(penalty - best))
    quality = min(phred_of(mass), converted_cap(float(rival - best), True))
    out[p, STATUS] = FAST
    for mate in range(2):
        column = mate * MATE_COLUMNS
        here = mate == (r & 1)
        out[p, column + PLACE] = key[r, x] >> 1 if here else -1
        out[p, column + STRAND] = key[r, x] & 1 if here else 0
        out[p, column + MAPQ] = np.int64(quality) if here else 0
        out[p, column + PENALTY] = best if here else NO_RIVAL
        out[p, column + RIVAL] = rival if here else NO_RIVAL
    return True


@callee
def _best_pair(p: Any, reads: Any, key: Any, n1: Any, n2: Any, penalty: Any, insert: Any) -> Any:
    """The best concordant pair of places (or -1, -1), its dB, and whether one with a gap could come near it, (3)."""
    length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
    best, best_lot, bi, bj = 1e6, U(0), -1, -1
    for i in range(n1):
        for j in range(n2):
            size = insert_length(key[2 * p, i], key[2 * p + 1, j], length1, length2)
            if size < insert.low or size > insert.high:
                continue
            s = penalty[0, i] + penalty[1, j] + insert_penalty(size, insert)
            if s > best:
                continue
            luck = lot(reads.name_hash[p], key[2 * p, i], key[2 * p + 1, j])
            if s < best or luck > best_lot:
                best, best_lot, bi, bj = s, luck, i, j
    close = False
    if n1 * n2 > 1 and bi >= 0:
        for i in range(n1):
            elsewhere = abs((key[2 * p, i] >> 1) - (key[2 * p, bi] >> 1)) > SAME_PLACE
            for j in range(n2):
                if elsewhere or abs((key[2 * p + 1, j] >> 1) - (key[2 * p + 1, bj] >> 1)) > SAME_PLACE:
                    size = insert_length(key[2 * p, i], key[2 * p + 1, j], length1, length2)
                    if insert.low <= size <= insert.high and penalty[0, i] + penalty[1, j] > ONE_GAP:
                        s = min(penalty[0, i], ONE_GAP) + min(penalty[1, j], ONE_GAP) + insert_penalty(size, insert)
                        close |= s < best + MARGIN
    return bi, bj, best, close


@callee
def _close_gaps(
    p: Any, reads: Any, tables: Any, key: Any, n_key: Any, bi: Any, bj: Any, penalty: Any, marks: Any
) -> None:
    """Give the rivals of a pair their penalties with a gap."""
    for mate in range(2):
        r = 2 * p + mate
        own = key[r, bi if mate == 0 else bj] >> 1
        for z in range(n_key[r]):
            if penalty[mate, z] > ONE_GAP and abs((key[r, z] >> 1) - own) > SAME_PLACE and reads.length[r] >= 32:
                penalty[mate, z] = penalty_with_gap_of_key(marks, tables, reads, r, key[r, z], penalty[mate, z])


@kernel(types.int64(READS_TYPE, TABLES_TYPE, INSERT_TYPE, types.int64, types.int64[:, ::1]))
def place_fast(reads: PackedReads, tables: Tables, insert: InsertSize, n_pairs: int, out: NDArray[np.int64]) -> int:
    """Place the pairs that tier 1 can settle; the STATUS of the others becomes UNPLACED. Returns how many it settled.

    out: int64 [n_pairs, N_COLUMNS], see `align/choose.py`.
    """
    key = np.empty((2 * n_pairs, MOST_PLACES), np.int64)
    n_key = np.zeros(2 * n_pairs, np.int64)
    bound = np.zeros(2 * n_pairs, np.int64)
    _collect(reads, tables, 2 * n_pairs, key, n_key, bound)
    settled = 0
    penalty = np.empty((2, MOST_PLACES), np.int64)
    mass, nearest, rival = np.zeros(2, np.float64), np.zeros(2, np.float64), np.zeros(2, np.int64)
    marks = np.empty((2, 32), np.uint64)
    for p in range(n_pairs):
        out[p, STATUS] = UNPLACED
        n1, n2 = n_key[2 * p], n_key[2 * p + 1]
        length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
        if length1 == 0 or length2 == 0:
            r = 2 * p + (1 if length1 == 0 else 0)
            if len(tables.is_alt) + tables.circular[1] > 0 and _is_special(p, tables, key, n1, n2):
                continue
            if _place_single(p, r, reads, tables, key, n_key[r], bound[r], out):
                settled += 1
            continue
        if n1 == 0 or n2 == 0:
            continue
        if len(tables.is_alt) + tables.circular[1] > 0 and _is_special(p, tables, key, n1, n2):
            continue
        for mate in range(2):
            for z in range(n_key[2 * p + mate]):
                penalty[mate, z] = penalty_of_key(tables, reads, 2 * p + mate, key[2 * p + mate, z])
        bi, bj, best, close = _best_pair(p, reads, key, n1, n2, penalty, insert)
        if close and penalty[0, bi] <= WORST_PENALTY and penalty[1, bj] <= WORST_PENALTY:  # (3)
            _close_gaps(p, reads, tables, key, n_key, bi, bj, penalty, marks)
            bi, bj, best, close = _best_pair(p, reads, key, n1, n2, penalty, insert)
        if bi < 0 or penalty[0, bi] > WORST_PENALTY or penalty[1, bj] > WORST_PENALTY:
            continue
        margin = bound[2 * p] + bound[2 * p + 1] - best
        for mate in range(2):
            own = key[2 * p + mate, bi if mate == 0 else bj] >> 1
            mass[mate], rival[mate], nearest[mate] = 0.0, NO_RIVAL, float(NO_RIVAL)
            for z in range(n_key[2 * p + mate]):
                if abs((key[2 * p + mate, z] >> 1) - own) > SAME_PLACE:
                    margin = min(margin, min(penalty[mate, z], ONE_GAP) + bound[2 * p + 1 - mate] - best)
                    rival[mate] = min(rival[mate], penalty[mate, z])
        if margin < MARGIN:  # (2)
            continue
        if n1 * n2 > 1:
            for i in range(n1):
                for j in range(n2):
                    size = insert_length(key[2 * p, i], key[2 * p + 1, j], length1, length2)
                    if size < insert.low or size > insert.high:
                        continue
                    s = penalty[0, i] + penalty[1, j] + insert_penalty(size, insert) - best
                    likelihood = likelihood_of(s) if s < NEGLIGIBLE else 0.0
                    for mate in range(2):
                        r, z, x = 2 * p + mate, i if mate == 0 else j, bi if mate == 0 else bj
                        if abs((key[r, z] >> 1) - (key[r, x] >> 1)) > SAME_PLACE:
                            mass[mate] += likelihood
                            nearest[mate] = min(nearest[mate], s)
        unseen = likelihood_of(20.0 + 0.5 * margin)
        settled += 1
        out[p, STATUS] = FAST
        for mate in range(2):
            x = bi if mate == 0 else bj
            column = mate * MATE_COLUMNS
            out[p, column + PLACE] = key[2 * p + mate, x] >> 1
            out[p, column + STRAND] = key[2 * p + mate, x] & 1
            quality = min(phred_of(mass[mate] + unseen), converted_cap(nearest[mate], False))
            out[p, column + MAPQ] = np.int64(quality)
            out[p, column + PENALTY] = penalty[mate, x]
            out[p, column + RIVAL] = rival[mate]
    return settled
