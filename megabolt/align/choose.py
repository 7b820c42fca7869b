# SPDX-License-Identifier: Apache-2.0
"""Callees of tier 2: the choice among a pair's candidates, and how sure it is.

In: candidates sorted by key. Out: a row of placements. Next: `align/extend.py`.

MAPQ is the posterior over the pairs of places, with three caps whose error probabilities add: unseen places, a
high penalty, and a mate placed alone or apart. Constants are those fitted in the mapping study; dB throughout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from megabolt.align.candidates import FAR, MASKED, ONE, ZERO
from megabolt.align.verify import insert_length, insert_penalty, mix
from megabolt.compute.bits import U
from megabolt.compute.jit import callee

#: Columns of a placement: for each mate the place (or -1), the strand, MAPQ, penalty and the penalty of the best
#: rival place (NO_RIVAL if none is known); then how the pair was placed.
PLACE, STRAND, MAPQ, PENALTY, RIVAL = range(5)
MATE_COLUMNS = 5
STATUS, N_COLUMNS = 10, 11
NO_RIVAL = FAR
UNPLACED, FAST, CONCORDANT, DISCORDANT, LONE, QUEUED = range(6)

#: Two places closer than this are one place, shifted by a gap.
SAME_PLACE = 20
#: dB of a pair that is not a proper one.
DISCORDANT_PENALTY = 95.0
#: Pairs of places kept for the posterior.
MOST_PAIRS = 8192

#: What the caps need to know of a pair's search: per mate the bound on unseen places, whether the search around its
#: anchors was skipped, and the shortest list that was not read; over both the masked and all seeds.
(BOUND1, BOUND2, SKIPPED1, SKIPPED2, RAREST1, RAREST2, N_MASKED, N_SEEDS, N_CONTEXT) = range(9)


@callee
def lot(name_hash: Any, key1: Any, key2: Any) -> Any:
    """The lot by which exact ties are drawn: it hangs on the read's name, so threads and order do not matter."""
    return mix(name_hash ^ U(key1) ^ (U(key2) << U(1)))


@callee
def phred_of(rivals: Any) -> Any:
    """-10 log10 of the posterior that the chosen place (weight 1) is wrong, given the weight of its rivals."""
    return -10.0 * math.log10(max(rivals / (1.0 + rivals), 1e-10))


@callee
def _added(quality1: Any, quality2: Any) -> Any:
    """Phred of the sum of two error probabilities."""
    return -10.0 * math.log10(min(1.0, 10.0 ** (-0.1 * quality1) + 10.0 ** (-0.1 * quality2)))


@callee
def sort_by_key(key: Any, penalty: Any, mate: Any, n: Any) -> None:
    """Shell sort: lists come as a few sorted runs, and it compiles in a tenth of the time of a library sort."""
    step = ONE
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
def _lowest(penalty: Any, mate: Any, n: Any) -> Any:
    lowest = np.int64(FAR)
    for i in range(n):
        lowest = min(lowest, penalty[mate, i])
    return lowest


@callee
def _total(key: Any, penalty: Any, mate: Any, n: Any, best: Any) -> Any:
    """Sum of the likelihoods of a mate's distinct places, relative to its best."""
    total = 0.0
    last, lowest = np.int64(-(1 << 40)), np.int64(FAR)
    for i in range(n):
        place = key[mate, i] >> 1
        if place - last > SAME_PLACE:
            if lowest < FAR:
                total += 10.0 ** (-0.1 * (lowest - best))
            lowest = penalty[mate, i]
        else:
            lowest = min(lowest, penalty[mate, i])
        last = place
    if lowest < FAR:
        total += 10.0 ** (-0.1 * (lowest - best))
    return total


@callee
def _best_single(key: Any, penalty: Any, mate: Any, n: Any, name_hash: Any) -> Any:
    """Index of the cheapest place of a mate, -1 if it has none."""
    best, best_lot = -1, U(0)
    for i in range(n):
        luck = lot(name_hash, key[mate, i], ZERO)
        if (
            best < 0
            or penalty[mate, i] < penalty[mate, best]
            or (penalty[mate, i] == penalty[mate, best] and luck > best_lot)
        ):
            best, best_lot = i, luck
    return best


@callee
def note_context(s: Any, context: Any) -> None:
    """Enter what the seeds say about unseen places into a context."""
    context[N_MASKED] = 0.0
    context[N_SEEDS] = float(s.n[0] + s.n[1]) if s.n[0] > 0 and s.n[1] > 0 else 0.0
    for mate in range(2):
        rarest = 0
        for x in range(s.n[mate]):
            if s.state[mate, x] == MASKED:
                context[N_MASKED] += 1.0
                if rarest == 0 or s.count[mate, x] < rarest:
                    rarest = s.count[mate, x]
        context[RAREST1 + mate] = float(rarest)
        context[BOUND1 + mate] = float(s.bound[mate])


@callee
def unseen_margin(context: Any, lowest1: Any, lowest2: Any, reached: Any) -> Any:
    """How many dB any place not looked at must be worse than the pair chosen, given their expected number."""
    bound = context[BOUND1] + context[BOUND2]
    if context[SKIPPED1] > 0.0:
        bound = min(bound, lowest1 + context[BOUND2])
    if context[SKIPPED2] > 0.0:
        bound = min(bound, lowest2 + context[BOUND1])
    crowd = max(1.0, min(max(context[RAREST1], 1.0), max(context[RAREST2], 1.0)))
    return bound - reached - 10.0 * math.log10(crowd)


@callee
def _unseen_cap(context: Any, lowest1: Any, lowest2: Any, reached: Any) -> Any:
    """MAPQ that unseen places leave. The strict reading of the bound is too pessimistic: half of it, plus 16, fits."""
    if context[RAREST1] == 0.0 and context[RAREST2] == 0.0 and context[N_SEEDS] > 0.0:
        return 99.0
    cap = 16.0 + 0.5 * unseen_margin(context, lowest1, lowest2, reached)
    if 2.0 * context[N_MASKED] < context[N_SEEDS]:
        cap = max(cap, 40.0)
    return max(cap, 0.0)


@callee
def _write_mate(p: Any, mate: Any, x: Any, quality: Any, key: Any, penalty: Any, n: Any, out: Any) -> None:
    """Enter the chosen place x of a mate (-1: none) with its MAPQ and its best rival."""
    column = mate * MATE_COLUMNS
    if x < 0:
        out[p, column + PLACE] = -1
        out[p, column + MAPQ] = 0
        out[p, column + PENALTY] = NO_RIVAL
        out[p, column + RIVAL] = NO_RIVAL
        return
    own = penalty[mate, x]
    if own > 300:  # a read this far from its place may belong to none: fitted on reads with 5 % substitutions
        quality = _added(quality, max(0.0, 40.0 - (own - 300) / 12.0))
    if out[p, STATUS] != CONCORDANT and own > 100:
        quality = min(quality, 15.0)
    rival = np.int64(NO_RIVAL)
    for i in range(n):
        if abs((key[mate, i] >> 1) - (key[mate, x] >> 1)) > SAME_PLACE:
            rival = min(rival, penalty[mate, i])
    out[p, column + PLACE] = key[mate, x] >> 1
    out[p, column + STRAND] = key[mate, x] & 1
    out[p, column + MAPQ] = np.int64(min(quality, 99.0))
    out[p, column + PENALTY] = own
    out[p, column + RIVAL] = rival


@callee
def choose(
    p: Any, key: Any, penalty: Any, n1: Any, n2: Any, reads: Any, insert: Any, context: Any, pairs: Any, scores: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Choose a pair of places for pair p among n1 and n2 candidates; fill row p of `out`. Returns its penalty."""
    length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
    name_hash = reads.name_hash[p]
    lowest1, lowest2 = _lowest(penalty, ZERO, n1), _lowest(penalty, ONE, n2)
    best, best_lot, bi, bj, n_pairs, j0 = 1e6, U(0), -1, -1, 0, 0
    for i in range(n1):
        k1 = key[0, i]
        while j0 < n2 and (key[1, j0] >> 1) < (k1 >> 1) - insert.high:
            j0 += 1
        for j in range(j0, n2):
            k2 = key[1, j]
            if (k2 >> 1) > (k1 >> 1) + insert.high:
                break
            size = insert_length(k1, k2, length1, length2)
            if size < insert.low or size > insert.high:
                continue
            s = penalty[0, i] + penalty[1, j] + insert_penalty(size, insert)
            luck = lot(name_hash, k1, k2)
            if s < best or (s == best and luck > best_lot):
                best, best_lot, bi, bj = s, luck, i, j
            if n_pairs < MOST_PAIRS:
                pairs[n_pairs, 0], pairs[n_pairs, 1] = i, j
                scores[n_pairs] = s
                n_pairs += 1
    apart = lowest1 + lowest2 + DISCORDANT_PENALTY if n1 > 0 and n2 > 0 else 1e6
    total1 = _total(key, penalty, ZERO, n1, lowest1)
    total2 = _total(key, penalty, ONE, n2, lowest2)
    if bi >= 0 and best <= apart + 0.01:
        out[p, STATUS] = CONCORDANT
        mass1, mass2 = 0.0, 0.0
        for x in range(n_pairs):
            s = scores[x] - best
            if s > 70.0:
                continue
            likelihood = 10.0 ** (-0.1 * s)
            if abs((key[0, pairs[x, 0]] >> 1) - (key[0, bi] >> 1)) > SAME_PLACE:
                mass1 += likelihood
            if abs((key[1, pairs[x, 1]] >> 1) - (key[1, bj] >> 1)) > SAME_PLACE:
                mass2 += likelihood
        # Either end may lie elsewhere, in a pair that is not proper.
        mass_apart = 10.0 ** (-0.1 * (apart - best)) * total1 * total2
        mass1 += mass_apart * max(0.0, 1.0 - 10.0 ** (-0.1 * (penalty[0, bi] - lowest1)) / total1)
        mass2 += mass_apart * max(0.0, 1.0 - 10.0 ** (-0.1 * (penalty[1, bj] - lowest2)) / total2)
    else:
        out[p, STATUS] = DISCORDANT if n1 > 0 and n2 > 0 else (LONE if n1 + n2 > 0 else UNPLACED)
        bi = _best_single(key, penalty, ZERO, n1, name_hash)
        bj = _best_single(key, penalty, ONE, n2, name_hash)
        paired = 10.0 ** (-0.1 * (best - apart)) if n_pairs > 0 else 0.0
        mass1, mass2 = total1 - 1.0 + paired, total2 - 1.0 + paired
    reached = min(best, apart)
    cap = _unseen_cap(context, lowest1, lowest2, reached)
    _write_mate(p, ZERO, bi, _added(phred_of(mass1), cap), key, penalty, n1, out)
    _write_mate(p, ONE, bj, _added(phred_of(mass2), cap), key, penalty, n2, out)
    return reached
