# SPDX-License-Identifier: Apache-2.0
"""The index of a sorted BAM (SAM specification, chapter 5): BAI, or CSI where a contig is too long for it.

In: the records while they are written, with their inflated offsets. Out: the bytes of the index, once the
compressed blocks have their places. Next: readers find the records of a region.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U, load_i32, load_u16, load_u32
from megabolt.compute.jit import inline, kernel
from megabolt.errors import InputFormatError, InternalError
from megabolt.formats import bgzf
from megabolt.formats.bam_records import RecordBlock

_MIN_SHIFT = 14  # windows and smallest bins of 16 kb
_BAI_DEPTH = 5
#: Longest contig a BAI can index.
BAI_LIMIT = 1 << (_MIN_SHIFT + 3 * _BAI_DEPTH)
_ADVICE = "Make the index again: samtools index."
#: Columns of the table of chunks, and of the counts per contig.
_CONTIG, _BIN, _START, _STOP = range(4)
_FIRST, _LAST, _MAPPED, _UNMAPPED = range(4)


class IndexBuilder:
    """Collects what an index needs while sorted records are written.

    Parameters
    ----------
    contig_lengths
        Of all contigs of the header.
    """

    def __init__(self, contig_lengths: Sequence[int]) -> None:
        longest = max(contig_lengths, default=0)
        self.depth = _BAI_DEPTH
        while 1 << (_MIN_SHIFT + 3 * self.depth) < longest:
            self.depth += 1
        n_windows = [0, *((length >> _MIN_SHIFT) + 1 for length in contig_lengths)]
        self._window_offset = np.cumsum(np.array(n_windows, np.int64))
        self._windows = np.full(int(self._window_offset[-1]) + 1, -1, np.int64)
        self._last_chunk = np.full(_n_bins(self.depth), -1, np.int64)
        self._chunks = np.empty((1 << 12, 4), np.int64)
        self._counts = np.zeros((len(contig_lengths) + 1, 4), np.int64)
        self._state = np.array([0, -1, 0], np.int64)  # contig and pos of the previous record; number of chunks

    @property
    def is_csi(self) -> bool:
        """Whether a contig is too long for a BAI."""
        return self.depth > _BAI_DEPTH

    def add(self, block: RecordBlock, inflated_offset: int) -> None:
        """Take note of the records of a block that begins at an inflated offset of the file.

        Raises
        ------
        InternalError
            They are not sorted, or lie on no contig of the header.
        """
        needed = int(self._state[2]) + block.n
        if needed > len(self._chunks):
            grown = np.empty((max(needed, 2 * len(self._chunks)), 4), np.int64)
            grown[: len(self._chunks)] = self._chunks
            self._chunks = grown
        bad = int(
            _index_records(
                block.data,
                block.offsets,
                inflated_offset,
                self.depth,
                self._window_offset,
                self._windows,
                self._last_chunk,
                self._chunks,
                self._counts,
                self._state,
            )
        )
        if bad >= 0:
            raise InternalError(f"record {bad} of a block given to the BAM writer is out of order or place")

    def encode(self, virtual_offsets: Callable[[NDArray[np.int64]], NDArray[np.uint64]]) -> bytes:
        """The bytes of the index file.

        Parameters
        ----------
        virtual_offsets
            Turns inflated offsets into virtual offsets: `BgzfWriter.virtual_offsets` of the closed file.
        """
        index = self.finish(virtual_offsets)
        n_contigs = len(index.windows)
        head = b"BAI\x01"
        if self.is_csi:
            head = b"CSI\x01" + struct.pack("<iii", _MIN_SHIFT, self.depth, 0)
        parts = [head, struct.pack("<i", n_contigs)]
        parts.extend(self._encode_contig(index, contig, virtual_offsets) for contig in range(n_contigs))
        parts.append(struct.pack("<Q", int(self._counts[-1, _MAPPED] + self._counts[-1, _UNMAPPED])))
        whole = b"".join(parts)
        return bgzf.compress_blocks(whole) + bgzf.EOF_BLOCK if self.is_csi else whole

    def finish(self, virtual_offsets: Callable[[NDArray[np.int64]], NDArray[np.uint64]]) -> Index:
        """The same index, for use in memory."""
        chunks = self._chunks[: self._state[2]]
        order = np.lexsort((chunks[:, _START], chunks[:, _BIN], chunks[:, _CONTIG]))
        chunks = chunks[order]
        virtual = virtual_offsets(chunks[:, _START : _STOP + 1])
        windows = []
        for contig in range(len(self._window_offset) - 1):
            filled = _fill_from_the_right(self._windows[slice(*self._window_offset[contig : contig + 2])])
            windows.append(virtual_offsets(filled))
        return Index(self.depth, chunks[:, : _BIN + 1], virtual, tuple(windows))

    def _encode_contig(
        self,
        index: Index,
        contig: int,
        virtual_offsets: Callable[[NDArray[np.int64]], NDArray[np.uint64]],
    ) -> bytes:
        rows = slice(*np.searchsorted(index.bins[:, 0], [contig, contig + 1]))
        bins, chunks = index.bins[rows, 1], index.chunks[rows]
        numbers, first, n_chunks = np.unique(bins, return_index=True, return_counts=True)
        windows, counts = index.windows[contig], self._counts[contig]
        parts = [struct.pack("<i", len(numbers) + (1 if len(numbers) else 0))]
        for number, i, n in zip(numbers.tolist(), first.tolist(), n_chunks.tolist()):
            parts.append(struct.pack("<I", number))
            if self.is_csi:
                parts.append(struct.pack("<Q", _loff(number, self.depth, windows)))
            parts.append(struct.pack("<i", n) + chunks[i : i + n].astype("<u8").tobytes())
        if len(numbers):  # the pseudo-bin: where the contig's records lie, and how many there are
            parts.append(struct.pack("<I", _n_bins(self.depth) + 1))
            if self.is_csi:
                parts.append(struct.pack("<Q", 0))
            span = virtual_offsets(counts[[_FIRST, _LAST]]).tolist()
            parts.append(struct.pack("<iQQQQ", 2, *span, *counts[[_MAPPED, _UNMAPPED]].tolist()))
        if not self.is_csi:
            parts.append(struct.pack("<i", len(windows)) + windows.astype("<u8").tobytes())
        return b"".join(parts)


@dataclass(frozen=True)
class Index:
    """An index in memory.

    Attributes
    ----------
    depth
        Levels of bins below the first.
    bins
        int64 [n_chunks, 2]: contig and bin of each chunk; sorted by contig.
    chunks
        uint64 [n_chunks, 2]: virtual offsets where the chunk begins and ends.
    windows
        For each contig, uint64 [n]: virtual offset of the first record that overlaps each window of 16 kb;
        empty for CSI files.
    """

    depth: int
    bins: NDArray[np.int64]
    chunks: NDArray[np.uint64]
    windows: tuple[NDArray[np.uint64], ...]

    def start_of(self, contig: int, start: int, stop: int) -> int | None:
        """A virtual offset from which all records that overlap the region are found; None: there are none."""
        low, high = np.searchsorted(self.bins[:, 0], [contig, contig + 1])
        wanted = _bins_of_region(start, max(stop, start + 1), self.depth)
        chosen = np.isin(self.bins[low:high, 1], wanted)
        if not chosen.any():
            return None
        first = int(self.chunks[low:high][chosen, 0].min())
        windows = self.windows[contig]
        if len(windows):
            window = start >> _MIN_SHIFT
            if window >= len(windows):
                return None
            first = max(first, int(windows[window]))
        return first


def read_index(path: Path) -> Index:
    """Read a BAI or CSI file.

    Raises
    ------
    InputFormatError
        Not an index, or damaged.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = bgzf.decompress(data, path)[:-PADDING].tobytes()
        return _decode(data)
    except OSError as error:
        raise InputFormatError(path, "", f"cannot be read ({error.strerror})", _ADVICE) from error
    except (struct.error, ValueError) as error:
        raise InputFormatError(path, "", "not an index of a BAM file, or damaged", _ADVICE) from error


def _decode(data: bytes) -> Index:
    if data[:4] == b"BAI\x01":
        is_csi, depth, place = False, _BAI_DEPTH, 4
    elif data[:4] == b"CSI\x01":
        shift, depth, n_extra = struct.unpack_from("<iii", data, 4)
        if shift != _MIN_SHIFT:
            raise ValueError(shift)
        is_csi, place = True, 16 + n_extra
    else:
        raise ValueError(data[:4])
    (n_contigs,) = struct.unpack_from("<i", data, place)
    place += 4
    bins: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
    chunks: list[NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)]
    windows = []
    for contig in range(n_contigs):
        (n_bins,) = struct.unpack_from("<i", data, place)
        place += 4
        for _ in range(n_bins):
            (number,) = struct.unpack_from("<I", data, place)
            place += 12 if is_csi else 4
            (n,) = struct.unpack_from("<i", data, place)
            if number < _n_bins(depth):
                bins.append(np.tile(np.array([[contig, number]], np.int64), (n, 1)))
                chunks.append(np.frombuffer(data, "<u8", 2 * n, place + 4).astype(np.uint64).reshape(n, 2))
            place += 4 + 16 * n
        n_windows = 0
        if not is_csi:
            (n_windows,) = struct.unpack_from("<i", data, place)
            place += 4
        windows.append(np.frombuffer(data, "<u8", n_windows, place).astype(np.uint64))
        place += 8 * n_windows
    return Index(depth, np.concatenate(bins), np.concatenate(chunks), tuple(windows))


def _n_bins(depth: int) -> int:
    return ((1 << (3 * (depth + 1))) - 1) // 7


def _bins_of_region(start: int, stop: int, depth: int) -> NDArray[np.int64]:
    """All bins that may hold records overlapping [start, stop)."""
    found, first, shift = [], 0, _MIN_SHIFT + 3 * depth
    for level in range(depth + 1):
        found.append(np.arange(first + (start >> shift), first + ((stop - 1) >> shift) + 1))
        first += 1 << (3 * level)
        shift -= 3
    return np.concatenate(found)


def _loff(number: int, depth: int, windows: NDArray[np.uint64]) -> int:
    """CSI: virtual offset of the first record that overlaps the bin's first window or what follows."""
    level, first = 0, 0
    while number >= first + (1 << (3 * level)):
        first += 1 << (3 * level)
        level += 1
    window = (number - first) << (3 * (depth - level))
    return int(windows[window]) if window < len(windows) else 0


def _fill_from_the_right(windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Windows up to the last one with records; those without have the offset of the next that has."""
    used = np.flatnonzero(windows >= 0)
    if not len(used):
        return np.empty(0, np.int64)
    following = np.searchsorted(used, np.arange(used[-1] + 1))
    return windows[used[following]]


@inline
def _bin_of(start: Any, stop: Any, depth: Any) -> Any:
    """The smallest bin that holds [start, stop) (SAM specification 5.3)."""
    last = stop - 1
    shift = 14
    first = ((np.int64(1) << (3 * depth)) - 1) // 7
    level = depth
    while level > 0 and (start >> shift) != (last >> shift):
        level -= 1
        shift += 3
        first -= np.int64(1) << (3 * level)
    return first + (start >> shift) if level > 0 else np.int64(0)


@kernel(
    "int64(uint8[::1], int64[::1], int64, int64, int64[::1], int64[::1], int64[::1], int64[:, ::1],"
    " int64[:, ::1], int64[::1])"
)
def _index_records(
    data: Any,
    offsets: Any,
    inflated_offset: Any,
    depth: Any,
    window_offset: Any,
    windows: Any,
    last_chunk: Any,
    chunks: Any,
    counts: Any,
    state: Any,
) -> Any:
    """Bin the records of a block. Returns -1, or the first record that is out of order or place.

    A bin's chunk goes on over gaps of less than a block (64 kB inflated): a reader has that block in hand.
    """
    n_contigs = len(window_offset) - 1
    n_chunks = state[2]
    for i in range(len(offsets) - 1):
        place = offsets[i]
        contig, start = np.int64(load_i32(data, place + 4)), np.int64(load_i32(data, place + 8))
        unmapped = load_u16(data, place + 18) & 4
        begin = inflated_offset + place - offsets[0]
        end = inflated_offset + offsets[i + 1] - offsets[0]
        rank = contig if contig >= 0 else n_contigs
        if contig < -1 or contig >= n_contigs or rank < state[0] or (rank == state[0] and start < state[1]):
            return i
        if rank != state[0] and contig >= 0:
            last_chunk[:] = -1
        if rank != state[0] or state[1] == -1:
            if counts[rank, 2] + counts[rank, 3] == 0:
                counts[rank, 0] = begin
        state[0], state[1] = rank, max(start, -1)
        counts[rank, 1] = end
        counts[rank, 3 if unmapped else 2] += 1
        if contig < 0:
            continue
        if start < 0:
            return i
        stop = start
        if unmapped == 0:
            cigar = place + 36 + np.int64(data[U(place + 12)])
            for k in range(np.int64(load_u16(data, place + 16))):
                operation = np.int64(load_u32(data, cigar + 4 * k))
                if (0x18D >> (operation & 15)) & 1 != 0:  # M D N = X
                    stop += operation >> 4
        stop = max(stop, start + 1)
        last_window = window_offset[contig] + ((stop - 1) >> 14)
        if last_window >= window_offset[contig + 1]:
            if (start >> 14) >= window_offset[contig + 1] - window_offset[contig]:
                return i
            last_window = window_offset[contig + 1] - 1
        for window in range(window_offset[contig] + (start >> 14), last_window + 1):
            if windows[window] < 0:
                windows[window] = begin
        number = _bin_of(start, stop, depth)
        k = last_chunk[number]
        if k >= 0 and begin - chunks[k, 3] < 0x10000:
            chunks[k, 3] = end
        else:
            chunks[n_chunks, 0] = contig
            chunks[n_chunks, 1] = number
            chunks[n_chunks, 2] = begin
            chunks[n_chunks, 3] = end
            last_chunk[number] = n_chunks
            n_chunks += 1
            state[2] = n_chunks
    return -1
