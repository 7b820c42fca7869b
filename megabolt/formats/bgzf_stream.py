# SPDX-License-Identifier: Apache-2.0
"""BGZF read from its start to its end: blocks are inflated by several threads ahead of who reads.

In: an open file or pipe. Out: the inflated bytes, in order, as buffers (`BgzfStream.next_run`) or as a stream
(`BgzfStream.readinto`). Next: `formats/inflate.py` for FASTQ, `formats/alignment_file.py` for BAM.

Files are read, not mapped: an input error of the disk is then an error that can be told, and pipes work too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError
from megabolt.formats.bgzf import DeflateError, GzipReader

#: Compressed bytes read at a time.
_READ_BYTES = 1 << 20
#: Inflated bytes of one task: some milliseconds of work.
_RUN_BYTES = 1 << 22
_MAGIC = b"\x1f\x8b\x08\x04"
#: Length of the extra field, BC and its length, where BC stands alone.
_ONLY_SIZE = b"\x06\0BC\x02\0"
_RAW_DEFLATE = -15
_LARGEST_BLOCK = 1 << 16
_ADVICE = "The file is damaged: copy or download it again and compare its checksum."


class Run(NamedTuple):
    """Inflated bytes data[start:stop], in a uint8 buffer with PADDING bytes behind; those before are free to use."""

    data: NDArray[np.uint8]
    start: int
    stop: int


class Looked(NamedTuple):
    """A run, its number from 0, and what the stream's `look` said of it; None: there was none yet when it was ready."""

    run: Run
    number: int
    found: Any


class _Task(NamedTuple):
    """Whole blocks of a piece of the file: each block's first byte, its deflate data and its end in the piece."""

    piece: bytes
    base: int  # byte of the file at which the piece begins
    blocks: list[tuple[int, int, int]]


def block_size(head: bytes | memoryview, at: int = 0) -> tuple[int, int]:
    """Size of the BGZF block that begins at a byte, and of its header; (0, 0): more bytes are needed; (-1, 0): none.

    Any extra subfields may stand beside BC (SAM specification, chapter 4.1).
    """
    if bytes(head[at : at + 4]) != _MAGIC[: len(head) - at]:
        return -1, 0
    if at + 12 > len(head):
        return 0, 0
    stop = at + 12 + int.from_bytes(head[at + 10 : at + 12], "little")
    if stop > len(head):
        return 0, 0
    i = at + 12
    while i + 6 <= stop:
        length = int.from_bytes(head[i + 2 : i + 4], "little")
        if bytes(head[i : i + 2]) == b"BC" and length == 2:
            return int.from_bytes(head[i + 4 : i + 6], "little") + 1, stop - at
        i += 4 + length
    return -1, 0


class BgzfStream:
    """The inflated content of a BGZF file, in order.

    Parameters
    ----------
    raw
        The file, at its first byte; it stays open.
    path
        What messages call it.
    threads
        Threads that inflate, each some 4 MB at a time; 0 inflates in the calling thread.
    front
        Free bytes before the content of each run.

    Raises
    ------
    InputFormatError
        From `next_run` and `readinto`: a damaged or truncated block, or a file that cannot be read; names the byte.
        What lies before it has been given out then.
    """

    def __init__(self, raw: BinaryIO, path: Path | str, *, threads: int = 1, front: int = 0) -> None:
        self._raw, self._path, self._front = raw, path, front
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inflate") if threads else None
        self._ahead = 2 * threads + 1 if threads else 1
        self._waiting: deque[Future[Looked]] = deque()
        self._n_sent = 0
        self._cut: deque[_Task] = deque()  # found, and not yet handed to a thread
        self._spare: deque[NDArray[np.uint8]] = deque()
        self._tail = b""  # of a block that goes on in the next piece
        self._base = 0  # byte of the file at which it begins
        self._ended = False
        self._failure: Exception | None = None
        self._run: Run | None = None  # what `readinto` is giving out
        #: What begins where the blocks end, if that is not the end of the file: plain gzip, or anything.
        self.rest = b""
        #: Told each run and its number by the thread that has inflated it, while the bytes are in that core's cache;
        #: what it returns comes with the run. It may wait for what it is told of earlier runs. May be set at any time.
        self.look: Callable[[Run, int], Any] | None = None
        #: Whether the last block was an empty one, as at the end of every whole file.
        self.whole = False

    def next_run(self) -> Run | None:
        """The next inflated bytes, some megabytes; None at the end of the blocks."""
        looked = self.next_looked()
        return None if looked is None else looked.run

    def next_looked(self) -> Looked | None:
        """As `next_run`, with what `look` said."""
        self._send()
        if not self._waiting:
            return None
        looked = self._waiting.popleft().result()
        self._send()
        return looked

    def readinto(self, view: memoryview) -> int:
        """Fill a buffer from its start; less than its size only at the end of the blocks."""
        filled = 0
        while filled < len(view):
            run = self._run or self.next_run()
            if run is None:
                break
            n = min(len(view) - filled, run.stop - run.start)
            view[filled : filled + n] = run.data.data[run.start : run.start + n]
            filled += n
            if run.start + n == run.stop:
                self.give_back(run.data)
                self._run = None
            else:
                self._run = Run(run.data, run.start + n, run.stop)
        return filled

    def give_back(self, data: NDArray[np.uint8]) -> None:
        """Let the buffer of a run be used again; its content must not be used any more."""
        if len(self._spare) < 2 * self._ahead:
            self._spare.append(data)

    def close(self) -> None:
        """Drop what was prepared and end the threads; the file stays open."""
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._cut.clear()
        self._ended = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _send(self) -> None:
        """Have enough runs under way."""
        while len(self._waiting) < self._ahead:
            if not self._cut and not self._ended:
                self._read()
                continue
            if self._cut:
                task = self._cut.popleft()
                number, self._n_sent = self._n_sent, self._n_sent + 1
                if self._pool is not None:
                    self._waiting.append(self._pool.submit(self._work, task, number))
                    continue
                future: Future[Looked] = Future()
                self._waiting.append(future)
                try:
                    future.set_result(self._work(task, number))
                except InputFormatError as error:
                    future.set_exception(error)
            elif self._failure is not None:
                failed: Future[Looked] = Future()
                failed.set_exception(self._failure)
                self._failure = None
                self._waiting.append(failed)
            else:
                return

    def _work(self, task: _Task, number: int) -> Looked:
        spare: NDArray[np.uint8] | None = None
        with suppress(IndexError):
            spare = self._spare.pop()  # what was used last: a cache may hold it
        run = _inflate(task, self._front, self._path, spare)
        return Looked(run, number, None if self.look is None else self.look(run, number))

    def _read(self) -> None:
        """One more piece of the file, cut into tasks."""
        try:
            more = self._raw.read(_READ_BYTES)
        except OSError as error:
            why = f"cannot be read ({error.strerror or error})"
            self._fail(self._base + len(self._tail), why, "Check the disk or the connection, and try again.")
            return
        piece = self._tail + more if self._tail else more
        begun: list[tuple[int, int, int]] = []
        i, size = 0, 0
        while i < len(piece):
            if piece[i : i + 4] == _MAGIC and piece[i + 10 : i + 16] == _ONLY_SIZE:  # as nearly all writers have it
                n, head = int.from_bytes(piece[i + 16 : i + 18], "little") + 1, 18
            else:
                n, head = block_size(piece, i)
            if n == 0 or (n > 0 and i + n > len(piece)):
                break
            if n < 0 or n < head + 8:
                self._put(piece, begun)
                self._foreign(piece, i, n)
                return
            inflated = int.from_bytes(piece[i + n - 4 : i + n], "little")
            if size + inflated > _RUN_BYTES:
                self._put(piece, begun)
                begun, size = [], 0
            begun.append((i, i + head, i + n))
            self.whole = inflated == 0
            size += min(inflated, _LARGEST_BLOCK)
            i += n
        self._put(piece, begun)
        self._base += i
        self._tail = piece[i:]
        if not more:
            self._ended = True
            if self._tail:
                self._fail(self._base, "the file is truncated inside the block that begins here", _ADVICE)

    def _put(self, piece: bytes, blocks: list[tuple[int, int, int]]) -> None:
        if blocks:
            self._cut.append(_Task(piece, self._base, blocks))

    def _foreign(self, piece: bytes, i: int, n: int) -> None:
        """No block begins at piece[i]."""
        if n > 0:
            self._fail(self._base + i, "the size of the block is impossible", _ADVICE)
            return
        self._ended = True
        self._base += i
        self.rest = piece[i:]

    def _fail(self, at: int, why: str, advice: str) -> None:
        self._ended = True
        self._failure = InputFormatError(self._path, f"byte {at}", why, advice)


def _inflate(task: _Task, front: int, path: Path | str, spare: NDArray[np.uint8] | None) -> Run:
    """The content of a task's blocks, each checked against its CRC and its size."""
    piece = memoryview(task.piece)
    sizes = [int.from_bytes(piece[stop - 4 : stop], "little") for _, _, stop in task.blocks]
    for (start, _, _), size in zip(task.blocks, sizes):
        if size > _LARGEST_BLOCK:
            why = "the block claims to hold more than 64 KiB"
            raise InputFormatError(path, f"byte {task.base + start}", why, _ADVICE)
    need = front + sum(sizes) + PADDING
    if spare is None or len(spare) < need:
        spare = np.empty(max(need, front + _RUN_BYTES + PADDING), np.uint8)
    stop = front + sum(sizes)
    if not _inflate_at_once(piece[task.blocks[0][0] : task.blocks[-1][2]], spare.data[front:stop]):
        _inflate_each(task, sizes, path, spare.data[front:stop])
    return Run(spare, front, stop)


def _inflate_at_once(blocks: memoryview, target: memoryview) -> bool:
    """Whether whole blocks are sound and fill `target`; then it holds their content.

    isal reads them as members of one gzip file, checksums and sizes too. A thread waits for the interpreter's lock once
    a run then, not three times a block, and nothing is copied. What is wrong, and where, this does not tell.
    """
    if GzipReader is None:
        return False
    reader = GzipReader(blocks)
    filled = 0
    try:
        while filled < len(target):
            n = reader.readinto(target[filled:])
            if n == 0:
                return False
            filled += n
        return not reader.read(1)  # and the last block's checksum is looked at
    except (DeflateError, EOFError, OSError):
        return False


def _inflate_each(task: _Task, sizes: list[int], path: Path | str, target: memoryview) -> None:
    """The content of a task's blocks, one by one; raises for the first that is damaged."""
    piece = memoryview(task.piece)
    place = 0
    for (start, body, stop), size in zip(task.blocks, sizes):
        try:
            content = isal_zlib.decompress(piece[body : stop - 8], _RAW_DEFLATE, size + 1)
        except DeflateError as error:
            raise InputFormatError(path, f"byte {task.base + start}", f"damaged block ({error})", _ADVICE) from error
        crc = int.from_bytes(piece[stop - 8 : stop - 4], "little")
        if len(content) != size or isal_zlib.crc32(content) != crc:
            why = "damaged block (checksum or size differ)"
            raise InputFormatError(path, f"byte {task.base + start}", why, _ADVICE)
        target[place : place + size] = content
        place += size
