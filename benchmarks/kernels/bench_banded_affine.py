# SPDX-License-Identifier: Apache-2.0
"""How fast banded alignment is: asserts the answer, then prints giga cell updates per second (GCUPS).

    python benchmarks/kernels/bench_banded_affine.py [--toy] [--backend NAME] [--repeats N]

Jobs are 150-base queries, half of them with gaps, in batches of 2,048; packing, traceback and CIGARs included.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

import megabolt
from megabolt.compute.backend import Backend, availability, resolve
from megabolt.compute.banded_affine import AffineJobs, align
from megabolt.testing.kernel_cases import assert_same_alignments, n_affine_cells, random_affine_jobs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small sizes: a test that this script works")
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(argv)
    backend, _ = resolve(options.backend)
    n_jobs, length = (20, 30) if options.toy else (2048, 150)
    rng = np.random.default_rng(1)
    print(f"# {platform.processor() or platform.machine()}; {availability(backend).detail}; {megabolt.__version__}")
    _check(random_affine_jobs(rng, 10, query_length=(length // 2, length // 2), band=8), backend)
    for band in (8, 16, 32, 64):
        jobs = random_affine_jobs(rng, n_jobs, query_length=(length, length), band=band)
        seconds = _median_seconds(lambda jobs=jobs: align(jobs, backend=backend), options.repeats)  # type: ignore[misc]
        print(f"band {band:3} {n_affine_cells(jobs) / seconds / 1e9:8.2f} GCUPS {seconds / n_jobs * 1e6:8.2f} us/job")
    return 0


def _check(jobs: AffineJobs, backend: Backend) -> None:
    assert_same_alignments(align(jobs, backend=backend), align(jobs, backend=Backend.REFERENCE), jobs)


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


if __name__ == "__main__":
    sys.exit(main())
