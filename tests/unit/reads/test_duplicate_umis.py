# SPDX-License-Identifier: Apache-2.0
"""UMIs that join others, against a version on strings."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from megabolt.align.record import NO_END
from megabolt.reads.duplicates.finder import DuplicateFinder, DuplicateOptions
from megabolt.reads.duplicates.templates import Templates
from megabolt.reads.duplicates.umi_tags import umi_code

NONE = int(NO_END)


def plain_leaders(counts: Counter[str]) -> dict[str, str]:
    """Directional joining."""
    leaders: dict[str, str] = {}

    def is_near(one: str, two: str) -> bool:
        plain = set(one + two) <= set("ACGTN") and max(one.count("N"), two.count("N")) < 2 and len(one) <= 28
        return plain and len(one) == len(two) and sum(a != b for a, b in zip(one, two, strict=True)) == 1

    for first in sorted(counts, key=lambda umi: (-counts[umi], umi_code(umi))):
        queue = [] if first in leaders else [first]
        leaders.setdefault(first, first)
        while queue:
            umi = queue.pop()
            for other in counts:
                if other not in leaders and is_near(umi, other) and counts[umi] >= 2 * counts[other] - 1:
                    leaders[other] = first
                    queue.append(other)
    return leaders


def plain_duplicates(ones: list[tuple[int, int, str]], mismatches: int) -> set[int]:
    """Of (first, second end, UMI), all of one score."""
    pairs: dict[Any, list[int]] = defaultdict(list)
    lone: dict[int, list[int]] = defaultdict(list)
    for i, (first, second, _) in enumerate(ones):
        if second == NONE:
            lone[first].append(i)
        else:
            pairs[first, second].append(i)
    duplicate = set()
    at_end: dict[int, Counter[str]] = defaultdict(Counter)
    for ends, members in pairs.items():
        joined = leaders_of(Counter(ones[i][2] for i in members), mismatches)
        seen = set()
        for i in members:
            leader = joined[ones[i][2]]
            duplicate |= {i} if leader in seen else set()
            seen.add(leader)
            for end in ends:
                at_end[end][leader] += 1
    for end, members in lone.items():
        joined = leaders_of(at_end[end] + Counter(ones[i][2] for i in members), mismatches)
        seen = {joined[umi] for umi in at_end[end]}
        for i in members:
            leader = joined[ones[i][2]]
            duplicate |= {i} if leader in seen else set()
            seen.add(leader)
    return duplicate


def leaders_of(counts: Counter[str], mismatches: int) -> dict[str, str]:
    return plain_leaders(counts) if mismatches else {umi: umi for umi in counts}


def found(ones: list[tuple[int, int, str]], mismatches: int, threads: int = 1) -> set[int]:
    n = len(ones)
    templates = Templates(
        signature=np.array([one[:2] for one in ones], np.uint64).reshape(-1, 2),
        quality_sum=np.zeros(n, np.int32),
        location=np.full((n, 3), -1, np.int32),
        read_group=np.zeros(n, np.uint16),
        flags=np.zeros(n, np.uint8),
        unmapped=np.zeros(n, np.uint16),
        others=np.zeros(n, np.uint16),
        umi=np.array([umi_code(one[2]) for one in ones], np.uint64),
    )
    finder = DuplicateFinder(["a"], DuplicateOptions(umi=True, umi_mismatches=mismatches))
    finder.add(templates)
    bits = np.unpackbits(finder.resolve(threads).duplicate, bitorder="little")
    return {int(i) for i in np.flatnonzero(bits)}


@pytest.mark.parametrize("mismatches", [0, 1])
@pytest.mark.parametrize(("n", "places", "letters", "length"), [(300, 1, "ACGT", 3), (4000, 30, "ACGTN", 4)])
def test_agrees_with_the_plain_version(n: int, places: int, letters: str, length: int, mismatches: int) -> None:
    rng = np.random.default_rng(n + mismatches)
    ones = []
    for _ in range(n):
        ends = sorted(int(x) for x in rng.integers(0, places, 2))
        umi = "".join(rng.choice(list(letters), length))
        if rng.random() < 0.5:
            umi = ["A" * length, "ACGT"[:length], ""][rng.integers(3)]
        ones.append((ends[0], NONE if rng.random() < 0.2 else ends[1], umi))
    expected = plain_duplicates(ones, mismatches)
    assert 0 < len(expected) < n
    assert found(ones, mismatches) == expected
    assert found(ones, mismatches, threads=2) == expected


@pytest.mark.parametrize(
    ("umis", "duplicate"),
    [
        pytest.param(["AAAA", "AAAC"], {1}, id="two of one copy join"),
        pytest.param(["AAAA", "AACC"], set(), id="two mismatches"),
        pytest.param(["AAAA", "AAAC", "AACC"], {1, 2}, id="over a third"),
        pytest.param(["AAAA", "AAAA", "AAAC", "AAAC"], {1, 3}, id="as frequent"),
        pytest.param(["AAAA"] * 3 + ["AAAC"] * 2, {1, 2, 3, 4}, id="n >= 2 m - 1"),
        pytest.param(["AANA", "AACA"], {1}, id="an N is a mismatch"),
        pytest.param(["AANA", "ACCA"], set(), id="besides another"),
        pytest.param(["AANA", "ACNA"], {1}, id="not with an N at the same position"),
        pytest.param(["ANAA", "AANA"], set(), id="but with another one"),
        pytest.param(["NNAA", "NAAA"], set(), id="two N are near nothing"),
        pytest.param(["NNAA", "NNAA"], {1}, id="but themselves"),
        pytest.param(["A" * 28, "A" * 27 + "C"], {1}, id="28 bases"),
        pytest.param(["A" * 29, "A" * 28 + "C", "A" * 29], {2}, id="longer ones must agree"),
        pytest.param(["", "", "A"], {1}, id="no UMI is one of its own"),
        pytest.param(["AAA", "AAAA"], set(), id="lengths differ"),
    ],
)
def test_rules(umis: list[str], duplicate: set[int]) -> None:
    ones = [(2, 9, umi) for umi in umis]
    assert plain_duplicates(ones, 1) == duplicate
    assert found(ones, 1) == duplicate
    assert found([(2, NONE, umi) for umi in umis], 1) == duplicate


def test_a_lone_read_joins_the_umi_of_pairs() -> None:
    ones = [(2, 9, "AAAA"), (2, 9, "AAAA"), (9, NONE, "AAAC"), (9, NONE, "CCCC"), (8, NONE, "AAAC")]
    assert found(ones, 1) == {1, 2}
    assert found(ones, 0) == {1}


def test_thousands_of_umis_at_one_place() -> None:
    rng = np.random.default_rng(3)
    umis = ["".join(row) for row in rng.choice(list("ACGT"), (3000, 12))]
    ones = [(2, 9, umi) for umi in umis for _ in range(2)]
    assert found(ones, 1) == set(range(1, 6000, 2))
