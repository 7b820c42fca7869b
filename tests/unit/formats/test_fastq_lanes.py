# SPDX-License-Identifier: Apache-2.0
"""Lanes of every kind: mates in two files, mates in turn in one, unpaired reads; names of machines; UMIs."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from megabolt.errors import InputFormatError, UsageError
from megabolt.formats.fastq import PairBatch, read_lanes
from megabolt.formats.lane import FastqLane
from megabolt.privacy.consent import Permit, authorize

Read = tuple[str, str, str]


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: simulated reads", audit_log=tmp_path / "audit.jsonl")


def make_reads(n: int, seed: int, shortest: int = 0, longest: int = 160) -> list[Read]:
    rng = np.random.default_rng(seed)
    reads = []
    for i in range(n):
        length = int(rng.integers(shortest, longest + 1))
        sequence = rng.choice(list(b"ACGTN"), length).astype(np.uint8).tobytes().decode()
        quality = rng.integers(33, 127, length).astype(np.uint8).tobytes().decode()
        reads.append((f"r{seed}.{i}" + "y" * int(rng.integers(0, 80)), sequence, quality))
    return reads


def make_pairs(n: int, seed: int) -> list[tuple[Read, Read]]:
    return [(a, (a[0], *b[1:])) for a, b in zip(make_reads(n, seed), make_reads(n, seed + 1000))]


def fastq(reads: list[Read], ends: tuple[str, ...] = ("",)) -> bytes:
    """FASTQ text; the ends of the header lines in turn."""
    return "".join(f"@{n}{ends[i % len(ends)]}\n{s}\n+\n{q}\n" for i, (n, s, q) in enumerate(reads)).encode()


def in_turn(pairs: list[tuple[Read, Read]]) -> list[Read]:
    return [read for pair in pairs for read in pair]


def write(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


def word(text: np.ndarray, start: int, length: int) -> str:
    return text[start : start + length].tobytes().decode()


def rows_of(batch: PairBatch) -> Iterator[tuple[Read, Read]]:
    """Both mates of each row, as name, sequence and quality."""
    for row in range(batch.n_pairs):
        mates = []
        for text, fields in zip(batch.text, batch.fields):
            name, name_length, sequence, quality, length = fields[row, :5].tolist()
            mates.append((word(text, name, name_length), word(text, sequence, length), word(text, quality, length)))
        yield mates[0], mates[1]


def umis_of(batch: PairBatch) -> list[str]:
    assert not batch.fields[1][:, 5:].any()
    return [word(batch.text[0], start, n) for start, n in batch.fields[0][:, 5:].tolist()]


def collect(lanes: list[FastqLane], permit: Permit, per_batch: int = 64, umi: str | None = None) -> list[list]:
    """[lane, paired, rows] of every batch."""
    found, n = [], 0
    for batch in read_lanes(lanes, permit, pairs_per_batch=per_batch, umi=umi):
        assert batch.first_pair == n
        n += batch.n_pairs
        for fields in batch.fields:
            assert fields.shape == (batch.n_pairs, 7)
            assert fields.flags.c_contiguous
        found.append([batch.read_group, batch.paired, list(rows_of(batch))])
        batch.release()
    return found


def rows(batches: list[list], lane: int = 0) -> list[tuple[Read, Read]]:
    return [row for read_group, _, rows in batches if read_group == lane for row in rows]


@pytest.mark.parametrize("per_batch", [1, 7, 99, 100, 101, 2048])
@pytest.mark.parametrize("end", ["", "/1", "/2", " 1:N:0:ACGT", " 2:N:0:ACGT", " length=3"])
def test_unpaired(tmp_path: Path, permit: Permit, per_batch: int, end: str) -> None:
    reads = make_reads(100, 1)
    path = write(tmp_path / "a.fq", fastq(reads, (end,)))
    found = collect([FastqLane(path)], permit, per_batch)
    assert rows(found) == [(read, (read[0], "", "")) for read in reads]
    assert not any(paired for _, paired, _ in found)
    sizes = [len(batch) for *_, batch in found]
    assert sizes == [per_batch] * (100 // per_batch) + [100 % per_batch] * (100 % per_batch > 0)


@pytest.mark.parametrize("per_batch", [1, 7, 49, 50, 51, 2048])
@pytest.mark.parametrize(
    "ends", [("",), ("/1", "/2"), (" 1:N:0:AC", " 2:N:0:AC"), (".1", ".2"), (".1 1 length=9", ".2 1 length=9")]
)
def test_interleaved(tmp_path: Path, permit: Permit, per_batch: int, ends: tuple[str, ...]) -> None:
    pairs = make_pairs(50, 2)
    path = write(tmp_path / "a.fq", fastq(in_turn(pairs), ends))
    found = collect([FastqLane(path, interleaved=True)], permit, per_batch)
    assert rows(found) == pairs
    assert all(paired for _, paired, _ in found)
    assert len(found[0][2]) == min(per_batch, 50)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text[:-1],
        lambda text: text + b"\n\n",
        gzip.compress,
        lambda text: gzip.compress(text[:777]) + gzip.compress(text[777:]),
    ],
    ids=["crlf", "no-end", "empty-end", "gz", "members"],
)
@pytest.mark.parametrize("interleaved", [False, True])
def test_accepted_forms(tmp_path: Path, permit: Permit, change, interleaved: bool) -> None:
    pairs = [((a[0], a[1] or "A", a[2] or "I"), (b[0], b[1] or "A", b[2] or "I")) for a, b in make_pairs(50, 3)]
    reads = in_turn(pairs) if interleaved else [a for a, _ in pairs]
    path = write(tmp_path / "a.fq", change(fastq(reads)))
    found = rows(collect([FastqLane(path, interleaved=interleaved)], permit, 9))
    assert found == (pairs if interleaved else [(read, (read[0], "", "")) for read in reads])


def mixed_lanes(folder: Path) -> tuple[list[FastqLane], list[list[tuple[Read, Read]]]]:
    """Lanes of all kinds in changing order, and the rows expected of each."""
    lanes, expected = [], []
    for lane, kind in enumerate("pusiiusppu"):
        pairs = make_pairs(20 + 7 * lane, 10 + lane)
        if kind == "p":
            paths = [write(folder / f"{lane}_{m}.fq", fastq([pair[m] for pair in pairs])) for m in (0, 1)]
            lanes.append(FastqLane(*paths))
        elif kind == "i":
            lanes.append(FastqLane(write(folder / f"{lane}.fq", fastq(in_turn(pairs))), interleaved=True))
        else:
            pairs = [(a, (a[0], "", "")) for a, _ in pairs]
            lanes.append(FastqLane(write(folder / f"{lane}.fq.gz", gzip.compress(fastq([a for a, _ in pairs])))))
        expected.append(pairs)
    return lanes, expected


@pytest.mark.parametrize("per_batch", [3, 20, 2048])
def test_lanes_of_all_kinds_together(tmp_path: Path, permit: Permit, per_batch: int) -> None:
    lanes, expected = mixed_lanes(tmp_path)
    found = collect(lanes, permit, per_batch)
    assert [lane for lane, *_ in found] == sorted(lane for lane, *_ in found)
    for lane, pairs in enumerate(expected):
        assert rows(found, lane) == pairs
        assert {paired for i, paired, _ in found if i == lane} == {lanes[lane].paired}
    assert collect(lanes, permit, per_batch) == found


def test_one_text_serves_both_mates_of_one_file(tmp_path: Path, permit: Permit) -> None:
    pairs = make_pairs(40, 4)
    both = write(tmp_path / "i.fq", fastq(in_turn(pairs)))
    lone = write(tmp_path / "u.fq", fastq([a for a, _ in pairs]))
    for lane in (FastqLane(both, interleaved=True), FastqLane(lone)):
        buffers = set()
        for batch in read_lanes([lane], permit, pairs_per_batch=1):
            assert batch.text[0] is batch.text[1]
            buffers.add(batch.text[0].ctypes.data)
            batch.release()
            batch.release()
            assert len(batch.text[1]) == len(batch.fields[0]) == 0
        assert len(buffers) < 20


def test_one_file_needs_one_thread(tmp_path: Path, permit: Permit) -> None:
    before = threading.active_count()
    batches = read_lanes([FastqLane(write(tmp_path / "a.fq", fastq(make_reads(90, 5))))], permit, pairs_per_batch=2)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_lengths_of_0_to_500_together(tmp_path: Path, permit: Permit) -> None:
    reads = [(f"r{n}", "ACGTN"[n % 5] * n, "I" * n) for n in (*range(501), *range(500, -1, -1))]
    path = write(tmp_path / "a.fq", fastq(reads))
    assert [one for one, _ in rows(collect([FastqLane(path)], permit, 100))] == reads
    reads.insert(700, ("long", "A" * 501, "I" * 501))
    path = write(tmp_path / "b.fq", fastq(reads))
    with pytest.raises(InputFormatError, match="501 bases; at most 500") as caught:
        collect([FastqLane(path)], permit, 100)
    assert (caught.value.path, caught.value.where) == (str(path), "line 2802 (record 701)")


A, B, C = ("a", "ACGT", "IIII"), ("b", "AC", "II"), ("c", "A", "I")


@pytest.mark.parametrize("per_batch", [1, 2, 100])
@pytest.mark.parametrize(
    ("text", "where", "why", "help"),
    [
        (fastq([A, A, B]), "record 3", "3 reads, an odd number", "in turn"),
        (fastq([A]), "record 1", "1 reads, an odd number", "in turn"),
        (fastq([A, A, B, C, C, B]), "line 13 (record 4)", "'c' differs from that of the read before it, 'b'", "-1"),
        (fastq([A, B, C]), "line 5 (record 2)", "'b' differs from that of the read before it, 'a'", "-1"),
        (fastq([A, B, C], ("/1",)), "line 5 (record 2)", "mate 1, but it has the place of a mate 2", "-1"),
        (fastq([A, A], ("/2", "/1")), "line 1 (record 1)", "mate 2, but it has the place of a mate 1", "-1"),
        (fastq([A, A, B, B], (" 1:N:0", " 2:N:0", " 2:N:0", " 1:N:0")), "line 9 (record 3)", "mate 2, but", "-1"),
        (fastq([A, A, B, B], (".1", ".2", "", "")), "line 13 (record 4)", "'b' differs", "-1"),
        (fastq([A, A, B, B], ("", "", ".1", ".2")), "line 13 (record 4)", "'b.2' differs", "-1"),
        (fastq([A, A])[:-3], "line 8 (record 2)", "differ in length", ""),
        (fastq([A, A, B, B])[:-5], "line 15 (record 4)", "inside a record", "Copy"),
        (fastq([A, A, B, B]).replace(b"AC\n", b"A-\n"), "line 10 (record 3)", "'-' is not a base", ""),
        (b"", "", "the file is empty", ""),
    ],
)
def test_malformed_interleaved(
    tmp_path: Path, permit: Permit, text: bytes, where: str, why: str, help: str, per_batch: int
) -> None:
    path = write(tmp_path / "a.fq", text)
    with pytest.raises(InputFormatError) as caught:
        collect([FastqLane(path, interleaved=True)], permit, per_batch)
    assert (caught.value.path, caught.value.where) == (str(path), where)
    assert why in caught.value.why
    assert help in caught.value.help


@pytest.mark.parametrize("per_batch", [1, 100])
@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        (fastq([A, A, B, B], ("/1", "/2")), "line 5 (record 2)", "mate 2, those before it that they are mate 1"),
        (fastq([A, B, C, C], (" 1:N:0", "", "", " 2:Y:0")), "line 13 (record 4)", "mate 2, those before it"),
        (fastq([A, B, C, C], ("", "/2", "", "/1")), "line 13 (record 4)", "mate 1, those before it"),
    ],
)
def test_both_mates_given_as_unpaired(
    tmp_path: Path, permit: Permit, text: bytes, where: str, why: str, per_batch: int
) -> None:
    path = write(tmp_path / "a.fq", text)
    with pytest.raises(InputFormatError) as caught:
        collect([FastqLane(path)], permit, per_batch)
    assert (caught.value.path, caught.value.where) == (str(path), where)
    assert why in caught.value.why
    assert "--interleaved" in caught.value.help


def test_mates_in_turn_without_marks_given_as_unpaired(tmp_path: Path, permit: Permit) -> None:
    path = write(tmp_path / "a.fq", fastq([A, A, B, B]))
    with pytest.raises(InputFormatError, match="first two reads have one name, 'a'"):
        collect([FastqLane(path)], permit)


def test_each_file_is_judged_alone(tmp_path: Path, permit: Permit) -> None:
    """Unpaired reads of one lane may say mate 1, those of another mate 2."""
    lanes = [FastqLane(write(tmp_path / f"{end}.fq", fastq([A, B], (f"/{end}",)))) for end in (1, 2)]
    assert len(collect(lanes, permit)) == 2


def test_interleaved_file_given_as_mate_1(tmp_path: Path, permit: Permit) -> None:
    one = write(tmp_path / "1.fq", fastq([A, A, B, B], ("/1", "/2")))
    two = write(tmp_path / "2.fq", fastq([A, B], ("/2",)))
    with pytest.raises(InputFormatError, match="given as mate 1") as caught:
        collect([FastqLane(one, two)], permit)
    assert "--interleaved" in caught.value.help


@pytest.mark.parametrize("kind", ["paired", "interleaved", "unpaired"])
@pytest.mark.parametrize("per_batch", [10, 2048])
def test_truncated_second_lane(tmp_path: Path, permit: Permit, kind: str, per_batch: int) -> None:
    """The first lane is given out whole; the message names the second lane's file."""
    whole, cut = make_pairs(60, 6), make_pairs(60, 7)

    def files(name: str, pairs: list[tuple[Read, Read]], keep: float) -> FastqLane:
        texts = {
            "paired": [fastq([a for a, _ in pairs]), fastq([b for _, b in pairs])],
            "interleaved": [fastq(in_turn(pairs))],
            "unpaired": [fastq([a for a, _ in pairs])],
        }[kind]
        packed = [gzip.compress(text) for text in texts]
        packed[-1] = packed[-1][: int(keep * len(packed[-1]))]
        paths = [write(tmp_path / f"{name}{k}.fq.gz", text) for k, text in enumerate(packed)]
        return FastqLane(*paths, interleaved=kind == "interleaved")

    lanes = [files("whole", whole, 1), files("cut", cut, 0.6)]
    batches = read_lanes(lanes, permit, pairs_per_batch=per_batch)
    found: list[list] = []
    with pytest.raises(InputFormatError, match="truncated") as caught:
        found.extend([batch.read_group, batch.paired, list(rows_of(batch))] for batch in batches)
    assert caught.value.path == str(lanes[1].files[-1])
    assert len(rows(found, 0)) == 60
    assert len(rows(found, 1)) < 60


def test_a_later_lane_does_not_hide_what_is_wrong_with_an_earlier_one(tmp_path: Path, permit: Permit) -> None:
    """Lane 0 misses mates at the end of R1, when its thread has already met the bad file of lane 1."""
    pairs = make_pairs(30, 8)
    one = write(tmp_path / "1.fq", fastq([a for a, _ in pairs[:20]]))
    two = write(tmp_path / "2.fq", fastq([b for _, b in pairs]))
    bad = write(tmp_path / "bad.fq", b">not FASTQ\nACGT\n")
    for _ in range(5):
        with pytest.raises(InputFormatError, match="ends after 20 reads") as caught:
            collect([FastqLane(one, two), FastqLane(bad)], permit, 10)
        assert caught.value.path == str(one)


def test_lanes_whose_mates_are_exchanged(tmp_path: Path, permit: Permit) -> None:
    """-1 L1_R1 L2_R1 -2 L2_R2 L1_R2"""
    first, second = make_pairs(30, 21), make_pairs(25, 22)
    one, other = (write(tmp_path / f"{k}.fq", fastq([a for a, _ in p])) for k, p in enumerate((first, second)))
    two = write(tmp_path / "2.fq", fastq([b for _, b in second]))
    three = write(tmp_path / "3.fq", fastq([b for _, b in first]))
    with pytest.raises(InputFormatError, match="differs from that of its mate") as caught:
        collect([FastqLane(one, two), FastqLane(other, three)], permit)
    assert (caught.value.path, caught.value.where) == (str(two), "line 1 (record 1)")


MACHINES = [
    ("E100012345L1C001R0010000001/1", "E100012345L1C001R0010000001/2", "E100012345L1C001R0010000001"),
    ("V300012345L1C001R0010000001", "V300012345L1C001R0010000001", "V300012345L1C001R0010000001"),
    ("A:1:B:1:1101:1:2 1:N:0:ACGT", "A:1:B:1:1101:1:2 2:N:0:ACGT", "A:1:B:1:1101:1:2"),
    ("A:1:B:1:1101:1:2:ACG+TTT 1:N:0:A", "A:1:B:1:1101:1:2:ACG+TTT 2:N:0:A", "A:1:B:1:1101:1:2:ACG+TTT"),
    ("HS25_09827:2:1201:1505:59795#49/1", "HS25_09827:2:1201:1505:59795#49/2", "HS25_09827:2:1201:1505:59795#49"),
    ("SRR1.1 1 length=150", "SRR1.1 1 length=150", "SRR1.1"),
    ("SRR1.2 2 length=150", "SRR1.2 2 length=150", "SRR1.2"),
    ("SRR1.1.1 1 length=150", "SRR1.1.2 1 length=150", "SRR1.1"),
    ("SRR1.2.1", "SRR1.2.2", "SRR1.2"),
    ("ERR1.7 x:1/1", "ERR1.7 x:1/2", "ERR1.7"),
]


@pytest.mark.parametrize(("one", "two", "name"), MACHINES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_names_of_machines(tmp_path: Path, permit: Permit, one: str, two: str, name: str, interleaved: bool) -> None:
    reads = (one, "AC", "II"), (two, "GT", "##")
    if interleaved:
        lane = FastqLane(write(tmp_path / "a.fq", fastq(list(reads))), interleaved=True)
    else:
        lane = FastqLane(*(write(tmp_path / f"{k}.fq", fastq([read])) for k, read in enumerate(reads)))
    ((found_1, found_2),) = rows(collect([lane], permit))
    assert (found_1, found_2) == ((name, "AC", "II"), (name, "GT", "##"))


def test_numbers_of_spots_are_not_taken_for_mates(tmp_path: Path, permit: Permit) -> None:
    """SRR1.1 and SRR1.2 are two spots: a file that lacks the first read is noticed at its second."""
    spots = [(f"SRR1.{k}", "A", "I") for k in range(1, 30)]
    one, two = write(tmp_path / "1.fq", fastq(spots[:-1])), write(tmp_path / "2.fq", fastq(spots[1:]))
    with pytest.raises(InputFormatError, match=r"'SRR1\.3' differs from that of its mate, 'SRR1\.2'") as caught:
        collect([FastqLane(one, two)], permit)
    assert caught.value.where == "line 5 (record 2)"
    one, two = write(tmp_path / "3.fq", fastq(spots)), write(tmp_path / "4.fq", fastq(spots))
    assert [a[0] for a, _ in rows(collect([FastqLane(one, two)], permit))] == [spot[0] for spot in spots]


def test_every_pair_of_a_lane_is_numbered_or_none(tmp_path: Path, permit: Permit) -> None:
    pairs = make_pairs(100, 9)
    for bad in (1, 57, 99):
        ends = [[".1"] * 100, [".2"] * 100]
        ends[0][bad], ends[1][bad] = ".2", ".1"
        paths = [write(tmp_path / f"{bad}_{m}.fq", fastq([p[m] for p in pairs], tuple(ends[m]))) for m in (0, 1)]
        with pytest.raises(InputFormatError, match="differs from that of its mate") as caught:
            collect([FastqLane(*paths)], permit, 8)
        assert caught.value.where == f"line {4 * bad + 1} (record {bad + 1})"


UMI_NAMES = [
    ("A:1:B:1:1101:1:2:ACGT 1:N:0:GG", "ACGT"),
    ("A:1:B:1:1101:1:2:ACG+TTN 1:N:0:GG", "ACG+TTN"),
    ("A:1:B:1:1101:1:2:ACG-TTN/1", "ACG-TTN"),
    ("A:1:B:1:1101:1:2:ACG_TTN", "ACG_TTN"),
    ("A:1:B:1:1101:1:2:UMI_ACG", "ACG"),
    ("A:1:B:1:1101:1:2_ACGTAC", "ACGTAC"),
    ("A:1:B:1:1101:1:2_CCCC_ACGTAC", "ACGTAC"),
    ("A:1:B:1:1101:1:2:TTA#49/1", "TTA"),
    ("V300012345L1C001R0010000001_ACGTACGT/1", "ACGTACGT"),
    ("V300012345L1C001R0010000001:N", "N"),
    ("SRR1.1_ACG-TTT 1 length=150", "ACG-TTT"),
]
NO_UMI_NAMES = [
    "A:1:B:1:1101:1:2 1:N:0:ACGT",
    "A:1:B:1:1101:1:2: 1:N:0:ACGT",
    "A:1:B:1:1101:1:2:acgt",
    "A:1:B:1:1101:1:2:ACGT+",
    "A:1:B:1:1101:1:2:+ACGT",
    "A:1:B:1:1101:1:2:ACGTX",
    "A:1:B:1:1101:1:2_",
    "V300012345L1C001R0010000001/1",
    "ACGT",
    "SRR1.1 1 length=150",
]


@pytest.mark.parametrize(("name", "umi"), UMI_NAMES)
def test_umis_in_names(tmp_path: Path, permit: Permit, name: str, umi: str) -> None:
    path = write(tmp_path / "a.fq", fastq([(name, "A", "I")]))
    (batch,) = read_lanes([FastqLane(path)], permit, umi="name")
    assert umis_of(batch) == [umi]
    ((one, _),) = rows_of(batch)
    assert one[0] == name.split()[0].removesuffix("/1")  # the name keeps it


UMI_COMMENTS = [
    ("r RX:Z:ACGT", "ACGT"),
    ("r\tRX:Z:ACG-TTT\tBC:Z:AA", "ACG-TTT"),
    ("r/1\tBC:Z:AA\tRX:Z:ACG+TTT", "ACG+TTT"),
    ("r 1:N:0:CCCC UMI:ACGT", "ACGT"),
    ("r 1:N:0:CCCC UMI:ACGT:IIII", "ACGT"),
    ("r  UMI:ACGT_TT:IIIIIII  RX:Z:GG", "ACGT_TT"),
]
NO_UMI_COMMENTS = [
    "r",
    "r ",
    "r:RX:Z:ACGT",
    "r 1:N:0:ACGT",
    "r RX:Z:",
    "r RX:Z:acgt",
    "r RX:Z:ACGTZ",
    "r RX:i:ACGT",
    "r XRX:Z:ACGT",
    "r UMI:",
    "r UMI::ACGT",
    "r UMIACGT",
]


@pytest.mark.parametrize(("header", "umi"), UMI_COMMENTS)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_umis_in_comments(tmp_path: Path, permit: Permit, header: str, umi: str, newline: bytes) -> None:
    path = write(tmp_path / "a.fq", fastq([(header, "A", "I")]).replace(b"\n", newline))
    (batch,) = read_lanes([FastqLane(path)], permit, umi="comment")
    assert umis_of(batch) == [umi]


@pytest.mark.parametrize(
    ("umi", "header"), [("name", h) for h in NO_UMI_NAMES] + [("comment", h) for h in NO_UMI_COMMENTS]
)
def test_reads_without_umi(tmp_path: Path, permit: Permit, umi: str, header: str) -> None:
    good = "good:ACGT RX:Z:ACGT"
    path = write(tmp_path / "a.fq", fastq([(good, "A", "I"), (header, "A", "I")]))
    with pytest.raises(InputFormatError, match="no UMI") as caught:
        list(read_lanes([FastqLane(path)], permit, umi=umi))
    assert (caught.value.path, caught.value.where) == (str(path), "line 5 (record 2)")
    assert "--umi" in caught.value.help
    (batch,) = read_lanes([FastqLane(path)], permit)
    assert umis_of(batch) == ["", ""]


def test_longest_umi(tmp_path: Path, permit: Permit) -> None:
    for n in (254, 255):
        path = write(tmp_path / f"{n}.fq", fastq([("r RX:Z:" + "A" * n, "A", "I")]))
        if n == 254:
            (batch,) = read_lanes([FastqLane(path)], permit, umi="comment")
            assert umis_of(batch) == ["A" * n]
        else:
            with pytest.raises(InputFormatError, match="255 letters"):
                list(read_lanes([FastqLane(path)], permit, umi="comment"))


@pytest.mark.parametrize("per_batch", [1, 10, 2048])
def test_umis_of_pairs_are_those_of_mate_1(tmp_path: Path, permit: Permit, per_batch: int) -> None:
    """Mate 2 may carry another one in its comment, or none."""
    rng = np.random.default_rng(10)
    pairs = make_pairs(35, 11)
    umis = ["".join(rng.choice(list("ACGT"), rng.integers(1, 20))) for _ in pairs]
    first = [(f"{a[0]}/1\tRX:Z:{umi}", *a[1:]) for (a, _), umi in zip(pairs, umis)]
    second = [(f"{b[0]}/2" + "\tRX:Z:TTTT" * (k % 2), *b[1:]) for k, (_, b) in enumerate(pairs)]
    one, two = write(tmp_path / "1.fq", fastq(first)), write(tmp_path / "2.fq", fastq(second))
    both = write(tmp_path / "i.fq", fastq(in_turn(list(zip(first, second)))))
    for lane in (FastqLane(one, two), FastqLane(both, interleaved=True)):
        found = []
        for batch in read_lanes([lane], permit, pairs_per_batch=per_batch, umi="comment"):
            found += umis_of(batch)
            batch.release()
        assert found == umis


def test_umi_files_of_htslib(shared_data: Path, permit: Permit) -> None:
    path = shared_data / "bad_inputs" / "htslib" / "fastq" / "UMI.fq"
    with pytest.raises(InputFormatError, match="no UMI") as caught:
        list(read_lanes([FastqLane(path)], permit, umi="name"))
    assert caught.value.where == "line 1 (record 1)"
    with pytest.raises(InputFormatError, match="mate 2, those before it"):
        list(read_lanes([FastqLane(path)], permit))


@pytest.mark.parametrize("name", ["interleaved.fq", "interleaved_casava.fq"])
def test_interleaved_files_of_htslib(shared_data: Path, permit: Permit, name: str) -> None:
    folder = shared_data / "bad_inputs" / "htslib" / "fastq"
    found = rows(collect([FastqLane(folder / name, interleaved=True)], permit))
    assert len(found) == 5
    if name == "interleaved.fq":
        assert found == rows(collect([FastqLane(folder / "r1.fq", folder / "r2.fq")], permit))
    with pytest.raises(InputFormatError, match="mate 1, but it has the place of a mate 2"):
        collect([FastqLane(folder / "r1.fq", interleaved=True)], permit)
    assert [one[0] for one, _ in rows(collect([FastqLane(folder / "r2.fq")], permit))] == [a[0] for a, _ in found]


def test_real_lanes(shared_data: Path, permit: Permit, tmp_path: Path) -> None:
    """Five lanes of a real sample; the second is read as unpaired, the third interleaved."""
    folder = shared_data / "fastq_misc" / "sarek_multilane_TN" / "tiny" / "normal"
    firsts = sorted(folder.glob("*_R1_xxx.fastq.gz"))
    assert len(firsts) == 5
    lanes = [FastqLane(path, path.with_name(path.name.replace("_R1_", "_R2_"))) for path in firsts]
    plain = collect(lanes, permit, 100)
    pairs = rows(plain, 2)
    text = fastq(in_turn(pairs), ("/1", "/2"))
    lanes[1] = FastqLane(lanes[1].first)
    lanes[2] = FastqLane(write(tmp_path / "i.fq.gz", gzip.compress(text)), interleaved=True)
    found = collect(lanes, permit, 100)
    for lane in (0, 2, 3, 4):
        assert rows(found, lane) == rows(plain, lane)
    assert [one for one, _ in rows(found, 1)] == [one for one, _ in rows(plain, 1)]
    assert sum(len(rows) for *_, rows in plain) > 1000


def test_standard_input() -> None:
    program = """
import sys
from pathlib import Path
from megabolt.errors import InputFormatError
from megabolt.formats.fastq import read_lanes
from megabolt.formats.lane import FastqLane
from megabolt.privacy.consent import authorize
permit = authorize("S1", "test", open_data="test suite: simulated reads")
try:
    lane = FastqLane(Path("-"), interleaved=True)
    print(sum(batch.n_pairs for batch in read_lanes([lane], permit, pairs_per_batch=16)))
except InputFormatError as error:
    print(error)
"""
    pairs = make_pairs(100, 12)
    texts = {
        b"100": gzip.compress(fastq(in_turn(pairs))),
        b"standard input, record 199: the file ends after 199 reads": fastq(in_turn(pairs)[:-1]),
        b"standard input: the file is empty": b"",
    }
    for answer, text in texts.items():
        done = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, check=False)
        assert done.stdout.startswith(answer), (done.stdout, done.stderr)


def test_what_is_recorded(tmp_path: Path, permit: Permit) -> None:
    lanes = [FastqLane(tmp_path / "1", tmp_path / "2"), FastqLane(tmp_path / "3", interleaved=True)]
    lanes += [FastqLane(tmp_path / "4"), FastqLane(Path("-"))]
    read_lanes(lanes, permit)
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()][1:]
    names = [str(tmp_path / name) for name in "1234"]
    assert [record["path"] for record in records] == [*names, "/dev/stdin"]
    assert [record["facts"]["read_group"] for record in records] == [0, 0, 1, 2, 3]


def test_impossible_lanes(tmp_path: Path, permit: Permit) -> None:
    path = write(tmp_path / "a.fq", fastq([A]))
    with pytest.raises(UsageError, match="interleaved, and"):
        FastqLane(path, path, interleaved=True)
    with pytest.raises(UsageError, match="no FASTQ"):
        read_lanes([], permit)
    with pytest.raises(UsageError, match="cannot be in 'nowhere'"):
        read_lanes([FastqLane(path)], permit, umi="nowhere")
    for lanes in ([FastqLane(path), FastqLane(path)], [FastqLane(path, path)]):
        with pytest.raises(InputFormatError, match="given twice"):
            read_lanes(lanes, permit)


def test_any_byte_changed_is_read_or_refused_never_a_crash(tmp_path: Path, permit: Permit) -> None:
    rng = np.random.default_rng(13)
    text = fastq(in_turn(make_pairs(4, 14)), (":ACGT/1 RX:Z:AC", ":ACGT/2"))
    outcomes = set()
    for i in rng.integers(0, len(text), 150).tolist():
        for byte in (10, 32, 64, 0):
            bad = bytearray(text)
            bad[i] = byte
            path = write(tmp_path / "a.fq", bytes(bad))
            for umi in (None, "name", "comment"):
                try:
                    batches = read_lanes([FastqLane(path, interleaved=True)], permit, pairs_per_batch=3, umi=umi)
                    outcomes.add(sum(batch.n_pairs for batch in batches))
                except InputFormatError as error:
                    outcomes.add(len(error.help) > 0)
    assert outcomes == {4, True}
