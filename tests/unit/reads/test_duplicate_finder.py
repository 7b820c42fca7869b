# SPDX-License-Identifier: Apache-2.0
"""Duplicates against a dictionary version of Picard's rules, for any threads, memory and order of the input."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.align.record import NO_END
from megabolt.errors import InternalError, ResourceError
from megabolt.reads.duplicates.finder import DuplicateFinder, DuplicateOptions, Duplicates
from megabolt.reads.duplicates.places import OTHER_NAME
from megabolt.reads.duplicates.templates import ABSENT_MATE, HALF_PAIR, MATE1_REVERSE, Templates
from megabolt.reads.scratch import Scratch

LIBRARIES = ["a", "b", "a", "c"]
NONE, ABSENT = int(NO_END), int(ABSENT_MATE)


@dataclass(frozen=True)
class One:
    """A template, for the plain version."""

    first: int = 2
    second: int = 9
    score: int = 0
    place: tuple[int, int, int] = (-1, -1, -1)
    group: int = 0
    flags: int = 0
    umi: int = 0
    number: int = 0

    @property
    def library(self) -> str:
        return LIBRARIES[self.group]

    @property
    def rank(self) -> tuple[Any, ...]:
        """Smallest for the template that stays."""
        place = (-1, -1, -1) if self.flags & OTHER_NAME else self.place
        return (-self.score, place, self.number)


def templates_of(ones: list[One], **fields: Any) -> Templates:
    return Templates(
        signature=np.array([(one.first, one.second) for one in ones], np.uint64).reshape(-1, 2),
        quality_sum=np.array([one.score for one in ones], np.int32),
        location=np.array([one.place for one in ones], np.int32).reshape(-1, 3),
        read_group=np.array([one.group for one in ones], np.uint16),
        flags=np.array([one.flags for one in ones], np.uint8),
        unmapped=np.zeros(len(ones), np.uint16),
        others=np.zeros(len(ones), np.uint16),
        umi=np.array([one.umi for one in ones], np.uint64),
        **fields,
    )


def plain_optical(group: list[One], best: One, distance: int, largest: int) -> set[int]:
    """By repeated joining of sets."""
    parts: dict[bool, list[One]] = defaultdict(list)
    crossed = (group[0].first ^ group[0].second) & 1
    for one in group:
        parts[bool(crossed and one.flags & MATE1_REVERSE)].append(one)
    found = set()
    for part in parts.values():
        if len(part) > largest:
            continue
        clusters = [{one} for one in part]
        for one, two in combinations(part, 2):
            near = all(abs(one.place[k] - two.place[k]) <= distance for k in (1, 2))
            if one.group == two.group and one.place[0] == two.place[0] != -1 and near:
                mine, other = (next(c for c in clusters if x in c) for x in (one, two))
                if mine is not other:
                    mine |= other
                    clusters.remove(other)
        for cluster in clusters:
            kept = best if best in cluster else min(cluster, key=lambda one: (one.place, one.number))
            found |= {one.number for one in cluster if one != kept}
    return found


def plain(ones: list[One], options: DuplicateOptions) -> tuple[set[int], set[int], Counter[tuple[int, int]]]:
    pairs: dict[Any, list[One]] = defaultdict(list)
    lone: dict[Any, list[One]] = defaultdict(list)
    paired_ends = set()
    for one in ones:
        umi = one.umi if options.umi else 0
        if one.first == NONE:
            continue
        if one.second == NONE:
            lone[one.library, one.first, umi].append(one)
            continue
        paired_ends.add((one.library, one.first, umi))
        if one.second != ABSENT:
            pairs[one.library, one.first, one.second, umi].append(one)
            paired_ends.add((one.library, one.second, umi))
    duplicate: set[int] = set()
    optical: set[int] = set()
    sizes: Counter[tuple[int, int]] = Counter()
    for group in pairs.values():
        best = min(group, key=lambda one: one.rank)
        duplicate |= {one.number for one in group if one != best}
        close = plain_optical(group, best, options.optical_distance, options.largest_optical_set)
        optical |= close
        sizes[len(group), len(close)] += 1
    for key, group in lone.items():
        best = min(group, key=lambda one: one.rank)
        duplicate |= {one.number for one in group if one != best or key in paired_ends}
    return duplicate, optical, sizes


def numbers(bits: NDArray[np.uint8]) -> set[int]:
    return {int(i) for i in np.flatnonzero(np.unpackbits(bits, bitorder="little"))}


def random_ones(rng: np.random.Generator, n: int, places: int) -> list[One]:
    ones = []
    for number in range(n):
        ends = sorted(int(x) for x in rng.integers(0, places, 2))
        kind = rng.random()
        if kind < 0.3:
            ends[1] = NONE if kind < 0.22 else ABSENT
        if kind > 0.95:
            ends = [NONE, NONE]
        place = (-1, -1, -1)
        if rng.random() < 0.9:
            place = (int(rng.integers(1, 3)), int(rng.integers(-300, 300)), int(rng.integers(-300, 300)))
        flags = int(rng.choice([0, MATE1_REVERSE, OTHER_NAME, 3], p=[0.4, 0.4, 0.1, 0.1]))
        if ends[1] == NONE and rng.random() < 0.2:
            flags |= HALF_PAIR
        score, group, umi = (int(rng.integers(limit)) for limit in (4, 4, 3))
        ones.append(One(ends[0], ends[1], score - 2, place, group, flags, umi, number))
    return ones


class Memory:
    """A spill file that is none."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def append(self, buffer: NDArray[np.uint8]) -> int:
        self.frames.append(buffer.tobytes())
        return len(self.frames) - 1

    def read(self, frame: int, out: NDArray[np.uint8]) -> None:
        out[:] = np.frombuffer(self.frames[frame], np.uint8)


def find(
    ones: list[One], options: DuplicateOptions, *, threads: int = 1, step: int = 700, order: int = 1, **limits: Any
) -> Duplicates:
    finder = DuplicateFinder(LIBRARIES, options, **limits)
    for first in list(range(0, len(ones), step))[::order]:
        finder.add(templates_of(ones[first : first + step]), first)
    return finder.resolve(threads)


@pytest.mark.parametrize(
    ("n", "places", "options"),
    [
        (0, 9, DuplicateOptions()),
        (1, 9, DuplicateOptions()),
        (400, 3, DuplicateOptions()),
        (3000, 12, DuplicateOptions(optical_distance=20)),
        (3000, 12, DuplicateOptions(optical_distance=-1)),
        (3000, 12, DuplicateOptions(largest_optical_set=9)),
        (3000, 12, DuplicateOptions(umi=True, umi_mismatches=0)),
        (9000, 3000, DuplicateOptions(optical_distance=2500)),
    ],
)
def test_agrees_with_the_plain_version(n: int, places: int, options: DuplicateOptions) -> None:
    ones = random_ones(np.random.default_rng(n + places), n, places)
    duplicate, optical, sizes = plain(ones, options)
    memory = Memory()
    for extra in ({}, {"threads": 3, "order": -1}, {"threads": 2, "budget": 60_000, "spill": memory, "step": 90}):
        got = find(ones, options, **extra)
        assert numbers(got.duplicate) == duplicate
        assert numbers(got.optical) == (optical if options.optical_distance >= 0 else set())
        if options.optical_distance >= 0:
            assert +got.set_sizes == sizes
    assert (len(memory.frames) > 0) == (n >= 3000)


@pytest.mark.parametrize("umi", [False, True])
def test_large_partitions_are_divided(umi: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megabolt.reads.duplicates.finder._LARGE_PARTITION", 20)
    monkeypatch.setattr("megabolt.reads.duplicates.finder._TASK_ROWS", 50)
    ones = random_ones(np.random.default_rng(9), 4000, 20)
    options = DuplicateOptions(umi=umi, umi_mismatches=0)
    duplicate, optical, sizes = plain(ones, options)
    got = find(ones, options, threads=2)
    assert (numbers(got.duplicate), numbers(got.optical)) == (duplicate, optical)
    assert +got.set_sizes == sizes


def test_groups_of_hundreds() -> None:
    ones = random_ones(np.random.default_rng(9), 1500, 2)
    duplicate, optical, sizes = plain(ones, DuplicateOptions())
    assert max(sizes)[0] > 100
    got = find(ones, DuplicateOptions())
    assert (numbers(got.duplicate), numbers(got.optical), +got.set_sizes) == (duplicate, optical, sizes)


def test_metrics_count_every_library() -> None:
    options = DuplicateOptions()
    ones = random_ones(np.random.default_rng(5), 2000, 12)
    duplicate, optical, _ = plain(ones, options)
    templates = templates_of(ones)
    templates.unmapped[:] = [one.number % 3 for one in ones]
    templates.others[:] = [one.number % 5 for one in ones]
    finder = DuplicateFinder(LIBRARIES, options)
    finder.add(templates)
    metrics = {one.library: one for one in finder.resolve().metrics}
    assert list(metrics) == ["a", "b", "c"]
    for name, got in metrics.items():
        mine = [one for one in ones if one.library == name]
        mapped = [one for one in mine if one.first != NONE]
        lone = [one for one in mapped if one.second == NONE and not one.flags & HALF_PAIR]
        pairs = [one for one in mapped if one.second < ABSENT]
        halves = [one for one in mapped if one not in lone and one not in pairs]
        assert got.unpaired_reads_examined == len(lone)
        assert got.read_pairs_examined == len(pairs) + len(halves) // 2
        assert got.unpaired_read_duplicates == sum(one.number in duplicate for one in lone)
        half = sum(one.number in duplicate for one in halves)
        assert half > 1
        assert got.read_pair_duplicates == sum(one.number in duplicate for one in pairs) + half // 2
        assert got.read_pair_optical_duplicates == sum(one.number in optical for one in pairs)
        assert got.unmapped_reads == sum(one.number % 3 for one in mine)
        assert got.secondary_or_supplementary_reads == sum(one.number % 5 for one in mine)


NEAR, FAR = (1, 5, 5), (1, 5, 500)


@pytest.mark.parametrize(
    ("ones", "duplicate", "optical"),
    [
        pytest.param([One(score=5), One(score=7), One(score=7)], {0, 2}, set(), id="best score, then the input"),
        pytest.param([One(place=FAR), One(place=NEAR)], {0}, set(), id="then the place"),
        pytest.param([One(place=FAR, flags=2), One(place=NEAR, flags=2)], {1}, set(), id="not from other names"),
        pytest.param([One(score=-5), One(score=-7)], {1}, set(), id="scores below zero"),
        pytest.param([One(place=NEAR), One(place=(1, 105, 105))], {1}, {1}, id="close in x and y"),
        pytest.param([One(place=NEAR), One(place=(1, 5, 106))], {1}, set(), id="not close in y"),
        pytest.param([One(place=NEAR), One(place=(2, 5, 5))], {1}, set(), id="another tile"),
        pytest.param([One(place=NEAR), One(place=NEAR, group=2)], {1}, set(), id="another read group"),
        pytest.param([One(place=(1, 5, y)) for y in (0, 90, 180)], {1, 2}, {1, 2}, id="a chain"),
        pytest.param([One(place=(1, 5, y), score=y) for y in (0, 90, 300)], {0, 1}, {1}, id="one of a cluster stays"),
        pytest.param([One(place=NEAR), One(place=NEAR, flags=1)], {1}, set(), id="mates exchanged"),
        pytest.param([One(second=8, place=NEAR), One(second=8, place=NEAR, flags=1)], {1}, {1}, id="one strand"),
        pytest.param([One(9, NONE, 99), One()], {0}, set(), id="a pair beats any lone read"),
        pytest.param([One(9, NONE, 99), One(9, ABSENT)], {0}, set(), id="so does half a pair"),
        pytest.param([One(9, NONE, 99), One(group=1)], set(), set(), id="not another library's"),
        pytest.param([One(9, NONE, 99), One(9, NONE, 99, NEAR), One(9, NONE)], {1, 2}, set(), id="lone reads"),
        pytest.param([One(9, ABSENT), One(9, ABSENT)], set(), set(), id="half a pair is never a copy"),
        pytest.param([One(NONE, NONE), One(NONE, NONE)], set(), set(), id="nor is what is unmapped"),
    ],
)
def test_rules(ones: list[One], duplicate: set[int], optical: set[int]) -> None:
    numbered = [replace(one, number=i) for i, one in enumerate(ones)]
    got = find(numbered, DuplicateOptions())
    assert (numbers(got.duplicate), numbers(got.optical)) == (duplicate, optical)
    assert plain(numbered, DuplicateOptions())[:2] == (duplicate, optical)


def test_rows_come_back_from_scratch(tmp_path: Path) -> None:
    ones = random_ones(np.random.default_rng(2), 6000, 300)
    with Scratch(tmp_path, "x") as scratch:
        file = scratch.open_file()
        got = find(ones, DuplicateOptions(), threads=2, step=100, budget=50_000, spill=file)
        assert file.n_bytes > 10_000
    duplicate, optical, _ = plain(ones, DuplicateOptions())
    assert (numbers(got.duplicate), numbers(got.optical)) == (duplicate, optical)


def test_many_threads_may_add(tmp_path: Path) -> None:
    ones = random_ones(np.random.default_rng(3), 20_000, 3000)
    finder = DuplicateFinder(LIBRARIES, spill=(memory := Memory()), budget=200_000)
    parts = [(templates_of(ones[k : k + 50]), k) for k in range(0, len(ones), 50)]
    with ThreadPoolExecutor(8) as pool:
        for task in [pool.submit(finder.add, *part) for part in parts]:
            task.result()
    assert finder.used < 400_000
    got = finder.resolve(3)
    duplicate, optical, sizes = plain(ones, DuplicateOptions())
    assert (numbers(got.duplicate), numbers(got.optical), +got.set_sizes) == (duplicate, optical, sizes)
    assert memory.frames


def test_numbers_of_templates_may_have_gaps() -> None:
    finder = DuplicateFinder(LIBRARIES)
    finder.add(templates_of([One(), One()], index=np.array([70, 3])))
    got = finder.resolve()
    assert numbers(got.duplicate) == {70}
    assert len(got.duplicate) == 9


def test_without_a_spill_file_the_budget_is_an_end() -> None:
    ones = random_ones(np.random.default_rng(1), 20_000, 50)
    with pytest.raises(ResourceError, match="--memory"):
        find(ones, DuplicateOptions(), budget=200_000)


def test_there_must_be_a_read_group() -> None:
    with pytest.raises(InternalError, match="0 read groups"):
        DuplicateFinder([])
