# SPDX-License-Identifier: Apache-2.0
"""Indel errors of sequencing in short tandem repeats, as gap penalties per haplotype base.

The chance that a read shows an indel grows with the repeats it crosses: Q45 outside tracts, Q12 in a run of 14.
The table is looked up on the haplotype, not on the reference: a haplotype that carries a longer repeat also
explains more slips. The curve is the one measured on PCR-free libraries with truth-variant sites left out;
`indel_errors.py` learns that of the sample at hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import kernel

#: Longest repeat unit that counts as a short tandem repeat.
MAX_PERIOD = 6
MAX_UNITS = 40
#: P(open) outside any tract.
BASE_OPEN = 10**-4.5
#: P(extend) by repeat period; index 0 is outside tracts. A slip is mostly one whole unit.
EXTEND = (0.1, 0.1, 0.4, 0.5, 0.6, 0.6, 0.6)
#: P(open) of a base never exceeds this, or a long tract would explain any length at no cost.
MAX_OPEN = 0.1

#: Phred of P(read shows an indel in the tract), by repeat units, interpolated linearly.
_PCR_FREE = {
    1: (
        (2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 30),
        (47, 45, 42, 38, 34, 30, 26, 23, 21, 19, 15, 12, 9, 6),
    ),
    2: ((2, 3, 4, 5, 6, 8, 10, 15, 20), (46, 42, 37, 30, 26, 21, 17, 11, 8)),
    3: ((2, 3, 4, 6, 8, 12), (43, 38, 32, 26, 20, 13)),
    4: ((2, 3, 4, 6, 8, 12), (41, 36, 30, 25, 20, 13)),
}


def pcr_free_rate(period: int, units: int) -> float:
    """P(a read that crosses a tract shows an indel in it) in a PCR-free library."""
    units_known, phred = _PCR_FREE[min(period, 4)]
    return float(10 ** (-np.interp(units, units_known, phred) / 10))


def open_table(rates: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """P(open) per base, float64 [MAX_PERIOD + 1, MAX_UNITS + 1]; row 0 is outside tracts.

    Parameters
    ----------
    rates
        P(a read across a tract shows an indel in it), of the same shape; the PCR-free curve by default.

    Notes
    -----
    Insertions and deletions take half of the rate R each, spread over the tract's bases:
    (1) open = R / 2 / length / (g^(period - 1) (1 - g)), with g = P(extend) of the period,
    so that the chance of a gap of exactly one unit somewhere in the tract is R / 2.
    """
    table = np.full((MAX_PERIOD + 1, MAX_UNITS + 1), BASE_OPEN)
    for period in range(1, MAX_PERIOD + 1):
        g = EXTEND[period]
        for units in range(2, MAX_UNITS + 1):
            rate = pcr_free_rate(period, units) if rates is None else float(rates[period, units])
            per_base = rate / 2 / (period * units) / (g ** (period - 1) * (1 - g))  # (1)
            table[period, units] = min(MAX_OPEN, max(per_base, BASE_OPEN * 0.5))
    return table


OPEN = open_table()
EXTEND_TABLE = np.array(EXTEND)


@kernel("void(uint8[::1], int64, int64, uint8[::1], int32[::1])")
def tandem_tracts(
    sequence: NDArray[np.uint8], start: int, stop: int, period: NDArray[np.uint8], length: NDArray[np.int32]
) -> None:
    """Longest tandem tract (unit of 1 to 6 bases, at least two units) over each base of sequence[start:stop].

    period: uint8, 0 outside tracts; length: int32, bases of the tract; both indexed like `sequence`.
    """
    for i in range(start, stop):
        period[i] = 0
        length[i] = 0
    for p in range(1, 7):
        i = start
        while i + p < stop:
            if sequence[i] != sequence[i + p] or sequence[i] > 3:
                i += 1
                continue
            j = i
            while j + p < stop and sequence[j] == sequence[j + p]:
                j += 1
            l = j - i + p
            if l >= 2 * p:
                for x in range(i, i + l):
                    if l > length[x]:
                        length[x] = l
                        period[x] = p
            i = j + 1


@kernel("void(uint8[::1], int64[::1], float64[:, ::1], float64[::1], float32[::1], float32[::1])")
def _gap_probabilities(
    haps: NDArray[np.uint8],
    hap_offsets: NDArray[np.int64],
    open_by_tract: NDArray[np.float64],
    extend_by_period: NDArray[np.float64],
    gap_open: NDArray[np.float32],
    gap_extend: NDArray[np.float32],
) -> None:
    period = np.empty(len(haps), np.uint8)
    length = np.empty(len(haps), np.int32)
    for h in range(len(hap_offsets) - 1):
        start, stop = hap_offsets[h], hap_offsets[h + 1]
        tandem_tracts(haps, start, stop, period, length)
        for x in range(start, stop):
            units: Any = min(np.int64(length[x]) // np.int64(max(period[x], np.uint8(1))), 40)
            gap_open[x] = open_by_tract[period[x], units]
            gap_extend[x] = extend_by_period[period[x]]


def gap_probabilities(
    haps: NDArray[np.uint8], hap_offsets: NDArray[np.int64], open_by_tract: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """P(open), P(extend) of each base of concatenated haplotypes (float32, like `haps`).

    Parameters
    ----------
    haps, hap_offsets
        uint8 codes; int64 [n_haps + 1].
    open_by_tract
        As `open_table()` gives it; the PCR-free curve by default.
    """
    gap_open = np.empty(len(haps), np.float32)
    gap_extend = np.empty(len(haps), np.float32)
    table = OPEN if open_by_tract is None else np.ascontiguousarray(open_by_tract)
    _gap_probabilities(haps, hap_offsets, table, EXTEND_TABLE, gap_open, gap_extend)
    return gap_open, gap_extend
