# SPDX-License-Identifier: Apache-2.0
"""Depth and enrichment against plain Python over places, whatever the blocks."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from random_pairs import TARGETS, count_bam, make_bam, make_reference

from megabolt.metrics.counts import COVERAGE_CAP, ENRICHMENT, WGS_EXCLUDED, Counts
from megabolt.metrics.enrichment import NEAR

REFERENCE = make_reference()
ALL_TARGETS = (*TARGETS, np.zeros((0, 2), np.int64))
Place = tuple[int, int]


@pytest.fixture(scope="module")
def bam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bam(tmp_path_factory.mktemp("metrics") / "reads.bam", REFERENCE, 6)


@pytest.fixture(scope="module", params=[0, 97, 1000])
def counts(request: pytest.FixtureRequest, bam: Path) -> Counts:
    return count_bam(bam, REFERENCE, request.param, targets=ALL_TARGETS)[0]


def records(bam: Path) -> list[Any]:
    with pysam.AlignmentFile(str(bam)) as file:
        return list(file.fetch(until_eof=True))


def aligned(record: Any) -> list[tuple[int, int]]:
    """(read base, place) of each aligned base; unmapped records may have some."""
    pairs = []
    base, place = 0, record.reference_start
    for code, length in record.cigartuples or []:
        if code in (0, 7, 8):
            pairs += [(base + k, place + k) for k in range(length)]
        base += length if code in (0, 1, 4, 7, 8) else 0
        place += length if code in (0, 2, 3, 7, 8) else 0
    return pairs


def quality(record: Any, base: int) -> int:
    return record.query_qualities[base] if record.query_qualities is not None else 0


def overlapping_pair(one: Any, other: Any) -> bool:
    """Whether the records are both ends of a pair on one contig, and say so."""
    return (
        one.is_paired
        and not (one.flag | other.flag) & 0x90C
        and one.reference_id == other.reference_id
        and one.is_read1 != other.is_read1
    )


def plain_depth(bam: Path) -> Counter[Place]:
    """mosdepth's: a place counts once for a proper pair's primary records."""
    depth: Counter[Place] = Counter()
    covered: dict[str, list[tuple[Any, set[Place]]]] = defaultdict(list)
    for record in records(bam):
        if record.flag & 0x704:
            continue
        places = {(record.reference_id, place) for _, place in aligned(record)}
        depth.update(places)
        if record.is_proper_pair and not record.is_supplementary:
            for mate, theirs in covered[record.query_name]:
                if overlapping_pair(record, mate):
                    depth.subtract(places & theirs)
            covered[record.query_name].append((record, places))
    return depth


def histogram(depth: Counter[Place], places: list[Place]) -> Counter[int]:
    return Counter(depth[place] for place in places)


def on_targets() -> list[Place]:
    return [(k, at) for k, one in enumerate(TARGETS) for low, high in one.tolist() for at in range(low, high)]


def as_counter(array: Any) -> Counter[int]:
    return Counter({k: n for k, n in enumerate(array.tolist()) if n})


def test_depth_is_mosdepths(bam: Path, counts: Counts) -> None:
    depth = plain_depth(bam)
    for contig, one in enumerate(REFERENCE.contigs):
        expected = histogram(depth, [(contig, at) for at in range(one.length)])
        assert as_counter(counts.depth[contig]) == expected
        on_target = histogram(depth, [place for place in on_targets() if place[0] == contig])
        assert as_counter(counts.target_depth[contig]) == on_target
    sums = [sum(depth[k, at] for at in range(low, high)) for k, one in enumerate(TARGETS) for low, high in one.tolist()]
    assert counts.targets is not None
    assert counts.targets.depth_bases.tolist() == sums
    once = Counter(place for record in records(bam) if not record.flag & 0x704 for place in plain_places(record))
    assert sum(once.values()) > sum(depth.values())  # there are overlaps


def plain_places(record: Any) -> list[Place]:
    return [(record.reference_id, place) for _, place in aligned(record)]


def test_high_quality_depth_is_collect_wgs_metrics(bam: Path, counts: Counts) -> None:
    depth: Counter[Place] = Counter()
    excluded: Counter[str] = Counter()
    seen: dict[str, list[tuple[Any, set[Place]]]] = defaultdict(list)
    for record in records(bam):
        if record.flag & 0x300 or record.reference_id < 0:
            continue
        pairs = aligned(record)
        if record.mapping_quality < 20 or record.is_unmapped:
            excluded["mapq"] += len(pairs)
        elif record.is_duplicate:
            excluded["duplicate"] += len(pairs)
        elif not record.is_paired or record.mate_is_unmapped:
            excluded["unpaired"] += len(pairs)
        else:
            good = set()
            text = REFERENCE.sequences[record.reference_name]
            for base, at in pairs:
                if text[at] != "N":
                    if quality(record, base) < 20 or record.query_sequence[base] == "N":
                        excluded["baseq"] += 1
                    else:
                        good.add((record.reference_id, at))
            mates = [theirs for mate, theirs in seen[record.query_name] if overlapping_pair(record, mate)]
            twice = good & mates[0] if mates else set()
            excluded["overlap"] += len(twice)
            depth.update(good - twice)
            seen[record.query_name].append((record, good))
    places = [
        (k, at) for k, one in enumerate(REFERENCE.sequences.values()) for at, base in enumerate(one) if base != "N"
    ]
    capped = Counter(min(depth[place], COVERAGE_CAP) for place in places)
    assert as_counter(counts.wgs_depth) == capped
    excluded["capped"] = sum(max(0, depth[place] - COVERAGE_CAP) for place in places)
    assert dict(zip(WGS_EXCLUDED, counts.wgs_excluded.tolist())) == {key: excluded[key] for key in WGS_EXCLUDED}
    assert excluded["overlap"] > 100


def bases_to_clip(record: Any) -> tuple[int, int]:
    """Bases that count as overlap, and the read base from which on none counts any more."""
    n = len(record.query_sequence)
    start = record.next_reference_start
    if not record.is_paired or record.mate_is_unmapped or start < record.reference_start:
        return 0, n
    if start == record.reference_start and record.is_read1:
        return 0, n
    clip, at = 0, record.reference_start
    for code, length in record.cigartuples:
        if code in (0, 7, 8):
            clip += max(0, min(length, at + length - start))
        elif code == 1 and start <= at - 1:
            clip += length
        at += length if code in (0, 2, 3, 7, 8) else 0
    if clip and start <= record.reference_start:
        return clip, 0
    code, length = record.cigartuples[-1]
    return clip, n - clip - (length if code == 4 and clip else 0)


def test_enrichment_is_collect_hs_metrics(bam: Path, counts: Counts) -> None:
    n: Counter[str] = Counter(dict.fromkeys(ENRICHMENT, 0))
    depth: Counter[Place] = Counter()
    wanted = [(k, low, high) for k, one in enumerate(TARGETS) for low, high in one.tolist()]
    reads: Counter[int] = Counter()
    for record in records(bam):
        if record.is_secondary:
            continue
        unique, mapped, whole = not record.is_duplicate, not record.is_unmapped, not record.is_supplementary
        n["TOTAL_READS"] += whole
        if record.is_qcfail:
            continue
        n["PF_READS"] += whole
        n["PF_BASES"] += whole * len(record.query_sequence)
        n["PF_UNIQUE_READS"] += whole and unique
        n["PF_UQ_READS_ALIGNED"] += whole and unique and mapped
        if not mapped:
            continue
        pairs = aligned(record)
        n["PF_BASES_ALIGNED"] += len(pairs)
        n["PF_UQ_BASES_ALIGNED"] += unique * len(pairs)
        k, start, stop = record.reference_id, record.reference_start, record.reference_end
        near = any(j == k and low - NEAR < stop and start < high + NEAR for j, low, high in wanted)
        on = sum(any(j == k and low <= at < high for j, low, high in wanted) for _, at in pairs)
        n["ON_BAIT_BASES"] += on
        n["NEAR_BAIT_BASES" if near else "OFF_BAIT_BASES"] += len(pairs) - on
        if near and record.is_read1 and record.is_paired and not record.mate_is_unmapped and whole:
            n["SELECTED_PAIRS"] += 1
            n["SELECTED_UNIQUE_PAIRS"] += unique
        if not unique:
            n["EXC_DUPE"] += len(pairs)
        elif record.mapping_quality < 20:
            n["EXC_MAPQ"] += len(pairs)
        else:
            clip, stop_base = bases_to_clip(record)
            n["EXC_OVERLAP"] += clip
            kept = [(base, at) for base, at in pairs if base < stop_base]
            good = {(k, at) for base, at in kept if quality(record, base) >= 20}
            n["HQ_BASES"] += len(good)
            n["EXC_BASEQ"] += len(kept) - len(good)
            depth.update(good)
            if record.is_paired and not record.mate_is_unmapped and whole:
                n["ON_TARGET_FROM_PAIR_BASES"] += len(good & set(on_targets()))
            reads.update(
                t for t, (j, low, high) in enumerate(wanted) if any((j, at) in good for at in range(low, high))
            )
    found = counts.targets
    assert found is not None
    assert dict(zip(ENRICHMENT, found.enrichment.tolist())) == n
    assert as_counter(counts.hs_depth) == histogram(depth, on_targets())
    depths = [[depth[k, at] for at in range(low, high)] for k, low, high in wanted]
    assert found.bases.tolist() == [sum(one) for one in depths]
    assert found.lowest.tolist() == [min(one) for one in depths]
    assert found.highest.tolist() == [max(one) for one in depths]
    assert found.uncovered.tolist() == [one.count(0) for one in depths]
    assert found.reads.tolist() == [reads[t] for t in range(len(wanted))]
    assert n["EXC_OVERLAP"] > 0 < n["NEAR_BAIT_BASES"]
