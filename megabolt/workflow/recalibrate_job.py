# SPDX-License-Identifier: Apache-2.0
"""Between the passes: covariates of all bins' records, counted side by side, and the table fitted to them.

In: a filled `BinStore` with duplicates decided. Out: `Recalibration`. Next: `workflow/sweep.py`, which applies it.

GATK does not count duplicates, which are known only when all reads are in: so this is not done while they pass by the
first time. Bins need not be sorted for it.
"""

from __future__ import annotations

import threading

from megabolt.reads.bins import BinStore
from megabolt.recalibrate import Counter, Counts, Recalibration, fit
from megabolt.workflow.clock import Clock
from megabolt.workflow.ordered import worker_pool


def recalibrate(store: BinStore, counter: Counter, *, threads: int, clock: Clock) -> Recalibration:
    """Count the covariates of all placed records and fit the table; does not depend on `threads`.

    Raises
    ------
    UsageError
        A read that is too long for recalibration.
    """
    local = threading.local()
    parts: list[Counts] = []

    def count(k: int) -> None:
        if not hasattr(local, "counts"):
            local.counts = counter.empty()
            parts.append(local.counts)
        with clock.work("count covariates"):
            for block in store.records_of(k):
                counter.count(block, into=local.counts)

    with worker_pool(threads) as pool:
        for task in [pool.submit(count, k) for k in range(store.layout.n_bins)]:
            task.result()
    total = counter.empty()
    for counts in parts:
        total += counts
    return fit(counter.groups.names, total, counter.options)
