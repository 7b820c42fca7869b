# SPDX-License-Identifier: Apache-2.0
"""How records get into bins: room in slabs while there is some, and slabs to scratch when there is none.

In: a `RecordChunk` per batch, from any thread. Out: filled `BinContents`. Used by `reads/bins.py`.

`add` finds room for a chunk's records under a lock and copies them without it. Each such turn has a ticket; a full slab
may go to scratch when no turn is at work whose ticket is as old as the slab's closing. A thread that finds no room ends
its turn first and then makes some, or waits for those who do, so that nobody waits for one who waits.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import UNPLACED, RecordChunk
from megabolt.errors import InternalError, ResourceError
from megabolt.reads.arena import BufferPool
from megabolt.reads.bin_contents import BinContents, Slab
from megabolt.reads.bin_kernels import CURSOR, START, assign, store
from megabolt.reads.bin_layout import BinLayout
from megabolt.reads.packing import PACKING_BYTES, Packed, pack_records, packed_room

#: What goes to scratch at once: at most this part of the arena, and not more than so many bytes.
_RUN_SHARE = 32
_MAX_RUN_BYTES = 1 << 26


class BinFiller:
    """Puts records into bins; safe for threads.

    Parameters
    ----------
    layout
        Of the bins.
    contents
        Takes the records.
    budget
        For messages.
    shift
        Bits of an ordinal below the number of its template.

    Attributes
    ----------
    n_pairs
        Templates in the chunks so far.
    n_templates
        One more than the largest number of a template.
    """

    def __init__(self, layout: BinLayout, contents: BinContents, budget: int, shift: int) -> None:
        self.n_pairs = 0
        self.n_templates = 0
        self._layout, self._contents, self._budget, self._shift = layout, contents, budget, shift
        self._buffers = BufferPool()
        self._changed = threading.Condition()  # guards all below and the contents
        self._active: set[int] = set()  # tickets of the turns at work
        self._ticket = 0
        self._spilling = 0
        self._sealed = False

    def pack(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Packed:
        """See `BinStore.pack`."""
        buffer = self._buffers.take(packed_room(offsets))
        return Packed(buffer, pack_records(data, offsets, buffer))

    def add(self, chunk: RecordChunk, early: Packed | None = None) -> None:
        """Copy a chunk's records into their bins. Raises as `BinStore.add`."""
        self._check(chunk)
        buffer, packed = early or self.pack(chunk.data, chunk.offsets[: chunk.n_records + 1])
        # [0]: addresses, [1]: keys; of the bin's own copy, and of that for the neighbour's halo (or -1)
        own = np.empty((2, chunk.n_records), np.int64)
        halo = np.empty((2, chunk.n_records), np.int64)
        done = 0
        while done < chunk.n_records:
            begin = done
            with self._changed:
                self._ticket += 1
                ticket = self._ticket
                self._active.add(ticket)
                done = self._assign(chunk, packed, begin, own, halo, ticket)
            try:  # the long part, side by side
                store(buffer, packed, begin, done, own, halo, self._contents.arena.data)
            finally:
                with self._changed:
                    self._active.remove(ticket)
                    self._changed.notify_all()
            if done < chunk.n_records:
                self._make_room()
        self._buffers.give_back(buffer)
        with self._changed:
            self.n_pairs += chunk.n_pairs
            if chunk.n_records:
                last = (chunk.first_pair << self._shift) + int(chunk.ordinal[chunk.n_records - 1])
                self.n_templates = max(self.n_templates, (last >> self._shift) + 1)

    def _check(self, chunk: RecordChunk) -> None:
        if self._sealed:
            raise InternalError("records come after the last")
        sizes = np.diff(chunk.offsets[: chunk.n_records + 1])
        longest, limit = int(sizes.max(initial=0)), self._contents.arena.slab_bytes - 8 - PACKING_BYTES
        if longest > limit:
            raise ResourceError(
                f"a record of {longest:,} bytes is too long to be sorted: at most {limit:,} are possible",
                "megabolt is made for short reads; a larger --memory may help.",
            )

    def _assign(
        self,
        chunk: RecordChunk,
        packed: NDArray[np.int64],
        begin: int,
        own: NDArray[np.int64],
        halo: NDArray[np.int64],
        ticket: int,
    ) -> int:
        contents, layout = self._contents, self._layout
        arena = contents.arena
        most = min(int(arena.n_free[0]), 2 * chunk.n_records)
        closed, n_closed = np.empty((most, 4), np.int64), np.zeros(1, np.int64)
        done: int = assign(
            packed,
            chunk.offsets,
            chunk.key,
            chunk.ordinal,
            begin,
            chunk.n_records,
            chunk.first_pair << self._shift,
            layout.first_bin,
            layout.last_bin,
            layout.place,
            layout.n_bins,
            UNPLACED,
            contents.table,
            arena.free,
            arena.n_free,
            arena.slab_bytes,
            closed,
            n_closed,
            own,
            halo,
        )
        for k, start, stop, n in closed[: n_closed[0]].tolist():
            contents.close(k, Slab(start, stop, n, ticket))
        return done

    def _make_room(self) -> None:
        """Bring slabs to scratch until one is free; by this thread, unless others have done it meanwhile."""
        contents = self._contents
        with self._changed:
            if not contents.can_spill:
                raise self._full()
            while True:
                if contents.arena.n_free[0]:
                    return
                runs = self._choose()
                if runs:
                    self._spilling += 1
                    break
                self._changed.wait()
        self._spill(runs)

    def _choose(self) -> list[tuple[int, list[Slab]]]:
        """Slabs that nobody writes to, of the fullest bins; they are the caller's now."""
        contents = self._contents
        oldest = min(self._active, default=self._ticket + 1)
        wanted = self._slabs_at_once()
        runs = []
        for k in np.argsort(-contents.n_closed).tolist():
            if not contents.n_closed[k] or wanted <= 0:
                break
            n_safe = bisect_left(contents.closed[k], oldest, key=lambda slab: slab.ticket)
            slabs = contents.take_closed(k, min(n_safe, wanted))
            if slabs:
                runs.append((k, slabs))
                wanted -= len(slabs)
        if runs or self._active or self._spilling:
            return runs
        return self._choose_open(wanted)

    def _choose_open(self, wanted: int) -> list[tuple[int, list[Slab]]]:
        """No slab is full: those that have most in them."""
        contents = self._contents
        filled = np.where(contents.table[:, START] >= 0, contents.table[:, CURSOR] - contents.table[:, START], 0)
        runs = []
        for k in np.argsort(-filled)[: max(1, wanted)].tolist():
            if filled[k]:
                contents.close_open(k)
                runs.append((k, contents.take_closed(k, 1)))
        if not runs:
            raise self._full()
        return runs

    def _slabs_at_once(self) -> int:
        arena = self._contents.arena
        return max(1, min(arena.n_slabs // _RUN_SHARE, _MAX_RUN_BYTES // arena.slab_bytes))

    def _spill(self, runs: list[tuple[int, list[Slab]]]) -> None:
        """Bring chosen slabs to scratch; the caller has counted it among those at work."""
        contents = self._contents
        try:
            with self._changed:
                file = contents.open_file()
            while runs:
                k, slabs = runs[-1]
                pieces = contents.write(slabs, file)
                runs.pop()
                with self._changed:
                    contents.pieces[k] += pieces
                    contents.arena.release([slab.start for slab in slabs], to_system=self._sealed)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._spilling -= 1
                for k, slabs in runs:
                    contents.put_back(k, slabs)
                self._changed.notify_all()

    def _full(self) -> ResourceError:
        per_pair = self._contents.arena.used / max(1, self.n_pairs)
        return ResourceError(
            f"the records of the first {self.n_pairs:,} read pairs or single reads fill the"
            f" {self._budget / 1e9:.2f} GB of memory that this job has for them",
            f"Give more with --memory: a million pairs like these take {per_pair / 1e3:.2f} GB,"
            " besides the reference's index.",
        )

    def seal(self, room: int = 0, threads: int = 1) -> None:
        """All records are in: leave `room` bytes of the budget to sorted blocks.

        What is in the way goes to scratch, if there is one, the last bins first, as they are wanted last.
        """
        contents = self._contents
        self._sealed = True
        excess = contents.arena.used - (self._budget - room)
        runs: list[tuple[int, list[Slab]]] = []
        k = contents.n_bins
        while contents.can_spill and excess > 0 and k > 0:
            k -= 1
            contents.close_open(k)
            while excess > 0 and contents.n_closed[k]:
                wanted = min(self._slabs_at_once(), -(-excess // contents.arena.slab_bytes))
                slabs = contents.take_closed(k, wanted)
                runs.append((k, slabs))
                excess -= len(slabs) * contents.arena.slab_bytes
        self._spilling = len(runs)
        with ThreadPoolExecutor(threads) as pool:
            for task in [pool.submit(self._spill, [run]) for run in runs]:
                task.result()
