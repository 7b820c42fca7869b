# SPDX-License-Identifier: Apache-2.0
"""The lines of a gVCF as columns of numbers: one kernel, no object per line.

In: inflated text of one contig's lines. Out: `ScannedLines`. Next: `formats/gvcf.py`.

Only what joint calling reads is taken: POS, REF, ALT, END, and GT (its ploidy), AD, DP, MIN_DP, PL of the one sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import callee, kernel

#: Columns of `ScannedLines.table`.
START, STOP, DEPTH, PLOIDY, N_ALTS, AD_AT, N_AD, PL_AT, N_PL, LINE_AT, REF_AT, ALT_AT, ALT_STOP = range(13)
N_COLUMNS = 13
#: `state` of the kernel: where it stopped, number of lines, numbers in the pool, error, position of the last record,
#: whether it met a line behind the region or of another contig.
AT, N_LINES, N_POOL, FAULT, LAST, DONE = range(6)
#: Faults.
OK, TOO_FEW_COLUMNS, BAD_POSITION, UNSORTED, BAD_END, NO_NON_REF, BAD_NUMBER, NO_SAMPLE = range(8)
MORE_COLUMNS, BAD_REF, BAD_GENOTYPE = range(8, 11)
FAULTS = {
    TOO_FEW_COLUMNS: "fewer than ten columns",
    BAD_POSITION: "POS is no positive whole number",
    UNSORTED: "the records are not sorted by position",
    BAD_END: "END is no whole number, or lies before POS",
    NO_NON_REF: "no <NON_REF> among the alternative alleles: not a gVCF record",
    BAD_NUMBER: "a number in the sample's column cannot be read",
    NO_SAMPLE: "FORMAT and the sample's column do not fit together",
    MORE_COLUMNS: "more columns than the header has",
    BAD_REF: "REF is no sequence of bases",
    BAD_GENOTYPE: "GT is no genotype",
}


@dataclass(frozen=True)
class ScannedLines:
    """table: int64 [n, N_COLUMNS], positions 0-based half-open, -1 for a missing number; *_AT of AD and PL are places
    in `pool` (int32), LINE_AT, REF_AT, ALT_AT and ALT_STOP in the text. Reference blocks have N_ALTS = 0."""

    table: NDArray[np.int64]
    pool: NDArray[np.int32]


@callee
def _number(text: Any, at: Any, stop: Any) -> Any:
    """The whole number in text[at:stop]; -1 for '.', -2 if it is none. At most nine digits count."""
    if at >= stop:
        return -2
    if stop - at == 1 and text[at] == 46:
        return -1
    if stop - at > 10:
        return -2
    value = np.int64(0)
    for i in range(at, stop):
        digit = np.int64(text[i]) - 48
        if digit < 0 or digit > 9:
            return -2
        value = value * 10 + digit
    return value


@callee
def _find(text: Any, at: Any, stop: Any, byte: Any) -> Any:
    """The first place of a byte in text[at:stop], else `stop`."""
    while at < stop and text[at] != byte:
        at += 1
    return at


@callee
def _end_of_info(text: Any, at: Any, stop: Any) -> Any:
    """END of an INFO column; -1 if it has none, -2 if it is no number."""
    while at < stop:
        after = _find(text, at, stop, 59)
        if after - at > 4 and text[at] == 69 and text[at + 1] == 78 and text[at + 2] == 68 and text[at + 3] == 61:
            value = _number(text, at + 4, after)
            return value if value > 0 else np.int64(-2)
        at = after + 1
    return np.int64(-1)


@callee
def _is_unseen(text: Any, at: Any, stop: Any) -> Any:
    """Whether an allele is <NON_REF> or <*>."""
    n = stop - at
    if n == 3:
        return text[at] == 60 and text[at + 1] == 42 and text[at + 2] == 62
    # the second letter tells it from <DEL>, <INS>, <DUP>, <INV>, <CNV>, <BND>
    return n == 9 and text[at] == 60 and text[at + 1] == 78 and text[at + 4] == 95 and text[at + 8] == 62


@callee
def _numbers(text: Any, at: Any, stop: Any, pool: Any, n: Any) -> Any:
    """Append the numbers of a list; returns how many, -2 if one is none."""
    count = np.int64(0)
    while at <= stop:
        after = _find(text, at, stop, 44)
        value = _number(text, at, after)
        if value == -2:
            return np.int64(-2)
        pool[n + count] = value
        count += 1
        at = after + 1
    return count


@callee
def _ploidy(text: Any, at: Any, stop: Any) -> Any:
    """Copies in a genotype: allele numbers or '.', with '/' or '|' between; 0 if it is none."""
    copies, digits = np.int64(1), 0
    for i in range(at, stop):
        if text[i] == 47 or text[i] == 124:
            if digits == 0:
                return np.int64(0)
            copies, digits = copies + 1, 0
        elif text[i] == 46 or 48 <= text[i] <= 57:
            digits += 1
        else:
            return np.int64(0)
    return copies if digits > 0 else np.int64(0)


@callee
def _is_letters(text: Any, at: Any, stop: Any) -> Any:
    """Whether text[at:stop] is one ASCII letter or more."""
    for i in range(at, stop):
        letter = text[i] | 32
        if letter < 97 or letter > 122:
            return False
    return stop > at


@callee
def _sample(text: Any, format_at: Any, format_stop: Any, at: Any, stop: Any, row: Any, pool: Any, state: Any) -> Any:
    """Fill the row from FORMAT and the sample's column; returns a fault."""
    key_at, depth, least = format_at, np.int64(-1), np.int64(-1)
    while key_at < format_stop and at <= stop:
        key_stop = _find(text, key_at, format_stop, 58)
        after = _find(text, at, stop, 58)
        n, first, second = key_stop - key_at, text[key_at], text[min(key_at + 1, format_stop)]
        if n == 2 and first == 71 and second == 84:  # GT
            row[PLOIDY] = _ploidy(text, at, after)
            if row[PLOIDY] < 1:
                return BAD_GENOTYPE
        elif n == 2 and first == 68 and second == 80:  # DP
            depth = _number(text, at, after)
        elif n == 6 and first == 77 and second == 73:  # MIN_DP
            least = _number(text, at, after)
        elif n == 2 and ((first == 65 and second == 68) or (first == 80 and second == 76)):  # AD, PL
            if not (after - at == 1 and text[at] == 46):
                count = _numbers(text, at, after, pool, state[N_POOL])
                if count < 0:
                    return BAD_NUMBER
                which = AD_AT if first == 65 else PL_AT
                row[which], row[which + 1] = state[N_POOL], count
                state[N_POOL] += count
        if depth == -2 or least == -2:
            return BAD_NUMBER
        key_at, at = key_stop + 1, after + 1
    if at <= stop:
        return NO_SAMPLE
    row[DEPTH] = least if least >= 0 else depth
    return OK


@callee
def _line(text: Any, at: Any, stop: Any, row: Any, pool: Any, state: Any) -> Any:
    """One line into a row; returns a fault. Columns: CHROM POS ID REF ALT QUAL FILTER INFO FORMAT sample."""
    pos_at = _find(text, at, stop, 9) + 1
    pos_stop = _find(text, pos_at, stop, 9)
    position = _number(text, pos_at, pos_stop)
    if pos_stop >= stop:
        return TOO_FEW_COLUMNS
    if position < 1:
        return BAD_POSITION
    ref_at = _find(text, pos_stop + 1, stop, 9) + 1
    ref_stop = _find(text, ref_at, stop, 9)
    alt_at = ref_stop + 1
    alt_stop = _find(text, alt_at, stop, 9)
    filter_at = _find(text, alt_stop + 1, stop, 9) + 1
    info_at = _find(text, filter_at, stop, 9) + 1
    info_stop = _find(text, info_at, stop, 9)
    format_at = info_stop + 1
    format_stop = _find(text, format_at, stop, 9)
    if format_stop >= stop:
        return TOO_FEW_COLUMNS
    sample_stop = _find(text, format_stop + 1, stop, 9)
    if sample_stop < stop:
        return MORE_COLUMNS
    if not _is_letters(text, ref_at, ref_stop):
        return BAD_REF
    for k in range(N_COLUMNS):
        row[k] = -1
    row[START], row[STOP] = position - 1, position - 1 + ref_stop - ref_at
    row[LINE_AT], row[REF_AT], row[ALT_AT], row[ALT_STOP] = at, ref_at, alt_at, alt_stop
    n_alts, unseen, allele_at = np.int64(0), False, alt_at
    while allele_at < alt_stop:
        allele_stop = _find(text, allele_at, alt_stop, 44)
        unseen = unseen or _is_unseen(text, allele_at, allele_stop)
        n_alts += 1
        allele_at = allele_stop + 1
    if not unseen:
        return NO_NON_REF
    row[N_ALTS] = 0 if n_alts == 1 else n_alts
    if n_alts == 1:
        end = _end_of_info(text, info_at, info_stop)
        if end == -2 or (end >= 0 and end < position):
            return BAD_END
        if end >= 0:
            row[STOP] = end
    return _sample(text, format_at, format_stop, format_stop + 1, sample_stop, row, pool, state)


@kernel("void(uint8[::1], int64, uint8[::1], int64, int64[:, ::1], int32[::1], int64[::1])")
def scan_lines(text: Any, size: Any, contig: Any, limit: Any, table: Any, pool: Any, state: Any) -> None:
    """Scan whole lines of text[:size] until a line of another contig or one that begins at `limit` or behind.

    table, pool: room for all lines and numbers. state: int64 [6], see AT, N_LINES, ...; LAST carries the position of
    the last record from piece to piece.
    """
    at = state[AT]
    while at < size:
        stop = _find(text, at, size, 10)
        if stop >= size:
            break
        line_stop = stop - 1 if stop > at and text[stop - 1] == 13 else stop
        if line_stop == at or text[at] == 35:
            at = stop + 1
            continue
        name_stop = _find(text, at, line_stop, 9)
        same = name_stop - at == len(contig)
        if same:
            for i in range(len(contig)):
                same = same and text[at + i] == contig[i]
        if not same:
            state[DONE] = 1
            break
        row = table[state[N_LINES]]
        fault = _line(text, at, line_stop, row, pool, state)
        if fault == OK and row[START] < state[LAST]:
            fault = UNSORTED
        if fault != OK:
            state[FAULT] = fault
            break
        state[LAST] = row[START]
        if row[START] >= limit:
            state[DONE] = 1
            break
        state[N_LINES] += 1
        at = stop + 1
    state[AT] = at
