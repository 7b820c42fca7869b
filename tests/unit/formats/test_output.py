# SPDX-License-Identifier: Apache-2.0
"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megabolt.errors import InputFormatError, OutputError
from megabolt.formats import output
from megabolt.formats.output import WriteBehind, atomic_output, check_writable


def test_success_replaces(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with atomic_output(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("error", [ValueError("x"), InputFormatError("in", "", "bad"), KeyboardInterrupt()])
def test_errors_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def fail_half_way() -> None:
        with atomic_output(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail_half_way()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_full_disk(tmp_path: Path) -> None:
    refusal = pytest.raises(OutputError, match=r"out\.bam cannot be written: No space left")
    with refusal as caught, atomic_output(tmp_path / "out.bam"):
        raise OSError(28, "No space left on device")
    assert "Free some space" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path: Path) -> None:
    refusal = pytest.raises(OutputError, match="No such file")
    with refusal as caught, atomic_output(tmp_path / "nowhere" / "out.bam"):
        pytest.fail("the block must not run")
    assert "Make the folder first" in str(caught.value)
    with pytest.raises(OutputError):
        check_writable(tmp_path / "nowhere")


def test_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        check_writable(tmp_path / "file")


def test_devices_are_refused() -> None:
    with pytest.raises(OutputError, match="not a regular file"), atomic_output("/dev/null"):
        pytest.fail("the block must not run")


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "out.txt")
    with atomic_output(tmp_path / "link") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "out.txt").read_text() == "x"


def test_other_files_errors_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_output(tmp_path / "out.txt"):
        open(tmp_path / "missing_input")  # noqa: SIM115 - fails
    assert os.listdir(tmp_path) == []


def test_writable_folder_is_left_clean(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert os.listdir(tmp_path) == []


def test_limit_on_file_size_in_a_real_process(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from megabolt.errors import OutputError\n"
        "from megabolt.formats.output import atomic_output\n"
        "try:\n"
        "    with atomic_output(sys.argv[1]) as temporary, open(temporary, 'wb') as file:\n"
        "        file.write(b'x' * 100_000)\n"
        "except OutputError as error:\n"
        "    print(error, file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.bam")],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "out.bam cannot be written" in done.stderr
    assert os.listdir(tmp_path) == []


def test_write_behind_passes_all_bytes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    file = WriteBehind(path.open("wb"), step=1000)
    pieces = [bytes([k]) * (k + 1) for k in range(200)]
    for piece in pieces:
        assert file.write(piece) == len(piece)
    file.close()
    file.close()
    assert path.read_bytes() == b"".join(pieces)


def test_write_behind_tells_of_bytes_the_disk_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(descriptor: int) -> None:
        asked.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(output, "_flush_data", refuse)
    path = tmp_path / "out.bin"
    file = WriteBehind(path.open("wb"), step=1000)
    assert file.write(b"x" * 999) == 999
    assert not asked
    assert file.write(b"x") == 1
    with pytest.raises(OSError, match="Input/output error"):
        file.close()
    assert len(asked) == 1
    file.close()
    assert path.read_bytes() == b"x" * 1000
