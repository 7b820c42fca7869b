# SPDX-License-Identifier: Apache-2.0
"""The reference around the regions of a block, packed for comparison with reads, and its GC.

In: a `Reference`, regions. Out: `Stretches`. Next: `metrics.reads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U
from megabolt.compute.jit import kernel
from megabolt.formats.fasta import Reference
from megabolt.metrics.buffers import Buffers
from megabolt.metrics.counts import GC_BINS

#: Bases of a GC window, as in CollectGcBiasMetrics.
WINDOW = 100
#: Reference before a region: a window that ends with a read's last base may begin there. Even: see `_pack`.
_BEFORE = 128
#: Reference behind a region, for the reads that begin in it.
BEHIND = 4096
_buffers = Buffers()


class RegionLike(Protocol):
    """A piece of a contig that a block holds (`reads.bins.Region`)."""

    @property
    def contig(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass(frozen=True)
class Stretches:
    """The reference around a block's regions, packed as reads are.

    Attributes
    ----------
    table
        int64 [n, 6]: contig, first base, end, where it begins in `even` and `odd`, where in `gc`, the contig's length.
    even, odd
        uint8: two bases a byte, as in BAM; a byte of `odd` begins at an odd base.
    gc
        int8: percent of G and C in the window that begins at each base; -1 with more than four N.
    """

    table: NDArray[np.int64]
    even: NDArray[np.uint8]
    odd: NDArray[np.uint8]
    gc: NDArray[np.int8]


def stretches(
    reference: Reference, regions: Sequence[RegionLike], behind: int = BEHIND, windows: NDArray[np.int64] | None = None
) -> Stretches:
    """The reference around regions, `behind` bases beyond them; valid until the same thread asks again.

    Parameters
    ----------
    windows
        int64 [GC_BINS] or None: the windows that begin in the regions are counted here.
    """
    table = np.zeros((len(regions), 6), np.int64)
    packed_at = gc_at = 0
    for row, region in zip(table, regions):
        length = reference.contigs[region.contig].length
        first, stop = max(0, region.start - _BEFORE) & ~1, min(length, region.stop + behind)
        row[:] = region.contig, first, stop, packed_at, gc_at, length
        packed_at += (stop - first) // 2 + 32
        gc_at += stop - first + 1
    even = _buffers.zeros("even", packed_at + PADDING, np.uint8)
    odd = _buffers.zeros("odd", packed_at + PADDING, np.uint8)
    gc = _buffers.take("gc", gc_at, np.int8)
    counted = np.zeros(GC_BINS, np.int64) if windows is None else windows
    for row, region in zip(table, regions):
        contig, first, stop = (int(value) for value in row[:3])
        codes = reference.fetch(contig, first, stop + WINDOW)
        last_window = reference.contigs[contig].length - WINDOW
        begin, end = (region.start, region.stop) if windows is not None else (0, 0)
        _pack(codes, stop - first, even[row[3] :], odd[row[3] :])
        _windows(codes, first, stop, last_window, begin, end, gc[row[4] :], counted)
    return Stretches(table, even, odd, gc)


def no_stretches() -> Stretches:
    """Without a reference."""
    nothing = np.zeros(PADDING, np.uint8)
    return Stretches(np.zeros((0, 6), np.int64), nothing, nothing, np.zeros(1, np.int8))


# --- kernels ---


@kernel("void(uint8[::1], int64, uint8[::1], uint8[::1])")
def _pack(codes: Any, n: Any, even: Any, odd: Any) -> None:
    """Codes 0..4 to BAM's nibbles, two a byte, once from the first base on and once from one before it."""
    previous = np.uint8(15)
    for i in range((n + 1) >> 1):
        c, d = codes[U(2 * i)], codes[U(2 * i + 1)]
        high = np.uint8(1) << c if c < 4 else np.uint8(15)
        low = np.uint8(1) << d if d < 4 else np.uint8(15)
        even[U(i)] = np.uint8((high << 4) | low)
        odd[U(i)] = np.uint8((previous << 4) | high)
        previous = low
    odd[U((n + 1) >> 1)] = np.uint8(previous << 4)


@kernel("void(uint8[::1], int64, int64, int64, int64, int64, int8[::1], int64[::1])")
def _windows(codes: Any, first: Any, stop: Any, last_window: Any, begin: Any, end: Any, gc: Any, windows: Any) -> None:
    """GC of the window that begins at each base of [first, stop); windows in [begin, end) are counted.

    As in Picard, windows begin at 0-based 1 .. length - 101, and reads beyond them have a GC of 0.
    """
    n_gc = np.int64(0)
    n_unknown = np.int64(0)
    for i in range(WINDOW - 1):
        c = codes[U(i)]
        n_gc += np.int64(c == 1) + np.int64(c == 2)
        n_unknown += np.int64(c > 3)
    for at in range(first, stop):
        i = at - first
        c = codes[U(i + WINDOW - 1)]
        n_gc += np.int64(c == 1) + np.int64(c == 2)
        n_unknown += np.int64(c > 3)
        value = np.int64(0)
        if 1 <= at < last_window:
            value = n_gc * 100 // WINDOW if n_unknown <= 4 else np.int64(-1)
            if begin <= at < end and value >= 0:
                windows[U(value)] += 1
        gc[U(i)] = np.int8(value)
        c = codes[U(i)]
        n_gc -= np.int64(c == 1) + np.int64(c == 2)
        n_unknown -= np.int64(c > 3)
