# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM: numbers that all fast backends share, and the plainest recomputation, for what float64 cannot hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import kernel

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


@kernel(
    "void(uint8[::1], uint8[::1], int64[::1], uint8[::1], float32[::1], float32[::1], int64[::1],"
    "int32[:,::1], int64[::1], float64[::1], float64[::1])"
)
def recompute(
    reads: NDArray[np.uint8],
    qualities: NDArray[np.uint8],
    read_offsets: NDArray[np.int64],
    haps: NDArray[np.uint8],
    gap_open: NDArray[np.float32],
    gap_extend: NDArray[np.float32],
    hap_offsets: NDArray[np.int64],
    pairs: NDArray[np.int32],
    which: NDArray[np.int64],
    p_wrong: NDArray[np.float64],
    log10_p: NDArray[np.float64],
) -> None:
    """log10_p[pair] of each pair of `which`. i over read, j over haplotype, n and m their lengths."""
    longest = 0
    for w in range(len(which)):
        hap = pairs[which[w], 1]
        longest = max(longest, hap_offsets[hap + 1] - hap_offsets[hap])
    M = np.empty(longest)  # row i-1, overwritten by row i; index j-1
    I = np.empty(longest)
    D = np.empty(longest)
    for w in range(len(which)):
        read, hap = pairs[which[w], 0], pairs[which[w], 1]
        read_start, hap_start = read_offsets[read], hap_offsets[hap]
        n = read_offsets[read + 1] - read_start
        m = hap_offsets[hap + 1] - hap_start
        log10_scale = 0.0
        for i in range(n):
            base = reads[read_start + i]
            wrong = p_wrong[qualities[read_start + i]]
            top = 0.0
            m_diagonal = i_diagonal = d_diagonal = 0.0
            m_left = d_left = 0.0
            for j in range(m):
                code = haps[hap_start + j]
                agree = base == code or base > 3 or code > 3
                prior = 1.0 - wrong if agree else wrong / 3.0
                g, x = np.float64(gap_open[hap_start + j]), np.float64(gap_extend[hap_start + j])
                after = hap_start + min(j + 1, m - 1)
                if i == 0:
                    m_here = prior / m
                    i_here = 0.0
                else:
                    m_here = prior * ((1.0 - 2.0 * g) * m_diagonal + (1.0 - x) * (i_diagonal + d_diagonal))  # (1)
                    i_here = gap_open[after] * M[j] + gap_extend[after] * I[j]  # (2)
                    m_diagonal, i_diagonal, d_diagonal = M[j], I[j], D[j]
                d_left = g * m_left + x * d_left  # (3)
                m_left = m_here
                M[j], I[j], D[j] = m_here, i_here, d_left
                top = max(top, max(m_here, i_here))
            if top < 1e-100:
                for j in range(m):
                    M[j] /= top
                    I[j] /= top
                    D[j] /= top
                log10_scale += math.log10(top)
        total = 0.0
        for j in range(m):
            total += M[j] + I[j]  # (4)
        log10_p[which[w]] = math.log10(total) + log10_scale
