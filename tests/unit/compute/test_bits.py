# SPDX-License-Identifier: Apache-2.0
"""Masks of equal words against a loop over them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from megabolt.compute.bits import U, equal_mask8


@numba.njit  # type: ignore[untyped-decorator]
def _masks(words: Any, shift: Any, value: Any, found: Any) -> None:
    for i in range(len(found)):
        found[i] = equal_mask8(words, i, shift, value)


def test_equal_mask8_marks_the_words_that_are_equal_once_shifted() -> None:
    rng = np.random.default_rng(8)
    words = rng.integers(0, 3, 200).astype(np.uint64) << np.uint64(40) | rng.integers(0, 2, 200).astype(np.uint64)
    for shift, value in ((0, 0), (0, (1 << 40) + 1), (40, 2), (40, 0), (63, 0), (63, 1)):
        found = np.zeros(193, np.uint64)
        _masks(words, U(shift), U(value), found)
        equal = words >> U(shift) == U(value)
        assert found.tolist() == [sum(1 << i for i in range(8) if equal[first + i]) for first in range(193)]
