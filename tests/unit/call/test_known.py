# SPDX-License-Identifier: Apache-2.0
"""Alleles from outside: trimmed and leftmost, called whatever the reads say; IDs of known variants."""

from __future__ import annotations

from pathlib import Path

import pysam
import pytest

from megabolt.call.engine import CallOptions, call_chunk
from megabolt.call.evidence import DELETION, INSERTION, SNP
from megabolt.call.known import KnownIds, event_of, read_alleles
from megabolt.call.ploidy import PloidyMap
from megabolt.errors import InputFormatError
from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.testing.records import TextReference, make_block, random_reference, reads_of_haplotype

TEXT = random_reference(1000, 7) + "CAAAAAAG" + random_reference(1992, 8)
REFERENCE = TextReference({"chrT": TEXT})


def other(base: str) -> str:
    return "ACGT"[("ACGT".index(base) + 2) % 4]


def write(path: Path, rows: list[tuple[int, str, str, str]], contig: str = "chrT") -> Path:
    """Rows of 1-based position, ID, REF, ALT."""
    lines = ["##fileformat=VCFv4.2", f"##contig=<ID={contig}>", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    lines += [f"{contig}\t{p}\t{name}\t{ref}\t{alt}\t.\t.\t." for p, name, ref, alt in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("start", "ref", "alt", "event"),
    [
        (1005, "AA", "A", (1001, 1002, DELETION, b"")),
        (1000, "CA", "C", (1001, 1002, DELETION, b"")),
        (1006, "A", "AA", (1001, 1001, INSERTION, b"\0")),
        (1000, "CA", "CAA", (1001, 1001, INSERTION, b"\0")),
        (1007, "G", "T", (1007, 1008, SNP, b"\3")),
        (1006, "AG", "AT", (1007, 1008, SNP, b"\3")),
        (1006, "AG", "CT", None),
        (1006, "A", "<DEL>", None),
        (1006, "A", "*", None),
        (1006, "A", "A", None),
    ],
)
def test_alleles_are_trimmed_and_moved_left(start: int, ref: str, alt: str, event: object) -> None:
    assert event_of(REFERENCE, 0, start, ref, alt) == event


def called(path: Path, carried: list[tuple[int, str, str]], depth: int = 20, gvcf: bool = False) -> list[VcfRecord]:
    forced, _ = read_alleles(path, REFERENCE)
    reads = reads_of_haplotype(TEXT, carried, depth=depth, prefix="a", stop=2500)
    reads += reads_of_haplotype(TEXT, [], depth=depth, prefix="b", stop=2500)
    return call_chunk(make_block(reads), REFERENCE, 0, 0, len(TEXT), CallOptions(forced=forced), gvcf=gvcf).variants


@pytest.mark.parametrize("gvcf", [False, True])
def test_alleles_are_written_with_their_genotype_whatever_it_is(tmp_path: Path, gvcf: bool) -> None:
    there, absent, far = TEXT[400], TEXT[700], TEXT[2800]
    rows = [
        (401, "a", there, other(there)),  # carried
        (701, "b", absent, other(absent)),  # not carried
        (1001, "c", "CA", "C"),  # a deletion that nobody carries
        (1801, "d", TEXT[1800], TEXT[1800] + "GATTACAG"),  # an insertion that nobody carries
        (2801, "e", far, other(far)),  # no reads
    ]
    records = called(write(tmp_path / "a.vcf", rows), [(400, there, other(there))], gvcf=gvcf)
    by_place = {r.start + 1: r for r in records}
    assert list(by_place) == [401, 701, 1001, 1801, 2801]
    genotypes = [by_place[p].genotype["GT"] for p, *_ in rows]
    assert genotypes == ["0/1", "0/0", "0/0", "0/0", "./."]
    assert by_place[701].genotype["AD"][:2] == [40, 0]
    assert by_place[701].genotype["GQ"] >= 30
    assert by_place[701].filter == "."
    assert by_place[2801].info["DP"] == 0
    assert all((r.alts[-1] == NON_REF) == gvcf for r in records)


def test_an_allele_beside_another_one_shares_its_record(tmp_path: Path) -> None:
    base = TEXT[400]
    carried = other(base)
    third = next(b for b in "ACGT" if b not in (base, carried))
    (record,) = called(write(tmp_path / "a.vcf", [(401, ".", base, third)]), [(400, base, carried)])
    assert sorted(record.alts) == sorted([carried, third])
    assert record.info["AC"][record.alts.index(third)] == 0
    assert record.info["AC"][record.alts.index(carried)] == 1


def test_alleles_of_one_copy_and_of_none(tmp_path: Path) -> None:
    base = TEXT[400]
    forced, _ = read_alleles(write(tmp_path / "a.vcf", [(401, ".", base, other(base))]), REFERENCE)
    block = make_block(reads_of_haplotype(TEXT, [], depth=20))
    for copies, expected in ((1, ["0"]), (0, [])):
        options = CallOptions(forced=forced, ploidy=PloidyMap({0: ((0, len(TEXT), copies),)}))
        records = call_chunk(block, REFERENCE, 0, 0, len(TEXT), options).variants
        assert [r.genotype["GT"] for r in records] == expected


def test_bad_files_of_alleles_are_refused(tmp_path: Path) -> None:
    wrong = other(TEXT[400])
    with pytest.raises(InputFormatError, match=r"line 4.*the reference has"):
        read_alleles(write(tmp_path / "a.vcf", [(401, ".", wrong, TEXT[400])]), REFERENCE)
    with pytest.raises(InputFormatError, match="no contig chrQ"):
        read_alleles(write(tmp_path / "b.vcf", [(1, ".", "A", "C")], "chrQ"), REFERENCE)
    with pytest.raises(InputFormatError, match="no allele"):
        read_alleles(write(tmp_path / "c.vcf", []), REFERENCE)
    (tmp_path / "d.vcf").write_text("chrT 401 . A C\n")
    with pytest.raises(InputFormatError, match="line 1"):
        read_alleles(tmp_path / "d.vcf", REFERENCE)
    rows = [(401, ".", TEXT[400], "<DEL>"), (402, ".", TEXT[401], other(TEXT[401]))]
    _, notes = read_alleles(write(tmp_path / "e.vcf", rows), REFERENCE)
    assert notes == ["e.vcf, line 4: <DEL> is no SNP, insertion or deletion: left out"]


def test_ids_are_those_of_the_same_alleles(tmp_path: Path) -> None:
    base = TEXT[400]
    rows = [
        (401, "rs1", base, other(base)),
        (501, "rs2", TEXT[500], other(TEXT[500])),
        (1003, "rs3", "AA", "A"),  # not leftmost
    ]
    path = write(tmp_path / "k.vcf", rows)
    packed = pysam.tabix_index(str(path), preset="vcf", force=True)
    wrong = next(b for b in "ACGT" if b not in (TEXT[500], other(TEXT[500])))
    records = [
        VcfRecord("chrT", 400, base, (other(base), NON_REF), 50.0, "PASS"),
        VcfRecord("chrT", 500, TEXT[500], (wrong,), 50.0, "PASS"),
        VcfRecord("chrT", 1000, "CA", ("C",), 50.0, "PASS"),
    ]
    assert [r.id for r in KnownIds(Path(packed), REFERENCE).name(records)] == ["rs1", ".", "rs3"]


def test_known_variants_need_an_index_and_the_reference(tmp_path: Path) -> None:
    with pytest.raises(InputFormatError, match="index"):
        KnownIds(write(tmp_path / "k.vcf", [(401, "rs1", "A", "C")]), REFERENCE)
    packed = pysam.tabix_index(str(write(tmp_path / "q.vcf", [(4, "rs1", "A", "C")], "chrQ")), preset="vcf")
    with pytest.raises(InputFormatError, match="no contig"):
        KnownIds(Path(packed), REFERENCE)
