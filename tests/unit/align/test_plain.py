# SPDX-License-Identifier: Apache-2.0
"""Reads with two mismatches that are said to be plain against the affine kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megabolt.align.extend import _PLAIN_LENGTH, NEAR_BAND, Jobs, _is_plain, run_jobs
from megabolt.align.verify import mismatches_at
from megabolt.compute.bits import PADDING

PLACE, LENGTH = 100, 90


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    words = np.zeros(len(codes) // 32 + 4, np.uint64)
    for i, code in enumerate(codes.tolist()):
        words[i >> 5] |= np.uint64(code << (2 * (i & 31)))
    return words


def cases(rng: np.random.Generator) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """References, some of them tandem repeats of any period with a few changes, and reads with two mismatches."""
    found = []
    for case in range(3000):
        reference = rng.integers(0, 4, 400).astype(np.uint8)
        if case % 3:
            period = int(rng.integers(1, 20))
            first = int(rng.integers(PLACE - 20, PLACE + LENGTH))
            stop = first + int(rng.integers(10, 120))
            reference[first:stop] = np.resize(reference[first : first + period], stop - first)
        read = reference[PLACE : PLACE + LENGTH].copy()
        if case % 5 == 0:  # a gap of one near an end that may look like two mismatches
            at = int(rng.integers(1, 12))
            read[:at] = reference[PLACE - 1 : PLACE - 1 + at]
        else:
            at_both = rng.choice(LENGTH, 2, replace=False)
            read[at_both] = (read[at_both] + rng.integers(1, 4, 2)) % 4
        found.append((reference, read))
    return found


def job_of(reference: NDArray[np.uint8], read: NDArray[np.uint8]) -> Jobs:
    target = reference[PLACE - NEAR_BAND : PLACE + LENGTH + NEAR_BAND]
    spare = np.zeros(PADDING, np.uint8)
    return Jobs(
        read=np.zeros(1, np.int64),
        key=np.array([PLACE << 1]),
        query=np.concatenate([read, spare]),
        query_offsets=np.array([0, LENGTH]),
        target=np.concatenate([target, spare]),
        target_offsets=np.array([0, len(target)]),
        diagonal=np.array([NEAR_BAND], np.int32),
        window_start=np.array([PLACE - NEAR_BAND]),
    )


def test_plain_reads_align_without_gap_and_clip() -> None:
    n_plain = n_other = 0
    marks = np.zeros(32, np.uint64)
    assert LENGTH >= _PLAIN_LENGTH
    for reference, read in cases(np.random.default_rng(2)):
        packed, words = pack(reference), pack(read)
        if mismatches_at(packed, PLACE, words, 0, LENGTH, marks) != 2:
            continue
        result = run_jobs(job_of(reference, read), NEAR_BAND)
        as_it_stands = bool(result.score[0] == LENGTH - 10 and result.cigar[0, 0] == LENGTH << 4)
        if _is_plain(packed, PLACE, words, 0, LENGTH, marks):
            n_plain += 1
            assert as_it_stands
            assert result.n_cigar[0] == 1
            assert (result.query_start[0], result.target_start[0]) == (0, NEAR_BAND)
        else:
            n_other += not as_it_stands
    assert n_plain > 1000
    assert n_other > 20


def test_reads_too_short_or_with_mismatches_at_one_end_are_not_plain() -> None:
    reference = np.random.default_rng(3).integers(0, 4, 400).astype(np.uint8)
    marks = np.zeros(32, np.uint64)
    for length, at, plain in ((90, (30, 50), True), (90, (2, 12), False), (90, (80, 88), False), (60, (25, 35), False)):
        read = reference[PLACE : PLACE + length].copy()
        read[list(at)] ^= 1
        assert mismatches_at(pack(reference), PLACE, pack(read), 0, length, marks) == 2
        assert _is_plain(pack(reference), PLACE, pack(read), 0, length, marks) == plain
