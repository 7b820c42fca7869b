# SPDX-License-Identifier: Apache-2.0
"""How fast the pair-HMM is: asserts the answer, then prints giga cell updates per second (GCUPS).

    python benchmarks/kernels/bench_pairhmm.py [--toy] [--backend NAME] [--repeats N]

Cases: the windows of a caller (40 reads against 3 haplotypes, one call per window and one call for all), and a
batch in which one pair in five is unrelated and needs float64.
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
from megabolt.compute.pairhmm import PairHmmBatch, log10_likelihood
from megabolt.testing.kernel_cases import assert_log10_close, n_pairhmm_cells, random_pairhmm_batch


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small sizes: a test that this script works")
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(argv)
    backend, _ = resolve(options.backend)
    read, hap, n_windows = (20, 40, 2) if options.toy else (150, 250, 50)
    rng = np.random.default_rng(1)
    print(f"# {platform.processor() or platform.machine()}; {availability(backend).detail}; {megabolt.__version__}")

    def batch(n_reads: int, unrelated: float = 0.0) -> PairHmmBatch:
        return random_pairhmm_batch(
            rng, n_reads=n_reads, n_haps=3, read_length=(read, read), hap_length=(hap, hap), unrelated=unrelated
        )

    _check(batch(2, unrelated=0.5), backend)
    windows = [batch(40) for _ in range(n_windows)]
    _report("a call per window", windows, backend, options.repeats)
    _report("one call", [batch(40 * n_windows)], backend, options.repeats)
    _report("one call, a fifth unrelated", [batch(40 * n_windows, unrelated=0.2)], backend, options.repeats)
    return 0


def _check(batch: PairHmmBatch, backend: Backend) -> None:
    expected = log10_likelihood(batch, backend=Backend.REFERENCE)
    assert_log10_close(log10_likelihood(batch, backend=backend), expected, batch)


def _report(name: str, batches: Sequence[PairHmmBatch], backend: Backend, repeats: int) -> None:
    seconds = _median_seconds(lambda: [log10_likelihood(batch, backend=backend) for batch in batches], repeats)
    cells = sum(n_pairhmm_cells(batch) for batch in batches)
    pairs = sum(len(batch.pairs) for batch in batches)
    print(f"{name:30} {cells / seconds / 1e9:8.2f} GCUPS {seconds / pairs * 1e6:8.2f} us/pair")


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
