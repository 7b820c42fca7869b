# SPDX-License-Identifier: Apache-2.0
"""Callees of the placement kernels: the penalty of putting a read at a place.

In: packed reads, packed reference. Out: penalties. Next: `align/fast.py`, `align/full.py`.

A *penalty* is -10 log10 of a likelihood, in dB, summed over the mismatches of a read by the class of their base
quality. A *place* is a diagonal: the position of the read's leftmost base in the packed reference, if the read
had no gap, and a strand.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from megabolt.align.table import SEED_MASK
from megabolt.compute.bits import EVEN_BITS, U, bases_at, popcount
from megabolt.compute.jit import callee, inline

#: dB of a mismatch under a base quality >= 30, 20-29, 10-19, below 10 or N. The rates behind them, variants
#: masked, were measured on NovaSeq reads: 1.1e-4, 1.1e-2, 6.6e-2; 1e-3 variants bound the first.
MISMATCH_30, MISMATCH_20, MISMATCH_10, MISMATCH_0 = 34, 25, 17, 7

#: dB of opening a gap and of each of its bases.
GAP_OPEN, GAP_EXTEND = 41, 3

_DB = -0.1 * math.log(10.0)
#: More than a read can have, mismatches or dB. A loop that might end there is left as it stands: the compiler would
#: make vectors of its five or so words, at twice the cost.
_NEVER = 1 << 19


@inline
def likelihood_of(penalty: Any) -> Any:
    """10^(-penalty / 10), in a third of the time that `**` takes."""
    return math.exp(_DB * penalty)


@callee
def mismatches_at(reference: Any, place: Any, words: Any, offset: Any, length: Any, out: Any) -> Any:
    """Mark the mismatches of a read at a place: the low bit of each 2-bit group of out[0 : ceil(length / 32)].

    Returns their number.
    """
    n_words = (length + 31) >> 5
    j = place >> 5
    shift = U((place & 31) * 2)
    total = 0
    low = reference[U(j)]
    for w in range(n_words):
        high = reference[U(j + w + 1)]
        x = ((low >> shift) | ((high << U(1)) << (U(63) - shift))) ^ words[U(offset + w)]
        x = (x | (x >> U(1))) & EVEN_BITS
        if w == n_words - 1 and (length & 31) != 0:
            x &= (U(1) << U((length & 31) * 2)) - U(1)
        out[w] = x
        total += popcount(x)
        if total > _NEVER:
            break
        low = high
    return total


@inline
def weigh(x: Any, classes: Any) -> Any:
    """dB of the mismatches marked in one word, by their quality classes."""
    low = classes & EVEN_BITS
    high = (classes >> U(1)) & EVEN_BITS
    return (
        popcount(x & ~low & ~high) * MISMATCH_30
        + popcount(x & low & ~high) * MISMATCH_20
        + popcount(x & high & ~low) * MISMATCH_10
        + popcount(x & low & high) * MISMATCH_0
    )


@callee
def penalty_of(marks: Any, classes: Any, offset: Any, length: Any) -> Any:
    """dB of the mismatches marked by `mismatches_at`."""
    total = 0
    for w in range((length + 31) >> 5):
        x = marks[w]
        if x != U(0):
            total += weigh(x, classes[U(offset + w)])
    return total


@callee
def penalty_at(reference: Any, place: Any, words: Any, classes: Any, offset: Any, length: Any) -> Any:
    """dB of a read at a place without a gap."""
    n_words = (length + 31) >> 5
    j = place >> 5
    shift = U((place & 31) * 2)
    total = 0
    low = reference[U(j)]
    for w in range(n_words):
        high = reference[U(j + w + 1)]
        x = ((low >> shift) | ((high << U(1)) << (U(63) - shift))) ^ words[U(offset + w)]
        x = (x | (x >> U(1))) & EVEN_BITS
        if w == n_words - 1 and (length & 31) != 0:
            x &= (U(1) << U((length & 31) * 2)) - U(1)
        if x != U(0):
            total += weigh(x, classes[U(offset + w)])
            if total > _NEVER:
                break
        low = high
    return total


@callee
def penalty_of_key(tables: Any, reads: Any, r: Any, key: Any) -> Any:
    """dB of read r at place key >> 1 on strand key & 1."""
    offset, length = r * reads.words, reads.length[r]
    if key & 1:
        return penalty_at(tables.reference, key >> 1, reads.reverse, reads.class_reverse, offset, length)
    return penalty_at(tables.reference, key >> 1, reads.forward, reads.class_forward, offset, length)


@inline
def weight_of_bit(classes: Any, offset: Any, w: Any, bit: Any) -> Any:
    """dB of one mismatch, given as an isolated bit of word w."""
    c = classes[U(offset + w)]
    low = (c & bit) != U(0)
    high = ((c >> U(1)) & bit) != U(0)
    if high:
        return MISMATCH_0 if low else MISMATCH_10
    return MISMATCH_20 if low else MISMATCH_30


@callee
def lightest_in_seed(reads: Any, r: Any, position: Any) -> Any:
    """dB of a mismatch at the worst base of a seed: what any place without this seed must cost at least."""
    window = bases_at(reads.class_forward, r * reads.words * 32 + position) & SEED_MASK
    low = window & EVEN_BITS
    high = (window >> U(1)) & EVEN_BITS
    if (low & high) != U(0):
        return MISMATCH_0
    if high != U(0):
        return MISMATCH_10
    if low != U(0):
        return MISMATCH_20
    return MISMATCH_30


@inline
def differences16(reference: Any, place: Any, sixteen: Any) -> Any:
    """How many of 16 bases differ from the reference at a place."""
    x = bases_at(reference, place) ^ sixteen
    return popcount((x | (x >> U(1))) & U(0x55555555))


@callee
def penalty_with_gap(
    reference: Any,
    place: Any,
    words: Any,
    classes: Any,
    offset: Any,
    length: Any,
    ungapped: Any,
    longest: Any,
    here: Any,
    there: Any,
) -> Any:
    """The best penalty of a read with at most one gap of up to `longest` bases.

    One part of the read lies on the diagonal `place`, the other `gap` bases away; the break is put where the
    mismatches of the two diagonals trade best, which is found in one walk over the marked bits. A diagonal is
    tried only if the first or the last 16 bases fit it with at most one mismatch, and the opposite ones fit `place`
    with at most two (without such a test diverged reads cost four times as much). `here` and `there` are scratch
    (uint64 [words of a read]).
    """
    best: Any = np.int64(ungapped)
    n_words = (length + 31) >> 5
    mismatches_at(reference, place, words, offset, length, here)
    cost_here = penalty_of(here, classes, offset, length)
    first16 = bases_at(words, offset * 32) & U(0xFFFFFFFF)
    last16 = bases_at(words, offset * 32 + length - 16) & U(0xFFFFFFFF)
    # One part lies here and the other there: each must fit at its own end of the read.
    first_fits = differences16(reference, place, first16) <= 2
    last_fits = differences16(reference, place + length - 16, last16) <= 2
    if not (first_fits or last_fits):
        return best
    for gap in range(-longest, longest + 1):
        gap_cost = GAP_OPEN + GAP_EXTEND * abs(gap)
        if gap == 0 or gap_cost >= best:
            continue
        if not (
            (last_fits and differences16(reference, place + gap, first16) <= 1)
            or (first_fits and differences16(reference, place + gap + length - 16, last16) <= 1)
        ):
            continue
        mismatches_at(reference, place + gap, words, offset, length, there)
        cost_there = penalty_of(there, classes, offset, length)
        for swapped in range(2):
            left = 0
            right = cost_here if swapped else cost_there
            lowest = right
            for w in range(n_words):
                marks_left = there[w] if swapped else here[w]
                marks_right = here[w] if swapped else there[w]
                marks = marks_left | marks_right
                while marks != U(0):
                    bit = marks & (U(0) - marks)
                    marks ^= bit
                    weight = weight_of_bit(classes, offset, w, bit)
                    if (marks_right & bit) != U(0):
                        right -= weight
                    if (marks_left & bit) != U(0):
                        left += weight
                    lowest = min(lowest, left + right)
                if left >= best:
                    break
            best = min(best, lowest + gap_cost)
    return best


@callee
def insert_length(key1: Any, key2: Any, length1: Any, length2: Any) -> Any:
    """Fragment length of two ends that face each other, -1 if they do not."""
    if ((key1 ^ key2) & 1) == 0:
        return -1
    if key1 & 1:
        return (key1 >> 1) + length1 - (key2 >> 1)
    return (key2 >> 1) + length2 - (key1 >> 1)


@inline
def insert_penalty(length: Any, insert: Any) -> Any:
    """dB of a fragment length inside [low, high]. Flat beyond 3.6 sd: libraries have long tails."""
    z = (length - insert.mean) / insert.sd
    return min(2.1714724 * z * z, 28.0)  # 10 / ln(10) / 2


@inline
def code_of_ascii(letter: Any) -> Any:
    """2-bit code of an upper or lower case A, C, G or T; other letters give an arbitrary one."""
    return ((letter >> np.uint8(1)) ^ (letter >> np.uint8(2))) & np.uint8(3)
