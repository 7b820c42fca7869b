# SPDX-License-Identifier: Apache-2.0
"""The random genome: seeded, of the size asked for, with the repeats it promises."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.errors import UsageError
from megabolt.formats.bases import N
from megabolt.simulate.genome import GenomeOptions, SimulatedGenome, make_genome, mutate
from megabolt.simulate.variants import tandem_repeats


@pytest.fixture(scope="module")
def genome() -> SimulatedGenome:
    return make_genome(GenomeOptions(size=400_000, n_contigs=3), 7)


def test_size_and_names(genome: SimulatedGenome) -> None:
    assert genome.names == ("sim1", "sim2", "sim3")
    lengths = [len(codes) for codes in genome.sequences]
    assert sum(lengths) == 400_000
    assert lengths == sorted(lengths, reverse=True)
    assert [len(mask) for mask in genome.masks] == lengths


def test_same_seed_same_genome(genome: SimulatedGenome) -> None:
    again = make_genome(GenomeOptions(size=400_000, n_contigs=3), 7)
    other = make_genome(GenomeOptions(size=400_000, n_contigs=3), 8)
    assert all(np.array_equal(a, b) for a, b in zip(genome.sequences, again.sequences))
    assert not np.array_equal(genome.sequences[0], other.sequences[0])


def test_unknown_bases_and_mask(genome: SimulatedGenome) -> None:
    codes, mask = np.concatenate(genome.sequences), np.concatenate(genome.masks)
    assert (codes == N).mean() == pytest.approx(0.01, abs=0.003)
    assert (codes <= N).all()
    assert not mask[codes == N].any()
    assert 0.2 < mask.mean() < 0.6
    assert genome.sequences[0][0] == N


def test_composition(genome: SimulatedGenome) -> None:
    codes = np.concatenate(genome.sequences)
    counts = np.bincount(codes, minlength=5)[:4] / (codes < N).sum()
    assert 0.3 < counts[1] + counts[2] < 0.55
    cg = ((codes[:-1] == 1) & (codes[1:] == 2)).mean()
    assert cg < 0.6 * counts[1] * counts[2]  # CG is rare, as in the human genome


def test_it_has_repeats(genome: SimulatedGenome) -> None:
    repeats = tandem_repeats(genome.sequences[0])
    assert {repeat.period for repeat in repeats} >= {1, 2, 3, 4}
    assert max(repeat.stop - repeat.start for repeat in repeats if repeat.period == 1) >= 15
    # 24-mers that occur again: far more than in random sequence, where there are none
    codes = genome.sequences[0].astype(np.int64)
    words = sum(codes[i : len(codes) - 24 + i] << (2 * i) for i in range(24))
    known = np.convolve(genome.sequences[0] == N, np.ones(24, np.int64), "valid")[:-1] == 0
    _, counts = np.unique(words[known], return_counts=True)
    assert counts[counts > 1].sum() / known.sum() > 0.02


def test_mutate_changes_what_it_is_told_to() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 4, 50_000).astype(np.uint8)
    assert (mutate(codes, 0.1, 0.0, rng) != codes).mean() == pytest.approx(0.1, abs=0.01)
    assert len(mutate(codes, 0.0, 0.01, rng)) != len(codes)
    assert np.array_equal(mutate(codes, 0.0, 0.0, rng), codes)


def test_a_genome_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot have 5 contigs"):
        GenomeOptions(size=3000, n_contigs=5)
