# SPDX-License-Identifier: Apache-2.0
"""The texts of the metrics files: figures by hand and against plain Python, formats as other tools read them."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from random_pairs import GROUPS, TARGETS, Region, blocks_of, count_bam, make_bam, make_reference

from megabolt.errors import OutputError
from megabolt.formats.bam import empty_block
from megabolt.metrics import Collector, Counts, MetricsOptions, read_sections, write_all
from megabolt.metrics.alignment import insert_rows
from megabolt.metrics.counts import SUMMARY
from megabolt.metrics.files import metrics_texts
from megabolt.metrics.histogram import Histogram
from megabolt.metrics.picard import number
from megabolt.metrics.sections import group_rows
from megabolt.metrics.selection import library_size
from megabolt.testing.records import HandRead, make_block

REFERENCE = make_reference()
ALL_TARGETS = (*TARGETS, np.zeros((0, 2), np.int64))


@pytest.fixture(scope="module")
def bam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bam(tmp_path_factory.mktemp("metrics") / "reads.bam", REFERENCE, 7)


@pytest.fixture(scope="module")
def counted(bam: Path) -> tuple[Counts, Collector]:
    return count_bam(bam, REFERENCE, 800, targets=ALL_TARGETS)


def tables(text: str) -> tuple[list[dict[str, str]], list[list[str]]]:
    """Rows of the metrics and of the histogram of a Picard file."""
    parts = re.split(r"^## (?:METRICS CLASS|HISTOGRAM)\t.*\n", text, flags=re.M)[1:]
    found = [[line.split("\t") for line in part.splitlines() if line] for part in parts]
    metrics = [dict(zip(found[0][0], row)) for row in found[0][1:]] if "## METRICS CLASS" in text else []
    return metrics, found[-1][1:] if "## HISTOGRAM" in text else []


@pytest.mark.parametrize(
    "values", [[5], [1, 2], [3, 3, 3, 9], [1, 1, 7, 8, 20_000], list(range(50)), [2, 4, 4, 4, 5, 5, 7, 9]]
)
def test_histogram(values: list[int]) -> None:
    dense = np.bincount([value for value in values if value < 100], minlength=100)
    one = Histogram(dense, {20_000: 1} if 20_000 in values else None)
    assert one.count == len(values)
    assert one.mean() == pytest.approx(np.mean(values))
    assert one.median() == np.median(values)
    assert one.mad() == np.median(np.abs(np.array(values) - np.median(values)))
    assert one.mode() == min(set(values), key=lambda value: (-values.count(value), value))
    assert (one.lowest, one.highest) == (min(values), max(values))
    assert one.sd() == pytest.approx(np.std(values, ddof=1)) if len(values) > 1 else math.isnan(one.sd())
    for share in (0.05, 0.2, 0.5, 0.9):
        assert one.percentile(share) == sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    assert one.up_to(7).items() == [(v, values.count(v)) for v in sorted(set(values)) if v <= 7]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.5, "0.5"),
        (1.0, "1"),
        (1 / 3, "0.333333"),
        (math.nan, "?"),
        (math.inf, "?"),
        (-1e-9, "0"),
        ("x", "x"),
    ],
)
def test_numbers_are_written_as_picard_does(value: Any, text: str) -> None:
    assert number(value) == text


def test_alignment_summary_is_consistent(counted: tuple[Counts, Collector]) -> None:
    counts, collector = counted
    rows, lengths = tables(metrics_texts(counts, collector, "s")["alignment_summary_metrics.txt"])
    by_category = {row["CATEGORY"]: row for row in rows}
    assert list(by_category) == ["FIRST_OF_PAIR", "SECOND_OF_PAIR", "PAIR", "UNPAIRED"]
    for key in ("TOTAL_READS", "PF_READS", "PF_READS_ALIGNED", "PF_ALIGNED_BASES", "PF_HQ_ALIGNED_Q20_BASES"):
        both = int(by_category["FIRST_OF_PAIR"][key]) + int(by_category["SECOND_OF_PAIR"][key])
        assert int(by_category["PAIR"][key]) == both > 0
    n = dict(zip(SUMMARY, counts.summary.sum(axis=(0, 1)).tolist()))
    unpaired = by_category["UNPAIRED"]
    assert int(by_category["PAIR"]["PF_READS"]) + int(unpaired["PF_READS"]) == n["pf_reads"]
    assert sum(int(row[1]) for row in lengths) == int(by_category["PAIR"]["PF_READS"])
    assert unpaired["PCT_CHIMERAS"] != "0"


def test_insert_widths_against_picards_walk(counted: tuple[Counts, Collector]) -> None:
    counts, _ = counted
    rows = insert_rows(counts, (range(4), ("", "", "")))
    assert [row["PAIR_ORIENTATION"] for row, _ in rows] == ["FR", "RF", "TANDEM"]
    for k, (row, _) in enumerate(rows):
        sizes = np.bincount(
            [size for size, n in enumerate(counts.inserts[:, k].sum(axis=0)) for _ in range(n)]
            + [size for (_, turned, size), n in counts.far_inserts.items() if turned == k for _ in range(n)]
        )
        low = high = float(row["MEDIAN_INSERT_SIZE"])
        covered, widths = 0, {}
        while low >= 0 or high < len(sizes):
            covered += sizes[int(low)] if low >= 0 else 0
            covered += sizes[int(high)] if low != high and high < len(sizes) else 0
            for percent in (10, 50, 95, 99):
                if covered / sizes.sum() >= percent / 100:
                    widths.setdefault(percent, int(high - low) + 1)
            low, high = low - 1, high + 1
        assert {percent: row[f"WIDTH_OF_{percent}_PERCENT"] for percent in widths} == widths
        assert len(widths) == 4


def test_wgs_and_hs_rows_follow_from_the_depth(counted: tuple[Counts, Collector]) -> None:
    counts, collector = counted
    texts = metrics_texts(counts, collector, "s")
    (wgs,), histogram = tables(metrics_texts(counts, replace_wgs(collector), "s")["wgs_metrics.txt"])
    depths = np.repeat(np.arange(len(counts.wgs_depth)), counts.wgs_depth)
    assert float(wgs["MEAN_COVERAGE"]) == pytest.approx(depths.mean(), abs=1e-6)
    assert float(wgs["PCT_10X"]) == pytest.approx((depths >= 10).mean(), abs=1e-6)
    assert [int(n) for _, n in histogram] == counts.wgs_depth.tolist()
    (hs,), _ = tables(texts["hs_metrics.txt"])
    on_target = np.repeat(np.arange(len(counts.hs_depth)), counts.hs_depth)
    territory = sum(int((one[:, 1] - one[:, 0]).sum()) for one in TARGETS)
    assert int(hs["TARGET_TERRITORY"]) == territory == len(on_target)
    assert float(hs["MEAN_TARGET_COVERAGE"]) == pytest.approx(on_target.mean(), abs=1e-6)
    assert float(hs["PCT_TARGET_BASES_2X"]) == pytest.approx((on_target >= 2).mean(), abs=1e-6)
    shares = ["DUPE", "ADAPTER", "MAPQ", "BASEQ", "OVERLAP", "OFF_TARGET"]
    missing = sum(float(hs[f"PCT_EXC_{key}"]) for key in shares)
    kept = int(hs["ON_TARGET_BASES"]) / int(hs["PF_BASES_ALIGNED"])
    assert missing + kept == pytest.approx(1, abs=0.02)  # bases behind a clipped end are in no share
    per_target = [line.split("\t") for line in texts["per_target_coverage.txt"].splitlines()]
    assert len(per_target) == 7
    assert all(len(row) == len(per_target[0]) for row in per_target)
    assert sum(int(row[3]) for row in per_target[1:]) == territory


def replace_wgs(collector: Collector) -> Collector:
    """The same, with the whole-genome table."""
    options = replace(collector.options, wgs=True)
    return Collector(collector.contigs, collector.reference, collector.targets, collector.read_groups, options)


def test_mosdepth_texts(counted: tuple[Counts, Collector]) -> None:
    counts, collector = counted
    texts = metrics_texts(counts, collector, "s")
    summary = [line.split("\t") for line in texts["mosdepth.summary.txt"].splitlines()]
    names = [row[0] for row in summary]
    seen = ["one", "two", "three"]  # no read lies on the contig `empty`
    assert names == ["chrom", *(f"{name}{tail}" for name in seen for tail in ("", "_region")), "total", "total_region"]
    assert int(summary[1][1]) == 3000
    assert int(summary[-2][1]) == 3530
    assert int(summary[-2][2]) == sum(int(one @ np.arange(len(one))) for one in counts.depth.values())
    for name in ("global", "region"):
        lines = [line.split("\t") for line in texts[f"mosdepth.{name}.dist.txt"].splitlines()]
        total = [(int(depth), float(share)) for contig, depth, share in lines if contig == "total"]
        assert [depth for depth, _ in total] == list(range(total[0][0], -1, -1))
        assert total[-1] == (0, 1.0)
        assert sorted(share for _, share in total) == [share for _, share in total]


def test_files_are_written_whole(bam: Path, counted: tuple[Counts, Collector], tmp_path: Path) -> None:
    counts, collector = counted
    told: list[Path] = []
    paths = write_all(counts, replace_wgs(collector), tmp_path, "s", record=told.append)
    assert told == paths
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths} | {"s.regions.bed.gz.csi"}
    with pysam.TabixFile(str(tmp_path / "s.regions.bed.gz"), index=str(tmp_path / "s.regions.bed.gz.csi")) as bed:
        rows = [line.split("\t") for line in bed.fetch("one", 450, 1000)]
    assert [row[:3] for row in rows] == [["one", "500", "900"], ["one", "905", "1200"]]
    assert counts.targets is not None
    assert float(rows[0][3]) == pytest.approx(counts.targets.depth_bases[2] / 400, abs=0.005)
    assert (tmp_path / "s.flagstat.txt").read_text() == pysam.flagstat(str(bam))
    with pytest.raises(OutputError, match="flagstat"):
        write_all(counts, collector, tmp_path / "missing", "s")


def test_read_groups_add_up(counted: tuple[Counts, Collector]) -> None:
    counts, _ = counted
    rows = group_rows(counts, GROUPS, "s")
    assert [row["read_group"] for row in rows] == ["A", "Bb", "C", "(none)"]
    assert sum(row["reads"] for row in rows) == read_sections(counts, 1)["reads"]["total"]
    assert all(row["reads"] > 50 and 10 < row["mean_quality"] < 30 for row in rows)


def test_sections(bam: Path, counted: tuple[Counts, Collector]) -> None:
    counts, _ = counted
    sections = read_sections(counts, 886)
    with pysam.AlignmentFile(str(bam)) as file:
        primary = [one for one in file.fetch(until_eof=True) if not one.flag & 0x900]
    reads = sections["reads"]
    assert reads["total"] == len(primary)
    assert reads["single"] == sum(not one.is_paired for one in primary)
    assert reads["mapped"] == sum(not one.is_unmapped for one in primary)
    on_target = sum(int(one @ np.arange(len(one))) for one in counts.target_depth.values())
    assert sections["depth"] == {"mean": round(on_target / 886, 3), "over_bases": 886}
    assert 20 < sections["insert_size"]["mean"] < 100


def test_nothing_counted() -> None:
    collector = Collector(REFERENCE.contigs, None, ALL_TARGETS, [])
    counts = collector.total()
    texts = metrics_texts(counts, collector, "s")
    assert texts["flagstat.txt"].startswith("0 + 0 in total")
    assert "UNPAIRED\t0\t0" in texts["alignment_summary_metrics.txt"]
    assert "insert_size_metrics.txt" not in texts
    assert read_sections(counts, 0)["reads"]["mapped_fraction"] == 0.0


def test_a_gap_longer_than_the_stretch() -> None:
    """A read that ends behind the fetched reference is compared to its end; what no reference covers is not."""
    reference = make_reference()
    text = "ACGT" * 3000
    reference = type(reference)({"one": text})
    reads = [HandRead(100, "20M9000D20M", text[100:120] + "T" + text[9121:9140]), HandRead(200, "10M", "A" * 10)]
    collector = Collector(reference.contigs, reference, None, [])
    counts = collector.empty()
    block = make_block(reads)

    class Whole:
        records = block

        def own(self) -> Any:
            return block

    collector.count(Whole(), [Region(0, 0, 1000)], counts)
    wrong = 1 + sum(base != "A" for base in text[200:210])
    assert counts.summary[0, 0, SUMMARY.index("mismatches")] == wrong
    assert counts.summary[0, 0, 0] == 2
    assert text[9120] != "T"


def test_blocks_without_records() -> None:
    collector = Collector(REFERENCE.contigs, REFERENCE, ALL_TARGETS, GROUPS)

    class Empty:
        records = empty_block()

        def own(self) -> Any:
            return self.records

    for k, contig in enumerate(REFERENCE.contigs):
        collector.add(Empty(), [Region(k, 0, contig.length)])
    counts = collector.total()
    assert counts.flagstat.sum() == 0
    assert counts.depth[0].tolist() == [3000]
    assert counts.gc_windows.sum() > 2000


def test_several_regions_in_one_block_count_as_each_alone(bam: Path) -> None:
    one, _ = count_bam(bam, REFERENCE, 0, targets=ALL_TARGETS)
    collector = Collector(REFERENCE.contigs, REFERENCE, ALL_TARGETS, GROUPS)
    other = collector.empty()
    for block, regions in blocks_of(bam, REFERENCE, 5000):
        part = collector.empty()
        collector.count(block, regions, part)
        other += part
    np.testing.assert_array_equal(one.summary, other.summary)
    np.testing.assert_array_equal(one.gc_windows, other.gc_windows)
    assert one.far_inserts == other.far_inserts
    assert {k: v.tolist() for k, v in one.depth.items()} == {k: v.tolist() for k, v in other.depth.items()}


def test_threads_change_nothing(bam: Path) -> None:
    one, _ = count_bam(bam, REFERENCE, 300, targets=ALL_TARGETS)
    collector = Collector(REFERENCE.contigs, REFERENCE, ALL_TARGETS, GROUPS, MetricsOptions(wgs=True))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(collector.add, *block) for block in blocks_of(bam, REFERENCE, 300)]:
            done.result()
    assert metrics_texts(collector.total(), collector, "s") == metrics_texts(one, collector, "s")


def test_library_size() -> None:
    """Drawn from a library of 10,000 molecules."""
    rng = np.random.default_rng(3)
    drawn = rng.integers(0, 10_000, 6_000)
    assert library_size(6_000, len(np.unique(drawn))) == pytest.approx(10_000, rel=0.05)
    assert library_size(50, 50) is None
    assert library_size(0, 0) is None
