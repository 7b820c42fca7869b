# SPDX-License-Identifier: Apache-2.0
"""Callees of the placement kernels: looking seeds up in the index table.

In: packed reads, the index table. Out: entries. Next: `align/fast.py`, `align/candidates.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megabolt.compute.bits import U, bases_at, prefetch
from megabolt.compute.jit import callee, inline

#: Seed length and the length of the inner words that choose seeds (closed syncmers, Edgar 2021, PeerJ 9:e10805).
SEED = 24
INNER = 16

#: The index table: 64-byte buckets of eight entries, tag (24 bits) | count (7) | place or list offset (33).
BUCKET = 8
COUNT_SHIFT, TAG_SHIFT = 33, 40
TAG_MASK = U((1 << 24) - 1)
COUNT_MASK = U(127)
PLACE_MASK = U((1 << 33) - 1)
#: A count that does not fit: the true count stands in front of the list.
LONG_LIST = 127
LONGEST_SHORT_LIST = 100

SEED_MASK = U((1 << (2 * SEED)) - 1)


@inline
def mix(word: Any) -> Any:
    """A bijection of 64-bit words whose output bits all depend on all input bits (Stafford's variant 13)."""
    x = (word ^ (word >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@inline
def bucket_of(hash_: Any, n_buckets: Any) -> Any:
    """The bucket of a hash: its upper half scaled to the number of buckets."""
    return ((hash_ >> U(32)) * n_buckets) >> U(32)


@callee
def find(tables: Any, hash_: Any) -> Any:
    """The table's entry of a seed hash, 0 if there is none."""
    table = tables.table
    n_buckets = U(len(table) // BUCKET)
    bucket = bucket_of(hash_, n_buckets)
    tag = (hash_ >> tables.tag_shift) & TAG_MASK
    while True:
        first = bucket * U(BUCKET)
        for slot in range(BUCKET):
            entry = table[first + U(slot)]
            if entry == U(0):
                return U(0)
            if (entry >> U(TAG_SHIFT)) == tag:
                return entry
        bucket += U(1)
        if bucket == n_buckets:
            bucket = U(0)


@callee
def fetch_bucket(tables: Any, hash_: Any) -> None:
    """Ask the cache for the bucket of a hash."""
    table = tables.table
    prefetch(table, np.int64(bucket_of(hash_, U(len(table) // BUCKET)) * U(BUCKET)))


@callee
def seed_hash(reads: Any, r: Any, position: Any) -> Any:
    """Hash of the canonical seed at a read position, and 1 if the opposite strand is the canonical one."""
    first = r * reads.words * 32
    ahead = bases_at(reads.forward, first + position) & SEED_MASK
    behind = bases_at(reads.reverse, first + reads.length[r] - SEED - position) & SEED_MASK
    if behind < ahead:
        return mix(behind), 1
    return mix(ahead), 0
