# SPDX-License-Identifier: Apache-2.0
"""The records of an indexed file, chunk by chunk; what was read to learn from is not read again to be called.

In: a reader's `fetch`. Out: a chunk's records with those around it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from megabolt.formats.bam_records import RecordBlock
from megabolt.reads.bins import HALO
from megabolt.workflow.call_job import Chunk


class FileChunks:
    """Reads chunks; safe for threads as far as `fetch` is.

    Parameters
    ----------
    fetch
        Records of [start, stop) of a contig.
    budget
        Bytes of records that may be kept from `look` to `take`.
    """

    def __init__(self, fetch: Callable[[int, int, int], RecordBlock], budget: int) -> None:
        self._fetch, self._left = fetch, budget
        self._kept: dict[Chunk, RecordBlock] = {}
        self._lock = threading.Lock()

    def look(self, chunk: Chunk) -> list[RecordBlock]:
        """The records of a chunk, which will be taken later: they are kept if there is room."""
        block = self._read(chunk)
        with self._lock:
            if block.data.nbytes <= self._left:
                self._left -= block.data.nbytes
                self._kept[chunk] = block
        return [block]

    def take(self, chunk: Chunk) -> RecordBlock:
        """The records of a chunk, which nobody wants again."""
        with self._lock:
            block = self._kept.pop(chunk, None)
            if block is not None:
                self._left += block.data.nbytes
        return self._read(chunk) if block is None else block

    def _read(self, chunk: Chunk) -> RecordBlock:
        return self._fetch(chunk.contig, max(0, chunk.start - HALO), chunk.stop + HALO)
