# SPDX-License-Identifier: Apache-2.0
"""Kernels that put templates into rows, find the rows of one molecule, and choose which of them stays.

A row, of four words, or five with UMIs::

    0  library (16 bits) | lower 5' end (48)          their hash's top 8 bits are the partition, for lone
    1  score + 32768 (16) | upper 5' end (48)         reads the hash of word 0 alone
    2  number in the input (40) | 0 (4) | HALF_PAIR, MARKER, OTHER_NAME, MATE1_REVERSE (1 each) | read group (16)
    3  tile, x, y, each + 32768 (16) | 0 (16)
    4  UMI

A marker stands among the rows of lone reads for an end of mapped pairs; word 1 is the number of pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from megabolt.compute.bits import raw_pointer
from megabolt.compute.jit import callee, inline, kernel

U = np.uint64
#: Kinds of rows: pairs of mapped mates; lone reads and markers.
PAIR, LONE = 0, 1
#: Columns of what is counted for each library.
PAIR_DUPLICATES, OPTICAL_PAIRS, LONE_DUPLICATES, HALF_DUPLICATES, N_COUNTS = range(5)

_NO_END = U(0xFFFFFFFFFFFFFFFF)
_ABSENT_MATE = U(0xFFFFFFFFFFFFFFFE)
_END = (U(1) << U(48)) - U(1)
#: Bits of word 1 that belong to the key of a pair.
UPPER = _END
#: Groups of fewer pairs are counted, larger ones are listed.
SMALL = 32
_HALF_PAIR = U(8) << U(16)
_MARKER = U(4) << U(16)
_OTHER_NAME = U(2) << U(16)
_MATE1_REVERSE = U(1) << U(16)
#: tile, x, y = -1 as in word 3, without its low 16 bits.
_NOWHERE = U(0x7FFF7FFF7FFF)
_NONE = np.uint16(0xFFFF)


@intrinsic  # type: ignore[untyped-decorator]
def _set_bit(typing_context: Any, words: Any, index: Any) -> Any:
    """Bit `index` of an array of words; several threads may set bits of one word at a time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        offset = builder.shl(builder.lshr(args[1], word(6)), word(3))
        pointer = raw_pointer(context, builder, signature.args[0], args[0], offset, word)
        builder.atomic_rmw("or", pointer, builder.shl(word(1), builder.and_(args[1], word(63))), "monotonic")
        return context.get_dummy_value()

    return types.void(words, types.int64), codegen


@inline
def _mix(first: Any, second: Any) -> Any:
    """64-bit hash of two words (the finaliser of SplitMix64 over their combination)."""
    x = first * U(0x9E3779B97F4A7C15) ^ (second + U(0x7F4A7C159E3779B9)) * U(0xC2B2AE3D27D4EB4F)
    x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@kernel(
    "void(uint64[:, ::1], uint16[::1], uint8[::1], uint16[::1], uint16[::1], uint64[::1], uint16[::1], int64[:, ::1],"
    " int64[:, ::1])"
)
def classify(
    signature: NDArray[np.uint64],
    read_group: NDArray[np.uint16],
    flags: NDArray[np.uint8],
    unmapped: NDArray[np.uint16],
    others: NDArray[np.uint16],
    library: NDArray[np.uint64],
    target: NDArray[np.uint16],
    counts: NDArray[np.int64],
    kinds: NDArray[np.int64],
) -> None:
    """target = kind << 8 | partition of each template; rows of each; kinds of reads of each library."""
    for i in range(U(len(target))):
        first, second = signature[i, 0], signature[i, 1]
        owner = library[read_group[i]]
        kinds[owner, 3] += unmapped[i]
        kinds[owner, 4] += others[i]
        if first == _NO_END:
            target[i] = _NONE
            continue
        key = owner << U(48) | (first & _END)
        if second >= _ABSENT_MATE:
            h = _mix(key, U(0))
            kinds[owner, 1 if second == _NO_END and flags[i] & 8 == 0 else 2] += 1
            target[i] = np.uint16(LONE << 8 | np.int64(h >> U(56)))
            counts[LONE, h >> U(56)] += 1
        else:
            h = _mix(key, second & _END)
            kinds[owner, 0] += 1
            target[i] = np.uint16(h >> U(56))
            counts[PAIR, h >> U(56)] += 1


@kernel(
    "void(uint64[:, ::1], int32[::1], int32[:, ::1], uint16[::1], uint8[::1], uint64[::1], int64[::1], int64,"
    " uint64[::1], uint16[::1], int64[:, ::1], uint64[:, ::1], uint64[:, ::1])"
)
def pack(
    signature: NDArray[np.uint64],
    score: NDArray[np.int32],
    location: NDArray[np.int32],
    read_group: NDArray[np.uint16],
    flags: NDArray[np.uint8],
    umi: NDArray[np.uint64],
    index: NDArray[np.int64],
    first_index: Any,
    library: NDArray[np.uint64],
    target: NDArray[np.uint16],
    free: NDArray[np.int64],
    pairs: NDArray[np.uint64],
    lone: NDArray[np.uint64],
) -> None:
    """Rows of the templates to the next free places of their partitions."""
    for i in range(U(len(target))):
        if target[i] == _NONE:
            continue
        kind, partition = target[i] >> 8, target[i] & 255
        row = U(free[kind, partition])
        free[kind, partition] += 1
        number = U(index[i]) if len(index) > 0 else U(first_index) + i
        word2 = number << U(24) | U(flags[i]) << U(16) | U(read_group[i])
        word3 = U(0)
        for k in range(3):
            word3 = (word3 | U(np.int64(location[i, k]) + 32768)) << U(16)
        upper = signature[i, 1] & _END if kind == PAIR else U(0)
        if signature[i, 1] == _ABSENT_MATE:
            word2 |= _MARKER
        out = pairs if kind == PAIR else lone
        out[row, 0] = library[read_group[i]] << U(48) | (signature[i, 0] & _END)
        out[row, 1] = U(np.int64(score[i]) + 32768) << U(48) | upper
        if word2 & _MARKER:
            out[row, 1] = U(1)
        out[row, 2] = word2
        out[row, 3] = word3
        if out.shape[1] > 4:
            out[row, 4] = umi[i]


@kernel("void(uint64[:, ::1], uint64, int64, int64[::1])")
def count_rows(rows: NDArray[np.uint64], upper: Any, shift: Any, counts: NDArray[np.int64]) -> None:
    """Rows by the bits of their hash from `shift` on, of which len(counts), a power of two, are told apart.

    upper: UPPER for pairs, 0 for lone reads.
    """
    mask = U(len(counts) - 1)
    for i in range(U(len(rows))):
        counts[(_mix(rows[i, 0], rows[i, 1] & upper) >> U(shift)) & mask] += 1


@kernel("void(uint64[:, ::1], uint64, int64, int64[::1], uint64[:, ::1])")
def move_rows(
    rows: NDArray[np.uint64], upper: Any, shift: Any, free: NDArray[np.int64], out: NDArray[np.uint64]
) -> None:
    """Rows to the next free places for those bits."""
    mask = U(len(free) - 1)
    for i in range(U(len(rows))):
        k = (_mix(rows[i, 0], rows[i, 1] & upper) >> U(shift)) & mask
        for w in range(rows.shape[1]):
            out[U(free[k]), w] = rows[i, w]
        free[k] += 1


@kernel("void(uint64[:, ::1], uint64[::1], int64)")
def enter_ends(rows: NDArray[np.uint64], bitmap: NDArray[np.uint64], bits: Any) -> None:
    """Ends of lone reads; the top bits of the hash are the partition, whose words no other thread touches."""
    for i in range(U(len(rows))):
        h = _mix(rows[i, 0], U(0)) >> U(64 - bits)
        bitmap[h >> U(6)] |= U(1) << (h & U(63))


@inline
def _rank(rows: NDArray[np.uint64], i: Any) -> Any:
    """Tile, x, y as ties are broken by them."""
    return _NOWHERE if rows[i, 2] & _OTHER_NAME else rows[i, 3] >> U(16)


@inline
def _is_better(rows: NDArray[np.uint64], i: Any, j: Any) -> Any:
    """Whether row i stays rather than row j: score, then tile, x, y, then the order of the input."""
    one, two = rows[i, 1] >> U(48), rows[j, 1] >> U(48)
    rank_one, rank_two = _rank(rows, i), _rank(rows, j)
    return one > two or (
        one == two and (rank_one < rank_two or (rank_one == rank_two and rows[i, 2] >> U(24) < rows[j, 2] >> U(24)))
    )


@inline
def _follows(keys: NDArray[np.uint64], order: NDArray[np.int32], rows: NDArray[np.uint64], a: Any, b: Any) -> Any:
    """Whether entry a comes behind entry b: by key, then by number in the input."""
    one, two = rows[U(order[U(a)]), 2] >> U(24), rows[U(order[U(b)]), 2] >> U(24)
    return keys[U(a)] > keys[U(b)] or (keys[U(a)] == keys[U(b)] and one > two)


@callee
def _sift(keys: NDArray[np.uint64], order: NDArray[np.int32], rows: NDArray[np.uint64], top: Any, n: Any) -> None:
    """Heap sort's repair below `top`."""
    while 2 * top + 1 < n:
        child = 2 * top + 1
        if child + 1 < n and _follows(keys, order, rows, child + 1, child):
            child += 1
        if not _follows(keys, order, rows, child, top):
            return
        keys[U(top)], keys[U(child)] = keys[U(child)], keys[U(top)]
        order[U(top)], order[U(child)] = order[U(child)], order[U(top)]
        top = child


@callee
def _sort(keys: NDArray[np.uint64], order: NDArray[np.int32], rows: NDArray[np.uint64], n: Any) -> None:
    for top in range((n - 2) // 2, -1, -1):
        _sift(keys, order, rows, top, n)
    for end in range(n - 1, 0, -1):
        keys[0], keys[U(end)] = keys[U(end)], keys[0]
        order[0], order[U(end)] = order[U(end)], order[0]
        _sift(keys, order, rows, 0, end)


@callee
def _root(parent: NDArray[np.int32], i: Any) -> Any:
    while parent[U(i)] != i:
        parent[U(i)] = parent[U(parent[U(i)])]
        i = np.int64(parent[U(i)])
    return i


@callee
def _optical(
    rows: NDArray[np.uint64],
    members: NDArray[np.int32],
    n: Any,
    best: Any,
    distance: Any,
    largest_set: Any,
    order: NDArray[np.int32],
    keys: NDArray[np.uint64],
    parent: NDArray[np.int32],
    optical: NDArray[np.uint64],
) -> Any:
    """Optical duplicates of a group: of each cluster of close pairs, all but one, the pair that stays if it is there.

    Close: same read group and tile, x and y at most `distance` apart. Clusters are transitive. Pairs of opposite
    strands cluster apart from those whose mates have the strands exchanged. Without the pair that stays, a cluster
    keeps its first by x, y and the input. Returns how many there are.
    """
    first = U(members[0])
    crossed = (rows[first, 0] ^ rows[first, 1]) & U(1) != U(0)
    exchanged = np.int64(0)
    if crossed:
        for m in range(n):
            exchanged += np.int64(rows[U(members[U(m)]), 2] & _MATE1_REVERSE != U(0))
    placed = np.int64(0)
    for m in range(n):
        i = U(members[U(m)])
        side = U(crossed and rows[i, 2] & _MATE1_REVERSE != U(0))
        size = exchanged if side != U(0) else n - exchanged
        if rows[i, 3] >> U(48) == U(0x7FFF) or size > largest_set:
            continue
        place = (side << U(15) | (rows[i, 2] & U(0x7FFF))) << U(48) | (rows[i, 3] >> U(16))
        keys[U(placed)] = place
        order[U(placed)] = np.int32(i)
        placed += 1
    if placed < 2:
        return np.int64(0)
    _sort(keys, order, rows, placed)
    for s in range(placed):
        parent[U(s)] = np.int32(s)
        x, y = np.int64((keys[U(s)] >> U(16)) & U(0xFFFF)), np.int64(keys[U(s)] & U(0xFFFF))
        for t in range(s - 1, -1, -1):
            if keys[U(t)] >> U(32) != keys[U(s)] >> U(32):
                break
            if x - np.int64((keys[U(t)] >> U(16)) & U(0xFFFF)) > distance:
                break
            if abs(y - np.int64(keys[U(t)] & U(0xFFFF))) <= distance:
                one, two = _root(parent, t), _root(parent, s)
                parent[U(max(one, two))] = np.int32(min(one, two))
    kept = np.int64(-1)
    for s in range(placed):
        if order[U(s)] == best:
            kept = _root(parent, s)
    found = np.int64(0)
    for s in range(placed):
        i = order[U(s)]
        root = _root(parent, s)
        if i != best and (root != s or root == kept):
            found += 1
            _set_bit(optical, np.int64(rows[U(i), 2] >> U(24)))
    return found


@inline
def _slot(rows: NDArray[np.uint64], i: Any, second: Any, by_umi: Any) -> Any:
    """Hash for the table within a partition."""
    return _mix(_mix(rows[i, 0], second), rows[i, 4] if by_umi else U(0))


@inline
def _emit_markers(
    rows: NDArray[np.uint64],
    i: Any,
    weight: Any,
    bitmap: NDArray[np.uint64],
    bits: Any,
    markers: NDArray[np.uint64],
    n: Any,
) -> Any:
    """Markers for those ends of pair i that lone reads may have; returns their number with the earlier ones."""
    for m in range(2):
        key = rows[i, 0] if m == 0 else (rows[i, 0] & ~_END) | (rows[i, 1] & _END)
        h = _mix(key, U(0)) >> U(64 - bits)
        if (bitmap[h >> U(6)] >> (h & U(63))) & U(1) != U(0):
            markers[U(n), 0] = key
            markers[U(n), 1] = U(weight)
            markers[U(n), 2] = _MARKER
            markers[U(n), 3] = U(0)
            if rows.shape[1] > 4:
                markers[U(n), 4] = rows[i, 4]
            n += 1
    return n


@kernel(
    "void(uint64[:, ::1], int64[::1], boolean, int64, int64, uint64[::1], int64, int32[::1], int32[:, ::1],"
    " uint64[::1], uint64[::1], uint64[::1], int64[:, ::1], int64[:, ::1], int64[::1], uint64[:, ::1], int64[::1])"
)
def resolve_pairs(
    rows: NDArray[np.uint64],
    bounds: NDArray[np.int64],
    by_umi: Any,
    distance: Any,
    largest_set: Any,
    bitmap: NDArray[np.uint64],
    bits: Any,
    heads: NDArray[np.int32],
    work: NDArray[np.int32],
    keys: NDArray[np.uint64],
    duplicate: NDArray[np.uint64],
    optical: NDArray[np.uint64],
    counts: NDArray[np.int64],
    small: NDArray[np.int64],
    large: NDArray[np.int64],
    markers: NDArray[np.uint64],
    found: NDArray[np.int64],
) -> None:
    """Duplicates among the pairs of some partitions.

    heads, work [4, n], keys [n]: room to work in. counts: see PAIR_DUPLICATES. small: groups of so many pairs, so many
    of them optical duplicates, below SMALL; large: pairs << 32 | optical duplicates of each of the others. markers: for
    ends that `bitmap` (2^bits bits; bits 0: none) has. found: large groups, markers.
    """
    following, members, order, parent = work[0], work[1], work[2], work[3]
    for k in range(len(bounds) - 1):
        begin, end = bounds[k], bounds[k + 1]
        size = np.int64(16)
        while size < 2 * (end - begin):
            size *= 2
        mask = U(size - 1)
        for s in range(U(size)):
            heads[s] = np.int32(-1)
        for i in range(U(begin), U(end)):
            slot = _slot(rows, i, rows[i, 1] & _END, by_umi) & mask
            while heads[slot] >= 0:
                j = U(heads[slot])
                same = rows[i, 0] == rows[j, 0] and (rows[i, 1] ^ rows[j, 1]) & _END == U(0)
                if same and (not by_umi or rows[i, 4] == rows[j, 4]):
                    break
                slot = (slot + U(1)) & mask
            following[i] = heads[slot]
            heads[slot] = np.int32(i)
        for s in range(U(size)):
            if heads[s] < 0:
                continue
            n = 0
            best = np.int64(heads[s])
            member = best
            while member >= 0:
                members[U(n)] = np.int32(member)
                n += 1
                if _is_better(rows, U(member), U(best)):
                    best = member
                member = np.int64(following[U(member)])
            if bits > 0:
                found[1] = _emit_markers(rows, U(best), n, bitmap, bits, markers, found[1])
            if n == 1:
                small[1, 0] += 1
                continue
            close = np.int64(0)
            if distance >= 0:
                close = _optical(rows, members, n, best, distance, largest_set, order, keys, parent, optical)
            for m in range(n):
                if members[U(m)] != best:
                    _set_bit(duplicate, np.int64(rows[U(members[U(m)]), 2] >> U(24)))
            library = rows[U(best), 0] >> U(48)
            counts[library, PAIR_DUPLICATES] += n - 1
            counts[library, OPTICAL_PAIRS] += close
            if n < SMALL:
                small[n, close] += 1
            else:
                large[U(found[0])] = np.int64(n) << 32 | close
                found[0] += 1


@kernel("void(uint64[:, ::1], int64[::1], boolean, int32[::1], uint64[::1], int64[:, ::1])")
def resolve_lone(
    rows: NDArray[np.uint64],
    bounds: NDArray[np.int64],
    by_umi: Any,
    heads: NDArray[np.int32],
    duplicate: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> None:
    """Lone reads are duplicates of a marker's pairs, else of the best of them. heads: room to work in."""
    for k in range(len(bounds) - 1):
        begin, end = bounds[k], bounds[k + 1]
        size = np.int64(16)
        while size < 2 * (end - begin):
            size *= 2
        mask = U(size - 1)
        for s in range(U(size)):
            heads[s] = np.int32(-1)
        for turn in range(2):  # the markers first
            for i in range(U(begin), U(end)):
                if (rows[i, 2] & _MARKER != U(0)) != (turn == 0):
                    continue
                slot = _slot(rows, i, U(0), by_umi) & mask
                while heads[slot] >= 0:
                    j = U(heads[slot])
                    if rows[i, 0] == rows[j, 0] and (not by_umi or rows[i, 4] == rows[j, 4]):
                        break
                    slot = (slot + U(1)) & mask
                if turn == 0 or heads[slot] < 0:
                    heads[slot] = np.int32(i)
                    continue
                worse = U(i)
                other = U(heads[slot])
                if rows[other, 2] & _MARKER == U(0) and _is_better(rows, i, other):
                    worse = other
                    heads[slot] = np.int32(i)
                _set_bit(duplicate, np.int64(rows[worse, 2] >> U(24)))
                half = rows[worse, 2] & _HALF_PAIR != U(0)
                counts[rows[i, 0] >> U(48), HALF_DUPLICATES if half else LONE_DUPLICATES] += 1
