# SPDX-License-Identifier: Apache-2.0
"""Raw loads and stores under NUMBA_BOUNDSCHECK=1: held to their array, to the byte; the setting has its own cache."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import numba
import numpy as np
from megabolt.compute import simd
from megabolt.compute.bits import equal_mask8, equal_mask64, load_u64, store_u32

@numba.njit
def word(array, i):
    return load_u64(array, i)

@numba.njit
def put(array, i):
    store_u32(array, i, np.uint32(1))

@numba.njit
def mask(array, i):
    return equal_mask64(array, i, np.uint8(3))

@numba.njit
def eight(array, i):
    return equal_mask8(array, i, np.uint64(0), np.uint64(3))

@numba.njit
def move(array, source, target):
    simd.store(array, target, simd.load(array, source))

@numba.njit
def spread(array, i):
    simd.store(array, 0, simd.broadcast(array, i))

text, numbers, words = np.zeros(100, np.uint8), np.zeros(64, np.int16), np.zeros(20, np.uint64)
end = 64 - simd.LANES_I16
cases = [
    (word, text, (0,), True), (word, text, (92,), True), (word, text, (93,), False), (word, text, (-1,), False),
    (word, text[:50], (43,), False), (word, numbers, (120,), True), (word, numbers, (121,), False),
    (put, text, (96,), True), (put, text, (97,), False), (put, text, (-1,), False),
    (mask, text, (36,), True), (mask, text, (37,), False),
    (eight, words, (12,), True), (eight, words, (13,), False), (eight, words, (-1,), False),
    (move, numbers, (end, 0), True), (move, numbers, (end + 1, 0), False), (move, numbers, (0, end + 1), False),
    (move, numbers, (0, -1), False), (spread, numbers, (63,), True), (spread, numbers, (64,), False),
]
for function, array, arguments, inside in cases:
    try:
        function(array, *arguments)
        found = True
    except IndexError:
        found = False
    assert found == inside, (function, arguments)
"""


def run(program: str, check: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "NUMBA_BOUNDSCHECK": check},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_raw_access_outside_its_array_is_an_error() -> None:
    run(PROGRAM, "1")


def test_checked_kernels_have_a_cache_folder_of_their_own() -> None:
    program = "from megabolt.compute.jit import cache_folder; print(cache_folder())"
    assert run(program, "1") != run(program, "0")
