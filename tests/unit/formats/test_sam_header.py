# SPDX-License-Identifier: Apache-2.0
"""Header lines that pass from an input to an output."""

from __future__ import annotations

import pytest

from megabolt import __version__
from megabolt.formats.bam_records import BamHeader
from megabolt.formats.fasta import Contig
from megabolt.formats.sam_header import field_of, lines_of, program_chain

CONTIGS = (Contig("chr1", 1000, "a" * 32), Contig("chr2", 500, ""))
OURS = f"PN:megabolt\tVN:{__version__}"


def test_first_program() -> None:
    assert program_chain("") == [f"@PG\tID:megabolt\t{OURS}"]
    assert program_chain("", "megabolt align\t-o\na.bam") == [f"@PG\tID:megabolt\t{OURS}\tCL:megabolt align -o a.bam"]


def test_bytes_that_are_no_text_do_not_come_into_a_header() -> None:
    name = b"lane\xff.fq".decode("utf-8", "surrogateescape")
    header = BamHeader.build(CONTIGS, command_line=f"megabolt align -1 {name}")
    assert b"\\udcff" in header.encode()


@pytest.mark.parametrize(
    ("earlier", "previous"),
    [
        (["bwa"], ["bwa"]),
        (["bwa", "samtools<bwa"], ["samtools"]),
        (["bwa", "star"], ["bwa", "star"]),  # merged files: two chains
        (["samtools<bwa", "bwa"], ["samtools"]),  # any order
        (["a<b", "b<a"], ["b"]),  # a ring
        (["a<gone"], ["a"]),
    ],
)
def test_each_chain_goes_on(earlier: list[str], previous: list[str]) -> None:
    lines = []
    for one in earlier:
        name, _, before = one.partition("<")
        lines.append(f"@PG\tID:{name}\tPN:{name}" + (f"\tPP:{before}" if before else ""))
    chain = program_chain("\n".join(lines))
    assert chain[: len(lines)] == lines
    ids = ["megabolt", "megabolt.1"][: len(previous)]
    assert chain[len(lines) :] == [f"@PG\tID:{one}\t{OURS}\tPP:{before}" for one, before in zip(ids, previous)]


def test_ids_are_unique() -> None:
    chain = program_chain("@PG\tID:megabolt\n@PG\tID:megabolt.1\tPP:megabolt\n")
    assert [field_of(line, "ID") for line in chain] == ["megabolt", "megabolt.1", "megabolt.2"]
    assert field_of(chain[-1], "PP") == "megabolt.1"
    twice = program_chain("@PG\tID:bwa\tVN:1\n@PG\tID:bwa\tVN:2\n@PG\tID:bwa.1\n")
    ids = [field_of(line, "ID") for line in twice]
    assert ids[:3] == ["bwa", "bwa.2", "bwa.1"]
    assert len(set(ids)) == len(ids)
    assert [field_of(line, "VN") for line in twice[:2]] == ["1", "2"]


def test_only_newlines_end_lines() -> None:
    text = "@CO\tform\x0cfeed \u2028 and\r\n@CO\tsecond\n\n@COX\tthird"
    assert lines_of(text, "@CO") == ["@CO\tform\x0cfeed \u2028 and", "@CO\tsecond"]


def test_realigned_reads_keep_programs_and_comments() -> None:
    earlier = "@HD\tVN:1.5\tSO:queryname\n@SQ\tSN:old\tLN:7\n@RG\tID:x\n@PG\tID:bwa\n@CO\tkept\n"
    header = BamHeader.build(CONTIGS, ["@RG\tID:a\tSM:s"], earlier=earlier)
    assert header.text.splitlines() == [
        "@HD\tVN:1.6\tSO:coordinate",
        f"@SQ\tSN:chr1\tLN:1000\tM5:{'a' * 32}",
        "@SQ\tSN:chr2\tLN:500",
        "@RG\tID:a\tSM:s",
        "@PG\tID:bwa",
        f"@PG\tID:megabolt\t{OURS}\tPP:bwa",
        "@CO\tkept",
    ]


def test_marked_again_keeps_all_lines() -> None:
    text = (
        "@HD\tVN:1.5\tSO:queryname\tGO:query\n@SQ\tSN:chr2\tLN:500\tAS:x\tUR:y\n"
        "@RG\tID:a\tSM:s\tCN:c\tDS:d e\tPI:300\n@PG\tID:bwa\n@XX\tan:unknown\n@CO\tkept\n"
    )
    header = BamHeader(CONTIGS, text).continued(command_line="megabolt markdup a.bam")
    assert header.text.splitlines() == [
        "@HD\tVN:1.6\tSO:coordinate",
        "@SQ\tSN:chr1\tLN:1000",  # only the binary part had it
        "@SQ\tSN:chr2\tLN:500\tAS:x\tUR:y",
        "@RG\tID:a\tSM:s\tCN:c\tDS:d e\tPI:300",
        "@PG\tID:bwa",
        f"@PG\tID:megabolt\t{OURS}\tPP:bwa\tCL:megabolt markdup a.bam",
        "@XX\tan:unknown",
        "@CO\tkept",
    ]
    assert header.contigs == CONTIGS
