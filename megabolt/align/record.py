# SPDX-License-Identifier: Apache-2.0
"""Alignments become packed BAM records (SAM specification 4.2), in the order of the input.

In: a `PairBatch` and its `Alignments`. Out: a `RecordChunk`. Next: `reads/bins.py`.

A record is written once, complete with its tags; later steps only move it and set the duplicate flag. A read has
one record, and one more for each further part of a split read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megabolt.align.alignments import ALTERNATIVE, CIGAR_H, CIGAR_S, SUPPLEMENTARY, Alignments
from megabolt.compute.bits import (
    EVEN_BITS,
    PADDING,
    base_at,
    bases_at,
    load_u32,
    load_u64,
    pack8,
    prefetch,
    store_u16,
    store_u32,
    store_u64,
    trailing_zeros,
)
from megabolt.compute.jit import callee, kernel
from megabolt.errors import InputFormatError, InternalError

if TYPE_CHECKING:
    from megabolt.formats.fastq import PairBatch

U = np.uint64
#: Key of a record without a place.
UNPLACED = U(0xFFFFFFFFFFFFFFFF)
#: Signature of an end that has no place: see `RecordChunk.signature`.
NO_END = U(0xFFFFFFFFFFFFFFFF)
#: Base qualities below this do not count for the choice of the best duplicate (Picard).
MIN_SUMMED_QUALITY = 15
#: Picard keeps one read's sum of qualities in a short and halves its range.
MAX_QUALITY_SUM = 16383
#: Ends of neighbouring contigs are kept this far apart in signatures: soft clips reach beyond a contig.
SIGNATURE_GAP = 4096
#: Ordinals of a read: one for each of its records. A pair has 32, so 40 bits last for 3.4e10 pairs.
RECORDS_PER_READ = 16
#: Quality of the N that stands for a read without bases.
NO_BASE_QUALITY = 2

#: The low bit of each byte of a word.
_BIT0 = U(0x0101010101010101)
#: Pairs for which the cache is asked together, ahead, for the reference: a power of two.
_AHEAD = 16
_TOO_SMALL, _NAME_TOO_LONG, _BAD_CIGAR, _BAD_EXTRA = 1, 2, 3, 4


@dataclass(frozen=True)
class ContigNames:
    """Names of contigs for kernels: name k is text[bounds[k] : bounds[k + 1]] (uint8, int64 [n + 1])."""

    text: NDArray[np.uint8]
    bounds: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str]) -> ContigNames:
        """From names in the order of the reference."""
        encoded = [name.encode() for name in names]
        bounds = np.cumsum([0, *(len(name) for name in encoded)]).astype(np.int64)
        return cls(np.frombuffer(bytearray(b"".join(encoded) + bytes(8)), np.uint8), bounds)


@dataclass
class RecordChunk:
    """Packed records of one batch: of each pair mate 1, then mate 2; of each read the primary record first.

    Meant to be filled again and again: `build_records` grows `data` when it is too small.

    Attributes
    ----------
    data
        uint8: records one after another, PADDING spare bytes behind the largest content.
    offsets
        int64 [R + 1]: start of each record in `data`; the last entry is the end.
    key
        uint64 [R]: contig << 33 | (start + 1) << 1 | reverse; `UNPLACED` for a pair without any place.
    ordinal
        int64 [R]: (2 * pair + mate) * RECORDS_PER_READ + k for the k-th record of a read; pair counts from the
        start of the chunk. Distinct, ascending, and the same whatever is in other chunks.
    signature
        uint64 [n_pairs, 2]: the two unclipped 5' ends, the lower one first:
        (contig_offset + contig * SIGNATURE_GAP + SIGNATURE_GAP / 2 + end) << 1 | reverse, `NO_END` for an
        unmapped mate and for the mate that a single read does not have (which so comes last). The top 16 bits of
        the first are left free for the library.
    quality_sum
        int32 [n_pairs]: sum of the base qualities >= 15 of the mapped mates.
    first_pair
        Ordinal of the first pair in the whole input.
    read_group
        Index of the read group.
    n_pairs
        Templates: pairs or single reads.
    n_records
        Records in use.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    key: NDArray[np.uint64]
    ordinal: NDArray[np.int64]
    signature: NDArray[np.uint64]
    quality_sum: NDArray[np.int32]
    first_pair: int = 0
    read_group: int = 0
    n_pairs: int = 0
    n_records: int = 0

    @classmethod
    def allocate(cls, max_pairs: int, bytes_per_record: int = 512) -> RecordChunk:
        """An empty chunk with room for `max_pairs` pairs."""
        n_reads = 2 * max_pairs
        return cls(
            data=np.zeros(n_reads * bytes_per_record + PADDING, np.uint8),
            offsets=np.zeros(n_reads + 1, np.int64),
            key=np.zeros(n_reads, np.uint64),
            ordinal=np.zeros(n_reads, np.int64),
            signature=np.zeros((max_pairs, 2), np.uint64),
            quality_sum=np.zeros(max_pairs, np.int32),
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of `data` in use."""
        return int(self.offsets[self.n_records])

    def _make_room(self, n_pairs: int, n_records: int, n_bytes: int) -> None:
        if len(self.data) < n_bytes + PADDING:
            self.data = np.zeros(n_bytes + PADDING, np.uint8)
        if len(self.key) < n_records:
            self.offsets = np.zeros(n_records + 1, np.int64)
            self.key = np.zeros(n_records, np.uint64)
            self.ordinal = np.zeros(n_records, np.int64)
        if len(self.quality_sum) < n_pairs:
            self.signature = np.zeros((n_pairs, 2), np.uint64)
            self.quality_sum = np.zeros(n_pairs, np.int32)


def build_records(
    batch: PairBatch,
    alignments: Alignments,
    packed_reference: NDArray[np.uint64],
    contig_offset: NDArray[np.int64],
    n_intervals: NDArray[np.int64],
    read_group: bytes,
    out: RecordChunk,
    *,
    names: ContigNames | None = None,
    soft_clip: bool = False,
) -> RecordChunk:
    """Packed BAM records of a batch, in input order: see `RecordChunk`.

    Flags, RNEXT, PNEXT, TLEN (leftmost to rightmost mapped base, positive for the leftmost mate, for mate 1
    on a tie) and bin follow the SAM specification. An unmapped mate of a mapped read takes its place, MAPQ 0.
    Tags: NM (N agrees with nothing), MD, MC, MQ, AS, XS, RG, SA, XA, pa, RX. An unmapped read has only MC, MQ, RG
    and RX. A batch of single reads has one record a read, without anything about mates.

    Supplementary records (0x800) are those of `bwa mem`: hard clips, the pair's flags 0x2 and 0x20, and RNEXT, PNEXT,
    MC and MQ of the mate's primary record. TLEN is taken between the record itself and that one. SA names the other
    records of the read, the primary first, all with soft clips; XA stands on the primary record only.

    SEQ and QUAL leave out `Alignments.trimmed` bases. A read without bases is written as a single N of quality 2, as
    fgbio does: with SEQ '*', `samtools fastq` drops the read, and Picard complains.

    Parameters
    ----------
    batch
        Reads as FASTQ text; its arrays carry PADDING spare bytes behind.
    alignments
        Their places; a CIGAR that does not fit its read is an internal error.
    packed_reference
        uint64: 2 bits a base, 32 bases a word, first base lowest; at least two spare words behind.
    contig_offset
        int64 [n_contigs + 1 or n_contigs]: start of each contig in the packed reference.
    n_intervals
        int64 [k, 2]: half-open stretches of N in packed coordinates, sorted and disjoint.
    read_group
        ID for the RG tag; empty: no tag.
    out
        Filled and returned.
    names
        Of the contigs, for SA and XA; may be left out if the alignments have no `extra`.
    soft_clip
        Supplementary records keep all bases, with soft clips.

    Raises
    ------
    InputFormatError
        A read name is longer than the 254 bytes that BAM can hold.
    InternalError
        An alignment that does not fit its read.
    """
    extra = alignments.extra
    if names is None:
        if len(extra):
            raise InternalError("split reads without names of the contigs")
        names = ContigNames.of([])
    longest = max(int(fields[:, 4].max(initial=0)) for fields in batch.fields)
    n_records = (1 + batch.paired) * batch.n_pairs + int((extra.kind == SUPPLEMENTARY).sum())
    n_bytes = len(out.data) - PADDING
    while True:
        out._make_room(batch.n_pairs, n_records, n_bytes)
        status = np.zeros(2, np.int64)
        _build(
            batch.n_pairs,
            2 if batch.paired else 1,
            batch.text[0],
            batch.text[1],
            batch.fields[0],
            batch.fields[1],
            alignments.mapped,
            alignments.contig,
            alignments.start,
            alignments.reverse,
            alignments.mapq,
            alignments.score,
            alignments.second_score,
            alignments.cigar,
            alignments.n_cigar,
            alignments.proper,
            alignments.trimmed,
            alignments.alt_ratio.view(np.uint32),
            extra.read,
            extra.kind,
            extra.contig,
            extra.start,
            extra.reverse,
            extra.mapq,
            extra.score,
            extra.second_score,
            extra.cigar,
            extra.n_cigar,
            names.text,
            names.bounds,
            soft_clip,
            packed_reference,
            contig_offset,
            n_intervals,
            np.frombuffer(bytearray(read_group + bytes(8)), np.uint8),
            len(read_group),
            longest,
            out.data,
            out.offsets,
            out.key,
            out.ordinal,
            out.signature,
            out.quality_sum,
            status,
        )
        if status[0] != _TOO_SMALL:
            break
        n_bytes = max(2 * n_bytes, 1 << 16)
    _check(status, batch)
    out.n_pairs = batch.n_pairs
    out.n_records = n_records
    out.first_pair = batch.first_pair
    out.read_group = batch.read_group
    return out


def _check(status: NDArray[np.int64], batch: PairBatch) -> None:
    code, read = int(status[0]), int(status[1])
    if code == 0:
        return
    where = f"read {'pair ' * batch.paired}{batch.first_pair + read // 2 + 1}"
    if code == _NAME_TOO_LONG:
        raise InputFormatError(
            "FASTQ",
            where,
            "the read name is longer than the 254 bytes that a BAM file can hold",
            "Shorten the read names, for example with `seqkit replace`.",
        )
    if code == _BAD_EXTRA:
        raise InternalError(
            f"{where}, mate {read % 2 + 1}: further alignments that do not fit the read, are out of order or too many"
        )
    raise InternalError(f"{where}, mate {read % 2 + 1}: the alignment does not fit the read")


# --- kernels: p = position in the output, i = pair, m = mate, r = 2 i + m, x = a further alignment ---


@callee
def _put_number(out: Any, p: Any, value: Any) -> Any:
    """Decimal digits of a number >= 0; returns the next position."""
    digits = 1
    bound = np.int64(10)
    while value >= bound:
        digits += 1
        bound *= 10
    rest = U(value)  # unsigned: LLVM divides by a constant with a multiplication
    for k in range(digits):
        tenth = rest // U(10)
        out[np.uint64(p + digits - 1 - k)] = np.uint8(U(48) + rest - tenth * U(10))
        rest = tenth
    return p + digits


@callee
def _put_int_tag(out: Any, p: Any, first: Any, second: Any, value: Any) -> Any:
    """An integer tag in the smallest type that holds it."""
    out[np.uint64(p)] = np.uint8(first)
    out[np.uint64(p + 1)] = np.uint8(second)
    if value >= 0:
        if value < 256:
            kind, size = 67, 1  # C
        elif value < 65536:
            kind, size = 83, 2  # S
        else:
            kind, size = 73, 4  # I
    elif value >= -128:
        kind, size = 99, 1  # c
    elif value >= -32768:
        kind, size = 115, 2  # s
    else:
        kind, size = 105, 4  # i
    out[np.uint64(p + 2)] = np.uint8(kind)
    store_u32(out, p + 3, np.uint32(np.int64(value) & 0xFFFFFFFF))
    return p + 3 + size


@callee
def _bin_number(start: Any, stop: Any) -> Any:
    """BAM bin of [start, stop) (SAM specification 5.3)."""
    last = stop - 1
    if start >> 14 == last >> 14:
        return 4681 + (start >> 14)
    if start >> 17 == last >> 17:
        return 585 + (start >> 17)
    if start >> 20 == last >> 20:
        return 73 + (start >> 20)
    if start >> 23 == last >> 23:
        return 9 + (start >> 23)
    if start >> 26 == last >> 26:
        return 1 + (start >> 26)
    return 0


@callee
def _first_interval(intervals: NDArray[np.int64], position: Any) -> Any:
    """Index of the first interval that ends behind `position`."""
    low, high = 0, len(intervals)
    while low < high:
        middle = (low + high) >> 1
        if intervals[np.uint64(middle), 1] <= position:
            low = middle + 1
        else:
            high = middle
    return low


@callee
def _load_codes(text: NDArray[np.uint8], start: Any, length: Any, codes: NDArray[np.uint8]) -> None:
    """Base codes of `length` letters from codes[64] on, a block of zeros behind them."""
    for t in range(0, length, 64):
        source = text[start + t : start + t + 64]
        target = codes[64 + t : 128 + t]
        for k in range(64):
            letter = source[k]
            upper = np.uint8(letter & np.uint8(0xDF))
            known = (
                (upper == np.uint8(65)) | (upper == np.uint8(67)) | (upper == np.uint8(71)) | (upper == np.uint8(84))
            )
            code = np.uint8(np.uint8(letter >> np.uint8(1)) ^ np.uint8(letter >> np.uint8(2))) & np.uint8(3)
            target[k] = np.uint8(code) if known else np.uint8(4)
    tail = codes[64 + length : 128 + length]
    for k in range(64):
        tail[k] = np.uint8(0)


@callee
def _reverse_codes(codes: NDArray[np.uint8], length: Any, out: NDArray[np.uint8]) -> None:
    """Reverse complement of codes[64 : 64 + length] to out[64:], in whole blocks of 64."""
    for t in range(0, length, 64):
        source = codes[length - t : length - t + 64]  # the block that ends at base length - t
        target = out[64 + t : 128 + t]
        for k in range(64):
            code = source[63 - k]
            target[k] = np.uint8(3) - code if code < np.uint8(4) else code
    tail = out[64 + length : 128 + length]
    for k in range(64):
        tail[k] = np.uint8(0)


@callee
def _put_nibbles(
    codes: NDArray[np.uint8], first: Any, length: Any, nibbles: NDArray[np.uint8], out: NDArray[np.uint8], p: Any
) -> None:
    """4-bit bases from base `first` on, each first one in the high half; writes up to 3 bytes too many."""
    for t in range(0, length, 64):
        source, target = codes[64 + first + t : 128 + first + t], nibbles[t : t + 64]
        for k in range(64):
            code = source[k]
            one = np.uint8(1) + (code & np.uint8(1))
            high = np.uint8(0) - (np.uint8(code >> np.uint8(1)) & np.uint8(1))
            unknown = np.uint8(0) - np.uint8(code >> np.uint8(2))
            one += high & np.uint8(one + one + one)  # A = 1, C = 2, G = 4, T = 8
            target[k] = one | (unknown & np.uint8(15))
    for t in range(0, length, 8):
        y = load_u64(nibbles, t)
        y = ((y << U(4)) | (y >> U(8))) & U(0x00FF00FF00FF00FF)  # pairs of nibbles in every other byte
        y = (y | (y >> U(8))) & U(0x0000FFFF0000FFFF)
        store_u32(out, p + (t >> 1), np.uint32((y | (y >> U(16))) & U(0xFFFFFFFF)))
    if length & 1:
        out[np.uint64(p + (length >> 1))] &= np.uint8(0xF0)


@callee
def _put_qualities(
    text: NDArray[np.uint8], start: Any, length: Any, reverse: Any, out: NDArray[np.uint8], p: Any
) -> Any:
    """Phred values in the direction of the reference; returns the sum of those that count for duplicates."""
    for t in range(0, length, 64):
        target = out[p + t : p + t + 64]
        if reverse == 0:
            source = text[start + t : start + t + 64]
            for k in range(64):
                target[k] = source[k] - np.uint8(33)
        else:
            first = start + length - t - 64
            if first >= 0:
                source = text[first : first + 64]
                for k in range(64):
                    target[k] = source[63 - k] - np.uint8(33)
            else:  # fewer than 64 bytes of text before the end of this block
                for k in range(length - t):
                    target[k] = text[np.uint64(start + length - 1 - t - k)] - np.uint8(33)
    store_u64(out, p + length, U(0))  # the sum runs over whole words; what follows is written later
    total = U(0)
    for t in range(0, length, 8):
        x = load_u64(out, p + t)  # qualities are below 128
        counts = ((x + _BIT0 * U(128 - MIN_SUMMED_QUALITY)) >> U(7)) & _BIT0
        x &= counts * U(255)
        total += (x & U(0x00FF00FF00FF00FF)) + ((x >> U(8)) & U(0x00FF00FF00FF00FF))
    # four 16-bit sums of up to 2 * 93 a word: good for 352 words, 2,816 bases
    total = (total & U(0x0000FFFF0000FFFF)) + ((total >> U(16)) & U(0x0000FFFF0000FFFF))
    return min(np.int64(total & U(0xFFFFFFFF)) + np.int64(total >> U(32)), np.int64(MAX_QUALITY_SUM))


@callee
def _unknown_bases(
    position: Any,
    count: Any,
    offset: Any,
    codes: NDArray[np.uint8],
    intervals: NDArray[np.int64],
    interval: Any,
) -> Any:
    """Even bits set where the read (from base `offset`) or the reference (from `position`) has an N."""
    found = U(0)
    for k in range(count):
        unknown = codes[np.uint64(64 + offset + k)] > 3
        j = interval
        while j < len(intervals) and intervals[j, 0] <= position + k:
            if position + k < intervals[j, 1]:
                unknown = True
            j += 1
        if unknown:
            found |= U(1) << U(2 * k)
    return found


@callee
def _reference_letter(packed: NDArray[np.uint64], position: Any, intervals: NDArray[np.int64], interval: Any) -> Any:
    """ASCII letter of one reference base; `interval` is the first that may hold it."""
    j = interval
    while j < len(intervals) and intervals[j, 0] <= position:
        if position < intervals[j, 1]:
            return np.uint8(78)
        j += 1
    code = base_at(packed, position)
    if code == 0:
        return np.uint8(65)
    if code == 1:
        return np.uint8(67)
    if code == 2:
        return np.uint8(71)
    return np.uint8(84)


@callee
def _put_cigar_text(out: NDArray[np.uint8], p: Any, cigar: NDArray[np.uint32], n_cigar: Any) -> Any:
    """CIGAR as text; returns the next position."""
    for k in range(n_cigar):
        word = cigar[np.uint64(k)]
        p = _put_number(out, p, np.int64(word >> np.uint32(4)))
        operation = word & np.uint32(15)
        letter = 77  # M
        if operation == 1:
            letter = 73  # I
        elif operation == 2:
            letter = 68  # D
        elif operation == 3:
            letter = 78  # N
        elif operation == 4:
            letter = 83  # S
        elif operation == 5:
            letter = 72  # H
        elif operation == 6:
            letter = 80  # P
        elif operation == 7:
            letter = 61  # =
        elif operation == 8:
            letter = 88  # X
        out[np.uint64(p)] = np.uint8(letter)
        p += 1
    return p


@callee
def _measure(cigar: NDArray[np.uint32], n_cigar: Any, lengths: NDArray[np.int64]) -> Any:
    """The reference span; lengths becomes (read bases, leading clip, trailing clip, deleted bases)."""
    query = np.int64(0)
    span = np.int64(0)
    deleted = np.int64(0)
    leading = np.int64(0)
    trailing = np.int64(0)
    body = False
    for k in range(n_cigar):
        word = cigar[np.uint64(k)]
        length = np.int64(word >> np.uint32(4))
        operation = np.int64(word & np.uint32(15))
        if operation == 4 or operation == 5:
            if body:
                trailing += length
            else:
                leading += length
            if operation == 4:
                query += length
        else:
            body = True
            if operation == 0 or operation == 1 or operation >= 7:
                query += length
            if operation == 0 or operation == 2 or operation == 3 or operation >= 7:
                span += length
            if operation == 2:
                deleted += length
    lengths[0] = query
    lengths[1] = leading
    lengths[2] = trailing
    lengths[3] = deleted
    return span


@callee
def _put_md(
    out: NDArray[np.uint8],
    p: Any,
    words: Any,
    n_cigar: Any,
    codes: NDArray[np.uint8],
    query: NDArray[np.uint64],
    read_is_plain: bool,
    packed: NDArray[np.uint64],
    start: Any,
    span: Any,
    intervals: NDArray[np.int64],
    edits: NDArray[np.int64],
) -> Any:
    """The text of MD (SAM tags specification); edits[0] becomes NM. `start` is in the packed reference.

    The CIGAR is in `out`, from byte `words` on; `codes` holds what it clips, hard or not.
    """
    interval = _first_interval(intervals, start)
    plain = read_is_plain and not (interval < len(intervals) and intervals[interval, 0] < start + span)
    n_edits = np.int64(0)
    matched = np.int64(0)
    position = start
    offset = np.int64(0)
    for k in range(n_cigar):
        word = load_u32(out, words + 4 * k)
        length = np.int64(word >> 4)
        operation = np.int64(word & 15)
        if operation == 0 or operation >= 7:
            for t in range(0, length, 32):
                count = min(np.int64(32), length - t)
                found = bases_at(query, offset + t) ^ bases_at(packed, position + t)
                found = (found | (found >> U(1))) & EVEN_BITS
                if not plain:
                    found |= _unknown_bases(position + t, count, offset + t, codes, intervals, interval)
                if count < 32:
                    found &= (U(1) << U(2 * count)) - U(1)
                done = np.int64(0)
                while found != U(0):
                    base = trailing_zeros(found) >> 1
                    p = _put_number(out, p, matched + base - done)
                    out[np.uint64(p)] = _reference_letter(packed, position + t + base, intervals, interval)
                    p += 1
                    n_edits += 1
                    matched = np.int64(0)
                    done = base + 1
                    found &= found - U(1)
                matched += count - done
            position += length
            offset += length
        elif operation == 1:
            n_edits += length
            offset += length
        elif operation == 2:
            p = _put_number(out, p, matched)
            matched = np.int64(0)
            out[np.uint64(p)] = np.uint8(94)  # ^
            p += 1
            for t in range(length):
                out[np.uint64(p)] = _reference_letter(packed, position + t, intervals, interval)
                p += 1
            n_edits += length
            position += length
        elif operation == 3:
            position += length
        elif operation == 4 or operation == 5:
            offset += length
    edits[0] = n_edits
    return _put_number(out, p, matched)


@callee
def _end_signature(offset: Any, contig: Any, start: Any, span: Any, leading: Any, trailing: Any, reverse: Any) -> Any:
    """Unclipped 5' end of a read and its strand: see RecordChunk.signature."""
    end = start + span - 1 + trailing if reverse != 0 else start - leading
    end = max(end, np.int64(-SIGNATURE_GAP // 2))
    place = offset + contig * SIGNATURE_GAP + SIGNATURE_GAP // 2 + end
    return (U(place) << U(1)) | U(reverse)


@callee
def _measure_extra(
    first: Any,
    last: Any,
    length: Any,
    kind: NDArray[np.uint8],
    contig: NDArray[np.int32],
    start: NDArray[np.int32],
    reverse: NDArray[np.uint8],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
    codes: NDArray[np.uint8],
    n_contigs: Any,
    packed: NDArray[np.uint64],
    contig_offset: NDArray[np.int64],
    intervals: NDArray[np.int64],
    found: NDArray[np.int64],
) -> Any:
    """Rows of a read's further alignments: _measure's numbers, span, NM; `codes` is the read as sequenced.

    Returns the number of the read's records, 0 if something does not fit. Plain, base by base: few reads have any,
    and their NM is wanted before their records are written.
    """
    n_records = 1
    for x in range(first, last):
        if not (
            1 <= n_cigar[x] <= cigar.shape[1] and 0 <= contig[x] < n_contigs and start[x] >= 0 and 1 <= kind[x] <= 2
        ):
            return 0
        row = found[x]
        row[4] = _measure(cigar[x], np.int64(n_cigar[x]), row)
        if row[0] != length or row[4] == 0 or row[1] + row[2] >= length:
            return 0
        n_records += kind[x] == np.uint8(SUPPLEMENTARY)
        position = contig_offset[np.uint64(contig[x])] + start[x]
        interval = _first_interval(intervals, position)
        offset = np.int64(0)
        edits = np.int64(0)
        for k in range(n_cigar[x]):
            count = np.int64(cigar[x, k] >> np.uint32(4))
            operation = np.int64(cigar[x, k] & np.uint32(15))
            if operation == 0 or operation >= 7:
                for t in range(offset, offset + count):
                    while interval < len(intervals) and intervals[interval, 1] <= position:
                        interval += 1
                    unknown = interval < len(intervals) and intervals[interval, 0] <= position
                    code = codes[np.uint64(64 + t)]
                    if reverse[x] != 0:
                        code = codes[np.uint64(63 + length - t)]
                        code = np.uint8(3) - code if code < np.uint8(4) else code
                    edits += unknown or code != base_at(packed, position)
                    position += 1
                offset += count
            elif operation == 1 or operation == 4:
                offset += count
            elif operation == 2 or operation == 3:
                position += count
            if operation == 1 or operation == 2:
                edits += count
        row[5] = edits
    return n_records if n_records <= RECORDS_PER_READ else 0


@callee
def _put_places(
    out: NDArray[np.uint8],
    p: Any,
    x: Any,
    first: Any,
    last: Any,
    kind: NDArray[np.uint8],
    contig: NDArray[np.int32],
    start: NDArray[np.int32],
    reverse: NDArray[np.uint8],
    mapq: NDArray[np.uint8],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
    measured: NDArray[np.int64],
    primary_contig: Any,
    primary_start: Any,
    primary_reverse: Any,
    primary_mapq: Any,
    primary_edits: Any,
    primary_cigar: NDArray[np.uint32],
    primary_operations: Any,
    names: NDArray[np.uint8],
    bounds: NDArray[np.int64],
) -> Any:
    """SA of record x of a read, and XA if it is the primary one (x = first - 1); returns the next position."""
    for wanted in range(SUPPLEMENTARY, ALTERNATIVE + 1):
        if wanted == ALTERNATIVE and x >= first:
            continue
        is_open = False
        for y in range(first - 1, last):
            if y == x or (y >= first and kind[y] != wanted):
                continue
            if not is_open:
                out[np.uint64(p)] = np.uint8(83 if wanted == SUPPLEMENTARY else 88)  # S, X
                out[np.uint64(p + 1)] = np.uint8(65)
                out[np.uint64(p + 2)] = np.uint8(90)
                p += 3
                is_open = True
            c, s, is_reverse, row, operations = (
                primary_contig, primary_start, primary_reverse, primary_cigar, primary_operations
            )  # fmt: skip
            quality, edits = primary_mapq, primary_edits
            if y >= first:
                c, s, is_reverse, row, operations = (
                    np.int64(contig[y]), np.int64(start[y]), np.int64(reverse[y]), cigar[y], np.int64(n_cigar[y])
                )  # fmt: skip
                quality, edits = np.int64(mapq[y]), measured[y, 5]
            for k in range(bounds[c], bounds[c + 1]):
                out[np.uint64(p)] = names[np.uint64(k)]
                p += 1
            out[np.uint64(p)] = np.uint8(44)  # ,
            p += 1
            sign = np.uint8(45 if is_reverse != 0 else 43)
            if wanted == ALTERNATIVE:
                out[np.uint64(p)] = sign
                p += 1
            p = _put_number(out, p, s + 1)
            if wanted == SUPPLEMENTARY:
                out[np.uint64(p)] = np.uint8(44)
                out[np.uint64(p + 1)] = sign
                p += 2
            out[np.uint64(p)] = np.uint8(44)
            p = _put_cigar_text(out, p + 1, row, operations)
            for which in range(wanted - 1, 2):  # MAPQ, in SA only, and NM
                out[np.uint64(p)] = np.uint8(44)
                p = _put_number(out, p + 1, quality if which == 0 else edits)
            out[np.uint64(p)] = np.uint8(59)  # ;
            p += 1
        if is_open:
            out[np.uint64(p)] = np.uint8(0)
            p += 1
    return p


@callee
def _ask(
    first: Any,
    stop: Any,
    n_mates: Any,
    mapped: NDArray[np.uint8],
    contig: NDArray[np.int32],
    start: NDArray[np.int32],
    contig_offset: NDArray[np.int64],
    packed: NDArray[np.uint64],
) -> None:
    """Ask the cache for the places of some pairs, in a loop of its own: see `table.fetch`."""
    for i in range(first, stop):
        for r in range(2 * i, 2 * i + n_mates):
            if mapped[np.uint64(r)] != 0 and contig[np.uint64(r)] >= 0:
                word = (contig_offset[np.uint64(contig[np.uint64(r)])] + start[np.uint64(r)]) >> 5
                prefetch(packed, np.int64(word))
                prefetch(packed, np.int64(word + 5))


@callee
def _build_all(
    n_pairs: Any,
    n_mates: Any,
    text1: NDArray[np.uint8],
    text2: NDArray[np.uint8],
    fields1: NDArray[np.int64],
    fields2: NDArray[np.int64],
    mapped: NDArray[np.uint8],
    contig: NDArray[np.int32],
    start: NDArray[np.int32],
    reverse: NDArray[np.uint8],
    mapq: NDArray[np.uint8],
    score: NDArray[np.int32],
    second_score: NDArray[np.int32],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
    proper: NDArray[np.uint8],
    trimmed: NDArray[np.int32],
    alt_ratio: NDArray[np.uint32],
    extra_read: NDArray[np.int64],
    extra_kind: NDArray[np.uint8],
    extra_contig: NDArray[np.int32],
    extra_start: NDArray[np.int32],
    extra_reverse: NDArray[np.uint8],
    extra_mapq: NDArray[np.uint8],
    extra_score: NDArray[np.int32],
    extra_second_score: NDArray[np.int32],
    extra_cigar: NDArray[np.uint32],
    extra_n_cigar: NDArray[np.int32],
    names: NDArray[np.uint8],
    name_bounds: NDArray[np.int64],
    soft_clip: Any,
    packed: NDArray[np.uint64],
    contig_offset: NDArray[np.int64],
    intervals: NDArray[np.int64],
    group: NDArray[np.uint8],
    group_length: Any,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    keys: NDArray[np.uint64],
    ordinals: NDArray[np.int64],
    signatures: NDArray[np.uint64],
    quality_sums: NDArray[np.int32],
    status: NDArray[np.int64],
    forward: NDArray[np.uint8],
    backward: NDArray[np.uint8],
    nibbles: NDArray[np.uint8],
    query: NDArray[np.uint64],
    edits: NDArray[np.int64],
    measures: NDArray[np.int64],
    spans: NDArray[np.int64],
    measured: NDArray[np.int64],
) -> None:
    """All records: what `_build` does, without counting references to arrays (see `compute.jit.callee`)."""
    n_extra = len(extra_read)
    max_cigar = cigar.shape[1]
    room = len(out) - PADDING
    longest_name = np.int64(0)
    for k in range(len(name_bounds) - 1):
        longest_name = max(longest_name, name_bounds[k + 1] - name_bounds[k])
    last = np.int64(0)  # of the further alignments before it, all are written
    p = np.int64(0)
    n = np.int64(0)
    for i in range(n_pairs):
        if i & (_AHEAD - 1) == 0:
            _ask(i + _AHEAD, min(i + 2 * _AHEAD, n_pairs), n_mates, mapped, contig, start, contig_offset, packed)
        for m in range(n_mates):
            r = 2 * i + m
            spans[m] = 0
            measures[m, 3] = 0
            length = np.int64((fields1[i, 4] if m == 0 else fields2[i, 4]) - trimmed[r])
            if mapped[r] != 0:
                spans[m] = _measure(cigar[r], n_cigar[r], measures[m])
                if measures[m, 0] != length or start[r] < 0 or contig[r] < 0 or n_cigar[r] > max_cigar:
                    status[0] = _BAD_CIGAR
            if length < 0 or trimmed[r] < 0 or (mapped[r] != 0 and (spans[m] == 0 or length == 0)):
                status[0] = _BAD_CIGAR
            if status[0] != 0:
                status[1] = r
                return
        quality_sum = np.int64(0)
        signatures[i, 1] = NO_END
        for m in range(n_mates):
            r = 2 * i + m
            mate = r ^ 1
            if m == 0:
                text, fields = text1, fields1
            else:
                text, fields = text2, fields2
            name_start = fields[i, 0]
            name_length = fields[i, 1]
            length = np.int64(fields[i, 4] - trimmed[r])
            if name_length > 254:
                status[0] = _NAME_TOO_LONG
                status[1] = r
                return
            _load_codes(text, fields[i, 2], length, forward)
            is_mapped = mapped[r] != 0
            mate_mapped = n_mates == 2 and mapped[mate] != 0
            placed = is_mapped or mate_mapped
            # fixed part, name, CIGAR, bases, qualities; MD: two letters a base, deletions; MC; other tags
            bound = 36 + 255 + 4 * max_cigar + 2 * length + 2 * length + measures[m, 3] + 6 * max_cigar + 64
            umi_start, umi_length = fields1[i, 5], fields1[i, 6]
            bound += 6 * max_cigar + group_length + umi_length + 72
            first = last
            while last < n_extra and extra_read[last] == r:
                last += 1
            if last > first:
                n_records = np.int64(0)
                if is_mapped:
                    n_records = _measure_extra(
                        first, last, length, extra_kind, extra_contig, extra_start, extra_reverse, extra_cigar,
                        extra_n_cigar, forward, np.int64(len(name_bounds) - 1), packed, contig_offset, intervals,
                        measured,
                    )  # fmt: skip
                if n_records == 0:
                    status[0] = _BAD_EXTRA
                    status[1] = r
                    return
                bound += (last - first + 1) * (longest_name + 10 * max_cigar + 64)
                for x in range(first, last):
                    bound += measured[x, 3]
                bound *= n_records
            if p + bound > room:
                status[0] = _TOO_SMALL
                return
            primary_edits = np.int64(0)
            ordinal = np.int64(r * RECORDS_PER_READ)
            for x in range(first - 1, last):  # first - 1: the primary record
                is_extra = x >= first
                if is_extra and extra_kind[x] != SUPPLEMENTARY:
                    continue
                place_contig = np.int64(-1)
                place_start = np.int64(-1)
                is_reverse = np.int64(0)
                operations = np.int64(0)
                quality = np.int64(0)
                clip = np.int64(0)  # bases before and behind those that are kept
                clip_behind = np.int64(0)
                flag = np.int64(0)
                hard = np.uint32(0)
                if is_extra:
                    place_contig = np.int64(extra_contig[x])
                    place_start = np.int64(extra_start[x])
                    is_reverse = np.int64(extra_reverse[x] != 0)
                    operations = np.int64(extra_n_cigar[x])
                    quality = np.int64(extra_mapq[x])
                    span = measured[x, 4]
                    flag = np.int64(0x800)
                    if not soft_clip:
                        clip = measured[x, 1]
                        clip_behind = measured[x, 2]
                        hard = np.uint32(CIGAR_S ^ CIGAR_H)
                else:
                    span = spans[m]
                    if is_mapped:
                        place_contig = np.int64(contig[r])
                        place_start = np.int64(start[r])
                        is_reverse = np.int64(reverse[r] != 0)
                        operations = np.int64(n_cigar[r])
                        quality = np.int64(mapq[r])
                    else:
                        flag = np.int64(0x4)
                        if mate_mapped:
                            place_contig = np.int64(contig[mate])
                            place_start = np.int64(start[mate])
                next_contig = np.int64(-1)
                next_start = np.int64(-1)
                template = np.int64(0)
                flag |= is_reverse << 4
                if n_mates == 2:
                    flag |= 0x1 | (0x40 if m == 0 else 0x80)
                    if mate_mapped:
                        next_contig = np.int64(contig[mate])
                        next_start = np.int64(start[mate])
                        flag |= np.int64(reverse[mate] != 0) << 5
                        if is_mapped:
                            flag |= np.int64(proper[i] != 0) << 1
                            if place_contig == next_contig:
                                left = min(place_start, next_start)
                                right = max(place_start + span, next_start + spans[1 - m])
                                template = right - left
                                if place_start > next_start or (place_start == next_start and m == 1):
                                    template = -template
                    else:
                        flag |= 0x8
                        if is_mapped:  # the unmapped mate lies where the primary record does
                            next_contig = np.int64(contig[r])
                            next_start = np.int64(start[r])
                if not placed:
                    bin_number = np.int64(4680)
                else:
                    bin_number = _bin_number(place_start, place_start + max(span, np.int64(1)))
                kept = length - clip - clip_behind
                shown = max(kept, np.int64(1))
                stored_name = max(name_length, np.int64(1))
                offsets[np.uint64(n)] = p
                store_u32(out, p + 4, np.uint32(place_contig & 0xFFFFFFFF))
                store_u32(out, p + 8, np.uint32(place_start & 0xFFFFFFFF))
                store_u32(out, p + 12, np.uint32((stored_name + 1) | (quality << 8) | ((bin_number & 0xFFFF) << 16)))
                store_u32(out, p + 16, np.uint32(operations | (flag << 16)))
                store_u32(out, p + 20, np.uint32(shown))
                store_u32(out, p + 24, np.uint32(next_contig & 0xFFFFFFFF))
                store_u32(out, p + 28, np.uint32(next_start & 0xFFFFFFFF))
                store_u32(out, p + 32, np.uint32(template & 0xFFFFFFFF))
                c = p + 36
                for k in range(0, name_length, 8):
                    store_u64(out, c + k, load_u64(text, name_start + k))
                if name_length == 0:
                    out[np.uint64(c)] = np.uint8(42)  # *
                c += stored_name
                out[np.uint64(c)] = np.uint8(0)
                c += 1
                words = c
                if is_extra:
                    for k in range(operations):
                        word = extra_cigar[np.uint64(x), np.uint64(k)]
                        if word & np.uint32(15) == CIGAR_S:
                            word ^= hard
                        store_u32(out, c + 4 * k, word)
                else:
                    for k in range(operations):
                        store_u32(out, c + 4 * k, cigar[np.uint64(r), np.uint64(k)])
                c += 4 * operations
                codes = forward
                if is_reverse != 0:
                    _reverse_codes(forward, length, backward)
                    codes = backward
                elif length == 0:
                    codes[64] = np.uint8(4)
                _put_nibbles(codes, clip, shown, nibbles, out, c)
                c += (shown + 1) >> 1
                begin = clip_behind if is_reverse != 0 else clip
                good = _put_qualities(text, fields[i, 3] + begin, kept, np.uint8(is_reverse), out, c)
                if length == 0:
                    out[np.uint64(c)] = np.uint8(NO_BASE_QUALITY)
                c += shown
                signature = NO_END
                if is_mapped:
                    offset = contig_offset[np.uint64(place_contig)]
                    seen = U(0)
                    for k in range(0, length, 32):
                        w = U(0)
                        for eighth in range(4):
                            eight = load_u64(codes, 64 + k + 8 * eighth)
                            seen |= eight
                            w |= pack8(eight & U(0x0303030303030303)) << U(16 * eighth)
                        query[np.uint64(k >> 5)] = w
                    # NM needs the walk that writes MD: it goes behind MD
                    out[np.uint64(c)] = np.uint8(77)
                    out[np.uint64(c + 1)] = np.uint8(68)
                    out[np.uint64(c + 2)] = np.uint8(90)
                    c = _put_md(
                        out,
                        c + 3,
                        words,
                        operations,
                        codes,
                        query,
                        (seen & U(0x0404040404040404)) == U(0),
                        packed,
                        offset + place_start,
                        span,
                        intervals,
                        edits,
                    )
                    out[np.uint64(c)] = np.uint8(0)
                    c = _put_int_tag(out, c + 1, 78, 77, edits[0])
                    if not is_extra:
                        quality_sum += good
                        signature = _end_signature(
                            offset, place_contig, place_start, span, measures[m, 1], measures[m, 2], is_reverse
                        )
                        primary_edits = edits[0]
                if mate_mapped:
                    out[np.uint64(c)] = np.uint8(77)
                    out[np.uint64(c + 1)] = np.uint8(67)
                    out[np.uint64(c + 2)] = np.uint8(90)
                    c = _put_cigar_text(out, c + 3, cigar[mate], np.int64(n_cigar[mate]))
                    out[np.uint64(c)] = np.uint8(0)
                    c = _put_int_tag(out, c + 1, 77, 81, np.int64(mapq[mate]))
                if is_mapped:
                    c = _put_int_tag(out, c, 65, 83, np.int64(extra_score[x] if is_extra else score[r]))
                    c = _put_int_tag(out, c, 88, 83, np.int64(extra_second_score[x] if is_extra else second_score[r]))
                if group_length > 0:
                    store_u16(out, c, np.uint16(82 | (71 << 8)))
                    out[np.uint64(c + 2)] = np.uint8(90)
                    for k in range(0, group_length, 8):
                        store_u64(out, c + 3 + k, load_u64(group, k))
                    c += 3 + group_length
                    out[np.uint64(c)] = np.uint8(0)
                    c += 1
                if last > first:
                    c = _put_places(
                        out, c, x, first, last, extra_kind, extra_contig, extra_start, extra_reverse, extra_mapq,
                        extra_cigar, extra_n_cigar, measured, np.int64(contig[r]), np.int64(start[r]),
                        np.int64(reverse[r]), np.int64(mapq[r]), primary_edits, cigar[r], np.int64(n_cigar[r]), names,
                        name_bounds,
                    )  # fmt: skip
                if alt_ratio[r] != 0 and is_mapped and not is_extra:
                    store_u32(out, c, np.uint32(112 | (97 << 8) | (102 << 16)))  # pa:f
                    store_u32(out, c + 3, alt_ratio[r])
                    c += 7
                if umi_length > 0:
                    store_u32(out, c, np.uint32(82 | (88 << 8) | (90 << 16)))  # RX:Z
                    c += 3
                    for k in range(umi_start, umi_start + umi_length):
                        letter = text1[np.uint64(k)]
                        if letter == 43 or letter == 95:  # + and _ between the two parts of a UMI: - in SAM
                            letter = np.uint8(45)
                        out[np.uint64(c)] = letter
                        c += 1
                    out[np.uint64(c)] = np.uint8(0)
                    c += 1
                store_u32(out, p, np.uint32(c - p - 4))
                if placed:
                    keys[np.uint64(n)] = (U(place_contig) << U(33)) | (U(place_start + 1) << U(1)) | U(is_reverse)
                else:
                    keys[np.uint64(n)] = UNPLACED
                ordinals[np.uint64(n)] = ordinal
                ordinal += 1
                if not is_extra:
                    signatures[i, m] = signature
                n += 1
                p = c
        if signatures[i, 0] > signatures[i, 1]:
            swap = signatures[i, 0]
            signatures[i, 0] = signatures[i, 1]
            signatures[i, 1] = swap
        quality_sums[i] = np.int32(quality_sum)
    offsets[n] = p
    if last != n_extra:
        status[0] = _BAD_EXTRA
        status[1] = extra_read[last]


@kernel(
    "void(int64, int64, uint8[::1], uint8[::1], int64[:, ::1], int64[:, ::1], uint8[::1], int32[::1], int32[::1],"
    " uint8[::1], uint8[::1], int32[::1], int32[::1], uint32[:, ::1], int32[::1], uint8[::1], int32[::1],"
    " uint32[::1], int64[::1], uint8[::1], int32[::1], int32[::1], uint8[::1], uint8[::1], int32[::1], int32[::1],"
    " uint32[:, ::1], int32[::1], uint8[::1], int64[::1], boolean, uint64[::1],"
    " int64[::1], int64[:, ::1], uint8[::1], int64, int64, uint8[::1], int64[::1], uint64[::1], int64[::1],"
    " uint64[:, ::1], int32[::1], int64[::1])"
)
def _build(
    n_pairs: Any,
    n_mates: Any,
    text1: NDArray[np.uint8],
    text2: NDArray[np.uint8],
    fields1: NDArray[np.int64],
    fields2: NDArray[np.int64],
    mapped: NDArray[np.uint8],
    contig: NDArray[np.int32],
    start: NDArray[np.int32],
    reverse: NDArray[np.uint8],
    mapq: NDArray[np.uint8],
    score: NDArray[np.int32],
    second_score: NDArray[np.int32],
    cigar: NDArray[np.uint32],
    n_cigar: NDArray[np.int32],
    proper: NDArray[np.uint8],
    trimmed: NDArray[np.int32],
    alt_ratio: NDArray[np.uint32],
    extra_read: NDArray[np.int64],
    extra_kind: NDArray[np.uint8],
    extra_contig: NDArray[np.int32],
    extra_start: NDArray[np.int32],
    extra_reverse: NDArray[np.uint8],
    extra_mapq: NDArray[np.uint8],
    extra_score: NDArray[np.int32],
    extra_second_score: NDArray[np.int32],
    extra_cigar: NDArray[np.uint32],
    extra_n_cigar: NDArray[np.int32],
    names: NDArray[np.uint8],
    name_bounds: NDArray[np.int64],
    soft_clip: Any,
    packed: NDArray[np.uint64],
    contig_offset: NDArray[np.int64],
    intervals: NDArray[np.int64],
    group: NDArray[np.uint8],
    group_length: Any,
    longest: Any,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    keys: NDArray[np.uint64],
    ordinals: NDArray[np.int64],
    signatures: NDArray[np.uint64],
    quality_sums: NDArray[np.int32],
    status: NDArray[np.int64],
) -> None:
    width = ((longest + 63) & ~63) + 192  # 64 bytes before the first base, a block and a half behind the last
    _build_all(
        n_pairs,
        n_mates,
        text1,
        text2,
        fields1,
        fields2,
        mapped,
        contig,
        start,
        reverse,
        mapq,
        score,
        second_score,
        cigar,
        n_cigar,
        proper,
        trimmed,
        alt_ratio,
        extra_read,
        extra_kind,
        extra_contig,
        extra_start,
        extra_reverse,
        extra_mapq,
        extra_score,
        extra_second_score,
        extra_cigar,
        extra_n_cigar,
        names,
        name_bounds,
        soft_clip,
        packed,
        contig_offset,
        intervals,
        group,
        group_length,
        out,
        offsets,
        keys,
        ordinals,
        signatures,
        quality_sums,
        status,
        np.zeros(width, np.uint8),  # the read's codes
        np.zeros(width, np.uint8),  # those of its reverse complement
        np.zeros(width, np.uint8),  # its bases as they are written, one a byte
        np.zeros(width // 32 + 2, np.uint64),
        np.zeros(1, np.int64),
        np.zeros((2, 4), np.int64),  # of the two mates: see _measure
        np.zeros(2, np.int64),
        np.zeros((len(extra_read), 6), np.int64),  # of the further alignments: see _measure_extra
    )
