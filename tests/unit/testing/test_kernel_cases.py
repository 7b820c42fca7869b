# SPDX-License-Identifier: Apache-2.0
"""The assertions that the parity tests rely on do fail when they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megabolt.compute.backend import Backend
from megabolt.compute.banded_affine import align
from megabolt.testing.kernel_cases import (
    affine_jobs,
    assert_log10_close,
    assert_same_alignments,
    describe,
    n_affine_cells,
    n_pairhmm_cells,
    pairhmm_batch,
)


def test_log10_assertion_names_the_worst_pair() -> None:
    batch = pairhmm_batch(["ACGT", "GGGG"], ["ACGTAA"])
    expected = np.array([-1.0, -2.0])
    assert_log10_close(expected + 9e-6, expected, batch)
    with pytest.raises(AssertionError, match=r"1 of 2 pairs .* pair 1: .*\n?read GGGG"):
        assert_log10_close(expected + np.array([0, 2e-5]), expected, batch)
    for bad in (np.nan, -np.inf):
        with pytest.raises(AssertionError, match="pair 0"):
            assert_log10_close(np.array([bad, -2.0]), expected, batch)
    with pytest.raises(AssertionError, match="float32"):
        assert_log10_close(expected.astype(np.float32), expected, batch)


def test_alignment_assertion_names_the_first_job_that_differs() -> None:
    jobs = affine_jobs(["ACGTACGT", "TTTTGGGG"], ["ACGTACGT", "TTTTGGGG"])
    result = align(jobs, backend=Backend.REFERENCE)
    assert_same_alignments(result, result, jobs)
    assert describe(result, 1) == "8 0-8 0-8 8M"
    changed = replace(result, score=result.score + np.array([0, 1], np.int32))
    with pytest.raises(AssertionError, match=r"score of 1 of 2 jobs differs, first of job 1(.|\n)*TTTTGGGG"):
        assert_same_alignments(changed, result, jobs)
    with pytest.raises(AssertionError, match="int64"):
        assert_same_alignments(replace(result, score=result.score.astype(np.int64)), result, jobs)


def test_cells() -> None:
    assert n_pairhmm_cells(pairhmm_batch(["ACGT", "AC"], ["ACGTAA"])) == 4 * 6 + 2 * 6
    assert n_affine_cells(affine_jobs(["ACGT", "AC"], ["A", "C"], band=3)) == 6 * 7
