# SPDX-License-Identifier: Apache-2.0
"""Callees that find read ends which are not of the sample: adapter read through, poly-G of an empty cluster.

In: `PackedReads`, or the text of a read. Out: bases to keep or to hide. Next: `align/engine.py` hides them.

A fragment shorter than its reads shows twice: read 1 up to the fragment's end is the reverse complement of read 2
up to the same length, and what follows in both is adapter. Ends of a long fragment can look alike, too, where it
lies in a tandem repeat; what follows then is genome. So the overlap alone is not believed: the two tails must look
like adapter. Library kits put the same bases next to the insert on both sides (the stem of the Y), which also
recognises kits that are not listed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megabolt.compute.bits import EVEN_BITS, U, bases_at, popcount
from megabolt.compute.jit import callee

#: Fragments shorter than this are not looked for: nothing of that length can be placed.
SHORTEST_FRAGMENT = 25
#: Bases of the overlap that must be compared at a quality of at least 10.
_LEAST_COMPARED = 20
#: Mismatches among the first 32 bases of an overlap that are worth a look at the whole (chance: 4e-9).
_MOST_IN_WORD = 8
#: Repeats overlap in several ways. In them the tails must have this many bits, and the best overlap must beat any other
#: by _MARGIN: its tails count against shorter ones, but not against longer ones, in which they overlap themselves.
_SURE_TAIL, _MARGIN = 40, 12
#: Bases of a tail that are compared; with fewer than _ENOUGH_TAIL, both rules of `_tail_evidence` must hold.
_TAIL, _ENOUGH_TAIL = 8, 4
#: So many bases of a tail may hold one error.
_FORGIVEN_FROM = 6
ZERO = np.int64(0)


def _packed(bases: str) -> int:
    return sum("ACGT".index(base) << (2 * i) for i, base in enumerate(bases))


#: The first bases behind the insert: Illumina TruSeq, Nextera transposase, DNBSEQ.
KNOWN_ADAPTERS = ("AGATCGGA", "CTGTCTCT", "AAGTCGGA")
_ADAPTER_A, _ADAPTER_B, _ADAPTER_C = (U(_packed(bases)) for bases in KNOWN_ADAPTERS)

#: A poly-G tail has at least this many bases, at most one other base in eight, and at most five others.
_SHORTEST_POLY_G, _ONE_OTHER_IN, _MOST_OTHERS = 10, 8, 5


@callee
def _first(n: Any) -> Any:
    """The low bit of each of the first n (0..32) bases of a word."""
    if n >= 32:
        return EVEN_BITS
    return ((U(1) << U(2 * n)) - U(1)) & EVEN_BITS


@callee
def _differences(a: Any, b: Any, of: Any) -> Any:
    """Low bits of the bases that differ, among those marked in `of`."""
    x = a ^ b
    return (x | (x >> U(1))) & of


@callee
def _not_poor(classes: Any) -> Any:
    """Low bits of the bases whose quality is 10 or better (no N among them)."""
    return ~(classes & (classes >> U(1))) & EVEN_BITS


@callee
def _is_known(tail: Any, of: Any, allowed: Any) -> Any:
    """Whether the bases marked in `of` are those of a listed adapter but for `allowed` ones."""
    return (
        popcount(_differences(tail, _ADAPTER_A, of)) <= allowed
        or popcount(_differences(tail, _ADAPTER_B, of)) <= allowed
        or popcount(_differences(tail, _ADAPTER_C, of)) <= allowed
    )


@callee
def _tail_evidence(reads: Any, p: Any, fragment: Any) -> Any:
    """Bits for the ends of pair p behind `fragment` bases being adapter, 0 if they are not.

    The tails are alike, or both are a listed adapter, or one of at least six bases is one without an error. Of
    fewer than four bases the first two are asked together: chance alone fulfils one of them too often.
    """
    r1, r2 = 2 * p, 2 * p + 1
    n1, n2 = min(reads.length[r1] - fragment, _TAIL), min(reads.length[r2] - fragment, _TAIL)
    base1, base2 = r1 * reads.words * 32 + fragment, r2 * reads.words * 32 + fragment
    alike = 0
    n = min(n1, n2)
    if n > 0:
        of = _first(n) & _not_poor(bases_at(reads.class_forward, base1))
        of &= _not_poor(bases_at(reads.class_forward, base2))
        compared = popcount(of)
        differ = _differences(bases_at(reads.forward, base1), bases_at(reads.forward, base2), of)
        if compared >= min(n, _ENOUGH_TAIL) and popcount(differ) <= compared // _FORGIVEN_FROM:
            alike = compared
    known = 0
    n_known = 0
    exact = 0
    for mate in range(2):
        n = n2 if mate else n1
        base = base2 if mate else base1
        if n > 0:
            of = _first(n) & _not_poor(bases_at(reads.class_forward, base))
            tail = bases_at(reads.forward, base)
            compared = popcount(of)
            if compared >= min(n, _ENOUGH_TAIL) and _is_known(tail, of, compared // _FORGIVEN_FROM):
                known += compared
                n_known += 1
                if compared >= _FORGIVEN_FROM and _is_known(tail, of, ZERO):
                    exact = 1
    if max(n1, n2) < _ENOUGH_TAIL:
        believed = alike > 0 and n_known == 2
    else:
        believed = alike > 0 or n_known == 2 or exact == 1
    return 2 * (alike + known) if believed else 0


@callee
def _overlap_score(reads: Any, p: Any, fragment: Any) -> Any:
    """Bits for the mates of pair p overlapping as the two ends of `fragment` bases, 0 if they do not.

    Two bits a matching base, eight less for a mismatch, four where a quality is below 20; bases below 10 and N do
    not count. Two bases and one in thirty-two may differ, where those below 20 are half a base.
    """
    r1, r2 = 2 * p, 2 * p + 1
    length1, length2 = reads.length[r1], reads.length[r2]
    start = max(0, fragment - length2)  # in read 1, and in the reverse complement of read 2:
    other = start + length2 - fragment
    n = min(fragment, length1) - start
    base1, base2 = r1 * reads.words * 32 + start, r2 * reads.words * 32 + other
    compared = 0
    wrong = 0
    for done in range(0, n, 32):
        classes = bases_at(reads.class_forward, base1 + done)
        classes_other = bases_at(reads.class_reverse, base2 + done)
        of = _first(n - done) & _not_poor(classes) & _not_poor(classes_other)
        differ = _differences(bases_at(reads.forward, base1 + done), bases_at(reads.reverse, base2 + done), of)
        fair = ((classes | classes_other) >> U(1)) & differ
        compared += popcount(of)
        wrong += 2 * popcount(differ) - popcount(fair)
    if compared < _LEAST_COMPARED or wrong > 4 + compared // 16:
        return 0
    return 2 * compared - 4 * wrong


@callee
def _is_simple(word: Any) -> Any:
    """Whether 32 bases are a tandem repeat of units of up to six bases, up to a quarter of them changed."""
    for period in range(1, 7):
        of = _first(32 - period)
        if popcount(_differences(word, word >> U(2 * period), of)) <= 8:
            return True
    return False


@callee
def _fewest_in_block(words: Any, first: Any, head: Any, of: Any) -> Any:
    """Fewest differences of `head` to the 32 stretches that start in word `first`; a plain loop for vector code."""
    low, high = words[U(first)], words[U(first + 1)]
    fewest = np.int64(32)
    for k in range(32):
        shift = U(2 * k)
        fewest = min(fewest, popcount(_differences(head, (low >> shift) | ((high << U(1)) << (U(63) - shift)), of)))
    return fewest


@callee
def fragment_by_overlap(reads: Any, p: Any) -> Any:
    """Length of the fragment of pair p if it is shorter than the longer mate, else (or if in doubt) 0.

    Bases from there on, in either mate, are adapter. Every length from `SHORTEST_FRAGMENT` on is tried; one word
    of the overlap turns away almost all of them, most in blocks of 32.
    """
    r1, r2 = 2 * p, 2 * p + 1
    length1, length2 = reads.length[r1], reads.length[r2]
    if min(length1, length2) < _LEAST_COMPARED:
        return 0
    base1, base2 = r1 * reads.words * 32, r2 * reads.words * 32
    best = 0
    best_overlap = 0
    shorter = 0
    longer: Any = 0
    fragment = 0
    head1 = bases_at(reads.forward, base1)
    of1 = _not_poor(bases_at(reads.class_forward, base1)) & _first(length1)
    head2 = bases_at(reads.reverse, base2)
    of2 = _not_poor(bases_at(reads.class_reverse, base2)) & _first(length2)
    next_length: Any = np.int64(SHORTEST_FRAGMENT)
    in_block: Any = np.int64(-1)
    while next_length < max(length1, length2):
        length = next_length
        next_length += 1
        shift = length2 - length  # of read 1 against the reverse complement of read 2
        if shift > 0:
            if length >= 32 and in_block != shift >> 5:
                in_block = shift >> 5
                if _fewest_in_block(reads.reverse, r2 * reads.words + in_block, head1, of1) > _MOST_IN_WORD:
                    next_length = length2 - max(32 * in_block - 1, ZERO)
                    continue
            differ = _differences(head1, bases_at(reads.reverse, base2 + shift), of1 & _first(length))
        else:
            differ = _differences(head2, bases_at(reads.forward, base1 - shift), of2)
        if popcount(differ) > _MOST_IN_WORD:
            continue
        score = _overlap_score(reads, p, length)
        if score == 0:
            continue
        tail = _tail_evidence(reads, p, length)
        if tail > 0 and score + tail > best:
            shorter = max(shorter, max(longer, best_overlap))
            longer = 0
            best = score + tail
            best_overlap = score
            fragment = length
        else:
            longer = max(longer, score)
    if fragment == 0:
        return 0
    for length in range(max(length1, length2), length1 + length2 - _LEAST_COMPARED + 1):
        longer = max(longer, _overlap_score(reads, p, length))
    if best - best_overlap < _SURE_TAIL and (shorter + longer > 0 or _is_simple(head1)):
        return 0
    return fragment if best >= shorter + _MARGIN and best_overlap >= longer + _MARGIN else 0


@callee
def poly_g_tail(text: Any, sequence_start: Any, length: Any) -> Any:
    """Bases of a poly-G run at the end of a read, 0 if there is none.

    Two-colour instruments call a cluster that went dark G, at high quality. The rule is that of fastp (Chen et al.
    2018, Bioinformatics 34:i884): walking in from the end, at most one other base in eight (from the tenth base on)
    and at most five others; the tail begins at the last G reached and has at least ten bases.
    """
    others = 0
    reached = 0
    end = sequence_start + length
    for n in range(1, length + 1):
        if (text[end - n] & np.uint8(0xDF)) != np.uint8(71):
            others += 1
            if others > _MOST_OTHERS or others > max(n, _SHORTEST_POLY_G) // _ONE_OTHER_IN:
                break
        else:
            reached = n
    return reached if reached >= _SHORTEST_POLY_G else 0
