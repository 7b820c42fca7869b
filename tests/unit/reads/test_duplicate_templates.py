# SPDX-License-Identifier: Apache-2.0
"""Ends, scores, places and UMIs of records against a plain version on pysam's objects."""

from __future__ import annotations

import gzip
import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.align.record import NO_END, RecordChunk
from megabolt.compute.bits import PADDING
from megabolt.formats.bam import RecordBlock
from megabolt.reads.duplicates.places import OTHER_NAME
from megabolt.reads.duplicates.templates import (
    ABSENT_MATE,
    ALONE,
    END_GAP,
    HALF_PAIR,
    MATE1_REVERSE,
    MATE_ABSENT,
    MATE_NOWHERE,
    RecordEnds,
    end_offsets,
    ends_of_records,
    join_ends,
    templates_of,
)
from megabolt.reads.duplicates.umi_tags import umi_code

LENGTHS = [5000, 3000]
HEADER = pysam.AlignmentHeader.from_references(["one", "two"], LENGTHS)


def block_of(records: list[pysam.AlignedSegment], folder: Path) -> RecordBlock:
    path = folder / "x.bam"
    with pysam.AlignmentFile(str(path), "wbu", header=HEADER) as out:
        for record in records:
            out.write(record)
    stream = io.BytesIO(gzip.decompress(path.read_bytes()))
    stream.seek(4)
    stream.read(struct.unpack("<i", stream.read(4))[0])
    for _ in range(struct.unpack("<i", stream.read(4))[0]):
        stream.read(struct.unpack("<i", stream.read(4))[0] + 4)
    data = stream.read()
    offsets = [0]
    while offsets[-1] < len(data):
        offsets.append(offsets[-1] + 4 + struct.unpack_from("<i", data, offsets[-1])[0])
    return RecordBlock(np.frombuffer(bytearray(data + bytes(PADDING)), np.uint8), np.array(offsets, np.int64))


def record_of(name: str = "a", flag: int = 0, **fields: Any) -> pysam.AlignedSegment:
    record = pysam.AlignedSegment(HEADER)
    record.query_name, record.flag = name, flag
    record.reference_id = fields.get("contig", -1 if flag & 4 else 0)
    record.reference_start = fields.get("start", -1 if flag & 4 else 100)
    cigar = fields.get("cigar", "10M")
    length = sum(int(n) for n, kind in re.findall(r"(\d+)([A-Z=])", cigar) if kind in "MIS=X")
    record.query_sequence = "A" * length
    qualities = fields.get("qualities", [30] * length)
    record.query_qualities = None if qualities is None else qualities[:length]
    record.cigarstring = None if flag & 4 else cigar
    record.next_reference_id, record.next_reference_start = fields.get("mate", (-1, -1))
    record.set_tags(fields.get("tags", []))
    return record


def plain_end(record: pysam.AlignedSegment) -> int:
    if record.is_unmapped or record.is_secondary or record.is_supplementary:
        return int(NO_END)
    cigar = list(record.cigartuples or [])
    clipped = cigar if not record.is_reverse else cigar[::-1]
    clip = 0
    for kind, length in clipped:
        if kind not in (4, 5):
            break
        clip += length
    if record.is_reverse:
        end = record.reference_start + sum(n for kind, n in cigar if kind in (0, 2, 3, 7, 8)) - 1 + clip
    else:
        end = record.reference_start - clip
    offset = END_GAP // 2 + sum(length + END_GAP for length in LENGTHS[: record.reference_id])
    return int(offset + end) << 1 | int(record.is_reverse)


def plain_score(record: pysam.AlignedSegment) -> int:
    if plain_end(record) == int(NO_END):
        return 0
    total = sum(int(q) for q in record.query_qualities or [] if q >= 15)
    return min(total, 16383) - 16384 * int(record.is_qcfail)


def ends_of(records: list[pysam.AlignedSegment], folder: Path, **options: bool) -> RecordEnds:
    return ends_of_records(block_of(records, folder), end_offsets(np.array(LENGTHS)), **options)


def test_ends_and_scores_of_random_records(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = []
    for i in range(500):
        parts = [f"{rng.integers(1, 9)}H"] * int(rng.random() < 0.3) + [f"{rng.integers(1, 99)}S"] * int(
            rng.random() < 0.4
        )
        parts += ["20M", str(rng.choice(["", "3I", "4D", "500N", "2P"])), "15=", "1X"]
        parts += [f"{rng.integers(1, 99)}S"] * int(rng.random() < 0.4) + ["7H"] * int(rng.random() < 0.3)
        qualities = None if i % 50 == 0 else [int(q) for q in rng.integers(2, 42, 300)]
        flag = int(rng.choice([0, 16, 4, 256, 2048, 512, 528, 16 | 2048]))
        cigar = "".join(parts)
        records.append(
            record_of(flag=flag, cigar=cigar, start=int(rng.integers(0, 900)), contig=i % 2, qualities=qualities)
        )
    records.append(record_of(cigar="900M", qualities=[41] * 900))
    got = ends_of(records, tmp_path)
    assert [int(x) for x in got.end] == [plain_end(one) for one in records]
    assert [int(x) for x in got.score] == [plain_score(one) for one in records]
    assert plain_score(records[-1]) == 16383
    assert got.umi is None


def test_ends_far_off_the_contig_stay_apart(tmp_path: Path) -> None:
    records = [record_of(cigar=f"{2 * END_GAP}H5M"), record_of(cigar="5M", contig=1, start=0)]
    records.append(record_of(flag=16, cigar=f"5M{2 * END_GAP}H"))
    first, second, third = (int(x) >> 1 for x in ends_of(records, tmp_path).end)
    assert first == 0
    assert third < second
    assert second == LENGTHS[0] + END_GAP + END_GAP // 2


@pytest.mark.parametrize(
    ("name", "place", "other"),
    [
        ("A:1:11:22:33", (11, 22, 33), False),
        ("A:1:F:2:1101:5000:40000", (1101, 5000, 40000 - 65536), False),
        ("A:1:F:2:65535:5:6", (-1, 5, 6), False),
        ("A:1:11:22:33#ACGT/1", (11, 22, 33), False),
        ("A:1:F:2:-5:6x:7", (-5, 6, 7), False),
        ("A:1:F:2:1101:x5:40", (-1, -1, -1), False),
        ("A:1:F:2:1101::40", (-1, -1, -1), False),
        ("A:1:F:1101:5:40", (-1, -1, -1), False),
        (":A:1:11:22:33", (11, 22, 33), False),
        ("a" * 70 + ":1:F:2:1101:7:" + "0" * 60 + "8", (1101, 7, 8), False),
        ("A:1:F:2:1101:5:6:ACGT", (1101, 5, 6), True),
        ("V300012345L1C003R0120000017", (3 << 8 | 12, 0, 0), True),
        ("V300012345L1C003R0120000017/1", (3 << 8 | 12, 0, 0), True),
        ("V300012345L1X003R0120000017", (-1, -1, -1), False),
        ("SRR1.1234567", (-1, -1, -1), False),
        ("a", (-1, -1, -1), False),
    ],
)
def test_places_in_names(name: str, place: tuple[int, int, int], other: bool, tmp_path: Path) -> None:
    got = ends_of([record_of(), record_of(name)], tmp_path)
    assert tuple(int(x) for x in got.location[1]) == place
    assert bool(got.flags[1] & OTHER_NAME) == other


def test_umis_are_found_behind_other_tags(tmp_path: Path) -> None:
    other = [("XA", "text", "Z"), ("NM", 3, "C"), ("XF", 1.5, "f"), ("XS", -300, "s"), ("XC", "x", "A")]
    arrays = [("XB", np.array([1, 2], kind).tolist()) for kind in ("u1", "i2")]
    tags = [*other, *arrays, ("RX", "ACGT", "Z"), ("RG", "g", "Z")]
    records = [record_of(tags=tags), record_of(tags=other), record_of(tags=[("RX", "ACG", "Z")])]
    got = ends_of(records, tmp_path, want_umi=True)
    assert got.umi is not None
    assert [int(x) for x in got.umi] == [umi_code("ACGT"), 0, umi_code("ACG")]


def test_codes_of_umis() -> None:
    texts = ["A", "C", "AA", "AC", "CA", "ACGT", "ANGT", "NCGT", "NNGT", "A" * 28, "A" * 29, "A" * 30]
    codes = [umi_code(text) for text in texts]
    assert len(set(codes)) == len(codes)
    assert codes[:3] == [0b100, 0b101, 0b10000]
    assert umi_code("acg-t") == umi_code("ACGT") == umi_code("AC_GT") == umi_code("ACGT+")
    assert umi_code("") == umi_code("-") == 0
    assert umi_code("AC-GT", swap=True) == umi_code("GTAC")
    assert umi_code("ACGT", swap=True) == umi_code("ACGT")
    assert [code >> 63 for code in codes] == [0] * 8 + [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("one", "two", "lower"),
    [
        ({"flag": 0x61, "start": 100}, {"flag": 0x91, "start": 300}, True),
        ({"flag": 0x51, "start": 300}, {"flag": 0xA1, "start": 100}, False),
        ({"flag": 0x41, "start": 100, "cigar": "5S10M"}, {"flag": 0x81, "start": 96}, True),
        ({"flag": 0x41, "start": 100, "cigar": "3S10M"}, {"flag": 0x81, "start": 96}, False),
        ({"flag": 0x71, "start": 300, "cigar": "10M5S"}, {"flag": 0xB1, "start": 304, "cigar": "4H10M"}, False),
        ({"flag": 0x71, "start": 300}, {"flag": 0xB1, "start": 300, "cigar": "5M1D5M"}, True),
        ({"flag": 0x41, "contig": 1, "start": 5}, {"flag": 0x81, "start": 96}, False),
    ],
)
def test_duplex_umis_of_both_mates_are_in_one_order(one: Any, two: Any, lower: bool, tmp_path: Path) -> None:
    records = []
    for mine, other in ((one, two), (two, one)):
        tags = [("MC", other.get("cigar", "10M"), "Z"), ("RX", "AAA-CCC", "Z")]
        records.append(record_of(**mine, tags=tags, mate=(other.get("contig", 0), other["start"])))
    got = ends_of(records, tmp_path, want_umi=True, duplex=True).umi
    assert got is not None
    expected = umi_code("AAACCC" if lower else "CCCAAA")
    assert [int(x) for x in got] == [expected, expected]


def test_joined_ends(tmp_path: Path) -> None:
    records = [
        record_of("A:1:1:2:3", flag=0x51, start=300),
        record_of("A:1:1:2:3", flag=0xA1, start=100, qualities=[20] * 10),
        record_of("A:1:4:5:6", flag=0x49),
        record_of("A:1:4:5:6", flag=0x85),
        record_of("b", flag=0x41),
        record_of("c", flag=0x41),
    ]
    ends = ends_of(records, tmp_path)
    first, second = np.array([0, 2, 4, 5]), np.array([1, ALONE, MATE_ABSENT, MATE_NOWHERE])
    reverse = np.array([True, False, False, False])
    got = join_ends(ends, first, second, reverse, np.array([3, 4, 5, 6], np.uint16))
    end = [int(x) for x in ends.end]
    alone = [[end[2], int(NO_END)], [end[4], int(ABSENT_MATE)], [end[5], int(NO_END)]]
    assert got.signature.tolist() == [[end[1], end[0]], *alone]
    assert got.quality_sum.tolist() == [500, 300, 300, 300]
    assert got.location.tolist() == [[1, 2, 3], [4, 5, 6], [-1, -1, -1], [-1, -1, -1]]
    assert got.flags.tolist() == [MATE1_REVERSE, 0, 0, HALF_PAIR]
    assert got.read_group.tolist() == [3, 4, 5, 6]


def chunk_of(records: list[pysam.AlignedSegment], ordinal: list[int], folder: Path) -> RecordChunk:
    block = block_of(records, folder)
    n = ordinal[-1] // 32 + 1
    return RecordChunk(
        data=block.data,
        offsets=block.offsets,
        key=np.zeros(len(ordinal), np.uint64),
        ordinal=np.array(ordinal, np.int64),
        signature=np.arange(2 * n + 2, dtype=np.uint64).reshape(-1, 2),
        quality_sum=np.arange(n + 1, dtype=np.int32),
        read_group=7,
        n_pairs=n,
        n_records=len(ordinal),
    )


def test_templates_of_a_chunk(tmp_path: Path) -> None:
    tags = [("RX", "AC-GT", "Z"), ("MC", "10M", "Z")]
    records = [
        record_of("A:1:1:2:3", flag=0x51, start=300, tags=tags, mate=(0, 100)),
        record_of("A:1:1:2:3", flag=0x851, start=700),
        record_of("A:1:1:2:3", flag=0x851, start=800),
        record_of("A:1:1:2:3", flag=0xA1, start=100),
        record_of("A:1:1:2:3", flag=0x8A1, start=900),
        record_of("A:1:1:2:4:UMI", flag=0x49),
        record_of("A:1:1:2:4:UMI", flag=0x95),
        record_of("A:1:F:2:9:8:7:AC", flag=0x4D),
        record_of("A:1:F:2:9:8:7:AC", flag=0x8D),
    ]
    chunk = chunk_of(records, [0, 1, 2, 16, 17, 32, 48, 64, 80], tmp_path)
    got = templates_of(chunk)
    assert got.n == 3
    assert got.signature.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert got.quality_sum.tolist() == [0, 1, 2]
    assert got.location.tolist() == [[1, 2, 3], [-1, -1, -1], [9, 8, 7]]
    assert got.read_group.tolist() == [7, 7, 7]
    assert got.flags.tolist() == [MATE1_REVERSE, 0, OTHER_NAME]
    assert got.unmapped.tolist() == [0, 1, 2]
    assert got.others.tolist() == [3, 0, 0]
    assert got.umi is None
    for duplex, text in ((False, "ACGT"), (True, "GTAC")):
        umi = templates_of(chunk, want_umi=True, duplex=duplex).umi
        assert umi is not None
        assert umi.tolist() == [umi_code(text), 0, 0]
    chunk.signature[:] = 9
    chunk.quality_sum[:] = 9
    assert (got.signature != 9).all()


def test_templates_of_single_reads(tmp_path: Path) -> None:
    chunk = chunk_of([record_of("a", flag=16), record_of("b", flag=4)], [0, 32], tmp_path)
    got = templates_of(chunk)
    assert (got.flags.tolist(), got.unmapped.tolist(), got.others.tolist()) == ([MATE1_REVERSE, 0], [0, 1], [0, 0])
