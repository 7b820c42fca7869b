# SPDX-License-Identifier: Apache-2.0
"""How often a person's tandem repeats differ from the reference: the prior of an indel.

In: candidates, tandem tracts of the reference. Out: log10 priors. Next: `genotype.py`.

A run of 12 bases differs in one person of four, a run of 4 in one of 3000: three of four indels lie in repeats. The
shares below are counts over GIAB's variants of HG002 (v4.2.1) on chr20:60,001-4,000,000 and 6,000,001-10,000,000:
tracts with an indel of whole units at their first base, of all tracts of that unit and number.

Where a tract varies much, both copies often differ from the reference, each in its own way. How often follows from
its variability alone: the reference and the two copies are three draws from the same people, with new alleles at rate
theta (Ewens 1972, Theor. Popul. Biol. 3, 87). With K = (1 + theta) (2 + theta) the chances are

(1) all three alike 2 / K;  (2) one copy differs 2 theta / K;  (3) both alike, not as the reference theta / K;
(4) both differently theta^2 / K.

(1) gives theta from the share of tracts that vary. Of the same tracts, those of 8 units and more, it expects 541, 271
and 83 of the kinds (2) to (4), where 474, 295 and 127 were counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.call.candidates import Candidates
from megabolt.call.evidence import DELETION, SNP

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


@dataclass(frozen=True)
class EventPriors:
    """How probable the candidates are before any read is seen, log10.

    event: float64 [n_candidates], P(a person carries the candidate).
    second: float64, for candidates a < b that begin at the same base at second_offset[a] + b - a - 1 (int64
    [n_candidates]): P(one copy carries a, the other b) / P(the rarer of the two is carried).
    """

    event: NDArray[np.float64]
    second_offset: NDArray[np.int64]
    second: NDArray[np.float64]


def new_alleles(variable: NDArray[np.float64]) -> NDArray[np.float64]:
    """Theta of (1): how readily a draw is a new allele, of tracts of which the share `variable` varies."""
    return np.asarray((np.sqrt(1 + 8 / (1 - variable)) - 3) / 2)


def event_priors(
    candidates: Candidates,
    period: NDArray[np.uint8],
    tract: NDArray[np.int32],
    *,
    snp_prior: float,
    indel_prior: float,
    same_site_prior: float,
) -> EventPriors:
    """Priors of the candidates, and of two different ones at one site.

    Parameters
    ----------
    period, tract
        uint8, int32 [n_ref]: unit and length of the tandem tract over each base, as `str_model.tandem_tracts` gives.
    snp_prior, indel_prior
        P(a certain SNP); P(a certain indel outside repeats), which no indel falls below.
    same_site_prior
        P(the second allele of an indel site) where one of the two is no change by whole units of a tract.

    Notes
    -----
    (5) P(allele a is carried) = V s(a), with V the share of tracts that vary and s(a) that of its step, STEPS
    (6) P({a, b}) = V theta / 2 (s(a) (s(b) + s(b - a)) / 2 + s(b) (s(a) + s(a - b)) / 2)

    (6) is (4) on the scale of (5), where two copies of a have V s(a) / 2; the second allele arose from that of the
    reference or from the first.
    """
    place = np.minimum(candidates.start, len(tract) - 1)
    unit = np.maximum(1, period[place].astype(np.int64))
    whole = (candidates.length % unit == 0) & (candidates.kind != SNP)
    units = np.where(whole, np.minimum(tract[place] // unit, _UNITS - 1), 0)
    log10_variable = LOG10_VARIABLE[np.minimum(unit, POOLED_PERIOD), units]
    steps = np.where(candidates.kind == DELETION, -1, 1) * candidates.length // unit
    indel = np.maximum(log10_variable + np.log10(_share(steps)), np.log10(indel_prior))  # (5)
    event = np.where(candidates.kind == SNP, np.log10(snp_prior), indel)
    n_after = np.searchsorted(candidates.start, candidates.start, side="right") - np.arange(len(event)) - 1
    second_offset = np.cumsum(n_after) - n_after
    a = np.repeat(np.arange(len(event)), n_after)
    b = a + 1 + np.arange(len(a)) - second_offset[a]
    s, t = _share(steps[a]), _share(steps[b])
    variable = 10.0 ** log10_variable[a]
    pair = variable * new_alleles(variable) / 2 * (s * t + _share(steps[a] - steps[b]) * (s + t) / 2)  # (6)
    repeat = (pair > 0) & whole[b] & (steps[a] != steps[b])
    second = np.full(len(a), np.log10(same_site_prior))
    second[repeat] = np.log10(pair[repeat]) - np.minimum(event[a], event[b])[repeat]
    return EventPriors(event, second_offset.astype(np.int64), second)


def _share(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """STEPS of changes by so many units, longer or shorter."""
    shares = np.array(STEPS)
    return np.asarray(shares[np.clip(np.abs(steps), 1, len(STEPS)) - 1])
