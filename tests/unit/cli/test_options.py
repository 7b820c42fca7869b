# SPDX-License-Identifier: Apache-2.0
"""Which reads and which options of the aligner a command line asks for; mistakes are met before any work."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from megabolt.align.options import AlignOptions
from megabolt.cli import _options
from megabolt.errors import UsageError
from megabolt.formats import cram
from megabolt.formats.lane import FastqLane


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with files a to e and the two mates of some lanes."""
    for name in ("a", "b", "c", "d", "e", "S_R1.fq", "S_R2.fq", "T_1_001.fq.gz", "T_2_001.fq.gz", "R1.fq", "R2.fq"):
        (tmp_path / name).touch()
    (tmp_path / "U_1.fq").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    _options.add_fastq(parser)
    _options.add_alignment(parser)
    return parser.parse_args([*words.split(), "--sample", "S"])


@pytest.mark.parametrize(
    ("words", "lanes"),
    [
        ("-1 a -2 b", [("a", "b", False)]),
        ("-1 a b -2 c d", [("a", "c", False), ("b", "d", False)]),
        ("-1 a", [("a", None, False)]),
        ("-1 a b", [("a", None, False), ("b", None, False)]),
        ("--single a b", [("a", None, False), ("b", None, False)]),
        ("--interleaved a", [("a", None, True)]),
        ("--interleaved - --single a", [("-", None, True), ("a", None, False)]),
        (
            "--single e --interleaved c d -1 a -2 b",
            [("a", "b", False), ("c", None, True), ("d", None, True), ("e", None, False)],
        ),
        ("--single S_R1.fq", [("S_R1.fq", None, False)]),
        ("-1 S_R1.fq S_R2.fq", [("S_R1.fq", None, False), ("S_R2.fq", None, False)]),
        ("-1 U_1.fq", [("U_1.fq", None, False)]),
    ],
)
def test_lanes(words: str, lanes: list, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    found = _options.lanes_of(parse(words))
    assert found == [FastqLane(Path(one), Path(two) if two else None, turn) for one, two, turn in lanes]


@pytest.mark.parametrize(
    ("words", "why", "help"),
    [
        ("", "no reads are given", "--interleaved"),
        ("-2 a", "0 files after -1 and 1 after -2", "--single"),
        ("-1 a b -2 c", "2 files after -1 and 1 after -2", "same order"),
        ("-1 a -2 a", "a is given twice", "-1 and -2 differ"),
        ("-1 a -2 b --single a", "a is given twice", ""),
        ("--interleaved - --single -", "standard input is given twice", ""),
        ("--interleaved nowhere", "nowhere: the FASTQ file does not exist", ""),
        ("--single .", "is a folder", ""),
        ("-1 S_R1.fq", "S_R1.fq is given without a mate file, but S_R2.fq lies beside it", "--single"),
        ("-1 T_1_001.fq.gz", "T_2_001.fq.gz lies beside it", "--single"),
        ("-1 R1.fq", "R2.fq lies beside it", "--single"),
    ],
)
def test_impossible_lanes(words: str, why: str, help: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(UsageError) as caught:
        _options.lanes_of(parse(words))
    assert why in caught.value.why
    assert help in caught.value.help


def test_a_terminal_is_no_fastq(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(UsageError, match="a terminal"):
        _options.lanes_of(parse("--interleaved -"))


def test_options_of_the_aligner() -> None:
    assert _options.align_options(parse("")) == AlignOptions()
    words = "--adapters trim --poly-g on --soft-clip --xa 7 --no-alt"
    assert _options.align_options(parse(words)) == AlignOptions("trim", "on", True, 7, False)
    with pytest.raises(UsageError, match="--xa -1"):
        _options.align_options(parse("--xa=-1"))


def test_choices_are_those_of_the_aligner() -> None:
    hints = typing.get_type_hints(AlignOptions)
    assert typing.get_args(hints["adapters"]) == _options.ADAPTERS
    assert typing.get_args(hints["poly_g"]) == _options.POLY_G


def test_help_costs_no_import_of_numba() -> None:
    program = (
        "import sys; from megabolt.cli.main import main; main(['align', '--help']); assert 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--interleaved" in done.stdout


def test_choices_of_files_are_those_of_the_library() -> None:
    assert _options.CRAM_VERSIONS == cram.VERSIONS
