# SPDX-License-Identifier: Apache-2.0
"""Reads whose bases lie in two places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megabolt.align.alignments import SUPPLEMENTARY
from megabolt.align.engine import InsertSize, PairAligner
from megabolt.align.index import build_index, open_index
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.testing.batches import pair_batch

INSERT = InsertSize(mean=400.0, sd=50.0, low=35, high=700)
LETTERS = "MIDNSHP=X"


def rc(text: str) -> str:
    return decode(reverse_complement(encode(text)))


def random_text(seed: int, n: int) -> str:
    return decode(np.random.default_rng(seed).integers(0, 4, n).astype(np.uint8))


@pytest.fixture(scope="module")
def genome() -> str:
    return random_text(1, 60_000)


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory, genome: str) -> PairAligner:
    path = tmp_path_factory.mktemp("split") / "ref.fa"
    path.write_text(f">chr1\n{genome[:40_000]}\n>chr2\n{genome[40_000:]}\n")
    build_index(path)
    return PairAligner(open_index(path))


def cigar(owner, row: int) -> str:
    return "".join(f"{w >> 4}{LETTERS[w & 15]}" for w in owner.cigar[row, : owner.n_cigar[row]].tolist())


def pieces(got, r: int) -> list[tuple[int, int, int, str, int]]:
    """(contig, start, reverse, CIGAR, MAPQ) of the alignment of read r and of its supplementary ones."""
    found = [(int(got.contig[r]), int(got.start[r]), int(got.reverse[r]), cigar(got, r), int(got.mapq[r]))]
    extra = got.extra
    assert (extra.kind == SUPPLEMENTARY).all()
    for x in np.flatnonzero(extra.read == r):
        found.append(
            (int(extra.contig[x]), int(extra.start[x]), int(extra.reverse[x]), cigar(extra, x), int(extra.mapq[x]))
        )
    return found


def query_of(cigar_text: str, reverse: int) -> tuple[int, int]:
    """Read bases that a CIGAR aligns, in the direction of sequencing."""
    words, number = [], ""
    for letter in cigar_text:
        if letter.isdigit():
            number += letter
        else:
            words.append((int(number), letter))
            number = ""
    length = sum(n for n, op in words if op in "MIS")
    start = words[0][0] if words[0][1] == "S" else 0
    stop = length - (words[-1][0] if words[-1][1] == "S" else 0)
    return (length - stop, length - start) if reverse else (start, stop)


def test_chimera_of_two_contigs(aligner: PairAligner, genome: str) -> None:
    read = genome[5000:5090] + genome[47_000:47_060]
    got = aligner.align(pair_batch([read], [rc(genome[4700:4850])]), INSERT)
    first, second = pieces(got, 0)
    assert first[:2] == (0, 5000)
    assert second[:2] == (1, 7000)
    assert first[4] >= 40
    assert second[4] >= 30
    assert abs(query_of(first[3], 0)[1] - 90) <= 3
    assert abs(query_of(second[3], 0)[0] - 90) <= 3


def test_halves_are_not_rivals_whatever_their_sizes(aligner: PairAligner, genome: str) -> None:
    read = genome[5000:5075] + genome[47_000:47_075]
    got = aligner.align(pair_batch([read], [rc(genome[5250:5400])]), INSERT)
    places = sorted(piece[:2] for piece in pieces(got, 0))
    assert places == [(0, 5000), (1, 7000)]
    assert all(piece[4] >= 30 for piece in pieces(got, 0))


def test_inversion(aligner: PairAligner, genome: str) -> None:
    read = genome[9000:9080] + rc(genome[9500:9570])
    got = aligner.align(pair_batch([read], [rc(genome[8700:8850])]), INSERT)
    first, second = pieces(got, 0)
    assert first[:3] == (0, 9000, 0)
    assert second[:3] == (0, 9500, 1)
    assert abs(query_of(second[3], 1)[0] - 80) <= 3


@pytest.mark.parametrize("gap", [45, 60])
def test_long_deletion_is_one_alignment(aligner: PairAligner, genome: str, gap: int) -> None:
    read = genome[12_000:12_075] + genome[12_075 + gap : 12_150 + gap]
    got = aligner.align(pair_batch([read], [rc(genome[12_250:12_400])]), INSERT)
    ((contig, start, reverse, text, mapq),) = pieces(got, 0)
    assert (contig, start, reverse) == (0, 12_000, 0)
    assert f"{gap}D" in text
    assert "S" not in text
    assert mapq >= 30


@pytest.mark.parametrize("gap", [100, 300, 5000])
def test_longer_deletion_is_split(aligner: PairAligner, genome: str, gap: int) -> None:
    read = genome[12_000:12_075] + genome[12_075 + gap : 12_150 + gap]
    mate = rc(genome[12_250 + gap : 12_400 + gap])
    got = aligner.align(pair_batch([read], [mate]), INSERT)
    assert sorted(piece[1] for piece in pieces(got, 0)) in (
        [12_000, 12_075 + gap],
        *([12_000, 12_075 + gap - k] for k in range(-3, 4)),
    )
    assert all(piece[4] >= 20 for piece in pieces(got, 0))


def test_part_in_a_repeat_gets_no_mapq(tmp_path: Path) -> None:
    unit = random_text(7, 500)
    genome = random_text(8, 5000) + unit + random_text(9, 5000) + unit + random_text(10, 5000)
    path = tmp_path / "ref.fa"
    path.write_text(f">chr1\n{genome}\n")
    build_index(path)
    read = genome[2000:2090] + unit[200:260]
    got = PairAligner(open_index(path)).align(pair_batch([read], [rc(genome[1700:1850])]), INSERT)
    first, second = pieces(got, 0)
    assert first[1] == 2000
    assert first[4] >= 40
    assert second[1] in (5200, 10_700)
    assert second[4] == 0


def test_plain_reads_and_foreign_tails_have_no_parts(aligner: PairAligner, genome: str) -> None:
    tail = genome[7000:7110] + random_text(4, 40)
    got = aligner.align(pair_batch([tail, genome[100:250]], [rc(genome[7250:7400]), rc(genome[350:500])]), INSERT)
    assert len(got.extra) == 0
