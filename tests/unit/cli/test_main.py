# SPDX-License-Identifier: Apache-2.0
"""The frame of the command line: help, dispatch, messages and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from megabolt.cli import main as cli
from megabolt.errors import BackendUnavailable, ConsentRefused, InputFormatError, InternalError, MegaboltError

NAMES = sorted(cli.subcommands())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], list[str]]:
    """Put a subcommand `fake` in place, and return its command line."""

    def install(body: Callable[..., int]) -> list[str]:
        module = types.ModuleType("megabolt.cli.fake")
        module.add_arguments = lambda parser: parser.add_argument("--kind", choices=["wgs", "wes"])  # type: ignore[attr-defined]
        module.main = body  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "megabolt.cli.fake", module)
        monkeypatch.setattr(cli, "subcommands", lambda: {"fake": cli.Subcommand("fake", "Fake.\n\nMore.")})
        return ["fake"]

    return install


def raising(error: BaseException) -> Callable[..., int]:
    def body(args: object) -> int:
        raise error

    return body


def test_help_lists_every_subcommand_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in cli.subcommands().items():
        assert name in text
        assert command.summary in text
    assert {"index", "align", "call", "germline", "run", "doctor", "warmup", "demo"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_subcommand_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    command = cli.subcommands()[name]
    assert command.summary.endswith(".")
    assert command.description in text
    assert f"usage: megabolt {name}" in text


@pytest.mark.parametrize("arguments", [["--help"], ["germline", "--help"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from megabolt.cli.main import main; main(sys.argv[1:]);"
        "sys.exit(bool({'numba', 'numpy', 'pysam', 'snakemake'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False)
    assert done.returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("megabolt ")


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: megabolt" in captured.err


def test_unknown_command_names_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["germlin"]) == 2
    text = capsys.readouterr().err
    assert "germlin" in text
    assert "choose from" in text
    assert "Did you mean `megabolt germline`?" in text


def test_unknown_option_value_names_the_choices(
    fake: Callable[[Callable[..., int]], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*fake(lambda args: 0), "--kind", "wxs"]) == 2
    text = capsys.readouterr().err
    assert "megabolt fake: error: " in text
    assert "'wxs'" in text
    assert "wgs" in text
    assert "wes" in text


def test_typographic_dash_is_recognised(
    fake: Callable[[Callable[..., int]], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*fake(lambda args: 0), "\u2013kind", "wgs"]) == 2
    assert "typographic dash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputFormatError("a.fq", "line 4", "bad", "Mend it."), 1, ["a.fq, line 4: bad", "Mend it."]),
        (ConsentRefused("no consent", "Ask."), 77, ["no consent", "Ask."]),
        (BackendUnavailable("no CUDA"), 4, ["no CUDA"]),
        (InternalError("broken"), 70, ["broken"]),
        (MemoryError(), 1, ["not enough memory", "--memory"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.bam"),
            1,
            ["out.bam: No space left", "Make room"],
        ),
        (OSError(errno.EIO, "Input/output error", "x"), 1, ["x: Input/output error"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (KeyError("surprise"), 70, ["KeyError", "our bug", "megabolt doctor"]),
    ],
)
def test_errors_become_messages_and_exit_codes(
    error: BaseException,
    code: int,
    words: list[str],
    fake: Callable[[Callable[..., int]], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(fake(raising(error))) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize("error", [MegaboltError("known"), KeyError("unknown")])
def test_debug_shows_the_traceback(
    error: Exception, fake: Callable[[Callable[..., int]], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*fake(raising(error)), "--debug"]) != 0
    assert "Traceback" in capsys.readouterr().err


def test_every_exit_code_of_errors_is_distinct_where_it_must_be() -> None:
    assert (ConsentRefused.exit_code, BackendUnavailable.exit_code, InternalError.exit_code) == (77, 4, 70)


def test_closed_pipe_is_quiet() -> None:
    command = f"env -u PYTHONUNBUFFERED {sys.executable} -m megabolt --help"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_full_disk_under_stdout_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            ["env", "-u", "PYTHONUNBUFFERED", sys.executable, "-m", "megabolt", "doctor"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_unwind(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """`finally` blocks run, so temporary files are removed, and the exit code names the signal."""
    program = (
        "import signal, sys, time, types, pathlib; from megabolt.cli import main as cli\n"
        # a shell's background jobs, the tests among them, may have begun with the interrupt ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "module = types.ModuleType('megabolt.cli.fake'); module.add_arguments = lambda parser: None\n"
        "def body(args):\n"
        "    try:\n"
        "        pathlib.Path(sys.argv[1]).write_text('in')\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        time.sleep(0.2)\n"
        "        pathlib.Path(sys.argv[1]).unlink()\n"
        "module.main = body; sys.modules['megabolt.cli.fake'] = module\n"
        "cli.subcommands = lambda: {'fake': cli.Subcommand('fake', 'Fake.')}\n"
        "sys.exit(cli.main(['fake']))\n"
    )
    flag = tmp_path / "running"
    with subprocess.Popen([sys.executable, "-c", program, str(flag)], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not flag.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, number)
        if number == signal.SIGTERM:
            os.kill(process.pid, number)  # a second one while it cleans up
        assert process.wait(30) == code
    assert not flag.exists()


def test_backends_are_those_there_are() -> None:
    from megabolt.cli._options import BACKENDS
    from megabolt.compute.backend import Backend

    assert set(BACKENDS) == {"auto", *(backend.value for backend in Backend)}
