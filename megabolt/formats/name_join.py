# SPDX-License-Identifier: Apache-2.0
"""Mates find each other by name, whatever order the records of a file are in.

In: kinds and name hashes of records, block by block. Out: for each record the mate that came before it. Reads whose
mate has not come yet wait in a hash table. In a file that is grouped by name none waits longer than for a block; in
one sorted by coordinate those wait whose mate lies far away: some per cent of the reads of a whole genome.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import U, prefetch
from megabolt.compute.jit import inline, kernel

_FIRST_SLOTS = 1 << 12
#: Kinds of records from here on have mates: `record_facts.FIRST` and `SECOND`.
_WITH_MATE = 2


class NameJoin:
    """The table of reads that wait for their mates. Names are taken to be equal if 128 bits of hash are.

    Parameters
    ----------
    strict
        A second record of the mate that waits already is a fault. Otherwise it passes for the mate, as with Picard.

    Attributes
    ----------
    record
        int64 [entries]: the record of each entry, counted from the first of the file.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict
        self._hashes = np.zeros((_FIRST_SLOTS, 2), np.uint64)
        self._slots = np.full(_FIRST_SLOTS, -1, np.int64)  # the entry; -1: free
        self.record: NDArray[np.int64] = np.zeros(0, np.int64)
        self._kind = np.zeros(0, np.int64)
        self._free = np.zeros(0, np.int64)
        self._n_free = 0
        self._n_records = 0
        self._n_waiting = 0

    @property
    def n_waiting(self) -> int:
        """Reads that wait."""
        return self._n_waiting

    def join(
        self, kind: NDArray[np.int64], hashes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Take the records of a block.

        Parameters
        ----------
        kind
            int64 [n]: as `record_facts.Facts.kind`; only FIRST and SECOND have mates.
        hashes
            uint64 [n, 2].

        Returns
        -------
        partner
            int64 [n]: the entry of the mate that came before, or -1. It is the caller's until `release`.
        own
            int64 [n]: the entry that was made for the record, or -1; it may have found its mate since.
        fault
            The first record whose mate number waits already, or -1.
        """
        n = len(kind)
        self._make_room(n)
        partner, own = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
        counts = np.array([self._n_free, self._n_waiting], np.int64)
        fault = _join(
            kind, hashes, self._n_records, self._strict, self._hashes, self._slots, self.record, self._kind, self._free,
            counts, partner, own,
        )  # fmt: skip
        self._n_free, self._n_waiting = counts.tolist()
        self._n_records += n
        return partner, own, int(fault)

    def release(self, entries: NDArray[np.int64]) -> None:
        """Entries (of `partner`) that are not needed any more."""
        self._free[self._n_free : self._n_free + len(entries)] = entries
        self._n_free += len(entries)

    def waiting(self) -> NDArray[np.int64]:
        """Entries of the reads that wait, in the order of the file."""
        entries = self._slots[self._slots >= 0]
        return entries[np.argsort(self.record[entries])]

    def _make_room(self, n: int) -> None:
        n_slots = len(self._slots)
        while 2 * (self._n_waiting + n) > n_slots:
            n_slots *= 2
        if n_slots > len(self._slots):
            hashes, slots = np.zeros((n_slots, 2), np.uint64), np.full(n_slots, -1, np.int64)
            _rehash(self._hashes, self._slots, hashes, slots)
            self._hashes, self._slots = hashes, slots
        if self._n_free < n:
            old = len(self.record)
            new = max(n, old // 2)
            self.record = np.concatenate([self.record, np.zeros(new, np.int64)])
            self._kind = np.concatenate([self._kind, np.zeros(new, np.int64)])
            free = np.zeros(old + new, np.int64)
            free[: self._n_free] = self._free[: self._n_free]
            free[self._n_free : self._n_free + new] = np.arange(old + new - 1, old - 1, -1)
            self._free, self._n_free = free, self._n_free + new


# --- kernels ---


@inline
def _remove(hashes: Any, slots: Any, slot: Any, mask: Any) -> Any:
    """Free a slot; those behind it that it kept from their place move up (Knuth, algorithm 6.4 R)."""
    hole = slot
    k = (slot + U(1)) & mask
    while slots[k] >= 0:
        home = hashes[k, 0] & mask
        if ((k - home) & mask) >= ((k - hole) & mask):
            slots[hole] = slots[k]
            hashes[hole, 0] = hashes[k, 0]
            hashes[hole, 1] = hashes[k, 1]
            hole = k
        k = (k + U(1)) & mask
    slots[hole] = -1


@kernel(
    "int64(int64[::1], uint64[:, ::1], int64, boolean, uint64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1],"
    " int64[::1], int64[::1], int64[::1])"
)
def _join(
    kinds: Any,
    names: Any,
    first_record: Any,
    strict: Any,
    hashes: Any,
    slots: Any,
    entry_record: Any,
    entry_kind: Any,
    free: Any,
    counts: Any,
    partner: Any,
    own: Any,
) -> Any:
    """counts: free entries, reads that wait. Returns the first record whose mate number is there twice, or -1."""
    mask = U(len(slots) - 1)
    n = len(kinds)
    for i in range(n):
        if i + 16 < n:
            ahead = np.int64(names[U(i + 16), 0] & mask)
            prefetch(slots, ahead)
            prefetch(hashes, 2 * ahead)
        kind = kinds[U(i)]
        if kind < _WITH_MATE:
            continue
        first, second = names[U(i), 0], names[U(i), 1]
        slot = first & mask
        while slots[slot] >= 0 and (hashes[slot, 0] != first or hashes[slot, 1] != second):
            slot = (slot + U(1)) & mask
        entry = slots[slot]
        if entry < 0:
            counts[0] -= 1
            counts[1] += 1
            entry = free[U(counts[0])]
            entry_record[U(entry)] = first_record + i
            entry_kind[U(entry)] = kind
            slots[slot] = entry
            hashes[slot, 0] = first
            hashes[slot, 1] = second
            own[U(i)] = entry
        elif strict and entry_kind[U(entry)] == kind:
            return i
        else:
            partner[U(i)] = entry
            counts[1] -= 1
            _remove(hashes, slots, slot, mask)
    return -1


@kernel("void(uint64[:, ::1], int64[::1], uint64[:, ::1], int64[::1])")
def _rehash(old_hashes: Any, old_slots: Any, hashes: Any, slots: Any) -> None:
    """Enter all into a larger table."""
    mask = U(len(slots) - 1)
    for k in range(len(old_slots)):
        if old_slots[k] >= 0:
            slot = old_hashes[k, 0] & mask
            while slots[slot] >= 0:
                slot = (slot + U(1)) & mask
            slots[slot] = old_slots[k]
            hashes[slot, 0] = old_hashes[k, 0]
            hashes[slot, 1] = old_hashes[k, 1]
