# SPDX-License-Identifier: Apache-2.0
"""The kernel that counts bases and mismatches by covariate.

What is counted, and how, follows GATK 4's BaseRecalibrator:

- Reads: mapped, MAPQ neither 0 nor 255, not secondary, not duplicate, not failed by the vendor's checks, with
  qualities and a CIGAR without N that fits the sequence. Supplementary alignments are counted.
- Of a read, what reaches into the adapter (beyond the mate's unclipped start, told from TLEN and the mate's place) is
  cut off, then the soft clips. Cycles and contexts are counted in what is left.
- Bases that are not A, C, G or T, bases of a low quality and bases at known sites are left out. A known site in a
  deletion masks the bases on its sides, one that spans an insertion masks the inserted bases.
- Inserted bases are observations without error. A base over N of the reference is an error.

CIGARs are first brought to GATK's normal form: neighbours of one kind are joined, deletions stand before insertions,
those at the ends are dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import U, load_i32, load_u16, load_u32
from megabolt.compute.jit import callee, inline, kernel

#: Room for the bases of one read, and for the operations of its CIGAR.
LONGEST_READ = 1 << 16
#: Longest contexts, qualities: see options.py; repeated here because kernels may not take constants of other files.
_QUALITIES, _CONTEXTS, _NO_CONTEXT = 94, 17, 16

_MATCH, _INSERTION, _DELETION = 0, 1, 2
_GOOD, _ERROR, _SKIPPED = 0, 1, 2
_UNWANTED = 0x704  # unmapped, secondary, failed, duplicate
#: codes 0..4 of the 16 nibbles of a BAM sequence, 4 bits each
_CODES = 0x4444444344424104

#: Fields of the scratch array `box`: the read's kept bases [_LO, _HI), the place of the first aligned one, and the
#: reference bases under the whole alignment.
_LO, _HI, _START, _SPAN = range(4)


@inline
def _base(data: Any, sequence: Any, r: Any) -> Any:
    """Code of base r of the packed sequence that begins at a byte."""
    pair = U(data[U(sequence + (r >> 1))])
    nibble = (pair >> U((~r & 1) << 2)) & U(15)
    return np.uint8((U(_CODES) >> (nibble << U(2))) & U(7))


@callee
def _normalise(data: Any, cigar: Any, n: Any, length: Any, ops: Any, lens: Any, box: Any) -> Any:
    """The CIGAR without clips, in normal form, in ops and lens; returns how many operations, or -1 for none.

    box: the bases that are not clipped. -1: has N, clips in the middle, no base, or does not fit the sequence.
    """
    m = 0
    left, inside, right = np.int64(0), np.int64(0), np.int64(0)
    section = 0  # before, in and behind the aligned part
    for k in range(n):
        word = np.int64(load_u32(data, cigar + 4 * k))
        op, size = word & 15, word >> 4
        if size == 0 or op == 6:
            continue
        if op == 4 or op == 5:
            if section == 1:
                section = 2
            if op == 4 and section == 0:
                left += size
            elif op == 4:
                right += size
            continue
        if op == 3 or op > 8:
            return -1
        if op == 2 and (section == 0 or (m == 1 and ops[0] == _INSERTION)):
            continue
        if section == 2:
            return -1
        section = 1
        if op == 2:
            at = m
            if ops[U(m - 1)] == _INSERTION:  # the deletion goes before it
                at = m - 1
            if ops[U(at - 1)] == _DELETION:
                lens[U(at - 1)] += size
                continue
            if at < m:
                ops[U(m)], lens[U(m)] = ops[U(at)], lens[U(at)]
            ops[U(at)], lens[U(at)] = _DELETION, size
            m += 1
            continue
        kind = np.int64(_INSERTION if op == 1 else _MATCH)
        inside += size
        if m > 0 and ops[U(m - 1)] == kind:
            lens[U(m - 1)] += size
        else:
            ops[U(m)], lens[U(m)] = kind, size
            m += 1
    if inside == 0 or left + inside + right != length:
        return -1
    box[_LO], box[_HI], box[_SPAN] = left, left + inside, 0
    last = _without_last_deletion(ops, lens, 0, m)
    for k in range(last):
        if ops[U(k)] != _INSERTION:
            box[_SPAN] += lens[U(k)]
    return last


@callee
def _without_last_deletion(ops: Any, lens: Any, first: Any, last: Any) -> Any:
    """Drops a deletion that ends the read, or stands before the insertion that does; returns the new end."""
    if last > first and ops[U(last - 1)] == _DELETION:
        last -= 1
    elif last - first >= 2 and ops[U(last - 1)] == _INSERTION and ops[U(last - 2)] == _DELETION:
        ops[U(last - 2)], lens[U(last - 2)] = _INSERTION, lens[U(last - 1)]
        last -= 1
    return last


@callee
def _cut_left(ops: Any, lens: Any, first: Any, last: Any, box: Any, cut: Any) -> Any:
    """Takes the read's bases before `cut` away; returns the new first operation."""
    k = first
    while k < last:
        size = lens[U(k)]
        if ops[U(k)] != _DELETION:
            if box[_LO] >= cut:
                break
            size = min(size, cut - box[_LO])
            box[_LO] += size
        if ops[U(k)] != _INSERTION:
            box[_START] += size
        lens[U(k)] -= size
        if lens[U(k)] > 0:
            break
        k += 1
    if k + 1 < last and ops[U(k)] == _INSERTION and ops[U(k + 1)] == _DELETION:
        ops[U(k + 1)], lens[U(k + 1)] = _INSERTION, lens[U(k)]  # GATK leaves the place where it was
        k += 1
    return k


@callee
def _cut_right(ops: Any, lens: Any, first: Any, last: Any, box: Any, cut: Any) -> Any:
    """Takes the read's bases from `cut` on away; returns the new end of the operations."""
    while last > first:
        k = last - 1
        if ops[U(k)] != _DELETION:
            excess = box[_HI] - cut
            if excess <= 0:
                break
            size = min(excess, lens[U(k)])
            box[_HI] -= size
            lens[U(k)] -= size
            if lens[U(k)] > 0:
                break
        last -= 1
    return _without_last_deletion(ops, lens, first, last)


@callee
def _cut_adapter(data: Any, at: Any, flag: Any, ops: Any, lens: Any, last: Any, box: Any) -> Any:
    """Takes away what lies beyond the fragment; returns (first, last) operation, equal if nothing is left."""
    first = 0
    size = np.int64(load_i32(data, at + 32))
    mate = np.int64(load_i32(data, at + 28))
    reverse = flag & 0x10 != 0
    if size == 0 or flag & 0x9 != 1 or load_i32(data, at + 24) < 0 or mate < 0 or reverse == (flag & 0x20 != 0):
        return first, last
    start = box[_START]
    end = start + box[_SPAN] - 1
    if reverse:
        known = end > mate
        boundary = mate - 1
    else:
        known = start <= mate + size
        boundary = start + abs(size)
    if not known or boundary < start or boundary > end:
        return first, last
    r, p, k = box[_LO], start, 0
    while ops[U(k)] == _INSERTION or p + lens[U(k)] <= boundary:
        if ops[U(k)] != _DELETION:
            r += lens[U(k)]
        if ops[U(k)] != _INSERTION:
            p += lens[U(k)]
        k += 1
    if ops[U(k)] == _MATCH:
        r += boundary - p
        if reverse:
            r += 1
    if reverse:
        return _cut_left(ops, lens, first, last, box, r), last
    return first, _cut_right(ops, lens, first, last, box, r)


@inline
def _is_site(words: Any, bit: Any) -> Any:
    return (words[U(bit >> 6)] >> U(bit & 63)) & U(1) != U(0)


@callee
def _is_joined(joined: Any, place: Any) -> Any:
    """Whether one site covers a place and the next: whether place lies in a row (start, stop) of `joined`."""
    low, high = np.int64(0), np.int64(joined.shape[0])
    while low < high:
        middle = (low + high) >> 1
        if joined[U(middle), 1] <= place:
            low = middle + 1
        else:
            high = middle
    return low < joined.shape[0] and joined[U(low), 0] <= place


@callee
def _judge(
    data: Any, at: Any, sequence: Any, quality: Any, ops: Any, lens: Any, first: Any, last: Any, box: Any,
    reference: Any, shift: Any, sites: Any, bit: Any, joined: Any, preserve_below: Any, codes: Any, state: Any,
) -> Any:  # fmt: skip
    """Base code and verdict of each kept base: good, error or skipped.

    shift, bit: what is added to a place of the contig to get its index in `reference`, and its bit and its place in
    `sites` and `joined`.
    """
    r, p = box[_LO], box[_START]
    pending = np.int64(-1)  # the base behind a deletion that holds a known site
    for k in range(first, last):
        size = lens[U(k)]
        if ops[U(k)] == _DELETION:
            for t in range(p, p + size):
                if _is_site(sites, bit + t):
                    pending = r
                    state[U(r - 1)] = _SKIPPED
                    break
            p += size
            continue
        inserted = ops[U(k)] == _INSERTION
        masked = inserted and _is_joined(joined, bit + p - 1)
        watched = False  # whether a known site may be near
        if not inserted:
            for word in range((bit + p) >> 6, ((bit + p + size - 1) >> 6) + 1):
                watched = watched or sites[U(word)] != U(0)
        for t in range(r, r + size):
            code = _base(data, sequence, t)
            codes[U(t)] = code
            q = data[U(quality + t)]
            verdict = np.uint8(_GOOD)
            if not inserted:
                masked = watched and _is_site(sites, bit + p)
                if reference[U(shift + p)] != code:
                    verdict = np.uint8(_ERROR)
                p += 1
            if masked or code > 3 or q < preserve_below or q >= _QUALITIES:
                verdict = np.uint8(_SKIPPED)
            state[U(t)] = verdict
        if pending >= 0:
            state[U(pending)] = _SKIPPED
            pending = np.int64(-1)
        r += size


@callee
def _tally(
    data: Any, quality: Any, flag: Any, row: Any, box: Any, tail: Any, max_cycle: Any, codes: Any, state: Any,
    by_cycle: Any, cycle_errors: Any, by_context: Any, context_errors: Any,
) -> Any:  # fmt: skip
    """Adds a read's bases to the tables; returns how many."""
    low, high = box[_LO], box[_HI]
    clean_low, clean_high = low, high  # without the tails of low quality
    while clean_high > low and data[U(quality + clean_high - 1)] <= tail:
        clean_high -= 1
    while clean_low < clean_high and data[U(quality + clean_low)] <= tail:
        clean_low += 1
    reverse = flag & 0x10 != 0
    step = np.int64(1) if reverse else np.int64(-1)  # to the base sequenced before
    flip = np.int64(3) if reverse else np.int64(0)
    sign = np.int64(-1) if flag & 0x81 == 0x81 else np.int64(1)
    counted = 0
    for r in range(low, high):
        if state[U(r)] == _SKIPPED:
            continue
        counted += 1
        cell = row * _QUALITIES + np.int64(data[U(quality + r)])
        cycle = sign * (high - r) if reverse else sign * (r - low + 1)
        context = np.int64(_NO_CONTEXT)
        before = r + step
        if clean_low <= before < clean_high and codes[U(before)] < 4:
            context = ((np.int64(codes[U(before)]) ^ flip) << 2) | (np.int64(codes[U(r)]) ^ flip)
        i = cell * (2 * max_cycle + 1) + max_cycle + cycle
        j = cell * _CONTEXTS + context
        by_cycle[U(i)] += 1
        by_context[U(j)] += 1
        if state[U(r)] == _ERROR:
            cycle_errors[U(i)] += 1
            context_errors[U(j)] += 1
    return counted


@kernel(
    "int64(uint8[::1], int64[::1], int32[::1], uint8[::1], int64[::1], int64[::1], uint64[::1], int64[::1],"
    " int64[:, ::1], int64, int64, int64, int64[::1], float64[::1], int64[::1], float64[::1], int64[::1],"
    " Tuple((int64[::1], int64[::1], uint8[::1], uint8[::1], int64[::1])))"
)
def count_records(
    data: Any, offsets: Any, rows: Any, reference: Any, shifts: Any, lengths: Any, sites: Any, bits: Any, joined: Any,
    preserve_below: Any, tail: Any, max_cycle: Any, by_cycle: Any, cycle_errors: Any, by_context: Any,
    context_errors: Any, totals: Any, scratch: Any,
) -> Any:  # fmt: skip
    """Count a block; returns -1, or the index of a record that is too long.

    rows: row of the table for each record, negative: not counted. reference: codes; shifts: see `_judge`, for each
    contig. lengths: of the contigs. sites, bits, joined: `known_sites.KnownSites`. Tables: flat, [row, quality, cycle
    + max_cycle] and [row, quality, context]. totals: reads and bases are added. scratch: `new_scratch()`.
    """
    ops, lens, codes, state, box = scratch
    for i in range(len(offsets) - 1):
        at = offsets[U(i)]
        flag = np.int64(load_u16(data, at + 18))
        mapq = data[U(at + 13)]
        contig, start = np.int64(load_i32(data, at + 4)), np.int64(load_i32(data, at + 8))
        row = np.int64(rows[U(i)])
        if row < 0 or flag & _UNWANTED != 0 or mapq == 0 or mapq == 255 or contig < 0 or start < 0:
            continue
        n, length = np.int64(load_u16(data, at + 16)), np.int64(load_i32(data, at + 20))
        if n == 0 or length <= 0:
            continue
        if length > LONGEST_READ:
            return i
        cigar = at + 36 + np.int64(data[U(at + 12)])
        sequence = cigar + 4 * n
        quality = sequence + (length + 1) // 2
        if data[U(quality)] == 255:
            continue
        last = np.int64(_normalise(data, cigar, n, length, ops, lens, box))
        if last <= 0 or start + box[_SPAN] > lengths[U(contig)]:
            continue
        box[_START] = start
        first, last = _cut_adapter(data, at, flag, ops, lens, last, box)
        if first >= last:
            continue
        if box[_HI] - box[_LO] > max_cycle:
            return i
        _judge(
            data, at, sequence, quality, ops, lens, first, last, box, reference, shifts[U(contig)], sites,
            bits[U(contig)], joined, preserve_below, codes, state,
        )  # fmt: skip
        counted = _tally(
            data, quality, flag, row, box, tail, max_cycle, codes, state, by_cycle, cycle_errors, by_context,
            context_errors,
        )  # fmt: skip
        totals[0] += 1
        totals[1] += counted
    return -1


def new_scratch() -> tuple[NDArray[Any], ...]:
    """What `count_records` works in; one for each thread."""
    n = LONGEST_READ + 1
    operations = np.empty(n, np.int64), np.empty(n, np.int64)
    return *operations, np.empty(n, np.uint8), np.empty(n, np.uint8), np.empty(_SPAN + 1, np.int64)


@kernel("void(uint8[::1], int64[::1], int64[::1], int64[::1])")
def find_extents(data: Any, offsets: Any, low: Any, high: Any) -> Any:
    """The part [low, high) of each contig that mapped records of a block lie on; untouched where there are none."""
    for i in range(len(offsets) - 1):
        at = offsets[U(i)]
        contig, start = np.int64(load_i32(data, at + 4)), np.int64(load_i32(data, at + 8))
        if contig < 0 or start < 0 or load_u16(data, at + 18) & _UNWANTED != 0:
            continue
        cigar = at + 36 + np.int64(data[U(at + 12)])
        stop = start
        for k in range(np.int64(load_u16(data, at + 16))):
            word = np.int64(load_u32(data, cigar + 4 * k))
            if (0x18D >> (word & 15)) & 1 != 0:  # M D N = X
                stop += word >> 4
        low[U(contig)] = min(low[U(contig)], start)
        high[U(contig)] = max(high[U(contig)], stop)
