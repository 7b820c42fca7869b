# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM: the numbers that all fast backends share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The fast kernels multiply every probability with this: the top of the number range, and room for sums.
SCALE = 2.0**120
SCALE64 = 2.0**1000
#: A scaled sum below this has lost paths to underflow that could matter: it is ten decades (18 in float64) above
#: the smallest normal number, so what was flushed to zero is less than 1e-7 of it.
SMALLEST_SUM = np.float32(1e-28)
SMALLEST_SUM64 = 1e-290

#: P(wrong) of each Phred quality; beyond 0.75 a base would be evidence against what it says.
P_WRONG: NDArray[np.float64] = np.minimum(10.0 ** (-np.arange(256) / 10.0), 0.75)
#: [512]: the prior of a base that disagrees, P(wrong) / 3, of each quality; then of one that agrees.
PRIORS64: NDArray[np.float64] = np.concatenate([P_WRONG / 3.0, 1.0 - P_WRONG])
PRIORS: NDArray[np.float32] = PRIORS64.astype(np.float32)


def log10_of_sums(sums: NDArray[Any], scale: float) -> NDArray[np.float64]:
    """float64 log10 P of scaled sums; meaningless where a sum is below the smallest."""
    wide: NDArray[np.float64] = np.maximum(sums, 1e-300, dtype=np.float64)
    np.log10(wide, out=wide)
    wide -= math.log10(scale)
    return wide
