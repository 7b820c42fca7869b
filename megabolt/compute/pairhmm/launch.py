# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM on a device: geometry and arguments of `kernels/pairhmm.h`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.backend import Backend
from megabolt.compute.device import Device, open_device
from megabolt.compute.pairhmm.numba_cpu import Inputs, rescue
from megabolt.compute.pairhmm.scaling import PRIORS, SCALE, SMALLEST_SUM, log10_of_sums

if TYPE_CHECKING:
    from megabolt.compute.pairhmm import PairHmmBatch

#: Items of a group share out the bases of one read; a wave is seldom wider than the read.
GROUP_SIZE = 64


def log10_likelihood(batch: PairHmmBatch, *, backend: Backend, group_size: int = GROUP_SIZE) -> NDArray[np.float64]:
    """See `megabolt.compute.pairhmm.log10_likelihood`; `group_size` changes speed, never the result."""
    n_pairs = len(batch.pairs)
    if n_pairs == 0:
        return np.empty(0)
    sums = _sums(batch, open_device(backend), group_size)
    log10_p = log10_of_sums(sums, SCALE)
    rescue(_inputs(batch), batch.pairs, np.flatnonzero(sums < SMALLEST_SUM), log10_p)
    return log10_p


def _inputs(batch: PairHmmBatch) -> Inputs:
    return (
        batch.reads,
        batch.qualities,
        batch.read_offsets,
        batch.haps,
        batch.gap_open,
        batch.gap_extend,
        batch.hap_offsets,
    )


def _sums(batch: PairHmmBatch, device: Device, group_size: int) -> NDArray[np.float32]:
    n_pairs = len(batch.pairs)
    arrays = (*_inputs(batch), batch.pairs, PRIORS)
    sums = device.empty((n_pairs,), np.float32)
    device.launch(
        source="pairhmm",
        kernel="pairhmm",
        n_groups=n_pairs,
        group_size=group_size,
        args=[*(device.upload(array) for array in arrays), np.float32(SCALE), sums],
    )
    return device.download(sums)
