# SPDX-License-Identifier: Apache-2.0
"""The table as a file, and GATK's own results on real reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pysam
import pytest

from megabolt.errors import InputFormatError, OutputError
from megabolt.formats.bam import open_reads, read_records
from megabolt.formats.bam_records import BamHeader, RecordBlock
from megabolt.formats.fasta import FastaReference, read_fasta
from megabolt.privacy.consent import Permit, authorize
from megabolt.recalibrate import (
    Applier,
    Counter,
    CountOptions,
    Counts,
    GroupMap,
    fit,
    read_known_sites,
    read_report,
    write_report,
)
from megabolt.testing.baq import spread_errors
from megabolt.testing.covariates import MatedRead, Tallies, count_slowly

UNIT = "gatk_bqsr_markdup_hc_unit"
#: SHA-256 of the table that BaseRecalibrator 4.4.0.0 writes for the unit set with its defaults.
GATK_TABLE = "5a6223eb011e67c5d1ad503bf5f9f8968ea0e1a5014df52bf787e9506070b871"


def some_counts() -> Counts:
    counts = Counts.empty(2, 500)
    draw = np.random.default_rng(3)
    for quality in (6, 20, 30, 37):
        for cycle in range(490, 511):
            n = int(draw.integers(0, 10**5))
            for context in draw.integers(0, 17, 3):
                counts.by_cycle[0, quality, cycle] += n
                counts.by_context[0, quality, context] += n
                counts.cycle_errors[0, quality, cycle] += n // 500
                counts.context_errors[0, quality, context] += n // 500
    return counts


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    options = CountOptions(max_cycle=500, quantizing_levels=8)
    written = fit(("unit 1", "empty"), some_counts(), options)
    write_report(tmp_path / "t.txt", written)
    read = read_report(tmp_path / "t.txt")
    assert read.names == ("unit 1",)
    assert read.options == options
    for name in ("base_quality", "cycle_quality", "context_quality", "reported"):
        assert np.array_equal(getattr(read, name), getattr(written, name)[:1]), name
    assert np.array_equal(read.quantized, written.quantized)
    assert np.array_equal(read.histogram, written.histogram)
    write_report(tmp_path / "again.txt", read)
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "t.txt").read_bytes()


def test_a_table_of_nothing(tmp_path: Path) -> None:
    write_report(tmp_path / "t.txt", fit(("a",), Counts.empty(1, 500)))
    assert read_report(tmp_path / "t.txt").names == ()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("#:GATKReport.v1.1", "#:GATKReport.v0.2", "not a GATKReport of version 1.1"),
        ("#:GATKTable:RecalTable1:", "#:GATKTable:Other:", "no table RecalTable1"),
        ("mismatches_context_size     2", "mismatches_context_size     4", "contexts of 4 bases, not 2"),
        ("maximum_cycle_value         500", "maximum_cycle_value         5  ", "cycle -10, more than 5"),
        ("Observations", "Seen", "Observations"),
        ("          30  AA ", "          xx  AA ", "xx"),
    ],
)
def test_damaged_tables(tmp_path: Path, old: str, new: str, why: str) -> None:
    path = tmp_path / "t.txt"
    write_report(path, fit(("unit", "b"), some_counts()))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputFormatError, match=why):
        read_report(path)


def test_truncated_table(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    write_report(path, fit(("unit", "b"), some_counts()))
    path.write_text("\n".join(path.read_text().splitlines()[:-20]))
    with pytest.raises(InputFormatError, match="the table is cut short"):
        read_report(path)
    with pytest.raises(InputFormatError, match="cannot be read"):
        read_report(tmp_path / "missing.txt")


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        write_report(tmp_path / "missing" / "t.txt", fit(("a",), Counts.empty(1, 500)))


# --- real reads ---


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("S1", "test", open_data="test suite: public test files", audit_log=tmp_path / "audit.jsonl")


@pytest.fixture(scope="module")
def unit_reference(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FastaReference:
    """The first million bases of chromosome 17, under the name the reads have for it."""
    whole = read_fasta(shared_data / "references" / "hg19.chr17_1-7520000.fa.gz")
    text = np.frombuffer(b"ACGTN", np.uint8)[whole.fetch(0, 0, 1_000_000)].tobytes().decode()
    path = tmp_path_factory.mktemp("reference") / "17.fa"
    path.write_text(f">17\n{text}\n")
    return read_fasta(path)


def unit_reads(shared_data: Path, permit: Permit, name: str) -> tuple[BamHeader, RecordBlock]:
    path = shared_data / UNIT / name
    with open_reads(path, permit) as reader:
        return reader.header, read_records(path, permit)


def test_table_equals_that_of_gatk(
    shared_data: Path, unit_reference: FastaReference, permit: Permit, tmp_path: Path
) -> None:
    """Byte by byte; and observations as in GATK's expected table, whose errors are spread by BAQ."""
    header, block = unit_reads(shared_data, permit, "NA12878.chr17_69k_70k.dictFix.bam")
    groups = GroupMap.of_lines(header.read_groups)
    known = shared_data / UNIT / "dbsnp_132.b37.excluding_sites_after_129.chr17_69k_70k.vcf"
    counter = Counter(unit_reference, read_known_sites([known], unit_reference.contigs), groups)
    found = fit(groups.names, counter.count(block))
    write_report(tmp_path / "t.txt", found)
    assert hashlib.sha256((tmp_path / "t.txt").read_bytes()).hexdigest() == GATK_TABLE
    expected = read_report(shared_data / UNIT / "expected.NA12878.chr17_69k_70k.txt")
    assert np.array_equal(found.counts.by_cycle, expected.counts.by_cycle)
    assert np.array_equal(found.counts.by_context[..., :16], expected.counts.by_context[..., :16])


def test_recalibrated_reads_equal_those_of_gatk(shared_data: Path, permit: Permit) -> None:
    """With GATK's own table, every quality of its recalibrated BAM."""
    header, block = unit_reads(shared_data, permit, "NA12878.chr17_69k_70k.dictFix.bam")
    _, expected = unit_reads(shared_data, permit, "expected.NA12878.chr17_69k_70k.dictFix.recalibrated.DIQ.bam")
    table = read_report(shared_data / UNIT / "expected.NA12878.chr17_69k_70k.txt")
    Applier(table, GroupMap.of_lines(header.read_groups)).apply(block)
    assert block.n == expected.n == 493
    for i in range(block.n):
        assert fixed_part(block, i) == fixed_part(expected, i), i


def fixed_part(block: RecordBlock, i: int) -> bytes:
    """A record from its reference on up to its qualities; the tags behind are not compared."""
    at = int(block.offsets[i])
    length = int(block.data[at + 20 : at + 24].view(np.int32)[0])
    n = int(block.data[at + 16 : at + 18].view(np.uint16)[0])
    stop = at + 36 + int(block.data[at + 12]) + 4 * n + (length + 1) // 2 + length
    return block.data[at + 4 : stop].tobytes()


def unit_hand_reads(path: Path) -> list[MatedRead]:
    """The reads of a BAM as the slow version takes them."""
    with pysam.AlignmentFile(str(path)) as file:
        return [
            MatedRead(
                one.reference_start,
                one.cigarstring or "",
                one.query_sequence or "",
                quality=tuple(one.query_qualities or ()),
                mapq=one.mapping_quality,
                flag=one.flag,
                mate=one.next_reference_start,
                size=one.template_length,
            )
            for one in file
        ]


def test_errors_of_the_expected_table_are_those_counted_spread_by_baq(
    shared_data: Path, unit_reference: FastaReference
) -> None:
    """Counted slowly, with and without BAQ: the errors of GATK's expected table, and of ours, cell by cell."""
    reads = unit_hand_reads(shared_data / UNIT / "NA12878.chr17_69k_70k.dictFix.bam")
    text = np.frombuffer(b"ACGTN", np.uint8)[unit_reference.fetch(0, 0, 100_000)].tobytes().decode()
    path = shared_data / UNIT / "dbsnp_132.b37.excluding_sites_after_129.chr17_69k_70k.vcf"
    lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    sites = [(int(line[1]) - 1, int(line[1]) - 1 + len(line[3])) for line in lines]
    expected = read_report(shared_data / UNIT / "expected.NA12878.chr17_69k_70k.txt").counts
    spread = Tallies()
    count_slowly(reads, text, sites, spread, spread_errors)
    assert spread.reads == 373
    assert sum(spread.cycles.values()) == expected.by_cycle.sum()
    assert any(errors % 1.0 for errors in spread.cycle_errors.values())
    for (quality, cycle), errors in spread.cycle_errors.items():
        assert errors == pytest.approx(expected.cycle_errors[0, quality, cycle + 500], abs=0.0051)
    for (quality, context), errors in spread.context_errors.items():
        cell = 4 * "ACGT".index(context[0]) + "ACGT".index(context[1])
        assert errors == pytest.approx(expected.context_errors[0, quality, cell], abs=0.0051)


@pytest.mark.parametrize(
    ("more", "options", "name"),
    [
        (("bqsr.fakeSitesForTesting.b37.chr17.vcf",), CountOptions(), "2inputs"),
        ((), CountOptions(low_quality_tail=5), "low_quality_tail5"),
        ((), CountOptions(quantizing_levels=6), "quantizing_levels6"),
    ],
)
def test_observations_of_the_other_expected_tables(
    shared_data: Path,
    unit_reference: FastaReference,
    permit: Permit,
    more: tuple[str, ...],
    options: CountOptions,
    name: str,
) -> None:
    header, block = unit_reads(shared_data, permit, "NA12878.chr17_69k_70k.dictFix.bam")
    groups = GroupMap.of_lines(header.read_groups)
    known = ("dbsnp_132.b37.excluding_sites_after_129.chr17_69k_70k.vcf", *more)
    sites = read_known_sites([shared_data / UNIT / one for one in known], unit_reference.contigs)
    counts = Counter(unit_reference, sites, groups, options).count(block)
    expected = read_report(shared_data / UNIT / f"expected.NA12878.chr17_69k_70k.{name}.txt")
    assert expected.options == options
    assert np.array_equal(counts.by_cycle, expected.counts.by_cycle)
    assert np.array_equal(counts.by_context[..., :16], expected.counts.by_context[..., :16])


def test_tables_with_other_contexts_are_refused(shared_data: Path) -> None:
    with pytest.raises(InputFormatError, match="contexts of 4 bases, not 2"):
        read_report(shared_data / UNIT / "expected.NA12878.chr17_69k_70k.mismatches_context_size4.txt")
