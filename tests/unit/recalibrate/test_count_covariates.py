# SPDX-License-Identifier: Apache-2.0
"""Counting of covariates: against a slow version that clips read by read, and on reads looked at one by one."""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from megabolt.errors import UsageError
from megabolt.formats.bam_records import RecordBlock
from megabolt.recalibrate import Counter, CountOptions, Counts, GroupMap, KnownSites, read_known_sites
from megabolt.testing.records import HandRead, TextReference, make_block, pack

ONE_GROUP = GroupMap.of_pairs([("a", "unit")])
PAIRED, REVERSE, MATE_REVERSE, SECOND = 0x1, 0x10, 0x20, 0x80


@dataclass(frozen=True)
class MatedRead(HandRead):
    """A read with its mate's place and the fragment's length."""

    mate: int = -1
    size: int = 0


def block_of(reads: Sequence[MatedRead], tag: bytes = b"RGZa\0") -> RecordBlock:
    """Records with mates and the tag RG, in the order given."""
    records = []
    for k, read in enumerate(reads):
        record = bytearray(pack(read, k) + tag)
        record[0:4] = (len(record) - 4).to_bytes(4, "little")
        record[24:28] = (0 if read.mate >= 0 else -1).to_bytes(4, "little", signed=True)
        record[28:32] = read.mate.to_bytes(4, "little", signed=True)
        record[32:36] = read.size.to_bytes(4, "little", signed=True)
        records.append(bytes(record))
    offsets = np.cumsum([0, *map(len, records)]).astype(np.int64)
    return RecordBlock(np.frombuffer(b"".join(records) + bytes(1024), np.uint8).copy(), offsets)


def known_sites(tmp_path: Path, reference: TextReference, sites: Sequence[tuple[int, int]]) -> KnownSites:
    """Known sites [start, stop) on the first contig, by way of a VCF."""
    contig, text = next(iter(reference.sequences.items()))
    lines = [f"{contig}\t{start + 1}\t.\t{text[start:stop]}\tA\t.\t.\t.\n" for start, stop in sites]
    path = tmp_path / "known.vcf"
    path.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))
    return read_known_sites([path], reference.contigs)


# --- the slow version: columns of (read base index or None, place or None) ---

COMPLEMENT = dict(zip("ACGTN", "TGCAN"))


@dataclass
class Slow:
    """Bases and errors by (quality, cycle) and (quality, context)."""

    cycles: Tally[tuple[int, int]] = field(default_factory=Tally)
    cycle_errors: Tally[tuple[int, int]] = field(default_factory=Tally)
    contexts: Tally[tuple[int, str]] = field(default_factory=Tally)
    context_errors: Tally[tuple[int, str]] = field(default_factory=Tally)
    reads: int = 0


def operations(cigar: str) -> list[tuple[int, str]]:
    parts, number = [], ""
    for letter in cigar:
        if letter.isdigit():
            number += letter
        else:
            parts.append((int(number), letter))
            number = ""
    return parts


def columns_of(read: MatedRead) -> list[tuple[int | None, int | None]]:
    """One (index in the read, place) per column of the alignment, without clips; None where there is none."""
    columns: list[tuple[int | None, int | None]] = []
    i, p = 0, read.start
    for size, op in operations(read.cigar):
        for _ in range(size):
            if op in "M=X":
                columns.append((i, p))
            elif op == "I":
                columns.append((i, None))
            elif op == "D":
                columns.append((None, p))
            i += op in "M=XIS"
            p += op in "M=XD"
    return columns


def without_adapter(
    read: MatedRead, columns: list[tuple[int | None, int | None]]
) -> list[tuple[int | None, int | None]]:
    """Columns inside the fragment."""
    reverse, mate_reverse = bool(read.flag & REVERSE), bool(read.flag & MATE_REVERSE)
    places = [p for _, p in columns if p is not None]
    if not read.flag & PAIRED or read.size == 0 or read.mate < 0 or reverse == mate_reverse:
        return columns
    if reverse:
        if places[-1] > read.mate and places[0] <= read.mate - 1 <= places[-1]:
            last = max(k for k, (_, p) in enumerate(columns) if p is not None and p <= read.mate - 1)
            columns = columns[last + 1 :]
    else:
        boundary = read.start + abs(read.size)
        if read.start <= read.mate + read.size and places[0] <= boundary <= places[-1]:
            first = min(k for k, (_, p) in enumerate(columns) if p is not None and p >= boundary)
            columns = columns[:first]
    while columns and columns[0][0] is None:
        columns = columns[1:]
    while columns and columns[-1][0] is None:
        columns = columns[:-1]
    return columns


def masked(columns: Sequence[tuple[int | None, int | None]], sites: Sequence[tuple[int, int]]) -> set[int]:
    """Indices of bases at known sites, found site by site."""
    found: set[int] = set()
    places = [p for _, p in columns if p is not None]
    bases = [i for i, _ in columns if i is not None]
    for start, stop in sites:
        end = stop - 1
        if end < places[0] or start > places[-1]:
            continue
        first, last = bases[0], bases[-1]
        for k, (i, p) in enumerate(columns):
            following = [j for j, _ in columns[k:] if j is not None]
            if p == start:
                first = i if i is not None else following[0] - 1
            if p == end:
                last = i if i is not None else following[0]
        found.update(range(first, last + 1))
    return found


def count_slowly(reads: Sequence[MatedRead], text: str, sites: Sequence[tuple[int, int]], slow: Slow) -> None:
    for read in reads:
        if read.flag & 0x704 or read.mapq in (0, 255):
            continue
        columns = without_adapter(read, columns_of(read))
        bases = [i for i, _ in columns if i is not None]
        low, high = bases[0], bases[-1] + 1
        slow.reads += 1
        quality = read.quality if isinstance(read.quality, tuple) else (read.quality,) * len(read.sequence)
        shown = list(read.sequence)
        for order in (range(low, high), range(high - 1, low - 1, -1)):
            for i in order:
                if quality[i] > 2:
                    break
                shown[i] = "N"
        hidden = masked(columns, sites)
        for i, p in columns:
            if i is None or i in hidden or quality[i] < 6 or read.sequence[i] == "N":
                continue
            reverse = bool(read.flag & REVERSE)
            cycle = high - i if reverse else i - low + 1
            key = quality[i], -cycle if read.flag & PAIRED and read.flag & SECOND else cycle
            before = i + 1 if reverse else i - 1
            pair = shown[before] + shown[i] if low <= before < high else "N"
            context = "".join(COMPLEMENT[one] for one in pair) if reverse else pair
            error = p is not None and text[p] != read.sequence[i]
            slow.cycles[key] += 1
            slow.cycle_errors[key] += error
            if "N" not in context:
                slow.contexts[quality[i], context] += 1
                slow.context_errors[quality[i], context] += error


def as_tallies(counts: Counts) -> Slow:
    """The arrays as the slow version has them."""
    slow = Slow(reads=counts.n_reads)
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
    slow = Slow()
    count_slowly(reads, text, sites, slow)
    assert slow.reads > 100
    assert sum(slow.cycle_errors.values()) > 50
    assert as_tallies(counts) == slow
    assert counts.totals[1] == sum(slow.cycles.values())


def counted(tmp_path: Path, read: MatedRead, text: str, sites: Sequence[tuple[int, int]] = ()) -> Slow:
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
    ],
    ids=["N", "clip inside", "no base", "too short", "no CIGAR", "beyond the contig", "no qualities"],
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
