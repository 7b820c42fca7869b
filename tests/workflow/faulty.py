# SPDX-License-Identifier: Apache-2.0
"""megabolt with a fault at a chosen call: what a failing disk or a kill at the worst moment does.

    python faulty.py KIND N FOLDER -- align --reference ...

Calls on files below FOLDER (audit logs aside) are counted. KIND:
  write   the N-th write and all after it fail with an I/O error
  flush   the N-th fsync or fdatasync and all after it fail with an I/O error
  rename  the N-th rename fails with an I/O error
  read    the N-th read of a file that is opened for reading, and all after it, fail with an I/O error
  kill-write, kill-flush, kill-rename   SIGKILL just before the N-th such call
  none    no fault

What htslib writes or reads by itself is not seen. With FAULTY_BUDGET in the environment, bins get no more than so many
bytes, so that small inputs are spilled.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any


class Fault:
    """Counts calls of one kind and fails, or kills, at the N-th."""

    def __init__(self, kind: str, at: int, folder: str) -> None:
        self.what = kind.removeprefix("kill-")
        self._kill = kind.startswith("kill-")
        self._at = at
        self._folder = os.path.realpath(folder) + os.sep
        self._n = 0
        self._lock = threading.Lock()

    def concerns(self, path: Any) -> bool:
        """Whether a path, or an open descriptor, is below the folder."""
        if isinstance(path, int):
            path = f"/proc/self/fd/{path}"
        elif not isinstance(path, (str, bytes, os.PathLike)):
            return False
        real = os.path.realpath(os.fsdecode(path))
        return real.startswith(self._folder) and "audit" not in os.path.basename(real)

    def call(self, what: str) -> None:
        """A call of that kind is about to be made."""
        if what != self.what:
            return
        with self._lock:
            self._n += 1
            if self._n < self._at or (what == "rename" and self._n > self._at):
                return
        if self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def arm(fault: Fault) -> None:
    """Put the counting in front of the calls."""
    plain_open = io.open

    class Raw(io.FileIO):
        def write(self, data: Any, /) -> int | None:
            fault.call("write")
            return super().write(data)

        def readinto(self, buffer: Any, /) -> int | None:
            fault.call("read")
            return super().readinto(buffer)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        if not fault.concerns(file) or buffering == 0:
            return plain_open(file, mode, buffering, *rest, **more)
        raw_mode = mode.replace("b", "").replace("t", "")
        raw = Raw(file, raw_mode, closefd=more.get("closefd", True))
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffered: Any = io.BufferedReader(raw, size)
        if "+" in mode:
            buffered = io.BufferedRandom(raw, size)
        elif "r" not in mode:
            buffered = io.BufferedWriter(raw, size)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, more.get("encoding"), more.get("errors"), more.get("newline"))

    def before(name: str, what: str, place: int = 0) -> None:
        plain: Callable[..., Any] = getattr(os, name)

        def wrapped(*arguments: Any, **more: Any) -> Any:
            if fault.concerns(arguments[place]):
                fault.call(what)
            return plain(*arguments, **more)

        setattr(os, name, wrapped)

    import builtins

    io.open = builtins.open = opened  # type: ignore[assignment]
    for name in ("write", "pwrite", "writev", "pwritev"):
        before(name, "write")
    for name in ("pread", "preadv", "readv"):
        before(name, "read")
    for name in ("fsync", "fdatasync"):
        before(name, "flush")
    for name in ("rename", "replace"):
        before(name, "rename", place=1)


def limit_bins(budget: int) -> None:
    """Whatever a job gives its bins, they get no more than this."""
    from megabolt.reads.bins import BinStore

    plain = BinStore.__init__

    def limited(self: BinStore, contig_lengths: Any, given: int, *rest: Any, **more: Any) -> None:
        plain(self, contig_lengths, min(given, budget), *rest, **more)

    BinStore.__init__ = limited  # type: ignore[method-assign]


if __name__ == "__main__":
    kind, at, folder, _, *words = sys.argv[1:]
    sys.argv = ["megabolt", *words]  # it goes into headers
    if kind != "none":
        arm(Fault(kind, int(at), folder))
    if "FAULTY_BUDGET" in os.environ:
        limit_bins(int(os.environ["FAULTY_BUDGET"]))
    from megabolt.cli.main import main

    sys.exit(main(words))
