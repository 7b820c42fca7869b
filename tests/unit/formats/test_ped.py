# SPDX-License-Identifier: Apache-2.0
"""Pedigrees: families found, mistakes named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabolt.errors import InputFormatError
from megabolt.formats.ped import NuclearFamily, nuclear_families, read_ped


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "f.ped"
    path.write_text(text)
    return path


def test_families_among_the_samples(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "#family id father mother sex phenotype\nF dad 0 0 1 1\nF mum\t0\t0\t2\t1\n\n"
        "F a dad mum 1 2\nF b dad mum 2 2\nF c dad other 0 0\nG x nobody noone 1 0\n",
    )
    people = read_ped(path)
    assert list(people) == ["dad", "mum", "a", "b", "c", "x"]
    assert (people["mum"].sex, people["c"].sex, people["dad"].father) == ("female", "unknown", None)
    assert nuclear_families(people, ["dad", "mum", "a", "b", "c", "x"]) == [
        NuclearFamily("dad", "mum", ("a", "b")),
        NuclearFamily("dad", None, ("c",)),
    ]
    assert nuclear_families(people, ["mum", "b"]) == [NuclearFamily(None, "mum", ("b",))]
    assert nuclear_families(people, ["a", "b"]) == []


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("F a 0 0 1\n", "line 1", "5 columns"),
        ("F a 0 0 1 0\nF a 0 0 1 0\n", "line 2", "there already, in line 1"),
        ("F a 0 0 3 0\n", "line 1", "no sex"),
        ("F a a 0 1 0\n", "line 1", "their own parent"),
        ("F a b b 1 0\n", "line 1", "both father and mother"),
        ("F d 0 0 2 0\nF a d 0 1 0\n", "line 2", "the father of a, is female in line 1"),
        ("F a b 0 1 0\nF b a 0 1 0\n", "line 1", "own ancestors"),
        ("F 0 0 0 1 0\n", "line 1", "no name"),
        ("# nothing\n", "", "nobody"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(InputFormatError, match=words) as caught:
        read_ped(write(tmp_path, text))
    assert caught.value.where == place


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "f.ped"
    path.write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(InputFormatError, match="not text"):
        read_ped(path)
    with pytest.raises(InputFormatError, match="cannot be read"):
        read_ped(tmp_path / "none.ped")
