# SPDX-License-Identifier: Apache-2.0
"""Priors of indels against a table read by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megabolt.call.evidence import DELETION, INSERTION, SNP
from megabolt.call.indel_priors import STEPS, VARIABLE, log10_event_priors
from megabolt.call.str_model import tandem_tracts
from megabolt.formats.bases import encode

UNIQUE = "GATTCACGTC"


def prior(repeat: str, kind: int, length: int) -> float:
    """Of a candidate at the first base of `repeat`, between two unique stretches."""
    codes = encode(UNIQUE + repeat + "GTCCATGA")
    period, tract = np.zeros(len(codes), np.uint8), np.zeros(len(codes), np.int32)
    tandem_tracts(codes, 0, len(codes), period, tract)
    one: Any = SimpleNamespace(
        start=np.array([len(UNIQUE)]), length=np.array([length]), kind=np.array([kind], np.uint8)
    )
    (value,) = log10_event_priors(one, period, tract, snp_prior=1e-3, indel_prior=1e-4)
    return float(10**value)


@pytest.mark.parametrize(
    ("unit", "units", "length", "expected"),
    [
        ("A", 1, 1, 1e-4),
        ("A", 10, 1, 0.11 * 0.4),
        ("A", 10, 2, 0.11 * 0.1),
        ("A", 40, 1, 0.28 * 0.4),
        ("AC", 10, 2, 0.33 * 0.4),
        ("AC", 10, 1, 1e-4),  # not a whole unit
        ("AC", 9, 2, math.sqrt(0.15 * 0.33) * 0.4),
        ("AAG", 6, 9, 0.06 * 0.05),
        ("AAAG", 5, 16, 0.075 * 0.02),
        ("AAAAG", 5, 25, 0.075 * 0.02),
        ("AAAG", 2, 20, 1e-4),
    ],
)
@pytest.mark.parametrize("kind", [INSERTION, DELETION])
def test_priors_by_hand(unit: str, units: int, length: int, expected: float, kind: int) -> None:
    assert prior(unit * units, kind, length) == pytest.approx(expected)


def test_snps_in_repeats_are_like_others() -> None:
    assert prior("A" * 12, SNP, 1) == pytest.approx(1e-3)


def test_longer_tracts_vary_no_less_and_larger_steps_are_no_commoner() -> None:
    for units, share in VARIABLE.values():
        assert list(units) == sorted(units)
        assert list(share) == sorted(share)
        assert share[-1] < 1
    assert list(STEPS) == sorted(STEPS, reverse=True)
    assert 2 * sum(STEPS) <= 1.2
