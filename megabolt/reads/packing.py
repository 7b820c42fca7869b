# SPDX-License-Identifier: Apache-2.0
"""Records as they lie in memory until they are sorted: packed, and unpacked on their way out.

In: plain BAM records. Out: the same bytes. Used by `reads/bin_filling.py` and by what takes records out of bins.

Memory that was never used before costs more time than packing what goes there, and what fits need not go to scratch.
Reads with binned qualities take three fifths (150 ns each); others, whose qualities hardly have runs, nine tenths.
A packed record is framed as BAM records are::

    0   uint32  bytes that follow
    4   uint32  the same of the plain record: its block_size
    8   uint16  bytes of the coded qualities; RAW: they are as they were
    10  uint8   1: bases in 2 bits each; 0: as they were
    11          fixed fields, name, CIGAR; bases; qualities; tags

Bases are coded 16 by 16, what is left over stays; one that is not A, C, G or T leaves all as they were. Qualities are
runs of (value, length of at most 64), unless that saves less than half of them; it is given up as soon as it looks like
that, for the qualities of some instruments hardly have runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import (
    PADDING,
    equal_mask64,
    load_i32,
    load_u16,
    load_u32,
    load_u64,
    prefetch,
    store_u32,
    store_u64,
    trailing_zeros,
)
from megabolt.compute.jit import callee, inline, kernel
from megabolt.errors import InternalError
from megabolt.reads import bin_kernels

U = np.uint64
#: Bytes that a packed record may take more than the plain one.
PACKING_BYTES = 7

#: What duplicates get as a tag: nothing; DT:Z:SQ if optical; that, and DT:Z:LB if not.
NO_TAG, TAG_OPTICAL, TAG_ALL = range(3)
#: Bytes of a DT tag.
TAG_BYTES = 6

_RAW = 0xFFFF
#: Bytes by which the coded qualities may be more than half of those that they stand for, on the way.
_ADVANCE = 16
_HEAD = 11
#: Of `bin_kernels`: kernels may not take constants of other files.
_SOURCE_SHIFT, _ORDINAL_BITS = 40, 40
if (_SOURCE_SHIFT, _ORDINAL_BITS) != (bin_kernels.SOURCE_SHIFT, bin_kernels.ORDINAL_BITS):
    raise InternalError("sources and keys are not what the kernels take them for")
_SOURCE_MASK = (1 << _SOURCE_SHIFT) - 1
_ORDINAL_MASK = U((1 << _ORDINAL_BITS) - 1)
_LOW = U(0x1111111111111111)


class Packed(NamedTuple):
    """Packed records: uint8, which may have room behind; int64 [n + 1], where each begins."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]


def pack_records(data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pack plain records; releases the GIL.

    Parameters
    ----------
    data, offsets
        uint8, int64 [n + 1]: the records, with PADDING behind.
    out
        uint8: takes them; `packed_room` bytes.

    Returns
    -------
    int64 [n + 1], where each begins in `out`.
    """
    packed = np.empty(len(offsets), np.int64)
    _pack(data, offsets, out, packed)
    return packed


def packed_room(offsets: NDArray[np.int64]) -> int:
    """Bytes that records may take when they are packed, and PADDING."""
    return int(offsets[-1] - offsets[0]) + PACKING_BYTES * len(offsets) + PADDING


@callee
def _copy(source: Any, s: Any, size: Any, out: Any, p: Any) -> None:
    """`size` bytes; up to 63 more are read and written."""
    for t in range(0, size, 64):
        a, b = load_u64(source, s + t), load_u64(source, s + t + 8)
        c, d = load_u64(source, s + t + 16), load_u64(source, s + t + 24)
        e, f = load_u64(source, s + t + 32), load_u64(source, s + t + 40)
        g, h = load_u64(source, s + t + 48), load_u64(source, s + t + 56)
        store_u64(out, p + t, a)
        store_u64(out, p + t + 8, b)
        store_u64(out, p + t + 16, c)
        store_u64(out, p + t + 24, d)
        store_u64(out, p + t + 32, e)
        store_u64(out, p + t + 40, f)
        store_u64(out, p + t + 48, g)
        store_u64(out, p + t + 56, h)


@inline
def _one_hot(codes: Any) -> Any:
    """16 bases, 1 2 4 8 each, from their numbers 0 1 2 3 in four bits each."""
    low, high = codes & _LOW, (codes >> U(1)) & _LOW
    return (_LOW & ~low & ~high) | ((low & ~high) << U(1)) | ((high & ~low) << U(2)) | ((low & high) << U(3))


@callee
def _pack_bases(data: NDArray[np.uint8], p: Any, n_words: Any, out: NDArray[np.uint8], q: Any) -> Any:
    """Whether `n_words` times 16 bases are nothing but A, C, G, T; then they are coded at out[q]."""
    wrong = U(0)
    for k in range(n_words):
        word = load_u64(data, p + 8 * k)
        codes = ((word >> U(1)) & U(0x7777777777777777)) - ((word >> U(3)) & _LOW)
        wrong |= _one_hot(codes) ^ word
        codes = (codes | (codes >> U(2))) & U(0x0F0F0F0F0F0F0F0F)
        codes = (codes | (codes >> U(4))) & U(0x00FF00FF00FF00FF)
        codes = (codes | (codes >> U(8))) & U(0x0000FFFF0000FFFF)
        store_u32(out, q + 4 * k, np.uint32((codes | (codes >> U(16))) & U(0xFFFFFFFF)))
    return wrong == U(0)


@callee
def _unpack_bases(data: NDArray[np.uint8], p: Any, n_words: Any, out: NDArray[np.uint8], q: Any) -> None:
    for k in range(n_words):
        codes = U(load_u32(data, p + 4 * k))
        codes = (codes | (codes << U(16))) & U(0x0000FFFF0000FFFF)
        codes = (codes | (codes << U(8))) & U(0x00FF00FF00FF00FF)
        codes = (codes | (codes << U(4))) & U(0x0F0F0F0F0F0F0F0F)
        codes = (codes | (codes << U(2))) & U(0x3333333333333333)
        store_u64(out, q + 8 * k, _one_hot(codes))


@callee
def _pack_qualities(data: NDArray[np.uint8], p: Any, length: Any, out: NDArray[np.uint8], q: Any) -> Any:
    """Runs of the qualities at data[p] to out[q]; returns their bytes, RAW if they are too many."""
    most = min(length >> 1, np.int64(_RAW - 1))
    done = np.int64(0)
    size = np.int64(0)
    while done < length:
        if size + 2 > min(most, (done >> 1) + _ADVANCE):
            return np.int64(_RAW)
        value = data[U(p + done)]
        run = min(trailing_zeros(~equal_mask64(data, p + done, value)), length - done)
        out[U(q + size)] = value
        out[U(q + size + 1)] = np.uint8(run)
        size += 2
        done += run
    return size


@callee
def _unpack_qualities(data: NDArray[np.uint8], p: Any, size: Any, out: NDArray[np.uint8], q: Any) -> None:
    for t in range(0, size, 2):
        word = U(data[U(p + t)]) * U(0x0101010101010101)
        for k in range(8):
            store_u64(out, q + 8 * k, word)
        q += np.int64(data[U(p + t + 1)])


@kernel("void(uint8[::1], int64[::1], uint8[::1], int64[::1])")
def _pack(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint8], packed: NDArray[np.int64]
) -> None:
    """See `pack_records`; what does not look like a record is framed as if it had no bases."""
    q = np.int64(0)
    for i in range(len(offsets) - 1):
        p, end = offsets[U(i)], offsets[U(i + 1)]
        packed[U(i)] = q
        length = np.int64(load_i32(data, p + 20))
        head = 32 + np.int64(data[U(p + 12)]) + 4 * np.int64(load_u16(data, p + 16))
        if length < 0 or 4 + head + ((length + 1) >> 1) + length > end - p:
            length = np.int64(0)
            head = min(head, end - p - 4)
        store_u32(out, q + 4, load_u32(data, p))
        _copy(data, p + 4, head, out, q + _HEAD)
        p += 4 + head
        at = q + _HEAD + head
        n_words = length >> 4
        n_bytes = (length + 1) >> 1
        coded = _pack_bases(data, p, n_words, out, at)
        out[U(q + 10)] = np.uint8(coded)
        if coded:
            rest = n_bytes - 8 * n_words
            for k in range(rest):
                out[U(at + 4 * n_words + k)] = data[U(p + 8 * n_words + k)]
            at += 4 * n_words + rest
        else:
            _copy(data, p, n_bytes, out, at)
            at += n_bytes
        p += n_bytes
        size = _pack_qualities(data, p, length, out, at)
        out[U(q + 8)], out[U(q + 9)] = np.uint8(size & 255), np.uint8(size >> 8)
        if size == _RAW:
            _copy(data, p, length, out, at)
            size = length
        p += length
        at += size
        _copy(data, p, end - p, out, at)
        at += end - p
        store_u32(out, q, np.uint32(at - q - 4))
        q = at
    packed[len(offsets) - 1] = q


@callee
def _unpack(data: NDArray[np.uint8], p: Any, out: NDArray[np.uint8], q: Any) -> None:
    """The plain record of the packed one at data[p] to out[q]; up to 63 bytes behind it are written."""
    end = p + 4 + np.int64(load_u32(data, p))
    size, coded = np.int64(load_u16(data, p + 8)), data[U(p + 10)] != 0
    plain = 4 + np.int64(load_u32(data, p + 4))
    store_u32(out, q, load_u32(data, p + 4))
    p += _HEAD
    head = 32 + np.int64(data[U(p + 8)]) + 4 * np.int64(load_u16(data, p + 12))
    length = np.int64(load_i32(data, p + 16))
    if length < 0 or 4 + head + ((length + 1) >> 1) + length > plain:
        length = np.int64(0)
        head = min(head, plain - 4)
    _copy(data, p, head, out, q + 4)
    p += head
    q += 4 + head
    n_words = length >> 4
    n_bytes = (length + 1) >> 1
    if coded:
        _unpack_bases(data, p, n_words, out, q)
        rest = n_bytes - 8 * n_words
        for k in range(rest):
            out[U(q + 8 * n_words + k)] = data[U(p + 4 * n_words + k)]
        p += 4 * n_words + rest
    else:
        _copy(data, p, n_bytes, out, q)
        p += n_bytes
    q += n_bytes
    if size == _RAW:
        _copy(data, p, length, out, q)
        p += length
    else:
        _unpack_qualities(data, p, size, out, q)
        p += size
    _copy(data, p, end - p, out, q + length)


@callee
def _without_tag(out: NDArray[np.uint8], p: Any, size: Any) -> Any:
    """Take the tag DT out of the record at byte p; returns its size then (SAM specification 4.2.4)."""
    end = p + size
    q = p + 36 + np.int64(out[np.uint64(p + 12)]) + 4 * np.int64(load_u16(out, p + 16))
    n_bases = np.int64(load_u32(out, p + 20))
    q += (n_bases + 1) // 2 + n_bases
    while q + 3 < end:
        kind = out[np.uint64(q + 2)]
        after = q + 3
        if kind == ord("Z") or kind == ord("H"):
            while after < end and out[np.uint64(after)] != 0:
                after += 1
            after += 1
        elif kind == ord("B"):
            item = out[np.uint64(q + 3)]
            width = 4 if item == ord("i") or item == ord("I") or item == ord("f") else 2
            width = 1 if item == ord("c") or item == ord("C") else width
            after += 5 + width * np.int64(load_u32(out, q + 4))
        elif kind == ord("A") or kind == ord("c") or kind == ord("C"):
            after += 1
        elif kind == ord("s") or kind == ord("S"):
            after += 2
        else:
            after += 4
        if out[np.uint64(q)] == ord("D") and out[np.uint64(q + 1)] == ord("T"):
            for t in range(after, end):
                out[np.uint64(q + t - after)] = out[np.uint64(t)]
            return size - (after - q)
        q = after
    return size


@callee
def _tag(out: NDArray[np.uint8], p: Any, size: Any, optical: Any) -> Any:
    """Give the record at byte p the tag DT:Z:SQ or DT:Z:LB; returns its size then."""
    size = _without_tag(out, p, size)
    q = p + size
    out[q], out[q + 1], out[q + 2] = ord("D"), ord("T"), ord("Z")
    out[q + 3], out[q + 4], out[q + 5] = ord("L"), ord("B"), 0
    if optical:
        out[q + 3], out[q + 4] = ord("S"), ord("Q")
    store_u32(out, p, np.uint32(size + TAG_BYTES - 4))
    return size + TAG_BYTES


@kernel(
    "int64(uint8[::1], int64[::1], uint64[::1], int64, uint8[::1], uint8[::1], int64, int64, uint8[::1], int64[::1])"
)
def gather(
    data: NDArray[np.uint8],
    sources: NDArray[np.int64],
    keys: NDArray[np.uint64],
    shift: Any,
    duplicate: NDArray[np.uint8],
    optical: NDArray[np.uint8],
    remove: Any,
    tagging: Any,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
) -> Any:
    """Records in the order of `sources`, duplicates marked or left out; returns how many are there.

    Mapped records of duplicate templates get the flag 0x400. So do their supplementary records, as with Picard's
    MarkDuplicates on records in the order of names and `samtools markdup -S`; on sorted records Picard, and samtools
    without -S, leave those alone. Removal takes all records of a duplicate template, unmapped mates included.

    Parameters
    ----------
    keys
        Of the records; afterwards, those of the records that are there.
    shift
        Bits of an ordinal below the template's number.
    duplicate, optical
        A bit per template (bit t & 7 of byte t >> 3); empty: none is.
    remove, tagging
        1 to leave duplicates out; NO_TAG, TAG_OPTICAL or TAG_ALL.
    """
    n = len(sources)
    p = np.int64(0)
    kept = np.int64(0)
    marked = len(duplicate) > 0
    for i in range(n):
        if i + 12 < n:
            ahead = sources[np.uint64(i + 12)] & _SOURCE_MASK
            for line in range(4):  # a packed record of a 150-base read
                prefetch(data, ahead + 64 * line)
            prefetch(duplicate, np.int64((keys[np.uint64(i + 12)] & _ORDINAL_MASK) >> U(shift + 3)))
        source = sources[np.uint64(i)] & _SOURCE_MASK
        size = sources[np.uint64(i)] >> _SOURCE_SHIFT
        key = keys[np.uint64(i)]
        template = (key & _ORDINAL_MASK) >> U(shift)
        is_copy = marked and (duplicate[template >> U(3)] >> np.uint8(template & U(7))) & np.uint8(1) != 0
        if is_copy and remove != 0:
            continue
        _unpack(data, source, out, p)
        if is_copy and (out[np.uint64(p + 18)] & np.uint8(4)) == 0:
            out[np.uint64(p + 19)] |= np.uint8(4)
            if tagging != NO_TAG:
                is_optical = len(optical) > 0 and (optical[template >> U(3)] >> np.uint8(template & U(7))) & np.uint8(1)
                if is_optical or tagging == TAG_ALL:
                    size = _tag(out, p, size, is_optical)
        p += size
        keys[np.uint64(kept)] = key
        kept += 1
        offsets[np.uint64(kept)] = p
    return kept
