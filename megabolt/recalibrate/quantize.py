# SPDX-License-Identifier: Apache-2.0
"""Fewer distinct qualities: chosen from how often each occurs, or rounded to levels that are given.

The first is GATK's QualQuantizer: neighbouring intervals of qualities are merged, always the pair that costs least,
until the asked number is left. Merging costs the sum over its qualities of |log10 e_i - log10 e| * n_i, e_i and n_i
being their error rates and numbers of bases and e the error rate of the merged interval; qualities of at most
LOWEST_QUALITY cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from megabolt.recalibrate.options import LOWEST_QUALITY, N_QUALITIES


@dataclass(frozen=True)
class _Interval:
    """Qualities first..last, their bases and expected errors (whole), and the smaller intervals it is made of."""

    first: int
    last: int
    bases: int
    errors: int
    parts: tuple[_Interval, ...] = ()

    def error_rate(self) -> float:
        if not self.parts:
            return math.pow(10.0, self.first / -10.0)
        return 0.0 if self.bases == 0 else (self.errors + 1) / (1.0 * (self.bases + 1))

    def cost(self, rate: float) -> float:
        """Of writing the interval's bases with another error rate."""
        if rate == 0.0:
            return 0.0
        if self.parts:
            return sum(part.cost(rate) for part in self.parts)
        if self.last <= LOWEST_QUALITY:
            return 0.0
        return abs(math.log10(self.error_rate()) - math.log10(rate)) * self.bases

    def quality(self) -> int:
        """The quality that is written for the interval."""
        if not self.parts:
            return self.first
        rate = self.error_rate()
        if rate == 0.0:
            return N_QUALITIES - 1
        return max(1, min(N_QUALITIES - 1, math.floor(-10.0 * math.log10(rate) + 0.5)))


def quantize(histogram: NDArray[np.int64], levels: int) -> NDArray[np.uint8]:
    """uint8 [94], the quality to write for each, of at most `levels` distinct ones.

    histogram: int64 [94], bases of each quality.
    """
    intervals = [
        _Interval(q, q, int(n), math.floor(int(n) * math.pow(10.0, q / -10.0))) for q, n in enumerate(histogram)
    ]
    while len(intervals) > levels:
        merged = [
            _Interval(one.first, two.last, one.bases + two.bases, one.errors + two.errors, (one, two))
            for one, two in pairwise(intervals)
        ]
        costs = [one.cost(one.error_rate()) for one in merged]
        best = costs.index(min(costs))
        intervals[best : best + 2] = [merged[best]]
    chosen = np.zeros(N_QUALITIES, np.uint8)
    for one in intervals:
        chosen[one.first : one.last + 1] = one.quality()
    return chosen


def static_levels(levels: Sequence[int], *, round_down: bool = False) -> NDArray[np.uint8]:
    """uint8 [94], each quality rounded to one of the levels, in probability or down.

    Qualities below LOWEST_QUALITY stay; with more than one level, those below the first are rounded between
    LOWEST_QUALITY and it. No levels: every quality stays.
    """
    rounded = np.arange(N_QUALITIES, dtype=np.uint8)
    if not levels:
        return rounded
    if len(levels) == 1:
        rounded[LOWEST_QUALITY:] = levels[0]
        return rounded
    previous = LOWEST_QUALITY
    for level in sorted(levels):
        low, high = _right(previous), _right(level)
        for q in range(previous, level):
            up = not round_down and _right(q) - low > high - _right(q)
            rounded[q] = level if up else previous
        previous = level
    rounded[previous:] = previous
    return rounded


def _right(quality: int) -> float:
    """The probability that a base of this quality is right."""
    return 1.0 - math.pow(10.0, quality / -10.0)
