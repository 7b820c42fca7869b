# SPDX-License-Identifier: Apache-2.0
"""Counts over records against plain Python over pysam's view of the same file, whatever the blocks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from random_pairs import GROUPS, count_bam, make_bam, make_reference

from megabolt.metrics.counts import (
    DENSE_INSERTS,
    FIRST,
    FR,
    RF,
    SECOND,
    SUMMARY,
    TANDEM,
    UNPAIRED,
    Counts,
)
from megabolt.metrics.flagstat import flagstat_text, idxstats_text

REFERENCE = make_reference()
CIGAR_OF_BASES = (0, 1, 7, 8)
STEPS = [0, 97, 1000]


@pytest.fixture(scope="module")
def bam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bam(tmp_path_factory.mktemp("metrics") / "reads.bam", REFERENCE, 5)


@pytest.fixture(scope="module", params=STEPS)
def counts(request: pytest.FixtureRequest, bam: Path) -> Counts:
    return count_bam(bam, REFERENCE, request.param)[0]


def records(bam: Path) -> list[Any]:
    with pysam.AlignmentFile(str(bam)) as file:
        return list(file.fetch(until_eof=True))


def side_of(record: Any) -> int:
    if not record.is_paired:
        return UNPAIRED
    return FIRST if record.is_read1 else SECOND


def group_of(record: Any) -> int:
    names = [group.identifier for group in GROUPS]
    name = record.get_tag("RG") if record.has_tag("RG") else ""
    return names.index(name) if name in names else len(names)


def primary(record: Any) -> bool:
    return not record.flag & 0x900


def mismatch_places(record: Any) -> list[int]:
    """Read bases that differ from the reference under them."""
    text = REFERENCE.sequences[record.reference_name]
    pairs = record.get_aligned_pairs(matches_only=True)
    return [base for base, place in pairs if record.query_sequence[base] != text[place]]


def orientation(record: Any) -> int:
    if record.is_reverse == record.mate_is_reverse:
        return TANDEM
    if record.is_reverse:
        forward, reverse = record.next_reference_start + 1, record.reference_end
    else:
        forward, reverse = record.reference_start + 1, record.reference_start + 1 + record.template_length
    return FR if forward < reverse else RF


def test_flagstat_and_idxstats_are_those_of_samtools(bam: Path, counts: Counts) -> None:
    assert flagstat_text(counts) == pysam.flagstat(str(bam))
    assert idxstats_text(counts, REFERENCE.contigs) == pysam.idxstats(str(bam))


def plain_summary(bam: Path) -> Counter[tuple[int, int, str]]:
    """(read group, side, name of a counter) -> n."""
    n: Counter[tuple[int, int, str]] = Counter()

    for record in records(bam):
        if not primary(record):
            continue

        def add(name: str, value: int, record: Any = record) -> None:
            n[group_of(record), side_of(record), name] += int(value)

        passed, aligned, high = not record.is_qcfail, not record.is_unmapped, record.mapping_quality >= 20
        cigar = record.cigartuples or []
        add("total_reads", 1)
        add("pf_reads", passed)
        add("mapq20", aligned and high)
        add("duplicates", aligned and record.is_duplicate)
        if not passed:
            continue
        add("unclipped_bases", sum(length for code, length in cigar if code in CIGAR_OF_BASES))
        add("hard_clipped", sum(length for code, length in cigar if code == 5))
        if not aligned:
            continue
        places = [base for base, _ in record.get_aligned_pairs(matches_only=True)]
        wrong = len(mismatch_places(record))
        qualities = record.query_qualities
        add("aligned", 1)
        add("aligned_bases", len(places))
        add("mismatches", wrong)
        add("indels", sum(code in (1, 2) for code, _ in cigar))
        add("deleted_and_inserted", sum(length for code, length in cigar if code in (1, 2)))
        add("forward", not record.is_reverse)
        add("improper", record.is_paired and not record.is_proper_pair)
        add("soft_clipped", sum(length for code, length in cigar if code == 4))
        code, length = [one for one in cigar if one[0] != 5][0 if record.is_reverse else -1]
        add("soft_clipped_3prime", length if code == 4 else 0)
        add("reads_clipped_3prime", code == 4)
        if high:
            add("hq_reads", 1)
            add("hq_bases", len(places))
            add("hq_q20_bases", sum(qualities[base] >= 20 for base in places) if qualities is not None else 0)
            add("hq_mismatches", wrong)
        if record.is_paired and not record.mate_is_unmapped:
            add("in_pairs", 1)
            if not record.has_tag("MQ") or (record.get_tag("MQ") >= 20 and high):
                add("chimera_candidates", 1)
                far = abs(record.template_length) > 100_000 or record.reference_id != record.next_reference_id
                add("chimeras", far or orientation(record) != FR or record.has_tag("SA"))
        elif high:
            add("chimera_candidates", 1)
            add("chimeras", record.has_tag("SA"))
    return n


def test_alignment_summary(bam: Path, counts: Counts) -> None:
    expected = plain_summary(bam)
    found = {
        (group, side, name): int(counts.summary[group, side, k])
        for group in range(len(GROUPS) + 1)
        for side in range(3)
        for k, name in enumerate(SUMMARY)
        if name != "adapters"
    }
    assert found == {key: expected[key] for key in found}
    assert sum(found[group, FIRST, "chimeras"] for group in range(4)) > 20


def test_lengths_mismatches_and_cycles(bam: Path, counts: Counts) -> None:
    lengths, aligned, mismatches, bad = (Counter[tuple[int, ...]]() for _ in range(4))
    for record in records(bam):
        key = (group_of(record), side_of(record))
        if not primary(record):
            continue
        n = len(record.query_sequence)
        passed, mapped = not record.is_qcfail, not record.is_unmapped
        if passed:
            lengths[*key, n] += 1
            aligned[*key, sum(k for code, k in record.cigartuples or [] if code in CIGAR_OF_BASES)] += 1
        wrong = mismatch_places(record) if mapped else []
        if passed and mapped and record.mapping_quality >= 20:
            mismatches[*key, len(wrong)] += 1
        unknown = [k for k, base in enumerate(record.query_sequence) if base == "N"] if not (passed and mapped) else []
        for base in [*wrong, *unknown]:
            bad[*key, n - 1 - base if record.is_reverse else base] += 1
    for array, expected in (
        (counts.lengths, lengths),
        (counts.aligned_lengths, aligned),
        (counts.mismatches, mismatches),
        (counts.bad_cycles, bad),
    ):
        assert {tuple(at): int(array[tuple(at)]) for at in np.argwhere(array).tolist()} == expected


def test_qualities(bam: Path, counts: Counts) -> None:
    table, unknown = Counter[tuple[int, ...]](), Counter[int]()
    for record in records(bam):
        if not primary(record) or record.query_qualities is None:
            continue
        n = len(record.query_sequence)
        for k, (base, quality) in enumerate(zip(record.query_sequence, record.query_qualities)):
            cycle = n - 1 - k if record.is_reverse else k
            table[group_of(record), side_of(record), cycle, quality] += 1
            unknown[quality] += base == "N"
    assert {tuple(at): int(counts.quality[tuple(at)]) for at in np.argwhere(counts.quality).tolist()} == table
    assert {k: n for k, n in enumerate(counts.no_calls.tolist()) if n} == {k: n for k, n in unknown.items() if n}


def test_insert_sizes(bam: Path, counts: Counts) -> None:
    expected = Counter[tuple[int, int, int]]()
    for record in records(bam):
        both = record.is_paired and not record.is_unmapped and not record.mate_is_unmapped
        if both and record.is_read2 and primary(record) and not record.is_duplicate and record.template_length:
            expected[group_of(record), orientation(record), abs(record.template_length)] += 1
    found = {tuple(at): int(counts.inserts[tuple(at)]) for at in np.argwhere(counts.inserts).tolist()}
    assert found | counts.far_inserts == expected
    assert counts.far_inserts
    assert min(size for _, _, size in counts.far_inserts) >= DENSE_INSERTS


def window_gc(text: str, at: int) -> int:
    """Picard's GC of the window at a 0-based place: 0 for the first and behind the last, -1 with five N."""
    if not 1 <= at < len(text) - 100:
        return 0
    window = text[at : at + 100]
    return -1 if window.count("N") > 4 else window.count("G") + window.count("C")


def test_gc_bias(bam: Path, counts: Counts) -> None:
    table, totals = np.zeros_like(counts.gc), np.zeros_like(counts.gc_totals)
    for record in records(bam):
        group = group_of(record)
        totals[group, 0] += not record.is_paired or record.is_read1
        if record.is_unmapped:
            continue
        totals[group, 1] += 1
        text = REFERENCE.sequences[record.reference_name]
        at = record.reference_end - 100 if record.is_reverse else record.reference_start + 1
        gc = window_gc(text, at)
        if at > 0 and gc >= 0:
            gaps = sum(length for code, length in record.cigartuples if code in (1, 2))
            table[group, :, gc] += [1, len(record.query_sequence), len(mismatch_places(record)) + gaps]
    np.testing.assert_array_equal(counts.gc, table)
    np.testing.assert_array_equal(counts.gc_totals, totals)
    windows = Counter(
        window_gc(text, at) for text in REFERENCE.sequences.values() for at in range(1, max(1, len(text) - 100))
    )
    del windows[-1]
    assert {gc: n for gc, n in enumerate(counts.gc_windows.tolist()) if n} == windows
