# SPDX-License-Identifier: Apache-2.0
"""The index itself: bins by the formula of the specification, windows, counts, files of htslib."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.compute.bits import PADDING
from megabolt.errors import InputFormatError, InternalError
from megabolt.formats.bai import BAI_LIMIT, IndexBuilder, read_index
from megabolt.formats.bam_records import RecordBlock


def block_of(places: list[tuple[int, int, int]]) -> RecordBlock:
    """Records without sequence at (contig, start, bases of the reference); 0 bases: unmapped but placed."""
    parts, offsets = [], [0]
    for contig, start, span in places:
        n_operations = 1 if span else 0
        body = struct.pack("<iiBBHHHiiii", contig, start, 2, 0, 0, n_operations, 0 if span else 4, 0, -1, -1, 0)
        body += b"r\0" + (struct.pack("<I", span << 4) if span else b"")
        parts.append(struct.pack("<i", len(body)) + body)
        offsets.append(offsets[-1] + len(parts[-1]))
    data = np.frombuffer(b"".join(parts) + bytes(PADDING), np.uint8).copy()
    return RecordBlock(data, np.array(offsets, np.int64))


def identity(offsets: np.ndarray) -> np.ndarray:
    return offsets.astype(np.uint64)


def bin_of(start: int, stop: int) -> int:
    """SAM specification 5.3, word for word."""
    end = stop - 1
    if start >> 14 == end >> 14:
        return ((1 << 15) - 1) // 7 + (start >> 14)
    if start >> 17 == end >> 17:
        return ((1 << 12) - 1) // 7 + (start >> 17)
    if start >> 20 == end >> 20:
        return ((1 << 9) - 1) // 7 + (start >> 20)
    if start >> 23 == end >> 23:
        return ((1 << 6) - 1) // 7 + (start >> 23)
    if start >> 26 == end >> 26:
        return ((1 << 3) - 1) // 7 + (start >> 26)
    return 0


def test_bins_are_those_of_the_specification() -> None:
    rng = np.random.default_rng(2)
    starts = np.sort(rng.integers(0, BAI_LIMIT - 1, 500)).tolist()
    spans = [min(int(2 ** rng.uniform(0, 27)), BAI_LIMIT - start) for start in starts]
    for start, span in zip(starts, spans):
        builder = IndexBuilder([BAI_LIMIT])
        builder.add(block_of([(0, start, span)]), 0)
        assert builder.finish(identity).bins.tolist() == [[0, bin_of(start, start + span)]]


def test_windows_hold_the_first_record_that_overlaps_them() -> None:
    places = [(0, 100, 50), (0, 16_000, 1000), (0, 16_200, 40_000), (0, 100_000, 10), (2, 5, 0)]
    block = block_of(places)
    builder = IndexBuilder([1 << 18, 1000, 1000])
    builder.add(RecordBlock(block.data, block.offsets[:3]), 1000)
    builder.add(RecordBlock(block.data, block.offsets[2:]), 1000 + int(block.offsets[2]))
    at = (1000 + block.offsets).tolist()
    windows = builder.finish(identity).windows
    # 16 kb windows: 0 first; 1 second; 2, 3 third; 4, 5 nothing: the next record; 6 fourth
    assert windows[0].tolist() == [at[0], at[1], at[2], at[2], at[3], at[3], at[3]]
    assert windows[1].tolist() == []
    assert windows[2].tolist() == [at[4]]


def test_start_of() -> None:
    block = block_of([(0, 100, 50), (0, 40_000, 10)])
    builder = IndexBuilder([1 << 18, 1000])
    builder.add(block, 0)
    index = builder.finish(identity)
    assert index.start_of(0, 0, 200) == 0
    assert index.start_of(0, 39_000, 41_000) == int(block.offsets[1])
    assert index.start_of(0, 60_000, 61_000) is None
    assert index.start_of(1, 0, 1000) is None


@pytest.mark.parametrize(
    "places",
    [
        [(0, 100, 5), (0, 99, 5)],
        [(1, 1, 5), (0, 1, 5)],
        [(-1, -1, 0), (0, 1, 5)],
        [(2, 0, 5)],
        [(0, -1, 5)],
        [(0, 1 << 20, 5)],
    ],
)
def test_disorder_is_our_bug(places: list[tuple[int, int, int]]) -> None:
    with pytest.raises(InternalError):
        IndexBuilder([1000, 1000]).add(block_of(places), 0)


def test_htslib_files_are_read(tmp_path: Path) -> None:
    header = pysam.AlignmentHeader.from_references(["a", "b"], [100_000, 100_000])
    path = tmp_path / "x.bam"
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for start in range(0, 90_000, 5_000):
            read = pysam.AlignedSegment(header)
            read.query_name, read.reference_id, read.reference_start = "r", 1, start
            read.query_sequence, read.cigartuples = "A" * 10, [(0, 10)]
            file.write(read)
    pysam.index(str(path))
    pysam.index("-c", str(path))
    bai, csi = read_index(tmp_path / "x.bam.bai"), read_index(tmp_path / "x.bam.csi")
    assert (bai.depth, csi.depth) == (5, 1)  # htslib makes a CSI as shallow as the contigs allow
    assert (bai.bins[:, 1] - 4681).tolist() == (csi.bins[:, 1] - 1).tolist()
    assert bai.chunks.tolist() == csi.chunks.tolist()
    assert [len(windows) for windows in bai.windows] == [0, 6]
    assert [len(windows) for windows in csi.windows] == [0, 0]


@pytest.mark.parametrize("content", [b"", b"BAI", b"BAI\x01", b"TBI\x01" + bytes(40), b"BAI\x01\x05\0\0\0\x07\0\0\0"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bai").write_bytes(content)
    with pytest.raises(InputFormatError, match="index"):
        read_index(tmp_path / "x.bai")
    with pytest.raises(InputFormatError, match="cannot be read"):
        read_index(tmp_path / "none.bai")
