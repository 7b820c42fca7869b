# SPDX-License-Identifier: Apache-2.0
"""Callees of tier 2: which places a pair's reads could come from, each with its penalty.

In: packed reads, index. Out: `Candidates`. Next: `align/choose.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from megabolt.align.table import (
    CORE,
    COUNT_MASK,
    COUNT_SHIFT,
    FLANK,
    LONG_LIST,
    MOST_ENTRIES,
    PLACE_MASK,
    SEED,
    SEED_MASK,
    fetch,
    find_all,
    find_core,
    first_entry,
    is_chosen,
    oriented_hash,
    seed_hash,
)
from megabolt.align.verify import (
    GAP_EXTEND,
    GAP_OPEN,
    insert_length,
    lightest_in_seed,
    penalty_at,
    penalty_of_key,
    penalty_with_gap,
)
from megabolt.compute.bits import EVEN_BITS, U, bases_at, popcount, prefetch, reverse_bases
from megabolt.compute.jit import allocating_callee, callee

#: Candidates kept per mate, and slots of the table that finds a candidate by its key.
_CANDIDATE_BITS = 12
MOST_CANDIDATES = 1 << _CANDIDATE_BITS
_HASH_BITS = 13
#: Seeds used per read.
MOST_SEEDS = 192
#: Lists read in the first and second round, and lists long enough that only an intersection or a search reads them.
FIRST_LIST, SECOND_LIST, INTERSECTED_LIST, SEARCHED_LIST = 16, 300, 20_000, 200_000
#: Lists that are read, however many, for reads that differ a lot.
CORE_LIST = 100
#: Where one mate alone has seeds, and only masked ones, lists up to this are read; and of how many masked seeds longer
#: lists are joined, two by two.
LONE_LIST, JOINED_SEEDS = 2000, 7
#: Masked seeds searched in the mate's windows: at most so many seeds and windows.
WINDOW_SEEDS, MOST_WINDOWS = 3, 256
#: Seeds resolved in the second round, per mate.
SECOND_ROUND_SEEDS = 6
#: A mate is searched around at most so many anchors within so many dB of the best one.
MOST_ANCHORS, ANCHOR_WITHIN = 16, 40
#: dB, insert included, by which a pair of places must be worse than the best to have no say in its MAPQ.
OUT_OF_REACH = 90
#: Rivals that get the one-gap kernel, its longest gap, and the penalty that the shortest gap has.
GAP_RIVALS, LONGEST_GAP, GAP_FROM = 40, 12, GAP_OPEN + GAP_EXTEND
#: Candidates for which the cache is asked together, a power of two.
FETCHED = 32
#: dB up to which a place on a primary contig is preferred to any on an ALT contig.
PRIMARY_WITHIN = 400
#: A penalty that stands for "no place".
FAR = 1 << 20

MASKED, RESOLVED, SEARCHED = 0, 1, 2

#: Integers handed to callees: typed ones, because Numba compiles a callee anew for every literal it meets.
ZERO, ONE, NONE = np.int64(0), np.int64(1), np.int64(-1)


class Candidates(NamedTuple):
    """Candidate places of both mates; first axis: mate."""

    key: Any  # int64 [2, MOST_CANDIDATES], place << 1 | strand
    votes: Any  # int64, seeds that name it
    penalty: Any  # int64, dB
    gapped: Any  # int64, 1 if the penalty is that of an alignment with a gap
    n: Any  # int64 [2]
    slot: Any  # int64 [2, 2^_HASH_BITS], stamp << _CANDIDATE_BITS | candidate of a hash slot
    marks: Any  # uint64 [2, 32], scratch of the one-gap kernel


class Seeds(NamedTuple):
    """Looked-up seeds of both mates; first axis: mate."""

    count: Any  # int64 [2, MOST_SEEDS], places in the list
    payload: Any  # place << 1 | strand of a unique seed, else offset of the list
    position: Any
    strand: Any
    state: Any  # MASKED, RESOLVED or SEARCHED
    weight: Any  # dB of the worst base
    n: Any  # int64 [2]
    bound: Any  # int64 [2], equation (1) of align/fast.py
    asked_hash: Any  # uint64 [2, MOST_SEEDS], seeds whose buckets the cache was asked for
    asked_strand: Any  # int64
    wanted: Any  # int64 [MOST_SEEDS], scratch
    found: Any  # uint64 [MOST_SEEDS], scratch
    entries: Any  # uint64 [MOST_ENTRIES], scratch
    best_to: Any  # int64 [MOST_SEEDS], scratch


@allocating_callee
def allocate_candidates() -> Any:
    """Room for the candidates of a pair."""
    shape, slots = (2, MOST_CANDIDATES), (2, 1 << _HASH_BITS)
    return Candidates(
        np.empty(shape, np.int64),
        np.empty(shape, np.int64),
        np.empty(shape, np.int64),
        np.empty(shape, np.int64),
        np.zeros(2, np.int64),
        np.zeros(slots, np.int64),
        np.empty((2, 32), np.uint64),
    )


@allocating_callee
def allocate_seeds() -> Any:
    """Room for the seeds of a pair."""
    shape = (2, MOST_SEEDS)
    return Seeds(
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(2, np.int64),
        np.zeros(2, np.int64),
        np.empty(shape, np.uint64),
        np.empty(shape, np.int64),
        np.empty(MOST_SEEDS, np.int64),
        np.empty(MOST_SEEDS, np.uint64),
        np.empty(MOST_ENTRIES, np.uint64),
        np.empty(MOST_SEEDS, np.int64),
    )


@callee
def _add(c: Any, mate: Any, key: Any, votes: Any, stamp: Any) -> Any:
    """Note a candidate, or add to its votes; returns its number, -1 if there is no room.

    `stamp` is the pair's, from 1 on: slots of other pairs are empty.
    """
    h = np.int64((U(key) * U(0x9E3779B97F4A7C15)) >> U(64 - _HASH_BITS))
    while c.slot[mate, h] >> _CANDIDATE_BITS == stamp:
        z = c.slot[mate, h] & (MOST_CANDIDATES - 1)
        if c.key[mate, z] == key:
            c.votes[mate, z] += votes
            return z
        h = (h + 1) & ((1 << _HASH_BITS) - 1)
    z = c.n[mate]
    if z < MOST_CANDIDATES:
        c.slot[mate, h] = (stamp << _CANDIDATE_BITS) | z
        c.key[mate, z] = key
        c.votes[mate, z] = votes
        c.penalty[mate, z] = FAR
        c.n[mate] = z + 1
        return z
    return -1


@callee
def _key_of(s: Any, mate: Any, x: Any, v: Any, length: Any) -> Any:
    """Candidate key of a read of which seed x lies at list entry v (place << 1 | strand)."""
    strand = (v & 1) ^ s.strand[mate, x]
    position = s.position[mate, x]
    return (((v >> 1) - (position if strand == 0 else length - SEED - position)) << 1) | strand


@callee
def _add_list(c: Any, s: Any, mate: Any, x: Any, length: Any, lists: Any, stamp: Any) -> None:
    """Note every place of seed x of a mate."""
    count = s.count[mate, x]
    for q in range(count):
        v = np.int64(lists[U(s.payload[mate, x] + q)]) if count > 1 else s.payload[mate, x]
        _add(c, mate, _key_of(s, mate, x, v, length), ONE, stamp)


@callee
def ask(s: Any, mate: Any, r: Any, reads: Any, tables: Any) -> None:
    """Ask the cache for the buckets of all seeds of read r, for `look_up`."""
    n = min(reads.n_seeds[r], MOST_SEEDS)
    for x in range(n):
        position = np.int64(reads.seeds[U(r * reads.slots + x)])
        s.asked_hash[mate, x], s.asked_strand[mate, x] = seed_hash(reads, r, position)
        s.wanted[x] = first_entry(tables, s.asked_hash[mate, x])
    fetch(tables.table, s.wanted, n)


@callee
def look_up(s: Any, mate: Any, r: Any, reads: Any, tables: Any) -> None:
    """Look up all seeds of read r, which has been asked for."""
    n = min(reads.n_seeds[r], MOST_SEEDS)
    find_all(tables, s.asked_hash[mate], ZERO, n, s.found, s.wanted)
    n_wanted = ZERO
    for x in range(n):
        entry = s.found[x]
        count = np.int64((entry >> U(COUNT_SHIFT)) & COUNT_MASK)
        payload = np.int64(entry & PLACE_MASK)
        if count > 1 and (count <= FIRST_LIST or count == LONG_LIST):
            s.wanted[n_wanted] = payload - np.int64(count == LONG_LIST)  # a long list has its count before it
            n_wanted += 1
        s.count[mate, x], s.payload[mate, x] = count, payload
        s.position[mate, x] = np.int64(reads.seeds[U(r * reads.slots + x)])
        s.strand[mate, x] = s.asked_strand[mate, x]
    fetch(tables.lists, s.wanted, n_wanted)
    for x in range(n):
        s.state[mate, x] = MASKED
        s.weight[mate, x] = lightest_in_seed(reads, r, s.position[mate, x])
        if s.count[mate, x] == LONG_LIST:
            s.count[mate, x] = np.int64(tables.lists[U(s.payload[mate, x] - 1)])
    s.n[mate] = n


@callee
def add_cores(c: Any, s: Any, mate: Any, r: Any, reads: Any, tables: Any, stamp: Any) -> None:
    """Places named by masked seeds and by the inner CORE bases of all: for reads that differ from their place a lot."""
    length = reads.length[r]
    for x in range(s.n[mate]):
        if s.state[mate, x] == MASKED and s.count[mate, x] <= CORE_LIST:
            _add_list(c, s, mate, x, length, tables.lists, stamp)
        hash_, s.strand[mate, x] = seed_hash(reads, r, s.position[mate, x])
        for e in range(find_core(tables, hash_, s.entries)):
            entry = s.entries[e]
            count = np.int64((entry >> U(COUNT_SHIFT)) & COUNT_MASK)
            payload = np.int64(entry & PLACE_MASK)
            if count == LONG_LIST:
                count = np.int64(tables.lists[U(payload - 1)])
            if count <= CORE_LIST:
                for q in range(count):
                    v = np.int64(tables.lists[U(payload + q)]) if count > 1 else payload
                    _add(c, mate, _key_of(s, mate, x, v, length), ONE, stamp)


@callee
def add_neighbours(c: Any, s: Any, mate: Any, r: Any, reads: Any, tables: Any, stamp: Any) -> None:
    """Places named by seeds of read r of which one inner base is another: for a lone read that has no other.

    Some 60 cores for each base are looked at and two in nine of them up: a hundred times the cost of a usual read.
    """
    length = reads.length[r]
    for position in range(length - SEED + 1):
        first = r * reads.words * 32
        ahead = bases_at(reads.forward, first + position) & SEED_MASK
        for i in range(FLANK, FLANK + CORE):
            for change in range(1, 4):
                window = ahead ^ (U(change) << U(2 * i))
                if not is_chosen((window >> U(2 * FLANK)) & U((1 << (2 * CORE)) - 1)):
                    continue
                hash_, strand = oriented_hash(window, reverse_bases(~window) >> U(64 - 2 * SEED))
                for e in range(find_core(tables, hash_, s.entries)):
                    entry = s.entries[e]
                    if ((entry >> U(COUNT_SHIFT)) & COUNT_MASK) == U(1):
                        v = np.int64(entry & PLACE_MASK)
                        strand_of_read = (v & 1) ^ strand
                        place = (v >> 1) - (position if strand_of_read == 0 else length - SEED - position)
                        _add(c, mate, (place << 1) | strand_of_read, ONE, stamp)


@callee
def bound_unseen(s: Any, mate: Any) -> None:
    """Equation (1) by weighted interval scheduling over the resolved seeds, which ascend in position."""
    n = s.n[mate]
    best_to = s.best_to
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
def resolve_short(c: Any, s: Any, mate: Any, length: Any, lists: Any, stamp: Any) -> None:
    """First round: read every short list."""
    for x in range(s.n[mate]):
        if s.count[mate, x] <= FIRST_LIST:
            s.state[mate, x] = RESOLVED
            _add_list(c, s, mate, x, length, lists, stamp)


@callee
def _overlaps(s: Any, mate: Any, x: Any, state: Any) -> Any:
    """Whether seed x shares bases with a seed in a state: one mismatch takes both."""
    for y in range(s.n[mate]):
        if s.state[mate, y] == state and abs(s.position[mate, y] - s.position[mate, x]) < SEED:
            return True
    return False


@callee
def resolve_rarest(c: Any, s: Any, mate: Any, length: Any, lists: Any, longest: Any, enough: Any, stamp: Any) -> None:
    """Second round: read masked lists of up to `longest` places disjoint from the resolved ones, rarest first, until
    the bound will do."""
    for _ in range(SECOND_ROUND_SEEDS):
        rarest: Any = NONE
        for x in range(s.n[mate]):
            if s.state[mate, x] == MASKED and s.count[mate, x] <= longest:
                if rarest < 0 or s.count[mate, x] < s.count[mate, rarest]:
                    if not _overlaps(s, mate, x, RESOLVED):
                        rarest = x
        if rarest < 0 or s.bound[0] + s.bound[1] >= enough:
            return
        s.state[mate, rarest] = RESOLVED
        s.bound[mate] += s.weight[mate, rarest]
        _add_list(c, s, mate, rarest, length, lists, stamp)


@callee
def _rarest_masked(s: Any, mate: Any, shortest: Any, longest: Any, apart: Any) -> Any:
    """The masked seed with the shortest list in [shortest, longest], -1 if there is none.

    `apart`: none that overlaps a SEARCHED one.
    """
    rarest: Any = NONE
    for x in range(s.n[mate]):
        if s.state[mate, x] == MASKED and shortest <= s.count[mate, x] <= longest:
            if rarest < 0 or s.count[mate, x] < s.count[mate, rarest]:
                if not (apart and _overlaps(s, mate, x, SEARCHED)):
                    rarest = x
    return rarest


@callee
def _forget_searches(s: Any, mate: Any) -> None:
    for x in range(s.n[mate]):
        if s.state[mate, x] == SEARCHED:
            s.state[mate, x] = MASKED


@callee
def _intersect(
    c: Any, s: Any, x1: Any, x2: Any, length1: Any, length2: Any, lists: Any, insert: Any, stamp: Any
) -> None:
    """Places of seed x1 of the first mate and of seed x2 of the second that lie within an insert of each other."""
    reach = insert.high + length1 + length2
    first = s.payload[1, x2]
    stop2 = first + s.count[1, x2]
    for q in range(s.payload[0, x1], s.payload[0, x1] + s.count[0, x1]):
        v1 = np.int64(lists[U(q)])
        while first < stop2 and (np.int64(lists[U(first)]) >> 1) < (v1 >> 1) - reach:
            first += 1
        key1 = _key_of(s, ZERO, x1, v1, length1)
        matched = False
        for y in range(first, stop2):
            v2 = np.int64(lists[U(y)])
            if (v2 >> 1) > (v1 >> 1) + reach:
                break
            key2 = _key_of(s, ONE, x2, v2, length2)
            if insert.low <= insert_length(key1, key2, length1, length2) <= insert.high:
                _add(c, ONE, key2, ONE, stamp)
                matched = True
        if matched:
            _add(c, ZERO, key1, ONE, stamp)


@callee
def intersect(c: Any, s: Any, length1: Any, length2: Any, lists: Any, insert: Any, stamp: Any) -> None:
    """Both mates have masked seeds only: walk the rarest lists of each for places within an insert of each other.

    Two lists of each, of seeds that share no base: a mismatch may have taken the place from one.
    """
    longest = np.int64(INTERSECTED_LIST)
    for first in range(2):
        x1 = _rarest_masked(s, ZERO, ONE, longest, first > 0)
        for second in range(2):
            x2 = _rarest_masked(s, ONE, ONE, longest, second > 0)
            if x1 >= 0 and x2 >= 0:
                _intersect(c, s, x1, x2, length1, length2, lists, insert, stamp)
                s.state[1, x2] = SEARCHED
            elif first + second == 0:
                for mate in range(2):
                    x = x1 if mate == 0 else x2
                    if x >= 0 and s.count[mate, x] <= LONE_LIST:
                        _add_list(c, s, mate, x, length1 if mate == 0 else length2, lists, stamp)
        _forget_searches(s, ONE)
        if x1 >= 0:
            s.state[0, x1] = SEARCHED
    _forget_searches(s, ZERO)


@callee
def _join(c: Any, s: Any, mate: Any, x: Any, y: Any, length: Any, lists: Any, stamp: Any) -> None:
    """Note the places that both seed x and seed y of a mate name."""
    stop_x, stop_y = s.payload[mate, x] + s.count[mate, x], s.payload[mate, y] + s.count[mate, y]
    for strand in range(2):  # the keys of one strand ascend in both lists
        b = s.payload[mate, y]
        for a in range(s.payload[mate, x], stop_x):
            key = _key_of(s, mate, x, np.int64(lists[U(a)]), length)
            if (key & 1) != strand:
                continue
            while b < stop_y:
                other = _key_of(s, mate, y, np.int64(lists[U(b)]), length)
                if (other & 1) == strand and other >= key:
                    if other == key:
                        _add(c, mate, key, np.int64(2), stamp)
                    break
                b += 1


@callee
def join_lone(c: Any, s: Any, mate: Any, length: Any, lists: Any, stamp: Any) -> None:
    """Places of a read without a mate that two of its rarest masked seeds name, as one long seed would."""
    for _ in range(JOINED_SEEDS):
        x = _rarest_masked(s, mate, ONE, np.int64(INTERSECTED_LIST), False)
        if x < 0:
            break
        s.state[mate, x] = SEARCHED
    for x in range(s.n[mate]):
        for y in range(x + 1, s.n[mate]):
            if s.state[mate, x] == SEARCHED and s.state[mate, y] == SEARCHED:
                _join(c, s, mate, x, y, length, lists, stamp)
    _forget_searches(s, mate)


@callee
def _first_at_or_after(lists: Any, start: Any, count: Any, value: Any) -> Any:
    """Binary search in a sorted list for the first entry that is not below `value`."""
    low, high = start, start + count
    while low < high:
        middle = (low + high) >> 1
        if np.int64(lists[U(middle)]) < value:
            low = middle + 1
        else:
            high = middle
    return low


@callee
def search_windows(
    c: Any, s: Any, mate: Any, n_other: Any, length: Any, length_other: Any, lists: Any, insert: Any, stamp: Any
) -> None:
    """Masked seeds of a mate inside the insert window of each place of the other mate."""
    for _ in range(WINDOW_SEEDS):
        x = _rarest_masked(s, mate, np.int64(FIRST_LIST + 1), np.int64(SEARCHED_LIST), False)
        if x < 0:
            break
        s.state[mate, x] = SEARCHED
        stop = s.payload[mate, x] + s.count[mate, x]
        for z in range(n_other):
            other = c.key[1 - mate, z]
            place = other >> 1
            if other & 1:
                first, last = place + length_other - insert.high, place + length_other
            else:
                first, last = place - length, place + insert.high
            start = _first_at_or_after(lists, s.payload[mate, x], s.count[mate, x], max(first, 0) << 1)
            for y in range(start, stop):
                v = np.int64(lists[U(y)])
                if (v >> 1) > last:
                    break
                key = _key_of(s, mate, x, v, length)
                if ((key ^ other) & 1) == 1:
                    _add(c, mate, key, ONE, stamp)
    _forget_searches(s, mate)


@callee
def penalty_with_gap_of_key(marks: Any, tables: Any, reads: Any, r: Any, key: Any, ungapped: Any) -> Any:
    """dB of read r at a key with at most one short gap. marks: uint64 [2, 32], scratch."""
    words = reads.reverse if key & 1 else reads.forward
    classes = reads.class_reverse if key & 1 else reads.class_forward
    return penalty_with_gap(
        tables.reference,
        key >> 1,
        words,
        classes,
        r * reads.words,
        reads.length[r],
        ungapped,
        LONGEST_GAP,
        marks[0],
        marks[1],
    )


@callee
def verify(c: Any, mate: Any, first: Any, best: Any, r: Any, reads: Any, tables: Any) -> Any:
    """Score candidates from `first` on; the best-voted get the one-gap kernel. Returns the mate's best penalty."""
    n = c.n[mate]
    most_votes = 0
    for z in range(first, n):
        if (z - first) & (FETCHED - 1) == 0:
            for y in range(z, min(z + FETCHED, n)):  # together: see `table.fetch`
                prefetch(tables.reference, (c.key[mate, y] >> 1) >> 5)
                prefetch(tables.reference, ((c.key[mate, y] >> 1) >> 5) + 4)
        x = penalty_of_key(tables, reads, r, c.key[mate, z])
        c.penalty[mate, z], c.gapped[mate, z] = x, 0
        best = min(best, x)
        most_votes = max(most_votes, c.votes[mate, z])
    if reads.length[r] >= 32:
        done = 0
        votes = most_votes
        while votes >= 1 and done < GAP_RIVALS and votes * 4 >= most_votes:
            for z in range(first, n):
                if c.votes[mate, z] == votes and c.penalty[mate, z] > GAP_FROM and done < GAP_RIVALS:
                    done += 1
                    x = penalty_with_gap_of_key(c.marks, tables, reads, r, c.key[mate, z], c.penalty[mate, z])
                    if x < c.penalty[mate, z]:
                        c.penalty[mate, z], c.gapped[mate, z] = x, 1
                    best = min(best, x)
            votes -= 1
    return best


@callee
def is_on_alt(tables: Any, place: Any) -> Any:
    """Whether a place lies on an ALT contig; `tables.is_alt` is empty if that does not matter."""
    contig = np.searchsorted(tables.contig_offset, place + 1, "right") - 1
    return contig >= 0 and tables.is_alt[contig] != 0


@callee
def prefer_primary(c: Any, mate: Any, best: Any, tables: Any) -> Any:
    """Drop the places on ALT contigs if there is one on a primary contig; returns the mate's best penalty."""
    best_primary = np.int64(FAR)
    for z in range(c.n[mate]):
        if c.penalty[mate, z] < best_primary and not is_on_alt(tables, c.key[mate, z] >> 1):
            best_primary = c.penalty[mate, z]
    if best_primary > PRIMARY_WITHIN:
        return best
    for z in range(c.n[mate]):
        if is_on_alt(tables, c.key[mate, z] >> 1):
            c.penalty[mate, z] = FAR
    return best_primary


@callee
def unroll_circle(c: Any, first1: Any, first2: Any, tables: Any, insert: Any) -> None:
    """Give new candidates on the circular contig the place at which their mate's is near.

    Filler holds the contig's end before its start and its start behind its end. A read across the origin lies at
    the end; a whole read near the start is moved behind the end if its mate lies before the end.
    """
    offset, length = tables.circular[0], tables.circular[1]
    for mate in range(2):
        for z in range(first1 if mate == 0 else first2, c.n[mate]):
            if offset - insert.high <= c.key[mate, z] >> 1 < offset:
                c.key[mate, z] += length << 1
    for mate in range(2):
        across = False
        for z in range(c.n[1 - mate]):
            across |= offset + length - insert.high <= c.key[1 - mate, z] >> 1 < offset + length
        if across:
            for z in range(first1 if mate == 0 else first2, c.n[mate]):
                if offset <= c.key[mate, z] >> 1 < offset + insert.high:
                    c.key[mate, z] += length << 1


@callee
def _served(c: Any, other: Any, anchor: Any, length: Any, length_other: Any, n: Any, insert: Any) -> Any:
    """The lowest penalty that the other mate has within an insert of the anchor, FAR if it has no place there."""
    lowest = np.int64(FAR)
    for y in range(n):
        if c.penalty[other, y] < lowest:
            size = insert_length(anchor, c.key[other, y], length, length_other)
            if insert.low <= size <= insert.high:
                lowest = c.penalty[other, y]
    return lowest


@callee
def _scan(tables: Any, reads: Any, r: Any, strand: Any, start: Any, stop: Any) -> Any:
    """The best place of read r, without gaps, in [start, stop); -1 if nothing there resembles it. And its penalty.

    A place is worth a look if one of two words of the read fits it with at most 9 mismatches of 32: by chance a
    place has 24.
    """
    reference = tables.reference
    words = reads.reverse if strand else reads.forward
    classes = reads.class_reverse if strand else reads.class_forward
    offset, length = r * reads.words, reads.length[r]
    second = max(0, (length >> 5) - 1)  # a word near the read's end, whole inside the read
    word1, word2 = words[U(offset)], words[U(offset + second)]
    mask = EVEN_BITS if length >= 32 else (U(1) << U(2 * length)) - U(1)
    fewest, found, cheapest = 33, -1, np.int64(FAR)
    for x in range(max(start, 32), stop):
        m1 = bases_at(reference, x) ^ word1
        m2 = bases_at(reference, x + 32 * second) ^ word2
        n1 = popcount((m1 | (m1 >> U(1))) & EVEN_BITS & mask)
        n2 = popcount((m2 | (m2 >> U(1))) & EVEN_BITS & mask)
        few = min(n1, n2)
        if few > 9:
            continue
        p = penalty_at(reference, x, words, classes, offset, length)
        if p < cheapest or (found < 0 and few < fewest):
            cheapest, fewest, found = p, few, x
    # A gapped or clipped read matches at one end well, and dearly as a whole.
    if found >= 0 and cheapest >= 10 * length and fewest > 4:
        found = -1
    return found, cheapest


@callee
def rescue(
    c: Any,
    mate: Any,
    first: Any,
    best: Any,
    best_other: Any,
    bound_other: Any,
    r: Any,
    reads: Any,
    tables: Any,
    insert: Any,
    stamp: Any,
) -> Any:
    """Search read r, the other mate, around the good anchors of this one.

    Anchors are candidates from `first` on within ANCHOR_WITHIN dB of the best. Where no place of the other mate has
    been seen it costs at least `bound_other`: an anchor that even so is out of reach of the best pair is left.
    Returns the other mate's best penalty, or -1 if there are too many anchors to look.
    """
    limit = best + ANCHOR_WITHIN
    n_anchors = 0
    other = 1 - mate
    length, length_other = reads.length[r ^ 1], reads.length[r]
    n_other = c.n[other]
    for z in range(first, c.n[mate]):
        if c.penalty[mate, z] <= limit:
            n_anchors += 1
    if n_anchors > MOST_ANCHORS:
        return -1
    reach = np.int64(FAR)
    for z in range(first, c.n[mate]):
        if c.penalty[mate, z] <= limit:
            x = c.penalty[mate, z] + _served(c, other, c.key[mate, z], length, length_other, n_other, insert)
            reach = min(reach, x)
    for z in range(first, c.n[mate]):
        anchor = c.key[mate, z]
        if c.penalty[mate, z] > limit or c.penalty[mate, z] + bound_other > reach + OUT_OF_REACH:
            continue
        served = _served(c, other, anchor, length, length_other, n_other, insert)
        if served < FAR and served <= max(best_other + 34, 100):
            continue
        place, strand = anchor >> 1, 1 - (anchor & 1)
        if anchor & 1:
            start, stop = place + length - insert.high, place + 50
        else:
            start, stop = place - 50, place + insert.high - length_other
        found, cheapest = _scan(tables, reads, r, strand, start, stop)
        if found < 0:
            continue
        key = (found << 1) | strand
        ungapped = cheapest
        if cheapest > GAP_FROM and length_other >= 32:
            cheapest = penalty_with_gap_of_key(c.marks, tables, reads, r, key, cheapest)
        z_other = _add(c, other, key, ZERO, stamp)
        # A place that is known may not have been among those whose gaps were looked for.
        if z_other >= 0 and cheapest < c.penalty[other, z_other]:
            c.penalty[other, z_other], c.gapped[other, z_other] = cheapest, np.int64(cheapest < ungapped)
            best_other = min(best_other, cheapest)
    return best_other
