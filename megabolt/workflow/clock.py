# SPDX-License-Identifier: Apache-2.0
"""Where a job's time goes: wall and CPU seconds of its stages, CPU seconds of the kinds of work in them."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Times stages (one after another) and work (in any thread, within stages).

    Parameters
    ----------
    say
        Told the name of each stage when it begins.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._began = time.perf_counter(), time.process_time()
        self.stages: list[dict[str, Any]] = []
        self._work: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The seconds of the block, all threads counted."""
        if self._say is not None:
            self._say(name)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.stages.append(
                {
                    "name": name,
                    "wall_seconds": round(time.perf_counter() - wall, 3),
                    "cpu_seconds": round(time.process_time() - cpu, 3),
                }
            )

    @contextmanager
    def work(self, name: str) -> Iterator[None]:
        """Add this thread's CPU seconds of the block to a kind of work."""
        began = time.thread_time()
        try:
            yield
        finally:
            used = time.thread_time() - began
            with self._lock:
                self._work[name] = self._work.get(name, 0.0) + used

    def report(self) -> dict[str, Any]:
        """Stages, work and totals, as they go into the metrics."""
        wall, cpu = self._began
        with self._lock:
            work = {name: round(seconds, 3) for name, seconds in sorted(self._work.items())}
        return {
            "seconds": {"total": round(time.perf_counter() - wall, 3)},
            "cpu_seconds": {"total": round(time.process_time() - cpu, 3), "by_work": work},
            "stages": self.stages,
            "peak_rss_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
