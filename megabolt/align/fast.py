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
they are known completely.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.verify import (
    BUCKET,
    COUNT_MASK,
    COUNT_SHIFT,
    PLACE_MASK,
    SEED,
    bucket_of,
    find,
    insert_penalty,
    lightest_in_seed,
    mix,
    penalty_at,
    seed_hash,
)
from megabolt.compute.bits import U, prefetch
from megabolt.compute.jit import callee, kernel

#: Seeds looked up per read; 5 or 6 settle 0.2 % more pairs at a higher cost.
LOOKED_UP = 4
#: Longest list that is read in this tier, and places kept per read.
LONGEST_LIST, MOST_PLACES = 8, 16
#: dB per read above which a pair is left to tier 2: three mismatches at good quality.
WORST_PENALTY = 102
#: dB of equation (2).
MARGIN = 20.0
#: Two places closer than this are one place, shifted by a gap.
SAME_PLACE = 20
#: Reads looked up together.
_GROUP = 64

#: Columns of a placement: for each mate the place (or -1), the strand, MAPQ, penalty and the penalty of the best
#: rival place (NO_RIVAL if none is known); then how the pair was placed.
(PLACE1, STRAND1, MAPQ1, PENALTY1, RIVAL1, PLACE2, STRAND2, MAPQ2, PENALTY2, RIVAL2, STATUS, N_COLUMNS) = range(12)
MATE_COLUMNS = 5
NO_RIVAL = 1 << 20
UNPLACED, FAST, CONCORDANT, DISCORDANT, LONE, QUEUED = range(6)


@callee
def _phred_posterior(rivals: Any) -> Any:
    """-10 log10 of the posterior probability that the chosen place (weight 1) is not the true one."""
    return -10.0 * math.log10(max(rivals / (1.0 + rivals), 1e-10))


@callee
def _concordant(key1: Any, key2: Any, length1: Any, length2: Any) -> Any:
    """Fragment length of two ends that face each other; -1 if they do not."""
    if ((key1 ^ key2) & 1) == 0:
        return -1
    if key1 & 1:
        return (key1 >> 1) + length1 - (key2 >> 1)
    return (key2 >> 1) + length2 - (key1 >> 1)


@kernel(
    "int64(uint64[::1], uint64[::1], uint64[::1], uint64[::1], int64[::1], uint64[::1], int32[::1], int64[::1], "
    "int64, int64, int64, uint64[::1], uint64[::1], uint64[::1], int64, float64, float64, int64, int64, "
    "int64[:,::1])"
)
def place_fast(
    forward: NDArray[np.uint64],
    reverse: NDArray[np.uint64],
    class_forward: NDArray[np.uint64],
    class_reverse: NDArray[np.uint64],
    lengths: NDArray[np.int64],
    name_hash: NDArray[np.uint64],
    seeds: NDArray[np.int32],
    n_seeds: NDArray[np.int64],
    n_pairs: int,
    words: int,
    slots: int,
    reference: NDArray[np.uint64],
    table: NDArray[np.uint64],
    lists: NDArray[np.uint64],
    tag_shift: int,
    mean: float,
    sd: float,
    low: int,
    high: int,
    out: NDArray[np.int64],
) -> int:
    """Place the pairs that tier 1 can settle; the STATUS of the others stays UNPLACED. Returns how many it settled."""
    n_buckets = U(len(table) // BUCKET)
    n_reads = 2 * n_pairs
    key = np.empty((n_reads, MOST_PLACES), np.int64)
    n_key = np.zeros(n_reads, np.int64)
    bound = np.zeros(n_reads, np.int64)
    chosen = np.empty(_GROUP * LOOKED_UP, np.int64)
    hashes = np.empty(_GROUP * LOOKED_UP, np.uint64)
    strands = np.empty(_GROUP * LOOKED_UP, np.int64)
    entries = np.empty(_GROUP * LOOKED_UP, np.uint64)
    for group in range(0, n_reads, _GROUP):
        stop = min(n_reads, group + _GROUP)
        for r in range(group, stop):
            n = n_seeds[r]
            for k in range(LOOKED_UP):
                slot = (r - group) * LOOKED_UP + k
                x = (k if k < n else -1) if n <= LOOKED_UP else (k * (n - 1)) // (LOOKED_UP - 1)
                chosen[slot] = -1
                if x >= 0:
                    position = np.int64(seeds[U(r * slots + x)])
                    chosen[slot] = position
                    hashes[slot], strands[slot] = seed_hash(forward, reverse, r * words, lengths[r], position)
                    prefetch(table, np.int64(bucket_of(hashes[slot], n_buckets) * U(BUCKET)))
        for slot in range((stop - group) * LOOKED_UP):
            if chosen[slot] >= 0:
                entries[slot] = find(table, n_buckets, U(tag_shift), hashes[slot])
                count = (entries[slot] >> U(COUNT_SHIFT)) & COUNT_MASK
                if count > U(1) and count <= U(LONGEST_LIST):
                    prefetch(lists, np.int64(entries[slot] & PLACE_MASK))
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
                    sum_ += lightest_in_seed(class_forward, r * words, position)  # (1)
                    last = position
                payload = np.int64(entries[slot] & PLACE_MASK)
                for q in range(count):
                    v = np.int64(lists[U(payload + q)]) if count > 1 else payload
                    strand = (v & 1) ^ strands[slot]
                    place = (v >> 1) - (position if strand == 0 else lengths[r] - SEED - position)
                    candidate = (place << 1) | strand
                    known = False
                    for z in range(found):
                        if key[r, z] == candidate:
                            known = True
                            break
                    if not known:
                        key[r, found] = candidate
                        found += 1
                        if found <= 4:
                            prefetch(reference, place >> 5)
                            prefetch(reference, (place >> 5) + words - 2)
            n_key[r] = found
            bound[r] = sum_
    settled = 0
    penalty = np.empty((2, MOST_PLACES), np.int64)
    for p in range(n_pairs):
        out[p, STATUS] = UNPLACED
        n1, n2 = n_key[2 * p], n_key[2 * p + 1]
        if n1 == 0 or n2 == 0:
            continue
        length1, length2 = lengths[2 * p], lengths[2 * p + 1]
        for mate in range(2):
            r = 2 * p + mate
            for z in range(n_key[r]):
                k = key[r, z]
                if k & 1:
                    penalty[mate, z] = penalty_at(reference, k >> 1, reverse, class_reverse, r * words, lengths[r])
                else:
                    penalty[mate, z] = penalty_at(reference, k >> 1, forward, class_forward, r * words, lengths[r])
        best, best_luck, bi, bj = 1e6, U(0), -1, -1
        for i in range(n1):
            for j in range(n2):
                insert = _concordant(key[2 * p, i], key[2 * p + 1, j], length1, length2)
                if insert < low or insert > high:
                    continue
                s = penalty[0, i] + penalty[1, j] + insert_penalty(insert, mean, sd, low, high)
                if s > best:
                    continue
                # Exact ties are drawn by lot; the lot is the read's name, so threads and order do not matter.
                luck = mix(name_hash[p] ^ U(key[2 * p, i]) ^ (U(key[2 * p + 1, j]) << U(1)))
                if s < best or luck > best_luck:
                    best, best_luck, bi, bj = s, luck, i, j
        if bi < 0 or penalty[0, bi] > WORST_PENALTY or penalty[1, bj] > WORST_PENALTY:
            continue
        place1, place2 = key[2 * p, bi] >> 1, key[2 * p + 1, bj] >> 1
        margin = bound[2 * p] + bound[2 * p + 1] - best
        rival1, rival2 = NO_RIVAL, NO_RIVAL
        for i in range(n1):
            if abs((key[2 * p, i] >> 1) - place1) > SAME_PLACE:
                margin = min(margin, penalty[0, i] + bound[2 * p + 1] - best)
                rival1 = min(rival1, penalty[0, i])
        for j in range(n2):
            if abs((key[2 * p + 1, j] >> 1) - place2) > SAME_PLACE:
                margin = min(margin, penalty[1, j] + bound[2 * p] - best)
                rival2 = min(rival2, penalty[1, j])
        if margin < MARGIN:  # (2)
            continue
        mass1, mass2 = 0.0, 0.0
        if n1 * n2 > 1:
            for i in range(n1):
                for j in range(n2):
                    insert = _concordant(key[2 * p, i], key[2 * p + 1, j], length1, length2)
                    if insert < low or insert > high:
                        continue
                    s = penalty[0, i] + penalty[1, j] + insert_penalty(insert, mean, sd, low, high) - best
                    if s < 80.0:
                        likelihood = 10.0 ** (-0.1 * s)
                        if abs((key[2 * p, i] >> 1) - place1) > SAME_PLACE:
                            mass1 += likelihood
                        if abs((key[2 * p + 1, j] >> 1) - place2) > SAME_PLACE:
                            mass2 += likelihood
        unseen = 10.0 ** (-0.1 * (20.0 + 0.5 * margin))
        settled += 1
        out[p, STATUS] = FAST
        out[p, PLACE1], out[p, STRAND1], out[p, PENALTY1] = place1, key[2 * p, bi] & 1, penalty[0, bi]
        out[p, PLACE2], out[p, STRAND2], out[p, PENALTY2] = place2, key[2 * p + 1, bj] & 1, penalty[1, bj]
        out[p, RIVAL1], out[p, RIVAL2] = rival1, rival2
        out[p, MAPQ1] = np.int64(_phred_posterior(mass1 + unseen))
        out[p, MAPQ2] = np.int64(_phred_posterior(mass2 + unseen))
    return settled
