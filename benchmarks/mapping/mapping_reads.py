# SPDX-License-Identifier: Apache-2.0
"""Simulated reads, where they come from, and where an aligner put them: arrays with one row a read.

Row 2 i is mate 1 of pair i, row 2 i + 1 mate 2; a single-end set uses the even rows only. Coordinates are 0-based
and half-open; contigs are numbered as in the reference.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pysam
from isal import igzip
from numpy.typing import NDArray

from megabolt.compute.jit import inline, kernel
from megabolt.formats.bam_reader import BamReader
from megabolt.formats.bases import CODE_OF_ASCII
from megabolt.formats.fasta import read_fasta
from megabolt.privacy.consent import Permit


@dataclass(frozen=True)
class Genome:
    """A reference: contig names, offsets of the contigs (int64 [n + 1]) in `codes` (uint8)."""

    names: tuple[str, ...]
    offset: NDArray[np.int64]
    codes: NDArray[np.uint8]


@dataclass(frozen=True)
class Reads:
    """What was simulated.

    Attributes
    ----------
    codes
        uint8 [n_rows, longest], bases in the order they were read.
    length
        int32 [n_rows]; 0 for rows that are not in use (mate 2 of single-end reads).
    truth
        Where each read comes from; its CIGARs only if a truth.bam was given.
    """

    codes: NDArray[np.uint8]
    length: NDArray[np.int32]
    truth: Placed


@dataclass(frozen=True)
class Placed:
    """Primary alignments by row.

    Attributes
    ----------
    contig
        int32; -1: unmapped or no record.
    start, end
        int32, of the aligned part on the reference.
    left, right
        int32, clipped bases (soft and hard) at either end, as on the reference.
    reverse
        uint8.
    mapq
        int16; -1 without a record.
    cigar
        uint32, all operations, one read behind the other.
    cigar_at
        int64 [n_rows], where those of a row begin; n_cigar int32: how many.
    """

    contig: NDArray[np.int32]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    reverse: NDArray[np.uint8]
    mapq: NDArray[np.int16]
    cigar: NDArray[np.uint32]
    cigar_at: NDArray[np.int64]
    n_cigar: NDArray[np.int32]

    @property
    def mapped(self) -> NDArray[np.bool_]:
        return self.contig >= 0


def empty_placed(n_rows: int) -> Placed:
    """No read has a record."""
    return Placed(
        np.full(n_rows, -1, np.int32),
        np.zeros(n_rows, np.int32),
        np.zeros(n_rows, np.int32),
        np.zeros(n_rows, np.int32),
        np.zeros(n_rows, np.int32),
        np.zeros(n_rows, np.uint8),
        np.full(n_rows, -1, np.int16),
        np.zeros(0, np.uint32),
        np.zeros(n_rows, np.int64),
        np.zeros(n_rows, np.int32),
    )


def read_genome(path: Path) -> Genome:
    """A FASTA as one array."""
    fasta = read_fasta(path)
    pieces = [fasta.fetch(i, 0, contig.length) for i, contig in enumerate(fasta.contigs)]
    offset = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return Genome(tuple(contig.name for contig in fasta.contigs), offset, np.concatenate(pieces))


def read_reads(fastqs: list[Path], genome: Genome, permit: Permit, truth_bam: Path | None = None) -> Reads:
    """The reads of one FASTQ (single-end) or two (paired) and what their names, or truth.bam, say.

    Without a truth.bam a read is taken to end `length` bases behind its start.
    """
    texts = []
    for path in fastqs:
        permit.record("open-read", path)
        texts.append(_text(path))
    size = np.zeros(3, np.int64)
    survey_fastq(texts[0], size)
    n_pairs, longest = int(size[0]), int(size[1])
    for text in texts[1:]:
        survey_fastq(text, size)
        longest = max(longest, int(size[1]))
        n_pairs = max(n_pairs, int(size[0]))
    codes = np.full((2 * n_pairs, longest), 4, np.uint8)
    length = np.zeros(2 * n_pairs, np.int32)
    truth = empty_placed(2 * n_pairs)
    names, name_at = _joined(genome.names)
    for mate, text in enumerate(texts):
        bad = fill_reads(
            text,
            mate,
            CODE_OF_ASCII,
            names,
            name_at,
            codes,
            length,
            truth.contig,
            truth.start,
            truth.end,
            truth.reverse,
        )
        if bad >= 0:
            raise ValueError(f"{fastqs[mate]}: record {bad + 1} has no name of megabolt simulate on this reference")
    truth.mapq[length > 0] = 60
    if truth_bam is not None:
        told = read_placed(truth_bam, 2 * n_pairs, genome, permit)
        told.contig[length == 0] = -1
        told.mapq[length == 0] = -1
        lost = (length > 0) & (told.contig < 0)  # inside an insertion: by name
        for name in ("contig", "start", "end", "reverse"):
            getattr(told, name)[lost] = getattr(truth, name)[lost]
        truth = told
    return Reads(codes, length, truth)


def read_placed(path: Path, n_rows: int, genome: Genome, permit: Permit) -> Placed:
    """Where an aligner put the reads: primary records of a BAM in any order, or of a SAM.

    Supplementary and secondary records are left out; of a read that has two primary records the last counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        if path.suffix == ".sam":
            path = _to_bam(path, Path(folder) / "converted.bam")
        placed = empty_placed(n_rows)
        number = {name: i for i, name in enumerate(genome.names)}
        parts: list[NDArray[np.uint32]] = []
        n_operations = 0
        with BamReader(path, permit, need_sorted=False) as reader:
            contig_of = np.array([number.get(contig.name, -1) for contig in reader.header.contigs] + [-1], np.int64)
            for block in reader.blocks():
                out = np.empty(int(block.offsets[-1] - block.offsets[0]) // 4 + 1, np.uint32)
                used = fill_placed(
                    block.data,
                    block.offsets,
                    contig_of,
                    n_operations,
                    out,
                    placed.contig,
                    placed.start,
                    placed.end,
                    placed.left,
                    placed.right,
                    placed.reverse,
                    placed.mapq,
                    placed.cigar_at,
                    placed.n_cigar,
                )
                if used < 0:
                    raise ValueError(f"{path}: a record whose name is not one of megabolt simulate")
                parts.append(out[:used].copy())
                n_operations += used
    fields = {name: getattr(placed, name) for name in Placed.__dataclass_fields__}
    fields["cigar"] = np.concatenate(parts) if parts else np.zeros(0, np.uint32)
    return Placed(**fields)


def cached_placed(path: Path, n_rows: int, genome: Genome, permit: Permit, cache: Path | None) -> Placed:
    """`read_placed`, kept in a folder until the file changes."""
    if cache is None:
        return read_placed(path, n_rows, genome, permit)
    state = path.stat()
    key = f"{path.resolve()}".strip("/").replace("/", "_")[-150:]
    kept = cache / f"{key}.{state.st_size}.{state.st_mtime_ns}.{n_rows}.npz"
    if kept.exists():
        with np.load(kept) as data:
            return Placed(**{name: data[name] for name in Placed.__dataclass_fields__})
    placed = read_placed(path, n_rows, genome, permit)
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"{key}.*.npz"):
        old.unlink(missing_ok=True)
    part = kept.with_suffix(".part.npz")
    np.savez(part, **{name: getattr(placed, name) for name in Placed.__dataclass_fields__})
    part.replace(kept)
    return placed


def _text(path: Path) -> NDArray[np.uint8]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        with igzip.open(path, "rb") as file:
            return np.frombuffer(file.read(), np.uint8)
    return np.fromfile(path, np.uint8)


def _joined(names: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    encoded = [name.encode() for name in names]
    at = np.concatenate([[0], np.cumsum([len(name) for name in encoded])]).astype(np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8).copy(), at


def _to_bam(sam: Path, bam: Path) -> Path:
    pysam.view("-u", "-o", str(bam), str(sam), catch_stdout=False)
    return bam


_TEXT = "Array(uint8, 1, 'C', readonly=True)"


@kernel(f"void({_TEXT}, int64[::1])")
def survey_fastq(text: Any, size: Any) -> Any:
    """size: one more than the highest ordinal of the names, the longest read, records."""
    at, n, longest, last = 0, 0, 0, -1
    stop = len(text)
    while at < stop:
        ordinal = np.int64(0)
        k = at + 4
        while k < stop and 48 <= text[k] <= 57:
            ordinal = ordinal * 10 + np.int64(text[k]) - 48
            k += 1
        last = max(last, ordinal)
        while k < stop and text[k] != 10:
            k += 1
        begin = k + 1
        k = begin
        while k < stop and text[k] != 10:
            k += 1
        length = k - begin
        longest = max(longest, length)
        k += 1
        while k < stop and text[k] != 10:
            k += 1
        at = k + 1 + length + 1
        n += 1
    size[0] = last + 1
    size[1] = longest
    size[2] = n


@inline
def _number(text: Any, at: Any) -> Any:
    """(value, place behind it) of a run of digits."""
    value = np.int64(0)
    while 48 <= text[at] <= 57:
        value = value * 10 + np.int64(text[at]) - 48
        at += 1
    return value, at


@kernel(
    f"int64({_TEXT}, int64, {_TEXT}, uint8[::1], int64[::1], uint8[:, ::1], int32[::1], int32[::1], int32[::1],"
    "int32[::1], uint8[::1])"
)
def fill_reads(
    text: Any,
    mate: Any,
    code_of: Any,
    names: Any,
    name_at: Any,
    codes: Any,
    length: Any,
    contig: Any,
    start: Any,
    end: Any,
    reverse: Any,
) -> Any:
    """Bases and places of one FASTQ; returns -1, or the record whose name cannot be read."""
    at, n = np.int64(0), np.int64(0)
    stop = len(text)
    while at < stop:
        if text[at] != 64 or text[at + 1] != 115 or text[at + 2] != 105 or text[at + 3] != 109:
            return n
        ordinal, k = _number(text, at + 4)
        _haplotype, k = _number(text, k + 1)
        first, k = _number(text, k + 1)
        first_sign = text[k]
        second, k = _number(text, k + 2)
        second_sign = text[k]
        k += 4  # sign _ F _
        name_begin = k
        while text[k] > 32:
            k += 1
        found = np.int64(-1)
        for c in range(len(name_at) - 1):
            size = name_at[c + 1] - name_at[c]
            if size == k - name_begin:
                same = True
                for j in range(size):
                    if names[name_at[c] + j] != text[name_begin + j]:
                        same = False
                        break
                if same:
                    found = c
                    break
        if found < 0:
            return n
        while text[k] != 10:
            k += 1
        k += 1
        row = 2 * ordinal + mate
        m = np.int64(0)
        while text[k + m] > 32:
            codes[row, m] = code_of[text[k + m]]
            m += 1
        length[row] = m
        contig[row] = found
        start[row] = (second if mate == 1 else first) - 1
        end[row] = start[row] + m
        reverse[row] = 1 if (second_sign if mate == 1 else first_sign) == 45 else 0
        k += m
        while text[k] != 10:
            k += 1
        k += 1
        while text[k] != 10:
            k += 1
        at = k + 1 + m + 1
        n += 1
    return np.int64(-1)


@inline
def _u16(data: Any, at: Any) -> Any:
    return np.int64(data[at]) | (np.int64(data[at + 1]) << 8)


@inline
def _i32(data: Any, at: Any) -> Any:
    value = _u16(data, at) | (_u16(data, at + 2) << 16)
    return value - (np.int64(1) << 32) if value >> 31 else value


@kernel(
    "int64(uint8[::1], int64[::1], int64[::1], int64, uint32[::1], int32[::1], int32[::1], int32[::1], int32[::1],"
    "int32[::1], uint8[::1], int16[::1], int64[::1], int32[::1])"
)
def fill_placed(
    data: Any,
    offsets: Any,
    contig_of: Any,
    n_before: Any,
    cigars: Any,
    contig: Any,
    start: Any,
    end: Any,
    left: Any,
    right: Any,
    reverse: Any,
    mapq: Any,
    cigar_at: Any,
    n_cigar: Any,
) -> Any:
    """The primary records of a block, by row; returns the operations written to `cigars`, or -1 for a bad name."""
    used = np.int64(0)
    for i in range(len(offsets) - 1):
        at = offsets[i] + 4
        flag = _u16(data, at + 14)
        if flag & 0x900:
            continue
        name = at + 32
        if data[name] != 115 or data[name + 1] != 105 or data[name + 2] != 109:
            return np.int64(-1)
        ordinal, _k = _number(data, name + 3)
        row = 2 * ordinal + (1 if flag & 0x80 else 0)
        if row >= len(contig):
            return np.int64(-1)
        mapq[row] = data[at + 9]
        reference = _i32(data, at)
        n = _u16(data, at + 12)
        contig[row] = contig_of[reference] if not flag & 4 and reference >= 0 and n > 0 else -1
        if contig[row] < 0:
            continue
        place = name + np.int64(data[at + 8])
        start[row] = _i32(data, at + 4)
        reverse[row] = (flag >> 4) & 1
        cigar_at[row] = n_before + used
        n_cigar[row] = n
        span, head, tail, aligned = np.int64(0), np.int64(0), np.int64(0), False
        for j in range(n):
            word = (_i32(data, place + 4 * j)) & 0xFFFFFFFF
            cigars[used] = word
            used += 1
            operation, size = word & 15, word >> 4
            if operation == 4 or operation == 5:
                if aligned:
                    tail += size
                else:
                    head += size
            else:
                aligned = True
                if operation == 0 or operation == 2 or operation == 3 or operation >= 7:
                    span += size
        end[row] = start[row] + span
        left[row] = head
        right[row] = tail
    return used
