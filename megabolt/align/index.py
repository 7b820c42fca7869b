# SPDX-License-Identifier: Apache-2.0
"""The index of a reference: one memory-mapped file beside the FASTA, `REF.fa.mbx`.

In: FASTA. Out: `Index`. Next: `align/engine.py`.

Content: the genome in 2-bit words with every contig at a fixed offset and GAP filler bases around it, the
intervals of N, and a table of 64-byte buckets keyed by seeds (`align/table.py`). An entry holds the place of a
unique seed, or points to the complete, position-sorted list of a repeated one. N and filler hold arbitrary
bases (a hash of the position), so that nothing aligns to them by accident; no seed touches them.

The file carries the size and digest of its FASTA, a format version, the byte order, and a CRC-32 of each 16 MiB:
an index that is stale, foreign, damaged or cut short is refused.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from megabolt.align.build import TableBuilder, stretches
from megabolt.align.packed import Tables
from megabolt.align.table import BUCKET, CORE, INNER, SEED, mix
from megabolt.compute.bits import U
from megabolt.compute.jit import kernel
from megabolt.errors import InputFormatError, UsageError
from megabolt.formats import bases
from megabolt.formats.fasta import Contig, read_fasta
from megabolt.formats.output import atomic_output

MAGIC = b"megabolt"
FORMAT_VERSION = 2
SUFFIX = ".mbx"

#: Filler before, between and behind the contigs: more than the longest fragment that counts as a pair.
GAP = 4096
#: Unused words in front of and behind the lists, so that a prefetch stays inside.
_MARGIN = 8
_CRC_BLOCK = 1 << 24


@dataclass(frozen=True)
class Index:
    """A reference ready to be aligned to. Satisfies `formats.fasta.Reference`.

    packed_reference: uint64 [words], base i in bits 2 * (i % 32) of word i // 32.
    contig_offset: int64 [n], place of each contig's first base; contig_stop: int64 [n], the place behind its last.
    n_intervals: int64 [k, 2], half-open places that are N in the FASTA, sorted.
    table: uint64 [8 * n_buckets]; lists: uint64, places of repeated seeds (place << 1 | strand).
    is_alt: uint8 [n], 1 for alternate contigs; circular: int64 [2], place and length of the circular contig or 0, 0.
    range_buckets: see `align/table.py`.
    """

    path: Path
    contigs: tuple[Contig, ...]
    packed_reference: NDArray[np.uint64]
    contig_offset: NDArray[np.int64]
    contig_stop: NDArray[np.int64]
    n_intervals: NDArray[np.int64]
    table: NDArray[np.uint64]
    lists: NDArray[np.uint64]
    is_alt: NDArray[np.uint8]
    circular: NDArray[np.int64]
    range_buckets: int

    @property
    def n_buckets(self) -> int:
        return len(self.table) // BUCKET

    def tables(self) -> Tables:
        """The arrays as the placement kernels take them."""
        return Tables(
            reference=self.packed_reference,
            table=self.table,
            lists=self.lists,
            contig_offset=self.contig_offset,
            contig_stop=self.contig_stop,
            is_alt=self.is_alt,
            circular=self.circular,
            range_buckets=np.uint64(self.range_buckets),
        )

    def fetch(self, contig: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Base codes of [start, stop) of a contig; N outside it."""
        codes = np.full(stop - start, bases.N, np.uint8)
        inside_start, inside_stop = max(start, 0), min(stop, self.contigs[contig].length)
        if inside_start < inside_stop:
            offset = int(self.contig_offset[contig])
            _unpack(
                self.packed_reference,
                offset + inside_start,
                codes[inside_start - start : inside_stop - start],
            )
            first = np.searchsorted(self.n_intervals[:, 1], offset + inside_start, "right")
            last = np.searchsorted(self.n_intervals[:, 0], offset + inside_stop, "left")
            for n_start, n_stop in self.n_intervals[first:last] - offset - start:
                codes[max(n_start, 0) : max(n_stop, 0)] = bases.N
        return codes


def index_path(fasta: Path) -> Path:
    """Where the index of a FASTA lies."""
    return fasta.with_name(fasta.name + SUFFIX)


# ---------------------------------------------------------------------------------------------------- building


@kernel("void(uint8[::1], int64, uint64[::1])")
def _pack(codes: NDArray[np.uint8], offset: int, words: NDArray[np.uint64]) -> None:
    """Put base codes at a place (a multiple of 32); N becomes an arbitrary base."""
    for first in range(0, len(codes), 32):
        word = U(0)
        for i in range(first, min(first + 32, len(codes))):
            code = U(codes[i])
            if code > U(3):
                code = mix(U(offset + i)) & U(3)
            word |= code << U(2 * (i - first))
        if len(codes) - first < 32:
            word |= mix(U(offset + first)) << U(2 * (len(codes) - first))
        words[(offset + first) >> 5] = word


@kernel("void(uint64[::1], int64, uint8[::1])")
def _unpack(words: NDArray[np.uint64], place: int, codes: NDArray[np.uint8]) -> None:
    for i in range(len(codes)):
        p = place + i
        codes[i] = np.uint8((words[p >> 5] >> U((p & 31) * 2)) & U(3))


@kernel("void(uint64[::1])")
def _fill(words: NDArray[np.uint64]) -> None:
    for w in range(len(words)):
        words[w] = mix(U(w) ^ U(0xF111E5))


def _intervals_of_n(codes: NDArray[np.uint8], offset: int) -> NDArray[np.int64]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (codes >= bases.N).view(np.int8), [0]))))
    return edges.reshape(-1, 2).astype(np.int64) + offset


def build_index(fasta: Path, threads: int = 1) -> Path:
    """Index a FASTA (plain or gzipped): writes `FASTA.mbx` beside it, whole or not at all.

    Raises
    ------
    InputFormatError
        Not a FASTA (see `formats.fasta.read_fasta`).
    UsageError
        The genome has more than 2^32 - 1 bases.
    OutputError
        The folder cannot be written or the disk is full.
    """
    digest = file_digest(fasta)
    reference = read_fasta(fasta)
    offsets, place = [], GAP
    for contig in reference.contigs:
        offsets.append(place)
        place += (contig.length + 31) // 32 * 32 + GAP
    if place >= 1 << 32:
        raise UsageError(f"{fasta}: the genome has {place:,} bases, more than the index can address (2^32)")
    words = np.empty(place // 32 + 64, np.uint64)
    _fill(words)
    intervals = [np.empty((0, 2), np.int64)]
    pieces = []
    for i, (contig, offset) in enumerate(zip(reference.contigs, offsets, strict=True)):
        codes = np.ascontiguousarray(reference.fetch(i, 0, contig.length))
        _pack(codes, offset, words)
        intervals.append(_intervals_of_n(codes, offset))
        pieces += stretches(offset, offset + contig.length, intervals[-1])
    builder = TableBuilder(words, pieces, threads)
    parts = list(builder.parts(_MARGIN))
    margin = np.zeros(_MARGIN, np.uint64)
    table = np.concatenate([table for table, _ in parts])
    lists = np.concatenate([margin, *(lists for _, lists in parts), margin])
    arrays = {
        "packed_reference": words,
        "contig_offset": np.array(offsets, np.int64),
        "n_intervals": np.concatenate(intervals),
        "table": table,
        "lists": lists,
    }
    header = {
        "version": FORMAT_VERSION,
        "byteorder": sys.byteorder,
        "seed": [SEED, CORE, INNER],
        "gap": GAP,
        "range_buckets": builder.range_buckets,
        "fasta": {
            "name": fasta.name,
            "size": fasta.stat().st_size,
            "sha256": digest,
            "mtime_ns": fasta.stat().st_mtime_ns,
        },
        "contigs": [[c.name, c.length, c.md5] for c in reference.contigs],
    }
    path = index_path(fasta)
    with atomic_output(path) as temporary:
        _write(temporary, header, arrays)
    return path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputFormatError(
            path, "", f"cannot be read: {error.strerror}", "Check the path and its permissions."
        ) from error


# ------------------------------------------------------------------------------------------------ file format


def _write(path: Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """magic (8) | header length, CRC-32 of the header (8) | JSON | arrays, each on a 4,096-byte boundary."""
    layout: dict[str, Any] = {}
    # The JSON's own length moves the arrays: reserve room for numbers of any size, then place them.
    position = 4096 * (2 + (len(json.dumps(header)) + 400 * len(arrays) + _crc_room(arrays)) // 4096)
    start = position
    for name, array in arrays.items():
        layout[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "offset": position}
        position += (array.nbytes + 4095) // 4096 * 4096
    crcs = {name: _checksums(array) for name, array in arrays.items()}
    text = json.dumps({**header, "arrays": layout, "crc32": crcs, "size": position}).encode()
    with path.open("wb") as handle:
        handle.write(MAGIC + struct.pack("<II", len(text), isal_zlib.crc32(text)) + text)
        handle.write(bytes(start - handle.tell()))
        for array in arrays.values():
            handle.write(_bytes_of(array))
            handle.write(bytes(-handle.tell() % 4096))


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _crc_room(arrays: dict[str, NDArray[Any]]) -> int:
    return sum(14 * (array.nbytes // _CRC_BLOCK + 1) for array in arrays.values())


def _checksums(array: NDArray[Any]) -> list[int]:
    if array.nbytes == 0:
        return []
    data = _bytes_of(array)
    return [isal_zlib.crc32(data[i : i + _CRC_BLOCK]) for i in range(0, len(data), _CRC_BLOCK)]


def open_index(fasta: Path) -> Index:
    """Map the index of a FASTA into memory.

    Raises
    ------
    InputFormatError
        No index, not an index, of another version or byte order, damaged, or made from another FASTA.
    """
    path = index_path(fasta)
    rebuild = f"Make it with: megabolt index {fasta}"
    if not fasta.exists():
        raise InputFormatError(fasta, "", "no such reference", "Check the path given to --reference.")
    if not path.exists():
        raise InputFormatError(path, "", "the reference has no index", rebuild)
    header = _read_header(path, rebuild)
    _check_fasta(fasta, path, header["fasta"], rebuild)
    arrays = {}
    for name, layout in header["arrays"].items():
        shape = tuple(layout["shape"])
        if 0 in shape:
            arrays[name] = np.empty(shape, np.dtype(layout["dtype"]))
            continue
        # Mode "c": kernels want writable arrays; a private mapping never writes back.
        arrays[name] = np.memmap(path, np.dtype(layout["dtype"]), "c", layout["offset"], shape)
        if _checksums(arrays[name]) != header["crc32"][name]:
            raise InputFormatError(path, f"array {name}", "the index is damaged (CRC-32 differs)", rebuild)
    contigs = tuple(Contig(name, length, md5) for name, length, md5 in header["contigs"])
    offsets = np.asarray(arrays["contig_offset"])
    return Index(
        path=fasta,
        contigs=contigs,
        packed_reference=np.asarray(arrays["packed_reference"]),
        contig_offset=offsets,
        contig_stop=offsets + np.array([c.length for c in contigs], np.int64),
        n_intervals=np.asarray(arrays["n_intervals"]),
        table=np.asarray(arrays["table"]),
        lists=np.asarray(arrays["lists"]),
        is_alt=np.zeros(len(contigs), np.uint8),
        circular=np.zeros(2, np.int64),
        range_buckets=header["range_buckets"],
    )


def _read_header(path: Path, rebuild: str) -> dict[str, Any]:
    try:
        with path.open("rb") as handle:
            start = handle.read(16)
            if start[:8] != MAGIC or len(start) < 16:
                raise InputFormatError(path, "byte 0", "not a megabolt index", rebuild)
            length, crc = struct.unpack("<II", start[8:])
            text = handle.read(length)
            size = handle.seek(0, 2)
    except OSError as error:
        raise InputFormatError(path, "", f"cannot be read: {error.strerror}", rebuild) from error
    if len(text) < length or isal_zlib.crc32(text) != crc:
        raise InputFormatError(path, "header", "the index is damaged (CRC-32 differs)", rebuild)
    header: dict[str, Any] = json.loads(text)
    if header["version"] != FORMAT_VERSION or header["seed"] != [SEED, CORE, INNER] or header["gap"] != GAP:
        raise InputFormatError(path, "header", f"made for another version (format {header['version']})", rebuild)
    if header["byteorder"] != sys.byteorder:
        raise InputFormatError(path, "header", "made on a machine of the other byte order", rebuild)
    if size != header["size"]:
        raise InputFormatError(path, f"byte {size}", f"the index is cut short ({header['size']} expected)", rebuild)
    return header


def _check_fasta(fasta: Path, path: Path, made_from: dict[str, Any], rebuild: str) -> None:
    """A FASTA of the same size and time is taken to be the same; otherwise its digest decides."""
    stat = fasta.stat()
    if stat.st_size == made_from["size"] and stat.st_mtime_ns == made_from["mtime_ns"]:
        return
    if stat.st_size != made_from["size"] or file_digest(fasta) != made_from["sha256"]:
        raise InputFormatError(path, "", f"stale: {fasta.name} has changed since the index was made", rebuild)
