# SPDX-License-Identifier: Apache-2.0
"""Scratch space: a private folder that goes when the job goes, and files in it for what memory does not hold.

In: bytes of `reads/bins.py` and of the duplicate finder. Out: the same bytes, when they are wanted again.

A `Scratch` folder holds a lock file for as long as its job lives. A job that is killed with no chance to clean up
leaves the folder without a holder of the lock: `leftovers` finds it. The data themselves lie in files without a name,
which the system frees with the process, so that such a folder is all but empty.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from megabolt.errors import OutputError, ResourceError

_PREFIX = "megabolt-"
_LOCK = "lock"
_RAW_DEFLATE = -15
_ADVICE = {
    errno.ENOSPC: "Free some space, name a folder on a larger disk with --scratch, or give more --memory.",
    errno.EDQUOT: "Your quota is used up: name another folder with --scratch, or give more --memory.",
    errno.EFBIG: "A limit (ulimit -f) forbids files of this size: raise it, or name another disk with --scratch.",
    errno.ENOENT: "Make the folder first, or name another with --scratch.",
}
_OTHER_ADVICE = "Name a folder on another disk with --scratch."
#: Linux's fallocate(file, mode, offset, length), which Python lacks; None elsewhere.
_fallocate: Any = getattr(ctypes.CDLL(None), "fallocate", None)
_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
_DeflateError: Any = isal_zlib.error  # the stubs take the class for an instance


class Cipher(Protocol):
    """What turns frames into bytes that say nothing to others, and back."""

    def encrypt(self, data: bytes) -> bytes: ...

    def decrypt(self, data: bytes) -> bytes: ...


class Frame(NamedTuple):
    """Where a piece of data lies in a `SpillFile`: first byte, bytes there, bytes when unpacked, their CRC-32."""

    offset: int
    size: int
    raw_size: int
    crc: int


class Scratch:
    """A private folder for the time of a job; use as a context manager.

    Parameters
    ----------
    folder
        Where to make it; None: where the system keeps temporary files ($TMPDIR).
    label
        What the job is called, for those who find the folder after it was killed.

    Raises
    ------
    OutputError
        The folder cannot be made; names --scratch.
    """

    def __init__(self, folder: Path | None, label: str) -> None:
        self.parent = Path(tempfile.gettempdir()) if folder is None else folder
        self.path = self.parent / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        self._label = label
        self._files: list[SpillFile] = []
        self._lock_file = -1

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700)
            self._lock_file = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with suppress(OSError):  # a file system without locks: `leftovers` then never takes it for one
                fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            os.write(self._lock_file, f"{self._label}\n".encode())  # says that the lock is held
        except OSError as error:
            self._remove()
            raise _failure(self.parent, "written", error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        for file in self._files:
            file.close()
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def open_file(self, *, level: int = 1, cipher: Cipher | None = None) -> SpillFile:
        """A new, empty file; it ends with the folder."""
        file = SpillFile(self.path, level=level, cipher=cipher)
        self._files.append(file)
        return file


class SpillFile:
    """Frames of bytes in a file without a name; safe for threads.

    Parameters
    ----------
    folder
        Where the file lies.
    level
        Of compression (isal): 1 is fast, 2 and 3 are smaller; 0 stores.
    cipher
        Applied to the compressed bytes of each frame.

    The name goes as soon as the file is open: whatever ends the process frees the disk. Where the file system refuses
    that, the file goes with its folder.
    """

    def __init__(self, folder: Path, *, level: int = 1, cipher: Cipher | None = None) -> None:
        self._folder, self._level, self._cipher = folder, level, cipher
        self._lock = threading.Lock()
        self._end = 0
        path = folder / f"{secrets.token_hex(6)}.spill"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failure(folder, "written", error) from error
        with suppress(OSError):
            path.unlink()

    @property
    def n_bytes(self) -> int:
        """Bytes written."""
        return self._end

    def append(self, buffer: NDArray[np.uint8]) -> Frame:
        """Keep a copy of the bytes (one dimension, contiguous), compressed by the calling thread.

        Raises
        ------
        OutputError
            Full disk, or any other failure; names the scratch folder and --scratch.
        """
        raw = buffer.data
        data = bytes(isal_zlib.compress(raw, self._level, _RAW_DEFLATE)) if self._level else bytes(raw)
        if self._cipher is not None:
            data = self._cipher.encrypt(data)
        with self._lock:
            offset = self._end
            self._end += len(data)
        try:
            self._write(memoryview(data), offset)
        except OSError as error:
            raise _failure(self._folder, "written", error) from error
        return Frame(offset, len(data), len(raw), isal_zlib.crc32(raw))

    def _write(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], offset + done)

    def load(self, frame: Frame) -> NDArray[np.uint8]:
        """The bytes of a frame: uint8, read-only.

        Raises
        ------
        OutputError
            They cannot be read, or are not what was written.
        """
        try:
            data = b"".join(self._pieces(frame.offset, frame.size))
        except OSError as error:
            raise _failure(self._folder, "read", error) from error
        try:
            if self._cipher is not None:
                data = self._cipher.decrypt(data)
            if self._level:
                data = bytes(isal_zlib.decompress(data, _RAW_DEFLATE, max(1, frame.raw_size)))
        except (ValueError, _DeflateError) as error:
            raise self._damaged(frame) from error
        if len(data) != frame.raw_size or isal_zlib.crc32(data) != frame.crc:
            raise self._damaged(frame)
        return np.frombuffer(data, np.uint8)

    def read(self, frame: Frame, out: NDArray[np.uint8]) -> None:
        """Put the bytes of a frame into the first `frame.raw_size` of `out`. Raises as `load`."""
        out[: frame.raw_size] = self.load(frame)

    def forget(self, frame: Frame) -> None:
        """Give the disk that a frame takes back to the system, where that is possible; it cannot be read again."""
        if _fallocate is not None:
            _fallocate(self._file, _PUNCH_HOLE, ctypes.c_int64(frame.offset), ctypes.c_int64(frame.size))

    def _pieces(self, offset: int, size: int) -> list[bytes]:
        pieces = []
        while size > 0:
            piece = os.pread(self._file, size, offset)
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than what was written to it")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces

    def _damaged(self, frame: Frame) -> OutputError:
        return OutputError(
            f"{self._folder}: scratch data are damaged at byte {frame.offset}: they are not what was written there",
            "Check that disk. " + _OTHER_ADVICE,
        )

    def close(self) -> None:
        """Free the disk; no thread may use the file any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _failure(folder: Path, verb: str, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(
        f"the scratch folder {folder} cannot be {verb}: {reason}", _ADVICE.get(error.errno or 0, _OTHER_ADVICE)
    )


@dataclass(frozen=True)
class Leftover:
    """A scratch folder whose job is gone: where it is, what it takes, when it was made, what the job was called."""

    path: Path
    bytes: int
    started: datetime
    label: str


def leftovers(folder: Path) -> list[Leftover]:
    """Scratch folders below `folder` that no job holds, oldest first; those of others are passed over."""
    found = []
    for path in folder.glob(f"{_PREFIX}*-*"):
        with suppress(OSError):
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                label = os.read(descriptor, 1000).decode(errors="replace")
                started = datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC)
            finally:
                os.close(descriptor)
            if label:  # nothing written: its job has yet to take the lock
                size = sum(file.stat().st_blocks * 512 for file in path.iterdir())
                found.append(Leftover(path, size, started, label.strip()))
    return sorted(found, key=lambda leftover: leftover.started)


def remove_leftover(leftover: Leftover) -> None:
    """Remove a folder that `leftovers` found.

    Raises
    ------
    OutputError
        It cannot be removed.
    """
    try:
        shutil.rmtree(leftover.path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{leftover.path} cannot be removed: {reason}", "Remove it by hand.") from error


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the disk of a folder.

    Raises
    ------
    OutputError
        There is no such folder.
    """
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise _failure(folder, "used", error) from error


@dataclass(frozen=True)
class Expansion:
    """What a byte of input becomes: bytes of records in memory, and bytes of them in scratch."""

    records: float
    scratch: float


#: A little above what simulated reads and slices of HG002 and NA12878 were measured to take; CRAM is an estimate.
EXPANSION = {
    "FASTQ": Expansion(1.3, 0.45),
    "FASTQ.gz": Expansion(4.5, 1.4),
    "BAM": Expansion(5.5, 1.5),
    "CRAM": Expansion(11.0, 3.0),
}


def disk_needed(input_bytes: Mapping[str, int], budget: int) -> int:
    """Bytes that records will about take in scratch, at most.

    Parameters
    ----------
    input_bytes
        Sizes of the input files by kind, a key of `EXPANSION`.
    budget
        Bytes of records that memory holds.
    """
    records = sum(EXPANSION[kind].records * size for kind, size in input_bytes.items())
    scratch = sum(EXPANSION[kind].scratch * size for kind, size in input_bytes.items())
    return 0 if records <= budget else int(scratch * (1 - budget / records))


def check_disk(needed: Mapping[Path, int]) -> None:
    """Ask, before the work, whether the disks have room for what is to be written.

    Parameters
    ----------
    needed
        Bytes by existing folder; folders of one disk are added up.

    Raises
    ------
    ResourceError
        A disk has not; names a folder, what is free and what is needed.
    OutputError
        A folder is missing.
    """
    disks: dict[int, list[Path]] = {}
    for folder in needed:
        try:
            disks.setdefault(folder.stat().st_dev, []).append(folder)
        except OSError as error:
            raise _failure(folder, "used", error) from error
    for folders in disks.values():
        total, free = sum(needed[folder] for folder in folders), free_bytes(folders[0])
        if total > free:
            raise ResourceError(
                f"{' and '.join(map(str, folders))}: {free / 1e9:.1f} GB are free,"
                f" about {total / 1e9:.1f} GB are needed",
                "Free some space, name a folder on a larger disk with --scratch, or give more --memory.",
            )
