# SPDX-License-Identifier: Apache-2.0
"""Depth of coverage of the regions of a block, as mosdepth and as CollectWgsMetrics count it.

In: the sorted records of regions and of their neighbourhood. Out: histograms of the depth, sums on targets, bases left
out. A region's places are counted by the block that owns it, whoever's records lie on them.

mosdepth (its default mode): records with a flag of 1796 (unmapped, secondary, failed, duplicate) do not count; deleted
and skipped places are not covered; where the mates of a proper pair overlap they count once.

CollectWgsMetrics: besides, MAPQ and base quality of 20 or more, mate mapped; N counts neither in reads nor in the
reference; of two good bases of one template on a place the second is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import U, load_i32, load_u16, load_u32, load_u64, popcount
from megabolt.compute.jit import callee, kernel
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fasta import Reference
from megabolt.metrics.around import RegionLike
from megabolt.metrics.buffers import Buffers
from megabolt.metrics.counts import Counts, add_histograms

#: Places compared between mates; longer overlaps count twice.
_LONGEST_OVERLAP = 1 << 16
#: Log2 of the places for which one bit says whether the reference has an N there.
_N_SHIFT = 8

Targets = Sequence[NDArray[np.int64]]
_buffers = Buffers()


def count_depth(
    block: RecordBlock,
    regions: Sequence[RegionLike],
    reference: Reference | None,
    targets: Targets | None,
    first_target: NDArray[np.int64],
    counts: Counts,
    *,
    wgs: bool,
) -> None:
    """Count the depth of each place of the regions.

    Parameters
    ----------
    block
        Sorted; all records that reach into the regions, and their mates if these overlap them.
    regions
        Pieces of different contigs, in order; all places of the genome are in one block's regions.
    targets
        Per contig int64 [n, 2]; None without.
    first_target
        int64 [contigs]: number of each contig's first target.
    wgs
        Whether to count the high-quality depth too.
    """
    if not regions:
        return
    table = np.zeros((len(regions), 4), np.int64)  # contig, start, stop, where its places begin
    at = 0
    for row, region in zip(table, regions):
        row[:] = region.contig, region.start, region.stop, at
        at += region.stop - region.start + 1
    covered = _buffers.zeros("covered", at, np.int32)
    good = _buffers.zeros("good", at if wgs else 1, np.int32)
    unknown = _unknown(reference, regions, table, at if wgs else 1)
    coarse = unknown.reshape(-1, 1 << _N_SHIFT).any(axis=1).view(np.uint8)
    heads = _buffers.take("heads", 1 << max(4, (block.n // 2).bit_length()), np.int32)
    heads.fill(-1)
    _add_depth(
        block.data, block.offsets, table, covered, good, unknown, coarse, wgs, heads,
        _buffers.take("nexts", block.n, np.int32), _buffers.take("marks", _LONGEST_OVERLAP, np.uint8),
        counts.wgs_excluded,
    )  # fmt: skip
    for place in table.tolist():
        _finish(place, covered, good, unknown, targets, first_target, counts, wgs)


def _unknown(
    reference: Reference | None, regions: Sequence[RegionLike], table: NDArray[np.int64], n: int
) -> NDArray[np.uint8]:
    """1 where the reference has no base: uint8, n rounded up to whole steps of the coarse view."""
    unknown = _buffers.zeros("unknown", ((n - 1) >> _N_SHIFT) + 1 << _N_SHIFT, np.uint8)
    if reference is not None and n > 1:
        for row, region in zip(table, regions):
            codes = reference.fetch(region.contig, region.start, region.stop)
            np.greater(codes, 3, out=unknown[row[3] : row[3] + len(codes)].view(np.bool_))
    return unknown


def _finish(
    row: list[int],
    covered: NDArray[np.int32],
    good: NDArray[np.int32],
    unknown: NDArray[np.uint8],
    targets: Targets | None,
    first_target: NDArray[np.int64],
    counts: Counts,
    wgs: bool,
) -> None:
    """Histograms of one region."""
    contig, start, stop, at = row
    n = stop - start
    places = covered[at : at + n]
    deepest = _accumulate(places)
    histogram = np.zeros(deepest + 1, np.int64)
    _histogram(places, histogram)
    counts.depth[contig] = add_histograms(counts.depth.get(contig), histogram)
    if wgs:
        counts.wgs_excluded[_CAPPED] += _capped(good[at : at + n], unknown[at : at + n], counts.wgs_depth)
    if targets is not None and counts.targets is not None:
        on_target = np.zeros(deepest + 1, np.int64)
        first = int(first_target[contig])
        _target_depth(places, start, targets[contig], counts.targets.depth_bases[first:], on_target)
        counts.target_depth[contig] = add_histograms(counts.target_depth.get(contig), on_target)


# --- kernels ---

_MAPQ, _DUPLICATE, _UNPAIRED, _BASEQ, _OVERLAP, _CAPPED, _ADAPTER = range(7)


@kernel("int64(int32[::1])")
def _accumulate(places: Any) -> Any:
    """Differences to depths, in place; returns the deepest."""
    depth = np.int32(0)
    deepest = np.int32(0)
    for i in range(len(places)):
        depth = np.int32(depth + places[U(i)])
        places[U(i)] = depth
        deepest = np.int32(max(deepest, depth))
    return np.int64(deepest)


@kernel("void(int32[::1], int64[::1])")
def _histogram(places: Any, histogram: Any) -> None:
    """Runs of one depth are counted at once: neighbours are mostly as deep."""
    if len(places) == 0:
        return
    depth = places[0]
    begin = np.int64(0)
    for i in range(1, len(places)):
        if places[U(i)] != depth:
            histogram[U(depth)] += i - begin
            begin = np.int64(i)
            depth = places[U(i)]
    histogram[U(depth)] += len(places) - begin


@kernel("int64(int32[::1], uint8[::1], int64[::1])")
def _capped(good: Any, unknown: Any, histogram: Any) -> Any:
    """Places of known reference by depth, up to the cap; returns the bases beyond it."""
    beyond = np.int64(0)
    cap = np.int64(len(histogram) - 1)
    for i in range(len(good)):
        if unknown[U(i)] == 0:
            depth = np.int64(good[U(i)])
            histogram[U(min(depth, cap))] += 1
            beyond += max(depth - cap, np.int64(0))
    return beyond


@kernel("void(int32[::1], int64, int64[:, ::1], int64[::1], int64[::1])")
def _target_depth(places: Any, start: Any, intervals: Any, bases: Any, histogram: Any) -> None:
    """Depths of the places of a region that are on target: summed by target, counted together."""
    stop = start + len(places)
    for t in range(len(intervals)):
        low = max(start, intervals[t, 0])
        high = min(stop, intervals[t, 1])
        for at in range(low, high):
            depth = np.int64(places[U(at - start)])
            bases[t] += depth
            histogram[U(depth)] += 1


@callee
def _clear(marks: Any, n: Any) -> None:
    for k in range(n):
        marks[U(k)] = 0


@callee
def _hash_name(data: Any, p: Any, length: Any) -> Any:
    """64 bits of a name of `length` bytes, its zero byte among them."""
    h = U(length)
    for k in range(0, length, 8):
        word = load_u64(data, p + k)
        if length - k < 8:
            word &= (U(1) << U(8 * (length - k))) - U(1)
        h = (h ^ word) * U(0x9E3779B97F4A7C15)
        h ^= h >> U(29)
    return h


@callee
def _same_name(data: Any, p: Any, q: Any) -> Any:
    """Whether two records have one name."""
    length = np.int64(data[U(p + 12)])
    if data[U(q + 12)] != length:
        return False
    same = True
    for k in range(length):
        same = same and data[U(p + 36 + k)] == data[U(q + 36 + k)]
    return same


@callee
def _end_of(data: Any, p: Any) -> Any:
    """Where a record's alignment ends."""
    stop = np.int64(load_i32(data, p + 8))
    cigar = p + 36 + np.int64(data[U(p + 12)])
    for k in range(np.int64(load_u16(data, p + 16))):
        word = np.int64(load_u32(data, cigar + 4 * k))
        operation = word & 15
        if operation == 0 or operation == 2 or operation == 3 or operation >= 7:
            stop += word >> 4
    return stop


@callee
def _mark(data: Any, p: Any, low: Any, high: Any, only_good: Any, marks: Any) -> None:
    """marks[at - low] = 1 at aligned bases of a record inside [low, high): all, or those that count as good."""
    start = np.int64(load_i32(data, p + 8))
    cigar = p + 36 + np.int64(data[U(p + 12)])
    n_cigar = np.int64(load_u16(data, p + 16))
    length = np.int64(load_u32(data, p + 20))
    seq = cigar + 4 * n_cigar
    qual = seq + ((length + 1) >> 1)
    r = np.int64(0)
    for k in range(n_cigar):
        word = np.int64(load_u32(data, cigar + 4 * k))
        operation = word & 15
        count = word >> 4
        if operation == 0 or operation >= 7:
            for at in range(max(start, low), min(start + count, high)):
                base = r + at - start
                nibble = (data[U(seq + (base >> 1))] >> (np.uint8(0) if base & 1 else np.uint8(4))) & np.uint8(15)
                if not only_good or (20 <= data[U(qual + base)] < 255 and nibble != 15):
                    marks[U(at - low)] = 1
            start += count
            r += count
        elif operation == 1 or operation == 4:
            r += count
        elif operation == 2 or operation == 3:
            start += count


@callee
def _has_unknown(data: Any, seq: Any, length: Any) -> Any:
    """Whether a read has an N."""
    for k in range(0, length, 16):
        x = load_u64(data, seq + (k >> 1))
        if length - k < 16:
            left = length - k
            keep = (U(1) << U(4 * (left & ~1))) - U(1)
            if left & 1:
                keep |= U(0xF0) << U(4 * (left & ~1))
            x &= keep
        x = x & (x >> U(1))
        if x & (x >> U(2)) & U(0x1111111111111111) != U(0):
            return True
    return False


@callee
def _count_good(data: Any, p: Any, n: Any) -> Any:
    """Bytes of 20 or more among n from p on; all are below 128."""
    total = np.int64(0)
    for k in range(0, n, 8):
        y = (load_u64(data, p + k) + U(0x6C6C6C6C6C6C6C6C)) & U(0x8080808080808080)  # 108 is 128 - 20
        if n - k < 8:
            y &= (U(1) << U(8 * (n - k))) - U(1)
        total += popcount(y)
    return total


@callee
def _add_good(
    data: Any, p: Any, row: Any, good: Any, unknown: Any, coarse: Any, marks: Any, low: Any, high: Any, excluded: Any
) -> None:
    """High-quality depth of one record inside its region.

    marks: at places of [low, high), 1 where the mate's good base counts already.
    """
    region_start, region_stop, at_region = row[1], row[2], row[3]
    start = np.int64(load_i32(data, p + 8))
    cigar = p + 36 + np.int64(data[U(p + 12)])
    n_cigar = np.int64(load_u16(data, p + 16))
    length = np.int64(load_u32(data, p + 20))
    seq = cigar + 4 * n_cigar
    qual = seq + ((length + 1) >> 1)
    careful = _has_unknown(data, seq, length) or data[U(qual)] == 255  # 255: no qualities
    r = np.int64(0)
    for k in range(n_cigar):
        word = np.int64(load_u32(data, cigar + 4 * k))
        operation = word & 15
        count = word >> 4
        if operation == 0 or operation >= 7:
            first = max(start, region_start)
            last = min(start + count, region_stop)
            if first < last:
                place = at_region + first - region_start
                base = qual + r + first - start
                n = last - first
                plain = not careful and (first >= high or last <= low)
                for c in range(place >> _N_SHIFT, ((place + n - 1) >> _N_SHIFT) + 1):
                    if coarse[U(c)] != 0:
                        plain = False
                if plain:
                    depths = good[place : place + n]
                    qualities = data[base : base + n]
                    for j in range(n):
                        depths[j] += qualities[j] >= 20
                    excluded[_BASEQ] += n - _count_good(data, base, n)
                else:
                    for j in range(n):
                        if unknown[U(place + j)] != 0:
                            continue
                        i = r + first - start + j
                        nibble = (data[U(seq + (i >> 1))] >> (np.uint8(0) if i & 1 else np.uint8(4))) & np.uint8(15)
                        if data[U(base + j)] < 20 or nibble == 15 or data[U(base + j)] == 255:
                            excluded[_BASEQ] += 1
                        elif low <= first + j < high and marks[U(first + j - low)] != 0:
                            excluded[_OVERLAP] += 1
                        else:
                            good[U(place + j)] += 1
            start += count
            r += count
        elif operation == 1 or operation == 4:
            r += count
        elif operation == 2 or operation == 3:
            start += count


@callee
def _add_covered(data: Any, p: Any, row: Any, covered: Any) -> Any:
    """Ends of a record's aligned pieces inside its region; returns its aligned bases."""
    region_start, region_stop = row[1], row[2]
    shift = row[3] - region_start
    start = np.int64(load_i32(data, p + 8))
    cigar = p + 36 + np.int64(data[U(p + 12)])
    aligned = np.int64(0)
    for k in range(np.int64(load_u16(data, p + 16))):
        word = np.int64(load_u32(data, cigar + 4 * k))
        operation = word & 15
        count = word >> 4
        if operation == 0 or operation >= 7:
            first = max(start, region_start)
            last = min(start + count, region_stop)
            if first < last:
                covered[U(first + shift)] += 1
                covered[U(last + shift)] -= 1
            aligned += count
            start += count
        elif operation == 2 or operation == 3:
            start += count
    return aligned


@callee
def _uncover_twice(data: Any, p: Any, row: Any, covered: Any, marks: Any, low: Any, high: Any) -> None:
    """Take back the aligned bases of a record on places where its mate's are marked."""
    region_start, region_stop = row[1], row[2]
    shift = row[3] - region_start
    start = np.int64(load_i32(data, p + 8))
    cigar = p + 36 + np.int64(data[U(p + 12)])
    for k in range(np.int64(load_u16(data, p + 16))):
        word = np.int64(load_u32(data, cigar + 4 * k))
        operation = word & 15
        count = word >> 4
        if operation == 0 or operation >= 7:
            before = np.int32(0)
            last = min(start + count, region_stop, high)
            for at in range(max(start, region_start, low), last):
                now = np.int32(marks[U(at - low)])
                if now != before:
                    covered[U(at + shift)] += before - now
                    before = now
            if before != 0:
                covered[U(last + shift)] += 1
            start += count
        elif operation == 2 or operation == 3:
            start += count


@kernel(
    "void(uint8[::1], int64[::1], int64[:, ::1], int32[::1], int32[::1], uint8[::1], uint8[::1], boolean, int32[::1],"
    " int32[::1], uint8[::1], int64[::1])"
)
def _add_depth(
    data: Any, offsets: Any, table: Any, covered: Any, good: Any, unknown: Any, coarse: Any, wgs: Any, heads: Any,
    nexts: Any, marks: Any, excluded: Any,
) -> None:  # fmt: skip
    """Add the records to `covered` (differences) and `good` (depths).

    heads, nexts: a hash table of the records whose mate is to come and overlaps; by name.
    """
    region = np.int64(0)
    mask = np.int64(len(heads) - 1)
    for i in range(len(offsets) - 1):
        p = offsets[U(i)]
        contig = np.int64(load_i32(data, p + 4))
        while region + 1 < len(table) and table[region, 0] != contig:
            region += 1
        flag = np.int64(load_u16(data, p + 18))
        if contig < 0:
            return
        if table[region, 0] != contig or flag & 0x300 != 0:
            continue
        row = table[region]
        start = np.int64(load_i32(data, p + 8))
        own = row[1] <= start < row[2]
        if flag & 0x4 != 0:
            if wgs and own:  # an unmapped read may have a CIGAR; its MAPQ is 0
                excluded[_MAPQ] += _aligned_bases(data, p)
            continue
        mapq = data[U(p + 13)]
        aligned = np.int64(0)
        if flag & 0x400 == 0:
            aligned = _add_covered(data, p, row, covered)
        elif wgs and own:
            aligned = _aligned_bases(data, p)
        best = mapq >= 20 and flag & 0x409 == 0x1
        if wgs and own and not best:
            if mapq < 20:
                excluded[_MAPQ] += aligned
            elif flag & 0x400 != 0:
                excluded[_DUPLICATE] += aligned
            else:
                excluded[_UNPAIRED] += aligned
        if flag & 0x400 != 0:
            continue
        # does the mate overlap?
        low = np.int64(0)
        high = np.int64(0)
        if flag & 0x809 == 0x1 and np.int64(load_i32(data, p + 24)) == contig:
            mate_start = np.int64(load_i32(data, p + 28))
            stop = start
            if mate_start >= start:
                stop = _end_of(data, p)
            mate = np.int64(-1)
            name_bytes = np.int64(data[U(p + 12)])
            slot = np.int64(0)
            if mate_start <= start or stop > mate_start:
                slot = np.int64(_hash_name(data, p + 36, name_bytes) >> U(20)) & mask
            if mate_start <= start:
                j = np.int64(heads[U(slot)])
                while j >= 0:
                    if _same_name(data, offsets[U(j)], p):
                        mate = offsets[U(j)]
                        break
                    j = np.int64(nexts[U(j)])
            if mate < 0 and mate_start >= start and stop > mate_start:
                nexts[U(i)] = heads[U(slot)]
                heads[U(slot)] = i
            if mate >= 0:
                low = start
                high = min(_end_of(data, p), _end_of(data, mate), start + _LONGEST_OVERLAP)
                mate_flag = np.int64(load_u16(data, mate + 18))
                if low < high and flag & mate_flag & 0x2 != 0:
                    _clear(marks, high - low)
                    _mark(data, mate, low, high, False, marks)
                    _uncover_twice(data, p, row, covered, marks, low, high)
                if wgs and low < high and data[U(mate + 13)] >= 20 and mate_flag & 0x409 == 0x1:
                    _clear(marks, high - low)
                    _mark(data, mate, low, high, True, marks)
                else:
                    high = low
        if wgs and best:
            _add_good(data, p, row, good, unknown, coarse, marks, low, high, excluded)


@callee
def _aligned_bases(data: Any, p: Any) -> Any:
    """Bases of a record that are aligned to one of the reference."""
    cigar = p + 36 + np.int64(data[U(p + 12)])
    aligned = np.int64(0)
    for k in range(np.int64(load_u16(data, p + 16))):
        word = np.int64(load_u32(data, cigar + 4 * k))
        if word & 15 == 0 or word & 15 >= 7:
            aligned += word >> 4
    return aligned
