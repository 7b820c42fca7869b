# SPDX-License-Identifier: Apache-2.0
"""Existing BAM and CRAM files: packed records of a region, or of the whole file in pieces.

In: a BAM (inflated by isal) or a CRAM (decoded by htslib into memory). Out: `RecordBlock`. Next: the caller.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING, U, load_i32, load_u16, load_u32
from megabolt.compute.jit import kernel
from megabolt.errors import InputFormatError
from megabolt.formats import bai, bgzf, cram
from megabolt.formats.bam_records import BamHeader, RecordBlock, RecordWalker, decode_header, empty_block
from megabolt.privacy.consent import Permit

#: contig index, start, stop: 0-based, half-open
Region = tuple[int, int, int]

_PIECE = 1 << 22  # inflated bytes handled at a time
_ADVICE = "The file is damaged: make it again, or copy it again and compare its checksum."


class BamReader:
    """A BAM file, open for reading; `fetch` may be called from several threads.

    Parameters
    ----------
    path
        The file.
    permit
        Leave to open these data; the file is recorded before it is opened.
    need_sorted
        Refuse records that are not sorted by coordinate.

    Raises
    ------
    InputFormatError
        Missing, unreadable, not a BAM, truncated (the end-of-file block is missing) or damaged.
    """

    def __init__(self, path: Path | str, permit: Permit, *, need_sorted: bool = True) -> None:
        permit.record("open-read", path, format="bam")
        self._open(Path(path), Path(path), need_sorted)

    @classmethod
    def _recorded(cls, source: Path, path: Path, need_sorted: bool) -> BamReader:
        """For a file whose opening was recorded already; `path` is what messages name."""
        reader = cls.__new__(cls)
        reader._open(source, path, need_sorted)
        return reader

    def _open(self, source: Path, path: Path, need_sorted: bool) -> None:
        self.path = path
        self._need_sorted = need_sorted
        self._index: bai.Index | None = None
        self._index_lock = threading.Lock()
        self._data: Any = _map(source, path)
        if self._data[:2] != b"\x1f\x8b"[: len(self._data)]:
            raise InputFormatError(path, "byte 0", "not a BAM file", "Name a BAM or CRAM file; convert SAM text.")
        bgzf.check_end(self._data, path)
        self.header, self._first_record = self._read_header()

    def fetch(self, contig: int, start: int, stop: int) -> RecordBlock:
        """Records that overlap [start, stop) of a contig; unmapped ones count at their mate's place."""
        begin = self._load_index().start_of(contig, start, stop)
        if begin is None:
            return empty_block()
        kept = []
        for block, _ in self._stream(max(begin, self._first_record)):
            rows = np.empty(block.n + 1, np.int64)
            n = int(select_overlaps(block.data, block.offsets, contig, start, stop, rows))
            kept.append(_gather(block, rows[:n]))
            if rows[block.n] == 1:
                break
        return concatenate(kept)

    def blocks(self) -> Iterator[RecordBlock]:
        """The whole file, in pieces of some megabytes."""
        for block, _ in self._stream(self._first_record):
            yield block

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    def __enter__(self) -> BamReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_header(self) -> tuple[BamHeader, int]:
        text, starts, files = b"", [], []
        for block in bgzf.blocks(self._data, self.path):
            starts.append(len(text))
            files.append(block.start)
            text += bgzf.inflate_block(self._data, block, self.path)
            found = decode_header(text, self.path)
            if found is not None:
                header, size = found
                if size == len(text):  # records begin with the next block
                    return header, block.stop << 16
                i = int(np.searchsorted(starts, size, side="right")) - 1
                return header, (files[i] << 16) | (size - starts[i])
        raise InputFormatError(self.path, "header", "the file ends inside its header", _ADVICE)

    def _stream(self, begin: int) -> Iterator[tuple[RecordBlock, list[tuple[int, int]]]]:
        """Records from a virtual offset on, with (inflated size, file offset) of the blocks they came in."""
        walker = RecordWalker(self.header, self.path, need_sorted=self._need_sorted)
        place, skip = begin >> 16, begin & 0xFFFF
        rest = np.empty(0, np.uint8)
        while place < len(self._data):
            table, total = [], 0
            while place < len(self._data) and total < _PIECE:
                block = bgzf.read_block_at(self._data, place, self.path)
                table.append(block)
                total += block.inflated_size
                place = block.stop
            data = np.zeros(len(rest) + total + PADDING, np.uint8)
            data[: len(rest)] = rest
            filled = len(rest)
            for block in table:
                inflated = bgzf.inflate_block(self._data, block, self.path)
                data[filled : filled + len(inflated)] = np.frombuffer(inflated, np.uint8)
                filled += len(inflated)
            offsets = walker.walk(data, min(skip, filled), filled)
            skip = 0
            rest = data[offsets[-1] : filled].copy()
            yield RecordBlock(data, offsets), [(block.inflated_size, block.start) for block in table]
        if len(rest):
            raise InputFormatError(self.path, "", "the file ends inside a record", _ADVICE)

    def _load_index(self) -> bai.Index:
        with self._index_lock:
            if self._index is None:
                found = _index_file(self.path)
                self._index = bai.read_index(found) if found else self._make_index()
                if found and len(self._index.windows) != len(self.header.contigs):
                    why = f"the index of {self.path} has another number of contigs"
                    raise InputFormatError(found, "", why, "Make the index again: samtools index.")
            return self._index

    def _make_index(self) -> bai.Index:
        """Read the whole file once: for files without an index, or with one that is older than they are."""
        builder = bai.IndexBuilder([contig.length for contig in self.header.contigs])
        inflated = self._first_record & 0xFFFF  # offsets count from the start of the first record's block
        starts, files = [0], []
        for block, table in self._stream(self._first_record):
            for size, file_offset in table:
                files.append(file_offset)
                starts.append(starts[-1] + size)
            builder.add(block, inflated)
            inflated += int(block.offsets[-1] - block.offsets[0])
        files.append(len(self._data))
        places = np.array(starts, np.int64), np.array(files, np.uint64)

        def virtual(offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
            i = np.searchsorted(places[0], offsets, side="right") - 1
            return (places[1][i] << np.uint64(16)) | (offsets - places[0][i]).astype(np.uint64)

        return builder.finish(virtual)


class CramReader:
    """A CRAM file, decoded by htslib into memory, region by region.

    Parameters
    ----------
    path
        The file.
    permit
        Leave to open these data; the file is recorded before it is opened.
    reference
        The FASTA the reads were aligned to.
    need_sorted
        Refuse records that are not sorted by coordinate.

    Raises
    ------
    InputFormatError
        No reference, not a CRAM, truncated (the end-of-file container is missing) or damaged.
    """

    def __init__(
        self, path: Path | str, permit: Permit, *, reference: Path | None = None, need_sorted: bool = True
    ) -> None:
        permit.record("open-read", path, format="cram")
        self._open(Path(path), reference, need_sorted)

    @classmethod
    def _recorded(cls, path: Path, reference: Path | None, need_sorted: bool) -> CramReader:
        """For a file whose opening was recorded already."""
        reader = cls.__new__(cls)
        reader._open(path, reference, need_sorted)
        return reader

    def _open(self, path: Path, reference: Path | None, need_sorted: bool) -> None:
        self.path = path
        self._need_sorted = need_sorted
        if reference is None:
            why = "a CRAM file needs its reference"
            raise InputFormatError(path, "", why, "Name the FASTA the reads were aligned to.")
        cram.check_end(path)
        with ExitStack() as stack:
            self._reference = stack.enter_context(cram.indexed_reference(Path(reference)))
            with self._decoded(header_only=True) as reader:
                self.header = reader.header
            cram.check_reference(self._reference, self.header.contigs, Path(reference), path)
            self._stack = stack.pop_all()  # open until close()

    def fetch(self, contig: int, start: int, stop: int) -> RecordBlock:
        """Records that overlap [start, stop) of a contig; needs the .crai index."""
        if not any(candidate.exists() for candidate in _siblings(self.path, ".crai")):
            raise InputFormatError(self.path, "", "the index (.crai) is missing", "Make it: samtools index.")
        name = self.header.contigs[contig].name
        with self._decoded(f"{{{name}}}:{start + 1}-{stop}") as reader:
            return concatenate(list(reader.blocks()))

    def blocks(self) -> Iterator[RecordBlock]:
        """The whole file, in pieces; it is held in memory while they are given out."""
        with self._decoded() as reader:
            yield from reader.blocks()

    def close(self) -> None:
        """Forget the reference."""
        self._stack.close()

    def __enter__(self) -> CramReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _decoded(self, region: str = "", *, header_only: bool = False) -> Iterator[BamReader]:
        with (
            cram.decoded(self.path, self._reference, region, header_only=header_only) as bam,
            BamReader._recorded(bam, self.path, self._need_sorted) as reader,
        ):
            yield reader


def open_reads(
    path: Path | str, permit: Permit, *, reference: Path | None = None, need_sorted: bool = True
) -> BamReader | CramReader:
    """Open a BAM or CRAM file, told apart by its first bytes.

    Parameters
    ----------
    path
        The file.
    permit
        Leave to open these data; the file is recorded before it is opened.
    reference
        The FASTA the reads were aligned to; needed for CRAM.
    need_sorted
        Refuse records that are not sorted by coordinate.

    Raises
    ------
    InputFormatError
        Neither BAM nor CRAM, truncated or damaged; see `BamReader`.
    """
    path = Path(path)
    permit.record("open-read", path, format="bam or cram")
    if bytes(_map(path, path)[:4]) == b"CRAM":
        return CramReader._recorded(path, reference, need_sorted)
    return BamReader._recorded(path, path, need_sorted)


def read_records(
    path: Path | str,
    permit: Permit,
    *,
    region: Region | None = None,
    reference: Path | None = None,
    need_sorted: bool = True,
) -> RecordBlock:
    """All records of a BAM or CRAM file, or those that overlap a region (contig index, start, stop).

    See `open_reads` for the other parameters and the errors.
    """
    with open_reads(path, permit, reference=reference, need_sorted=need_sorted) as reader:
        return reader.fetch(*region) if region is not None else concatenate(list(reader.blocks()))


def concatenate(blocks: list[RecordBlock]) -> RecordBlock:
    """The records of several blocks in one."""
    if not blocks:
        return empty_block()
    if len(blocks) == 1:
        return blocks[0]
    sizes = [int(block.offsets[-1] - block.offsets[0]) for block in blocks]
    data, offsets, filled = np.zeros(sum(sizes) + PADDING, np.uint8), [np.zeros(1, np.int64)], 0
    for block, size in zip(blocks, sizes):
        data[filled : filled + size] = block.data[block.offsets[0] : block.offsets[-1]]
        offsets.append(block.offsets[1:] - block.offsets[0] + filled)
        filled += size
    return RecordBlock(data, np.concatenate(offsets))


def _gather(block: RecordBlock, rows: NDArray[np.int64]) -> RecordBlock:
    """A copy of some records, in order."""
    sizes = block.offsets[rows + 1] - block.offsets[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    data = np.zeros(int(offsets[-1]) + PADDING, np.uint8)
    copy_records(block.data, block.offsets, rows, offsets, data)
    return RecordBlock(data, offsets)


def _map(source: Path, path: Path) -> Any:
    try:
        with open(source, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise InputFormatError(path, "", "the file is empty", "Check how it was made or copied.") from error
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        raise InputFormatError(path, "", why, "Check the path and its permissions.") from error


def _siblings(path: Path, *suffixes: str) -> list[Path]:
    return [made for suffix in suffixes for made in (Path(f"{path}{suffix}"), path.with_suffix(suffix))]


def _index_file(path: Path) -> Path | None:
    """The index beside a BAM, unless it is older than the BAM (then it may be another file's)."""
    try:
        made = path.stat().st_mtime
        for candidate in _siblings(path, ".bai", ".csi"):
            if candidate.exists() and candidate.stat().st_mtime >= made:
                return candidate
    except OSError:
        pass
    return None


@kernel("int64(uint8[::1], int64[::1], int64, int64, int64, int64[::1])")
def select_overlaps(data: Any, offsets: Any, contig: Any, start: Any, stop: Any, rows: Any) -> Any:
    """Fill `rows` with the records that overlap [start, stop) of a contig; returns how many there are.

    rows[n_records] is set to 1 if the records have passed the region, else to 0.
    """
    n, n_records = 0, len(offsets) - 1
    rows[n_records] = 0
    for i in range(n_records):
        place = offsets[i]
        other, pos = np.int64(load_i32(data, place + 4)), np.int64(load_i32(data, place + 8))
        if other > contig or other < 0 or (other == contig and pos >= stop):
            rows[n_records] = 1
            break
        if other < contig:
            continue
        end = pos
        if load_u16(data, place + 18) & 4 == 0:
            cigar = place + 36 + np.int64(data[U(place + 12)])
            for k in range(np.int64(load_u16(data, place + 16))):
                operation = np.int64(load_u32(data, cigar + 4 * k))
                if (0x18D >> (operation & 15)) & 1 != 0:  # M D N = X
                    end += operation >> 4
        if max(end, pos + 1) > start:
            rows[n] = i
            n += 1
    return n


@kernel("void(uint8[::1], int64[::1], int64[::1], int64[::1], uint8[::1])")
def copy_records(data: Any, offsets: Any, rows: Any, out_offsets: Any, out: Any) -> Any:
    """Copy the chosen records one after another."""
    for i in range(len(rows)):
        source = data[offsets[rows[i]] : offsets[rows[i] + 1]]
        out[out_offsets[i] : out_offsets[i + 1]] = source
