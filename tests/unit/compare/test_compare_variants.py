# SPDX-License-Identifier: Apache-2.0
"""Records become variants: trimming, classes, selection, regions, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megabolt.compare.variants import Replacement, Selection, VariantClass, VariantSet, classify, collect, trim
from megabolt.errors import InputFormatError
from megabolt.formats.vcf import VcfRecord

SEQUENCE = b"ACGTACGTACGTACGTACGT"


def record(
    start: int, ref: str, alts: str, genotype: str = "0/1", filter: str = "PASS", qual: float | None = 50.0
) -> VcfRecord:
    return VcfRecord("c", start, ref, tuple(alts.split(",")), qual, filter, {}, {"GT": genotype})


def gather(*records: VcfRecord, selection: Selection | None = None) -> VariantSet:
    return collect(Path("x.vcf"), records, {"c": SEQUENCE}, selection or Selection())


@pytest.mark.parametrize(
    ("ref", "alt", "left", "right"),
    [
        (b"A", b"G", (10, 11, b"G"), (10, 11, b"G")),
        (b"CA", b"C", (11, 12, b""), (11, 12, b"")),
        (b"C", b"CA", (11, 11, b"A"), (11, 11, b"A")),
        (b"CAAA", b"CAA", (13, 14, b""), (11, 12, b"")),
        (b"ACT", b"AGT", (11, 12, b"G"), (11, 12, b"G")),
    ],
)
def test_trim(ref: bytes, alt: bytes, left: tuple[int, int, bytes], right: tuple[int, int, bytes]) -> None:
    assert trim(10, ref, alt, left_first=True) == Replacement(*left)
    assert trim(10, ref, alt, left_first=False) == Replacement(*right)


def test_trim_of_the_reference_itself() -> None:
    assert trim(10, b"AC", b"AC", left_first=True) is None


@pytest.mark.parametrize(
    ("ref", "alts", "expected"),
    [("A", "G", "SNP"), ("AC", "GT", "SNP"), ("A", "AT", "indel"), ("A", "G,AT", "indel"), ("A", "G,*", "SNP"),
     ("A", "G,<NON_REF>", "SNP")],
)  # fmt: skip
def test_classes(ref: str, alts: str, expected: str) -> None:
    assert classify(record(0, ref, alts)) == VariantClass(expected)


def test_what_takes_no_part() -> None:
    found = gather(
        record(0, "A", "G", "0/0"),
        record(1, "C", "T", "./."),
        record(2, "G", "*", "0/1"),
        record(3, "T", "<DEL>", "0/1"),
        record(4, "A", "G", filter="LowQual"),
        record(5, "C", "T", qual=3.0),
        record(6, "G", "A", "0/0/1"),
        VcfRecord("c", 7, "T", ("<NON_REF>",), None, ".", {"END": 12}, {"GT": "0/0"}),
        record(12, "A", "G", "1/1"),
        selection=Selection(min_qual=10.0),
    )
    assert [variant.record for variant in found.by_contig["c"]] == [8]
    assert found.n_records == 9
    assert found.skipped == {
        "no called alternative allele": 2,
        "filtered": 1,
        "QUAL too low": 1,
        "neither haploid nor diploid": 1,
        "no alternative allele": 3,
    }


def test_filtered_records_on_demand() -> None:
    found = gather(record(4, "A", "G", filter="LowQual"), selection=Selection(passing_only=False))
    assert len(found.by_contig["c"]) == 1


@pytest.mark.parametrize(
    ("start", "ref", "alt", "inside"),
    [
        (3, "T", "C", False),
        (4, "A", "C", True),
        (7, "T", "C", True),
        (8, "A", "C", False),
        (3, "TA", "T", True),  # the deleted base is inside, the padding base is not
        (7, "TA", "T", False),
        (3, "T", "TG", False),  # an insertion at the border is outside
        (4, "A", "AG", True),
        (7, "T", "TG", False),
    ],
)
def test_regions(start: int, ref: str, alt: str, inside: bool) -> None:
    regions = {"c": np.array([[4, 8]], np.int64)}
    found = gather(record(start, ref, alt), selection=Selection(regions=regions))
    assert found.by_contig["c"][0].inside is inside


def test_contig_without_regions_is_outside() -> None:
    found = gather(record(4, "A", "G"), selection=Selection(regions={}))
    assert not found.by_contig["c"][0].inside


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(4, "G", "T"), "not what the reference has"),
        (record(19, "TA", "T"), "not what the reference has"),
        (VcfRecord("d", 4, "A", ("T",), None, ".", {}, {"GT": "0/1"}), "no contig d"),
        (record(4, "A", "T", "0/2"), "names an allele that is not there"),
    ],
)
def test_errors_name_the_record(bad: VcfRecord, message: str) -> None:
    with pytest.raises(InputFormatError, match=rf"record 2.*{message}"):
        gather(record(0, "A", "C"), bad)


def test_second_trimming_is_kept_only_beside_a_neighbour() -> None:
    lone = gather(record(0, "ACGTA", "ACGTACGTA"))
    assert len(lone.by_contig["c"][0].placements) == 1
    beside = gather(record(0, "ACGTA", "ACGTACGTA"), record(4, "A", "T"))
    assert [len(variant.placements) for variant in beside.by_contig["c"]] == [2, 1]
