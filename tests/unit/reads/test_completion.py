# SPDX-License-Identifier: Apache-2.0
"""Templates from records that a name join has brought together, beside a plain rendering of the same rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from megabolt.formats.name_join import NameJoin
from megabolt.formats.record_facts import FIRST, OTHER, SECOND, SINGLE, Facts
from megabolt.reads.completion import complete
from megabolt.reads.duplicates.places import OTHER_NAME
from megabolt.reads.duplicates.templates import ALONE, RecordEnds, join_ends

NO_END = 0xFFFFFFFFFFFFFFFF
N_NAMES, N_BLOCKS = 400, 4


def input_records(rng: np.random.Generator, with_umi: bool) -> tuple[Facts, RecordEnds]:
    """Pairs, single reads and others in any order; a fifth of the reads has no end, many ends are equal."""
    rows = []
    for name in range(N_NAMES):
        kinds = [[SINGLE], [FIRST, SECOND], [SECOND, FIRST], [FIRST, SECOND, OTHER], [FIRST]][int(rng.integers(5))]
        rows += [(kind, name) for kind in kinds]
    order = rng.permutation(len(rows))
    if rng.random() < 0.5:  # together, as aligners write them
        order = np.arange(len(rows))
    kind, name = np.array([rows[i] for i in order], np.int64).T.copy()
    n = len(rows)
    facts = Facts(
        kind, name % 3, np.zeros((n, 2), np.int64), np.zeros(n, np.int64), np.stack([name, name], 1).astype(np.uint64)
    )
    end = rng.integers(40, size=n).astype(np.uint64)
    end[rng.random(n) < 0.2] = NO_END
    ends = RecordEnds(
        end,
        rng.integers(-9000, 9000, n).astype(np.int32),
        rng.integers(-1, 9, (n, 3)).astype(np.int32),
        (rng.integers(2, size=n) * OTHER_NAME).astype(np.uint8),
        rng.integers(99, size=n).astype(np.uint64) if with_umi else None,
    )
    return facts, ends


def expected(facts: Facts, ends: RecordEnds) -> list[list[Any]]:
    """One template after another: the number, then all that is known of it."""
    waiting: dict[int, int] = {}
    found = []
    for row in range(len(facts.kind)):
        kind, name = int(facts.kind[row]), int(facts.hash[row, 0])
        mate = waiting.pop(name, -1) if kind in (FIRST, SECOND) else -1
        if mate < 0 and kind != SINGLE:
            if kind != OTHER:
                waiting[name] = row
            continue
        first, second = row, mate
        place = {one: int(ends.end[one]) >> 1 for one in (row, mate) if one >= 0 and int(ends.end[one]) != NO_END}
        if mate in place and place[mate] <= place.get(row, NO_END):
            first, second = mate, row
        mate1 = first if facts.kind[first] == FIRST or second < 0 else second
        reverse = np.array([bool(int(ends.end[mate1]) & 1)])
        both = len(place) == 2
        one = join_ends(
            ends,
            np.array([first]),
            np.array([second if both else ALONE]),
            reverse,
            facts.group[[row]].astype(np.uint16),
        )
        fields = [one.signature, one.quality_sum, one.location, one.read_group, one.flags]
        unmapped = (row not in place) + (mate >= 0 and mate not in place)
        umi = [] if one.umi is None else one.umi.tolist()
        found.append([first, second, name, unmapped, umi, *(field[0].tolist() for field in fields)])
    return found


@pytest.mark.parametrize("with_umi", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_templates_are_put_together_as_by_hand(seed: int, with_umi: bool) -> None:
    rng = np.random.default_rng(seed)
    facts, ends = input_records(rng, with_umi)
    n = len(facts.kind)
    join = NameJoin(strict=False)
    kept_kind, umi = np.zeros(2 * n, np.int64), np.zeros(2 * n, np.uint64) if with_umi else None
    kept = RecordEnds(
        np.zeros(2 * n, np.uint64),
        np.zeros(2 * n, np.int32),
        np.zeros((2 * n, 3), np.int32),
        np.zeros(2 * n, np.uint8),
        umi,
    )
    found = []
    for first in range(0, n, n // N_BLOCKS + 1):
        rows = slice(first, first + n // N_BLOCKS + 1)
        part = Facts(facts.kind[rows], facts.group[rows], facts.umi[rows], facts.original[rows], facts.hash[rows])
        block = RecordEnds(*(None if field is None else field[rows] for field in vars(ends).values()))  # type: ignore[arg-type]
        partner, own, _ = join.join(part.kind, part.hash)
        out, links = complete(part, block, first, partner, own, join.record, kept_kind, kept)
        still = np.flatnonzero(own >= 0)
        kept_kind[own[still]] = part.kind[still]
        for target, source in zip(vars(kept).values(), vars(block).values()):
            if target is not None:
                target[own[still]] = source[still]
        join.release(partner[partner >= 0])
        assert out.index is not None
        assert out.index.tolist() == links[0].tolist()
        for t in range(out.n):
            umis = [] if out.umi is None else [int(out.umi[t])]
            fields = [out.signature, out.quality_sum, out.location, out.read_group, out.flags]
            found.append([*links[:, t].tolist(), int(out.unmapped[t]), umis, *(field[t].tolist() for field in fields)])
    assert found == expected(facts, ends)
    assert join.n_waiting == n - 2 * sum(row[1] >= 0 for row in found) - sum(
        int((facts.kind == kind).sum()) for kind in (SINGLE, OTHER)
    )
