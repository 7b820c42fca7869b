# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM: every backend against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabolt.compute.backend import Backend
from megabolt.compute.pairhmm import TOLERANCE, PairHmmBatch, launch, log10_likelihood
from megabolt.errors import UsageError
from megabolt.testing.kernel_cases import assert_log10_close, pairhmm_batch, random_pairhmm_batch


def check(batch: PairHmmBatch, backend: Backend) -> np.ndarray:
    actual = log10_likelihood(batch, backend=backend)
    assert_log10_close(actual, log10_likelihood(batch, backend=Backend.REFERENCE), batch)
    return actual


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_related_pairs(backend: Backend, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check(random_pairhmm_batch(rng, n_reads=19, n_haps=3, read_length=(5, 40), hap_length=(30, 60)), backend)


def test_unrelated_pairs_are_rescued_from_underflow(backend: Backend) -> None:
    rng = np.random.default_rng(4)
    batch = random_pairhmm_batch(
        rng, n_reads=10, n_haps=1, read_length=(180, 180), hap_length=(200, 200), unrelated=0.5
    )
    batch.gap_open[:], batch.gap_extend[:], batch.qualities[:] = 1e-5, 1e-3, 40
    likelihood = check(batch, backend)
    assert likelihood.min() < -100  # float32 with its scale factor ends near -64
    assert likelihood.max() > -50  # and not all pairs needed the rescue


def test_beyond_the_range_of_float64(backend: Backend) -> None:
    batch = pairhmm_batch(["A" * 120], ["C" * 120], quality=93, gap_open=1e-9, gap_extend=1e-9)
    assert check(batch, backend)[0] < -400


@pytest.mark.parametrize("n_reads", [1, 3, 4, 5, 7, 8, 9, 15, 16, 17])
def test_number_of_pairs_around_the_lane_count(backend: Backend, n_reads: int) -> None:
    rng = np.random.default_rng(n_reads)
    check(random_pairhmm_batch(rng, n_reads=n_reads, n_haps=2, read_length=(8, 12), hap_length=(12, 16)), backend)


@pytest.mark.parametrize("read_length", [1, 2, 3, 63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("hap_length", [1, 2, 65])
def test_lengths_around_the_group_size(backend: Backend, read_length: int, hap_length: int) -> None:
    rng = np.random.default_rng(read_length)
    lengths = {"read_length": (read_length, read_length), "hap_length": (hap_length, hap_length)}
    check(random_pairhmm_batch(rng, n_reads=3, n_haps=1, **lengths), backend)


def test_longest_read_and_haplotype(backend: Backend) -> None:
    rng = np.random.default_rng(6)
    lengths = {"read_length": (512, 512), "hap_length": (1024, 1024)}
    check(random_pairhmm_batch(rng, n_reads=1, n_haps=1, **lengths), backend)


def test_reads_of_all_lengths_in_one_batch(backend: Backend) -> None:
    rng = np.random.default_rng(7)
    reads = [rng.integers(0, 4, length).astype(np.uint8) for length in range(1, 30)]
    check(pairhmm_batch(reads, [rng.integers(0, 4, 25).astype(np.uint8)], gap_open=0.01), backend)


def test_n_agrees_with_every_base(backend: Backend) -> None:
    likelihood = check(pairhmm_batch(["NNNNNNNN"], ["ACGTACGTACGT", "NNNNNNNNNNNN"]), backend)
    assert abs(likelihood[0] - likelihood[1]) <= TOLERANCE
    check(pairhmm_batch(["ACGTACGT"], ["ACGNACGTACGT", "NNNN"]), backend)


def test_quality_zero_says_nothing(backend: Backend) -> None:
    likelihood = check(pairhmm_batch(["AAAAAAAA"], ["AAAAAAAAAAAA", "CCCCCCCCCCCC"], quality=0), backend)
    assert abs(likelihood[0] - likelihood[1]) <= TOLERANCE


def test_every_quality(backend: Backend) -> None:
    batch = pairhmm_batch(["ACGT" * 64], ["ACGT" * 64], quality=np.arange(256, dtype=np.uint8))
    check(batch, backend)


def test_empty_batch(backend: Backend) -> None:
    batch = pairhmm_batch(["ACGT"], ["ACGT"], pairs=np.empty((0, 2), np.int32))
    assert check(batch, backend).shape == (0,)


def test_order_and_company_do_not_change_a_single_bit(backend: Backend) -> None:
    rng = np.random.default_rng(8)
    batch = random_pairhmm_batch(rng, n_reads=21, n_haps=3, read_length=(20, 30), hap_length=(30, 40), unrelated=0.2)
    together = log10_likelihood(batch, backend=backend)
    shuffled = rng.permutation(len(batch.pairs))
    pairs = np.ascontiguousarray(batch.pairs[shuffled])
    np.testing.assert_array_equal(log10_likelihood(replace(batch, pairs=pairs), backend=backend), together[shuffled])
    alone = log10_likelihood(replace(batch, pairs=batch.pairs[5:6].copy()), backend=backend)
    assert alone[0] == together[5]


@pytest.mark.parametrize("group_size", [1, 7, 32, 128])
def test_group_size_does_not_change_the_result(backend: Backend, group_size: int) -> None:
    if backend is Backend.NUMBA:
        pytest.skip("the processor has lanes, not groups")
    rng = np.random.default_rng(9)
    batch = random_pairhmm_batch(rng, n_reads=5, n_haps=2, read_length=(30, 70), hap_length=(60, 80))
    expected = launch.log10_likelihood(batch, backend=backend)
    actual = launch.log10_likelihood(batch, backend=backend, group_size=group_size)
    np.testing.assert_array_equal(actual, expected)


sequences = st.lists(st.integers(0, 4), min_size=1, max_size=24)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(read=sequences, hap=sequences, data=st.data())
def test_masking_a_base_never_lowers_the_likelihood(
    backend: Backend, read: list[int], hap: list[int], data: st.DataObject
) -> None:
    masked = list(read)
    masked[data.draw(st.integers(0, len(read) - 1))] = 4
    codes = [np.array(one, np.uint8) for one in (read, masked)]
    likelihood = check(pairhmm_batch(codes, [np.array(hap, np.uint8)], quality=20), backend)
    assert likelihood[1] >= likelihood[0] - TOLERANCE


BAD_BATCHES = {
    "a read of no bases": {"read_offsets": np.array([0, 0, 4], np.int64)},
    "offsets beyond the reads": {"read_offsets": np.array([0, 9], np.int64)},
    "a code above N": {"reads": np.array([0, 1, 2, 5], np.uint8)},
    "a gap that never opens": {"gap_open": np.zeros(6, np.float32)},
    "a gap that never ends": {"gap_extend": np.ones(6, np.float32)},
    "a probability that is not a number": {"gap_extend": np.full(6, np.nan, np.float32)},
    "another dtype": {"qualities": np.full(4, 30, np.int64)},
    "fewer qualities than bases": {"qualities": np.full(3, 30, np.uint8)},
    "a pair that is not there": {"pairs": np.array([[0, 1]], np.int32)},
    "a negative pair": {"pairs": np.array([[-1, 0]], np.int32)},
    "pairs of another shape": {"pairs": np.zeros((1, 3), np.int32)},
}


@pytest.mark.parametrize("fault", BAD_BATCHES)
def test_bad_input_is_the_same_error_everywhere(backend: Backend, fault: str) -> None:
    good = pairhmm_batch(["ACGT"], ["ACGTAC"])
    with pytest.raises(UsageError, match="pair-HMM batch"):
        log10_likelihood(replace(good, **BAD_BATCHES[fault]), backend=backend)
