# SPDX-License-Identifier: Apache-2.0
"""The `megabolt` command: finds the subcommand, runs it, and turns errors into messages and exit codes.

A subcommand is a module in this folder with `add_arguments(parser)` and `main(args) -> int`; its docstring is
its help and the docstring's first line its summary. Modules are found and summarised by parsing them, not by
importing them, so that `megabolt --help` costs nothing and each subcommand imports only what it needs.

stdout carries data, stderr the log. Exit codes: 0 done, 1 bad input or output, 2 wrong usage, 4 backend
missing, 70 our bug, 77 refused for lack of consent, 130 interrupted, 141 reader of the pipe gone, 143
terminated.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import errno
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from megabolt import __version__
from megabolt.errors import InternalError, MegaboltError, OutputError, ResourceError, UsageError
from megabolt.workflow import guardian

#: The order of the subcommands in the help; others follow in alphabetical order.
ORDER = (
    "index",
    "germline",
    "align",
    "markdup",
    "call",
    "explain",
    "joint",
    "run",
    "report",
    "simulate",
    "compare",
    "demo",
    "doctor",
    "warmup",
)

INTRODUCTION = """\
FASTQ to BAM, VCF, metrics and report: fast, right and under a recorded consent.

First steps:
  megabolt doctor                   what this machine offers
  megabolt demo                     simulated sample, whole path, accuracy reached (minutes)
  megabolt germline --help          one sample
  megabolt run --help               many samples from a sheet
"""

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger("megabolt")


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived: unwind, so that temporary files are removed, then leave."""


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing and leaving."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, f"Type `{self.prog} --help` for all options.")


@dataclass(frozen=True)
class Subcommand:
    """A subcommand as its source shows it, without importing it."""

    name: str
    description: str

    @property
    def summary(self) -> str:
        return self.description.strip().partition("\n")[0]


def subcommands(folder: Path | None = None) -> dict[str, Subcommand]:
    """Find the subcommands: modules of `folder` that define both `add_arguments` and `main`."""
    found = {}
    for path in sorted((folder or Path(__file__).parent).glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if {"add_arguments", "main"} <= functions:
            name = path.stem.replace("_", "-")
            found[name] = Subcommand(name, ast.get_docstring(tree) or "")
    rank = {name: i for i, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def overview(commands: dict[str, Subcommand]) -> str:
    """The text of `megabolt --help`."""
    width = max((len(name) for name in commands), default=0)
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]
    return (
        "usage: megabolt COMMAND [options]\n\n"
        + INTRODUCTION
        + "\ncommands:\n"
        + "\n".join(lines)
        + "\n\nmegabolt COMMAND --help explains one command; megabolt --version prints the version.\n"
    )


def entry() -> None:
    """Console script."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no job uses BLAS, whose threads cost 0.1 s to start
    status = main(sys.argv[1:])
    gc.freeze()  # or the interpreter looks through all of Numba for cycles on its way out: 0.3 s
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code; never raises for a user's mistake.

    Parameters
    ----------
    argv
        Arguments without the program's name; default `sys.argv[1:]`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    program = f"megabolt {name}".strip()
    try:
        with _Signals():
            status = _dispatch(arguments)
            sys.stdout.flush()  # here, so that a full disk or a closed pipe is met inside the try
            return status
    except MegaboltError as error:
        return _report(program, error, "--debug" in arguments)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except Terminated:
        print(f"{program}: terminated", file=sys.stderr)
        return 143
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except (OSError, MemoryError) as error:
        _give_up_stdout()
        return _report(program, _environment_error(error), "--debug" in arguments)
    except Exception as error:
        bug = InternalError(
            f"{type(error).__name__}: {error}",
            "This is our bug, not yours. Please report it with the output of `megabolt doctor`"
            " and of the same command with --debug.",
        )
        bug.__cause__ = error
        return _report(program, bug, "--debug" in arguments)


def _give_up_stdout() -> None:
    """If stdout cannot be written, drop what it holds: Python flushes when it leaves and would complain again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> int:
    commands = subcommands()
    if not arguments:
        print(overview(commands), file=sys.stderr, end="")
        return 2
    first = arguments[0]
    if first in ("-h", "--help", "help"):
        print(overview(commands), end="")
        return 0
    if first in ("-V", "--version"):
        print(f"megabolt {__version__}")
        return 0
    if first not in commands:
        close = difflib.get_close_matches(first, commands, n=1)
        raise UsageError(
            f"unknown command '{first}' (choose from {', '.join(commands)})",
            f"Did you mean `megabolt {close[0]}`?" if close else "Type `megabolt --help` for what each one does.",
        )
    module = importlib.import_module(f"megabolt.cli.{first.replace('-', '_')}")
    parser = _Parser(
        prog=f"megabolt {first}",
        description=commands[first].description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    _add_message_options(parser)
    dash = next((a for a in arguments[1:] if a[:1] in ("\u2013", "\u2014")), None)
    if dash is not None:
        raise UsageError(
            f"'{dash}' begins with a typographic dash",
            "Options begin with plain hyphens: retype it as - or --.",
        )
    try:
        options = parser.parse_args(arguments[1:])
    except SystemExit as leave:  # --help has printed its text
        return int(leave.code or 0)
    _start_log(options)
    guardian.start_watching()
    return int(module.main(options))


def _add_message_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages (on stderr)")
    group.add_argument("-v", "--verbose", action="store_true", help="say more")
    group.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    group.add_argument("--debug", action="store_true", help="say everything, and show the traceback of an error")


def _start_log(options: argparse.Namespace) -> None:
    level = logging.INFO
    if options.quiet:
        level = logging.WARNING
    if options.verbose or options.debug:
        level = logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            clock, _, rest = text.partition(" ")
            text = f"{clock} {record.levelname.lower()}: {rest}"
        return text


def _environment_error(error: OSError | MemoryError) -> MegaboltError:
    if isinstance(error, MemoryError):
        return _caused(
            ResourceError("not enough memory", "Give --memory less, or run on a machine with more of it."),
            error,
        )
    what = f"{error.filename}: " if error.filename else ""
    why = f"{what}{error.strerror or error}"
    if error.errno in NO_SPACE:
        return _caused(OutputError(why, "Make room on that disk, or write to another one, and run it again."), error)
    return _caused(OutputError(why, "Check the path, the permissions and the disk, and run it again."), error)


def _caused(error: MegaboltError, cause: BaseException) -> MegaboltError:
    error.__cause__ = cause
    return error


def _report(program: str, error: MegaboltError, debug: bool) -> int:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    print(f"{program}: error: {error.why}", file=sys.stderr)
    if error.help:
        print(f"  {error.help}", file=sys.stderr)
    return error.exit_code


class _Signals:
    """SIGTERM and SIGHUP become `Terminated` while a command runs, so that `finally` and `with` clean up."""

    def __enter__(self) -> None:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:  # nohup has set SIG_IGN: leave it
                    self._previous[number] = signal.signal(number, self._stop)

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    @staticmethod
    def _stop(number: int, frame: FrameType | None) -> None:
        for later in (signal.SIGTERM, signal.SIGHUP):  # a second one must not interrupt the cleaning up
            signal.signal(later, signal.SIG_IGN)
        raise Terminated(number)
