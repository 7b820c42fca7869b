# SPDX-License-Identifier: Apache-2.0
"""What a hybrid selection or a panel caught: CollectHsMetrics with the targets as baits.

In: the sorted records of regions and of their neighbourhood, targets. Out: `TargetCounts`, the histogram of the
high-quality depth on target. Records are counted by the block that they begin in, depth by the block that owns the
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import U, load_i32, load_u16, load_u32
from megabolt.compute.jit import callee, kernel
from megabolt.formats.bam_records import RecordBlock
from megabolt.metrics.around import RegionLike
from megabolt.metrics.buffers import Buffers
from megabolt.metrics.counts import Counts, add_histograms

#: A read so near to a target was caught by it: CollectHsMetrics' NEAR_DISTANCE.
NEAR = 250
_buffers = Buffers()


def count_enrichment(
    block: RecordBlock,
    regions: Sequence[RegionLike],
    targets: Sequence[NDArray[np.int64]],
    first_target: NDArray[np.int64],
    counts: Counts,
) -> None:
    """Count a block's records and the depth of its regions on target.

    Parameters
    ----------
    block, regions, targets, first_target
        As for `depth.count_depth`. Blocks without regions hold unplaced reads: all records count as own.
    """
    if counts.targets is None:
        return
    found = counts.targets
    for region in regions:
        intervals = targets[region.contig]
        first = int(first_target[region.contig])
        good = _buffers.zeros("good", region.stop - region.start + 1, np.int32)
        _count_records(
            block.data, block.offsets, region.contig, region.start, region.stop, intervals, good,
            found.reads[first:], found.enrichment,
        )  # fmt: skip
        deepest = int(good.max())
        histogram = np.zeros(deepest + 1, np.int64)
        _summarise(
            good, region.start, region.stop, intervals, found.bases[first:], found.lowest[first:],
            found.highest[first:], found.uncovered[first:], histogram,
        )  # fmt: skip
        counts.hs_depth = add_histograms(counts.hs_depth, histogram)
    if not regions:
        none = np.zeros((0, 2), np.int64)
        nothing = np.zeros(1, np.int64)
        _count_records(block.data, block.offsets, -1, -1, 0, none, np.zeros(2, np.int32), nothing, found.enrichment)


# --- kernels ---

(
    _TOTAL, _PF, _PF_BASES, _PF_UNIQUE, _UQ_ALIGNED, _ALIGNED_BASES, _UQ_BASES, _ON, _BESIDE, _OFF, _PAIRS,
    _UNIQUE_PAIRS, _DUPE, _ADAPTER, _MAPQ, _BASEQ, _OVERLAP, _HQ, _FROM_PAIRS,
) = range(19)  # fmt: skip


@callee
def _first_interval(intervals: Any, place: Any) -> Any:
    """The first interval that ends behind a place."""
    low = np.int64(0)
    high = np.int64(len(intervals))
    while low < high:
        middle = (low + high) >> 1
        if intervals[U(middle), 1] <= place:
            low = middle + 1
        else:
            high = middle
    return low


@callee
def _bases_to_clip(data: Any, p: Any, flag: Any, start: Any) -> Any:
    """Read bases from where the mate begins on, for the first of two ends; htsjdk clips those that overlap."""
    mate_start = np.int64(load_i32(data, p + 28))
    if flag & 0xD != 0x1 or mate_start < start or (mate_start == start and flag & 0x40 != 0):
        return np.int64(0)
    cigar = p + 36 + np.int64(data[U(p + 12)])
    at = start
    clip = np.int64(0)
    for k in range(np.int64(load_u16(data, p + 16))):
        word = np.int64(load_u32(data, cigar + 4 * k))
        operation = word & 15
        count = word >> 4
        if operation == 0 or operation >= 7:
            if mate_start < at + count:
                clip += min(count, at + count - mate_start)
            at += count
        elif operation == 1:
            if mate_start <= at - 1:
                clip += count
        elif operation == 2 or operation == 3:
            at += count
    return clip


@callee
def _add_bases(
    data: Any, p: Any, start: Any, r_stop: Any, region_start: Any, region_stop: Any, own: Any, of_pair: Any,
    intervals: Any, t: Any, good: Any, reads: Any, counted: Any,
) -> None:  # fmt: skip
    """Depth of a record's bases of quality 20 or more, up to read base r_stop; reads by target, from target t on."""
    cigar = p + 36 + np.int64(data[U(p + 12)])
    n_cigar = np.int64(load_u16(data, p + 16))
    length = np.int64(load_u32(data, p + 20))
    qual = cigar + 4 * n_cigar + ((length + 1) >> 1)
    at = start
    r = np.int64(0)
    last_counted = t - 1
    for k in range(n_cigar):
        word = np.int64(load_u32(data, cigar + 4 * k))
        operation = word & 15
        count = word >> 4
        if operation == 0 or operation >= 7:
            n = min(count, r_stop - r)
            n_good = np.int64(0)
            for j in range(n):
                n_good += 20 <= data[U(qual + r + j)] < 255
            if own and n > 0:
                counted[_HQ] += n_good
                counted[_BASEQ] += n - n_good
            while t < len(intervals) and intervals[U(t), 1] <= at:
                t += 1
            s = t
            while s < len(intervals) and intervals[U(s), 0] < at + n:
                low = max(at, intervals[U(s), 0])
                high = min(at + n, intervals[U(s), 1])
                n_good = np.int64(0)
                for place in range(low, high):
                    if 20 <= data[U(qual + r + place - at)] < 255:
                        n_good += 1
                        if region_start <= place < region_stop:
                            good[U(place - region_start)] += 1
                if own and of_pair:
                    counted[_FROM_PAIRS] += n_good
                if n_good > 0 and own and s > last_counted:
                    reads[U(s)] += 1
                    last_counted = s
                s += 1
            at += count
            r += count
        elif operation == 1 or operation == 4:
            r += count
        elif operation == 2 or operation == 3:
            at += count


@kernel("void(uint8[::1], int64[::1], int64, int64, int64, int64[:, ::1], int32[::1], int64[::1], int64[::1])")
def _count_records(
    data: Any, offsets: Any, contig: Any, region_start: Any, region_stop: Any, intervals: Any, good: Any, reads: Any,
    counted: Any,
) -> None:  # fmt: skip
    """Records of one region's contig."""
    for i in range(len(offsets) - 1):
        p = offsets[U(i)]
        if np.int64(load_i32(data, p + 4)) != contig:
            continue
        flag = np.int64(load_u16(data, p + 18))
        if flag & 0x100 != 0:
            continue
        start = np.int64(load_i32(data, p + 8))
        own = region_start <= start < region_stop
        mapped = flag & 0x4 == 0
        unique = flag & 0x400 == 0
        length = np.int64(load_u32(data, p + 20))
        if own and flag & 0x800 == 0:
            counted[_TOTAL] += 1
            if flag & 0x200 == 0:
                counted[_PF] += 1
                counted[_PF_BASES] += length
                counted[_PF_UNIQUE] += unique
                counted[_UQ_ALIGNED] += unique and mapped
        if flag & 0x204 != 0:
            continue
        # the alignment's end, its bases, those on target
        cigar = p + 36 + np.int64(data[U(p + 12)])
        n_cigar = np.int64(load_u16(data, p + 16))
        first = _first_interval(intervals, start)
        t = first
        at = start
        aligned = np.int64(0)
        on_target = np.int64(0)
        trailing = np.int64(0)
        for k in range(n_cigar):
            word = np.int64(load_u32(data, cigar + 4 * k))
            operation = word & 15
            count = word >> 4
            trailing = count if operation == 4 else np.int64(0)
            if operation == 0 or operation >= 7:
                aligned += count
                while t < len(intervals) and intervals[U(t), 1] <= at:
                    t += 1
                s = t
                while s < len(intervals) and intervals[U(s), 0] < at + count:
                    on_target += min(at + count, intervals[U(s), 1]) - max(at, intervals[U(s), 0])
                    s += 1
                at += count
            elif operation == 2 or operation == 3:
                at += count
        if own:
            near = first < len(intervals) and intervals[U(first), 0] < at + NEAR
            near = near or (first > 0 and intervals[U(first - 1), 1] + NEAR > start)
            counted[_ALIGNED_BASES] += aligned
            if unique:
                counted[_UQ_BASES] += aligned
            if near:
                counted[_ON] += on_target
                counted[_BESIDE] += aligned - on_target
                if flag & 0x849 == 0x41:
                    counted[_PAIRS] += 1
                    counted[_UNIQUE_PAIRS] += unique
            else:
                counted[_OFF] += aligned
        if not unique:
            if own:
                counted[_DUPE] += aligned
            continue
        if data[U(p + 13)] < 20:
            if own:
                counted[_MAPQ] += aligned
            continue
        clip = _bases_to_clip(data, p, flag, start)
        if own:
            counted[_OVERLAP] += clip
        r_stop = length
        if clip > 0:
            if np.int64(load_i32(data, p + 28)) <= start:
                continue
            r_stop = length - clip - trailing
        _add_bases(
            data,
            p,
            start,
            r_stop,
            region_start,
            region_stop,
            own,
            flag & 0x809 == 0x1,
            intervals,
            first,
            good,
            reads,
            counted,
        )


@kernel("void(int32[::1], int64, int64, int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1])")
def _summarise(
    good: Any, start: Any, stop: Any, intervals: Any, bases: Any, lowest: Any, highest: Any, uncovered: Any,
    histogram: Any,
) -> None:  # fmt: skip
    """Depth of each target's places inside [start, stop)."""
    for t in range(_first_interval(intervals, start), len(intervals)):
        if intervals[U(t), 0] >= stop:
            break
        for place in range(max(start, intervals[U(t), 0]), min(stop, intervals[U(t), 1])):
            depth = np.int64(good[U(place - start)])
            bases[U(t)] += depth
            lowest[U(t)] = min(lowest[U(t)], depth)
            highest[U(t)] = max(highest[U(t)], depth)
            uncovered[U(t)] += depth == 0
            histogram[U(depth)] += 1
