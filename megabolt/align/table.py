# SPDX-License-Identifier: Apache-2.0
"""Callees of the placement kernels: looking seeds up in the index table.

In: packed reads, the index table. Out: entries. Next: `align/fast.py`, `align/candidates.py`.

A seed is a window of SEED bases: a *core* of CORE bases with FLANK bases on either side. The table is hashed by
the core and tagged with core and flanks, so that one line of memory answers both for the whole seed (`find`) and for
its core alone (`find_core`): reads that differ much from the reference find fewer, shorter seeds in the same table
(multi-context seeds, as in strobealign: Tolstoganov et al. 2024).

A seed's *key* is core << 8 | flanks, of the strand whose key is the lower one: cores decide, flanks only where a
core is its own reverse complement. Its *hash* is that key with the core replaced by a bijection of it:

    hash (48 bits) = 32 bits that choose the home bucket | 8 more | 8 bits of flanks        tag = its low 24 bits

Buckets form ranges of equal size; a full bucket overflows into the next one of its range, from the last into the
first. Cores with more than MOST_FLANKS distinct seeds (satellites, poly-A) would fill whole neighbourhoods: their
entries lie in a bucket chosen by core and flanks, in the same range, and a *marker* (count 0) in the home bucket
says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megabolt.compute.bits import U, bases_at, equal_mask8, prefetch, reverse_bases, trailing_zeros
from megabolt.compute.jit import callee, inline

#: Lengths of seeds, and of the inner words that choose seeds (closed syncmers, Edgar 2021, PeerJ 9:e10805).
CORE, FLANK = 20, 2
SEED = CORE + 2 * FLANK
INNER = 12

#: 64-byte buckets of eight entries: tag (24 bits) | count (7) | place << 1 | strand, or list offset (33).
BUCKET = 8
COUNT_SHIFT, TAG_SHIFT, CORE_SHIFT = 33, 40, 48
TAG_MASK = U((1 << 24) - 1)
COUNT_MASK = U(127)
PLACE_MASK = U((1 << 33) - 1)
#: A count that does not fit: the true count stands in front of the list.
LONG_LIST = 127
LONGEST_SHORT_LIST = 100
#: Distinct seeds of a core from which on it is crowded, and entries that `find_core` may return.
MOST_FLANKS, MOST_ENTRIES = 12, 16
#: The payload of a marker: without it, an entry could be 0.
MARKER_PAYLOAD = 1

SEED_MASK = U((1 << (2 * SEED)) - 1)
_CORE_MASK = U((1 << (2 * CORE)) - 1)
_NO_MARKER = U((1 << 64) - 1)
#: What `_probe` returns where the chain ends without the tag.
_ABSENT, _CROWDED = np.int64(-1), np.int64(-2)


@inline
def mix(word: Any) -> Any:
    """A bijection of 64-bit words whose output bits all depend on all input bits (Stafford's variant 13)."""
    x = (word ^ (word >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@inline
def key_of(window: Any) -> Any:
    """Core and flanks of a window of SEED bases (no other bits set) as one number of 48 bits."""
    return (((window >> U(4)) & _CORE_MASK) << U(8)) | ((window >> U(44)) << U(4)) | (window & U(15))


@inline
def hash_of(key: Any) -> Any:
    """The hash of a key: a bijection of the 40 bits of the core (shifts and odd factors modulo 2^40), flanks as is."""
    x = key >> U(8)
    x = ((x ^ (x >> U(21))) * U(0x9E3779B97F4A7C15)) & _CORE_MASK
    x = ((x ^ (x >> U(18))) * U(0xD6E8FEB86659FD93)) & _CORE_MASK
    x ^= x >> U(22)
    return (x << U(8)) | (key & U(255))


@inline
def bucket_of(hash_: Any, n_buckets: Any) -> Any:
    """The home bucket of a hash: its upper 32 bits scaled to the number of buckets."""
    return ((hash_ >> U(16)) * n_buckets) >> U(32)


@inline
def crowded_bucket_of(hash_: Any, home: Any, range_buckets: Any) -> Any:
    """The bucket of a seed whose core is crowded, in the range of its home bucket."""
    return home - home % range_buckets + (((mix(hash_) >> U(32)) * range_buckets) >> U(32))


@inline
def next_bucket(bucket: Any, range_buckets: Any) -> Any:
    """Where a full bucket overflows to."""
    following = bucket + U(1)
    return following - range_buckets if following % range_buckets == U(0) else following


@inline
def marker_of(hash_: Any) -> Any:
    """What tag and count of an entry are together, if it marks the core of a hash as crowded."""
    return ((hash_ & TAG_MASK) >> U(8)) << U(TAG_SHIFT + 8 - COUNT_SHIFT)


@inline
def rank_of(inner: Any, reverse_complement: Any) -> Any:
    """What decides which inner word is the smallest: a hash of its canonical form (as `seed.py` computes it)."""
    x = U(np.uint32(min(inner, reverse_complement) * U(0x9E3779B1)))
    x = U(np.uint32((x ^ (x >> U(15))) * U(0x85EBCA77)))
    return x ^ (x >> U(13))


@callee
def is_chosen(core: Any) -> Any:
    """Whether a core, 40 bits, is a closed syncmer: its smallest inner word stands at one of its ends."""
    behind = reverse_bases(~core) >> U(64 - 2 * CORE)
    mask, span = U((1 << (2 * INNER)) - 1), CORE - INNER
    first = rank_of(core & mask, (behind >> U(2 * span)) & mask)
    last = rank_of((core >> U(2 * span)) & mask, behind & mask)
    low = min(first, last)
    for i in range(1, span):
        low = min(low, rank_of((core >> U(2 * i)) & mask, (behind >> U(2 * (span - i))) & mask))
    return low in (first, last)


@callee
def probe(table: Any, bucket: Any, range_buckets: Any, tag: Any, marker: Any) -> Any:
    """Slot of the first entry with a tag in the chain from a bucket on; _CROWDED if there is none but a marker."""
    absent = _ABSENT
    while True:
        first = np.int64(bucket * U(BUCKET))
        empty = equal_mask8(table, first, U(0), U(0))
        before = (empty & (U(0) - empty)) - U(1)  # the slots before the first empty one
        hits = equal_mask8(table, first, U(TAG_SHIFT), tag) & before
        while hits != U(0):
            slot = first + trailing_zeros(hits)
            if ((table[U(slot)] >> U(COUNT_SHIFT)) & COUNT_MASK) != U(0):
                return slot
            hits &= hits - U(1)
        if (equal_mask8(table, first, U(COUNT_SHIFT), marker) & before) != U(0):
            absent = _CROWDED
        if empty != U(0):
            return absent
        bucket = next_bucket(bucket, range_buckets)


@callee
def slot_of(table: Any, home: Any, range_buckets: Any, hash_: Any) -> Any:
    """Slot of a seed's entry, negative if it has none. `home`: its home bucket in this table (or part of one)."""
    tag = hash_ & TAG_MASK
    slot = probe(table, home, range_buckets, tag, marker_of(hash_))
    if slot == _CROWDED:
        slot = probe(table, crowded_bucket_of(hash_, home, range_buckets), range_buckets, tag, _NO_MARKER)
    return slot


@callee
def find(tables: Any, hash_: Any) -> Any:
    """The table's entry of a seed hash, 0 if there is none.

    The entry's list is complete. Once in 2^24 it belongs to another seed or holds its places too: places are to be
    compared with the read.
    """
    table = tables.table
    slot = slot_of(table, bucket_of(hash_, U(len(table) // BUCKET)), tables.range_buckets, hash_)
    return table[U(slot)] if slot >= 0 else U(0)


@callee
def find_all(tables: Any, hashes: Any, first: Any, stop: Any, entries: Any, late: Any) -> None:
    """`find` for hashes[first:stop], of which the cache was asked for the home buckets.

    One in eight has its entry, or the end of its chain, in the next bucket: the cache is asked for these together.
    late: int64, room for their numbers.
    """
    table, n_buckets, n_late = tables.table, U(len(tables.table) // BUCKET), np.int64(0)
    for x in range(first, stop):
        home = bucket_of(hashes[U(x)], n_buckets)
        start = np.int64(home * U(BUCKET))
        empty = equal_mask8(table, start, U(0), U(0))
        before = (empty & (U(0) - empty)) - U(1)  # as in `probe`
        hits = equal_mask8(table, start, U(TAG_SHIFT), hashes[U(x)] & TAG_MASK) & before
        entry = table[U(start + (trailing_zeros(hits) & (BUCKET - 1)))]
        entries[U(x)] = entry
        # An entry of count 0 is a marker: rare, like the seeds of crowded cores, and left to `find`.
        if hits == U(0) or ((entry >> U(COUNT_SHIFT)) & COUNT_MASK) == U(0):
            late[U(n_late)] = x
            n_late += 1
            if empty == U(0):
                prefetch(table, np.int64(next_bucket(home, tables.range_buckets) * U(BUCKET)))
    for i in range(n_late):
        entries[U(late[U(i)])] = find(tables, hashes[U(late[U(i)])])


@callee
def find_core(tables: Any, hash_: Any, entries: Any) -> Any:
    """All entries of the core of a hash, whatever their flanks: uint64 [>= MOST_ENTRIES]. Returns their number.

    -1 if the core is crowded. Once in 2^16 an entry belongs to another core. A core that is its own reverse
    complement may lie at each place on both strands, of which one is listed.
    """
    table = tables.table
    bucket = bucket_of(hash_, U(len(table) // BUCKET))
    core = (hash_ & TAG_MASK) >> U(8)
    found = 0
    while True:
        first = bucket * U(BUCKET)
        for slot in range(BUCKET):
            entry = table[first + U(slot)]
            if entry == U(0):
                return found
            if (entry >> U(CORE_SHIFT)) == core:
                if ((entry >> U(COUNT_SHIFT)) & COUNT_MASK) == U(0) or found == MOST_ENTRIES:
                    return -1
                entries[found] = entry
                found += 1
        bucket = next_bucket(bucket, tables.range_buckets)


@inline
def first_entry(tables: Any, hash_: Any) -> Any:
    """Index of the first entry of the home bucket of a hash."""
    return np.int64(bucket_of(hash_, U(len(tables.table) // BUCKET)) * U(BUCKET))


@callee
def fetch(array: Any, wanted: Any, n: Any) -> None:
    """Ask the cache for array[wanted[i]], i < n.

    In a loop of its own: a processor waits with what stands behind a request until the address has been translated, so
    requests that are far apart in the program are made one by one.
    """
    for i in range(n):
        prefetch(array, wanted[U(i)])


@inline
def oriented_hash(ahead: Any, behind: Any) -> Any:
    """Hash of a seed given as its window and the reverse complement of that, and 1 if the latter has the lower key."""
    key, other = key_of(ahead), key_of(behind)
    return hash_of(min(key, other)), np.int64(other < key)  # without a branch: it would go either way


@callee
def seed_hash(reads: Any, r: Any, position: Any) -> Any:
    """Hash of the seed at a read position, and 1 if the opposite strand has the lower key."""
    first = r * reads.words * 32
    ahead = bases_at(reads.forward, first + position) & SEED_MASK
    behind = bases_at(reads.reverse, first + reads.length[r] - SEED - position) & SEED_MASK
    return oriented_hash(ahead, behind)
