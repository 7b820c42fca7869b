# SPDX-License-Identifier: Apache-2.0
"""The index file: complete, equal for any number of threads, and refused when it does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from megabolt.align.index import GAP, build_index, index_path, open_index
from megabolt.align.seed import collect_reference_seeds
from megabolt.align.table import COUNT_MASK, COUNT_SHIFT, LONG_LIST, PLACE_MASK, find
from megabolt.errors import InputFormatError
from megabolt.formats.bases import decode

U = np.uint64


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    body = decode(rng.integers(0, 4, 30_000).astype(np.uint8))
    repeat = body[1000:1100]
    text = body[:5000] + "N" * 777 + body[5000:].lower() + "RYK" + repeat * 120
    path = tmp_path / "ref.fa"
    path.write_text(f">one first\n{text}\n>two\nACGTACGTAC\n>three\n{body[:400]}\n")
    return path


def test_every_seed_finds_its_complete_sorted_list(fasta: Path) -> None:
    build_index(fasta)
    index = open_index(fasta)
    hashes, places = np.empty(40_000, np.uint64), np.empty(40_000, np.uint64)
    expected: dict[int, list[int]] = {}
    for contig, offset in zip(index.contigs, index.contig_offset.tolist()):
        edges = [offset, *index.n_intervals.ravel().tolist(), offset + contig.length]
        edges = [e for e in edges if offset <= e <= offset + contig.length]
        for start, stop in zip(edges[0::2], edges[1::2], strict=True):
            n = collect_reference_seeds(index.packed_reference, start, stop, hashes, places)
            for h, p in zip(hashes[:n].tolist(), places[:n].tolist()):
                expected.setdefault(h, []).append(p)
    assert max(len(v) for v in expected.values()) > 100
    for h, listed in expected.items():
        entry = int(find(index.tables(), U(h)))
        count, payload = (entry >> COUNT_SHIFT) & int(COUNT_MASK), entry & int(PLACE_MASK)
        if count == LONG_LIST:
            count = int(index.lists[payload - 1])
        got = [payload] if count == 1 else index.lists[payload : payload + count].tolist()
        assert got == sorted(listed)


def test_fetch_gives_back_the_reference(fasta: Path) -> None:
    build_index(fasta)
    index = open_index(fasta)
    text = fasta.read_text().split("\n")
    for contig, sequence in enumerate(text[1::2]):
        plain = "".join(c if c in "ACGT" else "N" for c in sequence.upper())
        assert decode(index.fetch(contig, 0, len(plain))) == plain
    assert decode(index.fetch(1, -2, 12)) == "NNACGTACGTACNN"
    assert decode(index.fetch(0, 4998, 5003)) == text[1][4998:5003].upper()
    assert index.contig_offset[0] == GAP


def test_threads_do_not_change_the_file(fasta: Path) -> None:
    build_index(fasta, threads=1)
    once = index_path(fasta).read_bytes()
    build_index(fasta, threads=2)
    assert index_path(fasta).read_bytes() == once


def test_a_copied_reference_keeps_its_index(fasta: Path) -> None:
    build_index(fasta)
    os.utime(fasta, ns=(1, 1))
    open_index(fasta)


def refused(fasta: Path, words: str) -> None:
    with pytest.raises(InputFormatError, match=words) as caught:
        open_index(fasta)
    assert "megabolt index" in caught.value.help


def test_missing(fasta: Path) -> None:
    refused(fasta, "no index")


def test_stale(fasta: Path) -> None:
    build_index(fasta)
    text = fasta.read_text()
    fasta.write_text(text.replace("ACGTACGTAC", "ACGTACGTAA"))
    refused(fasta, "stale")


def test_foreign(fasta: Path) -> None:
    index_path(fasta).write_bytes(b"BAM\1" + bytes(5000))
    refused(fasta, "not a megabolt index")


def test_cut_short(fasta: Path) -> None:
    build_index(fasta)
    data = index_path(fasta).read_bytes()
    index_path(fasta).write_bytes(data[:-4096])
    refused(fasta, "cut short")


@pytest.mark.parametrize("fraction", [0.0003, 0.3, 0.7])
def test_damaged(fasta: Path, fraction: float) -> None:
    build_index(fasta)
    data = bytearray(index_path(fasta).read_bytes())
    data[int(fraction * len(data))] ^= 1
    index_path(fasta).write_bytes(data)
    refused(fasta, "damaged")


def test_no_reference(tmp_path: Path) -> None:
    with pytest.raises(InputFormatError, match="no such reference"):
        open_index(tmp_path / "absent.fa")
