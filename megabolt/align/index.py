# SPDX-License-Identifier: Apache-2.0
"""The index of a reference: one memory-mapped file beside the FASTA, `REF.fa.mbx`.

In: FASTA. Out: `Index`. Next: `align/engine.py`.

Content: the genome in 2-bit words with every contig at a fixed offset and GAP filler bases around it, the
intervals of N, and a table of 64-byte buckets keyed by seeds (`align/table.py`). An entry holds the place of a
unique seed, or points to the complete, position-sorted list of a repeated one. N and filler hold arbitrary
bases (a hash of the position), so that nothing aligns to them by accident; no seed touches them.

The file carries the size and digest of its FASTA, a format version, the byte order, and a CRC-32 of each 16 MiB:
an index that is stale, foreign, damaged or cut short is refused. All of it is checked at each start, with threads:
that costs about what reading it costs, and leaves every page where the first look-up wants it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from megabolt.align.build import TableBuilder, stretches
from megabolt.align.packed import Tables
from megabolt.align.table import BUCKET, CORE, INNER, SEED, mix
from megabolt.compute.bits import U
from megabolt.compute.jit import kernel
from megabolt.errors import InputFormatError, InternalError, UsageError
from megabolt.formats import bases
from megabolt.formats.fasta import Contig, read_contigs
from megabolt.formats.output import atomic_output

MAGIC = b"megabolt"
FORMAT_VERSION = 2
SUFFIX = ".mbx"

#: Filler before, between and behind the contigs: more than the longest fragment that counts as a pair.
GAP = 4096
#: Unused words in front of and behind the lists, so that a prefetch stays inside.
_MARGIN = 8
#: Bases of a circular contig that the filler repeats at either end: more than a fragment and a read. A multiple of 32.
CIRCULAR_MARGIN = 4032
_CRC_BLOCK = 1 << 24
#: Arrays of so many bytes are copied into huge pages if all of them are together no larger than the second figure: a
#: look-up then waits less for the address of its page. Copies of larger ones would take seconds, and memory twice.
_LEAST_COPIED, _MOST_COPIED = 1 << 24, 1 << 30


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
def _pack(codes: NDArray[np.uint8], place: int, words: NDArray[np.uint64]) -> None:
    """The words of base codes that lie at a place (a multiple of 32); N becomes an arbitrary base."""
    for first in range(0, len(codes), 32):
        word = U(0)
        for i in range(first, min(first + 32, len(codes))):
            code = U(codes[i])
            if code > U(3):
                code = mix(U(place + i)) & U(3)
            word |= code << U(2 * (i - first))
        if len(codes) - first < 32:
            word |= mix(U(place + first)) << U(2 * (len(codes) - first))
        words[first >> 5] = word


@kernel("void(uint64[::1], int64, uint8[::1])")
def _unpack(words: NDArray[np.uint64], place: int, codes: NDArray[np.uint8]) -> None:
    for i in range(len(codes)):
        p = place + i
        codes[i] = np.uint8((words[p >> 5] >> U((p & 31) * 2)) & U(3))


@kernel("void(uint64[::1])")
def _fill(words: NDArray[np.uint64]) -> None:
    for w in range(len(words)):
        words[w] = mix(U(w) ^ U(0xF111E5))


@kernel("int64(uint8[::1], int64[::1])")
def _edges_of_n(codes: NDArray[np.uint8], edges: NDArray[np.int64]) -> int:
    """Fill the starts and stops of runs of N; returns how many there are. More than fit are counted, not stored."""
    found = 0
    inside = False
    for i in range(len(codes)):
        if (codes[i] > 3) != inside:
            if found < len(edges):
                edges[found] = i
            found += 1
            inside = not inside
    if inside:
        if found < len(edges):
            edges[found] = len(codes)
        found += 1
    return found


def _intervals_of_n(codes: NDArray[np.uint8], place: int) -> NDArray[np.int64]:
    edges = np.empty(1 << 10, np.int64)
    while (n := int(_edges_of_n(codes, edges))) > len(edges):
        edges = np.empty(n, np.int64)
    return edges[:n].reshape(-1, 2) + place


@dataclass
class _Genome:
    """A FASTA as it is indexed. pieces: see `build.TableBuilder`; circular: ordinal of that contig, or None."""

    contigs: list[Contig]
    offsets: list[int]
    words: NDArray[np.uint64]
    n_intervals: NDArray[np.int64]
    pieces: list[tuple[int, int]]
    circular: int | None


def _read_genome(fasta: Path, circular: str | None) -> _Genome:
    """Pack a FASTA, contig by contig."""
    contigs, offsets, intervals, pieces = [], [], [np.empty((0, 2), np.int64)], []
    packed: list[tuple[int, NDArray[np.uint64]]] = []
    offset, circular_at = GAP, None
    for contig, codes in read_contigs(fasta):
        contigs.append(contig)
        offsets.append(offset)
        intervals.append(_intervals_of_n(codes, offset))
        place, stop = offset, offset + contig.length
        if contig.name == circular:
            if contig.length < CIRCULAR_MARGIN:
                raise UsageError(f"contig {circular} is too short to be circular ({contig.length} bases)")
            circular_at = len(contigs) - 1
            codes = np.concatenate([codes[-CIRCULAR_MARGIN:], codes, codes[:CIRCULAR_MARGIN]])
            crossing = codes[CIRCULAR_MARGIN : CIRCULAR_MARGIN + contig.length + SEED - 1]
            pieces += stretches(offset, stop + SEED - 1, _intervals_of_n(crossing, offset))
            place -= CIRCULAR_MARGIN
        else:
            pieces += stretches(offset, stop, intervals[-1])
        words = np.empty((len(codes) + 31) // 32, np.uint64)
        _pack(codes, place, words)
        packed.append((place // 32, words))
        offset += (contig.length + 31) // 32 * 32 + GAP
        if offset >= 1 << 32:
            raise UsageError(f"{fasta}: the genome has more bases than the index can address (2^32)")
    if circular is not None and circular_at is None:
        raise UsageError(f"{fasta} has no contig {circular}", "Name a contig of the FASTA with --circular.")
    genome = np.empty(offset // 32 + 64, np.uint64)
    _fill(genome)
    for first, words in packed:
        genome[first : first + len(words)] = words
    return _Genome(contigs, offsets, genome, np.concatenate(intervals), pieces, circular_at)


def build_index(fasta: Path, threads: int = 1, circular: str | None = None) -> Path:
    """Index a FASTA (plain or gzipped): writes `FASTA.mbx` beside it, whole or not at all.

    The result does not depend on the number of threads. Memory: 2 bytes a base.

    Parameters
    ----------
    circular
        Name of the contig that is a circle (chrM): reads across its end are placed.

    Raises
    ------
    InputFormatError
        Not a FASTA (see `formats.fasta.read_fasta`).
    UsageError
        The genome has more than 2^32 - 1 bases; no such circular contig.
    OutputError
        The folder cannot be written or the disk is full.
    """
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(file_digest, fasta)
        genome = _read_genome(fasta, circular)
    stat = fasta.stat()
    alt = alt_path(fasta)
    names = _alt_names(alt) if alt else set()
    header = {
        "version": FORMAT_VERSION,
        "byteorder": sys.byteorder,
        "seed": [SEED, CORE, INNER],
        "gap": GAP,
        "fasta": {
            "name": fasta.name,
            "size": stat.st_size,
            "sha256": digest.result(),
            "mtime_ns": stat.st_mtime_ns,
        },
        "alt": file_digest(alt) if alt else None,
        "contigs": [[c.name, c.length, c.md5] for c in genome.contigs],
        "alt_contigs": [i for i, c in enumerate(genome.contigs) if c.name in names],
        "circular": genome.circular,
    }
    path = index_path(fasta)
    builder = TableBuilder(genome.words, genome.pieces, threads)
    header["range_buckets"] = builder.range_buckets
    with atomic_output(path) as temporary:
        _write(temporary, header, genome, builder)
    return path


def alt_path(fasta: Path) -> Path | None:
    """The file that names the alternate contigs of a FASTA, as for bwa: REF.fa.alt. None if there is none."""
    names = [fasta.name, fasta.name.removesuffix(".gz")]
    paths = [fasta.with_name(name + ".alt") for name in names]
    return next((path for path in paths if path.is_file()), None)


def _alt_names(path: Path) -> set[str]:
    """First columns of the alignments of alternate contigs, SAM-like; only the names matter."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise InputFormatError(path, "", f"cannot be read: {error.strerror}", "Check its permissions.") from error
    return {line.split()[0] for line in lines if line.strip() and not line.startswith("@")}


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


class _Writer:
    """Writes arrays, in parts, on 4,096-byte boundaries, and notes where they lie and the CRC-32 of each block."""

    def __init__(self, handle: BinaryIO, start: int) -> None:
        self.layout: dict[str, Any] = {}
        self.crc32: dict[str, list[int]] = {}
        self.position = start
        self._handle = handle
        handle.seek(start)

    def add(self, name: str, parts: Iterable[NDArray[Any]], dtype: type, columns: tuple[int, ...] = ()) -> None:
        """Write an array of a dtype from its parts; its second dimension, if it has one, in `columns`."""
        crcs: list[int] = []
        size = 0
        for part in parts:
            data = np.ascontiguousarray(part, dtype).reshape(-1).view(np.uint8).data
            self._handle.write(data)
            done = 0
            while done < len(data):
                n = min(len(data) - done, _CRC_BLOCK - size % _CRC_BLOCK)
                if size % _CRC_BLOCK == 0:
                    crcs.append(0)
                crcs[-1] = isal_zlib.crc32(data[done : done + n], crcs[-1])
                done += n
                size += n
        items = size // np.dtype(dtype).itemsize
        shape = [items // max(1, math.prod(columns)), *columns]
        self.layout[name] = {"dtype": np.dtype(dtype).str, "shape": shape, "offset": self.position}
        self.crc32[name] = crcs
        self._handle.write(bytes(-size % 4096))
        self.position += size + -size % 4096


def _write(path: Path, header: dict[str, Any], genome: _Genome, builder: TableBuilder) -> None:
    """magic (8) | header length, CRC-32 of the header (8) | JSON | arrays, each on a 4,096-byte boundary."""
    arrays = {
        "packed_reference": (genome.words, np.uint64, ()),
        "contig_offset": (np.array(genome.offsets, np.int64), np.int64, ()),
        "n_intervals": (genome.n_intervals, np.int64, (2,)),
    }
    # The header comes first and is known last: room for it. A CRC-32 takes at most 12 letters.
    most = sum(array.nbytes for array, _, _ in arrays.values()) + 8 * (builder.n_buckets * BUCKET + builder.most_listed)
    room = 4096 * (2 + (len(json.dumps(header)) + 4000 + 12 * (most // _CRC_BLOCK + 16)) // 4096)
    margin = np.zeros(_MARGIN, np.uint64)
    lists = [margin]
    with path.open("wb") as handle:
        writer = _Writer(handle, room)
        for name, (array, dtype, columns) in arrays.items():
            writer.add(name, [array], dtype, columns)

        def table() -> Iterator[NDArray[np.uint64]]:
            for part, listed in builder.parts(_MARGIN):
                lists.append(listed)
                yield part

        writer.add("table", table(), np.uint64)
        writer.add("lists", [*lists, margin], np.uint64)
        text = json.dumps({**header, "arrays": writer.layout, "crc32": writer.crc32, "size": writer.position}).encode()
        if len(text) + 16 > room:
            raise InternalError(f"{path}: the header of the index needs {len(text)} bytes and has {room}")
        handle.seek(0)
        handle.write(MAGIC + struct.pack("<II", len(text), isal_zlib.crc32(text)) + text)


def open_index(fasta: Path, *, for_lookup: bool = False) -> Index:
    """Map the index of a FASTA into memory.

    Parameters
    ----------
    fasta
        The reference; its index lies beside it.
    for_lookup
        It is for many look-ups: what is not large is copied into huge pages.

    Raises
    ------
    InputFormatError
        No index, not an index, of another version or byte order, damaged, or made from another FASTA or .alt file.
    """
    path = index_path(fasta)
    rebuild = f"Make it with: megabolt index {fasta}"
    if not fasta.exists():
        raise InputFormatError(fasta, "", "no such reference", "Check the path given to --reference.")
    if not path.exists():
        raise InputFormatError(path, "", "the reference has no index", rebuild)
    header = _read_header(path, rebuild)
    _check_fasta(fasta, path, header["fasta"], rebuild)
    alt = alt_path(fasta)
    if alt is not None and file_digest(alt) != header["alt"]:
        raise InputFormatError(path, "", f"stale: {alt.name} has changed since the index was made", rebuild)
    arrays = {}
    for name, layout in header["arrays"].items():
        shape, dtype = tuple(layout["shape"]), np.dtype(layout["dtype"])
        # Mode "c": kernels want writable arrays; a private mapping never writes back.
        arrays[name] = np.empty(shape, dtype) if 0 in shape else np.memmap(path, dtype, "c", layout["offset"], shape)
    large = {name: array for name, array in arrays.items() if array.nbytes >= _LEAST_COPIED}
    copies = {}
    if for_lookup and hasattr(mmap, "MADV_HUGEPAGE") and sum(array.nbytes for array in large.values()) <= _MOST_COPIED:
        copies = {name: _in_huge_pages(array) for name, array in large.items()}
    _check_arrays(path, arrays, copies, header["crc32"], rebuild)
    arrays |= copies
    contigs = tuple(Contig(name, length, md5) for name, length, md5 in header["contigs"])
    offsets = np.asarray(arrays["contig_offset"])
    is_alt = np.zeros(len(contigs), np.uint8)
    is_alt[header["alt_contigs"]] = 1
    circle = header["circular"]
    return Index(
        path=fasta,
        contigs=contigs,
        packed_reference=np.asarray(arrays["packed_reference"]),
        contig_offset=offsets,
        contig_stop=offsets + np.array([c.length for c in contigs], np.int64),
        n_intervals=np.asarray(arrays["n_intervals"]),
        table=np.asarray(arrays["table"]),
        lists=np.asarray(arrays["lists"]),
        is_alt=is_alt,
        circular=np.array([0, 0] if circle is None else [offsets[circle], contigs[circle].length], np.int64),
        range_buckets=header["range_buckets"],
    )


def _in_huge_pages(like: NDArray[Any]) -> NDArray[Any]:
    """Room for an array of the same shape."""
    area = mmap.mmap(-1, like.nbytes)
    with contextlib.suppress(OSError):  # a kernel built without huge pages: slower, not wrong
        area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, like.dtype).reshape(like.shape)


def _check_arrays(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    copies: dict[str, NDArray[Any]],
    crc32: dict[str, list[int]],
    rebuild: str,
) -> None:
    """Compare the CRC-32 of every block, a block a thread; fill the copies of some arrays."""
    blocks = []
    for name, array in arrays.items():
        data = array.reshape(-1).view(np.uint8)
        copy = copies[name].reshape(-1).view(np.uint8) if name in copies else data
        for i, crc in zip(range(0, len(data), _CRC_BLOCK), crc32[name], strict=True):
            blocks.append((name, data[i : i + _CRC_BLOCK], copy[i : i + _CRC_BLOCK], crc))

    def is_damaged(block: tuple[str, NDArray[np.uint8], NDArray[np.uint8], int]) -> bool:
        name, data, copy, crc = block
        if name in copies:
            copy[:] = data
        return bool(isal_zlib.crc32(copy.data) != crc)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (name, *_), damaged in zip(blocks, pool.map(is_damaged, blocks), strict=True):
            if damaged:
                raise InputFormatError(path, f"array {name}", "the index is damaged (CRC-32 differs)", rebuild)


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
