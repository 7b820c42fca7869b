# SPDX-License-Identifier: Apache-2.0
"""The index file: complete, equal for any number of threads, and refused when it does not fit."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from megabolt.align.index import CIRCULAR_MARGIN, GAP, Index, build_index, index_path, open_index
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
from megabolt.errors import InputFormatError, UsageError
from megabolt.formats.bases import decode, encode, reverse_complement

U = np.uint64
LOW40 = (1 << 40) - 1


def number(codes: Iterable[int]) -> int:
    return sum(int(c) << (2 * i) for i, c in enumerate(codes))


def plain_key(window: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Core and flanks of the strand that a seed is filed under, and whether it is the opposite one."""
    pairs = []
    letters = window.tolist()
    for strand, codes in enumerate((letters, [3 - c for c in reversed(letters)])):
        core, flanks = codes[FLANK:-FLANK], [*codes[:FLANK], *codes[-FLANK:]]
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
    codes = [int(c) for c in core]
    ahead, behind = number(codes), number([3 - c for c in reversed(codes)])
    words, mask = CORE - INNER + 1, (1 << (2 * INNER)) - 1
    hashed = []
    for i in range(words):
        word = min((ahead >> (2 * i)) & mask, (behind >> (2 * (words - 1 - i))) & mask)
        x = (word * 0x9E3779B1) & 0xFFFFFFFF
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


def test_many_runs_of_n(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    text = "".join(decode(random_codes(rng, int(n))) + "N" * int(n % 3) for n in rng.integers(0, 9, 5000)) + "NN"
    index = built(tmp_path, text, "NNN", text[::-1])
    assert len(index.n_intervals) > 3000
    assert decode(index.fetch(0, 0, len(text))) == text
    assert decode(index.fetch(1, 0, 3)) == "NNN"
    assert decode(index.fetch(2, 0, len(text))) == text[::-1]


def test_threads_do_not_change_the_file(fasta: Path) -> None:
    build_index(fasta, threads=1)
    once = index_path(fasta).read_bytes()
    build_index(fasta, threads=2)
    assert index_path(fasta).read_bytes() == once


def test_a_copied_reference_keeps_its_index(fasta: Path) -> None:
    build_index(fasta)
    os.utime(fasta, ns=(1, 1))
    open_index(fasta)


def test_copies_in_huge_pages_are_the_index(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(fasta)
    mapped = open_index(fasta)
    monkeypatch.setattr("megabolt.align.index._LEAST_COPIED", 1)
    copied = open_index(fasta, for_lookup=True)
    assert isinstance(mapped.table.base, np.memmap)
    assert not isinstance(copied.table.base, np.memmap)
    for name in ("packed_reference", "table", "lists", "n_intervals", "contig_offset"):
        assert np.array_equal(getattr(copied, name), getattr(mapped, name))
    assert copied.table.flags.writeable
    content = bytearray(index_path(fasta).read_bytes())
    content[content.index(mapped.table.tobytes()) + 5] ^= 1
    index_path(fasta).write_bytes(content)
    with pytest.raises(InputFormatError, match="array table"):
        open_index(fasta, for_lookup=True)
    monkeypatch.setattr("megabolt.align.index._MOST_COPIED", 1)
    build_index(fasta)
    assert isinstance(open_index(fasta, for_lookup=True).table.base, np.memmap)


def test_alternate_contigs(fasta: Path) -> None:
    alt = fasta.with_name("ref.fa.alt")
    alt.write_text("@HD\tVN:1.5\nthree\t0\tone\t100\t60\t400M\t*\t0\t0\t*\t*\n\nabsent\t4\nthree\t16\n")
    build_index(fasta)
    index = open_index(fasta)
    assert index.is_alt.tolist() == [0, 0, 1]
    assert index.tables().is_alt.tolist() == [0, 0, 1]
    alt.write_text("two\t0\n")
    refused(fasta, "stale: ref.fa.alt")
    build_index(fasta)
    assert open_index(fasta).is_alt.tolist() == [0, 1, 0]
    alt.unlink()
    assert open_index(fasta).is_alt.tolist() == [0, 1, 0]


def test_an_alt_file_that_came_later_is_not_ignored(fasta: Path) -> None:
    build_index(fasta)
    assert open_index(fasta).is_alt.tolist() == [0, 0, 0]
    fasta.with_name("ref.fa.alt").write_text("two\t0\n")
    refused(fasta, "stale: ref.fa.alt")


def test_the_alt_file_of_a_gzipped_reference(fasta: Path) -> None:
    packed = fasta.with_name("ref.fa.gz")
    packed.write_bytes(gzip.compress(fasta.read_bytes()))
    fasta.with_name("ref.fa.alt").write_text("two\t0\n")
    build_index(packed)
    assert open_index(packed).is_alt.tolist() == [0, 1, 0]


def circular_index(folder: Path, circle: str) -> Index:
    path = folder / "ref.fa"
    path.write_text(f">one\n{decode(random_codes(np.random.default_rng(2), 3000))}\n>chrM\n{circle}\n>last\nACGTACGT\n")
    build_index(path, 2, circular="chrM")
    return open_index(path)


def stretch(index: Index, start: int, stop: int) -> str:
    words = index.packed_reference
    return decode(np.array([int(words[p >> 5]) >> (2 * (p & 31)) & 3 for p in range(start, stop)], np.uint8))


@pytest.mark.parametrize("length", [CIRCULAR_MARGIN, 5000, 16_569])
def test_the_filler_continues_a_circle(tmp_path: Path, length: int) -> None:
    circle = decode(random_codes(np.random.default_rng(length), length))
    index = circular_index(tmp_path, circle)
    offset, size = index.circular.tolist()
    assert (offset, size) == (index.contig_offset[1], length)
    assert index.tables().circular.tolist() == [offset, length]
    assert stretch(index, offset - CIRCULAR_MARGIN, offset) == circle[-CIRCULAR_MARGIN:]
    assert stretch(index, offset, offset + length) == circle
    assert stretch(index, offset + length, offset + length + CIRCULAR_MARGIN) == circle[:CIRCULAR_MARGIN]
    assert decode(index.fetch(1, -1, length + 1)) == f"N{circle}N"
    crossing = 0
    twice = encode(circle + circle)
    for start in range(length):
        window = twice[start : start + SEED]
        if is_seed(window):
            key, strand = plain_key(window)
            assert entries_of(index, int(find(index.tables(), U(plain_hash(key))))) == [(offset + start, strand)]
            crossing += start + SEED > length
    assert crossing >= 2


def test_a_linear_contig_has_no_seeds_across_its_end(tmp_path: Path) -> None:
    circle = decode(random_codes(np.random.default_rng(1000), 1000))
    (tmp_path / "ref.fa").write_text(f">chrM\n{circle}\n")
    build_index(tmp_path / "ref.fa")
    index = open_index(tmp_path / "ref.fa")
    assert index.circular.tolist() == [0, 0]
    twice = encode(circle + circle)
    for start in range(1000 - SEED + 1, 1000):
        key, _ = plain_key(twice[start : start + SEED])
        assert int(find(index.tables(), U(plain_hash(key)))) == 0


def test_n_at_the_end_of_a_circle(tmp_path: Path) -> None:
    circle = decode(random_codes(np.random.default_rng(3), 5000))
    index = circular_index(tmp_path, circle[:-3] + "NNN")
    offset = int(index.circular[0])
    places = (index.table[index.table != 0] & PLACE_MASK) >> U(1)
    assert not ((places >= offset + 5000 - 3 - SEED + 1) & (places < offset + 5000)).any()
    assert (places >= offset + 4900).any()
    assert index.n_intervals.tolist() == [[offset + 4997, offset + 5000]]


def test_what_cannot_be_circular(fasta: Path) -> None:
    with pytest.raises(UsageError, match="no contig chrM"):
        build_index(fasta, circular="chrM")
    with pytest.raises(UsageError, match="too short"):
        build_index(fasta, circular="two")
    assert not index_path(fasta).exists()


def test_thousands_of_contigs_shorter_than_a_seed_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    plain = agree(built(tmp_path, *(decode(random_codes(rng, n)) for n in rng.integers(1, 60, 3000))))
    assert len(plain.seeds) > 1000


def test_genome_without_any_seed(tmp_path: Path) -> None:
    plain = agree(built(tmp_path, "ACGT", "N" * 100))
    assert not plain.seeds


def test_blocks_of_the_checksum(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of the table do not end where the blocks of the checksum do."""
    monkeypatch.setattr("megabolt.align.index._CRC_BLOCK", 1000)
    monkeypatch.setattr("megabolt.align.build._BLOCK", 3)
    build_index(fasta)
    open_index(fasta)
    data = bytearray(index_path(fasta).read_bytes())
    data[len(data) // 2] ^= 16
    index_path(fasta).write_bytes(data)
    refused(fasta, "damaged")


def test_parts_do_not_change_the_file(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(fasta)
    once = index_path(fasta).read_bytes()
    monkeypatch.setattr("megabolt.align.build._BLOCK", 1)
    monkeypatch.setattr("megabolt.align.build.CHUNK", 1000)
    build_index(fasta, threads=3)
    assert index_path(fasta).read_bytes() == once


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
