# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM in float64, one pair at a time, rescaled row by row: for what is too small even for float64.

Importing this module compiles the kernel, so it is imported when the first such pair is met; most runs meet none.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import kernel


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
