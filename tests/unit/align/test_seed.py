# SPDX-License-Identifier: Apache-2.0
"""Packing and seeding against plain versions."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.align.packed import PackedReads, allocate_reads
from megabolt.align.seed import collect_reference_seeds, pack_reads
from megabolt.align.table import CORE, FLANK, INNER, SEED, is_chosen
from megabolt.compute.jit import kernel
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.testing.batches import pair_batch


def hash_inner(codes: np.ndarray) -> int:
    """The 32-bit hash by which inner words (of 24 bits) are compared."""
    value = sum(int(c) << (2 * i) for i, c in enumerate(codes))
    other = sum(int(c) << (2 * i) for i, c in enumerate(reverse_complement(codes)))
    x = (min(value, other) * 0x9E3779B1) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x85EBCA77) & 0xFFFFFFFF
    return x ^ (x >> 13)


def plain_seeds(codes: np.ndarray) -> list[int]:
    """Windows around closed syncmers, by their definition."""
    found = []
    for start in range(len(codes) - SEED + 1):
        core = codes[start + FLANK : start + FLANK + CORE]
        inner = [hash_inner(core[i : i + INNER]) for i in range(CORE - INNER + 1)]
        if min(inner) in (inner[0], inner[-1]):
            found.append(start)
    return found


def pack_one(read: str, quality: str) -> PackedReads:
    batch = pair_batch([read], [read], qualities=[(quality, quality)])
    reads = allocate_reads(1, len(read))
    pack_reads(*batch.text, *batch.fields, 1, False, reads)
    return reads


def unpack(words: np.ndarray, n: int) -> np.ndarray:
    return np.array([(int(words[i >> 5]) >> (2 * (i & 31))) & 3 for i in range(n)], np.uint8)


@pytest.mark.parametrize("length", [1, 23, 24, 25, 31, 32, 33, 64, 101, 150, 151, 250, 500])
def test_packing_and_seeds_agree_with_the_definition(length: int) -> None:
    rng = np.random.default_rng(length)
    codes = rng.integers(0, 4, length).astype(np.uint8)
    phred = rng.choice([2, 9, 10, 19, 20, 29, 30, 40], length)
    reads = pack_one(decode(codes), "".join(chr(33 + q) for q in phred))
    assert (unpack(reads.forward, length) == codes).all()
    assert (unpack(reads.reverse, length) == reverse_complement(codes)).all()
    classes = np.select([phred >= 30, phred >= 20, phred >= 10], [0, 1, 2], 3)
    assert (unpack(reads.class_forward, length) == classes).all()
    assert (unpack(reads.class_reverse, length) == classes[::-1]).all()
    expected = plain_seeds(codes)[: reads.slots]
    assert reads.seeds[: reads.n_seeds[0]].tolist() == expected


def test_n_counts_as_the_worst_quality() -> None:
    reads = pack_one("ACGTNacgtn", "I" * 10)
    assert unpack(reads.class_forward, 10).tolist() == [0, 0, 0, 0, 3, 0, 0, 0, 0, 3]


def test_the_opposite_strand_has_the_same_seeds() -> None:
    codes = np.random.default_rng(5).integers(0, 4, 200).astype(np.uint8)
    ahead = pack_one(decode(codes), "I" * 200)
    behind = pack_one(decode(reverse_complement(codes)), "I" * 200)
    mirrored = sorted(200 - SEED - behind.seeds[: behind.n_seeds[0]])
    assert mirrored == ahead.seeds[: ahead.n_seeds[0]].tolist()


def test_reference_seeds_cross_blocks() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, 20_000).astype(np.uint8)
    words = np.zeros(len(codes) // 32 + 64, np.uint64)
    for i, code in enumerate(codes):
        words[i >> 5] |= np.uint64(int(code) << (2 * (i & 31)))
    hashes, places = np.empty(20_000, np.uint64), np.empty(20_000, np.uint64)
    n = collect_reference_seeds(words, 0, len(codes), hashes, places)
    assert (places[:n] >> np.uint64(1)).tolist() == plain_seeds(codes)


def test_low_complexity_reads_fit_their_slots() -> None:
    reads = pack_one("A" * 150, "I" * 150)
    assert reads.n_seeds[0] == reads.slots


def test_names_give_the_lot() -> None:
    batch = pair_batch(["ACGT"] * 3, ["ACGT"] * 3, names=["a", "abcdefghi", "abcdefghj"])
    reads = allocate_reads(3, 4)
    pack_reads(*batch.text, *batch.fields, 3, False, reads)
    assert len(set(reads.name_hash.tolist())) == 3


def test_encode_is_what_packing_uses() -> None:
    assert encode("ACGTN").tolist() == [0, 1, 2, 3, 4]


def test_a_core_alone_tells_whether_it_is_chosen() -> None:
    @kernel("boolean(uint64)")
    def chosen(core):  # type: ignore[no-untyped-def]
        return is_chosen(core)

    codes = np.random.default_rng(6).integers(0, 4, 400).astype(np.uint8)
    codes[100:130] = 2  # equal inner words
    starts = set(plain_seeds(codes))
    for start in range(len(codes) - SEED + 1):
        core = sum(int(c) << (2 * i) for i, c in enumerate(codes[start + FLANK : start + FLANK + CORE]))
        assert chosen(np.uint64(core)) == (start in starts)
