# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM on the processor: a read per SIMD lane, all against one haplotype, two read bases a pass.

Because the lanes share the haplotype, its gap probabilities are broadcast scalars, and prior(i,j) is one load
from a table of five vectors (one per haplotype base code) that is rebuilt for every read base.

Measured on one core (150-base reads, 250-base haplotypes): see `benchmarks/kernels/bench_pairhmm.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import kernel
from megabolt.compute.pairhmm.scaling import (
    P_WRONG,
    PRIORS,
    PRIORS64,
    SCALE,
    SCALE64,
    SMALLEST_SUM,
    SMALLEST_SUM64,
    log10_of_sums,
)
from megabolt.compute.simd import (
    REGISTER_BITS,
    aligned_empty,
    broadcast,
    flush_denormals,
    fma,
    lanes,
    load,
    restore_denormals,
    splat,
    store,
)

if TYPE_CHECKING:
    from megabolt.compute.pairhmm import PairHmmBatch

U = np.uint64
N_CODES = 5
#: reads, qualities, read_offsets, haps, gap_open, gap_extend, hap_offsets of a `PairHmmBatch`
Inputs = tuple[
    NDArray[np.uint8],
    NDArray[np.uint8],
    NDArray[np.int64],
    NDArray[np.uint8],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.int64],
]


def log10_likelihood(batch: PairHmmBatch) -> NDArray[np.float64]:
    """See `megabolt.compute.pairhmm.log10_likelihood`."""
    return log10_likelihood_arrays(
        batch.reads,
        batch.qualities,
        batch.read_offsets,
        batch.haps,
        batch.gap_open,
        batch.gap_extend,
        batch.hap_offsets,
        batch.pairs,
    )


def log10_likelihood_arrays(
    reads: NDArray[np.uint8],
    qualities: NDArray[np.uint8],
    read_offsets: NDArray[np.int64],
    haps: NDArray[np.uint8],
    gap_open: NDArray[np.float32],
    gap_extend: NDArray[np.float32],
    hap_offsets: NDArray[np.int64],
    pairs: NDArray[np.int32],
) -> NDArray[np.float64]:
    """The fields of a `PairHmmBatch`, unchecked, for hot loops; thread-safe, the GIL is free meanwhile."""
    if len(pairs) == 0:
        return np.empty(0)
    inputs = (reads, qualities, read_offsets, haps, gap_open, gap_extend, hap_offsets)
    sums = _all_sums(inputs, pairs, PRIORS, SCALE)
    log10_p = log10_of_sums(sums, SCALE)
    rescue(inputs, pairs, np.flatnonzero(sums < SMALLEST_SUM), log10_p)
    return log10_p


def rescue(inputs: Inputs, pairs: NDArray[np.int32], which: NDArray[np.int64], log10_p: NDArray[np.float64]) -> None:
    """Recompute log10_p[which] in float64: the pairs that float32 cannot hold. For all fast backends.

    float32 ends at 1e-38. Starting from 2**120 leaves 74 decades; a read that is unlike its haplotype, such as
    a chimera, falls below. float64 starts from 2**1000, which leaves 600; what is below that is scaled row by row.
    """
    if len(which) == 0:
        return
    sums = _all_sums(inputs, np.ascontiguousarray(pairs[which]), PRIORS64, SCALE64)
    log10_p[which] = log10_of_sums(sums, SCALE64)
    lost = which[sums < SMALLEST_SUM64]
    if len(lost):
        from megabolt.compute.pairhmm.rescue import recompute

        recompute(*inputs, pairs, lost, P_WRONG, log10_p)


def _all_sums(inputs: Inputs, pairs: NDArray[np.int32], priors: NDArray[Any], scale: float) -> NDArray[Any]:
    """scale * P of each pair, in the precision of `priors`."""
    read_length, hap_length = np.diff(inputs[2]), np.diff(inputs[6])
    # Lanes of a group share the haplotype and end at about the same row.
    key = (pairs[:, 1].astype(np.int64) << 10) + read_length[pairs[:, 0]]
    order = np.argsort(key, kind="stable")
    m_max = int(hap_length.max())
    width = REGISTER_BITS // 8 // priors.itemsize
    states = aligned_empty(3 * m_max * width, priors.dtype)
    small = aligned_empty((2 * N_CODES + 1) * width, priors.dtype)
    constants = np.empty(6 * m_max, priors.dtype)
    sums = np.empty(len(pairs), priors.dtype)
    _forward(*inputs, pairs, order, priors, scale, states, small, constants, sums)
    return sums


def _real(signature: str) -> list[str]:
    """A signature for float32 and for float64: `real` stands for either."""
    return [signature.replace("real", real) for real in ("float32", "float64")]


@kernel(_real("void(uint8[::1], float32[::1], float32[::1], real[::1], int64[::1])"))
def _prepare_haplotype(
    hap: NDArray[np.uint8],
    gap_open: NDArray[np.float32],
    gap_extend: NDArray[np.float32],
    constants: NDArray[Any],
    code_row: NDArray[np.int64],
) -> None:
    """What a column needs to know of its haplotype base, for all rows.

    constants: [m, 6], 1 - 2 g(j), 1 - x(j), g(j), x(j), g(j+1), x(j+1); code_row: [m], where the prior of base j
    starts in `prior`.
    """
    m = len(hap)
    for j in range(m):
        after = min(j + 1, m - 1)
        constants[6 * j] = 1.0 - 2.0 * gap_open[j]
        constants[6 * j + 1] = 1.0 - gap_extend[j]
        constants[6 * j + 2], constants[6 * j + 3] = gap_open[j], gap_extend[j]
        constants[6 * j + 4], constants[6 * j + 5] = gap_open[after], gap_extend[after]
        code_row[j] = hap[j] * lanes(constants)


@kernel(_real("void(uint8[::1], uint8[::1], int64[::1], int64[::1], int64, real[::1], real[::1])"))
def _set_priors(
    reads: NDArray[np.uint8],
    qualities: NDArray[np.uint8],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    row: Any,
    priors: NDArray[Any],
    prior: NDArray[Any],
) -> None:
    """prior [5, W] <- prior(row, .) by haplotype code, of the base that each lane's read has at `row`."""
    W = lanes(prior)
    for lane in range(W):
        # A lane that has ended repeats its last base: harmless, and in bounds.
        at = U(start[lane] + min(row, length[lane] - 1))
        base = reads[at]
        right = priors[U(256) + U(qualities[at])]
        wrong = right if base > 3 else priors[U(qualities[at])]
        for code in range(4):
            prior[U(code * W + lane)] = wrong
        prior[U(4 * W + lane)] = right
        prior[U(base) * U(W) + U(lane)] = right


@kernel(_real("void(int64, int64[::1], real[::1], real[::1], real[::1])"))
def _two_rows(
    m: Any, code_row: NDArray[np.int64], constants: NDArray[Any], prior: NDArray[Any], states: NDArray[Any]
) -> None:
    """Rows i and i+1 from row i-1. prior: [2, 5, W]. One array for all states and one for all constants: the loop
    has no registers left for more addresses."""
    W = lanes(states)
    zero = splat(states, 0)
    m_diagonal = gap_diagonal = zero  # row i-1, column j-1
    m_left = d_left = gap_left = zero  # row i, column j-1
    m_left2 = d_left2 = zero  # row i+1, column j-1
    for j in range(m):
        o, c = 3 * W * j, 6 * j
        code = code_row[U(j)]
        stay, leave = broadcast(constants, c), broadcast(constants, c + 1)
        g, x = broadcast(constants, c + 2), broadcast(constants, c + 3)
        g_next, x_next = broadcast(constants, c + 4), broadcast(constants, c + 5)
        m_up, i_up = load(states, o), load(states, o + W)
        prior_i, prior_i2 = load(prior, code), load(prior, code + N_CODES * W)
        m_i = prior_i * fma(stay, m_diagonal, leave * gap_diagonal)  # (1)
        i_i = fma(x_next, i_up, g_next * m_up)  # (2)
        d_i = fma(x, d_left, g * m_left)  # (3)
        m_i2 = prior_i2 * fma(stay, m_left, leave * gap_left)  # (1)
        i_i2 = fma(x_next, i_i, g_next * m_i)  # (2)
        d_i2 = fma(x, d_left2, g * m_left2)  # (3)
        m_diagonal, gap_diagonal = m_up, load(states, o + 2 * W)
        m_left, d_left, gap_left = m_i, d_i, i_i + d_i
        m_left2, d_left2 = m_i2, d_i2
        store(states, o, m_i2)
        store(states, o + W, i_i2)
        store(states, o + 2 * W, i_i2 + d_i2)


@kernel(_real("void(int64, int64[::1], real[::1], real[::1], real[::1], float64)"))
def _one_row(
    m: Any,
    code_row: NDArray[np.int64],
    constants: NDArray[Any],
    prior: NDArray[Any],
    states: NDArray[Any],
    begin: float,
) -> None:
    """Row i from row i-1, or, where `begin` is not zero, the first row: prior * begin."""
    W = lanes(states)
    zero, begin_all = splat(states, 0), splat(states, begin)
    m_diagonal = gap_diagonal = m_left = d_left = zero
    for j in range(m):
        o, c = 3 * W * j, 6 * j
        prior_i = load(prior, code_row[U(j)])
        if begin > 0.0:
            m_i, i_i = prior_i * begin_all, zero
        else:
            stay, leave = broadcast(constants, c), broadcast(constants, c + 1)
            g_next, x_next = broadcast(constants, c + 4), broadcast(constants, c + 5)
            m_up, i_up = load(states, o), load(states, o + W)
            m_i = prior_i * fma(stay, m_diagonal, leave * gap_diagonal)  # (1)
            i_i = fma(x_next, i_up, g_next * m_up)  # (2)
            m_diagonal, gap_diagonal = m_up, load(states, o + 2 * W)
        g, x = broadcast(constants, c + 2), broadcast(constants, c + 3)
        d_left = fma(x, d_left, g * m_left)  # (3)
        m_left = m_i
        store(states, o, m_i)
        store(states, o + W, i_i)
        store(states, o + 2 * W, i_i + d_left)


@kernel(_real("void(int64, real[::1], real[::1])"))
def _sum_row(m: Any, states: NDArray[Any], total: NDArray[Any]) -> None:
    """total [W] <- sum over j of M + I of the newest row."""
    W = lanes(states)
    sums = splat(states, 0)
    for j in range(m):
        sums = sums + (load(states, 3 * W * j) + load(states, 3 * W * j + W))  # (4)
    store(total, 0, sums)


@kernel(
    _real(
        "void(uint8[::1], uint8[::1], int64[::1], uint8[::1], float32[::1], float32[::1], int64[::1], int32[:,::1],"
        "int64[::1], real[::1], float64, real[::1], real[::1], real[::1], real[::1])"
    )
)
def _forward(
    reads: NDArray[np.uint8],
    qualities: NDArray[np.uint8],
    read_offsets: NDArray[np.int64],
    haps: NDArray[np.uint8],
    gap_open: NDArray[np.float32],
    gap_extend: NDArray[np.float32],
    hap_offsets: NDArray[np.int64],
    pairs: NDArray[np.int32],
    order: NDArray[np.int64],
    priors: NDArray[Any],
    scale: float,
    states: NDArray[Any],
    small: NDArray[Any],
    constants: NDArray[Any],
    sums: NDArray[Any],
) -> None:
    """Scaled sums of all pairs, W of one haplotype at a time. i over read, j over haplotype, m its length; rows
    and columns count from 0 here.

    states: [m, 3, W], the newest row's M, I, and I + D (all that (1) needs of D). small: room for [11, W].
    """
    old_state = flush_denormals()
    W = lanes(states)
    prior, total = small[: 2 * N_CODES * W], small[2 * N_CODES * W :]
    code_row = np.empty(len(constants) // 6, np.int64)
    start, length = np.empty(W, np.int64), np.empty(W, np.int64)  # of each lane's read
    n_pairs = len(order)
    current_hap = -1
    m: Any = 0
    first: Any = 0
    while first < n_pairs:
        hap = pairs[order[first], 1]
        if hap != current_hap:
            current_hap = hap
            sites = slice(hap_offsets[hap], hap_offsets[hap + 1])
            m = hap_offsets[hap + 1] - hap_offsets[hap]
            _prepare_haplotype(haps[sites], gap_open[sites], gap_extend[sites], constants, code_row)
        n_lanes = 1
        while n_lanes < W and first + n_lanes < n_pairs and pairs[order[first + n_lanes], 1] == hap:
            n_lanes += 1
        for lane in range(W):  # spare lanes repeat the last pair
            read = pairs[order[first + min(lane, n_lanes - 1)], 0]
            start[lane] = read_offsets[read]
            length[lane] = read_offsets[read + 1] - read_offsets[read]
        row = 0  # read bases done so far, in all lanes
        next_lane = 0  # lanes below it have ended; they are in order of length
        while next_lane < n_lanes:
            ends = length[next_lane]
            while row < ends:  # two rows at a time; one where an odd one is left, and the first by itself
                _set_priors(reads, qualities, start, length, row, priors, prior[: N_CODES * W])
                if row > 0 and row + 2 <= ends:
                    _set_priors(reads, qualities, start, length, row + 1, priors, prior[N_CODES * W :])
                    _two_rows(m, code_row, constants, prior, states)
                    row += 2
                else:
                    _one_row(m, code_row, constants, prior, states, 0.0 if row > 0 else scale / m)
                    row += 1
            _sum_row(m, states, total)
            while next_lane < n_lanes and length[next_lane] == row:
                sums[order[first + next_lane]] = total[next_lane]
                next_lane += 1
        first += n_lanes
    restore_denormals(old_state)
