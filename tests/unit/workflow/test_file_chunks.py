# SPDX-License-Identifier: Apache-2.0
"""Chunks of a file: read once where there is room to keep them."""

from __future__ import annotations

import numpy as np

from megabolt.formats.bam_records import RecordBlock
from megabolt.reads.bins import HALO
from megabolt.workflow.call_job import Chunk
from megabolt.workflow.file_chunks import FileChunks


def test_kept_chunks_are_read_once_and_room_comes_back() -> None:
    asked = []

    def fetch(contig: int, start: int, stop: int) -> RecordBlock:
        asked.append((contig, start, stop))
        return RecordBlock(np.zeros(100, np.uint8), np.array([0]))

    chunks = FileChunks(fetch, 150)
    one, two = Chunk(0, 0, 1 << 20), Chunk(0, 1 << 20, 2 << 20)
    first = chunks.look(one)[0]
    chunks.look(two)
    assert asked == [(0, 0, (1 << 20) + HALO), (0, (1 << 20) - HALO, (2 << 20) + HALO)]
    assert chunks.take(one) is first
    assert len(asked) == 2
    chunks.take(two)
    assert len(asked) == 3
    kept = chunks.look(two)[0]
    assert chunks.take(two) is kept
    chunks.take(two)
    assert len(asked) == 5
