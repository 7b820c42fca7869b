# SPDX-License-Identifier: Apache-2.0
"""Reads as 2-bit words with quality classes, and the seeds of reads and of the reference.

In: `PairBatch`. Out: `PackedReads`. Next: `align/fast.py`.

Seeds are windows of SEED bases whose core, the inner CORE bases, is a closed syncmer (Edgar 2021): the smallest
hashed inner word of INNER bases stands at one of the core's ends. The rule looks at nothing outside the core, so a
read and its place in the reference choose the same seeds, on either strand: inner words are taken in canonical form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from megabolt.align.packed import READS_TYPE, PackedReads
from megabolt.align.table import CORE, FLANK, INNER, SEED, SEED_MASK, mix, oriented_hash
from megabolt.align.verify import code_of_ascii
from megabolt.compute.bits import (
    U,
    bases_at,
    equal_mask64,
    load_u64,
    pack8,
    reverse_bases,
    trailing_zeros,
)
from megabolt.compute.jit import callee, kernel

#: Inner words per core.
_SPAN = CORE - INNER + 1
#: Reference bases handled at once when seeds are collected: four uint32 arrays of it fit the L1 cache.
_BLOCK = 2048

_TEXT, _FIELDS = types.uint8[::1], types.int64[:, ::1]


@callee
def _syncmer_flags(codes: Any, n: Any, scratch: Any, stride: Any, flags: Any) -> Any:
    """flags[i] = 1 where a seed starts at codes[i] (2-bit codes, one a byte); returns the number of starts looked at.

    codes, flags and the rows of the scratch have room for 64 more than n, in which anything may be and is left.

    Inner words are grown by doubling, and so is the reach of their minima: every loop is a plain vector loop, from
    some rows of the scratch into others (in place, the compiler would have to fear an overlap).
    """
    whole = (n + 31) & ~31  # a loop's odd end would go number by number; what lies behind the last start is not used
    row1, row2 = scratch[0:stride], scratch[stride : 2 * stride]
    row3, row4 = scratch[2 * stride : 3 * stride], scratch[3 * stride : 4 * stride]
    one = codes[1:]
    for i in range(whole):
        row1[i] = np.uint32(codes[i]) | (np.uint32(one[i]) << np.uint32(2))
        row2[i] = (np.uint32(3 - codes[i]) << np.uint32(2)) | np.uint32(3 - one[i])
    ahead2, behind2 = row1[2:], row2[2:]
    for i in range(whole):
        row3[i] = row1[i] | (ahead2[i] << np.uint32(4))
    for i in range(whole):
        row4[i] = (row2[i] << np.uint32(4)) | behind2[i]
    ahead4, behind4 = row3[4:], row4[4:]
    for i in range(whole):
        row1[i] = row3[i] | (ahead4[i] << np.uint32(8))
    for i in range(whole):
        row2[i] = (row4[i] << np.uint32(8)) | behind4[i]
    # Two words of eight, four bases apart: they overlap in four, which agree.
    ahead8, behind8 = row1[INNER - 8 :], row2[INNER - 8 :]
    hashed, lowest = row3, row1
    for i in range(whole):
        # Each cast keeps Numba from widening to 64 bits, for which there is no vector instruction.
        ahead = np.uint32(row1[i] | (ahead8[i] << np.uint32(2 * INNER - 16)))
        behind = np.uint32((row2[i] << np.uint32(2 * INNER - 16)) | behind8[i])
        x = np.uint32(min(ahead, behind) * np.uint32(0x9E3779B1))
        y = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x85EBCA77))
        hashed[i] = y ^ (y >> np.uint32(13))
    later = hashed[1:]
    for i in range(whole):
        row1[i] = min(hashed[i], later[i])
    later = row1[2:]
    for i in range(whole):
        row2[i] = min(row1[i], later[i])
    later = row2[4:]
    for i in range(whole):
        lowest[i] = min(row2[i], later[i])
    n_starts = n - SEED + 1
    lowest8 = lowest[FLANK:]
    first = hashed[FLANK:]
    last = hashed[FLANK + _SPAN - 1 :]
    for i in range(whole):
        low = min(lowest8[i], last[i])
        flags[i] = np.uint8((low == first[i]) | (low == last[i]))
    return n_starts


@kernel(types.void(_TEXT, _TEXT, _FIELDS, _FIELDS, types.int64, types.boolean, READS_TYPE))
def pack_reads(
    text1: NDArray[np.uint8],
    text2: NDArray[np.uint8],
    fields1: NDArray[np.int64],
    fields2: NDArray[np.int64],
    n_pairs: int,
    again: bool,
    reads: PackedReads,
) -> None:
    """Fill a `PackedReads` from the text of a `PairBatch` (reads of at most 512 bases).

    again: only pairs with hidden bases are packed, without these; otherwise nothing is hidden.
    """
    forward, reverse = reads.forward, reads.reverse
    class_forward, class_reverse = reads.class_forward, reads.class_reverse
    codes, words, slots = reads.codes, reads.words, reads.slots
    classes = np.zeros(1024, np.uint8)
    flags = np.zeros(1024, np.uint8)
    for r in range(2 * n_pairs):
        text = text2 if r & 1 else text1
        fields = fields2 if r & 1 else fields1
        pair = r >> 1
        if not again:
            reads.hidden[r] = 0
        elif reads.hidden[r] == 0 and reads.hidden[r ^ 1] == 0:
            continue
        sequence, quality, length = fields[pair, 2], fields[pair, 3], fields[pair, 4] - reads.hidden[r]
        reads.length[r] = length
        if r & 1 == 0:
            h = U(0)
            start, n_name = fields[pair, 0], fields[pair, 1]
            for i in range(0, n_name, 8):
                word = load_u64(text, start + i)
                if n_name - i < 8:
                    word &= (U(1) << U(8 * (n_name - i))) - U(1)
                h = mix(h ^ word)
            reads.name_hash[pair] = h
        for t in range(0, length, 32):
            letters, phred33 = text[sequence + t : sequence + t + 32], text[quality + t : quality + t + 32]
            these_codes, these_classes = codes[t : t + 32], classes[t : t + 32]
            for i in range(32):
                letter = letters[i]
                these_codes[i] = code_of_ascii(letter)
                upper = letter & np.uint8(0xDF)
                known = (upper == 65) | (upper == 67) | (upper == 71) | (upper == 84)
                q = phred33[i]
                worse = np.uint8(q < 63) + np.uint8(q < 53) + np.uint8(q < 43)
                these_classes[i] = worse if known else np.uint8(3)
        n_words = (length + 31) >> 5
        offset = r * words
        for w in range(n_words):
            x = U(0)
            c = U(0)
            for b in range(4):
                x |= pack8(load_u64(codes, w * 32 + b * 8)) << U(16 * b)
                c |= pack8(load_u64(classes, w * 32 + b * 8)) << U(16 * b)
            if w == n_words - 1 and length & 31 != 0:  # what lies behind the read's end
                inside = (U(1) << U(2 * (length & 31))) - U(1)
                x &= inside
                c &= inside
            forward[U(offset + w)] = x
            class_forward[U(offset + w)] = c
        # The reverse complement of whole words puts the filler first: shift it out.
        shift = U(2 * (n_words * 32 - length))
        if n_words > 0:
            here = reverse_bases(~forward[U(offset + n_words - 1)])
            here_class = reverse_bases(class_forward[U(offset + n_words - 1)])
            for w in range(n_words - 1):
                from_ = U(offset + n_words - 2 - w)
                after = reverse_bases(~forward[from_])
                after_class = reverse_bases(class_forward[from_])
                reverse[U(offset + w)] = (here >> shift) | ((after << U(1)) << (U(63) - shift))
                class_reverse[U(offset + w)] = (here_class >> shift) | ((after_class << U(1)) << (U(63) - shift))
                here, here_class = after, after_class
            reverse[U(offset + n_words - 1)] = here >> shift
            class_reverse[U(offset + n_words - 1)] = here_class >> shift
        for w in range(n_words, words):
            forward[U(offset + w)] = U(0)
            reverse[U(offset + w)] = U(0)
            class_forward[U(offset + w)] = U(0)
            class_reverse[U(offset + w)] = U(0)
        found = 0
        if length >= SEED:
            n_starts = _syncmer_flags(codes, length, reads.scratch, 1024, flags)
            for base in range(0, n_starts, 64):
                marks = equal_mask64(flags, base, np.uint8(1))
                if n_starts - base < 64:
                    marks &= (U(1) << U(n_starts - base)) - U(1)
                while marks != U(0):
                    if found < slots:
                        reads.seeds[U(r * slots + found)] = np.int32(base + trailing_zeros(marks))
                        found += 1
                    marks &= marks - U(1)
        reads.n_seeds[r] = found


@kernel("int64(uint64[::1], int64, int64, uint64[::1], uint64[::1])")
def collect_reference_seeds(
    reference: NDArray[np.uint64],
    start: int,
    stop: int,
    hashes: NDArray[np.uint64],
    places: NDArray[np.uint64],
) -> int:
    """Seeds of reference[start:stop] (a stretch without N): hash and position << 1 | strand of each.

    strand is 1 where the reverse complement has the lower key. Returns their number; the arrays must have
    room for one seed a base.
    """
    stride = _BLOCK + 128
    scratch = np.zeros(4 * stride, np.uint32)
    codes = np.zeros(_BLOCK + 256, np.uint8)
    flags = np.zeros(_BLOCK + 256, np.uint8)
    found = 0
    position = start
    while position + SEED <= stop:
        n = min(_BLOCK, stop - position)
        for i in range(0, n, 32):
            word = bases_at(reference, position + i)
            part = codes[i : i + 32]
            for b in range(32):
                part[b] = np.uint8((word >> U(2 * b)) & U(3))
        n_starts = _syncmer_flags(codes, n, scratch, stride, flags)
        for base in range(0, n_starts, 64):
            marks = equal_mask64(flags, base, np.uint8(1))
            if n_starts - base < 64:
                marks &= (U(1) << U(n_starts - base)) - U(1)
            while marks != U(0):
                here = position + base + trailing_zeros(marks)
                marks &= marks - U(1)
                ahead = bases_at(reference, here) & SEED_MASK
                behind = reverse_bases(~ahead) >> U(64 - 2 * SEED)
                hashes[U(found)], strand = oriented_hash(ahead, behind)
                places[U(found)] = (U(here) << U(1)) | U(strand)
                found += 1
        position += n_starts
    return found
