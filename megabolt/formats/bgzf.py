# SPDX-License-Identifier: Apache-2.0
"""BGZF, the blocked gzip of BAM and indexed VCF (SAM specification, chapter 4.1).

In: bytes. Out: gzip members of at most 64 KiB, each stating its own size, so that a file can be entered at
any block. A virtual offset is (byte of the block in the file) << 16 | (byte inside the inflated block).
Compression is isal's level 1 unless told otherwise: smaller than htslib's level 1 and five times faster.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError

#: Inflated bytes in a full block, as htslib has it: even stored (incompressible) data then fit 64 KiB.
BLOCK_SIZE = 0xFF00
#: The empty block that ends every whole file.
EOF_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

_HEADER = struct.Struct("<4sIBBHBBHH")
_MAGIC = b"\x1f\x8b\x08\x04"
_TRAILER = struct.Struct("<II")
#: How isal and zlib are asked for bare deflate data, and for a gzip member with a header of ten bytes.
_RAW_DEFLATE, _GZIP, _GZIP_HEADER = -15, 31, 10
DeflateError: Any = isal_zlib.error  # the stubs take the class for an instance
#: isal's reader of gzip data, in a file or in memory, if it has one: igzip.IGzipFile without its second buffer.
GzipReader: Any = getattr(isal_zlib, "_GzipReader", None)
#: Levels of compression, 0 to this.
BEST_LEVEL = 9
_FAST_LEVELS = 3  # isal has no more
#: Inflated bytes that are compressed by one task: 1 MB, about 2 ms.
BATCH_BYTES = 16 * BLOCK_SIZE
_ADVICE = "The file is damaged: make it again, or copy it again and compare its checksum."


def compress_block(data: memoryview | bytes, level: int = 1) -> bytes:
    """One block of at most BLOCK_SIZE inflated bytes.

    Parameters
    ----------
    level
        0 stores; 1 to 3 are isal's (level 1 makes records five times smaller); 4 to 9 are zlib's: at 6 the file is
        a tenth smaller and takes ten times as long.
    """
    if 0 < level <= _FAST_LEVELS:
        # a whole gzip member in one call, checksum too: a thread waits for the interpreter's lock once, not twice
        member = memoryview(isal_zlib.compress(data, level, _GZIP))[_GZIP_HEADER:]
    else:
        trailer = _TRAILER.pack(isal_zlib.crc32(data), len(data))
        member = memoryview((_deflate(data, level) if level else _stored(data)) + trailer)
    if len(member) + _HEADER.size > 0x10000:  # cannot be compressed
        member = memoryview(_stored(data) + bytes(member[-_TRAILER.size :]))
    head = _HEADER.pack(_MAGIC, 0, 0, 0xFF, 6, 0x42, 0x43, 2, len(member) + _HEADER.size - 1)
    return b"".join((head, member))


def _stored(data: memoryview | bytes) -> bytes:
    """One stored deflate block."""
    return b"\x01" + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + bytes(data)


def _deflate(data: memoryview | bytes, level: int) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, _RAW_DEFLATE, memLevel=9)
    return deflate.compress(data) + deflate.flush()


def compress_blocks(data: memoryview | bytes, level: int = 1) -> bytes:
    """Any number of bytes as a run of blocks, without the end-of-file block."""
    view = memoryview(data).cast("B")
    return b"".join(compress_block(view[i : i + BLOCK_SIZE], level) for i in range(0, len(view), BLOCK_SIZE))


class Sink(Protocol):
    """Takes bytes in order: an open binary file, or what stands for one."""

    def write(self, data: Any, /) -> int: ...


class BgzfWriter:
    """Writes blocks to an open binary file, compressed by a pool of threads, always in order.

    Parameters
    ----------
    raw
        The file; it stays open.
    level
        See `compress_block`.
    pool
        Threads that compress; None compresses in the calling thread.
    in_flight
        At most so many batches of a megabyte wait for the disk.
    """

    def __init__(self, raw: Sink, level: int = 1, pool: Executor | None = None, in_flight: int = 16) -> None:
        self._raw = raw
        self.level = level
        self._pool = pool
        self._in_flight = in_flight
        self._waiting: deque[tuple[Future[list[bytes]], NDArray[np.uint8]]] = deque()
        self._buffers: list[NDArray[np.uint8]] = []  # to be filled again: fresh memory costs a page fault per 4 KiB
        self._buffer = self._take_buffer()
        self._pending = 0  # bytes in it
        self._inflated = 0  # bytes handed to compression
        self._written = 0  # bytes in the file
        self._block_start: list[int] = []  # inflated offset of each block
        self._block_file: list[int] = []  # its byte in the file

    def tell(self) -> int:
        """Inflated bytes written so far; `virtual_offsets` turns them into virtual offsets after `close`."""
        return self._inflated + self._pending

    def write(self, data: Any) -> None:
        """Add bytes (any contiguous buffer, arrays too); they are copied: the buffer may be used again."""
        view = np.asarray(memoryview(data).cast("B"), np.uint8)
        taken = 0
        while taken < len(view):
            n = min(len(view) - taken, BATCH_BYTES - self._pending)
            # NumPy copies without the GIL, which the compressing threads need between blocks
            self._buffer[self._pending : self._pending + n] = view[taken : taken + n]
            self._pending += n
            taken += n
            if self._pending == BATCH_BYTES:
                self.flush_block()

    def write_blocks(self, n: int, blocks: list[bytes]) -> None:
        """Add `n` bytes that `compress_batch` has made blocks of."""
        self.flush_block()
        while self._waiting:
            self._put_oldest()
        self._block_start.extend(range(self._inflated, self._inflated + n, BLOCK_SIZE))
        self._inflated += n
        self._put(blocks)

    def flush_block(self) -> None:
        """End the current block here, so that what follows begins a new one."""
        n, self._pending = self._pending, 0
        if not n:
            return
        self._block_start.extend(range(self._inflated, self._inflated + n, BLOCK_SIZE))
        self._inflated += n
        if self._pool is None:
            self._put(compress_batch(self._buffer[:n], self.level))
            return
        self._waiting.append((self._pool.submit(compress_batch, self._buffer[:n], self.level), self._buffer))
        while len(self._waiting) > self._in_flight:
            self._put_oldest()
        self._buffer = self._take_buffer()

    def _take_buffer(self) -> NDArray[np.uint8]:
        return self._buffers.pop() if self._buffers else np.empty(BATCH_BYTES, np.uint8)

    def _put_oldest(self) -> None:
        future, buffer = self._waiting.popleft()
        self._put(future.result())
        self._buffers.append(buffer)

    def close(self) -> None:
        """Write what is pending and the end-of-file block."""
        self.flush_block()
        while self._waiting:
            self._put_oldest()
        self._block_start.append(self._inflated)
        self._put([EOF_BLOCK])
        self._starts = np.array(self._block_start, np.int64)
        self._places = np.array(self._block_file, np.uint64)

    def abandon(self) -> None:
        """Forget what is pending: the file will not be kept."""
        for future, _ in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._pending = 0

    def virtual_offsets(self, inflated: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Virtual offsets (uint64) of inflated offsets (int64, any shape); to be asked after `close`.

        An offset at the end of a block is given as the start of the next, as readers meet it.
        """
        block = np.searchsorted(self._starts, inflated, side="right") - 1
        within = (inflated - self._starts[block]).astype(np.uint64)
        return (self._places[block] << np.uint64(16)) | within

    def _put(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self._block_file.append(self._written)
            self._written += len(block)
        self._raw.write(b"".join(blocks))


def compress_batch(data: Any, level: int) -> list[bytes]:
    """Bytes (any contiguous buffer) as full blocks, the last of them with what is left."""
    view = memoryview(data)
    return [compress_block(view[i : i + BLOCK_SIZE], level) for i in range(0, len(view), BLOCK_SIZE)]


@dataclass(frozen=True)
class Block:
    """Where a block lies: its first byte, its deflate data, its CRC and its inflated size."""

    start: int
    stop: int
    body_start: int
    crc: int
    inflated_size: int


def read_block_at(data: memoryview | bytes, start: int, path: Path | str) -> Block:
    """The block that begins at a byte of a compressed file held in memory.

    Raises
    ------
    InputFormatError
        No block begins there, or it is cut off; names the byte.
    """
    where = f"byte {start}"
    if start + 12 > len(data):
        raise InputFormatError(path, where, "the file is truncated inside a block header", _ADVICE)
    if bytes(data[start : start + 4]) != _MAGIC:
        raise InputFormatError(path, where, "no BGZF block begins here", _ADVICE)
    extra_stop = start + 12 + int.from_bytes(data[start + 10 : start + 12], "little")
    if extra_stop > len(data):
        raise InputFormatError(path, where, "the file is truncated inside a block header", _ADVICE)
    size = _block_size(data, start + 12, extra_stop)
    stop = start + size
    if size == 0:
        raise InputFormatError(
            path, where, "this is plain gzip, not BGZF: the block size is missing", "Compress it with bgzip."
        )
    if stop > len(data):
        raise InputFormatError(path, where, "the file is truncated inside this block", _ADVICE)
    if stop - 8 < extra_stop:
        raise InputFormatError(path, where, "the block size is impossible", _ADVICE)
    crc, inflated_size = _TRAILER.unpack(data[stop - 8 : stop])
    if inflated_size > 0x10000:
        raise InputFormatError(path, where, "the block claims to hold more than 64 KiB", _ADVICE)
    return Block(start, stop, extra_stop, crc, inflated_size)


def _block_size(data: memoryview | bytes, i: int, stop: int) -> int:
    """The size in the BC subfield; 0 if there is none."""
    while i + 6 <= stop:
        length = int.from_bytes(data[i + 2 : i + 4], "little")
        if bytes(data[i : i + 2]) == b"BC" and length == 2:
            return int.from_bytes(data[i + 4 : i + 6], "little") + 1
        i += 4 + length
    return 0


def inflate_block(data: memoryview | bytes, block: Block, path: Path | str) -> bytes:
    """The inflated bytes of a block, checked against its CRC and its size."""
    try:
        body = isal_zlib.decompress(data[block.body_start : block.stop - 8], _RAW_DEFLATE, block.inflated_size + 1)
    except DeflateError as error:
        raise InputFormatError(path, f"byte {block.start}", f"damaged block ({error})", _ADVICE) from error
    if len(body) != block.inflated_size or isal_zlib.crc32(body) != block.crc:
        raise InputFormatError(path, f"byte {block.start}", "damaged block (checksum or size differ)", _ADVICE)
    return bytes(body)


def blocks(data: memoryview | bytes, path: Path | str, start: int = 0) -> Iterator[Block]:
    """All blocks from a byte on."""
    while start < len(data):
        block = read_block_at(data, start, path)
        yield block
        start = block.stop


def check_end(data: memoryview | bytes, path: Path | str) -> None:
    """Raise `InputFormatError` unless the file ends with the end-of-file block."""
    _check_last_block(data[-len(EOF_BLOCK) :], len(data), path)


def check_end_of_file(path: Path) -> None:
    """`check_end` of a file, of which only the end is read."""
    with open(path, "rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        raw.seek(max(0, size - len(EOF_BLOCK)))
        _check_last_block(raw.read(), size, path)


def _check_last_block(last: memoryview | bytes, size: int, path: Path | str) -> None:
    if bytes(last) != EOF_BLOCK:
        raise InputFormatError(path, f"byte {size}", "the end-of-file block is missing: the file is truncated", _ADVICE)


def decompress(data: memoryview | bytes, path: Path | str) -> NDArray[np.uint8]:
    """Inflate a whole file held in memory: uint8, ending in PADDING zero bytes that are no data."""
    table = list(blocks(data, path))
    sizes = np.array([block.inflated_size for block in table], np.int64)
    stops = np.cumsum(sizes)
    inflated = np.zeros((int(stops[-1]) if len(table) else 0) + PADDING, np.uint8)
    for block, stop, size in zip(table, stops.tolist(), sizes.tolist()):
        inflated[stop - size : stop] = np.frombuffer(inflate_block(data, block, path), np.uint8)
    return inflated
