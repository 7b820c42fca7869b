# SPDX-License-Identifier: Apache-2.0
"""Sorted records as pieces of the output, for jobs that write them and do nothing else.

In: the order of each part's records, `SortedPart`. Out: `Piece`s of as many bytes as one task compresses, filled record
by record from where they lie. Next: `formats/bam_writer.py`.

No block is made: a record is copied once, into a megabyte that a core's cache holds while it is compressed. Pieces go
on over the ends of parts and through records, so that they depend on nothing but the records.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.formats.bam import RecordBlock
from megabolt.reads.arena import SLAB_BYTES
from megabolt.reads.bin_layout import Part
from megabolt.reads.packing import NO_TAG, gather

_NO_BITS = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class SortedPart:
    """The order of a part's own records.

    Attributes
    ----------
    part
        The part.
    data
        uint8: holds the records.
    borrowed
        Whether `data` is a buffer of a pool; else it is the arena.
    keys, sources
        uint64, int64 [n]: as `bin_kernels.list_records` gives them, in order.
    ends
        int64 [n + 1]: bytes of the records before each.
    """

    part: Part
    data: NDArray[np.uint8]
    borrowed: bool
    keys: NDArray[np.uint64]
    sources: NDArray[np.int64]
    ends: NDArray[np.int64]


class _Stretch(NamedTuple):
    """Bytes start <= byte < stop of a part's records."""

    part: SortedPart
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """Bytes of the output.

    Attributes
    ----------
    stretches
        Where they come from.
    n_bytes
        How many.
    done
        Parts of which nothing comes behind it.
    """

    stretches: tuple[_Stretch, ...]
    n_bytes: int
    done: tuple[SortedPart, ...]


@dataclass(frozen=True)
class FilledPiece:
    """A piece with its content.

    Attributes
    ----------
    content
        uint8: the bytes; more of its buffer lies before and behind.
    begun
        The records that begin in it, the last one whole.
    ahead
        Bytes before the first of them.
    """

    piece: Piece
    content: NDArray[np.uint8]
    begun: RecordBlock
    ahead: int


def cut(parts: Iterable[SortedPart], size: int) -> Iterator[Piece]:
    """Pieces of `size` bytes, the last one smaller; parts are drawn when they are wanted."""
    stretches: list[_Stretch] = []
    done: list[SortedPart] = []
    room = size
    for part in parts:
        start, total = 0, int(part.ends[-1])
        while total - start >= room:
            stretches.append(_Stretch(part, start, start + room))
            start += room
            if start == total:
                done.append(part)
            yield Piece(tuple(stretches), size, tuple(done))
            stretches, done, room = [], [], size
        if start < total:
            stretches.append(_Stretch(part, start, total))
            room -= total - start
        if start < total or total == 0:
            done.append(part)
    if stretches or done:
        yield Piece(tuple(stretches), size - room, tuple(done))


class PieceFiller:
    """Fills pieces in buffers that are used again; safe for threads.

    Parameters
    ----------
    size
        Bytes of the largest piece.
    shift
        Bits of an ordinal below the template's number.
    duplicate
        uint8, a bit per template; empty: none is marked.
    """

    def __init__(self, size: int, shift: int, duplicate: NDArray[np.uint8]) -> None:
        self._size, self._shift, self._duplicate = size, shift, duplicate
        self._lock = threading.Lock()
        self._free: list[NDArray[np.uint8]] = []

    def fill(self, piece: Piece) -> FilledPiece:
        """Copy and mark the records; releases the GIL."""
        buffer = self._take()
        offsets = [np.zeros(1, np.int64)]
        place = n_started = 0
        for k, (part, start, stop) in enumerate(piece.stretches):
            first = int(np.searchsorted(part.ends, start, side="right")) - 1
            last = int(np.searchsorted(part.ends, stop, side="left"))
            if k == 0:  # room for what the piece before has of the first record
                place = SLAB_BYTES - (start - int(part.ends[first]))
                n_started = int(start > part.ends[first])
            found = np.zeros(last - first + 1, np.int64)
            gather(
                part.data,
                part.sources[first:last],
                part.keys[first:last],
                self._shift,
                self._duplicate,
                _NO_BITS,
                0,
                NO_TAG,
                buffer[place:],
                found,
            )
            offsets[-1] = offsets[-1][:-1]  # is the next one's first
            offsets.append(found + place)
            place += int(found[-1])
        every = np.concatenate(offsets)
        begun = RecordBlock(buffer, every[n_started:])
        ahead = int(begun.offsets[0]) - SLAB_BYTES
        return FilledPiece(piece, buffer[SLAB_BYTES : SLAB_BYTES + piece.n_bytes], begun, ahead)

    def _take(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._free:
                return self._free.pop()
        return np.empty(self._size + 2 * SLAB_BYTES + PADDING, np.uint8)

    def give_back(self, filled: FilledPiece) -> None:
        """Let the buffer be filled again."""
        with self._lock:
            self._free.append(filled.begun.data)
