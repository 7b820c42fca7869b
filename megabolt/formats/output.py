# SPDX-License-Identifier: Apache-2.0
"""Outputs appear whole or not at all: a temporary file in the same folder, flushed, then renamed.

In: the final path. Out: a temporary path to write to. Errors of the disk become `OutputError`.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from megabolt.errors import InternalError, OutputError

_ADVICE = {
    errno.ENOSPC: "Free some space or write to another disk.",
    errno.EDQUOT: "Your quota is used up: free some space or write elsewhere.",
    errno.EFBIG: "The file system or a limit (ulimit -f) forbids files of this size.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "The disk is read-only: write elsewhere.",
    errno.ENOENT: "Make the folder first.",
    errno.ENOTDIR: "A part of the path is a file, not a folder.",
}


def output_error(path: Path | str, error: OSError) -> OutputError:
    """The user's version of a failed write: names the file and says what to do."""
    reason = error.strerror or str(error)
    return OutputError(f"{path} cannot be written: {reason}", _ADVICE.get(error.errno or 0, "Check the disk."))


@contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there gets the final name if the block succeeds.

    The file is flushed to disk before it is renamed. On any error the temporary file is removed and whatever
    had the final name before is untouched. A symbolic link is followed, a device is refused.

    Raises
    ------
    OutputError
        Missing folder, no permission, full disk, or `path` is not a regular file.
    """
    shown = Path(path)
    final = Path(os.path.realpath(shown))
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(6)}.tmp")
    _refuse_special(shown, final)
    try:
        try:
            _create(temporary)
            yield temporary
            _flush(temporary)
            os.replace(temporary, final)
            _flush(final.parent)
        except OSError as error:
            if error.filename is not None and str(error.filename) not in {str(temporary), str(final.parent)}:
                raise  # another file than ours
            raise output_error(shown, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


class Checksum(Protocol):
    """What `WriteBehind` needs of a hash."""

    def update(self, data: Any, /) -> None: ...


class WriteBehind:
    """An open file whose bytes go to the disk while more are written: flushing it at the end takes no time.

    Parameters
    ----------
    file
        The open file; it is closed with this object.
    step
        Bytes after which the disk is asked to take what it has not; one thread waits for the disk at a time.
    checksum
        Told all bytes, if given: `hashlib.md5()`, for instance.
    """

    def __init__(self, file: BinaryIO, step: int = 16 << 20, checksum: Checksum | None = None) -> None:
        self._file = file
        self._checksum = checksum
        self._step = step
        self._since = 0
        self._pool = ThreadPoolExecutor(1)
        self._flushing: Future[None] | None = None

    def write(self, data: Any) -> int:
        """Add bytes; raises OSError, also for earlier bytes that the disk refused."""
        n = self._file.write(data)
        if self._checksum is not None:
            self._checksum.update(data)
        self._since += n
        if self._since >= self._step and (self._flushing is None or self._flushing.done()):
            self._wait()
            self._since = 0
            self._file.flush()
            self._flushing = self._pool.submit(_flush_data, self._file.fileno())
        return n

    def close(self) -> None:
        """Close the file; OSError if the disk refused some of its bytes. A second call does nothing."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()  # before the descriptor is given back and means another file
            self._file.close()

    def _wait(self) -> None:
        # the system tells an error of writing once: a later fsync would not see it
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            flushing.result()


def _flush_data(descriptor: int) -> None:
    flush = getattr(os, "fdatasync", os.fsync)  # macOS has none
    try:
        flush(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def check_writable(folder: Path | str) -> None:
    """Raise `OutputError` unless a file can be made in the folder: asked before the work, not after it."""
    folder = Path(folder)
    probe = folder / f".megabolt.{secrets.token_hex(6)}.tmp"
    try:
        _create(probe)
        probe.unlink()
    except OSError as error:
        raise output_error(folder, error) from error


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def _refuse_special(shown: Path, final: Path) -> None:
    try:
        mode = final.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise OutputError(f"{shown} is not a regular file", "Name a file: outputs are renamed into place.")


def _flush(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InternalError(f"{path} vanished before it was put in place") from error
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)
