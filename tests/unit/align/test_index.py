# SPDX-License-Identifier: Apache-2.0
"""The index file: complete, equal for any number of threads, and refused when it does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from megabolt.align.index import GAP, Index, build_index, index_path, open_index
from megabolt.align.table import (
    CORE,
    COUNT_MASK,
    COUNT_SHIFT,
    FLANK,
    INNER,
    LONG_LIST,
    MOST_ENTRIES,
    MOST_FLANKS,
    PLACE_MASK,
    SEED,
    find,
    find_core,
)
from megabolt.errors import InputFormatError
from megabolt.formats.bases import decode, encode, reverse_complement

U = np.uint64
LOW40 = (1 << 40) - 1


def number(codes: Iterable[int]) -> int:
    return sum(int(c) << (2 * i) for i, c in enumerate(codes))


def plain_key(window: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Core and flanks of the strand that a seed is filed under, and whether it is the opposite one."""
    pairs = []
    for strand, codes in enumerate((window, reverse_complement(window))):
        core, flanks = codes[FLANK:-FLANK].tolist(), [*codes[:FLANK].tolist(), *codes[-FLANK:].tolist()]
        pairs.append((number(core), number(flanks), strand, tuple(core + flanks)))
    _, _, strand, key = min(pairs)
    return key, strand


def plain_hash(key: tuple[int, ...]) -> int:
    x = number(key[:CORE])
    x = ((x ^ (x >> 21)) * 0x9E3779B97F4A7C15) & LOW40
    x = ((x ^ (x >> 18)) * 0xD6E8FEB86659FD93) & LOW40
    return (x ^ (x >> 22)) << 8 | number(key[CORE:])


def core_of_hash(hash40: int) -> list[int]:
    """The core that has these upper 40 bits of a hash: the hash can be undone."""
    x = hash40 ^ (hash40 >> 22)
    for factor, shift in ((0xD6E8FEB86659FD93, 18), (0x9E3779B97F4A7C15, 21)):
        x = (x * pow(factor, -1, 1 << 40)) & LOW40
        x ^= x >> shift ^ x >> 2 * shift
    return [x >> (2 * i) & 3 for i in range(CORE)]


def is_syncmer(core: Iterable[int]) -> bool:
    """Whether the lowest hashed inner word of a core stands at one of its ends."""
    hashed = []
    codes = np.array(list(core), np.uint8)
    for i in range(CORE - INNER + 1):
        word = codes[i : i + INNER]
        x = (min(number(word), number(reverse_complement(word))) * 0x9E3779B1) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x85EBCA77) & 0xFFFFFFFF
        hashed.append(x ^ (x >> 13))
    return min(hashed) in (hashed[0], hashed[-1])


def is_seed(window: np.ndarray) -> bool:
    return is_syncmer(window[FLANK:-FLANK])


def encode_key(text: str) -> tuple[int, ...]:
    return plain_key(encode(text))[0]


def some_core(rng: np.random.Generator) -> np.ndarray:
    while True:
        core = rng.integers(0, 4, CORE).astype(np.uint8)
        if is_syncmer(core):
            return core


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    body = decode(rng.integers(0, 4, 30_000).astype(np.uint8))
    repeat = body[1000:1100]
    text = body[:5000] + "N" * 777 + body[5000:].lower() + "RYK" + repeat * 120
    path = tmp_path / "ref.fa"
    path.write_text(f">one first\n{text}\n>two\nACGTACGTAC\n>three\n{body[:400]}\n")
    return path


def entries_of(index: Index, entry: int) -> list[tuple[int, int]]:
    """(place, strand) of an entry, in the order of its list."""
    count, payload = (entry >> COUNT_SHIFT) & int(COUNT_MASK), entry & int(PLACE_MASK)
    if count == LONG_LIST:
        count = int(index.lists[payload - 1])
    listed = [payload] if count == 1 else index.lists[payload : payload + count].tolist()
    return [(v >> 1, v & 1) for v in listed]


class Plain:
    """All seeds of a FASTA, on both strands, from its text alone."""

    def __init__(self, index: Index) -> None:
        self.seeds: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        self.skipped: set[tuple[int, ...]] = set()
        texts = [line for line in index.path.read_text().split("\n") if line and line[0] != ">"]
        for text, offset in zip(texts, index.contig_offset.tolist(), strict=True):
            codes = encode(text.upper())
            for start in range(len(codes) - SEED + 1):
                window = codes[start : start + SEED]
                if window.max() > 3:
                    continue
                key, strand = plain_key(window)
                if is_seed(window):
                    self.seeds.setdefault(key, []).append((offset + start, strand))
                else:
                    self.skipped.add(key)
        self.cores: dict[tuple[int, ...], dict[tuple[int, ...], list[tuple[int, int]]]] = {}
        for key, places in self.seeds.items():
            self.cores.setdefault(key[:CORE], {})[key] = places


def agree(index: Index) -> Plain:
    """The table answers every question as the plain version does."""
    plain, tables = Plain(index), index.tables()
    for key, places in plain.seeds.items():
        assert entries_of(index, int(find(tables, U(plain_hash(key))))) == places
    for key in plain.skipped:
        assert int(find(tables, U(plain_hash(key)))) == 0
    room = np.zeros(MOST_ENTRIES, np.uint64)
    foreign = 0
    for core, seeds in plain.cores.items():
        n = find_core(tables, U(plain_hash((*core, 0, 0, 0, 0))), room)
        if len(seeds) > MOST_FLANKS:
            assert n == -1
        else:
            found = [entries_of(index, e) for e in room[:n].tolist()]
            assert [places for places in seeds.values() if places not in found] == []
            foreign += len(found) - len(seeds)
    assert foreign <= 3  # one entry in 2^16 has the 16 bits of another core
    return plain


def built(folder: Path, *contigs: str) -> Index:
    path = folder / "ref.fa"
    path.write_text("".join(f">c{i}\n{text}\n" for i, text in enumerate(contigs)))
    build_index(path, 2)
    return open_index(path)


def random_codes(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 4, n).astype(np.uint8)


def test_every_seed_finds_its_complete_sorted_list(fasta: Path) -> None:
    build_index(fasta)
    plain = agree(open_index(fasta))
    assert max(len(v) for v in plain.seeds.values()) > 100
    assert len(plain.seeds) > 5000
    assert len(plain.skipped) > 20_000


def test_low_complexity(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    satellite = decode(random_codes(rng, 171))
    plain = agree(built(tmp_path, "A" * 300 + "CA" * 200 + "G" * 24, satellite * 15, decode(random_codes(rng, 9000))))
    assert len(plain.seeds[(0,) * SEED]) == 300 - SEED + 1


@pytest.mark.parametrize("flanks", [MOST_FLANKS - 1, MOST_FLANKS, MOST_FLANKS + 1, 100, 256])
def test_cores_with_many_flanks(tmp_path: Path, flanks: int) -> None:
    rng = np.random.default_rng(flanks)
    contigs = []
    for _ in range(3):
        core = some_core(rng)
        for i in range(flanks):
            ends = [i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6]
            window = np.array([*ends[:2], *core, *ends[2:]], np.uint8)
            contigs.append(decode(window if i % 3 else reverse_complement(window)))
    plain = agree(built(tmp_path, *contigs, contigs[1], *contigs[5:9], decode(random_codes(rng, 3000))))
    assert sum(len(seeds) == flanks for seeds in plain.cores.values()) >= 3


def test_palindromes(tmp_path: Path) -> None:
    """A core that is its own reverse complement is oriented by its flanks; a whole palindrome has one strand."""
    rng = np.random.default_rng(9)
    contigs = []
    for _ in range(20):
        core = np.empty(0, np.uint8)
        while not len(core) or not is_syncmer(core):
            half = random_codes(rng, CORE // 2)
            core = np.concatenate([half, reverse_complement(half)])
        for ends in ([0, 1, 0, 0], [3, 3, 2, 3], [1, 2, 1, 2], [0, 0, 3, 3]):
            contigs.append(decode(np.array([*ends[:2], *core, *ends[2:]], np.uint8)))
    plain = agree(built(tmp_path, *contigs))
    assert {len(seeds) for seeds in plain.cores.values()} == {3}


def test_n_and_contig_ends_cut_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    core = some_core(rng)
    seed = decode(np.array([0, 1, *core, 2, 2], np.uint8))
    plain = agree(built(tmp_path, seed, seed[1:], seed[:-1], "N" + seed + "N", "A" + seed[:11] + "N" + seed[12:], "AC"))
    (listed,) = [v for k, v in plain.seeds.items() if k == plain_key(encode(seed))[0]]
    assert len(listed) == 2


def test_seeds_that_share_bucket_and_tag_are_found_in_one_list(tmp_path: Path) -> None:
    """In one bucket, and where one has overflowed into the bucket of the other."""
    rng = np.random.default_rng(6)

    def text_of(bucket: int, low: int | None) -> str:
        """A seed, flanks AAAA, of a core with this home among 64 buckets and these low bits of its hash."""
        while True:
            low_bits = int(rng.integers(1 << 16)) if low is None else low
            hash40 = bucket << 34 | int(rng.integers(1 << 18)) << 16 | low_bits
            core = core_of_hash(hash40)
            window = np.array([0, 0, *core, 0, 0], np.uint8)
            if is_syncmer(core) and plain_key(window) == ((*core, 0, 0, 0, 0), 0):
                return decode(window)

    same = [text_of(9, 77), text_of(9, 77)]
    # Bucket 20 is full of eight, sorted by hash; what has the highest hash overflows into bucket 21.
    full = sorted((text_of(20, 1234 if i == 0 else None) for i in range(9)), key=lambda t: plain_hash(encode_key(t)))
    overflown = full[-1]
    victim = text_of(21, plain_hash(encode_key(overflown)) >> 8 & 0xFFFF)
    index = built(tmp_path, *same, *full, victim)
    assert index.n_buckets == 64
    plain = Plain(index)
    for texts in (same, [overflown, victim]):
        both = sorted(place for t in texts for place in plain.seeds[encode_key(t)])
        assert len(both) == 2
        for t in texts:
            assert entries_of(index, int(find(index.tables(), U(plain_hash(encode_key(t)))))) == both
    for t in full[:-1]:
        assert entries_of(index, int(find(index.tables(), U(plain_hash(encode_key(t)))))) == plain.seeds[encode_key(t)]


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
