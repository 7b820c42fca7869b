# SPDX-License-Identifier: Apache-2.0
"""Arrays that are used for block after block: fresh ones cost more to be mapped than to be filled.

In: a name, a size. Out: a zeroed array, which belongs to the calling thread until it asks for that name again.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Buffers(threading.local):
    """Arrays by name, for each thread its own."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def zeros(self, name: str, n: int, dtype: Any) -> NDArray[Any]:
        """`n` zeros."""
        array = self.take(name, n, dtype)
        array.fill(0)
        return array

    def take(self, name: str, n: int, dtype: Any) -> NDArray[Any]:
        """`n` elements of any value."""
        array = self._arrays.get(name)
        if array is None or len(array) < n:
            array = self._arrays[name] = np.empty(n, dtype)
        return array[:n]
