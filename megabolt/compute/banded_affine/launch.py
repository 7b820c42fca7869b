# SPDX-License-Identifier: Apache-2.0
"""Banded affine alignment on a device: geometry and arguments of `kernels/banded_affine.h`."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

import numpy as np

from megabolt.compute.backend import Backend
from megabolt.compute.device import open_device

if TYPE_CHECKING:
    from megabolt.compute.banded_affine import AffineJobs, AffineResult, AffineScores

#: Items of a group share out every other cell of a band's row: 17 cells for a band of 16.
GROUP_SIZE = 32
MAX_CIGAR = 64
#: Device memory for the H matrices of the jobs that run together.
MATRIX_BYTES = 512 << 20


def align(
    jobs: AffineJobs,
    scores: AffineScores,
    *,
    backend: Backend,
    group_size: int = GROUP_SIZE,
    matrix_bytes: int = MATRIX_BYTES,
) -> AffineResult:
    """See `megabolt.compute.banded_affine.align`; the other options never change the result."""
    from megabolt.compute.banded_affine import AffineResult, empty_result

    n_jobs = len(jobs.diagonal)
    if n_jobs == 0:
        return empty_result(0)
    device = open_device(backend)
    max_rows = int(np.diff(jobs.query_offsets).max())
    job_cells = (max_rows + 1) * (2 * jobs.band + 2)
    at_once = max(1, min(n_jobs, matrix_bytes // (2 * job_cells)))
    inputs = [
        device.upload(array)
        for array in (jobs.query, jobs.query_offsets, jobs.target, jobs.target_offsets, jobs.diagonal)
    ]
    matrices = device.empty((at_once * job_cells,), np.int16)
    ends = device.upload(np.zeros((6, n_jobs), np.int32))
    cigar = device.upload(np.zeros((n_jobs, MAX_CIGAR), np.uint32))
    prices = [np.int32(price) for price in astuple(scores)]
    for first in range(0, n_jobs, at_once):
        device.launch(
            source="banded_affine",
            kernel="banded_affine",
            n_groups=min(at_once, n_jobs - first),
            group_size=group_size,
            args=[
                *inputs, np.int32(jobs.band), *prices, np.int32(first), np.int32(n_jobs), np.int32(max_rows),
                matrices, ends, cigar,
            ],
        )  # fmt: skip
    end = device.download(ends)
    return AffineResult(end[0], end[1], end[2], end[3], end[4], device.download(cigar), end[5])
