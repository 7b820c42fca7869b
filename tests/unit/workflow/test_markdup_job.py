# SPDX-License-Identifier: Apache-2.0
"""A file marked anew: the same records, sorted, flagged; the same file whatever threads and memory it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.errors import InputFormatError
from megabolt.reads.bins import TAG_ALL, Finish
from megabolt.workflow.germline import run_markdup
from megabolt.workflow.processing import Processing
from megabolt.workflow.sample_job import SampleJob

HEADER: dict[str, Any] = {
    "HD": {"VN": "1.6", "SO": "unsorted"},
    "SQ": [{"SN": "chr1", "LN": 3_000_000}, {"SN": "chr2", "LN": 5_000}],
    "RG": [{"ID": "a", "SM": "S", "LB": "L1", "DS": "first"}, {"ID": "b", "SM": "S", "LB": "L2"}],
    "PG": [{"ID": "bwa", "PN": "bwa"}],
}
N_TEMPLATES = 4000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs q0.. and copies of each third of them, worse by one quality, in random order; all flagged at first."""
    path = tmp_path_factory.mktemp("markdup") / "in.bam"
    rng, header = np.random.default_rng(9), pysam.AlignmentHeader.from_dict(HEADER)
    segments = []
    for k in range(N_TEMPLATES):
        start, insert = int(rng.integers(0, 2_900_000)), int(rng.integers(200, 600))
        for copy in range(1 + (k % 3 == 0)):
            for mate in range(2):
                one = pysam.AlignedSegment(header)
                one.query_name = f"q{k}" + "c" * copy
                one.flag = 0x400 | 1 | (64 << mate) | (16 if mate else 32)
                one.reference_id = one.next_reference_id = 0
                one.reference_start, one.next_reference_start = start + mate * insert, start + (1 - mate) * insert
                one.cigarstring, one.mapping_quality = "100M", 60
                one.query_sequence = "".join(rng.choice(list("ACGT"), 100))
                one.query_qualities = pysam.qualitystring_to_array("I" * (100 - copy) + "#" * copy)
                one.set_tag("RG", "ab"[k % 2])
                segments.append(one)
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for i in rng.permutation(len(segments)):
            file.write(segments[i])
    return path


def mark(source: Path, target: Path, *, threads: int = 1, memory: int = 1 << 30, finish: Finish | None = None) -> Any:
    """The records of the new file."""
    run_markdup(
        source=source,
        output=target,
        threads=threads,
        memory=memory,
        processing=Processing(finish=finish or Finish()),
        open_data="test suite: simulated reads",
        audit_log=target.parent / "audit.jsonl",
    )
    with pysam.AlignmentFile(str(target)) as file:
        assert file.check_index()
        return list(file.fetch(until_eof=True))


def test_sorted_and_flagged(tmp_path: Path, source: Path) -> None:
    records = mark(source, tmp_path / "out.bam")
    with pysam.AlignmentFile(str(source)) as file:
        before = {(one.query_name, one.flag & 0xC0): one.to_string() for one in file.fetch(until_eof=True)}
    assert len(records) == len(before)
    places = [one.reference_start for one in records]
    assert places == sorted(places)
    for one in records:
        assert one.query_name is not None
        assert one.is_duplicate == one.query_name.endswith("c")
        one.flag |= 0x400
        assert one.to_string() == before[one.query_name, one.flag & 0xC0]
    with pysam.AlignmentFile(str(tmp_path / "out.bam")) as file:
        header = file.header.to_dict()
    assert header["HD"]["SO"] == "coordinate"
    assert header["RG"] == HEADER["RG"]
    assert [line["ID"] for line in header["PG"]] == ["bwa", "megabolt"]
    assert header["PG"][1]["PP"] == "bwa"


def test_neither_threads_nor_memory_change_the_file(tmp_path: Path, source: Path) -> None:
    mark(source, tmp_path / "one.bam")
    mark(source, tmp_path / "two.bam", threads=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleJob, "memory_for_reads", lambda _: 2 << 20)
        mark(source, tmp_path / "small.bam", threads=2)
    expected = (tmp_path / "one.bam").read_bytes()
    assert (tmp_path / "two.bam").read_bytes() == expected
    assert (tmp_path / "small.bam").read_bytes() == expected
    assert not [one for one in tmp_path.iterdir() if one.is_dir()]


def test_duplicates_left_out_or_tagged(tmp_path: Path, source: Path) -> None:
    left = mark(source, tmp_path / "out.bam", finish=Finish(remove=True))
    assert len(left) == 2 * N_TEMPLATES
    assert not any(one.is_duplicate for one in left)
    tagged = mark(source, tmp_path / "out.bam", finish=Finish(tagging=TAG_ALL))
    assert {(one.is_duplicate, one.has_tag("DT")) for one in tagged} == {(False, False), (True, True)}


def test_a_damaged_file_leaves_nothing(tmp_path: Path, source: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "in.bam").write_bytes(bytes(content))
    with pytest.raises(InputFormatError, match=r"in\.bam, byte \d+: "):
        mark(tmp_path / "in.bam", tmp_path / "out.bam", threads=2)
    assert [one.name for one in tmp_path.iterdir() if not one.name.startswith("audit")] == ["in.bam"]
