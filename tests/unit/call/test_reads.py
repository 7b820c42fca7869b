# SPDX-License-Identifier: Apache-2.0
"""Decoding of packed records and reconciliation of mates."""

from __future__ import annotations

import numpy as np

from megabolt.call.reads import Reads, decode_reads
from megabolt.formats.bases import decode
from megabolt.testing.records import DUPLICATE, FIRST, PAIRED, SECOND, HandRead, make_block


def decode_all(reads: list[HandRead], **options: int) -> Reads:
    settings = {"min_mapq": 5, "overlap_cap": 20} | options
    return decode_reads(make_block(reads), 0, 0, 1000, 0, 1000, **settings)


def bases(reads: Reads, i: int) -> str:
    return decode(reads.bases[reads.base_offset[i] : reads.base_offset[i + 1]])


def test_fields_are_decoded() -> None:
    reads = decode_all([HandRead(10, "2S3M1D2M", "ACGTACG", quality=(1, 2, 3, 4, 5, 6, 7), mapq=17, flag=16)])
    assert (reads.start[0], reads.stop[0], reads.mapq[0], reads.flag[0]) == (10, 16, 17, 16)
    assert bases(reads, 0) == "ACGTACGN"  # an odd read has a spare N behind it
    assert reads.qualities[:7].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert [(int(w) & 15, int(w) >> 4) for w in reads.cigar] == [(4, 2), (0, 3), (2, 1), (0, 2)]
    assert reads.max_span == 6


def test_missing_qualities_become_thirty() -> None:
    reads = decode_all([HandRead(10, "4M", "ACGT", quality=255)])
    assert reads.qualities[:4].tolist() == [30, 30, 30, 30]


def test_unusable_records_are_left_out() -> None:
    used = HandRead(10, "4M", "ACGT")
    reads = decode_all(
        [
            used,
            HandRead(10, "4M", "ACGT", flag=DUPLICATE),
            HandRead(10, "4M", "ACGT", flag=0x4),
            HandRead(10, "4M", "ACGT", flag=0x100),
            HandRead(10, "4M", "ACGT", flag=0x800),
            HandRead(10, "4M", "ACGT", flag=0x200),
            HandRead(10, "4M", "ACGT", mapq=4),
            HandRead(10, "2M1500N2M", "ACGT"),  # spliced: spans too much
            HandRead(998, "4M", "ACGT"),  # beyond the reference segment
            HandRead(10, "4M", "ACGT", contig=1),
        ]
    )
    assert len(reads) == 1


def test_other_parts_of_split_reads_change_nothing() -> None:
    """A supplementary record has its read's name and mate flags, and lies where it could be taken for the mate."""
    pair = mates("ACCCCC")
    parts = [
        HandRead(11, "3H4M", "ACGT", "pair", flag=PAIRED | FIRST | 0x800),
        HandRead(13, "4M3S", "ACGTACG", "pair", flag=PAIRED | SECOND | 0x800),
        HandRead(13, "4M3S", "ACGTACG", "pair", flag=PAIRED | SECOND | 0x100),
    ]
    plain, with_parts = decode_all(pair), decode_all([*parts, *pair])
    for name, value in vars(plain).items():
        assert np.array_equal(value, getattr(with_parts, name)), name


def test_single_reads_have_no_mates() -> None:
    """Not even reads of one name, from two lanes."""
    reads = decode_all([HandRead(10, "4M", "ACGT", "x"), HandRead(11, "4M", "CGTA", "x"), *mates("ACCCCC")])
    assert reads.mate.tolist() == [-1, 3, -1, 1]
    assert reads.qualities[:4].tolist() == [35] * 4


def mates(second: str, **fields: int) -> list[HandRead]:
    return [
        HandRead(10, "6M", "ACGTAC", "pair", flag=PAIRED | FIRST, quality=37),
        HandRead(14, "6M", second, "pair", flag=PAIRED | SECOND, quality=fields.get("quality", 37)),
    ]


def test_mates_find_each_other_by_name() -> None:
    reads = decode_all([*mates("ACCCCC"), HandRead(12, "4M", "ACGT", "pair2", flag=PAIRED | FIRST)])
    assert reads.mate.tolist() == [2, -1, 0]
    assert reads.name_hash[0] == reads.name_hash[2] != reads.name_hash[1]


def test_agreeing_overlap_is_capped_and_disagreeing_is_void() -> None:
    """first   ACGTAC
    second      ATGGGG : agree at the 1st base of the overlap, differ at the 2nd"""
    reads = decode_all(mates("ATGGGG"))
    assert reads.qualities[:6].tolist() == [37, 37, 37, 37, 20, 0]
    second = reads.qualities[reads.base_offset[1] :][:6].tolist()
    assert second == [20, 0, 37, 37, 37, 37]


def test_overlap_is_found_beyond_indels() -> None:
    """The second mate starts inside the first, behind its deletion."""
    reads = decode_all(
        [
            HandRead(10, "3M2D3M", "ACGTTT", "p", flag=PAIRED | FIRST, quality=30),
            HandRead(15, "4M", "TTTA", "p", flag=PAIRED | SECOND, quality=30),
        ]
    )
    assert reads.qualities[:6].tolist() == [30, 30, 30, 20, 20, 20]
    assert reads.qualities[reads.base_offset[1] :][:4].tolist() == [20, 20, 20, 30]


def test_region_selects_by_overlap() -> None:
    block = make_block([HandRead(0, "10M", "A" * 10), HandRead(50, "10M", "A" * 10), HandRead(99, "10M", "A" * 10)])
    reads = decode_reads(block, 0, 9, 60, 0, 1000, min_mapq=0, overlap_cap=20)
    assert reads.start.tolist() == [0, 50]
    assert len(decode_reads(block, 0, 10, 50, 0, 1000, min_mapq=0, overlap_cap=20)) == 0
    assert np.all(decode_reads(block, 0, 0, 200, 0, 1000, min_mapq=0, overlap_cap=20).mate == -1)
