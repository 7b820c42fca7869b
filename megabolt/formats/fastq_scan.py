# SPDX-License-Identifier: Apache-2.0
"""Kernels that find and check the records of FASTQ text, 64 bytes at a time.

In: raw text. Out: newline positions, then a table of fields. Next: `megabolt.formats.fastq` makes batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from megabolt.compute.bits import U, equal_mask64, load_u64, prefetch, raw_pointer, trailing_zeros
from megabolt.compute.jit import callee, inline, kernel

#: Columns of the field table.
NAME_START, NAME_LENGTH, SEQUENCE_START, QUALITY_START, LENGTH, UMI_START, UMI_LENGTH = range(7)
N_FIELDS = 7

#: What a file holds: unpaired reads, one mate of each pair, or both mates in turn.
UNPAIRED, MATE_1, MATE_2, IN_TURN = range(4)
#: Where the UMI (unique molecular identifier) of a read is: nowhere, in its name, in the comment behind it.
NO_UMI, UMI_IN_NAME, UMI_IN_COMMENT = range(3)

#: Longest name SAM can hold.
MAX_NAME = 254
#: Rows for whose names the cache is asked ahead: other threads have written them a while ago.
_AHEAD = 8
#: Longest read the aligner takes.
MAX_READ = 500
#: Longest UMI.
MAX_UMI = 254

#: What `parse_records` may find wrong (fault[0]); fault[1] is the record, fault[2] a detail.
NOT_AT, NOT_PLUS, LENGTHS_DIFFER, BAD_BASE, BAD_QUALITY, TOO_LONG = range(1, 7)
NO_NAME, LONG_NAME, BAD_NAME, OTHER_MATE, OUT_OF_TURN, BOTH_MATES = range(7, 13)
NONE_IN_NAME, NONE_IN_COMMENT, LONG_UMI = range(13, 16)

#: ASCII -> the letter that later stages see: A C G T, N for '.' and all other IUPAC codes; 0 for no base.
PLAIN_LETTER: NDArray[np.uint8] = np.zeros(256, np.uint8)
for _letter in b"URYSWKMBDHVXN":
    PLAIN_LETTER[[_letter, _letter + 32]] = ord("N")
for _letter in b"ACGT":
    PLAIN_LETTER[[_letter, _letter + 32]] = _letter
PLAIN_LETTER[ord(".")] = ord("N")

_LANES = ir.VectorType(ir.IntType(8), 64)


def _load_lanes(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.load(raw_pointer(context, builder, signature.args[0], args[0], args[1], _LANES), align=1)


def _constant(value: int) -> Any:
    return ir.Constant(_LANES, [value] * 64)


@intrinsic  # type: ignore[untyped-decorator]
def _not_acgtn(typing_context: Any, array: Any, byte_offset: Any) -> Any:
    """Bit i is set where byte `byte_offset + i` is none of the letters A C G T N."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _load_lanes(context, builder, signature, args)
        letter = builder.icmp_unsigned("==", block, _constant(ord("A")))
        for other in b"CGTN":
            letter = builder.or_(letter, builder.icmp_unsigned("==", block, _constant(other)))
        return builder.not_(builder.bitcast(letter, ir.IntType(64)))

    return types.uint64(array, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _not_printable(typing_context: Any, array: Any, byte_offset: Any) -> Any:
    """Bit i is set where byte `byte_offset + i` is not in '!'..'~' (Phred+33 and names)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _load_lanes(context, builder, signature, args)
        shifted = builder.sub(block, _constant(33))
        outside = builder.icmp_unsigned(">", shifted, _constant(126 - 33))
        return builder.bitcast(outside, ir.IntType(64))

    return types.uint64(array, types.int64), codegen


@inline
def _low_bits(n: Any) -> Any:
    """A mask of the lowest n bits, for n >= 0; all of them from 64 on."""
    return U(0xFFFFFFFFFFFFFFFF) if n >= 64 else (U(1) << U(n)) - U(1)


@inline
def _check_bases(text: Any, sequence: Any, length: Any, plain_letter: Any, fault: Any) -> Any:
    """True if all are bases, and those other than A C G T N replaced. Else fault[2] is one that is none."""
    sound = True
    done = np.int64(0)
    while done < length:
        other = _not_acgtn(text, sequence + done) & _low_bits(length - done)
        while other != U(0) and sound:
            at = U(sequence + done + trailing_zeros(other))
            letter = plain_letter[text[at]]
            if letter == 0:
                fault[2] = text[at]
                sound = False
            else:
                text[at] = letter
            other &= other - U(1)
        done += 64
    return sound


@inline
def _name_length(text: Any, name: Any, end: Any) -> Any:
    """Bytes before the first space or tab of text[name:end]."""
    done = np.int64(0)
    while name + done < end:
        blank = equal_mask64(text, name + done, np.uint8(32)) | equal_mask64(text, name + done, np.uint8(9))
        blank &= _low_bits(end - name - done)
        if blank != U(0):
            return done + trailing_zeros(blank)
        done += 64
    return end - name


@kernel("int64(uint8[::1], int64, int64, int64[::1], int64, int64)")
def find_newlines(text: Any, start: Any, stop: Any, newlines: Any, n: Any, enough: Any) -> Any:
    """Append the positions of the newlines in text[start:stop] to `newlines`, which holds n.

    Stops early once there are `enough`; `newlines` has room for `enough + 64`. Reads up to 63 bytes behind
    `stop`. Returns how many there are.
    """
    i = start
    while i < stop and n < enough:
        mask = equal_mask64(text, i, np.uint8(10)) & _low_bits(stop - i)
        while mask != U(0):
            newlines[n] = i + trailing_zeros(mask)
            n += 1
            mask &= mask - U(1)
        i += 64
    return n


@inline
def _is_umi_base(letter: Any) -> Any:
    """A C G T N."""
    return letter == 65 or letter == 67 or letter == 71 or letter == 84 or letter == 78


@callee
def _joins_umis(letter: Any) -> Any:
    """The signs between the UMIs of two ends: + - _."""
    return letter == 43 or letter == 45 or letter == 95


@callee
def _is_umi(text: Any, start: Any, stop: Any) -> Any:
    """Whether text[start:stop] is one UMI or several, joined."""
    if start >= stop or not _is_umi_base(text[U(start)]) or not _is_umi_base(text[U(stop - 1)]):
        return False
    sound = True
    for k in range(start, stop):
        sound = sound and (_is_umi_base(text[U(k)]) or _joins_umis(text[U(k)]))
    return sound


@callee
def _umi_of_name(text: Any, start: Any, stop: Any) -> Any:
    """Start and stop of the UMI that ends the name text[start:stop]; (0, 0) if there is none.

    It is all behind the last ':' if that is a UMI (a:ACGT, a:ACGT+TTGA, a:ACGT_TTGA), else all behind the last
    '_'. An old index ('#' and what follows) is not looked at.
    """
    for k in range(start, stop):
        if text[U(k)] == 35:  # '#'
            stop = k
            break
    field = stop
    while field > start and text[U(field - 1)] != 58:  # ':'
        field -= 1
    if field > start and _is_umi(text, field, stop):
        return field, stop
    lower = field
    field = stop
    while field > lower and text[U(field - 1)] != 95:  # '_'
        field -= 1
    if field > lower and _is_umi(text, field, stop):
        return field, stop
    return stop - stop, stop - stop


@callee
def _umi_of_comment(text: Any, start: Any, stop: Any) -> Any:
    """Start and stop of the UMI in the first word of text[start:stop] that begins with RX:Z: or UMI:; else (0, 0)."""
    word = start
    while word < stop:
        end = word
        while end < stop and text[U(end)] != 32 and text[U(end)] != 9:
            end += 1
        value = end
        if end - word >= 5 and text[U(word)] == 82 and text[U(word + 1)] == 88:  # "RX:Z:"
            if text[U(word + 2)] == 58 and text[U(word + 3)] == 90 and text[U(word + 4)] == 58:
                value = word + 5
        elif end - word >= 4 and text[U(word)] == 85 and text[U(word + 1)] == 77:  # "UMI:", maybe ":" and qualities
            if text[U(word + 2)] == 73 and text[U(word + 3)] == 58:
                value = word + 4
                for k in range(value, end):
                    if text[U(k)] == 58:
                        end = k
                        break
        if value < end:
            if _is_umi(text, value, end):
                return value, end
            break
        word = end + 1
    return stop - stop, stop - stop


@kernel(
    "int64(uint8[::1], int64, int64[::1], int64, int64, int64, uint8[::1], int64[:, ::1], int64[:, ::1],"
    " int64[::1], int64[::1])"
)
def parse_records(
    text: Any,
    start: Any,
    newlines: Any,
    n_records: Any,
    content: Any,
    umi: Any,
    plain_letter: Any,
    fields: Any,
    others: Any,
    seen_mate: Any,
    fault: Any,
) -> Any:
    """Fill the field table of n_records records that begin at text[start]; returns how many are sound.

    Letters of sequences other than A C G T N are replaced in the text by what `plain_letter` says. Names end
    at the first blank and before a final /1 or /2. At the first bad record `fault` = (what, record, detail).

    `content` says what the records are. MATE_1, MATE_2: record r fills row r of `fields`. IN_TURN: records 0,
    2, 4 ... fill the rows of `fields`, records 1, 3, 5 ... those of `others`. UNPAIRED: record r fills row r
    of `fields`, and of `others` as a mate without bases; `seen_mate`, one number, holds what the file's reads
    have said of themselves, 0 at first. `umi` says where the UMI of mate 1, or of an unpaired read, is; columns
    UMI_START and UMI_LENGTH are 0 for mate 2.
    """
    begin = start
    for r in range(n_records):
        end_name, end_sequence = newlines[4 * r], newlines[4 * r + 1]
        end_plus, end_quality = newlines[4 * r + 2], newlines[4 * r + 3]
        sequence, plus, quality = end_name + 1, end_sequence + 1, end_plus + 1
        length, n_qualities = end_sequence - sequence, end_quality - quality
        row = r
        mate = content
        if content == IN_TURN:
            row = r >> 1
            mate = 1 + (r & 1)
        fault[1] = r
        if text[U(begin)] != 64 or end_name == begin:  # '@'
            fault[0], fault[2] = NOT_AT, text[U(begin)]
            return r
        if text[U(plus)] != 43:  # '+'
            fault[0], fault[2] = NOT_PLUS, text[U(plus)]
            return r
        if text[U(end_name - 1)] == 13:  # CRLF
            end_name -= 1
        if length > 0 and text[U(end_sequence - 1)] == 13:
            length -= 1
        if n_qualities > 0 and text[U(end_quality - 1)] == 13:
            n_qualities -= 1
        if length != n_qualities:
            fault[0], fault[2] = LENGTHS_DIFFER, length
            return r
        if length > MAX_READ:
            fault[0], fault[2] = TOO_LONG, length
            return r
        if not _check_bases(text, sequence, length, plain_letter, fault):
            fault[0] = BAD_BASE
            return r
        bad = U(0)
        done = np.int64(0)
        while done < length and bad == U(0):
            bad = _not_printable(text, quality + done) & _low_bits(length - done)
            done += 64
        if bad != U(0):
            fault[0], fault[2] = BAD_QUALITY, text[U(quality + done - 64 + trailing_zeros(bad))]
            return r
        name = begin + 1
        name_length = _name_length(text, name, end_name)
        after = name + name_length
        found_mate = np.int64(0)
        if after + 4 < end_name and text[U(after + 2)] == 58 and text[U(after + 4)] == 58:  # " 1:N:"
            if text[U(after + 3)] == 78 or text[U(after + 3)] == 89:
                found_mate = np.int64(text[U(after + 1)]) - 48
        if name_length > 2 and text[U(after - 2)] == 47:  # "/1"
            digit = np.int64(text[U(after - 1)]) - 48
            if digit == 1 or digit == 2:
                found_mate = digit
                name_length -= 2
        if found_mate == 1 or found_mate == 2:
            if content == UNPAIRED:
                if seen_mate[0] == 0:
                    seen_mate[0] = found_mate
                mate = seen_mate[0]
            if found_mate != mate:
                fault[0], fault[2] = OTHER_MATE, found_mate
                if content == UNPAIRED:
                    fault[0] = BOTH_MATES
                elif content == IN_TURN:
                    fault[0] = OUT_OF_TURN
                return r
        if name_length == 0:
            fault[0], fault[2] = NO_NAME, 0
            return r
        if name_length > MAX_NAME:
            fault[0], fault[2] = LONG_NAME, name_length
            return r
        done = np.int64(0)
        while done < name_length:  # '@' is the one printable letter that SAM bars from names
            bad = _not_printable(text, name + done) | equal_mask64(text, name + done, np.uint8(64))
            bad &= _low_bits(name_length - done)
            if bad != U(0):
                fault[0], fault[2] = BAD_NAME, text[U(name + done + trailing_zeros(bad))]
                return r
            done += 64
        umi_start = np.int64(0)
        umi_stop = np.int64(0)
        if umi != NO_UMI and (content == UNPAIRED or mate == MATE_1):
            if umi == UMI_IN_NAME:
                umi_start, umi_stop = _umi_of_name(text, name, name + name_length)
                fault[0] = NONE_IN_NAME
            else:
                umi_start, umi_stop = _umi_of_comment(text, after, end_name)
                fault[0] = NONE_IN_COMMENT
            if umi_start == umi_stop:
                fault[2] = 0
                return r
            if umi_stop - umi_start > MAX_UMI:
                fault[0], fault[2] = LONG_UMI, umi_stop - umi_start
                return r
        table = others if content == IN_TURN and mate == MATE_2 else fields
        table[row, 0] = name
        table[row, 1] = name_length
        table[row, 2] = sequence
        table[row, 3] = quality
        table[row, 4] = length
        table[row, 5] = umi_start
        table[row, 6] = umi_stop - umi_start
        if content == UNPAIRED:
            others[row, 0] = name
            others[row, 1] = name_length
            others[row, 2] = sequence
            others[row, 3] = quality
            others[row, 4] = 0
            others[row, 5] = 0
            others[row, 6] = 0
        begin = end_quality + 1
    return n_records


@kernel("int64(uint8[::1], int64[:, ::1], uint8[::1], int64[:, ::1], int64)")
def first_unequal_name(text1: Any, fields1: Any, text2: Any, fields2: Any, digits: Any) -> Any:
    """The first row whose names differ, or -1.

    With `digits` not 0 the names must end in .1 and .2, which are cut off: NAME_LENGTH is less by two in the
    rows before the one returned.
    """
    n = len(fields1)
    for r in range(n):
        ahead = min(r + _AHEAD, n - 1)
        prefetch(text1, fields1[ahead, 0])
        prefetch(text2, fields2[ahead, 0])
        length = fields1[r, 1]
        if length != fields2[r, 1]:
            return r
        a, b = fields1[r, 0], fields2[r, 0]
        if digits != 0:
            length -= 2
            if length < 1 or text1[U(a + length)] != 46 or text2[U(b + length)] != 46:  # '.'
                return r
            if text1[U(a + length + 1)] != 49 or text2[U(b + length + 1)] != 50:
                return r
        done = np.int64(0)
        while done < length:
            differ = load_u64(text1, a + done) ^ load_u64(text2, b + done)
            if length - done < 8:
                differ &= _low_bits(8 * (length - done))
            if differ != U(0):
                return r
            done += 8
        fields1[r, 1] = length
        fields2[r, 1] = length
    return -1
