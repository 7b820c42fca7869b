# SPDX-License-Identifier: Apache-2.0
"""Pair-HMM: how probable a read is, given that its template came from a haplotype.

In: `PairHmmBatch`. Out: log10 P(read | haplotype) of each asked pair. Next: `call/likelihood.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.backend import Backend, require
from megabolt.compute.pairhmm import launch, numba_cpu, reference
from megabolt.errors import UsageError

MAX_READ = 512
MAX_HAPLOTYPE = 1024
#: All backends agree within this (absolute, log10).
TOLERANCE = 1e-5


@dataclass(frozen=True)
class PairHmmBatch:
    """Reads, haplotypes, and which of them to compare. Checked once, on construction.

    Attributes
    ----------
    reads, qualities
        uint8 [read_offsets[-1]]: base codes 0..4 and Phred qualities, one read after another.
        P(wrong) = 10 ** (-quality / 10), but never above 0.75, where a base says nothing.
    read_offsets
        int64 [n_reads + 1]: read r is reads[read_offsets[r]:read_offsets[r + 1]], 1 to 512 bases.
    haps, gap_open, gap_extend
        uint8, float32, float32 [hap_offsets[-1]]: base codes, P(open) in (0, 0.5) and P(extend) in (0, 1) of
        a gap at that base, one haplotype after another.
    hap_offsets
        int64 [n_haps + 1]: 1 to 1024 bases each.
    pairs
        int32 [n_pairs, 2]: (read, haplotype) of each likelihood to compute, in any order.

    Raises
    ------
    UsageError
        Anything above does not hold.
    """

    reads: NDArray[np.uint8]
    qualities: NDArray[np.uint8]
    read_offsets: NDArray[np.int64]
    haps: NDArray[np.uint8]
    gap_open: NDArray[np.float32]
    gap_extend: NDArray[np.float32]
    hap_offsets: NDArray[np.int64]
    pairs: NDArray[np.int32]

    def __post_init__(self) -> None:
        _check_arrays(self)
        _check_offsets(self.read_offsets, len(self.reads), MAX_READ, "read")
        _check_offsets(self.hap_offsets, len(self.haps), MAX_HAPLOTYPE, "haplotype")
        limits = np.array([len(self.read_offsets), len(self.hap_offsets)]) - 1
        if len(self.pairs) and (self.pairs.min() < 0 or (self.pairs.max(axis=0) >= limits).any()):
            raise _invalid("a pair names a read or a haplotype that is not there")


def _invalid(why: str) -> UsageError:
    return UsageError(f"pair-HMM batch: {why}", "See PairHmmBatch for what is allowed.")


def _check_arrays(batch: PairHmmBatch) -> None:
    wanted = {
        "reads": np.uint8, "qualities": np.uint8, "read_offsets": np.int64, "haps": np.uint8,
        "gap_open": np.float32, "gap_extend": np.float32, "hap_offsets": np.int64, "pairs": np.int32,
    }  # fmt: skip
    for name, dtype in wanted.items():
        array = getattr(batch, name)
        if array.dtype != dtype or not array.flags.c_contiguous:
            raise _invalid(f"{name} is {array.dtype}, not contiguous {np.dtype(dtype)}")
    if batch.pairs.ndim != 2 or batch.pairs.shape[1] != 2:
        raise _invalid(f"pairs has shape {batch.pairs.shape}, not (n, 2)")
    if len(batch.qualities) != len(batch.reads):
        raise _invalid(f"{len(batch.qualities)} qualities for {len(batch.reads)} read bases")
    if not len(batch.gap_open) == len(batch.gap_extend) == len(batch.haps):
        raise _invalid("the gap probabilities and the haplotype bases differ in number")
    if max(batch.reads.max(initial=0), batch.haps.max(initial=0)) > 4:
        raise _invalid("a base code is above 4 (N)")
    for name, values, top in (("gap_open", batch.gap_open, 0.5), ("gap_extend", batch.gap_extend, 1.0)):
        if not ((values > 0) & (values < top)).all():
            raise _invalid(f"{name} has a value outside (0, {top})")


def _check_offsets(offsets: NDArray[np.int64], total: int, longest: int, what: str) -> None:
    if offsets.ndim != 1 or len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != total:
        raise _invalid(f"the {what} offsets do not run from 0 to {total}")
    lengths = np.diff(offsets)
    if len(lengths) and (lengths.min() < 1 or lengths.max() > longest):
        raise _invalid(f"a {what} has {lengths.min()} or {lengths.max()} bases, allowed are 1 to {longest}")


_IMPLEMENTATIONS: dict[Backend, Callable[[PairHmmBatch], NDArray[np.float64]]] = {
    Backend.REFERENCE: reference.log10_likelihood,
    Backend.NUMBA: numba_cpu.log10_likelihood,
    Backend.OPENCL: partial(launch.log10_likelihood, backend=Backend.OPENCL),
    Backend.CUDA: partial(launch.log10_likelihood, backend=Backend.CUDA),
}


def log10_likelihood(batch: PairHmmBatch, *, backend: Backend = Backend.NUMBA) -> NDArray[np.float64]:
    """log10 P(read | haplotype) of each pair, by the pair-HMM forward algorithm.

    The read may start and end anywhere on the haplotype at no cost. N in either sequence agrees with every
    base.

    Parameters
    ----------
    batch
        Reads, haplotypes and pairs.
    backend
        Which implementation runs. All agree within `TOLERANCE`. Within a backend a pair's result does not
        depend, to the last bit, on the other pairs of its batch.

    Returns
    -------
    float64 [n_pairs], finite. Pairs whose sum gets small in float32 are recomputed in float64.

    Raises
    ------
    BackendUnavailable
        This machine cannot run `backend`; the message says what is missing.

    Notes
    -----
    Read bases i = 1..n, haplotype bases j = 1..m; g, x = P(open), P(extend); P(wrong) from the quality:

    (1) M(i,j) = prior(i,j) * [(1 - 2 g(j)) M(i-1,j-1) + (1 - x(j)) (I(i-1,j-1) + D(i-1,j-1))]
    (2) I(i,j) = g(j+1) M(i-1,j) + x(j+1) I(i-1,j)        read base i inserted before haplotype base j+1
    (3) D(i,j) = g(j) M(i,j-1) + x(j) D(i,j-1)            haplotype base j deleted
    (4) P = sum over j of M(n,j) + I(n,j)

    prior = 1 - P(wrong) where the bases agree, else P(wrong) / 3. The first read base starts on any haplotype
    base: M(1,j) = prior(1,j) / m and I(1,j) = 0. Column 0 is zero. In (2) the last base stands for base m+1.

    References
    ----------
    Durbin et al., Biological Sequence Analysis (1998), chapter 4.
    """
    require(backend)
    return _IMPLEMENTATIONS[backend](batch)


__all__ = ["MAX_HAPLOTYPE", "MAX_READ", "TOLERANCE", "PairHmmBatch", "log10_likelihood"]
