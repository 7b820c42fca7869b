# SPDX-License-Identifier: Apache-2.0
"""UMIs of records, as numbers.

A UMI is the text of the RX tag in 2 bits a base, first base highest, behind a leading 1; what stands between its parts
is left out, lower case is upper case. One N is kept with its position; a text with more, with other letters or
of more than 28 bases is a hash of itself with bit 63 set, which is near nothing. 0: no UMI.

Duplex UMIs are A-B, and B-A on the other strand of the molecule. As in Picard's DUPLEX_UMI, A-B is taken where the 5'
end of mate 1 lies below that of mate 2, B-A otherwise; the end of the mate on the same contig comes from the MC tag.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, load_i32, load_u16, load_u32
from megabolt.compute.jit import callee, kernel

U = np.uint64
_MATE_REVERSE = 0x20
_LONGEST_UMI = 28
_HAS_N, _HASHED = U(1) << U(62), U(1) << U(63)
_N_SHIFT = U(57)


def umi_code(text: str, *, swap: bool = False) -> int:
    """The number of a UMI: see the module. swap: the second of its two parts comes first."""
    data = np.frombuffer(bytearray(text.encode() + bytes(PADDING)), np.uint8)
    return int(_umi_code(data, len(text.encode()), swap))


# --- kernels: p = start of the record ---


@callee
def _tag(data: NDArray[np.uint8], p: Any, stop: Any, first: Any, second: Any) -> Any:
    """Where the value of a Z tag begins, or -1."""
    words = load_u32(data, p + 12)
    length = np.int64(load_i32(data, p + 20))
    c = p + 36 + np.int64(words & 255) + 4 * np.int64(load_u16(data, p + 16)) + ((length + 1) >> 1) + length
    while c + 3 < stop:
        kind = data[U(c + 2)]
        if data[U(c)] == first and data[U(c + 1)] == second and kind == 90:
            return c + 3
        c += 3
        if kind == 65 or kind == 67 or kind == 99:  # A C c
            c += 1
        elif kind == 83 or kind == 115:  # S s
            c += 2
        elif kind == 73 or kind == 105 or kind == 102:  # I i f
            c += 4
        elif kind == 90 or kind == 72:  # Z H
            while c < stop and data[U(c)] != 0:
                c += 1
            c += 1
        elif kind == 66:  # B
            element = data[U(c)]
            size = 1 if element == 67 or element == 99 else 2 if element == 83 or element == 115 else 4
            c += 5 + size * np.int64(load_i32(data, c + 1))
        else:
            return np.int64(-1)
    return np.int64(-1)


@callee
def _encode_umi(data: NDArray[np.uint8], start: Any, length: Any, swap: Any) -> Any:
    """See the module."""
    cut = np.int64(0)
    if swap:
        while cut < length and data[U(start + cut)] >= 65:
            cut += 1
        if cut == length:
            cut = np.int64(0)
    code = U(1)
    hashed = U(0xCBF29CE484222325)
    bases = 0
    unknown = np.int64(-1)
    plain = True
    for k in range(length):
        at = k + cut
        letter = data[U(start + (at if at < length else at - length))] & np.uint8(0xDF)
        if letter < 65:  # - + _ and the like, bit 5 taken away
            continue
        if letter == 95:
            continue
        hashed = (hashed ^ U(letter)) * U(0x100000001B3)
        value = U(0)
        if letter == 67:
            value = U(1)
        elif letter == 71:
            value = U(2)
        elif letter == 84:
            value = U(3)
        elif letter == 78 and unknown < 0:
            unknown = np.int64(bases)
        elif letter != 65:
            plain = False
        code = (code << U(2)) | value
        bases += 1
    if bases == 0:
        return U(0)
    if bases > _LONGEST_UMI or not plain:
        return hashed | _HASHED
    if unknown >= 0:
        code |= _HAS_N | (U(bases - 1 - unknown) << _N_SHIFT)
    return code


@callee
def _umi(data: NDArray[np.uint8], p: Any, stop: Any, swap: Any) -> Any:
    """UMI of a record's RX tag."""
    start = _tag(data, p, stop, 82, 88)
    if start < 0:
        return U(0)
    length = np.int64(0)
    while start + length < stop and data[U(start + length)] != 0:
        length += 1
    return _encode_umi(data, start, length, swap)


@callee
def _text_five_prime(data: NDArray[np.uint8], c: Any, start: Any, reverse: Any) -> Any:
    """`_five_prime` for the CIGAR text of an MC tag."""
    clip = np.int64(0)
    span = np.int64(0)
    leading = np.int64(-1)
    while data[U(c)] != 0:
        value = np.int64(0)
        while data[U(c)] >= 48 and data[U(c)] <= 57:
            value = 10 * value + np.int64(data[U(c)]) - 48
            c += 1
        kind = data[U(c)]
        if kind == 0:
            break
        c += 1
        if kind == 83 or kind == 72:  # S H
            clip += value
        else:
            leading = clip if leading < 0 else leading
            clip = np.int64(0)
            if kind != 73 and kind != 80:  # I P
                span += value
    if reverse == 0:
        return start - max(leading, np.int64(0))
    return start + span - 1 + clip


@callee
def _mate1_is_lower(data: NDArray[np.uint8], p: Any, stop: Any, own: Any) -> Any:
    """Whether the 5' end of mate 1 lies below or at that of mate 2, as this record tells; True if unknown.

    own: the 5' end of this record on its contig.
    """
    flag = np.int64(load_u16(data, p + 18))
    if flag & 0x1 == 0 or flag & 0xC != 0:
        return True
    contig, mate_contig = load_i32(data, p + 4), load_i32(data, p + 24)
    first = flag & 0x40 != 0
    if contig != mate_contig:
        return first == (contig < mate_contig)
    mate_start = np.int64(load_i32(data, p + 28))
    mate = mate_start
    cigar = _tag(data, p, stop, 77, 67)  # MC
    if cigar >= 0:
        mate = _text_five_prime(data, cigar, mate_start, flag & _MATE_REVERSE)
    return first == (own <= mate)


@kernel("uint64(uint8[::1], int64, boolean)")
def _umi_code(data: NDArray[np.uint8], length: Any, swap: Any) -> Any:
    return _encode_umi(data, 0, length, swap)


@kernel("void(uint8[::1], int64[::1], int64[::1], uint64[::1])")
def read_umis(
    data: NDArray[np.uint8], starts: NDArray[np.int64], five_prime: NDArray[np.int64], umi: NDArray[np.uint64]
) -> None:
    """UMIs of the records that begin at `starts`; duplex if their 5' ends on their contigs are given."""
    for i in range(U(len(starts))):
        p = starts[i]
        stop = p + 4 + np.int64(load_i32(data, p))
        swap = len(five_prime) > 0 and not _mate1_is_lower(data, p, stop, five_prime[i])
        umi[i] = _umi(data, p, stop, swap)
