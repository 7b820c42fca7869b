# SPDX-License-Identifier: Apache-2.0
"""Counts of reads against pysam's view of the same BAM; counts of calls by hand."""

from __future__ import annotations

import array
import json
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest

from megabolt.formats.bam import BamReader, RecordBlock
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.privacy.consent import authorize
from megabolt.workflow.metrics import (
    COUNTS,
    LONGEST_INSERT,
    CallCounts,
    count_reads,
    read_sections,
    write_metrics,
)

CIGARS = ["50M", "5S40M5S", "20M3D30M", "20M4I26M", "10=1X39M", "25M900N25M", "48M2H2S"]


def random_record(rng: np.random.Generator, header: Any, start: int) -> Any:
    record = pysam.AlignedSegment(header)
    record.query_name = "r" * int(rng.integers(1, 30))
    record.query_sequence = "A" * 50
    record.query_qualities = pysam.qualitystring_to_array("I" * 50)
    record.flag = int(rng.choice([0x63, 0x93, 0x53, 0x3, 0x463, 0x903, 0x103, 0x803, 0x1, 0x5, 0x0, 0x10, 0x400, 0x4]))
    record.reference_id = int(start >= 5000)
    record.reference_start = start % 5000
    record.mapping_quality = int(rng.choice([0, 19, 20, 60]))
    if not record.flag & 0x4:
        record.cigarstring = str(rng.choice(CIGARS))
    record.template_length = int(rng.choice([0, -300, 300, 421, LONGEST_INSERT, LONGEST_INSERT + 1]))
    tags: list[Any] = [
        ("MD", "50", "Z"), ("XA", "c", "A"), ("XF", 1.5, "f"), ("XS", -5, "c"), ("XB", array.array("H", [1, 2, 3])),
    ]  # fmt: skip
    rng.shuffle(tags)
    tags = tags[: int(rng.integers(6))]
    if rng.random() < 0.9:
        kind = str(rng.choice(list("CSI")))
        tags.insert(int(rng.integers(len(tags) + 1)), ("NM", int(rng.integers(0, 9)), kind))
    record.set_tags(tags)
    return record


@pytest.fixture
def bam(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    contigs = [{"SN": "one", "LN": 100_000}, {"SN": "two", "LN": 100_000}]
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": contigs})
    path = tmp_path / "reads.bam"
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for start in sorted(rng.integers(0, 10_000, 1500)):
            file.write(random_record(rng, header, int(start)))
    pysam.index(str(path))
    return path


def plain_counts(path: Path, targets: Any) -> dict[str, int]:
    n = dict.fromkeys(COUNTS, 0)
    with pysam.AlignmentFile(str(path)) as file:
        for record in file:
            n["supplementary"] += record.is_supplementary and not record.is_secondary
            if record.is_secondary or record.is_supplementary:
                continue
            n["total"] += 1
            n["paired"] += record.is_paired
            if record.is_unmapped:
                continue
            n["mapped"] += 1
            n["properly_paired"] += record.is_paired and record.is_proper_pair
            n["duplicates"] += record.is_duplicate
            n["mapq20"] += record.mapping_quality >= 20
            places = [place for _, place in record.get_aligned_pairs(matches_only=True)]
            gaps = sum(length for operation, length in record.cigartuples if operation in (1, 2))
            n["aligned_bases"] += len(places)
            edits = record.get_tag("NM") if record.has_tag("NM") else 0
            n["edited_bases"] += max(0, edits - gaps)
            if record.is_duplicate:
                continue
            wanted = set(places)
            if targets is not None:
                wanted &= {k for a, b in targets[record.reference_id] for k in range(a, b)}
            n["usable_bases"] += len(wanted)
            if record.is_proper_pair and 0 < record.template_length <= LONGEST_INSERT:
                n["inserts"] += 1
                n["insert_sum"] += record.template_length
                n["insert_square_sum"] += record.template_length**2
    return n


TARGETS = (np.array([[0, 30], [100, 101], [2000, 2400], [2410, 4000]]), np.zeros((0, 2), np.int64))


@pytest.mark.parametrize("targets", [None, TARGETS], ids=["everywhere", "targets"])
def test_counts_agree_with_pysam(bam: Path, targets: Any) -> None:
    permit = authorize("s", "test", open_data="T. Tester: made up for a test")
    total = np.zeros(len(COUNTS), np.int64)
    with BamReader(bam, permit) as reader:
        for block in reader.blocks():
            total += count_reads(block, targets)
    assert dict(zip(COUNTS, total.tolist())) == plain_counts(bam, targets)


def test_counts_agree_with_flagstat(bam: Path) -> None:
    permit = authorize("s", "test", open_data="T. Tester: made up for a test")
    with BamReader(bam, permit) as reader:
        counts = sum(count_reads(block, None) for block in reader.blocks())
    ours = dict(zip(COUNTS, np.asarray(counts).tolist()))
    theirs = json.loads(pysam.flagstat(str(bam), "-O", "json"))["QC-passed reads"]
    names = {
        "total": "primary", "mapped": "primary mapped", "paired": "paired in sequencing",
        "properly_paired": "properly paired", "duplicates": "primary duplicates", "supplementary": "supplementary",
    }  # fmt: skip
    assert {name: ours[name] for name in names} == {name: theirs[their] for name, their in names.items()}
    sections = read_sections(np.asarray(counts), 1)
    assert sections["reads"]["pairs"] == theirs["paired in sequencing"] // 2
    assert sections["reads"]["single"] == theirs["primary"] - theirs["paired in sequencing"] > 0
    assert sections["reads"]["supplementary"] > 0


def test_nothing_counts_to_nothing() -> None:
    empty = RecordBlock(np.zeros(1024, np.uint8), np.zeros(1, np.int64))
    sections = read_sections(count_reads(empty, None), 0)
    assert sections["reads"]["total"] == 0
    assert sections["depth"]["mean"] == 0.0
    assert sections["insert_size"] == {"mean": 0.0, "sd": 0.0}


def test_calls_are_counted_by_class() -> None:
    counts = CallCounts()
    made = [("A", ("G",), "0/1"), ("A", ("C",), "1/1"), ("A", ("C", "G"), "1|2"), ("AT", ("A",), "0/1")]
    made += [("A", ("AT", "ATT"), "1/2"), ("ATT", ("A", "ATTT"), "1/2"), ("C", ("T", NON_REF), "0|1")]
    counts.add(VcfRecord("c", k, ref, alts, 30.0, "PASS", {}, {"GT": gt}) for k, (ref, alts, gt) in enumerate(made))
    counts.add([VcfRecord("c", 99, "G", ("A",), 5.0, "LowQual", {}, {"GT": "0/1"})])
    assert counts.section() == {
        "total": 8, "passed": 7, "snps": 5, "indels": 2, "insertions": 1, "deletions": 1, "others": 1,
        "multiallelic": 3, "ti_tv": 2.0, "het_hom": 7.0,
    }  # fmt: skip


def test_the_file_carries_its_schema_version(tmp_path: Path) -> None:
    write_metrics(tmp_path / "s.metrics.json", {"reads": {"total": 4}})
    assert json.loads((tmp_path / "s.metrics.json").read_text()) == {"schema_version": 1, "reads": {"total": 4}}
