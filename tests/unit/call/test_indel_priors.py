# SPDX-License-Identifier: Apache-2.0
"""Priors of indels against a table read by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megabolt.call.evidence import DELETION, INSERTION, SNP
from megabolt.call.indel_priors import STEPS, VARIABLE, EventPriors, event_priors, new_alleles
from megabolt.call.str_model import tandem_tracts
from megabolt.formats.bases import encode

UNIQUE = "GATTCACGTC"


def priors(repeat: str, *alleles: tuple[int, int]) -> EventPriors:
    """Of candidates (kind, length) at the first base of `repeat`, between two unique stretches."""
    codes = encode(UNIQUE + repeat + "GTCCATGA")
    period, tract = np.zeros(len(codes), np.uint8), np.zeros(len(codes), np.int32)
    tandem_tracts(codes, 0, len(codes), period, tract)
    kinds, lengths = zip(*alleles)
    candidates: Any = SimpleNamespace(
        start=np.full(len(alleles), len(UNIQUE)), length=np.array(lengths), kind=np.array(kinds, np.uint8)
    )
    return event_priors(candidates, period, tract, snp_prior=1e-3, indel_prior=1e-4, same_site_prior=0.1)


def prior(repeat: str, kind: int, length: int) -> float:
    """P(a person carries one candidate)."""
    (value,) = priors(repeat, (kind, length)).event
    return float(10**value)


def pair(repeat: str, a: tuple[int, int], b: tuple[int, int]) -> float:
    """P(one copy carries a, the other b)."""
    found = priors(repeat, a, b)
    (second,) = found.second
    return float(10 ** (found.event.min() + second))


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


def test_three_draws_are_alike_as_often_as_tracts_do_not_vary() -> None:
    variable = np.array([1e-4, 0.03, 0.28, 0.65])
    theta = new_alleles(variable)
    assert 2 / ((1 + theta) * (2 + theta)) == pytest.approx(1 - variable)
    assert theta[2] == pytest.approx((math.sqrt(1 + 8 / 0.72) - 3) / 2)


def test_two_alleles_of_one_tract_by_hand() -> None:
    theta = (math.sqrt(1 + 8 / (1 - 0.65)) - 3) / 2  # 16 units of 2 bases: 0.65 of them vary
    longer = 0.65 * theta / 2 * (0.1 * (0.05 + 0.4) / 2 + 0.05 * (0.1 + 0.4) / 2)
    assert pair("AC" * 16, (INSERTION, 4), (INSERTION, 6)) == pytest.approx(longer)
    both_ways = 0.65 * theta / 2 * (0.4 * (0.4 + 0.1) / 2 + 0.4 * (0.4 + 0.1) / 2)
    assert pair("AC" * 16, (INSERTION, 2), (DELETION, 2)) == pytest.approx(both_ways)


def test_second_alleles_are_common_where_tracts_vary_much_and_rare_elsewhere() -> None:
    def share(repeat: str, length: int) -> float:
        return pair(repeat, (INSERTION, length), (DELETION, length)) / prior(repeat, INSERTION, length)

    assert share("A" * 6, 1) < 0.001 < share("A" * 11, 1) < share("AC" * 16, 2)
    assert share("AC" * 16, 2) > 0.2


@pytest.mark.parametrize("other", [3, 2])
def test_what_is_no_step_between_alleles_has_a_plain_prior(other: int) -> None:
    found = priors("AC" * 10, (INSERTION, 2), (INSERTION, other))
    assert found.second.tolist() == [-1.0]


def test_each_pair_of_one_site_has_its_place() -> None:
    alleles = [(INSERTION, 2), (DELETION, 2), (DELETION, 4)]
    found = priors("AC" * 12, *alleles)
    assert found.second_offset.tolist() == [0, 2, 3]
    apart = [priors("AC" * 12, alleles[a], alleles[b]).second[0] for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.second.tolist() == pytest.approx(apart)
