# SPDX-License-Identifier: Apache-2.0
"""Between the passes: covariates of all bins' records, counted side by side.

In: a filled `BinStore` with duplicates decided. Out: `Counts`, to which the recalibration is fitted. Next:
`workflow/sweep.py`, which applies it, and counts again what came of it.

GATK does not count duplicates, which are known only when all reads are in: so this is not done while they pass by the
first time. Bins need not be sorted for it.
"""

from __future__ import annotations

import threading

from megabolt.formats.bam import RecordBlock
from megabolt.reads.bins import BinStore
from megabolt.recalibrate import Counter, Counts
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import worker_pool


class Covariates:
    """Counts of covariates, collected by any number of threads: each has its own.

    Parameters
    ----------
    counter
        Counts.
    """

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self._local = threading.local()
        self._parts: list[Counts] = []

    def add(self, block: RecordBlock) -> None:
        """Count a block's records; from any thread."""
        if not hasattr(self._local, "counts"):
            self._local.counts = self.counter.empty()
            self._parts.append(self._local.counts)
        self.counter.count(block, into=self._local.counts)

    def total(self) -> Counts:
        """The sum of all that was added."""
        total = self.counter.empty()
        for counts in self._parts:
            total += counts
        return total


def count_bins(store: BinStore, counter: Counter, *, threads: int, clock: Clock) -> Counts:
    """Covariates of all placed records; does not depend on `threads`.

    Raises
    ------
    UsageError
        A read that is too long for recalibration.
    """
    covariates = Covariates(counter)

    def count(k: int) -> None:
        with clock.work("count covariates"):
            for block in store.records_of(k):
                covariates.add(block)

    with worker_pool(threads) as pool:
        for task in [pool.submit(count, k) for k in range(store.layout.n_bins)]:
            task.result()
    return covariates.total()
