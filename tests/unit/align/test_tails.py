# SPDX-License-Identifier: Apache-2.0
"""Adapter tails and poly-G: against plain code, on made-up fragments whose length is known."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from megabolt.align.packed import PackedReads, allocate_reads
from megabolt.align.seed import pack_reads
from megabolt.align.tails import KNOWN_ADAPTERS, SHORTEST_FRAGMENT, fragment_by_overlap, poly_g_tail
from megabolt.compute.bits import PADDING
from megabolt.formats.bases import encode
from megabolt.testing.batches import pair_batch

TRUSEQ = (
    encode("AGATCGGAAGAGCACACGTCTGAACTCCAGTCACATTACTCGATCTCGTATGCCGTCTTCTGCTTG"),
    encode("AGATCGGAAGAGCGTCGTGTAGGGAAAGAGTGTAGATCTCGGTGGTCGCCGTATCATT"),
)
NEXTERA = (
    encode("CTGTCTCTTATACACATCTCCGAGCCCACGAGACTAAGGCGAATCTCGTATGCCGTCTTCTGCTTG"),
    encode("CTGTCTCTTATACACATCTGACGCTGCCGACGACTAGATCGCGTGTAGATCTCGGTGGTCGCCGTATCATT"),
)
#: A stem that is in no list.
UNLISTED = (encode("GCATTACGCATACGTTGCA"), encode("GCATTACGCAGGCTCAATT"))
G = 2


@numba.njit
def _fragments(reads: Any, n: Any, out: Any) -> None:
    for p in range(n):
        out[p] = fragment_by_overlap(reads, p)


@numba.njit
def _poly_g(text: Any, starts: Any, lengths: Any, out: Any) -> None:
    for i in range(len(starts)):
        out[i] = poly_g_tail(text, starts[i], lengths[i])


# ------------------------------------------------------------------------------------------- plain code


def overlap_reference(codes1: list[int], classes1: list[int], codes2: list[int], classes2: list[int]) -> int:
    """The rule of `fragment_by_overlap`, base by base."""
    n1, n2 = len(codes1), len(codes2)
    if min(n1, n2) < 20:
        return 0
    one, one_classes = np.array(codes1), np.array(classes1)
    turned, turned_classes = 3 - np.array(codes2)[::-1], np.array(classes2)[::-1]
    overlaps: dict[int, int] = {}
    evidence: dict[int, int] = {}
    for length in range(SHORTEST_FRAGMENT, n1 + n2 - 20 + 1):
        start, stop = max(0, length - n2), min(length, n1)
        here, there = slice(start, stop), slice(start + n2 - length, stop + n2 - length)
        differ, a, b = one[here] != turned[there], one_classes[here], turned_classes[there]
        if length < max(n1, n2) and (differ & ((a if length < n2 else b) != 3))[:32].sum() > 8:
            continue
        good = (a != 3) & (b != 3)
        wrong = (differ & good).sum() * 2 - (differ & good & ((a == 2) | (b == 2))).sum()
        compared = int(good.sum())
        if compared < 20 or wrong > 4 + compared // 16:
            continue
        overlaps[length] = 2 * compared - 4 * int(wrong)
        tails = [list(zip(codes1, classes1))[length : length + 8], list(zip(codes2, classes2))[length : length + 8]]
        both = [(a[0] == b[0]) for a, b in zip(*tails) if a[1] != 3 and b[1] != 3]
        shorter = min(len(tail) for tail in tails)
        alike = 0
        if shorter and len(both) >= min(shorter, 4) and both.count(False) <= len(both) // 6:
            alike = len(both)
        known = []
        exact = False
        for tail in tails:
            fits = [
                [base == "ACGT".index(letter) for (base, c), letter in zip(tail, adapter) if c != 3]
                for adapter in KNOWN_ADAPTERS
            ]
            n = len(fits[0])
            if tail and n >= min(len(tail), 4) and min(one.count(False) for one in fits) <= n // 6:
                known.append(n)
                exact |= n >= 6 and any(all(one) for one in fits)
        if max(len(tail) for tail in tails) < 4:
            believed = alike > 0 and len(known) == 2
        else:
            believed = alike > 0 or len(known) == 2 or exact
        if believed:
            evidence[length] = 2 * (alike + sum(known))
    scores = {length: overlaps[length] + evidence[length] for length in overlaps if evidence.get(length, 0) > 0}
    best = max(scores, key=lambda length: scores[length], default=0)  # the shortest of equals
    if not best:
        return 0
    shorter = max((score for length, score in overlaps.items() if length < best), default=0)
    longer = max((score for length, score in overlaps.items() if length > best), default=0)
    word = [*codes1, *([0] * 32)][:32]
    simple = any(sum(a != b for a, b in zip(word, word[period:])) <= 8 for period in range(1, 7))
    if (len(overlaps) > 1 or simple) and evidence[best] < 40:
        return 0
    return best if scores[best] >= shorter + 12 and overlaps[best] >= longer + 12 else 0


def poly_g_reference(read: str) -> int:
    """Every suffix by itself: the longest that starts with G, while all shorter ones keep the rule."""
    best = 0
    for n in range(1, len(read) + 1):
        others = sum(base not in "Gg" for base in read[len(read) - n :])
        if others > 5 or others > max(n, 10) // 8:
            break
        if read[len(read) - n] in "Gg":
            best = n
    return best if best >= 10 else 0


# ------------------------------------------------------------------------------------------- making pairs


def words_of(codes: np.ndarray, words: int) -> np.ndarray:
    """[n, bases] of 0..3 as [n, words] of 2-bit words."""
    full = np.zeros((len(codes), words * 32), np.uint64)
    full[:, : codes.shape[1]] = codes
    shifts = np.arange(32, dtype=np.uint64) * np.uint64(2)
    return (full.reshape(len(codes), words, 32) << shifts).sum(axis=2, dtype=np.uint64)


def packed(codes: tuple[np.ndarray, np.ndarray], classes: tuple[np.ndarray, np.ndarray]) -> PackedReads:
    """Pairs [n, bases of mate 1], [n, bases of mate 2] as the aligner packs them."""
    n, longest = len(codes[0]), max(codes[0].shape[1], codes[1].shape[1])
    reads = allocate_reads(n, longest)
    for mate in range(2):
        for target, rows in (
            (reads.forward, codes[mate]),
            (reads.reverse, 3 - codes[mate][:, ::-1]),
            (reads.class_forward, classes[mate]),
            (reads.class_reverse, classes[mate][:, ::-1]),
        ):
            table = target[: 2 * n * reads.words].reshape(n, 2, reads.words)
            table[:, mate] = words_of(rows, reads.words)
        reads.length[mate : 2 * n : 2] = codes[mate].shape[1]
    return reads


def found(codes: tuple[np.ndarray, np.ndarray], classes: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Fragment lengths that the kernel finds."""
    classes = classes or (np.zeros_like(codes[0]), np.zeros_like(codes[1]))
    out = np.zeros(len(codes[0]), np.int64)
    _fragments(packed(codes, classes), len(out), out)
    return out


def sequenced(
    genome: np.ndarray,
    starts: np.ndarray,
    fragment: int,
    lengths: tuple[int, int],
    adapters: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    errors: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Both mates of fragments of one length, adapter and then poly-G behind their ends."""
    insert = genome[starts[:, None] + np.arange(fragment)]
    mates = []
    for mate, length in enumerate(lengths):
        strand = insert if mate == 0 else 3 - insert[:, ::-1]
        read = np.full((len(starts), length), G, np.uint8)
        behind = adapters[mate][: max(0, length - fragment)]
        read[:, : min(fragment, length)] = strand[:, :length]
        read[:, fragment : fragment + len(behind)] = behind
        wrong = rng.random(read.shape) < errors
        read[wrong] = (read[wrong] + rng.integers(1, 4, int(wrong.sum()))) % 4
        mates.append(read)
    return mates[0], mates[1]


def repetitive_genome(rng: np.random.Generator, n: int = 1_000_000) -> np.ndarray:
    """A random genome with a tenth of tandem repeats of period 1 to 400, 0 to 10 % diverged, and inverted copies."""
    genome = rng.integers(0, 4, n).astype(np.uint8)
    for i in range(n // 10_000):
        period = int(rng.integers(1, 7)) if i % 3 == 0 else int(rng.integers(7, 400))
        span = 1000
        at = int(rng.integers(0, n - span))
        repeat = np.resize(rng.integers(0, 4, period).astype(np.uint8), span)
        wrong = rng.random(span) < rng.choice([0.0, 0.0, 0.02, 0.1])
        repeat[wrong] = rng.integers(0, 4, int(wrong.sum()))
        genome[at : at + span] = repeat
        if i % 10 == 0:
            other = int(rng.integers(span, n - span))
            genome[other : other + span] = 3 - genome[other - span : other][::-1]
    return genome


# ------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("lengths", [(150, 150), (100, 150), (150, 76), (35, 35), (250, 301), (500, 500)])
def test_same_as_plain_code(lengths: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(lengths))
    genome = repetitive_genome(rng, 50_000)
    n = 12
    seen = 0
    for fragment in rng.integers(20, max(lengths) + 40, 40 if max(lengths) < 400 else 12).tolist():
        starts = rng.integers(0, len(genome) - 600, n)
        adapters = (TRUSEQ, NEXTERA, UNLISTED, (genome[:90], genome[200:290]))[fragment % 4]
        codes = sequenced(genome, starts, fragment, lengths, adapters, rng, errors=0.02)
        classes = tuple(rng.choice(4, mate.shape, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8) for mate in codes)
        got = found(codes, classes)
        for i in range(n):
            a, b, c, d = (row.tolist() for row in (codes[0][i], classes[0][i], codes[1][i], classes[1][i]))
            assert got[i] == overlap_reference(a, b, c, d), (fragment, i)
        seen += int((got > 0).sum())
    assert seen > 20


def test_low_complexity_pairs_same_as_plain_code() -> None:
    rng = np.random.default_rng(3)
    n, length = 300, 60
    units = [rng.integers(0, 4, rng.integers(1, 5)).astype(np.uint8) for _ in range(n)]
    one = np.array([np.resize(unit, length) for unit in units])
    two = np.array([3 - np.resize(unit, length + int(rng.integers(0, 4)))[-length:][::-1] for unit in units])
    for mate in (one, two):
        wrong = rng.random(mate.shape) < 0.03
        mate[wrong] = rng.integers(0, 4, int(wrong.sum()))
    none = [0] * length
    got = found((one, two))
    assert [overlap_reference(a.tolist(), none, b.tolist(), none) for a, b in zip(one, two)] == got.tolist()


@pytest.mark.parametrize("adapters", [TRUSEQ, NEXTERA, UNLISTED], ids=["truseq", "nextera", "unlisted"])
def test_short_fragments_are_found(adapters: tuple[np.ndarray, np.ndarray]) -> None:
    rng = np.random.default_rng(8)
    genome = rng.integers(0, 4, 1_000_000).astype(np.uint8)
    right = wrong = total = 0
    for fragment in range(30, 150):
        starts = rng.integers(0, len(genome) - 600, 400)
        got = found(sequenced(genome, starts, fragment, (150, 150), adapters, rng, errors=0.005))
        if adapters is UNLISTED and fragment > 146:  # fewer than four bases of an unknown adapter say nothing
            assert (got == 0).mean() > 0.9
            continue
        right += int((got == fragment).sum())
        wrong += int(((got != fragment) & (got != 0)).sum())
        total += len(got)
    assert right / total > 0.995
    assert wrong / total < 1e-3


def test_long_fragments_keep_their_ends() -> None:
    rng = np.random.default_rng(9)
    genome = repetitive_genome(rng)
    wrong = total = 0
    for fragment in rng.integers(150, 700, 60).tolist():
        starts = rng.integers(0, len(genome) - 800, 5000)
        got = found(sequenced(genome, starts, fragment, (150, 150), TRUSEQ, rng, errors=0.003))
        wrong += int((got > 0).sum())
        total += len(got)
    assert total == 300_000
    assert wrong <= 3


@pytest.mark.parametrize("unit", ["A", "AT", "CA", "GC", "ACGT", "AAT", "TTAGGG"])
def test_fragments_inside_a_repeat_keep_their_ends(unit: str) -> None:
    rng = np.random.default_rng(len(unit))
    genome = np.resize(encode(unit), 3000)
    for fragment in (150, 151, 170, 250, 299, 300, 450):
        starts = rng.integers(0, 2000, 50)
        assert not found(sequenced(genome, starts, fragment, (150, 150), TRUSEQ, rng, errors=0.005)).any()


def test_bases_of_low_quality_and_n_neither_help_nor_harm() -> None:
    rng = np.random.default_rng(11)
    genome = rng.integers(0, 4, 10_000).astype(np.uint8)
    codes = sequenced(genome, rng.integers(0, 9000, 200), 100, (150, 150), TRUSEQ, rng)
    poor = tuple((rng.random(mate.shape) < 0.15).astype(np.uint8) * np.uint8(3) for mate in codes)
    for mate, where in zip(codes, poor):
        mate[where == 3] = rng.integers(0, 4, int((where == 3).sum()))
    assert (found(codes, poor) == 100).mean() > 0.95
    everywhere = tuple(np.full(mate.shape, 3, np.uint8) for mate in codes)
    assert not found(codes, everywhere).any()


def test_pairs_as_the_aligner_packs_them() -> None:
    rng = np.random.default_rng(5)
    insert = "".join(rng.choice(list("ACGT"), 70))
    turned = insert[::-1].translate(str.maketrans("ACGT", "TGCA"))
    adapter1, adapter2 = ("".join("ACGT"[c] for c in one) for one in TRUSEQ)
    batch = pair_batch(
        [(insert + adapter1)[:100], (insert + adapter1)[:100], insert, "N" * 100],
        [(turned + adapter2)[:100], (turned + adapter2)[:60], "", "N" * 100],
    )
    reads = allocate_reads(4, 100)
    pack_reads(*batch.text, *batch.fields, 4, False, reads)
    out = np.zeros(4, np.int64)
    _fragments(reads, 4, out)
    assert out.tolist() == [70, 70, 0, 0]


POLY_G = [
    ("", 0),
    ("G", 0),
    ("ACGT" * 5 + "G" * 9, 0),  # with the T before it, and the G before that, eleven: one other
    ("ACAT" * 5 + "G" * 9, 0),
    ("ACAT" * 5 + "G" * 10, 10),
    ("G" * 40, 40),
    ("ACAC" * 5 + "G" * 20 + "A" + "G" * 15, 36),
    ("ACAC" * 5 + "G" * 12 + "A", 13),
    ("ACAC" * 5 + "G" * 12 + "AC", 0),
    ("ACAC" * 5 + "G" * 12 + "N" + "G" * 3, 16),
    ("ACAC" * 5 + "g" * 12, 12),
    ("G" * 30 + "ACAC" * 5, 0),
]


def found_poly_g(reads: list[str]) -> list[int]:
    text = np.frombuffer("\n".join(reads).encode() + bytes(PADDING), np.uint8).copy()
    lengths = np.array([len(read) for read in reads], np.int64)
    starts = np.cumsum(lengths + 1) - lengths - 1
    out = np.zeros(len(reads), np.int64)
    _poly_g(text, starts, lengths, out)
    return out.tolist()


def test_poly_g_by_hand() -> None:
    cases = [(read, n) for read, n in POLY_G if not read.startswith("ACGT")]
    assert found_poly_g([read for read, _ in cases]) == [n for _, n in cases]
    assert found_poly_g(["ACGT" * 5 + "G" * 9]) == [11]


def test_poly_g_same_as_plain_code() -> None:
    rng = np.random.default_rng(2)
    reads = []
    for _ in range(5000):
        share = rng.choice([0.25, 0.7, 0.85, 0.95, 1.0])
        tail = int(rng.integers(0, 60))
        letters = np.where(rng.random(tail) < share, "G", rng.choice(list("ACTNgt"), tail))
        reads.append("".join(rng.choice(list("ACGT"), int(rng.integers(0, 40)))) + "".join(letters))
    expected = [poly_g_reference(read) for read in reads]
    assert found_poly_g(reads) == expected
    assert 500 < sum(n > 0 for n in expected) < 4500
