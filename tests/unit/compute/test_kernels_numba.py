# SPDX-License-Identifier: Apache-2.0
"""What only the processor kernels promise: array entry points, threads, no state between calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from megabolt.compute.backend import Backend
from megabolt.compute.banded_affine import AffineResult, AffineScores, align
from megabolt.compute.banded_affine.numba_cpu import align_arrays
from megabolt.compute.pairhmm import log10_likelihood
from megabolt.compute.pairhmm.numba_cpu import log10_likelihood_arrays
from megabolt.compute.pairhmm.rescue import recompute
from megabolt.compute.pairhmm.scaling import P_WRONG
from megabolt.testing.kernel_cases import (
    assert_log10_close,
    assert_same_alignments,
    random_affine_jobs,
    random_pairhmm_batch,
)

LENGTHS = {"read_length": (20, 60), "hap_length": (60, 80)}


def test_alignments_from_several_threads() -> None:
    sets = [random_affine_jobs(np.random.default_rng(seed), 50, query_length=(10, 60), band=8) for seed in range(8)]
    scores = AffineScores().as_array()

    def run(index: int) -> AffineResult:
        jobs = sets[index % len(sets)]
        return AffineResult(
            *align_arrays(
                jobs.query, jobs.query_offsets, jobs.target, jobs.target_offsets, jobs.diagonal, jobs.band, scores
            )
        )

    expected = [align(jobs) for jobs in sets]
    with ThreadPoolExecutor(4) as pool:
        for index, result in enumerate(pool.map(run, range(64))):
            assert_same_alignments(result, expected[index % len(sets)], sets[index % len(sets)])


def test_likelihoods_from_several_threads() -> None:
    batches = [
        random_pairhmm_batch(np.random.default_rng(seed), n_reads=11, n_haps=3, unrelated=0.2, **LENGTHS)
        for seed in range(8)
    ]
    expected = [log10_likelihood(batch) for batch in batches]

    def run(index: int) -> np.ndarray:
        b = batches[index % len(batches)]
        return log10_likelihood_arrays(
            b.reads, b.qualities, b.read_offsets, b.haps, b.gap_open, b.gap_extend, b.hap_offsets, b.pairs
        )

    with ThreadPoolExecutor(4) as pool:
        for index, result in enumerate(pool.map(run, range(64))):
            np.testing.assert_array_equal(result, expected[index % len(batches)])


def test_inputs_are_left_alone() -> None:
    rng = np.random.default_rng(3)
    jobs = random_affine_jobs(rng, 20, query_length=(10, 60), band=8)
    before = [array.copy() for array in (jobs.query, jobs.target, jobs.diagonal)]
    align(jobs)
    for array, copy in zip((jobs.query, jobs.target, jobs.diagonal), before):
        np.testing.assert_array_equal(array, copy)


def test_the_last_rescue_alone_agrees_with_the_reference() -> None:
    rng = np.random.default_rng(4)
    b = random_pairhmm_batch(rng, n_reads=6, n_haps=2, unrelated=0.5, **LENGTHS)
    result = np.full(len(b.pairs), np.nan)
    which = np.arange(len(b.pairs))
    recompute(
        b.reads, b.qualities, b.read_offsets, b.haps, b.gap_open, b.gap_extend, b.hap_offsets, b.pairs,
        which, P_WRONG, result,
    )  # fmt: skip
    expected = log10_likelihood(b, backend=Backend.REFERENCE)
    assert_log10_close(result, expected, b)
    np.testing.assert_allclose(result, expected, rtol=1e-7)  # far closer than the contract asks
