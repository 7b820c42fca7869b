# SPDX-License-Identifier: Apache-2.0
"""Kernels that move packed records between batches, slabs, scratch and sorted blocks.

In slabs and in scratch a record stands, packed (see `reads/packing.py`), behind its sort key (8 bytes, little-endian)::

    63            41 40      39                                   0
    | place + HALO | reverse | ordinal of the record in the input |      place: in the bin, 0-based

Keys are distinct, so that the sorted order depends on nothing but the input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.compute.bits import load_u32, load_u64, prefetch, store_u64
from megabolt.compute.jit import callee, inline, kernel

U = np.uint64
#: A bin at 30x is 200,000 reads and 70 MB: its keys sort in a core's cache, and its block, which comes on top of
#: the bins, costs little even when every thread holds one.
BIN_SHIFT = 20
BIN_BASES = 1 << BIN_SHIFT
#: Bases around a bin whose records its block holds as well: the caller's margin plus the span of a read.
HALO = 4096
PLACE_SHIFT = 41
ORDINAL_BITS = 40
_ORDINAL_MASK = U((1 << ORDINAL_BITS) - 1)

#: Columns of the table of bins: the open slab's first byte (-1: none), next free byte, end and records; then of all
#: the bin's records, their number and the memory that they take in a block.
START, CURSOR, LIMIT, N_OPEN, N_TOTAL, N_BYTES = range(6)
TABLE_COLUMNS = 8  # a line of the cache
#: Memory of a record besides its own bytes: its key, its place, its offset in the block.
RECORD_OVERHEAD = 24
#: Memory for the order of records, each: keys and sources as they lie and sorted, and the bytes before it.
ORDER_BYTES = 40

#: A source tells where a packed record begins (the low bits) and its plain size (the others).
SOURCE_SHIFT = 40
_SOURCE_MASK = (1 << SOURCE_SHIFT) - 1

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)


@inline
def _copy_line(source: Any, s: Any, out: Any, p: Any) -> None:
    """64 bytes: all are loaded before any is stored, so that the compiler takes the widest registers."""
    a, b, c, d = load_u64(source, s), load_u64(source, s + 8), load_u64(source, s + 16), load_u64(source, s + 24)
    e, f, g, h = load_u64(source, s + 32), load_u64(source, s + 40), load_u64(source, s + 48), load_u64(source, s + 56)
    store_u64(out, p, a)
    store_u64(out, p + 8, b)
    store_u64(out, p + 16, c)
    store_u64(out, p + 24, d)
    store_u64(out, p + 32, e)
    store_u64(out, p + 40, f)
    store_u64(out, p + 48, g)
    store_u64(out, p + 56, h)


@inline
def _copy_record(source: Any, start: Any, size: Any, out: Any, p: Any) -> None:
    """Copies exactly `size` bytes: what lies behind may be another thread's; the last lines overlap."""
    if size >= 64:
        for t in range(0, size - 64, 64):
            _copy_line(source, start + t, out, p + t)
        _copy_line(source, start + size - 64, out, p + size - 64)
    else:
        for k in range(size):
            out[np.uint64(p + k)] = source[np.uint64(start + k)]


# --- into the bins ---


@callee
def _make_room(
    k: Any,
    need: Any,
    table: NDArray[np.int64],
    free: NDArray[np.int64],
    n_free: NDArray[np.int64],
    slab_bytes: Any,
    closed: NDArray[np.int64],
    n_closed: NDArray[np.int64],
) -> Any:
    """Whether bin k has room for `need` bytes, if need be in a fresh slab; the one it had is noted as closed."""
    if table[k, CURSOR] + need <= table[k, LIMIT]:
        return True
    if n_free[0] == 0:
        return False
    if table[k, START] >= 0:
        row = closed[n_closed[0]]
        row[0], row[1], row[2], row[3] = k, table[k, START], table[k, CURSOR], table[k, N_OPEN]
        n_closed[0] += 1
    n_free[0] -= 1
    start = free[n_free[0]]
    table[k, START] = start
    table[k, CURSOR] = start
    table[k, LIMIT] = start + slab_bytes
    table[k, N_OPEN] = 0
    return True


@callee
def _put(k: Any, need: Any, plain: Any, key: Any, table: NDArray[np.int64], target: NDArray[np.int64], i: Any) -> None:
    """Give record i the next bytes of bin k."""
    target[0, i] = table[k, CURSOR]
    target[1, i] = np.int64(key)
    table[k, CURSOR] += need
    table[k, N_OPEN] += 1
    table[k, N_TOTAL] += 1
    table[k, N_BYTES] += plain + RECORD_OVERHEAD


@kernel(
    "int64(int64[::1], int64[::1], uint64[::1], int64[::1], int64, int64, int64, int64[::1], int64[::1], int64[::1],"
    " int64, uint64, int64[:, ::1], int64[::1], int64[::1], int64, int64[:, ::1], int64[::1], int64[:, ::1],"
    " int64[:, ::1])"
)
def assign(
    offsets: NDArray[np.int64],
    plain: NDArray[np.int64],
    record_key: NDArray[np.uint64],
    record_ordinal: NDArray[np.int64],
    begin: Any,
    n_records: Any,
    first_ordinal: Any,
    first_bin: NDArray[np.int64],
    last_bin: NDArray[np.int64],
    contig_place: NDArray[np.int64],
    unplaced_bin: Any,
    unplaced: Any,
    table: NDArray[np.int64],
    free: NDArray[np.int64],
    n_free: NDArray[np.int64],
    slab_bytes: Any,
    closed: NDArray[np.int64],
    n_closed: NDArray[np.int64],
    own: NDArray[np.int64],
    halo: NDArray[np.int64],
) -> Any:
    """Room for the records of a chunk from `begin` on in their bins; returns how far the free slabs lasted.

    Parameters
    ----------
    offsets
        Of the packed records.
    plain, record_key, record_ordinal
        Offsets, keys and ordinals of the chunk.
    table
        int64 [n_bins + 1, TABLE_COLUMNS].
    free, n_free, slab_bytes
        Of the arena.
    closed
        int64 [n, 4]: takes (bin, first byte, end, records) of each slab that became full; n_closed[0]: how many.
    own, halo
        int64 [2, n]: take address and key of each record, and of its copy for the neighbour's halo (address -1: none).
    """
    for i in range(begin, n_records):
        need = offsets[i + 1] - offsets[i] + 8
        size = plain[i + 1] - plain[i]
        low = U(first_ordinal + record_ordinal[i])
        key = record_key[i]
        home = unplaced_bin
        other = np.int64(-1)
        place = np.int64(-HALO)
        other_place = np.int64(0)
        if key != unplaced:
            contig = key >> U(33)
            start = np.int64((key >> U(1)) & U(0xFFFFFFFF)) - 1
            low |= (key & U(1)) << U(ORDINAL_BITS)
            home = first_bin[contig] + (start >> BIN_SHIFT)
            inside = start & (BIN_BASES - 1)
            place = contig_place[contig] + inside
            if inside < HALO and home > first_bin[contig]:
                other = home - 1
                other_place = BIN_BASES + inside
            elif inside >= BIN_BASES - HALO and home < last_bin[contig]:
                other = home + 1
                other_place = inside - BIN_BASES
        if not _make_room(home, need, table, free, n_free, slab_bytes, closed, n_closed):
            return i
        if other >= 0 and not _make_room(other, need, table, free, n_free, slab_bytes, closed, n_closed):
            return i
        _put(home, need, size, low | (U(place + HALO) << U(PLACE_SHIFT)), table, own, i)
        halo[0, i] = -1
        if other >= 0:
            _put(other, need, size, low | (U(other_place + HALO) << U(PLACE_SHIFT)), table, halo, i)
    return n_records


@kernel("void(uint8[::1], int64[::1], int64, int64, int64[:, ::1], int64[:, ::1], uint8[::1])")
def store(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    begin: Any,
    end: Any,
    own: NDArray[np.int64],
    halo: NDArray[np.int64],
    arena: NDArray[np.uint8],
) -> None:
    """Write each record, behind its key, to the places it was given by `assign`."""
    for i in range(begin, end):
        size = offsets[i + 1] - offsets[i]
        p = own[0, i]
        store_u64(arena, p, U(own[1, i]))
        _copy_record(data, offsets[i], size, arena, p + 8)
        p = halo[0, i]
        if p >= 0:
            store_u64(arena, p, U(halo[1, i]))
            _copy_record(data, offsets[i], size, arena, p + 8)


# --- out of the bins ---


@kernel("int64(uint64[::1], int64[::1], int64, uint8[::1], int64[::1])")
def end_bytes(
    keys: NDArray[np.uint64],
    sources: NDArray[np.int64],
    shift: Any,
    left_out: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> Any:
    """ends[i]: bytes of the records before the i-th; returns their number without those that are left out.

    left_out: a bit per template, as `duplicate` of `gather`; empty: all stay. The others move up in keys and sources.
    """
    n = np.int64(0)
    ends[0] = 0
    for i in range(len(sources)):
        key, source = keys[np.uint64(i)], sources[np.uint64(i)]
        if len(left_out) > 0:
            template = (key & _ORDINAL_MASK) >> U(shift)
            if (left_out[template >> U(3)] >> np.uint8(template & U(7))) & np.uint8(1) != 0:
                continue
        keys[np.uint64(n)] = key
        sources[np.uint64(n)] = source
        ends[np.uint64(n + 1)] = ends[np.uint64(n)] + (source >> SOURCE_SHIFT)
        n += 1
    return n


@kernel("void(uint8[::1], int64[:, ::1], uint64[::1], int64[::1])")
def list_records(
    data: NDArray[np.uint8], spans: NDArray[np.int64], keys: NDArray[np.uint64], sources: NDArray[np.int64]
) -> None:
    """Key and source (address, and plain size << SOURCE_SHIFT) of each record in spans[i, 0] <= byte < spans[i, 1]."""
    i = np.int64(0)
    for s in range(len(spans)):
        p = spans[s, 0]
        while p < spans[s, 1]:
            for line in range(6):  # a record's worth, some records ahead
                prefetch(data, p + 2048 + 64 * line)
            keys[np.uint64(i)] = load_u64(data, p)
            size = 4 + np.int64(load_u32(data, p + 12))
            sources[np.uint64(i)] = (p + 8) | (size << SOURCE_SHIFT)
            p += 12 + np.int64(load_u32(data, p + 8))
            i += 1


@kernel("int64(uint8[::1], int64[::1], uint64[::1], int64, uint8[::1], int64[::1])")
def pack(
    arena: NDArray[np.uint8],
    sources: NDArray[np.int64],
    keys: NDArray[np.uint64],
    begin: Any,
    out: NDArray[np.uint8],
    filled: NDArray[np.int64],
) -> Any:
    """Records from number `begin` on, behind their keys, until `out` is full; returns the next one's number.

    filled[0]: bytes written.
    """
    n = len(sources)
    p = np.int64(0)
    for i in range(begin, n):
        if i + 12 < n:
            ahead = sources[np.uint64(i + 12)] & _SOURCE_MASK
            for line in range(6):
                prefetch(arena, ahead + 64 * line)
        source = sources[np.uint64(i)] & _SOURCE_MASK
        size = 4 + np.int64(load_u32(arena, source))
        if p + 8 + size > len(out):
            filled[0] = p
            return i
        store_u64(out, p, keys[np.uint64(i)])
        _copy_record(arena, source, size, out, p + 8)
        p += 8 + size
    filled[0] = p
    return n


@kernel(types.void(_BYTES, types.int64, types.int64, types.uint64, types.uint64, types.uint8[::1], types.int64[::1]))
def select(
    data: NDArray[np.uint8],
    start: Any,
    stop: Any,
    low: Any,
    high: Any,
    out: NDArray[np.uint8],
    filled: NDArray[np.int64],
) -> None:
    """Copy the records with low <= key < high, keys included, behind what `out` holds.

    filled: bytes and records in `out`.
    """
    p = start
    q, n = filled[0], filled[1]
    while p < stop:
        key = load_u64(data, p)
        size = 12 + np.int64(load_u32(data, p + 8))
        if low <= key and key < high:
            _copy_record(data, p, size, out, q)
            q += size
            n += 1
        p += size
    filled[0], filled[1] = q, n


@kernel(types.void(_BYTES, types.int64, types.int64, types.int64, types.int64[::1]))
def weigh(data: NDArray[np.uint8], start: Any, stop: Any, shift: Any, weights: NDArray[np.int64]) -> None:
    """weights[key >> shift] += memory of the record in a block."""
    p = start
    while p < stop:
        size = 12 + np.int64(load_u32(data, p + 8))
        weights[load_u64(data, p) >> U(shift)] += 4 + np.int64(load_u32(data, p + 12)) + RECORD_OVERHEAD
        p += size
