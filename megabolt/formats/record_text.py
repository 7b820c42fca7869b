# SPDX-License-Identifier: Apache-2.0
"""Kernels that write the reads of packed records as text, the way FASTQ has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U, load_i32, load_u16, load_u32, load_u64, store_u16, store_u32, store_u64
from megabolt.compute.jit import inline, kernel

#: What `write_texts` may find wrong with a read.
HARD_CLIPPED, BASES_ARE_GONE, EQUAL_SIGNS, NO_QUALITIES, BAD_QUALITY, TOO_LONG = range(1, 7)

#: The sixteen letters of packed bases (SAM specification, chapter 4.2.3), all but A C G T and '=' as N, which is
#: what later stages see; and their complements.
_LETTERS = np.frombuffer(b"=ACNGNNNTNNNNNNN", np.uint8)
_COMPLEMENTS = np.frombuffer(b"=TGNCNNNANNNNNNN", np.uint8)


def _two_letters(letters: NDArray[np.uint8], turned: bool) -> NDArray[np.uint16]:
    """Of each byte, two letters as they stand in memory; if turned, the second base first."""
    high, low = np.divmod(np.arange(256), 16)
    first, second = letters[low if turned else high], letters[high if turned else low]
    return (first.astype(np.uint16) | (second.astype(np.uint16) << 8)).astype(np.uint16)


_FORWARD = _two_letters(_LETTERS, False)
_TURNED = _two_letters(_COMPLEMENTS, True)
#: 1 where one of the two bases of a byte is '='.
_HAS_EQUAL = np.array([byte < 16 or byte % 16 == 0 for byte in range(256)], np.uint8)


@inline
def _copy(source: Any, start: Any, size: Any, out: Any, place: Any) -> None:
    """Copies in words; up to 7 bytes more are read and written."""
    for k in range(0, size, 8):
        store_u64(out, place + k, load_u64(source, start + k))


@inline
def _put_bases(
    source: Any, start: Any, length: Any, turn: Any, forward: Any, turned: Any, equal: Any, out: Any, place: Any
) -> Any:
    """Write the letters of packed bases, turned over if so wanted; True if there is a '=' among them.

    Writes one byte more than the bases.
    """
    found = np.uint8(0)
    half = length >> 1
    if turn:
        for k in range(half):
            byte = source[U(start + k)]
            found |= equal[byte]
            store_u16(out, place + length - 2 - 2 * k, turned[byte])
        if length & 1 != 0:
            byte = source[U(start + half)] & np.uint8(0xF0)
            found |= equal[byte | np.uint8(1)]
            out[U(place)] = np.uint8(turned[byte | np.uint8(1)] >> np.uint16(8))
    else:
        for k in range(half):
            byte = source[U(start + k)]
            found |= equal[byte]
            store_u16(out, place + 2 * k, forward[byte])
        if length & 1 != 0:
            byte = source[U(start + half)] | np.uint8(1)
            found |= equal[byte | np.uint8(15)]
            out[U(place + length - 1)] = np.uint8(forward[byte] & np.uint16(255))
    return found != 0


@inline
def _put_qualities(source: Any, start: Any, length: Any, turn: Any, is_text: Any, out: Any, place: Any) -> Any:
    """Write qualities as letters, turned over if so wanted; returns the highest quality."""
    add = np.uint8(0) if is_text else np.uint8(33)
    highest = np.uint8(0)
    values = source[start : start + length]
    target = out[place : place + length]
    if turn:
        for k in range(length):
            value = values[k]
            highest = max(highest, value)
            target[length - 1 - k] = value + add
    else:
        for k in range(length):
            value = values[k]
            highest = max(highest, value)
            target[k] = value + add
    return np.int64(highest) - (33 if is_text else 0)


@kernel(
    "int64(uint8[::1], uint8[::1], int64[:, :, ::1], int64[:, ::1], int64, int64, uint8[::1], int64[:, ::1],"
    " int64[:, ::1], int64[::1])"
)
def write_texts(
    data: Any,
    waiting: Any,
    ends: Any,
    umis: Any,
    begin: Any,
    longest: Any,
    text: Any,
    fields1: Any,
    fields2: Any,
    counts: Any,
) -> Any:
    """Write templates from `begin` on into a batch; returns the first that is not written.

    Parameters
    ----------
    data, waiting
        Records: of the block, and those that have waited.
    ends
        int64 [n, 2, 4]: of mate 1 and mate 2 (-1: there is none): 0 in `data` or 1 in `waiting`, where, where the
        original qualities are (0: those of the record), the record's number.
    umis
        int64 [n, 3]: 0 or 1 as above, where, length.
    longest
        Longest read allowed.
    text, fields1, fields2
        Of the batch: see `PairBatch`.
    counts
        Templates in the batch; end of its text; what is wrong with the template returned (0: the batch is full, or
        its text is), and with which mate.
    """
    n, p = counts[0], counts[1]
    room = len(text) - PADDING
    for i in range(begin, len(ends)):
        if n == len(fields1):
            break
        need = np.int64(300) + umis[i, 2]
        for m in range(2):
            if ends[i, m, 0] >= 0:
                record = waiting if ends[i, m, 0] == 1 else data
                need += 2 * np.int64(load_i32(record, ends[i, m, 1] + 20))
        if p + need > room:
            break
        name = p
        for m in range(2):
            fields = fields1 if m == 0 else fields2
            row = U(n)
            if ends[i, m, 0] < 0:
                for k in range(4):
                    fields[row, k] = fields1[row, k]
                for k in range(4, 7):
                    fields[row, k] = 0
                continue
            record = waiting if ends[i, m, 0] == 1 else data
            start = ends[i, m, 1]
            length = np.int64(load_i32(record, start + 20))
            n_operations = np.int64(load_u16(record, start + 16))
            name_length = np.int64(record[U(start + 12)]) - 1
            turn = load_u16(record, start + 18) & 16 != 0
            cigar = start + 37 + name_length
            bases = cigar + 4 * n_operations
            qualities = bases + ((length + 1) >> 1)
            fault = np.int64(0)
            if n_operations > 0:
                first = load_u32(record, cigar) & np.uint32(15)
                last = load_u32(record, cigar + 4 * (n_operations - 1)) & np.uint32(15)
                if first == 5 or last == 5:
                    fault = np.int64(HARD_CLIPPED)
                elif length == 0:
                    fault = np.int64(BASES_ARE_GONE)
            if length > longest:
                fault = np.int64(TOO_LONG)
            elif length > 0 and record[U(qualities)] == 255:
                fault = np.int64(NO_QUALITIES)
            if fault == 0:
                if m == 0:
                    _copy(record, start + 36, name_length, text, name)
                    p += name_length
                if _put_bases(record, bases, length, turn, _FORWARD, _TURNED, _HAS_EQUAL, text, p):
                    fault = np.int64(EQUAL_SIGNS)
                is_text = ends[i, m, 2] > 0
                source = ends[i, m, 2] if is_text else qualities
                if _put_qualities(record, source, length, turn, is_text, text, p + length) > 93:
                    fault = np.int64(BAD_QUALITY)
            if fault != 0:
                counts[0], counts[1], counts[2], counts[3] = n, name, fault, m
                return i
            fields[row, 0] = name
            fields[row, 1] = name_length
            fields[row, 2] = p
            fields[row, 3] = p + length
            fields[row, 4] = length
            fields[row, 5] = 0
            fields[row, 6] = 0
            p += 2 * length
        umi = umis[i, 2]
        if umi > 0:
            _copy(waiting if umis[i, 0] == 1 else data, umis[i, 1], umi, text, p)
            fields1[U(n), 5] = p
            fields1[U(n), 6] = umi
            p += umi
        n += 1
        counts[0], counts[1] = n, p
        begin = i + 1
    counts[2] = 0
    return begin


@kernel("int64[::1](uint8[::1], int64[::1], int64[::1], int64[:, ::1])")
def kept_bytes(data: Any, offsets: Any, rows: Any, umis: Any) -> Any:
    """Bytes that `keep_reads` writes for each of some records."""
    sizes = np.empty(len(rows), np.int64)
    for k in range(len(rows)):
        start = offsets[rows[k]]
        length = np.int64(load_i32(data, start + 20))
        sizes[k] = 36 + np.int64(data[U(start + 12)]) + 4 + ((length + 1) >> 1) + length + umis[rows[k], 1]
    return sizes


@kernel("void(uint8[::1], int64[::1], int64[::1], int64[:, ::1], int64[::1], int64[::1], uint8[::1])")
def keep_reads(data: Any, offsets: Any, rows: Any, umis: Any, originals: Any, starts: Any, out: Any) -> None:
    """Copy what is needed of some records: fixed part, name, bases, qualities, UMI.

    Of the CIGAR one operation is kept, a hard clip if there is any, so that it is not forgotten. The original
    qualities take the place of the others where `originals` says where they are.
    """
    for k in range(len(rows)):
        i = rows[k]
        start, place = offsets[i], starts[k]
        length = np.int64(load_i32(data, start + 20))
        n_operations = np.int64(load_u16(data, start + 16))
        name_size = np.int64(data[U(start + 12)])
        _copy(data, start, 36 + name_size, out, place)
        p = place + 36 + name_size
        cigar = start + 36 + name_size
        if n_operations > 0:
            word = load_u32(data, cigar + 4 * (n_operations - 1))
            if load_u32(data, cigar) & np.uint32(15) == 5:
                word = load_u32(data, cigar)
            store_u16(out, place + 16, np.uint16(1))
            store_u32(out, p, word)
            p += 4
        source = cigar + 4 * n_operations
        half = (length + 1) >> 1
        _copy(data, source, half, out, p)
        p += half
        oq = originals[i]
        if oq > 0:
            for q in range(length):
                out[U(p + q)] = data[U(oq + q)] - np.uint8(33)
        else:
            _copy(data, source + half, length, out, p)
        # The UMI ends what was set aside: four bytes are left over if there was no CIGAR.
        umi = umis[i, 1]
        p = place + 36 + name_size + 4 + half + length
        _copy(data, umis[i, 0], umi, out, p)


@kernel("void(uint8[::1], int64[::1], int64[::1], uint8[::1])")
def move_reads(data: Any, starts: Any, sizes: Any, out: Any) -> None:
    """Copy pieces of `data` to `out`, one behind the other; up to 7 bytes more are written."""
    place = np.int64(0)
    for k in range(len(starts)):
        _copy(data, starts[k], sizes[k], out, place)
        place += sizes[k]
