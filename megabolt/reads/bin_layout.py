# SPDX-License-Identifier: Apache-2.0
"""How the genome is cut into bins, and the sorted blocks that come out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.formats.bam import RecordBlock
from megabolt.reads.bin_kernels import BIN_BASES, HALO


@dataclass(frozen=True)
class Region:
    """A piece of a contig and the place of its first base in its bin."""

    contig: int
    start: int
    stop: int
    place: int


class BinLayout:
    """How contigs are cut and packed into bins; bin `n_bins` holds the unplaced reads."""

    def __init__(self, contig_lengths: Sequence[int]) -> None:
        self.first_bin = np.zeros(len(contig_lengths), np.int64)
        self.last_bin = np.zeros(len(contig_lengths), np.int64)
        self.place = np.zeros(len(contig_lengths), np.int64)
        self.regions: list[list[Region]] = []
        room = 0  # in the last bin
        for contig, length in enumerate(contig_lengths):
            if length <= room:
                self._append(contig, 0, length, BIN_BASES - room)
                room -= length
                continue
            for start in range(0, max(length, 1), BIN_BASES):
                stop = min(start + BIN_BASES, length)
                self.regions.append([])
                self._append(contig, start, stop, 0)
            room = BIN_BASES - length if length < BIN_BASES else 0

    def _append(self, contig: int, start: int, stop: int, place: int) -> None:
        k = len(self.regions) - 1
        self.regions[k].append(Region(contig, start, stop, place))
        if start == 0:
            self.first_bin[contig] = k
            self.place[contig] = place
        self.last_bin[contig] = k

    @property
    def n_bins(self) -> int:
        """Bins with a place in the genome."""
        return len(self.regions)


@dataclass(frozen=True)
class Part:
    """A bin, or as much of a deep one as fits the memory for a block.

    Attributes
    ----------
    bin
        Its number.
    start, stop
        Places in the bin, start <= place < stop, of the records that are its own; 0 and BIN_BASES of a whole bin.
        Parts of the unplaced reads are cut by their order in the input instead: they have 0 and BIN_BASES, too.
    low, high
        Its block holds the records with low <= key < high.
    n_bytes
        Memory of its block at most, halo included.
    """

    bin: int
    start: int
    stop: int
    low: int
    high: int
    n_bytes: int

    def stretches(self, layout: BinLayout) -> list[tuple[Region, int, int]]:
        """The regions of the bin that it touches, each with the start and stop of what is its own there."""
        if self.bin == layout.n_bins:
            return []
        found = []
        for region in layout.regions[self.bin]:
            start = max(region.start, region.start + self.start - region.place)
            stop = min(region.stop, region.start + self.stop - region.place)
            if start < stop or (start == stop and self.start <= region.place < self.stop):  # an empty contig
                found.append((region, start, stop))
        return found


@dataclass(frozen=True)
class BinBlock:
    """The sorted records of a bin, or of a part of it, and of the halo.

    Attributes
    ----------
    records
        The own records in the middle, the neighbours' within HALO before and behind.
    place
        int64 [n]: place in the bin of each record; negative before the bin.
    first, last
        The own records are first <= i < last.
    """

    records: RecordBlock
    place: NDArray[np.int64]
    first: int
    last: int

    def own(self) -> RecordBlock:
        """What belongs into the BAM: each record is in one block's own part."""
        return slice_block(self.records, self.first, self.last)

    def around(self, region: Region, start: int, stop: int) -> RecordBlock:
        """Records of a region's contig that start in [start - HALO, stop + HALO).

        start, stop: inside the region, and inside the part that the block is of.
        """
        low = region.place + start - region.start - HALO
        high = region.place + stop - region.start + HALO
        if region.place > 0:  # packed contigs: the neighbours are other contigs
            low = max(low, region.place)
        if region.start == 0 and region.stop - region.start < BIN_BASES:
            high = min(high, region.place + region.stop - region.start)
        first, last = np.searchsorted(self.place, [low, high])
        return slice_block(self.records, int(first), int(last))


def slice_block(block: RecordBlock, first: int, last: int) -> RecordBlock:
    """Records first <= i < last, without copying them."""
    base = int(block.offsets[first])
    return RecordBlock(data=block.data[base:], offsets=block.offsets[first : last + 1] - base)
