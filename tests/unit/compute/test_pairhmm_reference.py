# SPDX-License-Identifier: Apache-2.0
"""The pair-HMM reference against sums worked out by hand."""

from __future__ import annotations

import math

import pytest

from megabolt.compute.backend import Backend
from megabolt.compute.pairhmm import log10_likelihood
from megabolt.testing.kernel_cases import pairhmm_batch

E = 10**-3.0  # P(wrong) at quality 30
G, X = 0.01, 0.25  # P(open), P(extend)


def likelihood(read: str, hap: str, quality: int = 30) -> float:
    batch = pairhmm_batch([read], [hap], quality=quality, gap_open=G, gap_extend=X)
    return 10.0 ** float(log10_likelihood(batch, backend=Backend.REFERENCE)[0])


@pytest.mark.parametrize(
    ("read", "hap", "expected"),
    [
        ("A", "A", 1 - E),
        ("A", "C", E / 3),
        ("N", "C", 1 - E),
        ("A", "N", 1 - E),
        ("A", "AC", ((1 - E) + E / 3) / 2),
        # The second base can only be inserted: there is no haplotype left.
        ("AC", "A", (1 - E) * G),
        # One base inserted, then a second: extended.
        ("ACC", "A", (1 - E) * G * X),
        # M M; M on the first base, then an insertion; M on the second base, then an insertion.
        ("AC", "AC", ((1 - E) ** 2 * (1 - 2 * G) + (1 - E) * G + E / 3 * G) / 2),
        # Starts on A: M M against G, M D M with G deleted, insertion. On G: M M, insertion. On C: insertion.
        (
            "AC",
            "AGC",
            (
                (1 - E) * (1 - 2 * G) * (E / 3)
                + (1 - E) * G * (1 - X) * (1 - E)
                + (1 - E) * G
                + (E / 3) * (1 - 2 * G) * (1 - E)
                + (E / 3) * G
                + (E / 3) * G
            )
            / 3,
        ),
    ],
)  # fmt: skip
def test_by_hand(read: str, hap: str, expected: float) -> None:
    assert likelihood(read, hap) == pytest.approx(expected, rel=1e-6)  # the gap probabilities are float32


def test_quality_zero_is_three_quarters_wrong() -> None:
    assert likelihood("A", "A", quality=0) == pytest.approx(0.25)
    assert likelihood("A", "C", quality=0) == pytest.approx(0.25)


def test_rescaling_does_not_show() -> None:
    """200 mismatches are 10**-695: beyond float64, and still one product."""
    n = 200
    batch = pairhmm_batch(["A" * n], ["C" * n], quality=30, gap_open=1e-30, gap_extend=1e-30)
    start_anywhere = math.log10((E / 3) ** 10) * (n / 10) - math.log10(n)
    value = float(log10_likelihood(batch, backend=Backend.REFERENCE)[0])
    assert value == pytest.approx(start_anywhere, abs=1e-3)
