# SPDX-License-Identifier: Apache-2.0
"""What bins hold: slabs of records in memory, and sorted pieces in scratch.

In: addresses for records. Out: the stored bytes of a bin, buffer by buffer. Used by `reads/bins.py`.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InternalError
from megabolt.reads.arena import SLAB_BYTES, Arena
from megabolt.reads.bin_kernels import (
    CURSOR,
    LIMIT,
    N_OPEN,
    START,
    TABLE_COLUMNS,
    list_records,
    pack,
)
from megabolt.reads.scratch import Frame, SpillFile
from megabolt.reads.sort_keys import sort_keys

#: Slabs are smaller where the budget has not some for each bin.
_SLABS_PER_BIN = 4
_SMALLEST_SLAB = max(1 << 14, mmap.PAGESIZE)
#: Unpacked bytes of a frame in scratch: large enough to compress well, small beside the budget.
_FRAME_BYTES = 1 << 20


class Slab(NamedTuple):
    """Records in the arena: first byte, end, how many, and the last `add` that may still be writing them."""

    start: int
    stop: int
    n: int
    ticket: int


class Piece(NamedTuple):
    """Sorted records in scratch with low <= key <= high."""

    frame: Frame
    low: int
    high: int


class BinContents:
    """The memory and the scratch of all bins; safe for one caller at a time, except where said.

    Parameters
    ----------
    n_bins
        With that of the unplaced.
    budget
        Bytes for slabs and for the buffers that spilling takes.
    scratch
        Opens the file for what memory does not hold; None: there is none.

    Attributes
    ----------
    table
        int64 [n_bins, TABLE_COLUMNS]: see `reads/bin_kernels.py`.
    closed
        The full slabs of each bin, oldest first.
    n_closed
        int64 [n_bins]: how many.
    pieces
        What is in scratch of each bin.
    """

    def __init__(self, n_bins: int, budget: int, scratch: Callable[[], SpillFile] | None) -> None:
        slab_bytes = SLAB_BYTES
        while slab_bytes > _SMALLEST_SLAB and slab_bytes * _SLABS_PER_BIN * n_bins > budget:
            slab_bytes //= 2
        self.arena = Arena(budget - budget // 16, slab_bytes)
        self.frame_bytes = max(slab_bytes, min(_FRAME_BYTES, budget >> 6))
        self.table = np.zeros((n_bins, TABLE_COLUMNS), np.int64)
        self.table[:, START] = -1
        self.closed: list[list[Slab]] = [[] for _ in range(n_bins)]
        self.n_closed = np.zeros(n_bins, np.int64)
        self.pieces: list[list[Piece]] = [[] for _ in range(n_bins)]
        self._scratch = scratch
        self._file: SpillFile | None = None

    @property
    def n_bins(self) -> int:
        return len(self.closed)

    @property
    def spilled_bytes(self) -> int:
        """Bytes written to scratch, compressed."""
        return 0 if self._file is None else self._file.n_bytes

    @property
    def can_spill(self) -> bool:
        return self._scratch is not None

    def open_file(self) -> SpillFile:
        """The file in scratch; opened when first wanted."""
        if self._file is None:
            if self._scratch is None:
                raise InternalError("records are to be spilled without a place for them")
            self._file = self._scratch()
        return self._file

    # --- slabs ---

    def close(self, k: int, slab: Slab) -> None:
        """Note a full slab of bin k."""
        self.closed[k].append(slab)
        self.n_closed[k] += 1

    def take_closed(self, k: int, n: int) -> list[Slab]:
        """Bin k's `n` oldest full slabs, which it has no more."""
        taken = self.closed[k][:n]
        del self.closed[k][:n]
        self.n_closed[k] -= len(taken)
        return taken

    def put_back(self, k: int, slabs: list[Slab]) -> None:
        """Undo `take_closed`."""
        self.closed[k][:0] = slabs
        self.n_closed[k] += len(slabs)

    def close_open(self, k: int) -> None:
        """Close bin k's open slab, full or not; no `add` may be writing to it."""
        row = self.table[k]
        if row[START] >= 0:
            self.close(k, Slab(int(row[START]), int(row[CURSOR]), int(row[N_OPEN]), 0))
        row[START], row[CURSOR], row[LIMIT], row[N_OPEN] = -1, 0, 0, 0

    def slabs(self, k: int) -> list[Slab]:
        """All of bin k's, the open one included."""
        row = self.table[k]
        opened = [Slab(int(row[START]), int(row[CURSOR]), int(row[N_OPEN]), 0)] if row[START] >= 0 else []
        return self.closed[k] + opened

    def free(self, k: int, *, to_system: bool = True) -> None:
        """Forget bin k's records; the disk goes to the system, the memory if wanted."""
        self.close_open(k)
        slabs = self.take_closed(k, len(self.closed[k]))
        self.arena.release([slab.start for slab in slabs], to_system=to_system)
        for piece in self.pieces[k]:
            self.open_file().forget(piece.frame)
        self.pieces[k].clear()

    # --- scratch, safe for threads ---

    def write(self, slabs: list[Slab], file: SpillFile) -> list[Piece]:
        """Sort the records of some slabs of one bin into scratch."""
        n = sum(slab.n for slab in slabs)
        keys, sources = np.empty(n, np.uint64), np.empty(n, np.int64)
        list_records(self.arena.data, spans_of(slabs), keys, sources)
        keys, sources = sort_keys(keys, sources)
        frame = np.empty(self.frame_bytes, np.uint8)
        filled = np.zeros(1, np.int64)
        pieces = []
        done = 0
        while done < n:
            first = done
            done = pack(self.arena.data, sources, keys, first, frame, filled)
            pieces.append(Piece(file.append(frame[: filled[0]]), int(keys[first]), int(keys[done - 1])))
        return pieces

    def buffers(self, k: int, low: int, high: int) -> Iterator[tuple[NDArray[np.uint8], int, int]]:
        """What may hold bin k's records with low <= key < high: an array, and its first and last byte in use."""
        for slab in self.slabs(k):
            yield self.arena.data, slab.start, slab.stop
        for piece in self.pieces[k]:
            if piece.low < high and piece.high >= low:
                data = self.open_file().load(piece.frame)
                yield data, 0, len(data)


def spans_of(slabs: list[Slab]) -> NDArray[np.int64]:
    """int64 [n, 2]: first byte and end of each."""
    return np.array([slab[:2] for slab in slabs], np.int64).reshape(-1, 2)
