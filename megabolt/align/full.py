# SPDX-License-Identifier: Apache-2.0
"""Tier 2: every candidate place of a pair, each scored as carefully as the winner.

In: pairs that tier 1 left. Out: placements, or a queue of candidates for the affine kernel. Next: `align/extend.py`.

All seeds are looked up; short lists are read completely. A masked seed (long list) is searched only inside the
insert window of the other mate's places, or intersected with the other mate's rarest seed. A mate without a good
concordant place is searched base by base around the anchor. The best-voted rivals get the one-gap kernel as the
winner does: a rival scored less carefully makes confident mistakes. If the seed bound (`align/fast.py`, equation 1)
leaves room for unseen places within reach, longer lists are read in a second round.

MAPQ is the posterior over the pairs of places, with three caps whose error probabilities add: unseen places,
a high penalty, and a mate placed alone or apart. Constants are those fitted in the mapping study; dB throughout.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.align.fast import (
    CONCORDANT,
    DISCORDANT,
    FAST,
    LONE,
    MAPQ1,
    MATE_COLUMNS,
    NO_RIVAL,
    PENALTY1,
    PLACE1,
    QUEUED,
    RIVAL1,
    SAME_PLACE,
    STATUS,
    STRAND1,
    UNPLACED,
)
from megabolt.align.verify import (
    BUCKET,
    COUNT_MASK,
    COUNT_SHIFT,
    LONG_LIST,
    PLACE_MASK,
    SEED,
    bucket_of,
    find,
    insert_penalty,
    lightest_in_seed,
    mix,
    penalty_at,
    penalty_with_gap,
    seed_hash,
)
from megabolt.compute.bits import EVEN_BITS, U, bases_at, popcount, prefetch
from megabolt.compute.jit import callee, kernel

#: Candidates kept per mate, and slots of the table that finds a candidate by its key.
MOST_CANDIDATES = 4096
_HASH_BITS = 13
#: Lists read in the first and second round, and lists long enough that only an intersection reads them.
FIRST_LIST, SECOND_LIST, INTERSECTED_LIST, SEARCHED_LIST = 16, 300, 20_000, 200_000
#: Masked seeds searched in the mate's windows: at most so many seeds and windows.
WINDOW_SEEDS, MOST_WINDOWS = 3, 256
#: A mate is searched around at most so many anchors within so many dB of the best one.
MOST_ANCHORS, ANCHOR_WITHIN = 16, 40
#: dB of a pair that is not a proper one.
DISCORDANT_PENALTY = 95.0
#: Candidates further than this from the best are dropped before pairing.
PRUNE = 115
#: Rivals that get the one-gap kernel, its longest gap, and the penalty from which gaps are looked for.
GAP_RIVALS, LONGEST_GAP, GAP_FROM = 12, 12, 50
#: Second round if the bound leaves unseen places within this many dB of the best pair.
SECOND_ROUND_MARGIN = 20.0
#: Pairs above this penalty are re-scored by the affine kernel; candidates it sees per mate, by penalty and by votes.
POOR_PENALTY = 100.0
QUEUE_BY_PENALTY, QUEUE_BY_VOTES = 12, 4
QUEUE_PER_PAIR = 2 * (QUEUE_BY_PENALTY + QUEUE_BY_VOTES)
#: Pairs of places kept for the posterior.
_MOST_PAIRS = 8192
_MAX_SEEDS = 192
_FAR = 1 << 20

MASKED, RESOLVED, SEARCHED = 0, 1, 2
#: Integers handed to callees: typed ones, because Numba compiles a callee anew for every literal it meets.
_ZERO, _ONE = np.int64(0), np.int64(1)

#: What the caps need to know of a pair's search: see `_context`.
(BOUND1, BOUND2, SKIPPED1, SKIPPED2, RAREST1, RAREST2, N_MASKED, N_SEEDS, N_CONTEXT) = range(9)


class Candidates(NamedTuple):
    """Candidate places of both mates; first axis: mate."""

    key: Any  # int64 [2, MOST_CANDIDATES], place << 1 | strand
    votes: Any  # int64, seeds that name it
    penalty: Any  # int64, dB
    n: Any  # int64 [2]
    slot: Any  # int64 [2, 2^_HASH_BITS], candidate of a hash slot, valid where stamp agrees
    stamp: Any


class Seeds(NamedTuple):
    """Looked-up seeds of both mates; first axis: mate."""

    count: Any  # int64 [2, _MAX_SEEDS], places in the list
    payload: Any  # place << 1 | strand of a unique seed, else offset of the list
    position: Any
    strand: Any
    state: Any  # MASKED, RESOLVED or SEARCHED
    weight: Any  # dB of the worst base
    n: Any  # int64 [2]
    bound: Any  # int64 [2], equation (1)


@callee
def _add(c: Any, mate: Any, key: Any, votes: Any, stamp: Any) -> None:
    """Note a candidate, or add to its votes."""
    h = np.int64((U(key) * U(0x9E3779B97F4A7C15)) >> U(64 - _HASH_BITS))
    while c.stamp[mate, h] == stamp:
        z = c.slot[mate, h]
        if c.key[mate, z] == key:
            c.votes[mate, z] += votes
            return
        h = (h + 1) & ((1 << _HASH_BITS) - 1)
    z = c.n[mate]
    if z < MOST_CANDIDATES:
        c.stamp[mate, h] = stamp
        c.slot[mate, h] = z
        c.key[mate, z] = key
        c.votes[mate, z] = votes
        c.n[mate] = z + 1


@callee
def _key_of(v: Any, position: Any, strand: Any, length: Any) -> Any:
    """Candidate key of a read whose seed at `position` lies at list entry v (place << 1 | strand)."""
    s = (v & 1) ^ strand
    return (((v >> 1) - (position if s == 0 else length - SEED - position)) << 1) | s


@callee
def _add_list(c: Any, s: Any, mate: Any, x: Any, length: Any, lists: Any, stamp: Any) -> None:
    """Note every place of seed x of a mate."""
    count = s.count[mate, x]
    for q in range(count):
        v = np.int64(lists[U(s.payload[mate, x] + q)]) if count > 1 else s.payload[mate, x]
        _add(c, mate, _key_of(v, s.position[mate, x], s.strand[mate, x], length), _ONE, stamp)


@callee
def _first_at_or_after(lists: Any, start: Any, count: Any, value: Any) -> Any:
    low, high = start, start + count
    while low < high:
        middle = (low + high) >> 1
        if np.int64(lists[U(middle)]) < value:
            low = middle + 1
        else:
            high = middle
    return low


@callee
def _look_up(
    s: Any,
    mate: Any,
    r: Any,
    forward: Any,
    reverse: Any,
    classes: Any,
    words: Any,
    length: Any,
    seeds: Any,
    slots: Any,
    n: Any,
    table: Any,
    lists: Any,
    tag_shift: Any,
    hashes: Any,
) -> None:
    """Fill the seeds of one mate."""
    n_buckets = U(len(table) // BUCKET)
    n = min(n, _MAX_SEEDS)
    for x in range(n):
        position = np.int64(seeds[U(r * slots + x)])
        s.position[mate, x] = position
        hashes[x], s.strand[mate, x] = seed_hash(forward, reverse, r * words, length, position)
        prefetch(table, np.int64(bucket_of(hashes[x], n_buckets) * U(BUCKET)))
    for x in range(n):
        entry = find(table, n_buckets, tag_shift, hashes[x])
        count = np.int64((entry >> U(COUNT_SHIFT)) & COUNT_MASK)
        payload = np.int64(entry & PLACE_MASK)
        if count == LONG_LIST:
            count = np.int64(lists[U(payload - 1)])
        elif count > 1 and count <= FIRST_LIST:
            prefetch(lists, payload)
        s.count[mate, x], s.payload[mate, x] = count, payload
        s.state[mate, x] = MASKED
        s.weight[mate, x] = lightest_in_seed(classes, r * words, s.position[mate, x])
    s.n[mate] = n


@callee
def _bound(s: Any, mate: Any, best_to: Any) -> None:
    """Equation (1) by weighted interval scheduling over the resolved seeds, which ascend in position."""
    n = s.n[mate]
    for x in range(n):
        best = best_to[x - 1] if x > 0 else 0
        if s.state[mate, x] == RESOLVED:
            y = x - 1
            while y >= 0 and s.position[mate, y] + SEED > s.position[mate, x]:
                y -= 1
            best = max(best, s.weight[mate, x] + (best_to[y] if y >= 0 else 0))
        best_to[x] = best
    s.bound[mate] = best_to[n - 1] if n > 0 else 0


@callee
def _resolve_rarest(c: Any, s: Any, mate: Any, length: Any, lists: Any, enough: Any, stamp: Any) -> None:
    """Second round: read lists of masked seeds disjoint from the resolved ones, rarest first."""
    for _ in range(6):
        rarest = -1
        for x in range(s.n[mate]):
            if s.state[mate, x] == MASKED and s.count[mate, x] <= SECOND_LIST:
                if rarest < 0 or s.count[mate, x] < s.count[mate, rarest]:
                    disjoint = True
                    for y in range(s.n[mate]):
                        if s.state[mate, y] == RESOLVED and abs(s.position[mate, y] - s.position[mate, x]) < SEED:
                            disjoint = False
                            break
                    if disjoint:
                        rarest = x
        if rarest < 0 or s.bound[0] + s.bound[1] >= enough:
            return
        s.state[mate, rarest] = RESOLVED
        s.bound[mate] += s.weight[mate, rarest]
        _add_list(c, s, mate, rarest, length, lists, stamp)


@callee
def _rarest(s: Any, mate: Any) -> Any:
    """The masked seed with the shortest list, if that can be intersected; -1 if there is none."""
    rarest = -1
    for x in range(s.n[mate]):
        if s.state[mate, x] == MASKED and 0 < s.count[mate, x] <= INTERSECTED_LIST:
            if rarest < 0 or s.count[mate, x] < s.count[mate, rarest]:
                rarest = x
    return rarest


@callee
def _intersect(c: Any, s: Any, length1: Any, length2: Any, lists: Any, low: Any, high: Any, stamp: Any) -> None:
    """Both mates have masked seeds only: walk the rarest list of each for places within an insert of each other."""
    x1, x2 = _rarest(s, _ZERO), _rarest(s, _ONE)
    if x1 < 0 or x2 < 0:
        for mate in range(2):
            x = x1 if mate == 0 else x2
            if x >= 0 and s.count[mate, x] <= 2000:
                _add_list(c, s, mate, x, length1 if mate == 0 else length2, lists, stamp)
        return
    reach = high + length1 + length2
    first = s.payload[1, x2]
    stop2 = first + s.count[1, x2]
    for q in range(s.payload[0, x1], s.payload[0, x1] + s.count[0, x1]):
        v1 = np.int64(lists[U(q)])
        while first < stop2 and (np.int64(lists[U(first)]) >> 1) < (v1 >> 1) - reach:
            first += 1
        key1 = _key_of(v1, s.position[0, x1], s.strand[0, x1], length1)
        matched = False
        y = first
        while y < stop2:
            v2 = np.int64(lists[U(y)])
            if (v2 >> 1) > (v1 >> 1) + reach:
                break
            key2 = _key_of(v2, s.position[1, x2], s.strand[1, x2], length2)
            if ((key1 ^ key2) & 1) == 1:
                if key1 & 1:
                    insert = (key1 >> 1) + length1 - (key2 >> 1)
                else:
                    insert = (key2 >> 1) + length2 - (key1 >> 1)
                if low <= insert <= high:
                    _add(c, _ONE, key2, _ONE, stamp)
                    matched = True
            y += 1
        if matched:
            _add(c, _ZERO, key1, _ONE, stamp)


@callee
def _search_windows(
    c: Any, s: Any, mate: Any, n_other: Any, length: Any, length_other: Any, lists: Any, high: Any, stamp: Any
) -> None:
    """Masked seeds of a mate inside the insert window of each place of the other mate."""
    for _ in range(WINDOW_SEEDS):
        x = -1
        for y in range(s.n[mate]):
            if s.state[mate, y] == MASKED and FIRST_LIST < s.count[mate, y] <= SEARCHED_LIST:
                if x < 0 or s.count[mate, y] < s.count[mate, x]:
                    x = y
        if x < 0:
            break
        s.state[mate, x] = SEARCHED
        for z in range(n_other):
            key2 = c.key[1 - mate, z]
            place2 = key2 >> 1
            if key2 & 1:
                first, last = place2 + length_other - high, place2 + length_other
            else:
                first, last = place2 - length, place2 + high
            y = _first_at_or_after(lists, s.payload[mate, x], s.count[mate, x], max(first, 0) << 1)
            stop = s.payload[mate, x] + s.count[mate, x]
            while y < stop:
                v = np.int64(lists[U(y)])
                if (v >> 1) > last:
                    break
                key = _key_of(v, s.position[mate, x], s.strand[mate, x], length)
                if ((key ^ key2) & 1) == 1:
                    _add(c, mate, key, _ONE, stamp)
                y += 1
    for x in range(s.n[mate]):
        if s.state[mate, x] == SEARCHED:
            s.state[mate, x] = MASKED


@callee
def _verify(
    c: Any,
    mate: Any,
    first: Any,
    best: Any,
    reference: Any,
    forward: Any,
    reverse: Any,
    class_forward: Any,
    class_reverse: Any,
    offset: Any,
    length: Any,
    here: Any,
    there: Any,
) -> Any:
    """Score candidates from `first` on; the best-voted get the one-gap kernel. Returns the mate's best penalty."""
    n = c.n[mate]
    most_votes = 0
    for z in range(first, n):
        if z + 8 < n:
            prefetch(reference, (c.key[mate, z + 8] >> 1) >> 5)
            prefetch(reference, ((c.key[mate, z + 8] >> 1) >> 5) + 4)
        k = c.key[mate, z]
        if k & 1:
            x = penalty_at(reference, k >> 1, reverse, class_reverse, offset, length)
        else:
            x = penalty_at(reference, k >> 1, forward, class_forward, offset, length)
        c.penalty[mate, z] = x
        best = min(best, x)
        most_votes = max(most_votes, c.votes[mate, z])
    if best > GAP_FROM and length >= 32:
        done = 0
        votes = most_votes
        while votes >= 1 and done < GAP_RIVALS and votes * 4 >= most_votes:
            for z in range(first, n):
                if c.votes[mate, z] == votes and c.penalty[mate, z] > GAP_FROM and done < GAP_RIVALS:
                    done += 1
                    k = c.key[mate, z]
                    words = reverse if k & 1 else forward
                    classes = class_reverse if k & 1 else class_forward
                    x, _shift = penalty_with_gap(
                        reference,
                        k >> 1,
                        words,
                        classes,
                        offset,
                        length,
                        c.penalty[mate, z],
                        LONGEST_GAP,
                        here,
                        there,
                    )
                    c.penalty[mate, z] = x
                    best = min(best, x)
            votes -= 1
    return best


@callee
def _rescue(
    c: Any,
    mate: Any,
    first: Any,
    best: Any,
    best_other: Any,
    length: Any,
    length_other: Any,
    reference: Any,
    forward: Any,
    reverse: Any,
    class_forward: Any,
    class_reverse: Any,
    offset_other: Any,
    low: Any,
    high: Any,
    here: Any,
    there: Any,
    stamp: Any,
) -> Any:
    """Search the other mate around the good anchors of this one; returns the other's best penalty, -1 if skipped."""
    limit = best + ANCHOR_WITHIN
    n_anchors = 0
    for z in range(first, c.n[mate]):
        if c.penalty[mate, z] <= limit:
            n_anchors += 1
    if n_anchors > MOST_ANCHORS:
        return -1
    n_other = c.n[1 - mate]
    second = max(0, (length_other >> 5) - 1)  # a word near the read's end, whole inside the read
    for z in range(first, c.n[mate]):
        if c.penalty[mate, z] > limit:
            continue
        anchor = c.key[mate, z]
        place = anchor >> 1
        served = False
        for y in range(n_other):
            k = c.key[1 - mate, y]
            if ((k ^ anchor) & 1) == 0:
                continue
            insert = place + length - (k >> 1) if anchor & 1 else (k >> 1) + length_other - place
            if low <= insert <= high and (c.penalty[1 - mate, y] <= best_other + 34 or c.penalty[1 - mate, y] <= 100):
                served = True
                break
        if served:
            continue
        if anchor & 1:
            words, classes = forward, class_forward
            start, stop = place + length - high, place + 50
        else:
            words, classes = reverse, class_reverse
            start, stop = place - 50, place + high - length_other
        word1, word2 = words[U(offset_other)], words[U(offset_other + second)]
        fewest, found = 33, -1
        cheapest = _FAR
        mask = EVEN_BITS if length_other >= 32 else (U(1) << U(2 * length_other)) - U(1)
        for x in range(max(start, 32), stop):
            m1 = bases_at(reference, x) ^ word1
            m2 = bases_at(reference, x + 32 * second) ^ word2
            n1 = popcount((m1 | (m1 >> U(1))) & EVEN_BITS & mask)
            n2 = popcount((m2 | (m2 >> U(1))) & EVEN_BITS & mask)
            few = min(n1, n2)
            if few > 9:
                continue
            p = penalty_at(reference, x, words, classes, offset_other, length_other)
            if p < cheapest or (found < 0 and few < fewest):
                cheapest, fewest, found = p, few, x
        # A random place matches a quarter of the bases; a gapped or clipped one matches one end well.
        if found >= 0 and (cheapest < 10 * length_other or fewest <= 4) and c.n[1 - mate] < MOST_CANDIDATES:
            if cheapest > GAP_FROM and length_other >= 32:
                cheapest, _shift = penalty_with_gap(
                    reference,
                    found,
                    words,
                    classes,
                    offset_other,
                    length_other,
                    cheapest,
                    LONGEST_GAP,
                    here,
                    there,
                )
            before = c.n[1 - mate]
            _add(c, 1 - mate, (found << 1) | (1 - (anchor & 1)), _ZERO, stamp)
            if c.n[1 - mate] > before:
                c.penalty[1 - mate, before] = cheapest
                best_other = min(best_other, cheapest)
    return best_other


@callee
def _sort_by_key(key: Any, penalty: Any, mate: Any, n: Any) -> None:
    """Shell sort: lists come as a few sorted runs, and it compiles in a tenth of the time of a library sort."""
    step = _ONE
    while step < n // 3:
        step = 3 * step + 1
    while step >= 1:
        for i in range(step, n):
            k, p = key[mate, i], penalty[mate, i]
            j = i - step
            while j >= 0 and key[mate, j] > k:
                key[mate, j + step], penalty[mate, j + step] = key[mate, j], penalty[mate, j]
                j -= step
            key[mate, j + step], penalty[mate, j + step] = k, p
        step //= 3


@callee
def _total(key: Any, penalty: Any, mate: Any, n: Any, best: Any) -> Any:
    """Sum of the likelihoods of a mate's distinct places, relative to its best."""
    total = 0.0
    last, lowest = -(1 << 40), _FAR
    for i in range(n):
        place = key[mate, i] >> 1
        if place - last > SAME_PLACE:
            if lowest < _FAR:
                total += 10.0 ** (-0.1 * (lowest - best))
            lowest = penalty[mate, i]
        else:
            lowest = min(lowest, penalty[mate, i])
        last = place
    if lowest < _FAR:
        total += 10.0 ** (-0.1 * (lowest - best))
    return total


@callee
def _added(quality1: Any, quality2: Any) -> Any:
    """Phred of the sum of two error probabilities."""
    return -10.0 * math.log10(min(1.0, 10.0 ** (-0.1 * quality1) + 10.0 ** (-0.1 * quality2)))


@callee
def _phred_of_mass(rivals: Any) -> Any:
    return -10.0 * math.log10(max(rivals / (1.0 + rivals), 1e-10))


@callee
def _best_single(key: Any, penalty: Any, mate: Any, n: Any, name_hash: Any) -> Any:
    """Index of the cheapest place of a mate; ties are drawn by the name's lot."""
    best, luck_best = -1, U(0)
    for i in range(n):
        luck = mix(name_hash ^ U(key[mate, i]))
        if (
            best < 0
            or penalty[mate, i] < penalty[mate, best]
            or (penalty[mate, i] == penalty[mate, best] and luck > luck_best)
        ):
            best, luck_best = i, luck
    return best


@callee
def _choose(
    p: Any,
    key: Any,
    penalty: Any,
    n1: Any,
    n2: Any,
    length1: Any,
    length2: Any,
    name_hash: Any,
    mean: Any,
    sd: Any,
    low: Any,
    high: Any,
    context: Any,
    pairs: Any,
    scores: Any,
    out: Any,
) -> Any:
    """Choose a pair of places among candidates sorted by key, with posterior MAPQ and caps. Returns its penalty."""
    lowest1, lowest2 = np.int64(_FAR), np.int64(_FAR)
    for i in range(n1):
        lowest1 = min(lowest1, penalty[0, i])
    for j in range(n2):
        lowest2 = min(lowest2, penalty[1, j])
    best, luck_best, bi, bj, n_pairs, j0 = 1e6, U(0), -1, -1, 0, 0
    for i in range(n1):
        k1 = key[0, i]
        place1 = k1 >> 1
        while j0 < n2 and (key[1, j0] >> 1) < place1 - high:
            j0 += 1
        for j in range(j0, n2):
            k2 = key[1, j]
            place2 = k2 >> 1
            if place2 > place1 + high:
                break
            if ((k1 ^ k2) & 1) == 0:
                continue
            insert = place1 + length1 - place2 if k1 & 1 else place2 + length2 - place1
            if insert < low or insert > high:
                continue
            s = penalty[0, i] + penalty[1, j] + insert_penalty(insert, mean, sd, low, high)
            luck = mix(name_hash ^ U(k1) ^ (U(k2) << U(1)))
            if s < best or (s == best and luck > luck_best):
                best, luck_best, bi, bj = s, luck, i, j
            if n_pairs < _MOST_PAIRS:
                pairs[n_pairs, 0], pairs[n_pairs, 1] = i, j
                scores[n_pairs] = s
                n_pairs += 1
    apart = 1e6
    if n1 > 0 and n2 > 0:
        apart = lowest1 + lowest2 + DISCORDANT_PENALTY
    total1 = _total(key, penalty, _ZERO, n1, lowest1)
    total2 = _total(key, penalty, _ONE, n2, lowest2)
    if bi >= 0 and best <= apart + 0.01:
        status = CONCORDANT
        place1, place2 = key[0, bi] >> 1, key[1, bj] >> 1
        mass1, mass2 = 0.0, 0.0
        for x in range(n_pairs):
            s = scores[x] - best
            if s > 70.0:
                continue
            likelihood = 10.0 ** (-0.1 * s)
            if abs((key[0, pairs[x, 0]] >> 1) - place1) > SAME_PLACE:
                mass1 += likelihood
            if abs((key[1, pairs[x, 1]] >> 1) - place2) > SAME_PLACE:
                mass2 += likelihood
        # Either end may lie elsewhere in a discordant pair.
        mass_apart = 10.0 ** (-0.1 * (apart - best)) * total1 * total2
        own1 = 10.0 ** (-0.1 * (penalty[0, bi] - lowest1)) / total1
        own2 = 10.0 ** (-0.1 * (penalty[1, bj] - lowest2)) / total2
        mass1 += mass_apart * max(0.0, 1.0 - own1)
        mass2 += mass_apart * max(0.0, 1.0 - own2)
        chosen = best
    else:
        status = DISCORDANT if n1 > 0 and n2 > 0 else (LONE if n1 + n2 > 0 else UNPLACED)
        bi = _best_single(key, penalty, _ZERO, n1, name_hash)
        bj = _best_single(key, penalty, _ONE, n2, name_hash)
        paired = 10.0 ** (-0.1 * (best - apart)) if n_pairs > 0 and apart < 1e6 else 0.0
        mass1, mass2 = total1 - 1.0 + paired, total2 - 1.0 + paired
        chosen = apart
    quality1, quality2 = _phred_of_mass(mass1), _phred_of_mass(mass2)
    reached = min(best, apart)
    bound = context[BOUND1] + context[BOUND2]
    if context[SKIPPED1] > 0.0:
        bound = min(bound, lowest1 + context[BOUND2])
    if context[SKIPPED2] > 0.0:
        bound = min(bound, lowest2 + context[BOUND1])
    if context[RAREST1] > 0.0 or context[RAREST2] > 0.0 or context[N_SEEDS] == 0.0:
        crowd = max(1.0, min(max(context[RAREST1], 1.0), max(context[RAREST2], 1.0)))
        unseen = 16.0 + 0.5 * (bound - reached - 10.0 * math.log10(crowd))
        if 2.0 * context[N_MASKED] < context[N_SEEDS]:
            unseen = max(unseen, 40.0)
        unseen = max(unseen, 0.0)
        quality1, quality2 = _added(quality1, unseen), _added(quality2, unseen)
    out[p, STATUS] = status
    for mate in range(2):
        x = bi if mate == 0 else bj
        base = mate * MATE_COLUMNS
        if x < 0:
            out[p, PLACE1 + base] = -1
            out[p, MAPQ1 + base] = 0
            out[p, PENALTY1 + base] = NO_RIVAL
            out[p, RIVAL1 + base] = NO_RIVAL
            continue
        quality = quality1 if mate == 0 else quality2
        own = penalty[mate, x]
        if own > 300:
            quality = _added(quality, max(0.0, 40.0 - (own - 300) / 12.0))
        if status != CONCORDANT and own > 100:
            quality = min(quality, 15.0)
        rival = NO_RIVAL
        for i in range(n1 if mate == 0 else n2):
            if abs((key[mate, i] >> 1) - (key[mate, x] >> 1)) > SAME_PLACE:
                rival = min(rival, penalty[mate, i])
        out[p, PLACE1 + base] = key[mate, x] >> 1
        out[p, STRAND1 + base] = key[mate, x] & 1
        out[p, MAPQ1 + base] = np.int64(min(quality, 99.0))
        out[p, PENALTY1 + base] = own
        out[p, RIVAL1 + base] = rival
    return chosen


@callee
def _enqueue(c: Any, mate: Any, r: Any, first: Any, key: Any, penalty: Any, queue_key: Any, queue_read: Any) -> Any:
    """Put the cheapest and the best-voted candidates of a mate on the queue, sorted by key; returns how many."""
    n = c.n[mate]
    kept = _ZERO
    for kind in range(2):
        for _ in range(QUEUE_BY_PENALTY if kind == 0 else QUEUE_BY_VOTES):
            best = -1
            for z in range(n):
                if c.votes[mate, z] < 0:
                    continue
                if best < 0:
                    best = z
                elif kind == 0:
                    if c.penalty[mate, z] < c.penalty[mate, best]:
                        best = z
                elif c.votes[mate, z] > c.votes[mate, best]:
                    best = z
            if best < 0 or (kind == 1 and c.votes[mate, best] < 2):
                break
            key[mate, kept], penalty[mate, kept] = c.key[mate, best], c.penalty[mate, best]
            c.votes[mate, best] = -1  # taken
            kept += 1
    _sort_by_key(key, penalty, mate, kept)
    for z in range(kept):
        queue_key[first + z] = key[mate, z]
        queue_read[first + z] = r
    return kept


@kernel(
    "void(uint64[::1], uint64[::1], uint64[::1], uint64[::1], int64[::1], uint64[::1], int32[::1], int64[::1], "
    "int64, int64, int64, uint64[::1], uint64[::1], uint64[::1], int64, float64, float64, int64, int64, "
    "int64[:,::1], int64[::1], int64[::1], int64[:,::1], float64[:,::1], int64[::1])"
)
def place_full(
    forward: NDArray[np.uint64],
    reverse: NDArray[np.uint64],
    class_forward: NDArray[np.uint64],
    class_reverse: NDArray[np.uint64],
    lengths: NDArray[np.int64],
    name_hash: NDArray[np.uint64],
    read_seeds: NDArray[np.int32],
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
    queue_key: NDArray[np.int64],
    queue_read: NDArray[np.int64],
    queue_pairs: NDArray[np.int64],
    contexts: NDArray[np.float64],
    queued: NDArray[np.int64],
) -> None:
    """Place the pairs tier 1 left, or queue them for the affine kernel (STATUS QUEUED).

    queue_key, queue_read: int64 [n_pairs * QUEUE_PER_PAIR], candidates; queue_pairs: int64 [n_pairs, 4], pair, first
    candidate, how many of mate 1, of mate 2; contexts: float64 [n_pairs, N_CONTEXT]; queued: int64 [2], pairs and
    candidates on the queue (out).
    """
    shape = (2, MOST_CANDIDATES)
    c = Candidates(
        np.empty(shape, np.int64),
        np.empty(shape, np.int64),
        np.empty(shape, np.int64),
        np.zeros(2, np.int64),
        np.zeros((2, 1 << _HASH_BITS), np.int64),
        np.zeros((2, 1 << _HASH_BITS), np.int64),
    )
    seed_shape = (2, _MAX_SEEDS)
    s = Seeds(
        np.zeros(seed_shape, np.int64),
        np.zeros(seed_shape, np.int64),
        np.zeros(seed_shape, np.int64),
        np.zeros(seed_shape, np.int64),
        np.zeros(seed_shape, np.int64),
        np.zeros(seed_shape, np.int64),
        np.zeros(2, np.int64),
        np.zeros(2, np.int64),
    )
    key, penalty = np.empty(shape, np.int64), np.empty(shape, np.int64)
    pairs, scores = np.empty((_MOST_PAIRS, 2), np.int64), np.empty(_MOST_PAIRS, np.float64)
    hashes = np.empty(_MAX_SEEDS, np.uint64)
    best_to = np.empty(_MAX_SEEDS, np.int64)
    here, there = np.empty(32, np.uint64), np.empty(32, np.uint64)
    best, verified, rescued = np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.int64)
    context = np.zeros(N_CONTEXT, np.float64)
    n_queued, n_entries = _ZERO, _ZERO
    for p in range(n_pairs):
        if out[p, STATUS] == FAST:
            continue
        stamp = p + 1
        length1, length2 = lengths[2 * p], lengths[2 * p + 1]
        for mate in range(2):
            r = 2 * p + mate
            c.n[mate] = 0
            _look_up(
                s,
                mate,
                r,
                forward,
                reverse,
                class_forward,
                words,
                lengths[r],
                read_seeds,
                slots,
                n_seeds[r],
                table,
                lists,
                U(tag_shift),
                hashes,
            )
            best[mate], verified[mate], rescued[mate] = _FAR, _ZERO, _ZERO
        for i in range(N_CONTEXT):
            context[i] = 0.0
        second_round = False
        reached = 0.0
        while True:
            for mate in range(2):
                length = lengths[2 * p + mate]
                if second_round:
                    enough = reached + SECOND_ROUND_MARGIN + 10.0
                    _resolve_rarest(c, s, mate, length, lists, enough, stamp)
                else:
                    for x in range(s.n[mate]):
                        if s.count[mate, x] <= FIRST_LIST:
                            s.state[mate, x] = RESOLVED
                            _add_list(c, s, mate, x, length, lists, stamp)
                _bound(s, mate, best_to)
            if not second_round:
                found1, found2 = c.n[0], c.n[1]
                if found1 == 0 and found2 == 0:
                    _intersect(c, s, length1, length2, lists, low, high, stamp)
                else:
                    if 0 < found2 <= MOST_WINDOWS:
                        _search_windows(c, s, _ZERO, found2, length1, length2, lists, high, stamp)
                    if 0 < found1 <= MOST_WINDOWS:
                        _search_windows(c, s, _ONE, found1, length2, length1, lists, high, stamp)
            for mate in range(2):
                r = 2 * p + mate
                best[mate] = _verify(
                    c,
                    mate,
                    verified[mate],
                    best[mate],
                    reference,
                    forward,
                    reverse,
                    class_forward,
                    class_reverse,
                    r * words,
                    lengths[r],
                    here,
                    there,
                )
                verified[mate] = c.n[mate]
            for mate in range(2):
                if c.n[mate] == 0:
                    continue
                before = c.n[mate]
                lowest = _rescue(
                    c,
                    mate,
                    rescued[mate],
                    best[mate],
                    best[1 - mate],
                    lengths[2 * p + mate],
                    lengths[2 * p + 1 - mate],
                    reference,
                    forward,
                    reverse,
                    class_forward,
                    class_reverse,
                    (2 * p + 1 - mate) * words,
                    low,
                    high,
                    here,
                    there,
                    stamp,
                )
                if lowest < 0:
                    context[SKIPPED1 + mate] = 1.0
                else:
                    best[1 - mate] = lowest
                    verified[1 - mate] = c.n[1 - mate]
                rescued[mate] = before
            n1, n2 = _ZERO, _ZERO
            for mate in range(2):
                kept = _ZERO
                for z in range(c.n[mate]):
                    if c.penalty[mate, z] <= best[mate] + PRUNE:
                        key[mate, kept], penalty[mate, kept] = c.key[mate, z], c.penalty[mate, z]
                        kept += 1
                _sort_by_key(key, penalty, mate, kept)
                if mate == 0:
                    n1 = kept
                else:
                    n2 = kept
            context[N_MASKED], context[N_SEEDS] = 0.0, float(s.n[0] + s.n[1])
            if s.n[0] == 0 or s.n[1] == 0:
                context[N_SEEDS] = 0.0
            for mate in range(2):
                rarest = 0
                for x in range(s.n[mate]):
                    if s.state[mate, x] == MASKED:
                        context[N_MASKED] += 1.0
                        if rarest == 0 or s.count[mate, x] < rarest:
                            rarest = s.count[mate, x]
                context[RAREST1 + mate] = float(rarest)
                context[BOUND1 + mate] = float(s.bound[mate])
            reached = _choose(
                p,
                key,
                penalty,
                n1,
                n2,
                length1,
                length2,
                name_hash[p],
                mean,
                sd,
                low,
                high,
                context,
                pairs,
                scores,
                out,
            )
            if second_round or (context[RAREST1] == 0.0 and context[RAREST2] == 0.0):
                break
            bound = context[BOUND1] + context[BOUND2]
            if context[SKIPPED1] > 0.0:
                bound = min(bound, best[0] + context[BOUND2])
            if context[SKIPPED2] > 0.0:
                bound = min(bound, best[1] + context[BOUND1])
            crowd = max(1.0, min(max(context[RAREST1], 1.0), max(context[RAREST2], 1.0)))
            if bound - 10.0 * math.log10(crowd) >= reached + SECOND_ROUND_MARGIN:
                break
            second_round = True
        poor = out[p, STATUS] != UNPLACED and reached > POOR_PENALTY
        if out[p, STATUS] == DISCORDANT:
            poor = best[0] > POOR_PENALTY or best[1] > POOR_PENALTY
        if poor:
            first = n_entries
            k1 = _enqueue(c, _ZERO, 2 * p, first, key, penalty, queue_key, queue_read)
            k2 = _enqueue(c, _ONE, 2 * p + 1, first + k1, key, penalty, queue_key, queue_read)
            n_entries += k1 + k2
            queue_pairs[n_queued, 0], queue_pairs[n_queued, 1] = p, first
            queue_pairs[n_queued, 2], queue_pairs[n_queued, 3] = k1, k2
            for i in range(N_CONTEXT):
                contexts[n_queued, i] = context[i]
            n_queued += 1
            out[p, STATUS] = QUEUED
    queued[0], queued[1] = n_queued, n_entries


@kernel(
    "void(int64[:,::1], int64[::1], int64[::1], float64[:,::1], int64, int64[::1], uint64[::1], "
    "float64, float64, int64, int64, int64[:,::1])"
)
def place_rescored(
    queue_pairs: NDArray[np.int64],
    queue_key: NDArray[np.int64],
    queue_penalty: NDArray[np.int64],
    contexts: NDArray[np.float64],
    n_queued: int,
    lengths: NDArray[np.int64],
    name_hash: NDArray[np.uint64],
    mean: float,
    sd: float,
    low: int,
    high: int,
    out: NDArray[np.int64],
) -> None:
    """Place the queued pairs by the penalties that the affine kernel gave their candidates (NO_RIVAL: hopeless)."""
    key = np.empty((2, QUEUE_PER_PAIR), np.int64)
    penalty = np.empty((2, QUEUE_PER_PAIR), np.int64)
    n = np.zeros(2, np.int64)
    pairs, scores = np.empty((_MOST_PAIRS, 2), np.int64), np.empty(_MOST_PAIRS, np.float64)
    for q in range(n_queued):
        p, x = queue_pairs[q, 0], queue_pairs[q, 1]
        for mate in range(2):
            n[mate] = 0
            for _ in range(queue_pairs[q, 2 + mate]):
                if queue_penalty[x] < NO_RIVAL:
                    key[mate, n[mate]], penalty[mate, n[mate]] = queue_key[x], queue_penalty[x]
                    n[mate] += 1
                x += 1
            _sort_by_key(key, penalty, mate, n[mate])
        _choose(
            p,
            key,
            penalty,
            n[0],
            n[1],
            lengths[2 * p],
            lengths[2 * p + 1],
            name_hash[p],
            mean,
            sd,
            low,
            high,
            contexts[q],
            pairs,
            scores,
            out,
        )
