# SPDX-License-Identifier: Apache-2.0
"""The one definition of base codes: A C G T N = 0 1 2 3 4 (uint8).

Device sources in `kernels/` mirror these numbers in a comment.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

A, C, G, T, N = range(5)
LETTERS = b"ACGTN"

#: ASCII byte -> code; lower case is the same base, IUPAC and everything else is N.
CODE_OF_ASCII: NDArray[np.uint8] = np.full(256, N, np.uint8)
for _code, _letter in enumerate(LETTERS):
    CODE_OF_ASCII[_letter] = _code
    CODE_OF_ASCII[_letter + 32] = _code

#: code -> ASCII byte
ASCII_OF_CODE: NDArray[np.uint8] = np.frombuffer(LETTERS, np.uint8).copy()

#: code -> BAM 4-bit code (SAM specification 4.2.3: "=ACMGRSVTWYHKDBN")
NIBBLE_OF_CODE: NDArray[np.uint8] = np.array([1, 2, 4, 8, 15], np.uint8)

#: BAM 4-bit code -> code; ambiguity codes are N
CODE_OF_NIBBLE: NDArray[np.uint8] = np.full(16, N, np.uint8)
CODE_OF_NIBBLE[[1, 2, 4, 8]] = [A, C, G, T]


def encode(sequence: str | bytes) -> NDArray[np.uint8]:
    """Base codes (uint8 [length]) of a text sequence."""
    raw = sequence.encode("ascii") if isinstance(sequence, str) else sequence
    return CODE_OF_ASCII[np.frombuffer(raw, np.uint8)]


def decode(codes: NDArray[np.uint8]) -> str:
    """Text of an array of base codes."""
    return ASCII_OF_CODE[codes].tobytes().decode("ascii")


def reverse_complement(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes of the opposite strand; N stays N."""
    flipped = np.where(codes < N, 3 - codes, codes)[::-1]
    return np.ascontiguousarray(flipped, dtype=np.uint8)
