# SPDX-License-Identifier: Apache-2.0
"""Statistics of a histogram, defined as htsjdk's Histogram defines them: Picard's figures follow from them.

In: counts by value. Out: mean, standard deviation, median, and so on.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class Histogram:
    """Counts by value.

    Parameters
    ----------
    counts
        int64 [n]: how often each value 0 .. n - 1 occurs.
    more
        Values beyond, with their counts.
    """

    def __init__(self, counts: NDArray[np.int64], more: dict[int, int] | None = None) -> None:
        values = np.flatnonzero(counts)
        weights = counts[values]
        if more:
            far = sorted(more.items())
            values = np.concatenate([values, np.array([value for value, _ in far], np.int64)])
            weights = np.concatenate([weights, np.array([n for _, n in far], np.int64)])
        self.values: NDArray[np.int64] = values.astype(np.int64)
        self.weights: NDArray[np.int64] = weights.astype(np.int64)

    @property
    def count(self) -> int:
        """Number of observations."""
        return int(self.weights.sum())

    @property
    def sum(self) -> int:
        """Sum of all observations."""
        return int(self.values @ self.weights)

    @property
    def lowest(self) -> int:
        """The least value seen; 0 if none was."""
        return int(self.values[0]) if len(self.values) else 0

    @property
    def highest(self) -> int:
        """The greatest value seen; 0 if none was."""
        return int(self.values[-1]) if len(self.values) else 0

    def mean(self) -> float:
        """Mean; NaN without observations."""
        return self.sum / self.count if self.count else math.nan

    def sd(self) -> float:
        """Standard deviation, over n - 1; NaN with less than two observations."""
        n = self.count
        if n < 2:
            return math.nan
        return math.sqrt(float(((self.values - self.mean()) ** 2) @ self.weights) / (n - 1))

    def median(self) -> float:
        """The middle observation, or the mean of the middle two; 0 without observations."""
        return _median(self.values.astype(np.float64), self.weights)

    def mad(self) -> float:
        """Median of the absolute deviations from the median."""
        deviations = np.abs(self.values - self.median())
        order = np.argsort(deviations, kind="stable")
        return _median(deviations[order], self.weights[order])

    def mode(self) -> int:
        """The most frequent value, the least of several; 0 without observations."""
        return int(self.values[int(self.weights.argmax())]) if len(self.values) else 0

    def percentile(self, fraction: float) -> int:
        """The least value that at least this share of the observations does not exceed; 0 without observations."""
        if not len(self.values):
            return 0
        return int(self.values[int(np.argmax(np.cumsum(self.weights) / self.count >= fraction))])

    def up_to(self, limit: int) -> Histogram:
        """Without the values above a limit."""
        kept = Histogram(np.zeros(0, np.int64))
        inside = self.values <= limit
        kept.values, kept.weights = self.values[inside], self.weights[inside]
        return kept

    def items(self) -> list[tuple[int, int]]:
        """(value, count) in order."""
        return list(zip(self.values.tolist(), self.weights.tolist()))


def _median(values: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    n = int(weights.sum())
    if n == 0:
        return 0.0
    cumulated = np.cumsum(weights)
    low, high = (n // 2, n // 2 + 1) if n % 2 == 0 else ((n + 1) // 2, (n + 1) // 2)
    first, second = np.searchsorted(cumulated, [low, high])
    return float((values[first] + values[second]) / 2)
