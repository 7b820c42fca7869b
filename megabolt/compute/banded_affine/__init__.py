# SPDX-License-Identifier: Apache-2.0
"""Banded affine-gap alignment of short queries to reference windows, with CIGARs.

In: `AffineJobs`. Out: `AffineResult`. Next: `align/extend.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.backend import Backend, require
from megabolt.compute.banded_affine import launch, numba_cpu, reference
from megabolt.errors import UsageError

MAX_QUERY = 512
MAX_TARGET = 1536
MAX_BAND = 128
MAX_CIGAR = 64
#: Upper limit of each score: 512 matches and one forbidden cell stay apart in int16.
MAX_SCORE = 15
MAX_CLIP = 1000


@dataclass(frozen=True)
class AffineScores:
    """What a match earns (1..15) and what a mismatch, a gap of length L (open + L * extend) and a clip cost.

    match, mismatch and extend are 1..15, open 0..15; `clip`, 0..1000, is paid for each unaligned query end.
    """

    match: int = 1
    mismatch: int = 4
    gap_open: int = 6
    gap_extend: int = 1
    clip: int = 5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("match", 1, MAX_SCORE),
            ("mismatch", 1, MAX_SCORE),
            ("gap_open", 0, MAX_SCORE),
            ("gap_extend", 1, MAX_SCORE),
            ("clip", 0, MAX_CLIP),
        ):
            if not low <= getattr(self, name) <= high:
                raise _invalid(f"{name} is {getattr(self, name)}, allowed are {low} to {high}")

    def as_array(self) -> NDArray[np.int16]:
        """int16 [5] in the order of the fields, for `numba_cpu.align_arrays`."""
        values = (self.match, self.mismatch, self.gap_open, self.gap_extend, self.clip)
        return np.array(values, np.int16)


@dataclass(frozen=True)
class AffineJobs:
    """Pairs of sequences to align. Checked once, on construction.

    Attributes
    ----------
    query, target
        uint8 base codes 0..4, one sequence after another.
    query_offsets, target_offsets
        int64 [n + 1]: job t's query is query[query_offsets[t]:query_offsets[t + 1]], 1 to 512 bases; its
        target is cut out in the same way, 1 to 1536 bases.
    diagonal
        int32 [n]: target index minus query index at the centre of the band.
    band
        0 to 128: the filled cells are those with |(target index - query index) - diagonal| <= band.

    Raises
    ------
    UsageError
        Anything above does not hold.
    """

    query: NDArray[np.uint8]
    query_offsets: NDArray[np.int64]
    target: NDArray[np.uint8]
    target_offsets: NDArray[np.int64]
    diagonal: NDArray[np.int32]
    band: int

    def __post_init__(self) -> None:
        wanted = {
            "query": np.uint8, "query_offsets": np.int64, "target": np.uint8, "target_offsets": np.int64,
            "diagonal": np.int32,
        }  # fmt: skip
        for name, dtype in wanted.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
                raise _invalid(f"{name} is not a contiguous one-dimensional array of {np.dtype(dtype)}")
        if not 0 <= self.band <= MAX_BAND:
            raise _invalid(f"the band is {self.band}, allowed are 0 to {MAX_BAND}")
        if max(self.query.max(initial=0), self.target.max(initial=0)) > 4:
            raise _invalid("a base code is above 4 (N)")
        n = len(self.diagonal)
        _check_offsets(self.query_offsets, n, len(self.query), MAX_QUERY, "query")
        _check_offsets(self.target_offsets, n, len(self.target), MAX_TARGET, "target")


def _invalid(why: str) -> UsageError:
    return UsageError(f"banded alignment: {why}", "See AffineJobs and AffineScores for what is allowed.")


def _check_offsets(offsets: NDArray[np.int64], n: int, total: int, longest: int, what: str) -> None:
    if len(offsets) != n + 1 or offsets[0] != 0 or offsets[-1] != total:
        raise _invalid(f"the {what} offsets are not {n + 1} numbers from 0 to {total}")
    lengths = np.diff(offsets)
    if n and (lengths.min() < 1 or lengths.max() > longest):
        raise _invalid(f"a {what} has {lengths.min()} or {lengths.max()} bases, allowed are 1 to {longest}")


@dataclass(frozen=True)
class AffineResult:
    """The best alignment of each job; start and stop are 0-based and half-open, of the aligned part.

    Attributes
    ----------
    score
        int32 [n]: matches minus penalties of the aligned part, without clip penalties (the AS tag of SAM).
    query_start, query_stop, target_start, target_stop
        int32 [n]; all 0 where nothing aligns.
    cigar
        uint32 [n, 64]: length << 4 | operation (M 0, I 1, D 2; BAM's codes), the first n_cigar of each row.
    n_cigar
        int32 [n]; 0 where nothing aligns, -1 where the CIGAR has more than 64 operations.
    """

    score: NDArray[np.int32]
    query_start: NDArray[np.int32]
    query_stop: NDArray[np.int32]
    target_start: NDArray[np.int32]
    target_stop: NDArray[np.int32]
    cigar: NDArray[np.uint32]
    n_cigar: NDArray[np.int32]


def empty_result(n: int) -> AffineResult:
    """A result of n jobs, zeroed, for an implementation to fill."""
    ends = np.zeros((6, n), np.int32)
    return AffineResult(ends[0], ends[1], ends[2], ends[3], ends[4], np.zeros((n, MAX_CIGAR), np.uint32), ends[5])


_IMPLEMENTATIONS: dict[Backend, Callable[[AffineJobs, AffineScores], AffineResult]] = {
    Backend.REFERENCE: reference.align,
    Backend.NUMBA: numba_cpu.align,
    Backend.OPENCL: partial(launch.align, backend=Backend.OPENCL),
    Backend.CUDA: partial(launch.align, backend=Backend.CUDA),
}


def align(jobs: AffineJobs, scores: AffineScores | None = None, *, backend: Backend = Backend.NUMBA) -> AffineResult:
    """The best local alignment of each query inside its band, unaligned query ends at a price.

    Parameters
    ----------
    jobs
        Queries, targets and bands. N mismatches every base, itself included.
    scores
        Defaults to `AffineScores()`, bwa's prices.
    backend
        Which implementation runs. All give exactly the same answer.

    Returns
    -------
    The alignment with the greatest score - clip * (left end unaligned) - clip * (right end unaligned). It
    begins and ends with an aligned pair of bases. If its score is not positive the job's result is all zero.

    Raises
    ------
    BackendUnavailable
        This machine cannot run `backend`; the message says what is missing.

    Notes
    -----
    Query bases i = 1..n, target bases j = 1..m, only cells inside the band (outside, H = E = F = -infinity);
    s = match or -mismatch; start(1) = 0 and start(i) = -clip for i > 1; stop(n) = 0, else stop(i) = clip:

    (1) M(i,j) = s(i,j) + max(start(i), H(i-1,j-1))
    (2) E(i,j) = max(H(i,j-1) - open, E(i,j-1)) - extend          target base j deleted
    (3) F(i,j) = max(H(i-1,j) - open, F(i-1,j)) - extend          query base i inserted
    (4) H(i,j) = max(M(i,j), E(i,j), F(i,j))
    (5) the alignment ends where M(i,j) - stop(i) is greatest

    Of equally good alignments, in this order: (5) takes the smallest i, then the smallest j; going back from
    there, a start in (1) before a longer alignment; in (4) M, which puts gaps leftmost, then a deletion, then
    an insertion; in (2) and (3) the shortest gap.

    References
    ----------
    Gotoh, J. Mol. Biol. 162 (1982) 705. The prices of clips follow bwa mem's -L.
    """
    require(backend)
    return _IMPLEMENTATIONS[backend](jobs, AffineScores() if scores is None else scores)


__all__ = [
    "MAX_BAND",
    "MAX_CIGAR",
    "MAX_QUERY",
    "MAX_TARGET",
    "AffineJobs",
    "AffineResult",
    "AffineScores",
    "align",
    "empty_result",
]
