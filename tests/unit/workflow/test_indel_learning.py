# SPDX-License-Identifier: Apache-2.0
"""From which reads of a sample its indel errors are learnt."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.call.engine import CallOptions
from megabolt.call.indel_errors import TractCounts
from megabolt.formats.bam_records import RecordBlock
from megabolt.testing.records import TextReference
from megabolt.workflow import indel_learning
from megabolt.workflow.call_job import Chunk
from megabolt.workflow.indel_learning import ENOUGH_READS, learn_indel_errors

GENOME = TextReference(dict.fromkeys("abcdefgh", "ACGT"))


def looked_at(
    monkeypatch: pytest.MonkeyPatch, reads_each: int, threads: int, mixture: frozenset[int] = frozenset()
) -> list[int]:
    """Contigs whose counts become the table, where each has so many reads."""
    used: list[int] = []

    def count(blocks: list[RecordBlock], genome: TextReference, contig: int, start: int, stop: int) -> TractCounts:
        assert (blocks, start, stop) == ([], 0, 4)
        return TractCounts(np.full((1, 4), contig), np.zeros((1, 4), np.int64), reads_each)

    def table(found: list[TractCounts]) -> NDArray[np.float64]:
        used.extend(int(one.tracts[0, 0]) for one in found)
        return np.ones((7, 41))

    def records(chunk: Chunk) -> list[RecordBlock]:
        assert chunk.contig not in mixture
        return []

    monkeypatch.setattr(indel_learning, "count_tracts", count)
    monkeypatch.setattr(indel_learning, "learn_open_table", table)
    options = learn_indel_errors(CallOptions(mixture=mixture), GENOME, records, threads=threads)
    assert options.open_by_tract is not None
    assert options.open_by_tract.max() == 1
    return used


def test_all_chunks_where_reads_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    used = looked_at(monkeypatch, 10, 2)
    assert sorted(used) == list(range(8))
    assert used != sorted(used), "from all over the genome"
    assert sorted(looked_at(monkeypatch, 10, 2, frozenset({3}))) == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_no_more_than_enough(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    used = looked_at(monkeypatch, ENOUGH_READS // 3 + 1, threads)
    assert used == looked_at(monkeypatch, 10, 1)[:3]
