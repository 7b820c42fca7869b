# SPDX-License-Identifier: Apache-2.0
"""Pairs from an array of near copies: every seed is in a long list, but those over an error, which mislead.

Whatever the aligner chooses, it must not fit worse than the place a pair comes from: then that place was not seen.
"""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.align.engine import InsertSize, PairAligner
from megabolt.align.index import build_index, open_index
from megabolt.formats.bases import decode, reverse_complement
from megabolt.testing.batches import pair_batch

LENGTH, COPIES, UNIT = 150, 300, 2052
INSERT = InsertSize(mean=400.0, sd=50.0, low=35, high=700)


def mutated(codes: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    changed = rng.random(len(codes)) < rate
    return np.where(changed, (codes + rng.integers(1, 4, len(codes))) % 4, codes).astype(np.uint8)


@pytest.fixture(scope="module")
def array() -> np.ndarray:
    """Flanks of 5 kb around 300 copies of 12 monomers of 171 bases; copies differ in 1 % of their bases."""
    rng = np.random.default_rng(5)
    monomer = rng.integers(0, 4, 171).astype(np.uint8)
    unit = np.concatenate([mutated(monomer, 0.2, rng) for _ in range(12)])
    copies = [mutated(unit, 0.005, rng) for _ in range(COPIES)]
    flanks = rng.integers(0, 4, (2, 5000)).astype(np.uint8)
    return np.concatenate([flanks[0], *copies, flanks[1]])


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> PairAligner:
    path = tmp_path_factory.mktemp("satellite") / "ref.fa"
    path.write_text(f">array\n{decode(array)}\n")
    build_index(path)
    return PairAligner(open_index(path))


@pytest.mark.parametrize("paired", [True, False])
def test_no_place_fits_better_than_the_one_chosen(aligner: PairAligner, array: np.ndarray, paired: bool) -> None:
    rng = np.random.default_rng(8)
    reads: list[list[str]] = [[], []]
    expected = []
    for start in rng.integers(5000, 5000 + COPIES * UNIT - 400, 1500):
        ends = (array[start : start + LENGTH], reverse_complement(array[start + 400 - LENGTH : start + 400]))
        read = [mutated(end, 0.005, rng) for end in ends]
        for text, one in zip(reads, read):
            text.append(decode(one))
        expected.append([LENGTH - 5 * int((one != end).sum()) for one, end in zip(read, ends)])
    if paired:
        got = aligner.align(pair_batch(reads[0], reads[1]), INSERT)
        short = np.sum(expected, 1) - (got.score[0::2] + got.score[1::2])
    else:
        got = aligner.align(pair_batch(reads[0], [""] * len(reads[0])), INSERT)
        short = np.array(expected)[:, 0] - got.score[0::2]
    assert got.mapped[0::2].all()
    # Of a pair two lists of each mate are read: one in two hundred has errors in both.
    assert (short > 4).mean() <= (0.008 if paired else 0.001)
