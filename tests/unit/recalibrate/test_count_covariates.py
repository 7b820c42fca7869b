# SPDX-License-Identifier: Apache-2.0
"""Counting of covariates: against a slow version that clips read by read, and on reads looked at one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from megabolt.errors import UsageError
from megabolt.recalibrate import Counter, CountOptions, Counts, GroupMap, KnownSites, read_known_sites
from megabolt.testing.covariates import MATE_REVERSE, MatedRead, Tallies, block_of, count_slowly
from megabolt.testing.records import PAIRED, REVERSE, SECOND, HandRead, TextReference, make_block

ONE_GROUP = GroupMap.of_pairs([("a", "unit")])


def known_sites(tmp_path: Path, reference: TextReference, sites: Sequence[tuple[int, int]]) -> KnownSites:
    """Known sites [start, stop) on the first contig, by way of a VCF."""
    contig, text = next(iter(reference.sequences.items()))
    lines = [f"{contig}\t{start + 1}\t.\t{text[start:stop]}\tA\t.\t.\t.\n" for start, stop in sites]
    path = tmp_path / "known.vcf"
    path.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))
    return read_known_sites([path], reference.contigs)


def as_tallies(counts: Counts) -> Tallies:
    """The arrays as the slow version has them."""
    slow = Tallies(reads=counts.n_reads)
    for q, c in zip(*np.nonzero(counts.by_cycle[0])):
        key = int(q), int(c) - counts.max_cycle
        slow.cycles[key] = int(counts.by_cycle[0, q, c])
        slow.cycle_errors[key] = int(counts.cycle_errors[0, q, c])
    for q, c in zip(*np.nonzero(counts.by_context[0, :, :16])):
        name = int(q), "ACGT"[c // 4] + "ACGT"[c % 4]
        slow.contexts[name] = int(counts.by_context[0, q, c])
        slow.context_errors[name] = int(counts.context_errors[0, q, c])
    return slow


def random_read(draw: random.Random, text: str) -> MatedRead:
    """A read somewhere with mismatches, gaps, clips and low qualities, and a mate that may be near."""
    parts = [(draw.randint(1, 12), "M")]
    for _ in range(draw.choice([0, 0, 1, 2, 3])):
        parts += [(draw.randint(1, 4), draw.choice("ID")), (draw.randint(1, 9), draw.choice("M=X"))]
    if draw.random() < 0.1:
        parts.insert(0, (2, "I"))
    for side in (0, 1):
        clips = [(draw.randint(1, 6), "S")] if draw.random() < 0.4 else []
        clips += [(draw.randint(1, 9), "H")] if draw.random() < 0.2 else []
        parts = [*clips[::-1], *parts] if side == 0 else [*parts, *clips]
    start, sequence = draw.randint(20, len(text) - 100), ""
    p = start
    for size, op in parts:
        for _ in range(size):
            if op in "M=XIS":
                base = text[p] if op in "M=X" else draw.choice("ACGT")
                sequence += base if draw.random() < 0.85 else draw.choice("ACGTN")
            p += op in "M=XD"
    quality = [draw.choice([2, 5, 6, 7, 20, 30, 93]) for _ in sequence]
    for end in (slice(0, draw.choice([0, 0, 3])), slice(len(quality) - draw.choice([0, 0, 3]), None)):
        quality[end] = [draw.choice([0, 1, 2])] * len(quality[end])
    flag = (
        draw.choice([0, PAIRED, PAIRED | SECOND, SECOND]) | draw.choice([0, REVERSE]) | draw.choice([0, MATE_REVERSE])
    )
    flag |= draw.choice([0] * 12 + [0x4, 0x100, 0x200, 0x400, 0x800])
    mate, size = start + draw.randint(-15, 25), draw.choice([-1, 1]) * draw.randint(1, 40)
    mapq = draw.choice([60, 60, 60, 1, 0, 255])
    cigar = "".join(f"{size}{op}" for size, op in parts)
    return MatedRead(
        start,
        cigar,
        sequence,
        quality=tuple(quality),
        flag=flag,
        mapq=mapq,
        mate=mate,
        size=draw.choice([0, size, size]),
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_reads(tmp_path: Path, seed: int) -> None:
    """Clips, gaps, adapters, known sites, N and low qualities, as the slow version counts them."""
    draw = random.Random(seed)
    text = "".join(draw.choice("ACGT") for _ in range(400))
    reference = TextReference({"c": text})
    sites = [(start, start + draw.choice([1, 1, 1, 2, 5])) for start in draw.sample(range(390), 30 if seed % 2 else 0)]
    reads = [random_read(draw, text) for _ in range(300)]
    counter = Counter(reference, known_sites(tmp_path, reference, sites), ONE_GROUP)
    counts = counter.count(block_of(reads))
    slow = Tallies()
    count_slowly(reads, text, sites, slow)
    assert slow.reads > 100
    assert sum(slow.cycle_errors.values()) > 50
    assert as_tallies(counts) == slow
    assert counts.totals[1] == sum(slow.cycles.values())


def counted(tmp_path: Path, read: MatedRead, text: str, sites: Sequence[tuple[int, int]] = ()) -> Tallies:
    reference = TextReference({"c": text})
    return as_tallies(Counter(reference, known_sites(tmp_path, reference, sites), ONE_GROUP).count(block_of([read])))


TEXT = "ACGTTGCAAC" * 4


def test_cycles_and_contexts_of_a_reverse_second_read(tmp_path: Path) -> None:
    found = counted(tmp_path, MatedRead(4, "4M", "TGCA", quality=30, flag=PAIRED | SECOND | REVERSE), TEXT)
    assert found.cycles == {(30, -1): 1, (30, -2): 1, (30, -3): 1, (30, -4): 1}
    assert found.contexts == {(30, "TG"): 1, (30, "GC"): 1, (30, "CA"): 1}  # TGCA is its own reverse complement


def test_soft_clips_do_not_count_and_cycles_begin_behind_them(tmp_path: Path) -> None:
    found = counted(tmp_path, MatedRead(4, "3S4M2S", "AAATGCACC", quality=30), TEXT)
    assert sorted(found.cycles) == [(30, 1), (30, 2), (30, 3), (30, 4)]
    assert sum(found.contexts.values()) == 3


def test_a_site_in_a_deletion_masks_the_bases_beside_it(tmp_path: Path) -> None:
    read = MatedRead(4, "3M2D3M", "TGC" + "CAC", quality=30)
    assert sorted(cycle for _, cycle in counted(tmp_path, read, TEXT, [(8, 9)]).cycles) == [1, 2, 5, 6]


def test_inserted_bases_are_masked_only_by_a_site_that_spans_them(tmp_path: Path) -> None:
    read = MatedRead(4, "3M2I3M", "TGC" + "GG" + "AAC", quality=30)
    assert sorted(cycle for _, cycle in counted(tmp_path, read, TEXT, [(6, 8)]).cycles) == [1, 2, 7, 8]
    assert sorted(cycle for _, cycle in counted(tmp_path, read, TEXT, [(6, 7), (7, 8)]).cycles) == [1, 2, 4, 5, 7, 8]


def test_what_reaches_into_the_adapter_is_cut_off(tmp_path: Path) -> None:
    forward = MatedRead(10, "8M", TEXT[10:18], flag=PAIRED | MATE_REVERSE, mate=8, size=5)
    assert sum(counted(tmp_path, forward, TEXT).cycles.values()) == 5
    backward = MatedRead(10, "8M", TEXT[10:18], flag=PAIRED | REVERSE, mate=13, size=-5)
    assert sum(counted(tmp_path, backward, TEXT).cycles.values()) == 5
    same_strand = MatedRead(10, "8M", TEXT[10:18], flag=PAIRED, mate=8, size=5)
    assert sum(counted(tmp_path, same_strand, TEXT).cycles.values()) == 8


def test_bases_over_unknown_reference_are_errors(tmp_path: Path) -> None:
    found = counted(tmp_path, MatedRead(4, "4M", "TGCA", quality=30), TEXT[:5] + "NN" + TEXT[7:])
    assert sum(found.cycle_errors.values()) == 2


@pytest.mark.parametrize(
    "read",
    [
        MatedRead(4, "2M1N2M", "TGCA"),
        MatedRead(4, "2M2S2M", "TGCAAC"),
        MatedRead(4, "4S", "TGCA"),
        MatedRead(4, "3M", "TGCA"),
        MatedRead(4, "", "TGCA"),
        MatedRead(38, "4M", "TGCA"),
        MatedRead(4, "4M", "TGCA", quality=255),
        MatedRead(-1, "", "TGCA", flag=0x4, contig=-1),
    ],
    ids=["N", "clip inside", "no base", "too short", "no CIGAR", "beyond the contig", "no qualities", "unplaced"],
)
def test_reads_that_are_left_out(tmp_path: Path, read: MatedRead) -> None:
    assert counted(tmp_path, read, TEXT).reads == 0


def test_counts_add_up_whatever_the_pieces(tmp_path: Path) -> None:
    draw = random.Random(5)
    text = "".join(draw.choice("ACGT") for _ in range(400))
    reference = TextReference({"c": text})
    counter = Counter(reference, known_sites(tmp_path, reference, [(50, 60)]), ONE_GROUP)
    reads = [random_read(draw, text) for _ in range(120)]
    whole = counter.count(block_of(reads))
    pieces = counter.empty()
    for first in range(0, 120, 40):
        pieces += counter.count(block_of(reads[first : first + 40]))
    counter.count(block_of([]), into=pieces)
    for one, two in zip(vars(whole).values(), vars(pieces).values()):
        assert np.array_equal(one, two)


def test_rows_are_platform_units(tmp_path: Path) -> None:
    lines = ["@RG\tID:x\tPU:p1\tSM:s", "@RG\tID:y\tSM:s", "@RG\tID:z\tSM:s\tPU:p1"]
    groups = GroupMap.of_lines(lines)
    assert groups.names == ("p1", "y")
    reads = [MatedRead(4, "4M", "TGCA")]
    tags = [b"NMC\1RGZx\0", b"ZZBs\2\0\0\0\1\0\2\0XXZab\0RGZy\0", b"AAi\1\0\0\0RGZz\0", b"RGHx\0", b"RGZq\0"]
    assert [int(groups.rows_of(block_of(reads, tag))[0]) for tag in tags] == [0, 1, 0, -1, -2]
    reference = TextReference({"c": TEXT})
    counter = Counter(reference, known_sites(tmp_path, reference, []), groups)
    counts = counter.count(block_of(reads, tags[1]))
    assert counts.by_cycle.sum(axis=(1, 2)).tolist() == [0, 4]
    assert counter.count(block_of(reads, tags[3])).n_reads == 0
    with pytest.raises(UsageError, match="read0 is of a read group that the header lacks"):
        counter.count(block_of(reads, tags[4]))


def test_long_reads_are_refused(tmp_path: Path) -> None:
    reference = TextReference({"c": TEXT})
    counter = Counter(reference, known_sites(tmp_path, reference, []), ONE_GROUP, CountOptions(max_cycle=6))
    counter.count(block_of([MatedRead(0, "6M2S", TEXT[:8])]))
    with pytest.raises(UsageError, match="read1 is longer than the 6 cycles"):
        counter.count(block_of([MatedRead(0, "6M", TEXT[:6]), MatedRead(0, "7M", TEXT[:7])]))


def test_a_block_without_tags_has_no_groups() -> None:
    block = make_block([HandRead(4, "4M", "TGCA")])
    assert ONE_GROUP.rows_of(block).tolist() == [-1]
