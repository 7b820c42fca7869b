# SPDX-License-Identifier: Apache-2.0
"""Read group names, to be found by a kernel.

In: the IDs of the header's @RG lines. Out: a hash table of arrays. Next: `metrics.reads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING


@dataclass(frozen=True)
class GroupTable:
    """Read group names as the kernel looks them up.

    Attributes
    ----------
    names, bounds
        uint8, int64 [n + 1]: names one after another.
    slots
        int64 [power of two]: group by hash of its name, -1 where none; linear probing.
    """

    names: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    slots: NDArray[np.int64]

    @classmethod
    def of(cls, identifiers: Sequence[str]) -> GroupTable:
        """The table; with less than two names nothing is looked up."""
        texts = [name.encode() for name in identifiers]
        names = np.frombuffer(b"".join(texts) + bytes(PADDING), np.uint8).copy()
        bounds = np.cumsum([0, *(len(text) for text in texts)]).astype(np.int64)
        slots = np.full(1 << max(2, (3 * len(texts)).bit_length()), -1, np.int64)
        for i, text in enumerate(texts):
            h = 0xCBF29CE484222325
            for byte in text:
                h = ((h ^ byte) * 0x100000001B3) & (2**64 - 1)
            at = (h >> 20) & (len(slots) - 1)
            while slots[at] >= 0:
                at = (at + 1) & (len(slots) - 1)
            slots[at] = i
        return cls(names, bounds, slots)

    @property
    def n_rows(self) -> int:
        """Rows of counts: one for each group, and one for records of none of several."""
        n = len(self.bounds) - 1
        return n + 1 if n > 1 else 1
