# SPDX-License-Identifier: Apache-2.0
"""Simulated reads: their names tell the truth, their errors are those their qualities promise, seeds repeat."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.errors import UsageError
from megabolt.formats.bases import N, decode, encode, reverse_complement
from megabolt.simulate import reads as reads_module
from megabolt.simulate.haplotypes import PhasedVariant, diploid_source
from megabolt.simulate.reads import (
    PROFILES,
    QualityProfile,
    ReadOptions,
    ReadOrigin,
    Source,
    parse_name,
    plain_source,
    simulate_reads,
)


@pytest.fixture(autouse=True)
def _perfect_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile whose bases are right but for one in two thousand million."""
    monkeypatch.setitem(reads_module.PROFILES, "perfect", QualityProfile((93,), (1.0,), (1.0,)))


def exact() -> ReadOptions:
    """Short reads without errors."""
    return ReadOptions(length=60, insert_mean=200, insert_sd=30, insertion_error=0, deletion_error=0, profile="perfect")


@dataclass(frozen=True)
class Read:
    origin: ReadOrigin
    bases: str
    qualities: NDArray[np.int64]


def draw(source: Source, n_pairs: int, options: ReadOptions, seed: int = 5, batch: int = 1000) -> list[list[Read]]:
    """All reads of mate 1 and of mate 2."""
    text = [b"", b""]
    for batch_text in simulate_reads(source, n_pairs, seed, options, pairs_per_batch=batch):
        text = [so_far + bytes(more) for so_far, more in zip(text, batch_text)]
    return [parse(mate) for mate in text]


def parse(text: bytes) -> list[Read]:
    lines = text.decode().split("\n")
    assert lines.pop() == ""
    assert all(name[0] == "@" for name in lines[0::4])
    assert all(plus == "+" for plus in lines[2::4])
    return [
        Read(parse_name(name[1:]), bases, np.frombuffer(quality.encode(), np.uint8).astype(np.int64) - 33)
        for name, bases, quality in zip(lines[0::4], lines[1::4], lines[3::4])
    ]


def random_genome(size: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 4, size).astype(np.uint8)


@pytest.fixture(scope="module")
def source() -> Source:
    first, second = random_genome(20_000, 1), random_genome(5_000, 2)
    other = [("a", random_genome(19_000, 3)), ("b_2", second)]
    return plain_source([[("a", first), ("b_2", second)], other])


def test_reads_come_from_where_their_names_say(source: Source) -> None:
    haplotypes = {}
    for k, name in enumerate(source.names):
        haplotypes[(k // 2 + 1, name)] = source.codes[source.contig_start[k] : source.contig_start[k + 1]]
    mates = draw(source, 600, exact())
    for m, mate in enumerate(mates):
        for read in mate:
            codes = haplotypes[(read.origin.haplotype, read.origin.contig)]
            there = codes[read.origin.start[m] : read.origin.start[m] + 60]
            if read.origin.reverse[m]:
                there = reverse_complement(there)
            assert decode(there) == read.bases
    assert {read.origin.contig for read in mates[0]} == {"a", "b_2"}
    assert [read.origin.ordinal for read in mates[0]] == list(range(600))
    assert [read.origin.haplotype for read in mates[0][:4]] == [1, 2, 1, 2]
    assert all(read.origin.reverse[0] != read.origin.reverse[1] for read in mates[0])


def test_inserts_have_the_mean_and_spread_asked_for(source: Source) -> None:
    inserts = []
    for read in draw(source, 4000, exact())[0]:
        starts = sorted(read.origin.start)
        inserts.append(starts[1] + 60 - starts[0])
    assert np.mean(inserts) == pytest.approx(200, abs=3)
    assert np.std(inserts) == pytest.approx(30, abs=3)


def test_same_seed_same_reads_whatever_the_batches(source: Source) -> None:
    whole = draw(source, 500, ReadOptions(), seed=9, batch=500)
    for other in (draw(source, 500, ReadOptions(), seed=9, batch=7), draw(source, 700, ReadOptions(), seed=9)):
        for mate in (0, 1):
            assert [(r.origin, r.bases) for r in whole[mate]] == [(r.origin, r.bases) for r in other[mate][:500]]
    assert draw(source, 500, ReadOptions(), seed=10)[0][0].bases != whole[0][0].bases


def test_positions_are_those_of_the_reference() -> None:
    reference = random_genome(8000, 4)
    variants = [
        PhasedVariant(0, 2000, decode(reference[2000:2001]), (decode(reference[2000:2001]) + "ACGTACGTACGT",), (1, 0)),
        PhasedVariant(0, 4000, decode(reference[4000:4030]), (decode(reference[4000:4001]),), (1, 1)),
    ]
    mates = draw(diploid_source([("c", reference)], variants), 6000, exact())
    seen = {"between": 0, "inside the insertion": 0}
    for m, mate in enumerate(mates):
        for read in mate:
            start = read.origin.start[m]
            bases = read.bases
            if read.origin.reverse[m]:
                bases = decode(reverse_complement(encode(bases)))
            if start > 4030 or start + 60 < 2000 or 2001 < start < 3940:
                assert bases == decode(reference[start : start + 60])
                seen["between"] += 1
            elif start == 2001 and read.origin.haplotype == 1 and bases[:20] != decode(reference[2001:2021]):
                # A read that begins inside the insertion is placed at the next base of the reference.
                assert decode(reference[2001:2021]) in bases
                seen["inside the insertion"] += 1
    assert seen["between"] > 3000
    assert seen["inside the insertion"] > 3


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_errors_are_as_frequent_as_the_qualities_say(source: Source, profile: str) -> None:
    options = ReadOptions(
        length=100, insert_mean=300, insert_sd=20, insertion_error=0, deletion_error=0, profile=profile
    )
    wrong = expected = total = 0.0
    by_cycle = np.zeros(100)
    for m, mate in enumerate(draw(source, 5000, options)):
        for read in mate:
            k = (read.origin.haplotype - 1) * 2 + source.names.index(read.origin.contig)
            begin = source.contig_start[k] + read.origin.start[m]
            there = source.codes[begin : begin + 100]
            if read.origin.reverse[m]:
                there = reverse_complement(there)
            differs = encode(read.bases) != there
            wrong += differs.sum()
            by_cycle += differs
            expected += (10.0 ** (-read.qualities / 10)).sum()
            total += 100
            assert set(read.qualities.tolist()) <= set(PROFILES[profile].values)
    assert wrong == pytest.approx(expected, rel=0.08)
    assert 0.0005 < wrong / total < 0.004
    assert by_cycle[-20:].sum() > 2 * by_cycle[:20].sum()


def test_extra_substitutions(source: Source) -> None:
    options = replace(exact(), substitution=0.05)
    differing = 0
    clean, dirty = draw(source, 800, exact()), draw(source, 800, options)
    assert [read.origin.ordinal for read in clean[0]] == [read.origin.ordinal for read in dirty[0]]
    for read in dirty[0]:
        k = (read.origin.haplotype - 1) * 2 + source.names.index(read.origin.contig)
        begin = source.contig_start[k] + read.origin.start[0]
        there = source.codes[begin : begin + 60]
        there = reverse_complement(there) if read.origin.reverse[0] else there
        differing += int((encode(read.bases) != there).sum())
    assert differing / (800 * 60) == pytest.approx(0.05, abs=0.006)


def test_indel_errors_shift_the_rest_of_the_read(source: Source) -> None:
    options = ReadOptions(length=100, insert_mean=300, insertion_error=0.01, deletion_error=0.01, profile="perfect")
    whole = sum(
        decode(source.codes[source.contig_start[0] :][:20_000]).find(read.bases) >= 0
        for read in draw(source, 1000, options)[0]
        if read.origin.haplotype == 1 and read.origin.contig == "a" and not read.origin.reverse[0]
    )
    clean = sum(
        decode(source.codes[source.contig_start[0] :][:20_000]).find(read.bases) >= 0
        for read in draw(source, 1000, exact())[0]
        if read.origin.haplotype == 1 and read.origin.contig == "a" and not read.origin.reverse[0]
    )
    assert clean > 150
    assert whole < clean * 0.3  # (1 - 0.02)^100 = 13 % of reads stay whole


def test_duplicates_repeat_an_earlier_fragment(source: Source) -> None:
    options = ReadOptions(length=60, insert_mean=200, insert_sd=30, duplicates=0.2)
    mate, _ = draw(source, 3000, options)
    seen = set()
    n_duplicates = 0
    for read in mate:
        place = (read.origin.haplotype, read.origin.contig, read.origin.start, read.origin.reverse)
        if read.origin.duplicate:
            n_duplicates += 1
            assert place in seen
        seen.add(place)
    assert n_duplicates / 3000 == pytest.approx(0.2, abs=0.03)
    assert not any(read.origin.duplicate for read in draw(source, 300, exact())[0])


def test_short_fragments_run_into_the_adapter(source: Source) -> None:
    options = ReadOptions(
        length=100, insert_mean=50, insert_sd=0, insertion_error=0, deletion_error=0, profile="perfect"
    )
    first, second = draw(source, 50, options)
    for read, mate in zip(first, second):
        assert read.origin.start[0] == read.origin.start[1]
        assert read.bases[50:].startswith("AGATCGGAAGAGCACACGTC")
        assert mate.bases[50:].startswith("AGATCGGAAGAGCGTCGTGT")
        assert read.bases[:50] == decode(reverse_complement(encode(mate.bases[:50])))


def test_no_read_touches_unknown_bases() -> None:
    codes = random_genome(6000, 8)
    codes[2000:2500] = N
    mates = draw(plain_source([[("c", codes)], [("c", codes)]]), 400, exact())
    assert not any("N" in read.bases for mate in mates for read in mate)


def test_a_genome_without_room_is_refused() -> None:
    codes = random_genome(50, 1)
    with pytest.raises(UsageError, match="no fragment of about 200 bases"):
        draw(plain_source([[("c", codes)], [("c", codes)]]), 5, exact())


@pytest.mark.parametrize(
    "wrong",
    [{"length": 5}, {"insert_mean": 0.0}, {"duplicates": 1.0}, {"substitution": -0.1}, {"profile": "sanger"}],
)
def test_impossible_options(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ReadOptions(**wrong)  # type: ignore[arg-type]
