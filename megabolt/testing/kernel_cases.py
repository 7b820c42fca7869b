# SPDX-License-Identifier: Apache-2.0
"""Inputs and assertions for kernels: what the tests compare and the benchmarks time. Everything is seeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.banded_affine import AffineJobs, AffineResult
from megabolt.compute.pairhmm import TOLERANCE, PairHmmBatch
from megabolt.formats.bases import decode, encode

Codes = NDArray[np.uint8]
#: Phred qualities of a recent instrument, with their frequencies by repetition.
BINNED_QUALITIES = (37, 37, 37, 37, 25, 12, 2)


def concatenate(sequences: Sequence[Codes]) -> tuple[Codes, NDArray[np.int64]]:
    """All sequences in one array (uint8), and the offsets (int64 [n + 1]) that cut it up again."""
    lengths = [len(sequence) for sequence in sequences]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    joined = np.concatenate(sequences) if sequences else np.empty(0, np.uint8)
    return joined.astype(np.uint8), offsets


def mutate(rng: np.random.Generator, sequence: Codes, rate: float) -> Codes:
    """A copy in which about `rate` of the bases are replaced by any code, N included."""
    changed = sequence.copy()
    hit = rng.random(len(sequence)) < rate
    changed[hit] = rng.integers(0, 5, int(hit.sum()))
    return changed


# ---------------------------------------------------------------- pair-HMM


def pairhmm_batch(
    reads: Sequence[str | Codes],
    haps: Sequence[str | Codes],
    *,
    quality: int | NDArray[np.uint8] = 37,
    gap_open: float = 10**-4.5,
    gap_extend: float = 0.1,
    pairs: NDArray[np.int32] | None = None,
) -> PairHmmBatch:
    """A batch from texts or codes with one gap model; all reads against all haplotypes unless `pairs` is given."""
    read_codes, read_offsets = concatenate([_codes(read) for read in reads])
    hap_codes, hap_offsets = concatenate([_codes(hap) for hap in haps])
    if pairs is None:
        every = [(read, hap) for read in range(len(reads)) for hap in range(len(haps))]
        pairs = np.array(every, np.int32).reshape(-1, 2)
    return PairHmmBatch(
        read_codes,
        np.broadcast_to(np.asarray(quality, np.uint8), read_codes.shape).copy(),
        read_offsets,
        hap_codes,
        np.full(len(hap_codes), gap_open, np.float32),
        np.full(len(hap_codes), gap_extend, np.float32),
        hap_offsets,
        pairs,
    )


def random_pairhmm_batch(
    rng: np.random.Generator,
    *,
    n_reads: int,
    n_haps: int,
    read_length: tuple[int, int],
    hap_length: tuple[int, int],
    error_rate: float = 0.01,
    unrelated: float = 0.0,
) -> PairHmmBatch:
    """Reads cut out of similar haplotypes; a share of them `unrelated` to any.

    `read_length` and `hap_length` are (shortest, longest), both included.
    """
    base = rng.integers(0, 4, hap_length[1]).astype(np.uint8)
    haps = [mutate(rng, base, 0.01)[: rng.integers(hap_length[0], hap_length[1] + 1)] for _ in range(n_haps)]
    reads = []
    for _ in range(n_reads):
        length = int(rng.integers(read_length[0], read_length[1] + 1))
        start = int(rng.integers(0, max(1, len(base) - length + 1)))
        read = base[start : start + length]
        if len(read) < length or rng.random() < unrelated:
            read = rng.integers(0, 4, length).astype(np.uint8)
        reads.append(mutate(rng, read, error_rate))
    batch = pairhmm_batch(reads, haps)
    batch.qualities[:] = rng.choice(BINNED_QUALITIES, len(batch.qualities))
    batch.gap_open[:] = rng.choice([10**-4.5, 1e-3, 1e-2], len(batch.haps))  # as in and out of short repeats
    batch.gap_extend[:] = rng.choice([0.1, 0.3], len(batch.haps))
    return batch


def assert_log10_close(actual: NDArray[np.float64], expected: NDArray[np.float64], batch: PairHmmBatch) -> None:
    """Fail, showing the worst pair with its sequences, unless all agree within the contract's tolerance."""
    if actual.shape != expected.shape or actual.dtype != np.float64:
        raise AssertionError(f"got {actual.dtype} {actual.shape}, expected float64 {expected.shape}")
    if len(actual) == 0:
        return
    difference = np.abs(actual - expected)
    difference[~np.isfinite(actual)] = np.inf
    worst = int(np.argmax(difference))
    if difference[worst] <= TOLERANCE:
        return
    read, hap = batch.pairs[worst]
    bases = slice(batch.read_offsets[read], batch.read_offsets[read + 1])
    sites = slice(batch.hap_offsets[hap], batch.hap_offsets[hap + 1])
    raise AssertionError(
        f"{int((difference > TOLERANCE).sum())} of {len(actual)} pairs differ by more than {TOLERANCE}; "
        f"the worst is pair {worst}: {actual[worst]!r}, expected {expected[worst]!r}\n"
        f"read {decode(batch.reads[bases])}\nquality {batch.qualities[bases].tolist()}\n"
        f"haplotype {decode(batch.haps[sites])}\nP(open) {batch.gap_open[sites].tolist()}\n"
        f"P(extend) {batch.gap_extend[sites].tolist()}"
    )


def n_pairhmm_cells(batch: PairHmmBatch) -> int:
    """Cells of all matrices, the unit of cell updates per second."""
    reads = np.diff(batch.read_offsets)[batch.pairs[:, 0]]
    return int((reads * np.diff(batch.hap_offsets)[batch.pairs[:, 1]]).sum())


# ---------------------------------------------------------------- banded affine alignment


def affine_jobs(
    queries: Sequence[str | Codes],
    targets: Sequence[str | Codes],
    diagonals: Sequence[int] | int = 0,
    *,
    band: int = 8,
) -> AffineJobs:
    """Jobs from texts or codes."""
    query, query_offsets = concatenate([_codes(one) for one in queries])
    target, target_offsets = concatenate([_codes(one) for one in targets])
    diagonal = np.broadcast_to(np.asarray(diagonals, np.int32), (len(queries),)).copy()
    return AffineJobs(query, query_offsets, target, target_offsets, diagonal, band)


def random_affine_jobs(
    rng: np.random.Generator,
    n_jobs: int,
    *,
    query_length: tuple[int, int],
    band: int,
    alphabet: int = 4,
    error_rate: float = 0.02,
    gap_rate: float = 0.5,
    spread: int = 0,
) -> AffineJobs:
    """Queries cut out of targets, with gaps of 1 to 5 bases (a geometric number, `gap_rate`) and errors.

    A small `alphabet` makes repeats and so ties; `spread` moves the band off the true diagonal by up to as
    much, over the edges of the target too.
    """
    queries, targets, diagonals = [], [], []
    for _ in range(n_jobs):
        length = int(rng.integers(query_length[0], query_length[1] + 1))
        before, behind = rng.integers(0, 2 * band + 3, 2)
        target = rng.integers(0, alphabet, length + int(before + behind)).astype(np.uint8)
        query = target[before : before + length]
        while len(query) > 6 and rng.random() < gap_rate:
            at, size = int(rng.integers(0, len(query))), int(rng.integers(1, 6))
            rest = query[at + size :] if rng.random() < 0.5 else query[at:]
            inserted = rng.integers(0, alphabet, 0 if len(rest) < len(query) - at else size)
            query = np.concatenate([query[:at], inserted.astype(np.uint8), rest])
        query = mutate(rng, query, error_rate)[:512]
        if rng.random() < 0.2:  # an adapter or a chimera: something to clip
            query[: len(query) // 4] = rng.integers(0, 4, len(query) // 4)
        queries.append(query)
        targets.append(mutate(rng, target, error_rate / 10))
        diagonals.append(int(before) + int(rng.integers(-spread, spread + 1)))
    return affine_jobs(queries, targets, diagonals, band=band)


def assert_same_alignments(actual: AffineResult, expected: AffineResult, jobs: AffineJobs) -> None:
    """Fail, showing the first job that differs with its sequences, unless all fields are equal."""
    for field in fields(AffineResult):
        got, wanted = getattr(actual, field.name), getattr(expected, field.name)
        if got.dtype != wanted.dtype or got.shape != wanted.shape:
            raise AssertionError(f"{field.name} is {got.dtype} {got.shape}, expected {wanted.dtype} {wanted.shape}")
        wrong = np.unique(np.nonzero(got != wanted)[0])
        if len(wrong):
            job = int(wrong[0])
            raise AssertionError(
                f"{field.name} of {len(wrong)} of {len(got)} jobs differs, first of job {job} "
                f"(diagonal {jobs.diagonal[job]}, band {jobs.band})\n"
                f"query  {decode(jobs.query[jobs.query_offsets[job] : jobs.query_offsets[job + 1]])}\n"
                f"target {decode(jobs.target[jobs.target_offsets[job] : jobs.target_offsets[job + 1]])}\n"
                f"got      {describe(actual, job)}\nexpected {describe(expected, job)}"
            )


def describe(result: AffineResult, job: int) -> str:
    """One alignment in a line: score, query range, target range, CIGAR."""
    runs = result.cigar[job, : max(0, int(result.n_cigar[job]))]
    cigar = "".join(f"{int(run) >> 4}{'MID'[int(run) & 15]}" for run in runs) or "*"
    if result.n_cigar[job] < 0:
        cigar = "too long"
    return (
        f"{result.score[job]} {result.query_start[job]}-{result.query_stop[job]} "
        f"{result.target_start[job]}-{result.target_stop[job]} {cigar}"
    )


def n_affine_cells(jobs: AffineJobs) -> int:
    """Cells of all bands, the unit of cell updates per second."""
    return int(np.diff(jobs.query_offsets).sum()) * (2 * jobs.band + 1)


def _codes(sequence: str | Codes) -> Codes:
    return encode(sequence) if isinstance(sequence, str) else sequence


__all__ = [
    "BINNED_QUALITIES",
    "affine_jobs",
    "assert_log10_close",
    "assert_same_alignments",
    "concatenate",
    "describe",
    "mutate",
    "n_affine_cells",
    "n_pairhmm_cells",
    "pairhmm_batch",
    "random_affine_jobs",
    "random_pairhmm_batch",
]
