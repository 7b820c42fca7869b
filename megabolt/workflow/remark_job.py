# SPDX-License-Identifier: Apache-2.0
"""Pass 1 of a job that aligns nothing: the records of an existing file into bins, their templates to the finder.

In: `ExistingReads`. Out: a filled `BinStore` and `DuplicateFinder`. Next: `workflow/sweep.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from megabolt.align.record import RecordChunk
from megabolt.reads.bins import BinStore
from megabolt.reads.duplicates.finder import DuplicateFinder
from megabolt.reads.duplicates.templates import Templates
from megabolt.reads.existing import ExistingReads
from megabolt.reads.packing import Packed
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import in_order, worker_pool


def take_records(
    source: ExistingReads,
    store: BinStore,
    finder: DuplicateFinder,
    *,
    threads: int,
    clock: Clock,
    say: Callable[[int], None] | None = None,
) -> None:
    """Put all records of a file into bins.

    Parameters
    ----------
    source
        Is read to its end; stays open, for `spread`.
    store
        Takes the records; its ordinal_shift is 0.
    finder
        Takes the templates; its libraries are those of the source.
    say
        Told the number of records done.
    """

    def take(task: tuple[RecordChunk, Templates, Packed | None]) -> int:
        chunk, templates, packed = task
        with clock.work("duplicates"):
            finder.add(templates)
        with clock.work("bins"):
            store.add(chunk, packed)
        return chunk.n_records

    def pack(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Packed:
        with clock.work("bins"):
            return store.pack(data, offsets)

    n_records = 0
    with closing(source.chunks(pack)) as chunks, worker_pool(threads) as pool:  # type: ignore[type-var]
        for done in in_order(pool, take, chunks, threads):
            n_records += done
            if say is not None:
                say(n_records)
