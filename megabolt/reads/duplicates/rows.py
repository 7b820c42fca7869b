# SPDX-License-Identifier: Apache-2.0
"""Rows of whole words in hash partitions: collected from many threads, spilled when they are too many.

In: rows by partition. Out: all rows of a run of partitions. Used by `duplicates/finder.py`.

Rows come in pieces. A piece is laid out partition after partition in a slab; its bounds tell where each is. When the
slabs take more than the budget, full ones go to the spill file, one frame a partition.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import kernel
from megabolt.errors import ResourceError

U = np.uint64
#: Partitions, by the top bits of a 64-bit hash.
N_PARTITIONS = 256
PARTITION_SHIFT = 56
_SLAB_ROWS = 1 << 18


class Spill(Protocol):
    """What is needed of a spill file: see `reads.scratch.SpillFile`."""

    def append(self, buffer: NDArray[np.uint8], /) -> Any:
        """Put bytes away; returns how to find them."""

    def read(self, frame: Any, out: NDArray[np.uint8], /) -> None:
        """Get them back."""


@dataclass
class _Slab:
    rows: NDArray[np.uint64]
    used: int = 0
    pending: int = 0  # pieces that are being filled
    bounds: list[NDArray[np.int64]] = field(default_factory=list)

    def table(self) -> NDArray[np.int64]:
        """int64 [pieces, partitions + 1]."""
        return np.array(self.bounds, np.int64).reshape(-1, N_PARTITIONS + 1)


@dataclass
class Piece:
    """Room for rows: partition k's go to rows[bounds[k] : bounds[k + 1]]."""

    rows: NDArray[np.uint64]
    bounds: NDArray[np.int64]
    slab: _Slab


class RowStore:
    """Rows of `width` words in partitions; safe for threads.

    Parameters
    ----------
    width
        Words of a row.
    budget
        Bytes of memory that rows may take.
    spill
        Where the rest goes. Without it, more is a ResourceError.
    """

    def __init__(self, width: int, budget: int, spill: Spill | None) -> None:
        self.width = width
        self.counts = np.zeros(N_PARTITIONS, np.int64)
        self._budget, self._spill = budget, spill
        self._lock = threading.Lock()
        self._slabs: list[_Slab] = []
        self._leaving: set[int] = set()  # slabs on their way to the spill file
        self._frames: list[list[tuple[Any, int]]] = [[] for _ in range(N_PARTITIONS)]
        self._slab_rows = max(64, min(_SLAB_ROWS, budget // (4 * 8 * width)))

    @property
    def used(self) -> int:
        """Bytes of memory held."""
        return sum(slab.rows.nbytes for slab in self._slabs)

    def open_piece(self, counts: NDArray[np.int64]) -> Piece:
        """Room for counts[k] rows of each partition; say `close_piece` when they are there."""
        n = int(counts.sum())
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        with self._lock:
            if not self._slabs or self._slabs[-1].used + n > len(self._slabs[-1].rows):
                self._open_slab(max(n, self._slab_rows))
            slab = self._slabs[-1]
            bounds += slab.used
            slab.used += n
            slab.pending += 1
            slab.bounds.append(bounds)
            self.counts += counts
        return Piece(slab.rows, bounds, slab)

    def _open_slab(self, n_rows: int) -> None:
        size = 8 * self.width * n_rows
        if self._spill is None and self._slabs and self.used + size > self._budget:
            raise ResourceError(
                f"what duplicates are recognised by takes more than the {self._budget / 1e6:,.0f} MB that are for it",
                "Give more memory with --memory, or a folder for what does not fit with --scratch.",
            )
        self._slabs.append(_Slab(np.empty((n_rows, self.width), np.uint64)))

    def close_piece(self, piece: Piece) -> None:
        """All rows of the piece are written."""
        with self._lock:
            piece.slab.pending -= 1
            leaving = self._too_many() if self._spill is not None else []
        for slab in leaving:
            self._put_away(slab)

    def _too_many(self) -> list[_Slab]:
        """Full slabs beyond the budget, for this thread to put away."""
        over = self.used - self._budget
        leaving = []
        for slab in self._slabs[:-1]:
            if over <= 0:
                break
            over -= slab.rows.nbytes
            if slab.pending == 0 and id(slab) not in self._leaving:
                self._leaving.add(id(slab))
                leaving.append(slab)
        return leaving

    def _put_away(self, slab: _Slab) -> None:
        assert self._spill is not None
        table = slab.table()
        frames = []
        for k in range(N_PARTITIONS):
            n = int((table[:, k + 1] - table[:, k]).sum())
            if n:
                rows = np.empty((n, self.width), np.uint64)
                _gather(slab.rows, table, k, rows, 0)
                frames.append((k, self._spill.append(rows.reshape(-1).view(np.uint8)), n))
        with self._lock:
            for k, frame, n in frames:
                self._frames[k].append((frame, n))
            self._slabs = [other for other in self._slabs if other is not slab]
            self._leaving.discard(id(slab))

    def take(self, first: int, last: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """All rows of partitions first <= k < last, and their bounds (int64 [last - first + 1]).

        The order within a partition is arbitrary. Only when no piece is open.
        """
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts[first:last])])
        rows = np.empty((int(bounds[-1]), self.width), np.uint64)
        tables = [(slab.rows, slab.table()) for slab in self._slabs]
        for k in range(first, last):
            filled = int(bounds[k - first])
            for frame, n in self._frames[k]:
                assert self._spill is not None
                self._spill.read(frame, rows[filled : filled + n].reshape(-1).view(np.uint8))
                filled += n
            for source, table in tables:
                filled = _gather(source, table, k, rows, filled)
        return rows, bounds

    def clear(self) -> None:
        """Let go of all rows."""
        self._slabs, self._frames = [], [[] for _ in range(N_PARTITIONS)]
        self.counts[:] = 0


def runs_of(counts: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Runs of neighbouring partitions with at most `most` rows, or of one partition."""
    runs, first, total = [], 0, 0
    for k, n in enumerate(int(n) for n in counts):
        if k > first and total + n > most:
            runs.append((first, k))
            first, total = k, 0
        total += n
    runs.append((first, len(counts)))
    return runs


@kernel("int64(uint64[:, ::1], int64[:, ::1], int64, uint64[:, ::1], int64)")
def _gather(source: NDArray[np.uint64], table: NDArray[np.int64], k: Any, out: NDArray[np.uint64], filled: Any) -> Any:
    """Partition k of all pieces of a slab to out[filled:]; returns how far it came."""
    n = U(filled)
    width = source.shape[1]
    for piece in range(len(table)):
        for i in range(U(table[piece, k]), U(table[piece, k + 1])):
            for w in range(width):
                out[n, w] = source[i, w]
            n += U(1)
    return np.int64(n)
