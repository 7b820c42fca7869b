# SPDX-License-Identifier: Apache-2.0
"""Named filters, and Fisher's exact test against the sum over all tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megabolt.call.filters import Thresholds, filter_names, fisher_strand


def plain_fisher(a: int, b: int, c: int, d: int) -> float:
    """Phred of the two-sided p: all tables with these margins that are no likelier."""
    chances = {
        x: math.comb(a + b, x) * math.comb(c + d, a + c - x)
        for x in range(max(0, a + c - c - d), min(a + b, a + c) + 1)
    }
    total = sum(chances.values())
    p = sum(n for n in chances.values() if n <= chances[a]) / total
    return -10 * math.log10(p)


def test_fisher_agrees_with_all_tables() -> None:
    generator = np.random.default_rng(4)
    for _ in range(300):
        a, b, c, d = (int(v) for v in generator.integers(0, 40, 4))
        if min(a + b, c + d, a + c, b + d) > 0:
            assert fisher_strand((a, b), (c, d)) == pytest.approx(plain_fisher(a, b, c, d), abs=1e-6)


def test_fisher_by_hand() -> None:
    assert fisher_strand((3, 1), (1, 3)) == pytest.approx(-10 * math.log10(34 / 70))
    assert fisher_strand((20, 20), (0, 0)) == 0.0
    assert fisher_strand((2000, 0), (0, 2000)) == 500.0


def test_names_of_failed_filters() -> None:
    limits = Thresholds()
    assert filter_names(limits, 50.0, 30, 10.0, True) == "PASS"
    assert filter_names(limits, 5.0, 2, 70.0, True) == "LowQual;LowDepth;StrandBias"
    assert filter_names(limits, 50.0, 30, 70.0, False) == "PASS"
    assert set(limits.descriptions()) == {"LowQual", "LowDepth", "StrandBias"}
