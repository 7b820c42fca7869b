# SPDX-License-Identifier: Apache-2.0
"""Callees of tier 2: the choice among a pair's candidates, and how sure it is.

In: `Found` places. Out: a row of placements. Next: `align/extend.py`.

MAPQ is the posterior over the pairs of places, with three caps whose error probabilities add: unseen places, a
high penalty, and a mate placed alone or apart. Constants are those fitted in the mapping study; dB throughout.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.align.candidates import FAR, MASKED, ONE, ZERO
from megabolt.align.table import SEED, mix
from megabolt.align.verify import insert_length, insert_penalty, likelihood_of
from megabolt.compute.bits import U
from megabolt.compute.jit import callee, inline

#: Columns of a placement: for each mate the place (or -1), the strand, MAPQ, penalty and the penalty of the best
#: rival place (NO_RIVAL if none is known); then how the pair was placed.
PLACE, STRAND, MAPQ, PENALTY, RIVAL = range(5)
MATE_COLUMNS = 5
STATUS, N_COLUMNS = 10, 11
NO_RIVAL = FAR
#: SINGLE: the read has no mate; LONE: its mate has no place.
UNPLACED, FAST, CONCORDANT, DISCORDANT, LONE, SINGLE, QUEUED = range(7)

#: Two places closer than this are one place, shifted by a gap.
SAME_PLACE = 20
#: dB of a pair that is not a proper one.
DISCORDANT_PENALTY = 115.0
#: dB of a clipped end, and of each base in it: what a random base is less likely than the one expected.
CLIP_OPEN, CLIP_EXTEND = 30, 6
#: A rival that is worse by more weighs nothing (dB).
NEGLIGIBLE = 120.0
#: MAPQ that a rival leaves to a pair and to a read alone if it is worse by CONVERTED_FROM dB, the price of one
#: mismatch, or less; and how it rises with the rival's distance: see `converted_cap`. CONVERTED_GAP: to a pair of which
#: one place has a gap.
CONVERTED_PAIR, CONVERTED_GAP, CONVERTED_ALONE, CONVERTED_FROM, CONVERTED_RISE = 20.3, 19.3, 16.0, 34.0, 1.0 / 7.5
#: Pairs of places kept for the posterior.
MOST_PAIRS = 8192

#: What the caps need to know of a pair's search: per mate the bound on unseen places, whether the search around its
#: anchors was skipped, and the shortest list that was not read; over both the masked and all seeds, and whether there
#: are two.
(BOUND1, BOUND2, SKIPPED1, SKIPPED2, RAREST1, RAREST2, N_MASKED, N_SEEDS, PAIRED, N_CONTEXT) = range(10)


class Found(NamedTuple):
    """Places worth pairing, sorted by key; first axis: mate."""

    key: Any  # int64 [2, n], place << 1 | strand
    penalty: Any  # int64, dB
    span: Any  # int64, the part of the read that lies there, and whether it has a gap: see `span_of`, `mark_gap`


@callee
def lot(name_hash: Any, key1: Any, key2: Any) -> Any:
    """The lot by which exact ties are drawn: it hangs on the read's name, so threads and order do not matter."""
    return mix(name_hash ^ U(key1) ^ (U(key2) << U(1)))


@inline
def converted_cap(s: Any, level: Any) -> Any:
    """MAPQ that a rival leaves which is s dB worse than the place chosen. `level`: of CONVERTED_*.

    Copies of a sequence exchange stretches (gene conversion): the sample may carry the other copy's bases, whatever
    their number, which the differences alone do not say. Measured on the haplotypes of HG002: of reads whose rival is
    worse by one, two, three mismatches 2 %, 0.6 %, 0.1 % belong to the rival. Where either place has a gap it is
    more: the price of a gap says less about the sample than that of a mismatch.
    """
    return level + CONVERTED_RISE * max(0.0, s - CONVERTED_FROM)


@callee
def phred_of(rivals: Any) -> Any:
    """-10 log10 of the posterior that the chosen place (weight 1) is wrong, given the weight of its rivals."""
    return -10.0 * math.log10(max(rivals / (1.0 + rivals), 1e-10))


@callee
def _added(quality1: Any, quality2: Any) -> Any:
    """Phred of the sum of two error probabilities."""
    return -10.0 * math.log10(min(1.0, likelihood_of(quality1) + likelihood_of(quality2)))


@callee
def sort_by_key(found: Any, mate: Any, n: Any) -> None:
    """Shell sort: lists come as a few sorted runs, and it compiles in a tenth of the time of a library sort."""
    key, penalty, span = found.key, found.penalty, found.span
    step = ONE
    while step < n // 3:
        step = 3 * step + 1
    while step >= 1:
        for i in range(step, n):
            k, p, x = key[mate, i], penalty[mate, i], span[mate, i]
            j = i - step
            while j >= 0 and key[mate, j] > k:
                key[mate, j + step], penalty[mate, j + step] = key[mate, j], penalty[mate, j]
                span[mate, j + step] = span[mate, j]
                j -= step
            key[mate, j + step], penalty[mate, j + step], span[mate, j + step] = k, p, x
        step //= 3


@inline
def span_of(start: Any, stop: Any) -> Any:
    """The bases [start, stop) of a read that an alignment covers, in the direction of sequencing, in one number."""
    return (start << 16) | stop


@inline
def mark_gap(span: Any, gapped: Any) -> Any:
    """A span with the note whether (1 or 0) its alignment has a gap."""
    return span | (gapped << 32)


@inline
def first_of(span: Any) -> Any:
    """First base of a span."""
    return (span >> 16) & 0xFFFF


@inline
def stop_of(span: Any) -> Any:
    """The base behind a span."""
    return span & 0xFFFF


def ends_of(spans: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First bases of spans and the bases behind them, without a kernel: `first_of` would be compiled in every run."""
    return (spans >> 16) & 0xFFFF, spans & 0xFFFF


@inline
def is_gapped(span: Any) -> Any:
    """Whether the alignment of a span is noted to have a gap."""
    return (span >> 32) != 0


@callee
def bases_of(span: Any) -> Any:
    """Number of bases in a span."""
    return stop_of(span) - first_of(span)


@callee
def _is_rival(found: Any, mate: Any, i: Any, x: Any) -> Any:
    """Whether place i of a mate competes with place x: it lies elsewhere and covers the same part of the read.

    The two halves of a split read cover different bases: they do not compete.
    """
    if abs((found.key[mate, i] >> 1) - (found.key[mate, x] >> 1)) <= SAME_PLACE:
        return False
    one, two = found.span[mate, i], found.span[mate, x]
    shared = min(stop_of(one), stop_of(two)) - max(first_of(one), first_of(two))
    return 2 * shared >= min(bases_of(one), bases_of(two))


@callee
def _lowest(found: Any, mate: Any, n: Any) -> Any:
    lowest = np.int64(FAR)
    for i in range(n):
        lowest = min(lowest, found.penalty[mate, i])
    return lowest


@callee
def _rivals(found: Any, mate: Any, n: Any, x: Any, best: Any) -> Any:
    """Sum of the likelihoods of the distinct places that compete with place x, relative to a penalty `best`."""
    total = 0.0
    last, lowest = np.int64(-(1 << 40)), np.int64(FAR)
    for i in range(n):
        if not _is_rival(found, mate, i, x):
            continue
        place = found.key[mate, i] >> 1
        if place - last > SAME_PLACE:
            if lowest < FAR:
                total += likelihood_of(lowest - best)
            lowest = found.penalty[mate, i]
        else:
            lowest = min(lowest, found.penalty[mate, i])
        last = place
    if lowest < FAR:
        total += likelihood_of(lowest - best)
    return total


@callee
def _best_single(found: Any, mate: Any, n: Any, name_hash: Any) -> Any:
    """Index of the cheapest place of a mate, -1 if it has none."""
    key, penalty = found.key, found.penalty
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
def note_context(s: Any, single: Any, context: Any) -> None:
    """Enter what the seeds say about unseen places into a context. `single`: one of the mates does not exist."""
    context[PAIRED] = 0.0 if single else 1.0
    context[N_MASKED] = 0.0
    context[N_SEEDS] = float(s.n[0] + s.n[1]) if single or (s.n[0] > 0 and s.n[1] > 0) else 0.0
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
def unseen_bound(context: Any, lowest1: Any, lowest2: Any) -> Any:
    """The least penalty, in dB, of any pair of places of which one was not looked at."""
    bound = context[BOUND1] + context[BOUND2]
    if context[SKIPPED1] > 0.0:
        bound = min(bound, lowest1 + context[BOUND2])
    if context[SKIPPED2] > 0.0:
        bound = min(bound, lowest2 + context[BOUND1])
    return bound


@callee
def unseen_margin(context: Any, lowest1: Any, lowest2: Any, reached: Any) -> Any:
    """How many dB any place not looked at must be worse than the pair chosen, given their expected number."""
    crowd = max(1.0, min(max(context[RAREST1], 1.0), max(context[RAREST2], 1.0)))
    return unseen_bound(context, lowest1, lowest2) - reached - 10.0 * math.log10(crowd)


@callee
def _unseen_cap(context: Any, lowest1: Any, lowest2: Any, reached: Any) -> Any:
    """MAPQ that unseen places leave. The strict reading of the bound is too pessimistic: half of it, plus 16, fits."""
    if context[RAREST1] == 0.0 and context[RAREST2] == 0.0 and context[N_SEEDS] > 0.0:
        if context[PAIRED] > 0.0:
            return 99.0
        # Every list was read, but the seeds of a read alone may all have missed its place: the dearer the one found.
        return max(0.0, 60.0 + 0.25 * min(0.0, unseen_margin(context, lowest1, lowest2, reached)))
    cap = 16.0 + 0.5 * unseen_margin(context, lowest1, lowest2, reached)
    if context[PAIRED] > 0.0 and 2.0 * context[N_MASKED] < context[N_SEEDS]:
        cap = max(cap, 40.0)
    return max(cap, 0.0)


@callee
def _write_mate(p: Any, mate: Any, x: Any, quality: Any, found: Any, n: Any, length: Any, out: Any) -> None:
    """Enter the chosen place x of a mate (-1: none) with its MAPQ and its best rival."""
    column = mate * MATE_COLUMNS
    if x < 0:
        out[p, column + PLACE] = -1
        out[p, column + MAPQ] = 0
        out[p, column + PENALTY] = NO_RIVAL
        out[p, column + RIVAL] = NO_RIVAL
        return
    own = found.penalty[mate, x]
    # What is clipped belongs elsewhere, and says nothing against this place but that fewer bases speak for it.
    aligned = bases_of(found.span[mate, x])
    differs = own - CLIP_EXTEND * (length - aligned)
    # A read that differs in one base of seventeen may belong to no place: fitted on reads with 5 % substitutions.
    beyond = differs - max(300, 2 * length)
    if beyond > 0:
        quality = _added(quality, max(0.0, 40.0 - beyond / 12.0))
    if aligned < 2 * SEED and aligned < length:
        quality = min(quality, 1.5 * max(0, aligned - 20))
    status = out[p, STATUS]
    if status in (DISCORDANT, LONE) and differs > 100:
        quality = min(quality, 15.0)
    rival = np.int64(NO_RIVAL)
    for i in range(n):
        if _is_rival(found, mate, i, x):
            rival = min(rival, found.penalty[mate, i])
    if status != CONCORDANT:
        quality = min(quality, converted_cap(float(rival - own), CONVERTED_ALONE))
    out[p, column + PLACE] = found.key[mate, x] >> 1
    out[p, column + STRAND] = found.key[mate, x] & 1
    out[p, column + MAPQ] = np.int64(min(quality, 99.0))
    out[p, column + PENALTY] = own
    out[p, column + RIVAL] = rival


@callee
def choose(
    p: Any, found: Any, n1: Any, n2: Any, reads: Any, insert: Any, context: Any, pairs: Any, scores: Any, out: Any
) -> Any:
    """Choose a pair of places for pair p among the n1 and n2 found; fill row p of `out`. Returns its penalty."""
    key, penalty = found.key, found.penalty
    length1, length2 = reads.length[2 * p], reads.length[2 * p + 1]
    name_hash = reads.name_hash[p]
    lowest1, lowest2 = _lowest(found, ZERO, n1), _lowest(found, ONE, n2)
    single = length1 == 0 or length2 == 0
    apart = 1e6
    if n1 > 0 and n2 > 0:
        apart = lowest1 + lowest2 + DISCORDANT_PENALTY
    elif n1 + n2 > 0:  # a mate without any place pays what an unseen place would cost it
        apart = lowest1 + context[BOUND2] if n1 > 0 else lowest2 + context[BOUND1]
    best, best_lot, bi, bj, n_pairs, j0 = 1e6, U(0), -1, -1, 0, 0
    for i in range(n1):
        k1 = key[0, i]
        # In satellites most of a thousand places are hopeless, and each has ten of the other mate beside it.
        if penalty[0, i] + lowest2 > min(best, apart) + NEGLIGIBLE:
            continue
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
            if s > min(best, apart) + NEGLIGIBLE:
                continue
            luck = lot(name_hash, k1, k2)
            if s < best or (s == best and luck > best_lot):
                best, best_lot, bi, bj = s, luck, i, j
            if n_pairs < MOST_PAIRS:
                pairs[n_pairs, 0], pairs[n_pairs, 1] = i, j
                scores[n_pairs] = s
                n_pairs += 1
    mass1, mass2, nearest1, nearest2 = 0.0, 0.0, float(NO_RIVAL), float(NO_RIVAL)
    level1, level2 = CONVERTED_PAIR, CONVERTED_PAIR
    if bi >= 0 and best <= apart + 0.01:
        out[p, STATUS] = CONCORDANT
        own_gap = is_gapped(found.span[0, bi]) or is_gapped(found.span[1, bj])
        for x in range(n_pairs):
            s = scores[x] - best
            likelihood = likelihood_of(s) if s < NEGLIGIBLE else 0.0
            gap = own_gap or is_gapped(found.span[0, pairs[x, 0]]) or is_gapped(found.span[1, pairs[x, 1]])
            if (s < NEGLIGIBLE or s < nearest1) and _is_rival(found, ZERO, pairs[x, 0], bi):
                mass1 += likelihood
                if s < nearest1:
                    nearest1, level1 = s, CONVERTED_GAP if gap else CONVERTED_PAIR
            if (s < NEGLIGIBLE or s < nearest2) and _is_rival(found, ONE, pairs[x, 1], bj):
                mass2 += likelihood
                if s < nearest2:
                    nearest2, level2 = s, CONVERTED_GAP if gap else CONVERTED_PAIR
        # Either end may lie elsewhere, in a pair that is not proper.
        weight = likelihood_of(apart - best)
        rivals1, rivals2 = _rivals(found, ZERO, n1, bi, lowest1), _rivals(found, ONE, n2, bj, lowest2)
        own1 = likelihood_of(penalty[0, bi] - lowest1)
        own2 = likelihood_of(penalty[1, bj] - lowest2)
        mass1 += weight * rivals1 * (rivals2 + own2)
        mass2 += weight * rivals2 * (rivals1 + own1)
    else:
        out[p, STATUS] = DISCORDANT if n1 > 0 and n2 > 0 else UNPLACED
        if n1 + n2 > 0 and out[p, STATUS] == UNPLACED:
            out[p, STATUS] = SINGLE if single else LONE
        bi = _best_single(found, ZERO, n1, name_hash)
        bj = _best_single(found, ONE, n2, name_hash)
        paired = likelihood_of(best - apart) if n_pairs > 0 else 0.0
        if bi >= 0:
            mass1 = _rivals(found, ZERO, n1, bi, lowest1) + paired
        if bj >= 0:
            mass2 = _rivals(found, ONE, n2, bj, lowest2) + paired
    reached = min(best, apart)
    cap = _unseen_cap(context, lowest1, lowest2, reached)
    quality1 = min(_added(phred_of(mass1), cap), converted_cap(nearest1, level1))
    quality2 = min(_added(phred_of(mass2), cap), converted_cap(nearest2, level2))
    _write_mate(p, ZERO, bi, quality1, found, n1, length1, out)
    _write_mate(p, ONE, bj, quality2, found, n2, length2, out)
    return reached
