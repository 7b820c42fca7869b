# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM, written to be read: one pair at a time, full matrices, float64. The oracle of the tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from megabolt.compute.pairhmm import PairHmmBatch

N = 4


def log10_likelihood(batch: PairHmmBatch) -> NDArray[np.float64]:
    """See `megabolt.compute.pairhmm.log10_likelihood`."""
    result = np.empty(len(batch.pairs))
    for pair, (read, hap) in enumerate(batch.pairs):
        bases = slice(batch.read_offsets[read], batch.read_offsets[read + 1])
        sites = slice(batch.hap_offsets[hap], batch.hap_offsets[hap + 1])
        result[pair] = _forward(
            batch.reads[bases],
            batch.qualities[bases],
            batch.haps[sites],
            batch.gap_open[sites].astype(np.float64),
            batch.gap_extend[sites].astype(np.float64),
        )
    return result


def _forward(
    read: NDArray[np.uint8],
    quality: NDArray[np.uint8],
    hap: NDArray[np.uint8],
    gap_open: NDArray[np.float64],
    gap_extend: NDArray[np.float64],
) -> float:
    """log10 P(read | hap). i over read, j over haplotype, n and m their lengths; row, column 0 are edges."""
    n, m = len(read), len(hap)
    g = np.concatenate([[0.0], gap_open, gap_open[-1:]])  # g[j], j = 1..m+1
    x = np.concatenate([[0.0], gap_extend, gap_extend[-1:]])
    M, I, D = np.zeros((3, n + 1, m + 1))
    log10_scale = 0.0
    for i in range(1, n + 1):
        p_wrong = min(10.0 ** (-int(quality[i - 1]) / 10), 0.75)
        for j in range(1, m + 1):
            agree = read[i - 1] == hap[j - 1] or read[i - 1] == N or hap[j - 1] == N
            prior = 1.0 - p_wrong if agree else p_wrong / 3
            if i == 1:
                M[i, j] = prior / m
            else:
                M[i, j] = prior * (
                    (1 - 2 * g[j]) * M[i - 1, j - 1] + (1 - x[j]) * (I[i - 1, j - 1] + D[i - 1, j - 1])
                )  # (1)
            I[i, j] = g[j + 1] * M[i - 1, j] + x[j + 1] * I[i - 1, j]  # (2)
            D[i, j] = g[j] * M[i, j - 1] + x[j] * D[i, j - 1]  # (3)
        if (top := max(M[i].max(), I[i].max())) < 1e-100:  # float64 ends at 1e-308
            for state in (M, I, D):
                state[i] /= top
            log10_scale += math.log10(top)
    return math.log10(np.sum(M[n] + I[n])) + log10_scale  # (4)
