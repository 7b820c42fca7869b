# SPDX-License-Identifier: Apache-2.0
"""Where records of a region begin in a bgzipped, indexed text file (SAM specification; tabix and CSI formats).

In: FILE.tbi or FILE.csi. Out: for many places at once, the virtual offset at which reading must begin.

Only the first offset matters here: who reads on in file order knows by the positions where a region ends.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InputFormatError
from megabolt.formats.bgzf import decompress

#: Windows of the linear index are 2^14 bases.
_TBI_SHIFT = 14
_HELP = "Make the index again: tabix -f -p vcf FILE."


def index_of(path: Path) -> Path:
    """The index beside a file: .tbi, else .csi.

    Raises
    ------
    InputFormatError
        There is none.
    """
    for suffix in (".tbi", ".csi"):
        beside = path.with_name(path.name + suffix)
        if beside.is_file():
            return beside
    raise InputFormatError(path, "", "its index (.tbi or .csi) is missing", f"Make it: tabix -p vcf {path.name}")


class TabixIndex:
    """The names in an index and the first offset of each window.

    Raises
    ------
    InputFormatError
        Not an index, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputFormatError(path, "", f"cannot be read ({error.strerror})", "Check the permissions.") from error
        inflated = decompress(data, path)
        self._data = inflated.tobytes()
        try:
            kind = self._data[:4]
            self._open_ended = kind == b"CSI\1"
            if kind == b"TBI\1":
                self._first = self._read_tbi()
            elif kind == b"CSI\1":
                self._first = self._read_csi()
            else:
                raise InputFormatError(path, "", "not a tabix index", _HELP)
        except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
            raise InputFormatError(path, "", "the index is damaged", _HELP) from error
        del self._data

    @property
    def names(self) -> list[str]:
        """Contigs with records, in file order."""
        return list(self._first)

    def offsets(self, contig: str, places: Sequence[int]) -> NDArray[np.int64]:
        """Virtual offset before all records that overlap or follow each place (0-based); -1 where there are none."""
        windows = self._first.get(contig)
        if windows is None or len(windows[1]) == 0:
            return np.full(len(places), -1, np.int64)
        shift, offsets = windows
        at = np.asarray(places, np.int64) >> shift
        # a tabix index ends with the last record; behind the last bin of a CSI index there may be more
        inside = (at < len(offsets)) | self._open_ended
        return np.where(inside, offsets[np.minimum(at, len(offsets) - 1)], -1)

    def _names_at(self, at: int, size: int) -> list[str]:
        return [name.decode() for name in self._data[at : at + size].split(b"\0")[:-1]]

    def _read_tbi(self) -> dict[str, tuple[int, NDArray[np.int64]]]:
        data = self._data
        n_contigs, *_, l_names = struct.unpack_from("<8i", data, 4)
        names, at = self._names_at(36, l_names), 36 + l_names
        if len(names) != n_contigs:
            raise ValueError
        found = {}
        for name in names:
            (n_bins,) = struct.unpack_from("<i", data, at)
            at += 4
            for _ in range(n_bins):
                _, n_chunks = struct.unpack_from("<Ii", data, at)
                at += 8 + 16 * n_chunks
            (n_windows,) = struct.unpack_from("<i", data, at)
            offsets = np.frombuffer(data, "<i8", n_windows, at + 4).astype(np.int64)
            at += 4 + 8 * n_windows
            found[name] = (_TBI_SHIFT, _filled(offsets))
        return found

    def _read_csi(self) -> dict[str, tuple[int, NDArray[np.int64]]]:
        data = self._data
        shift, depth, l_aux = struct.unpack_from("<3i", data, 4)
        (l_names,) = struct.unpack_from("<i", data, 16 + 24)
        names, at = self._names_at(16 + 28, l_names), 16 + l_aux
        (n_contigs,) = struct.unpack_from("<i", data, at)
        at += 4
        leaf = ((1 << 3 * depth) - 1) // 7  # number of the first bin of the finest level
        found = {}
        for name in names[:n_contigs]:
            (n_bins,) = struct.unpack_from("<i", data, at)
            at += 4
            first: dict[int, int] = {}
            for _ in range(n_bins):
                number, offset, n_chunks = struct.unpack_from("<IQi", data, at)
                at += 16 + 16 * n_chunks
                first[number] = offset
            found[name] = (shift, _filled(_leaf_offsets(first, leaf)))
        return found


def _leaf_offsets(first: dict[int, int], leaf: int) -> NDArray[np.int64]:
    """First offset of each window of the finest level that begins a bin of any level.

    Small bins are merged into coarser ones when an index is made, so a window without an entry may have records:
    reading begins at the last entry before it.
    """
    entries: dict[int, int] = {}
    for number, offset in first.items():
        if number <= leaf * 8:  # beyond is the pseudo-bin of counts
            begin = number
            while begin < leaf:
                begin = begin * 8 + 1
            entries[begin - leaf] = min(offset, entries.get(begin - leaf, offset))
    offsets = np.zeros(max(entries, default=-1) + 1, np.int64)
    for window, offset in entries.items():
        offsets[window] = offset
    return offsets


def _filled(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Windows without an entry of their own take the last one before, the first ones the first there is."""
    if len(offsets) == 0 or not offsets.any():
        return offsets[:0]
    filled = np.maximum.accumulate(offsets)
    filled[filled == 0] = filled[filled > 0][0]
    return filled
