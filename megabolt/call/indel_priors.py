# SPDX-License-Identifier: Apache-2.0
"""How often a person's tandem repeats differ from the reference: the prior of an indel.

In: candidates, tandem tracts of the reference. Out: log10 priors. Next: `genotype.py`.

A run of 12 bases differs in one person of four, a run of 4 in one of 3000: three of four indels lie in repeats. The
shares below are counts over GIAB's variants of HG002 (v4.2.1) on chr20:60,001-4,000,000 and 6,000,001-10,000,000:
tracts with an indel of whole units at their first base, of all tracts of that unit and number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.evidence import SNP

#: Units of 4 to 6 bases share one row: there are too few tracts to tell them apart.
POOLED_PERIOD = 4
#: Share of the tracts that vary, by period: units and share, interpolated on the scale of its logarithm.
VARIABLE = {
    1: ((3, 4, 5, 6, 7, 8, 9, 10, 11, 14), (1e-4, 3.7e-4, 7e-4, 3e-3, 9e-3, 0.031, 0.073, 0.11, 0.2, 0.28)),
    2: ((2, 3, 4, 5, 6, 7, 8, 10, 12, 16), (1e-4, 5e-4, 2.4e-3, 0.012, 0.025, 0.055, 0.15, 0.33, 0.42, 0.65)),
    3: ((2, 3, 4, 6, 8, 10), (1.4e-4, 1.5e-3, 0.01, 0.06, 0.25, 0.5)),
    4: ((2, 3, 4, 5, 6, 7), (3.7e-4, 7.5e-3, 0.034, 0.075, 0.17, 0.5)),
}
#: Share of the alleles of variable tracts that are shorter (or longer) by 1, 2, 3, 4 or more units.
STEPS = (0.4, 0.1, 0.05, 0.02)
_UNITS = 41


def _table() -> NDArray[np.float64]:
    table = np.full((POOLED_PERIOD + 1, _UNITS), -np.inf)
    for period, (units, share) in VARIABLE.items():
        table[period, units[0] :] = np.interp(np.arange(units[0], _UNITS), units, np.log10(share))
    return table


LOG10_VARIABLE = _table()


def log10_event_priors(
    candidates: Candidates,
    period: NDArray[np.uint8],
    tract: NDArray[np.int32],
    *,
    snp_prior: float,
    indel_prior: float,
) -> NDArray[np.float64]:
    """log10 P(a person carries the candidate), float64 [n_candidates].

    Parameters
    ----------
    period, tract
        uint8, int32 [n_ref]: unit and length of the tandem tract over each base, as `str_model.tandem_tracts` gives.
    snp_prior, indel_prior
        P(a certain SNP); P(a certain indel outside repeats), which no indel falls below.
    """
    place = np.minimum(candidates.start, len(tract) - 1)
    unit = np.maximum(1, period[place].astype(np.int64))
    units = np.where(candidates.length % unit == 0, np.minimum(tract[place] // unit, _UNITS - 1), 0)
    steps = np.minimum(candidates.length // unit, len(STEPS)) - 1
    repeat = LOG10_VARIABLE[np.minimum(unit, POOLED_PERIOD), units] + np.log10(STEPS)[np.maximum(0, steps)]
    indel = np.maximum(repeat, np.log10(indel_prior))
    return np.asarray(np.where(candidates.kind == SNP, np.log10(snp_prior), indel))
