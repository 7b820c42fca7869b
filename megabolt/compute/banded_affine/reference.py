# SPDX-License-Identifier: Apache-2.0
"""Banded affine alignment, written to be read: one job at a time, full matrices. The oracle of the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from megabolt.compute.banded_affine import AffineJobs, AffineResult, AffineScores

N = 4
MINUS_INFINITY = -(10**9)
MAX_CIGAR = 64
IS_M, IS_I, IS_D = 0, 1, 2


def align(jobs: AffineJobs, scores: AffineScores) -> AffineResult:
    """See `megabolt.compute.banded_affine.align`."""
    from megabolt.compute.banded_affine import empty_result

    n_jobs = len(jobs.diagonal)
    result = empty_result(n_jobs)
    for t in range(n_jobs):
        query = jobs.query[jobs.query_offsets[t] : jobs.query_offsets[t + 1]]
        target = jobs.target[jobs.target_offsets[t] : jobs.target_offsets[t + 1]]
        job = _Job(query, target, int(jobs.diagonal[t]), jobs.band, scores)
        score, query_range, target_range, operations = job.best()
        if score <= 0:
            continue
        result.score[t] = score
        result.query_start[t], result.query_stop[t] = query_range
        result.target_start[t], result.target_stop[t] = target_range
        if len(operations) > MAX_CIGAR:
            result.n_cigar[t] = -1
            continue
        result.n_cigar[t] = len(operations)
        for c, (operation, length) in enumerate(operations):
            result.cigar[t, c] = length << 4 | operation
    return result


class _Job:
    """The matrices of one job; row and column 0 lie before the first base."""

    def __init__(
        self,
        query: NDArray[np.uint8],
        target: NDArray[np.uint8],
        diagonal: int,
        band: int,
        scores: AffineScores,
    ) -> None:
        self.query, self.target, self.scores = query, target, scores
        n, m = len(query), len(target)
        opening, extend = scores.gap_open, scores.gap_extend
        self.M, self.E, self.F, self.H = np.full((4, n + 1, m + 1), MINUS_INFINITY, np.int64)
        M, E, F, H = self.M, self.E, self.F, self.H
        for i in range(1, n + 1):
            for j in range(max(1, i + diagonal - band), min(m, i + diagonal + band) + 1):
                M[i, j] = self.pair_score(i, j) + max(self.start(i), H[i - 1, j - 1])  # (1)
                E[i, j] = max(H[i, j - 1] - opening, E[i, j - 1]) - extend  # (2)
                F[i, j] = max(H[i - 1, j] - opening, F[i - 1, j]) - extend  # (3)
                H[i, j] = max(M[i, j], E[i, j], F[i, j])  # (4)

    def pair_score(self, i: int, j: int) -> int:
        same = self.query[i - 1] == self.target[j - 1] and self.query[i - 1] < N
        return self.scores.match if same else -self.scores.mismatch

    def start(self, i: int) -> int:
        return 0 if i == 1 else -self.scores.clip

    def stop(self, i: int) -> int:
        return 0 if i == len(self.query) else self.scores.clip

    def best(self) -> tuple[int, tuple[int, int], tuple[int, int], list[tuple[int, int]]]:
        """Score, query and target range, and (operation, length) from left to right."""
        stops = np.array([self.stop(i) for i in range(len(self.query) + 1)])[:, np.newaxis]
        ends = self.M - stops
        i, j = (int(index) for index in np.unravel_index(np.argmax(ends), ends.shape))  # (5) first of the greatest
        if ends[i, j] < MINUS_INFINITY // 2:  # the band misses the target
            return 0, (0, 0), (0, 0), []
        query_stop, target_stop = i, j
        total = int(ends[i, j]) + self.stop(i)
        steps = [IS_M]
        state = IS_M  # M of cell (i, j) is part of the alignment
        while not (state == IS_M and self.start(i) >= self.H[i - 1, j - 1]):
            state, i, j = self.step_back(state, i, j)
            steps.append(state)
        score = total - self.start(i)
        return score, (i - 1, query_stop), (j - 1, target_stop), _runs(steps[::-1])

    def step_back(self, state: int, i: int, j: int) -> tuple[int, int, int]:
        """The state and cell before (state, i, j)."""
        if state == IS_M:
            return self.state_of_h(i - 1, j - 1), i - 1, j - 1
        if state == IS_D:
            opened = self.H[i, j - 1] - self.scores.gap_open >= self.E[i, j - 1]
            return (self.state_of_h(i, j - 1) if opened else IS_D), i, j - 1
        opened = self.H[i - 1, j] - self.scores.gap_open >= self.F[i - 1, j]
        return (self.state_of_h(i - 1, j) if opened else IS_I), i - 1, j

    def state_of_h(self, i: int, j: int) -> int:
        if self.H[i, j] == self.M[i, j]:
            return IS_M
        return IS_D if self.H[i, j] == self.E[i, j] else IS_I


def _runs(steps: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for step in steps:
        if runs and runs[-1][0] == step:
            runs[-1] = (step, runs[-1][1] + 1)
        else:
            runs.append((step, 1))
    return runs
