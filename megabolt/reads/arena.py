# SPDX-License-Identifier: Apache-2.0
"""Memory for packed records: a reserved range of addresses, handed out in slabs.

Fresh memory costs more than what is written into it (a page fault per 4 kB), so the arena hands out first what was
used before, and `BufferPool` keeps large buffers for the next user. The arena does not ask for huge pages: a virtual
machine whose host takes back what is free gets them from blocks that the host has taken, and the first touch of a GB
then costs 2 to 3.5 CPU seconds, of small pages 0.7. Where nothing is taken back they would save some 0.3 of them.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import ResourceError

#: Bytes of a slab: a whole number of pages of every usual size (4, 16, 64 kB). On average half a slab of each
#: bin is empty: 200 MB for a human genome.
SLAB_BYTES = 1 << 17
#: Linux: do not set swap aside for what is only reserved. Python names it from 3.13 on.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


def reserve(n_bytes: int) -> tuple[mmap.mmap, NDArray[np.uint8]]:
    """A zeroed range of memory that takes room only where it is written.

    Raises
    ------
    ResourceError
        The system refuses to reserve so much.
    """
    try:
        area = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"the system does not grant {n_bytes / 1e9:.1f} GB of memory ({error})",
            "Lower --memory, or raise the limit on virtual memory (ulimit -v).",
        ) from error
    return area, np.frombuffer(area, np.uint8)


class Arena:
    """Slabs of one reserved range; safe for one caller at a time.

    Parameters
    ----------
    budget
        Bytes that slabs may take in all, at least one slab.
    slab_bytes
        Bytes of a slab: a multiple of the system's page.

    Attributes
    ----------
    data
        uint8: the range, with PADDING behind.
    free
        int64 [n_slabs]: a stack of the starts of free slabs, for kernels; the next to go is free[n_free[0] - 1].
    n_free
        int64 [1].
    """

    def __init__(self, budget: int, slab_bytes: int = SLAB_BYTES) -> None:
        self.slab_bytes = slab_bytes
        self.n_slabs = max(1, budget // slab_bytes)
        self._area, self.data = reserve(self.n_slabs * slab_bytes + PADDING)
        self.free = np.arange(self.n_slabs - 1, -1, -1, dtype=np.int64) * slab_bytes
        self.n_free = np.array([self.n_slabs], np.int64)

    @property
    def used(self) -> int:
        """Bytes in slabs that are taken."""
        return (self.n_slabs - int(self.n_free[0])) * self.slab_bytes

    def take(self) -> int | None:
        """Start of a slab in `data`, or None when the budget is spent."""
        if self.n_free[0] == 0:
            return None
        self.n_free[0] -= 1
        return int(self.free[self.n_free[0]])

    def release(self, starts: Sequence[int], *, to_system: bool = False) -> None:
        """Take slabs back: for the next user, or their memory goes to the system."""
        n = int(self.n_free[0])
        self.free[n : n + len(starts)] = starts
        self.n_free[0] = n + len(starts)
        if to_system and hasattr(mmap, "MADV_DONTNEED"):
            for first, last in self._runs(sorted(starts)):
                self._area.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _runs(self, starts: list[int]) -> list[tuple[int, int]]:
        """Adjacent slabs joined."""
        runs: list[tuple[int, int]] = []
        for start in starts:
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], start + self.slab_bytes)
            else:
                runs.append((start, start + self.slab_bytes))
        return runs


class BufferPool:
    """Large byte buffers that are used again; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[NDArray[np.uint8]] = []

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """A buffer of at least `n_bytes` and PADDING more; its content is arbitrary."""
        size = n_bytes + PADDING
        with self._lock:
            fitting = [buffer for buffer in self._free if len(buffer) >= size]
            if fitting:
                buffer = min(fitting, key=len)
                self._free = [other for other in self._free if other is not buffer]
                return buffer
            if self._free:  # too small for this one: let it go rather than keep both
                self._drop_smallest()
        return np.empty(size + size // 8, np.uint8)

    def _drop_smallest(self) -> None:
        smallest = min(range(len(self._free)), key=lambda k: len(self._free[k]))
        del self._free[smallest]

    def give_back(self, buffer: NDArray[np.uint8]) -> None:
        """Keep a buffer for the next user."""
        with self._lock:
            self._free.append(buffer)
