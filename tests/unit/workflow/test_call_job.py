# SPDX-License-Identifier: Apache-2.0
"""Calls of chunks become files: order, joined blocks, VCF out of gVCF, nothing left after an error."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from megabolt.call.engine import ChunkCalls
from megabolt.errors import InternalError, OutputError
from megabolt.formats.fasta import Contig
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.privacy.consent import Permit, authorize
from megabolt.workflow.call_job import (
    CHUNK_BASES,
    CallSink,
    Chunk,
    OrderedCalls,
    VcfStream,
    chunks_of,
    without_non_ref,
)

CONTIGS = [Contig("chr1", 3 * CHUNK_BASES, "0" * 32), Contig("chr2", CHUNK_BASES, "1" * 32)]
BANDS = (0, 20, 60)


@pytest.fixture
def permit() -> Permit:
    return authorize("s", "test", open_data="T. Tester: made up for a test")


def variant(contig: str, start: int, ref: str = "A", alts: tuple[str, ...] = ("C",)) -> VcfRecord:
    return VcfRecord(contig, start, ref, alts, 50.0, "PASS", {"AN": 2}, {"GT": "0/1"})


def block(contig: str, start: int, stop: int, gq: int = 30) -> VcfRecord:
    numbers = {"GT": "0/0", "DP": 9, "GQ": gq, "MIN_DP": 9, "PL": [0, gq, 99]}
    return VcfRecord(contig, start, "A", (NON_REF,), None, ".", {"END": stop}, numbers)


def test_chunks_are_cut_at_multiples() -> None:
    assert chunks_of(3, 0, 2 * CHUNK_BASES + 5) == [
        Chunk(3, 0, CHUNK_BASES),
        Chunk(3, CHUNK_BASES, 2 * CHUNK_BASES),
        Chunk(3, 2 * CHUNK_BASES, 2 * CHUNK_BASES + 5),
    ]


def test_chunks_without_a_target_are_left_out() -> None:
    targets = [np.array([[10, 20], [2 * CHUNK_BASES + 4, 2 * CHUNK_BASES + 9]]), np.zeros((0, 2), np.int64)]
    starts = [chunk.start for chunk in chunks_of(0, 0, 4 * CHUNK_BASES, targets)]
    assert starts == [0, CHUNK_BASES, 2 * CHUNK_BASES]  # a deletion may reach from the second into the third
    assert chunks_of(1, 0, CHUNK_BASES, targets) == []


def test_the_allele_non_ref_goes_with_its_numbers() -> None:
    record = VcfRecord(
        "chr1",
        5,
        "A",
        ("C", "G", NON_REF),
        50.0,
        "PASS",
        {"AC": [1, 1, 0], "AF": [0.5, 0.5, 0.0], "AN": 2, "DP": 30},
        {"GT": "1/2", "AD": [0, 14, 16, 0], "DP": 30, "GQ": 99, "PL": [900, 500, 400, 300, 2, 380, 901, 502, 303, 904]},
    )
    plain = without_non_ref(record)
    assert plain.alts == ("C", "G")
    assert plain.info == {"AC": [1, 1], "AF": [0.5, 0.5], "AN": 2, "DP": 30}
    assert plain.genotype["AD"] == [0, 14, 16]
    assert plain.genotype["PL"] == [898, 498, 398, 298, 0, 378]
    assert without_non_ref(plain) is plain


def collect(parts: list[tuple[Chunk, ChunkCalls]]) -> list[VcfRecord]:
    ordered, found = OrderedCalls(), []
    for chunk, calls in parts:
        found += ordered.add(chunk, calls, BANDS)
    return found + ordered.finish()


def test_records_beyond_their_chunk_are_put_in_order() -> None:
    first, second, other = Chunk(0, 0, CHUNK_BASES), Chunk(0, CHUNK_BASES, 2 * CHUNK_BASES), Chunk(1, 0, 10)
    found = collect(
        [
            (first, ChunkCalls([variant("chr1", 7), variant("chr1", CHUNK_BASES + 3)])),
            (second, ChunkCalls([variant("chr1", CHUNK_BASES - 1), variant("chr1", CHUNK_BASES + 1)])),
            (other, ChunkCalls([variant("chr2", 2)])),
        ]
    )
    places = [(record.contig, record.start - CHUNK_BASES) for record in found]
    assert places == [("chr1", 7 - CHUNK_BASES), ("chr1", -1), ("chr1", 1), ("chr1", 3), ("chr2", 2 - CHUNK_BASES)]


def test_reference_blocks_are_joined_over_chunks_and_not_over_contigs() -> None:
    chunks = [Chunk(0, k * CHUNK_BASES, (k + 1) * CHUNK_BASES) for k in range(3)] + [Chunk(1, 0, CHUNK_BASES)]
    calls = [
        ChunkCalls([variant("chr1", 10)], [block("chr1", 0, 10), block("chr1", 11, CHUNK_BASES)]),
        ChunkCalls([], [block("chr1", CHUNK_BASES, 2 * CHUNK_BASES)]),
        ChunkCalls(
            [variant("chr1", 2 * CHUNK_BASES + 50)],
            [
                block("chr1", 2 * CHUNK_BASES, 2 * CHUNK_BASES + 50),
                block("chr1", 2 * CHUNK_BASES + 51, 3 * CHUNK_BASES, 5),
            ],
        ),
        ChunkCalls([], [block("chr2", 0, CHUNK_BASES, 5)]),
    ]
    found = collect(list(zip(chunks, calls)))
    assert [(r.contig, r.start, r.stop) for r in found] == [
        ("chr1", 0, 10),
        ("chr1", 10, 11),
        ("chr1", 11, 2 * CHUNK_BASES + 50),
        ("chr1", 2 * CHUNK_BASES + 50, 2 * CHUNK_BASES + 51),
        ("chr1", 2 * CHUNK_BASES + 51, 3 * CHUNK_BASES),
        ("chr2", 0, CHUNK_BASES),
    ]


def lines(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [line for line in file if not line.startswith("#")]


def test_a_sink_writes_both_files_and_counts(tmp_path: Path, permit: Permit) -> None:
    with (
        VcfStream(tmp_path / "a.vcf.gz", CONTIGS, "s", permit) as vcf,
        VcfStream(tmp_path / "a.g.vcf.gz", CONTIGS, "s", permit, gvcf=True) as gvcf,
    ):
        sink = CallSink(vcf, gvcf, BANDS)
        calls = ChunkCalls([variant("chr1", 10, alts=("G", NON_REF))], [block("chr1", 0, 10), block("chr1", 11, 40)])
        sink.add(Chunk(0, 0, CHUNK_BASES), calls)
        sink.add(Chunk(1, 0, CHUNK_BASES), ChunkCalls([variant("chr2", 3, "AC", ("A", NON_REF))]))
        sink.finish()
    assert [line.split("\t")[4] for line in lines(tmp_path / "a.vcf.gz")] == ["G", "A"]
    assert [line.split("\t")[4] for line in lines(tmp_path / "a.g.vcf.gz")] == [
        NON_REF,
        f"G,{NON_REF}",
        NON_REF,
        f"A,{NON_REF}",
    ]
    section = sink.counts.section()
    assert (section["snps"], section["deletions"], section["total"]) == (1, 1, 2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.vcf.gz", "a.vcf.gz.tbi", "a.g.vcf.gz", "a.g.vcf.gz.tbi",
    }  # fmt: skip


def test_chunks_out_of_order_are_our_bug(tmp_path: Path, permit: Permit) -> None:
    with VcfStream(tmp_path / "a.vcf.gz", CONTIGS, "s", permit) as vcf:
        sink = CallSink(vcf, None, BANDS)
        sink.add(Chunk(1, 0, 10), ChunkCalls([]))
        with pytest.raises(InternalError, match="out of order"):
            sink.add(Chunk(0, 0, 10), ChunkCalls([]))


def test_an_error_of_the_job_leaves_no_file(tmp_path: Path, permit: Permit) -> None:
    def job() -> None:
        with VcfStream(tmp_path / "a.vcf.gz", CONTIGS, "s", permit) as vcf:
            vcf.write([variant("chr1", 5)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job()
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_writer_reaches_the_job(tmp_path: Path, permit: Permit) -> None:
    def job() -> None:
        with VcfStream(tmp_path / "missing" / "a.vcf.gz", CONTIGS, "s", permit) as vcf:
            for k in range(200_000):  # far more than the queue holds
                vcf.write([variant("chr1", k)])

    with pytest.raises(OutputError, match="Make the folder first"):
        job()
