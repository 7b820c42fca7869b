# SPDX-License-Identifier: Apache-2.0
"""Banded affine alignment: every backend gives exactly the reference's answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabolt.compute.backend import Backend
from megabolt.compute.banded_affine import AffineJobs, AffineResult, AffineScores, align, launch
from megabolt.errors import UsageError
from megabolt.testing.kernel_cases import affine_jobs, assert_same_alignments, random_affine_jobs

SCORES = AffineScores()
#: Prices that make unusual alignments: cheap gaps, no clips, expensive everything.
PRICES = {
    "bwa": SCORES,
    "cheap gaps": AffineScores(match=2, mismatch=3, gap_open=0, gap_extend=1, clip=4),
    "no opening price": AffineScores(match=1, mismatch=1, gap_open=0, gap_extend=1, clip=0),
    "end to end": AffineScores(clip=1000),
    "largest": AffineScores(match=15, mismatch=15, gap_open=15, gap_extend=15, clip=1000),
}


def check(jobs: AffineJobs, backend: Backend, scores: AffineScores = SCORES) -> AffineResult:
    actual = align(jobs, scores, backend=backend)
    assert_same_alignments(actual, align(jobs, scores, backend=Backend.REFERENCE), jobs)
    return actual


@pytest.mark.parametrize("prices", PRICES)
def test_related_jobs(backend: Backend, prices: str) -> None:
    rng = np.random.default_rng(1)
    jobs = random_affine_jobs(rng, 40, query_length=(1, 45), band=9)
    result = check(jobs, backend, PRICES[prices])
    assert (result.score > 0).any()


@pytest.mark.parametrize("prices", PRICES)
@pytest.mark.parametrize("alphabet", [1, 2])
def test_repeats_make_ties(backend: Backend, prices: str, alphabet: int) -> None:
    rng = np.random.default_rng(2)
    jobs = random_affine_jobs(rng, 40, query_length=(5, 40), band=7, alphabet=alphabet, error_rate=0.1)
    check(jobs, backend, PRICES[prices])


def test_unrelated_jobs(backend: Backend) -> None:
    rng = np.random.default_rng(3)
    queries, targets = rng.integers(0, 4, (2, 20, 50)).astype(np.uint8)
    check(affine_jobs(list(queries), list(targets), band=20), backend)


@pytest.mark.parametrize("spread", [10, 60])
def test_band_beside_and_beyond_the_target(backend: Backend, spread: int) -> None:
    rng = np.random.default_rng(4)
    jobs = random_affine_jobs(rng, 40, query_length=(10, 30), band=6, spread=spread)
    check(jobs, backend)


def test_a_band_that_misses_the_target_aligns_nothing(backend: Backend) -> None:
    jobs = affine_jobs(["ACGTACGT"] * 3, ["ACGTACGT"] * 3, [1000, -1000, 12], band=4)
    result = check(jobs, backend)
    assert not result.score.any()
    assert not result.n_cigar.any()


@pytest.mark.parametrize("n_jobs", [1, 7, 8, 9, 15, 16, 17, 31, 32, 33])
def test_number_of_jobs_around_the_lane_count(backend: Backend, n_jobs: int) -> None:
    rng = np.random.default_rng(n_jobs)
    check(random_affine_jobs(rng, n_jobs, query_length=(8, 24), band=5), backend)


@pytest.mark.parametrize("band", [0, 1, 15, 16, 31, 32, 128])
def test_band_width(backend: Backend, band: int) -> None:
    rng = np.random.default_rng(5)
    check(random_affine_jobs(rng, 12, query_length=(10, 40), band=band), backend)


@pytest.mark.parametrize("length", [1, 2, 3, 9, 10, 11, 17, 18, 63, 64, 65])
def test_query_length(backend: Backend, length: int) -> None:
    rng = np.random.default_rng(length)
    check(random_affine_jobs(rng, 8, query_length=(length, length), band=4), backend)


def test_longest_query_and_target(backend: Backend) -> None:
    rng = np.random.default_rng(6)
    target = rng.integers(0, 4, 1536).astype(np.uint8)
    query = np.concatenate([target[700:900], target[930:1242]])
    result = check(affine_jobs([query], [target], [715], band=40), backend, PRICES["largest"])
    assert result.score[0] == 512 * 15 - 31 * 15


def test_more_operations_than_a_cigar_holds(backend: Backend) -> None:
    rng = np.random.default_rng(7)
    target = rng.integers(0, 4, 512).astype(np.uint8)
    query = np.delete(target, np.arange(6, 500, 12))  # 42 deletions: 85 operations
    prices = AffineScores(match=4, mismatch=15, gap_open=0, gap_extend=1, clip=1000)
    result = check(affine_jobs([query, target], [target, target], [21, 0], band=24), backend, prices)
    assert result.n_cigar.tolist() == [-1, 1]
    assert result.query_stop[0] == len(query)


def test_n_aligns_with_nothing(backend: Backend) -> None:
    result = check(affine_jobs(["NNNNNNNN", "ACGNACGT"], ["NNNNNNNN", "ACGNACGT"]), backend)
    assert result.score.tolist() == [0, 7 - 4]


def test_no_jobs(backend: Backend) -> None:
    result = check(affine_jobs([], []), backend)
    assert result.cigar.shape == (0, 64)


@pytest.mark.parametrize("group_size", [1, 7, 64, 256])
def test_group_size_and_memory_do_not_change_the_result(backend: Backend, group_size: int) -> None:
    if backend is Backend.NUMBA:
        pytest.skip("the processor has lanes, not groups")
    rng = np.random.default_rng(8)
    jobs = random_affine_jobs(rng, 10, query_length=(20, 50), band=12)
    expected = align(jobs, SCORES, backend=Backend.REFERENCE)
    for matrix_bytes in (1, 20_000, 1 << 20):  # one job at a time, a few, all
        actual = launch.align(jobs, SCORES, backend=backend, group_size=group_size, matrix_bytes=matrix_bytes)
        assert_same_alignments(actual, expected, jobs)


sequences = st.lists(st.integers(0, 2), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(query=sequences, target=sequences, diagonal=st.integers(-6, 6), band=st.integers(0, 8))
def test_the_reported_score_is_that_of_the_reported_alignment(
    backend: Backend, query: list[int], target: list[int], diagonal: int, band: int
) -> None:
    jobs = affine_jobs([np.array(query, np.uint8)], [np.array(target, np.uint8)], diagonal, band=band)
    result = check(jobs, backend)
    assert result.score[0] == _score_of(result, jobs)


def _score_of(result: AffineResult, jobs: AffineJobs) -> int:
    """Score of job 0, counted along its CIGAR."""
    i, j, score = int(result.query_start[0]), int(result.target_start[0]), 0
    for run in result.cigar[0, : result.n_cigar[0]].tolist():
        operation, length = "MID"[run & 15], run >> 4
        if operation == "M":
            for step in range(length):
                assert abs(j - i - jobs.diagonal[0]) <= jobs.band
                score += 1 if jobs.query[i + step] == jobs.target[j + step] else -4
        else:
            score -= 6 + length
        i += length if operation != "D" else 0
        j += length if operation != "I" else 0
    assert (i, j) == (result.query_stop[0], result.target_stop[0])
    return score


BAD_JOBS = {
    "a query of no bases": {"query_offsets": np.array([0, 0], np.int64), "query": np.empty(0, np.uint8)},
    "offsets beyond the target": {"target_offsets": np.array([0, 9], np.int64)},
    "a code above N": {"query": np.array([0, 1, 2, 5], np.uint8)},
    "a band too wide": {"band": 129},
    "a negative band": {"band": -1},
    "another dtype": {"diagonal": np.zeros(1, np.int64)},
    "more diagonals than queries": {"diagonal": np.zeros(2, np.int32)},
}


@pytest.mark.parametrize("fault", BAD_JOBS)
def test_bad_input_is_the_same_error_everywhere(backend: Backend, fault: str) -> None:
    good = affine_jobs(["ACGT"], ["ACGTAC"])
    with pytest.raises(UsageError, match="banded alignment"):
        align(replace(good, **BAD_JOBS[fault]), SCORES, backend=backend)


@pytest.mark.parametrize("prices", [{"match": 0}, {"mismatch": 16}, {"gap_extend": 0}, {"clip": -1}])
def test_impossible_prices(prices: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="banded alignment"):
        AffineScores(**prices)
