# SPDX-License-Identifier: Apache-2.0
"""How many processors and how much memory a job may use: what the user says, else what the machine allows.

Containers and batch systems lower the limits of the machine through control groups; both versions are read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from megabolt.errors import UsageError

#: Share of the allowed memory that a job takes when it is not told: the rest is the page cache's and the
#: system's.
DEFAULT_MEMORY_SHARE = 0.75

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_CGROUP = Path("/sys/fs/cgroup")


def parse_memory(text: str) -> int:
    """Bytes in "8G", "8GiB", "500M" or "1073741824"; units are powers of 1,024.

    Raises
    ------
    UsageError
        Not an amount of memory, or less than 64 MB.
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not an amount of memory", "Write it as 8G or 500M.")
    n_bytes = int(float(match[1]) * UNITS[match[2].upper()])
    if n_bytes < 64 << 20:
        raise UsageError(f"{text} of memory is too little for any job", "Give at least 64M; mind the unit: 8G, not 8.")
    return n_bytes


def allowed_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes this process may use: the machine's memory or the control group's limit, whichever is lower."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _first_line(cgroup / name)
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def default_memory() -> int:
    """Bytes a job takes when it is not told."""
    return int(DEFAULT_MEMORY_SHARE * allowed_memory())


def allowed_threads(cgroup: Path = _CGROUP) -> int:
    """Processors this process may use: its affinity mask, lowered to a control group's quota."""
    n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _first_line(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        n_threads = min(n_threads, max(1, int(quota) // int(period)))
    return n_threads


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError:
        return ""
