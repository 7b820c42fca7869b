# SPDX-License-Identifier: Apache-2.0
"""Every error a user can meet: what went wrong, where, and what to do about it.

The library raises these; only `megabolt.cli` prints them and turns them into exit codes.
"""

from __future__ import annotations

from pathlib import Path


class MegaboltError(Exception):
    """Base of all errors that are meant for the user.

    Parameters
    ----------
    why
        One sentence that says what is wrong, naming the file or option.
    help
        One sentence that says what to do.
    """

    exit_code = 1

    def __init__(self, why: str, help: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.help = help

    def __str__(self) -> str:
        return f"{self.why}\n  {self.help}" if self.help else self.why


class UsageError(MegaboltError):
    """The command line, the sample sheet or the configuration asks for something impossible."""

    exit_code = 2


class InputFormatError(MegaboltError):
    """A file does not hold what its format promises.

    Parameters
    ----------
    path
        The file.
    where
        The place inside it: "line 12", "record 1001", "byte 65536" or "contig chr1"; may be empty.
    """

    exit_code = 1

    def __init__(self, path: str | Path, where: str, why: str, help: str = "") -> None:
        place = f"{path}, {where}" if where else f"{path}"
        super().__init__(f"{place}: {why}", help)
        self.path = str(path)
        self.where = where


class OutputError(MegaboltError):
    """An output cannot be written: missing folder, no permission, full disk. Nothing half-written is left."""

    exit_code = 1


class ConsentRefused(MegaboltError):
    """No recorded consent covers this data and this purpose."""

    exit_code = 77


class BackendUnavailable(MegaboltError):
    """This machine cannot run the compute backend that was asked for; the message says what is missing."""

    exit_code = 4


class ResourceError(MegaboltError):
    """The job does not fit the memory or the processors it was given."""

    exit_code = 1


class InternalError(MegaboltError):
    """A broken invariant: our bug, not the user's."""

    exit_code = 70
