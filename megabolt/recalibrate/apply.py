# SPDX-License-Identifier: Apache-2.0
"""Recalibrated qualities put into records.

In: `RecordBlock`s, a `Recalibration`. Out: the same blocks with other qualities, or, with original qualities kept,
blocks with the tag OQ. All records are changed, also unmapped ones and duplicates, as by GATK's ApplyBQSR; cycles and
contexts are those of the whole read, soft clips included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U, load_i32, load_u16, store_u32
from megabolt.compute.jit import callee, kernel
from megabolt.formats.bam_records import RecordBlock
from megabolt.recalibrate.counts import check_groups
from megabolt.recalibrate.options import N_CONTEXTS, N_QUALITIES, ApplyOptions
from megabolt.recalibrate.quantize import quantize, static_levels
from megabolt.recalibrate.read_groups import GroupMap
from megabolt.recalibrate.table import Recalibration

#: repeated from options.py: kernels may not take constants of other files
_QUALITIES = 94
#: Codes 0..3 of the 16 nibbles of a BAM sequence, 4 for what is no base; the same, complemented (7 for no base).
_CODES, _COMPLEMENTS = 0x4444444344424104, 0x7777777077717237
#: Contexts in the kernel's table: 8 * (base before) + base.
_PAIRS = 64
#: Added to the sum of two table entries to index the list of final qualities.
_ZERO = 256


class Applier:
    """Replaces qualities; may be used by several threads at once.

    Parameters
    ----------
    recalibration
        Fitted or read from a report.
    groups
        The read groups of the records.
    options
        Quantising and the like.

    Notes
    -----
    Records without a read group, and those of a group that the table has no bases of, stay as they are.
    """

    def __init__(self, recalibration: Recalibration, groups: GroupMap, options: ApplyOptions | None = None) -> None:
        self.groups = groups
        self.options = options or ApplyOptions()
        self._max_cycle = recalibration.counts.max_cycle
        self._cycle = np.ascontiguousarray(recalibration.cycle_quality, np.int8).reshape(-1)
        self._context = _context_shifts(recalibration)
        self._final = _final_qualities(recalibration, self.options)
        self._table_row = _table_rows(recalibration, groups)

    def apply(self, block: RecordBlock, rows: NDArray[np.int32] | None = None) -> None:
        """Replace the qualities of a block in place.

        rows: int32 [n], row of each record as of `GroupMap.rows_of`, which is asked when it is not given.

        Raises
        ------
        UsageError
            A record of a read group that the header lacks.
        """
        rows = rows if rows is not None else self.groups.rows_of(block)
        check_groups(rows, block)
        _apply(
            block.data, block.offsets, rows, self._table_row, self._cycle, self._context, self._final,
            self.options.preserve_below, self.options.low_quality_tail, self._max_cycle,
        )  # fmt: skip


def _context_shifts(recalibration: Recalibration) -> NDArray[np.int8]:
    """int8 [rows * 94 * _PAIRS]: what the context adds; nothing where a base is none."""
    shifts = np.zeros((*recalibration.base_quality.shape, 8, 8), np.int8)
    known = recalibration.context_quality[:, :, :N_CONTEXTS] - recalibration.base_quality[:, :, None]
    shifts[:, :, :4, :4] = known.reshape(*known.shape[:2], 4, 4)
    return shifts.reshape(-1)


def _table_rows(recalibration: Recalibration, groups: GroupMap) -> NDArray[np.int32]:
    """int32 [rows of the groups + 2]: row of the table or -1; the last two are for records without a group."""
    present = recalibration.counts.by_cycle.sum(axis=(1, 2)) > 0
    index = {name: row for row, name in enumerate(recalibration.names) if present[row]}
    return np.array([*(index.get(name, -1) for name in groups.names), -1, -1], np.int32)


def _final_qualities(recalibration: Recalibration, options: ApplyOptions) -> NDArray[np.uint8]:
    """uint8 [2 * _ZERO]: the quality to write for a sum of table entries, bounded and quantised."""
    chosen = np.arange(N_QUALITIES, dtype=np.uint8)
    if options.quantize_levels == recalibration.options.quantizing_levels:
        chosen = recalibration.quantized
    elif options.quantize_levels > 0:
        chosen = quantize(recalibration.histogram, options.quantize_levels)
    else:
        chosen[-1] = recalibration.quantized[-1]  # GATK leaves this one
    chosen = static_levels(options.static_levels, round_down=options.round_down)[chosen]
    return chosen[np.clip(np.arange(2 * _ZERO) - _ZERO, 1, N_QUALITIES - 1)].astype(np.uint8)


def keep_original_qualities(block: RecordBlock) -> RecordBlock:
    """A copy of the records with their qualities in the tag OQ, where a record has qualities and no such tag."""
    room = int(block.offsets[-1] - block.offsets[0])
    grown = np.empty(2 * room + 8 * block.n + PADDING, np.uint8)
    offsets = np.zeros(block.n + 1, np.int64)
    _keep_original(block.data, block.offsets, grown, offsets)
    grown[offsets[-1] : offsets[-1] + PADDING] = 0
    return RecordBlock(grown[: int(offsets[-1]) + PADDING], offsets)


# --- kernels ---


@callee
def _replace(
    data: Any, sequence: Any, quality: Any, length: Any, flag: Any, row: Any, cycles: Any, contexts: Any, final: Any,
    preserve_below: Any, tail: Any, max_cycle: Any,
) -> Any:  # fmt: skip
    """New qualities for one read; its tails of low quality stay and give no context."""
    high = length
    while high > 0 and data[U(quality + high - 1)] <= tail:
        high -= 1
    low = np.int64(0)
    while low < high and data[U(quality + low)] <= tail:
        low += 1
    sign = np.int64(-1) if flag & 0x81 == 0x81 else np.int64(1)
    step, codes, r, cycle = np.int64(1), U(_CODES), low, low + 1
    if flag & 0x10 != 0:
        step, codes, r, cycle = np.int64(-1), U(_COMPLEMENTS), high - 1, length - high + 1
    before = U(4)
    width = 2 * max_cycle + 1
    cycles_at = row * _QUALITIES * width + max_cycle
    contexts_at = row * _QUALITIES * _PAIRS
    for _ in range(high - low):
        pair = U(data[U(sequence + (r >> 1))])
        code = (codes >> (((pair >> U((~r & 1) << 2)) & U(15)) << U(2))) & U(7)
        q = np.int64(data[U(quality + r)])
        if q >= preserve_below and q < _QUALITIES:
            shift = np.int64(contexts[U(contexts_at + q * _PAIRS) + (before << U(3) | code)])
            own = sign * cycle if cycle <= max_cycle else np.int64(0)
            new = np.int64(cycles[U(cycles_at + q * width + own)])
            data[U(quality + r)] = final[U(new + shift + _ZERO)]
        before = code
        r += step
        cycle += 1


@kernel("void(uint8[::1], int64[::1], int32[::1], int32[::1], int8[::1], int8[::1], uint8[::1], int64, int64, int64)")
def _apply(
    data: Any, offsets: Any, rows: Any, table_row: Any, cycles: Any, contexts: Any, final: Any, preserve_below: Any,
    tail: Any, max_cycle: Any,
) -> Any:  # fmt: skip
    """New qualities for the records; cycle 0 has none of its own."""
    for i in range(len(offsets) - 1):
        at = offsets[U(i)]
        length = np.int64(load_i32(data, at + 20))
        row = np.int64(-1)
        if rows[U(i)] >= 0:
            row = np.int64(table_row[U(rows[U(i)])])
        if row < 0 or length <= 0:
            continue
        sequence = at + 36 + np.int64(data[U(at + 12)]) + 4 * np.int64(load_u16(data, at + 16))
        quality = sequence + (length + 1) // 2
        if data[U(quality)] == 255:
            continue
        _replace(
            data, sequence, quality, length, np.int64(load_u16(data, at + 18)), row, cycles, contexts, final,
            preserve_below, tail, max_cycle,
        )  # fmt: skip


@callee
def _has_tag(data: Any, place: Any, stop: Any, first: Any, second: Any) -> Any:
    """Whether the tags data[place:stop] hold one of that name."""
    while place + 3 < stop:
        if data[U(place)] == first and data[U(place + 1)] == second:
            return True
        kind = data[U(place + 2)]
        if kind == 90 or kind == 72:  # Z, H
            place += 3
            while place < stop and data[U(place)] != 0:
                place += 1
            place += 1
        elif kind == 66:  # B
            width = np.int64(4)
            if data[U(place + 3)] == 99 or data[U(place + 3)] == 67:
                width = np.int64(1)
            elif data[U(place + 3)] == 115 or data[U(place + 3)] == 83:
                width = np.int64(2)
            if place + 8 > stop:
                return False
            place += 8 + width * np.int64(load_i32(data, place + 4))
        elif kind == 65 or kind == 99 or kind == 67:  # A, c, C
            place += 4
        elif kind == 115 or kind == 83:  # s, S
            place += 5
        else:
            place += 7
    return False


@kernel("void(uint8[::1], int64[::1], uint8[::1], int64[::1])")
def _keep_original(data: Any, offsets: Any, out: Any, places: Any) -> Any:
    """Copy the records, each with OQ:Z behind its tags unless it has one."""
    p = np.int64(0)
    for i in range(len(offsets) - 1):
        at, stop = offsets[U(i)], offsets[U(i + 1)]
        start = p
        for k in range(at, stop):
            out[U(p)] = data[U(k)]
            p += 1
        length = np.int64(load_i32(data, at + 20))
        quality = at + 36 + np.int64(data[U(at + 12)]) + 4 * np.int64(load_u16(data, at + 16)) + (length + 1) // 2
        if length > 0 and data[U(quality)] != 255 and not _has_tag(data, quality + length, stop, 79, 81):
            out[U(p)], out[U(p + 1)], out[U(p + 2)] = 79, 81, 90
            p += 3
            for k in range(length):
                out[U(p)] = min(np.int64(data[U(quality + k)]), np.int64(93)) + 33
                p += 1
            out[U(p)] = 0
            p += 1
            store_u32(out, start, np.uint32(p - start - 4))
        places[U(i + 1)] = p
