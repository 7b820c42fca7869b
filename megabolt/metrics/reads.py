# SPDX-License-Identifier: Apache-2.0
"""Counts over the records of a block, each record once: flagstat, alignment summary, insert sizes, qualities, GC.

In: packed records and the reference around them (`Stretches`). Out: `Counts`. The definitions are those of samtools
flagstat 1.16 and Picard 2.27; `metrics.files` lists the differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megabolt.compute.bits import U, load_i32, load_u16, load_u32, load_u64, popcount, trailing_zeros
from megabolt.compute.jit import callee, kernel
from megabolt.errors import InternalError
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fasta import Reference
from megabolt.metrics.adapters import ADAPTER_WORDS
from megabolt.metrics.around import BEHIND, WINDOW, RegionLike, no_stretches, stretches
from megabolt.metrics.counts import Counts
from megabolt.metrics.groups import GroupTable

_FAR_ROWS = 4096


def count_reads(
    block: RecordBlock,
    regions: Sequence[RegionLike],
    reference: Reference | None,
    groups: GroupTable,
    counts: Counts,
    *,
    gc_bias: bool = True,
) -> None:
    """Count the records of a block; each record must be in one block only.

    Parameters
    ----------
    regions
        Where the records begin, in their order; those elsewhere are counted without their mismatches.
    reference
        None: no mismatches and no GC.
    """
    windows = counts.gc_windows if gc_bias else None
    used = regions if reference is not None else ()
    around = stretches(reference, used, windows=windows) if reference is not None else no_stretches()
    window = WINDOW if gc_bias and reference is not None else 0
    far = np.zeros((_FAR_ROWS, 3), np.int64)
    state = np.zeros(2, np.int64)  # rows of `far`; bases that are missing behind a stretch
    begin, behind = 0, BEHIND
    while begin < block.n:
        begin = _count(
            block.data, block.offsets, begin, around.table, around.even, around.odd, around.gc,
            window, groups.names, groups.bounds, groups.slots, ADAPTER_WORDS,
            counts.flagstat, counts.summary, counts.lengths, counts.aligned_lengths, counts.mismatches,
            counts.bad_cycles, counts.quality, counts.no_calls, counts.inserts, counts.gc, counts.gc_totals,
            counts.contigs, far, state,
        )  # fmt: skip
        for group, orientation, size in far[: int(state[0])].tolist():
            key = (group, orientation, size)
            counts.far_inserts[key] = counts.far_inserts.get(key, 0) + 1
        state[0] = 0
        if state[1] > 0:  # a read that ends behind its stretch
            if reference is None:
                raise InternalError("a read behind a stretch of no reference")
            behind += int(state[1]) + BEHIND
            around = stretches(reference, used, behind)
            state[1] = 0


# --- kernels ---

#: Where the counters are, by their order in `counts.SUMMARY`.
_TOTAL, _PF, _ADAPTER, _ALIGNED, _BASES, _HQ_READS, _HQ_BASES, _HQ_Q20, _MISMATCHES, _HQ_MISMATCHES = range(10)
_INDELS, _IN_PAIRS, _IMPROPER, _FORWARD, _CHIMERAS, _CHIMERA_CANDIDATES, _SOFT, _HARD, _SOFT_3, _READS_3 = range(10, 20)
_UNCLIPPED, _MAPQ20, _DUPLICATES, _GAP_BASES = range(20, 24)

_NIBBLE_ONES = U(0x1111111111111111)
_BYTE_ONES = U(0x0101010101010101)
_BYTE_TOPS = U(0x8080808080808080)
_ALL = U(0xFFFFFFFFFFFFFFFF)
_LONGEST_CHIMERA_FREE = 100_000


@callee
def _find_tags(data: Any, p: Any, end: Any, found: Any) -> None:
    """found: start and length of RG's text (-1: none), MQ (-1: none), 1 with SA."""
    found[0], found[1], found[2], found[3] = -1, 0, -1, 0
    while p + 3 <= end:
        name = np.int64(load_u16(data, p))
        kind = data[U(p + 2)]
        p += 3
        if kind == 90 or kind == 72:  # Z, H: text up to a zero byte
            begin = p
            while True:
                word = load_u64(data, p)
                zero = (word - _BYTE_ONES) & ~word & _BYTE_TOPS
                if zero != 0:
                    p += trailing_zeros(zero) >> 3
                    break
                p += 8
                if p >= end:
                    break
            if name == 0x4752:
                found[0], found[1] = begin, min(p, end) - begin
            elif name == 0x4153:
                found[3] = 1
            p += 1
        elif kind == 66:  # B: element type, count, elements
            element = data[U(p)]
            size = 1
            if element == 115 or element == 83:
                size = 2
            elif element == 105 or element == 73 or element == 102:
                size = 4
            p += 5 + size * np.int64(load_u32(data, p + 1))
        else:
            size = 1  # A, c, C
            if kind == 115 or kind == 83:
                size = 2
            elif kind == 105 or kind == 73 or kind == 102:
                size = 4
            if name == 0x514D:
                found[2] = np.int64(load_u32(data, p)) & ((np.int64(1) << (8 * size)) - 1)
            p += size


@callee
def _group_of(data: Any, p: Any, length: Any, names: Any, bounds: Any, slots: Any) -> Any:
    """The read group of a name; the number of groups if it is none of them."""
    n = len(bounds) - 1
    if p < 0:
        return n
    h = U(0xCBF29CE484222325)
    for k in range(length):
        h = (h ^ U(data[U(p + k)])) * U(0x100000001B3)
    mask = np.int64(len(slots) - 1)
    at = np.int64(h >> U(20)) & mask
    while slots[U(at)] >= 0:
        group = slots[U(at)]
        if bounds[group + 1] - bounds[group] == length:
            same = True
            for k in range(length):
                if names[U(bounds[group] + k)] != data[U(p + k)]:
                    same = False
                    break
            if same:
                return group
        at = (at + 1) & mask
    return n


@callee
def _compare(
    data: Any, seq: Any, r: Any, even: Any, odd: Any, at: Any, p: Any, count: Any, bad: Any, length: Any, reverse: Any
) -> Any:
    """Mismatches between bases r.. of a read and base p.. of a stretch (packed at `at`); counts their cycles."""
    source = seq + (r >> 1)
    skip = r & 1  # the first byte's high nibble is not part of it
    same_phase = ((p ^ r) & 1) == 0
    target = at + (p >> 1) if same_phase else at + ((p + 1) >> 1)
    n = count + skip
    mismatches = np.int64(0)
    for k in range(0, n, 16):
        reference = load_u64(even, target + (k >> 1)) if same_phase else load_u64(odd, target + (k >> 1))
        x = load_u64(data, source + (k >> 1)) ^ reference
        if x != U(0):
            y = x | (x >> U(1))
            y = (y | (y >> U(2))) & _NIBBLE_ONES
            if k == 0 and skip == 1:
                y &= ~U(0xF0)
            left = n - k
            if left < 16:  # nibbles of a byte are swapped: an odd rest keeps a high one
                keep = (U(1) << U(4 * (left & ~1))) - U(1)
                if left & 1:
                    keep |= U(0xF0) << U(4 * (left & ~1))
                y &= keep
            while y != U(0):
                base = r - skip + k + ((trailing_zeros(y) >> 2) ^ 1)
                y &= y - U(1)
                mismatches += 1
                cycle = length - 1 - base if reverse else base
                bad[U(min(cycle, np.int64(len(bad) - 1)))] += 1
    return mismatches


@callee
def _count_q20(data: Any, p: Any, n: Any) -> Any:
    """Bytes of 20 or more among n from p on; all are below 128."""
    total = np.int64(0)
    for k in range(0, n, 8):
        y = (load_u64(data, p + k) + _BYTE_ONES * U(108)) & _BYTE_TOPS
        if n - k < 8:
            y &= (U(1) << U(8 * (n - k))) - U(1)
        total += popcount(y)
    return total


@callee
def _count_qualities(
    data: Any, seq: Any, qual: Any, length: Any, reverse: Any, aligned: Any, quality: Any, no_calls: Any, bad: Any
) -> None:
    """Bases by cycle and quality; N by quality, and by cycle where the read is not aligned."""
    top = np.int64(quality.shape[1] - 1)
    if data[U(qual)] != 255:  # 255: the record has no qualities
        n = min(length, np.int64(quality.shape[0]))
        if reverse:
            for j in range(n):
                q = min(np.int64(data[U(qual + length - 1 - j)]), top)
                quality[U(j), U(q)] += 1
        else:
            for j in range(n):
                q = min(np.int64(data[U(qual + j)]), top)
                quality[U(j), U(q)] += 1
    for k in range(0, length, 16):
        x = load_u64(data, seq + (k >> 1))
        y = x & (x >> U(1))
        y = y & (y >> U(2)) & _NIBBLE_ONES
        while y != U(0):
            base = k + ((trailing_zeros(y) >> 2) ^ 1)
            y &= y - U(1)
            if base < length:
                cycle = min(length - 1 - base if reverse else base, np.int64(len(bad) - 1))
                if data[U(qual)] != 255:
                    no_calls[U(min(np.int64(data[U(qual + base)]), top))] += 1
                if not aligned:
                    bad[U(cycle)] += 1


@callee
def _is_adapter(data: Any, seq: Any, length: Any, reverse: Any, words: Any) -> Any:
    """Whether the first 16 bases of a read, as sequenced, are an adapter's, but for one."""
    if length < 16:
        return False
    word = U(0)
    for i in range(16):
        base = length - 1 - i if reverse else i
        nibble = (data[U(seq + (base >> 1))] >> (np.uint8(0) if base & 1 else np.uint8(4))) & np.uint8(15)
        if reverse:  # complement: bits in reverse
            nibble = ((nibble & 1) << 3) | ((nibble & 2) << 1) | ((nibble & 4) >> 1) | ((nibble & 8) >> 3)
        word |= U(nibble) << U(4 * i)
    for k in range(len(words)):
        x = word ^ words[U(k)]
        x |= x >> U(1)
        x |= x >> U(2)
        if popcount(x & _NIBBLE_ONES) <= 1:
            return True
    return False


@callee
def _count_flags(flag: Any, contig: Any, mate_contig: Any, mapq: Any, row: Any) -> None:
    """One record of `samtools flagstat`."""
    mapped = flag & 0x4 == 0
    row[0] += 1
    if flag & 0x100 != 0:
        row[2] += 1
    elif flag & 0x800 != 0:
        row[3] += 1
    else:
        row[1] += 1
        row[5] += flag & 0x400 != 0
        row[7] += mapped
        if flag & 0x1 != 0:
            row[8] += 1
            row[9] += flag & 0x40 != 0
            row[10] += flag & 0x80 != 0
            row[11] += flag & 0x2 != 0 and mapped
            row[13] += flag & 0x8 != 0 and mapped
            if mapped and flag & 0x8 == 0:
                row[12] += 1
                row[14] += mate_contig != contig
                row[15] += mate_contig != contig and mapq >= 5
    row[4] += flag & 0x400 != 0
    row[6] += mapped


@callee
def _orientation(flag: Any, start: Any, stop: Any, mate_start: Any, template: Any) -> Any:
    """FR, RF or TANDEM (0, 1, 2) of a mapped pair, from one end; htsjdk's SamPairUtil."""
    reverse = flag & 0x10 != 0
    if reverse == (flag & 0x20 != 0):
        return 2
    if reverse:
        return 0 if mate_start < stop - 1 else 1
    return 0 if start < start + template else 1


@kernel(
    "int64(uint8[::1], int64[::1], int64, int64[:, ::1], uint8[::1], uint8[::1], int8[::1], int64, uint8[::1],"
    " int64[::1], int64[::1], uint64[::1], int64[:, :, ::1], int64[:, :, ::1], int64[:, :, ::1], int64[:, :, ::1],"
    " int64[:, :, ::1], int64[:, :, ::1], int64[:, :, :, ::1], int64[::1], int64[:, :, ::1], int64[:, :, ::1],"
    " int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[::1])"
)
def _count(
    data: Any, offsets: Any, begin: Any, table: Any, even: Any, odd: Any, gc_of: Any, gc_window: Any, names: Any,
    bounds: Any, slots: Any, adapters: Any, flagstat: Any, summary: Any, lengths: Any, aligned_lengths: Any,
    mismatch_histogram: Any, bad_cycles: Any, quality: Any, no_calls: Any, inserts: Any, gc: Any, gc_totals: Any,
    contigs: Any, far: Any, state: Any,
) -> Any:  # fmt: skip
    """Count records from `begin` on; returns where it stopped: at the end, with `far` full, or a stretch too short."""
    found = np.zeros(4, np.int64)
    unwanted = np.zeros(bad_cycles.shape[2], np.int64)
    longest = np.int64(lengths.shape[2] - 1)
    most_mismatches = np.int64(mismatch_histogram.shape[2] - 1)
    last_group = len(bounds) - 1
    region = np.int64(0)
    for i in range(begin, len(offsets) - 1):
        p = offsets[U(i)]
        end = offsets[U(i + 1)]
        contig = np.int64(load_i32(data, p + 4))
        start = np.int64(load_i32(data, p + 8))
        mapq = np.int64(data[U(p + 13)])
        n_cigar = np.int64(load_u16(data, p + 16))
        flag = np.int64(load_u16(data, p + 18))
        length = np.int64(load_u32(data, p + 20))
        mate_contig = np.int64(load_i32(data, p + 24))
        mate_start = np.int64(load_i32(data, p + 28))
        template = np.int64(load_i32(data, p + 32))
        cigar = p + 36 + np.int64(data[U(p + 12)])
        seq = cigar + 4 * n_cigar
        qual = seq + ((length + 1) >> 1)
        aligned = flag & 0x4 == 0
        reverse = flag & 0x10 != 0
        primary = flag & 0x900 == 0
        passed = flag & 0x200 == 0

        while region < len(table) and table[region, 0] != contig and region + 1 < len(table):
            region += 1
        have_reference = region < len(table) and table[region, 0] == contig and aligned
        origin = table[region, 1] if have_reference else np.int64(0)
        # where it ends, and what its CIGAR holds
        stop = start
        for k in range(n_cigar):
            word = np.int64(load_u32(data, cigar + 4 * k))
            operation = word & 15
            if operation == 0 or operation == 2 or operation == 3 or operation >= 7:
                stop += word >> 4
        if have_reference and (start < origin or stop > table[region, 2]):
            if start >= origin and stop <= table[region, 5]:
                state[1] = stop - table[region, 2]
                return i
            have_reference = False
        if state[0] == len(far):
            return i

        _find_tags(data, qual + length, end, found)
        group = np.int64(0)
        if last_group > 1:
            group = _group_of(data, found[0], found[1], names, bounds, slots)
        _count_flags(flag, contig, mate_contig, mapq, flagstat[group, 0 if passed else 1])
        contigs[contig if contig >= 0 else len(contigs) - 1, 0 if aligned else 1] += 1
        if not primary and gc_window == 0:
            continue
        side = np.int64(0)
        if flag & 0x1 != 0:
            side = np.int64(1) if flag & 0x40 != 0 else np.int64(2)
        row = summary[group, side]
        bad = bad_cycles[group, side] if primary else unwanted
        if primary:
            row[_TOTAL] += 1
            row[_MAPQ20] += aligned and mapq >= 20
            row[_DUPLICATES] += aligned and flag & 0x400 != 0
        if primary and length > 0:
            by_cycle = quality[group, 2 if flag & 0x81 == 0x81 else side]
            _count_qualities(data, seq, qual, length, reverse, aligned and passed, by_cycle, no_calls, bad)

        high = mapq >= 20
        mismatches = np.int64(0)
        gap_bases = np.int64(0)
        unclipped = np.int64(0)
        if aligned:
            bases = np.int64(0)
            hq20 = np.int64(0)
            indels = np.int64(0)
            soft = np.int64(0)
            hard = np.int64(0)
            inserted = np.int64(0)
            soft_left = np.int64(0)
            soft_right = np.int64(0)
            at = start
            r = np.int64(0)
            for k in range(n_cigar):
                word = np.int64(load_u32(data, cigar + 4 * k))
                operation = word & 15
                count = word >> 4
                if operation == 0 or operation >= 7:
                    if have_reference:
                        mismatches += _compare(
                            data, seq, r, even, odd, table[region, 3], at - origin, count, bad, length, reverse
                        )
                    if high and primary and data[U(qual)] != 255:
                        hq20 += _count_q20(data, qual + r, count)
                    bases += count
                    at += count
                    r += count
                elif operation == 1:
                    indels += 1
                    gap_bases += count
                    inserted += count
                    r += count
                elif operation == 2:
                    indels += 1
                    gap_bases += count
                    at += count
                elif operation == 3:
                    at += count
                elif operation == 4:
                    soft += count
                    r += count
                    if bases == 0:
                        soft_left += count
                    else:
                        soft_right += count
                elif operation == 5:
                    hard += count
            unclipped = bases + inserted
            if passed and primary:
                row[_BASES] += bases
                row[_MISMATCHES] += mismatches
                row[_INDELS] += indels
                row[_GAP_BASES] += gap_bases
                row[_SOFT] += soft
                row[_HARD] += hard
                row[_UNCLIPPED] += unclipped
                clipped = soft_left if reverse else soft_right
                row[_SOFT_3] += clipped
                row[_READS_3] += clipped > 0
                if high:
                    row[_HQ_READS] += 1
                    row[_HQ_BASES] += bases
                    row[_HQ_Q20] += hq20
                    row[_HQ_MISMATCHES] += mismatches
                    mismatch_histogram[group, side, min(mismatches, most_mismatches)] += 1
                row[_ALIGNED] += 1
                row[_FORWARD] += not reverse
                row[_IMPROPER] += flag & 0x3 == 0x1
                if flag & 0x9 == 0x1:
                    row[_IN_PAIRS] += 1
                    if found[2] < 0 or (found[2] >= 20 and high):
                        row[_CHIMERA_CANDIDATES] += 1
                        row[_CHIMERAS] += (
                            abs(template) > _LONGEST_CHIMERA_FREE
                            or contig != mate_contig
                            or _orientation(flag, start, stop, mate_start, template) != 0
                            or found[3] != 0
                        )
                elif high:
                    row[_CHIMERA_CANDIDATES] += 1
                    row[_CHIMERAS] += found[3] != 0
        elif primary:  # an unmapped read may have a CIGAR, which Picard reads
            for k in range(n_cigar):
                word = np.int64(load_u32(data, cigar + 4 * k))
                if word & 15 <= 1 or word & 15 >= 7:
                    unclipped += word >> 4
                elif word & 15 == 5 and passed:
                    row[_HARD] += word >> 4
            if passed:
                row[_UNCLIPPED] += unclipped
        if passed and primary:
            row[_PF] += 1
            lengths[group, side, min(length, longest)] += 1
            aligned_lengths[group, side, min(unclipped, longest)] += 1
            if (not aligned or mapq == 0) and _is_adapter(data, seq, length, aligned and reverse, adapters):
                row[_ADAPTER] += 1

        # insert sizes: from the second end of pairs on one contig
        if flag & 0xD4D == 0x1 and template != 0:
            size = abs(template)
            turned = _orientation(flag, start, stop, mate_start, template)
            if size < inserts.shape[2]:
                inserts[group, turned, U(size)] += 1
            else:
                row_of_far = state[0]
                far[row_of_far, 0], far[row_of_far, 1], far[row_of_far, 2] = group, turned, size
                state[0] += 1

        if gc_window > 0:
            gc_totals[group, 0] += flag & 0x1 == 0 or flag & 0x40 != 0
            gc_totals[group, 1] += aligned
            if have_reference:
                # Picard's own reckoning: the window of a forward read begins a base behind its first one
                window = stop - gc_window if reverse else start + 1
                if window > 0:
                    value = np.int64(0)
                    if window < table[region, 2]:
                        value = np.int64(gc_of[U(table[region, 4] + window - origin)])
                    if value >= 0:
                        gc[group, 0, value] += 1
                        gc[group, 1, value] += length
                        gc[group, 2, value] += mismatches + gap_bases
    return len(offsets) - 1
