# SPDX-License-Identifier: Apache-2.0
"""Places on the flow cell, from read names.

Picard's default READ_NAME_REGEX takes the last three of five or seven fields between colons for tile, x and y, cut to
16 bits; so do we. Beyond Picard, a name of eight fields has its UMI last and the place before it, and a DNBSEQ name
(...L1C003R0120000001) tells the column and the row of a field of view; all its reads count as neighbours, for their
numbers tell nothing about distance. Such places serve for optical duplicates only, never to break a tie, so that
flags are Picard's whatever the names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import equal_mask64, trailing_zeros
from megabolt.compute.jit import callee, inline, kernel

U = np.uint64
#: Flag of a template: Picard would not read a place from this name.
OTHER_NAME = 2


@callee
def _number(data: NDArray[np.uint8], start: Any, stop: Any) -> Any:
    """The digits at the start of [start, stop), a minus before them allowed; none: 1 << 40. Wraps like an int."""
    i = start
    minus = i < stop and data[U(i)] == 45
    if minus:
        i += 1
    begin = i
    value = np.int64(0)
    while i < stop and data[U(i)] >= 48 and data[U(i)] <= 57:
        value = (value * 10 + np.int64(data[U(i)]) - 48) & 0xFFFFFFFF
        i += 1
    if i == begin:
        return np.int64(1) << 40
    return np.int64(-value if minus else value)


@callee
def _field_of_view(data: NDArray[np.uint8], start: Any, stop: Any) -> Any:
    """(column, row) of a DNBSEQ name, .. L1 C003 R012 0000001 and perhaps /1, as column << 8 | row; else -1."""
    if stop - start > 2 and data[U(stop - 2)] == 47:
        stop -= 2
    i = stop
    while i > start and data[U(i - 1)] >= 48 and data[U(i - 1)] <= 57:
        i -= 1
    if stop - i < 4 or i - start < 7:
        return np.int64(-1)
    if data[U(i - 1)] != 82 or data[U(i - 5)] != 67 or data[U(i - 7)] != 76:  # R C L
        return np.int64(-1)
    column = _number(data, i - 4, i - 1)
    if data[U(i - 6)] < 48 or data[U(i - 6)] > 57 or column > 127 or column < 0:
        return np.int64(-1)
    row = _number(data, i, i + 3)
    return -1 if row > 255 else column << 8 | row


@inline
def _short(value: Any) -> Any:
    """The low 16 bits with their sign."""
    return ((value + 32768) & 0xFFFF) - 32768


@callee
def _locate(data: NDArray[np.uint8], start: Any, length: Any, location: NDArray[np.int32], i: Any) -> Any:
    """Tile, x, y of a read name to location[i]; returns OTHER_NAME or 0."""
    for k in range(3):
        location[i, k] = -1
    colons = 0
    a = b = c = d = np.int64(0)  # the last four colons, d the last
    for t in range(0, length, 64):
        mask = equal_mask64(data, start + t, np.uint8(58))
        if length - t < 64:
            mask &= (U(1) << U(length - t)) - U(1)
        if t == 0:
            mask &= ~U(1)  # a colon in front ends no field
        while mask != U(0):
            a, b, c, d = b, c, d, start + t + trailing_zeros(mask)
            colons += 1
            mask &= mask - U(1)
    stop = start + length
    other = np.uint8(0)
    if colons == 4 or colons == 6:
        a, b, c = b, c, d
    elif colons == 7:
        stop = d
        other = np.uint8(OTHER_NAME)
    elif colons == 0:
        view = _field_of_view(data, start, stop)
        if view >= 0:
            location[i, 0], location[i, 1], location[i, 2] = view, 0, 0
            other = np.uint8(OTHER_NAME)
        return other
    else:
        return other
    tile, x, y = _number(data, a + 1, b), _number(data, b + 1, c), _number(data, c + 1, stop)
    if max(tile, x, y) < np.int64(1) << 40:
        location[i, 0], location[i, 1], location[i, 2] = _short(tile), _short(x), _short(y)
    return other


@kernel("void(uint8[::1], int64[::1], int32[:, ::1], uint8[::1])")
def locate(
    data: NDArray[np.uint8], starts: NDArray[np.int64], location: NDArray[np.int32], flags: NDArray[np.uint8]
) -> None:
    """Tile, x, y of the names of the records that begin at `starts`, -1 where unknown; OTHER_NAME is set in `flags`."""
    for i in range(U(len(starts))):
        p = starts[i]
        flags[i] |= _locate(data, p + 36, np.int64(data[U(p + 12)]) - 1, location, i)
