# SPDX-License-Identifier: Apache-2.0
"""The banded alignment's reference against alignments drawn by hand; scores are written as arithmetic."""

from __future__ import annotations

import pytest

from megabolt.compute.backend import Backend
from megabolt.compute.banded_affine import AffineScores, align
from megabolt.testing.kernel_cases import affine_jobs, describe

LEFT = "GATTACAGATTC"
RIGHT = "CTGAAGCTTGCA"


def aligned(query: str, target: str, diagonal: int = 0, band: int = 8, **scores: int) -> str:
    """Score, query range, target range, CIGAR. Gaps are drawn as dashes, which are not part of a sequence."""
    jobs = affine_jobs([query.replace("-", "")], [target.replace("-", "")], diagonal, band=band)
    return describe(align(jobs, AffineScores(**scores), backend=Backend.REFERENCE), 0)


def test_identical() -> None:
    assert aligned(LEFT, LEFT) == "12 0-12 0-12 12M"


def test_inside_a_longer_target() -> None:
    assert aligned(LEFT, "CCC" + LEFT + "GG", diagonal=3) == "12 0-12 3-15 12M"


def test_mismatch_in_the_middle() -> None:
    assert aligned(LEFT + "A" + RIGHT, LEFT + "T" + RIGHT) == f"{24 - 4} 0-25 0-25 25M"


def test_deletion() -> None:
    assert aligned(LEFT + "---" + RIGHT, LEFT + "AAA" + RIGHT) == f"{24 - 6 - 3} 0-24 0-27 12M3D12M"


def test_insertion() -> None:
    assert aligned(LEFT + "AAA" + RIGHT, LEFT + "---" + RIGHT) == f"{24 - 6 - 3} 0-27 0-24 12M3I12M"


def test_gaps_are_leftmost() -> None:
    # One of five A is missing: the gap could stand at any of them.
    assert aligned(LEFT + "-AAAA" + RIGHT, LEFT + "AAAAA" + RIGHT) == f"{28 - 6 - 1} 0-28 0-29 12M1D16M"
    assert aligned(LEFT + "AAAAA" + RIGHT, LEFT + "-AAAA" + RIGHT) == f"{28 - 6 - 1} 0-29 0-28 12M1I16M"
    # One of three TG is missing; LEFT ends in C, so the gap moves to its very edge.
    assert aligned(LEFT + "--TGTG" + RIGHT, LEFT + "TGTGTG" + RIGHT) == f"{28 - 6 - 2} 0-28 0-30 12M2D16M"


def test_gap_beyond_the_band_is_not_found() -> None:
    assert "D" in aligned(LEFT + "---" + RIGHT, LEFT + "AAA" + RIGHT, band=3)
    assert "D" not in aligned(LEFT + "---" + RIGHT, LEFT + "AAA" + RIGHT, band=2)


def test_clip_when_cheaper_than_the_mismatches() -> None:
    # Two mismatches in three bases cost 8 - 1; a clip costs 5 and the match.
    assert aligned("CCT" + LEFT, "AAT" + LEFT) == "13 2-15 2-15 13M"
    # One mismatch at the end costs 4: less than the clip.
    assert aligned("C" + LEFT, "A" + LEFT) == f"{12 - 4} 0-13 0-13 13M"
    assert aligned(LEFT + "C", LEFT + "A") == f"{12 - 4} 0-13 0-13 13M"


def test_at_equal_price_the_end_is_clipped() -> None:
    # Aligning the last two bases costs a mismatch and earns a match, 4 - 1; clipping them costs 3.
    assert aligned(LEFT + "CG", LEFT + "AG", clip=3) == "12 0-12 0-12 12M"
    assert aligned("GC" + LEFT, "GA" + LEFT, clip=3) == "12 2-14 2-14 12M"


def test_a_costly_clip_forces_the_whole_query() -> None:
    assert aligned("CC" + LEFT, "AA" + LEFT, clip=1000) == f"{12 - 8} 0-14 0-14 14M"


def test_score_of_the_aligned_part_must_be_positive() -> None:
    assert aligned("CCCC" + LEFT, "AAAA" + LEFT, clip=1000).startswith("0 0-0 0-0 *")
    assert aligned("AAAA", "CCCC") == "0 0-0 0-0 *"
    assert aligned("NNNN", "NNNN") == "0 0-0 0-0 *"


@pytest.mark.parametrize("diagonal", [100, -100])
def test_band_off_the_target(diagonal: int) -> None:
    assert aligned(LEFT, LEFT, diagonal=diagonal) == "0 0-0 0-0 *"


def test_target_shorter_than_the_query() -> None:
    assert aligned(LEFT + RIGHT, RIGHT, diagonal=-12) == "12 12-24 0-12 12M"
