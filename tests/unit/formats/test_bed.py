# SPDX-License-Identifier: Apache-2.0
"""BED: merging, and every malformed line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from megabolt.errors import InputFormatError
from megabolt.formats.bed import read_bed
from megabolt.formats.fasta import Contig

CONTIGS = (Contig("chr1", 1000, ""), Contig("chr2", 500, ""))


def read(tmp_path: Path, text: bytes, name: str = "targets.bed") -> list[list[list[int]]]:
    path = tmp_path / name
    path.write_bytes(text)
    return [intervals.tolist() for intervals in read_bed(path, CONTIGS)]


def test_sorted_and_merged(tmp_path: Path) -> None:
    text = (
        b"browser position chr1:1-10\ntrack name=x\n# comment\n\n"
        b"chr2\t0\t500\nchr1\t50\t60\nchr1\t10\t20\nchr1\t15\t30\nchr1\t30\t35\nchr1\t52\t55\nchr1\t70\t70\n"
    )
    expected = [[[10, 35], [50, 60]], [[0, 500]]]
    assert read(tmp_path, text) == expected
    assert read(tmp_path, text.replace(b"\n", b"\r\n")) == expected
    assert read(tmp_path, text[:-1]) == expected
    assert read(tmp_path, gzip.compress(text), "targets.bed.gz") == expected


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"chr1\t5", "2 columns, but 3"),
        (b"chr1\t5\t6\tname", "4 columns, but 3"),
        (b"chr3\t5\t6", "no contig chr3"),
        (b"chr1\tx\t6", "whole number"),
        (b"chr1\t-1\t6", "whole number"),
        (b"chr1\t1.5\t6", "whole number"),
        (b"chr1\t1e2\t600", "whole number"),
        (b"chr1\t7\t6", "behind stop"),
        (b"chr2\t7\t501", "beyond the end of contig chr2"),
    ],
)
def test_refused(tmp_path: Path, line: bytes, why: str) -> None:
    with pytest.raises(InputFormatError, match=why) as caught:
        read(tmp_path, b"chr1\t0\t10\n" + line + b"\n")
    assert caught.value.where == "line 2"
    assert caught.value.help


def test_names_and_spaces(tmp_path: Path) -> None:
    assert read(tmp_path, b"chr1\t1\t2\ta name\nchr2\t1\t2\tname\n") == [[[1, 2]], [[1, 2]]]
    assert read(tmp_path, b"chr1 1 2\nchr2  1 2\n") == [[[1, 2]], [[1, 2]]]


@pytest.mark.parametrize("text", [b"chr1\n", b"chr1 5\n", b"chr1\t5\n"])
def test_two_columns(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InputFormatError, match="columns, not 3"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"chr1\t5\t5\n"])
def test_empty(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InputFormatError, match="no interval"):
        read(tmp_path, text)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputFormatError, match="No such file"):
        read_bed(tmp_path / "none.bed", CONTIGS)
