# SPDX-License-Identifier: Apache-2.0
"""One reader for plain and gzip text."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError
from megabolt.formats.inflate import InputStream

DATA = os.urandom(30_000) + bytes(3_000_000)


@pytest.mark.parametrize(
    "content",
    [DATA, gzip.compress(DATA, mtime=0), gzip.compress(DATA[:7], mtime=0) + gzip.compress(DATA[7:], mtime=0)],
    ids=["plain", "gz", "2gz"],
)
def test_all_at_once_and_in_pieces(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with InputStream(path) as stream:
        whole = stream.read_all()
    assert whole[:-PADDING].tobytes() == DATA
    assert not whole[-PADDING:].any()
    pieces, buffer = [], bytearray(70_001)
    with InputStream(path) as stream:
        while n := stream.readinto(buffer):
            pieces.append(bytes(buffer[:n]))
    assert {len(piece) for piece in pieces[:-1]} == {70_001}  # full but for the last
    assert b"".join(pieces) == DATA


def test_empty(tmp_path: Path) -> None:
    for content in (b"", gzip.compress(b"")):
        (tmp_path / "x").write_bytes(content)
        with InputStream(tmp_path / "x") as stream:
            assert len(stream.read_all()) == PADDING


def test_refused_files_are_closed(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b"plain")
    with pytest.raises(InputFormatError, match="not gzip"):
        InputStream(tmp_path / "x.gz")  # a file left open would be a warning, hence an error
    with pytest.raises(InputFormatError, match="folder"):
        InputStream(tmp_path)
    with pytest.raises(InputFormatError, match="No such file"):
        InputStream(tmp_path / "none")
    stream = InputStream(__file__)
    stream.close()
    stream.close()


def test_errors_say_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(DATA)[:-20])
    with InputStream(tmp_path / "x.gz") as stream, pytest.raises(InputFormatError, match="truncated") as caught:
        stream.read_all()
    assert caught.value.where.startswith("near byte")
    assert caught.value.help
