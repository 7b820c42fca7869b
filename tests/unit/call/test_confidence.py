# SPDX-License-Identifier: Apache-2.0
"""GQ: the posterior, and doubt about the model behind it."""

from __future__ import annotations

import itertools
import math

import pytest

from megabolt.call.confidence import MAX_GQ, PLAIN, genotype_quality, model_failure

SURE = -50.0


def test_plain_sites_keep_their_posterior() -> None:
    """Far below the doubt about any site nothing else counts; at 10^-4 by 10^-4 the sum is Q37."""
    assert genotype_quality(-2.0, 5, 60.0, indel=False, alike=False) == 20
    assert genotype_quality(-4.0, 5, 60.0, indel=False, alike=False) == round(-10 * math.log10(2e-4))
    assert genotype_quality(SURE, 5, 60.0, indel=False, alike=False) == 40
    assert genotype_quality(SURE, 0, 60.0, indel=False, alike=True) == 40


def test_a_posterior_of_nothing_is_zero() -> None:
    assert genotype_quality(0.0, 0, 60.0, indel=False, alike=False) == 0
    assert genotype_quality(0.0, 40, 0.0, indel=True, alike=False) == 0


def test_repeats_are_doubted_the_more_the_longer_they_are() -> None:
    """By hand: 0.45 of what reads say about an indel in 30 bases, and 10^-2 on top."""
    quality = [genotype_quality(-3.0, tract, 60.0, indel=True, alike=False) for tract in range(5, 50)]
    assert quality == sorted(quality, reverse=True)
    assert quality[0] > quality[-1]
    assert quality[30 - 5] == round(-10 * math.log10(10**-1.35 + 10**-2.0 + PLAIN))
    snps = [genotype_quality(SURE, tract, 60.0, indel=False, alike=False) for tract in range(5, 50)]
    indels = [genotype_quality(SURE, tract, 60.0, indel=True, alike=False) for tract in range(5, 50)]
    assert all(a > b for a, b in zip(snps, indels))


def test_misplaced_reads() -> None:
    """MAPQ 60 / sqrt(2) is that of a site where every second read lies wrongly."""
    half = model_failure(0, 60 / math.sqrt(2), indel=False, alike=False)
    assert half == pytest.approx(PLAIN + 0.6 * 0.5**2.5)
    assert model_failure(0, 60 / math.sqrt(2), indel=False, alike=True) < 0.05 * half
    assert model_failure(0, 250.0, indel=False, alike=False) == PLAIN


def test_more_evidence_never_makes_a_genotype_less_sure() -> None:
    for indel, alike, mapq, tract in itertools.product((False, True), (False, True), (10.0, 45.0, 60.0), (3, 14, 60)):
        quality = [genotype_quality(-x / 4, tract, mapq, indel=indel, alike=alike) for x in range(60)]
        assert quality == sorted(quality)
        assert quality[0] >= 0
        assert quality[-1] <= MAX_GQ
