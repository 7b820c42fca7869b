# SPDX-License-Identifier: Apache-2.0
"""Picard's metrics file: its own figures for the same counts, and what is left out where nothing was found."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from megabolt.errors import OutputError
from megabolt.reads.duplicates.metrics import (
    DuplicationMetrics,
    duplication_report,
    estimate_library_size,
    write_duplication_metrics,
)

ONE = DuplicationMetrics("Solexa-18483", 49, 1995, 0, 0, 14, 244, 183)
OTHER = DuplicationMetrics("Solexa-18484", 50, 1859, 0, 0, 16, 287, 209)


def table(text: str, title: str) -> list[list[str]]:
    return [line.split("\t") for line in text.split(title)[1].split("\n\n")[0].split("\n")[1:] if line]


def test_figures_of_picard_for_the_same_counts() -> None:
    """From MarkDuplicates 2.27.5 on the first 8,000 records of chromosome 20 of a CEU trio."""
    text = duplication_report([OTHER, ONE], {(1, 0): 3}, "megabolt align", "now")
    rows = table(text, "## METRICS CLASS\tpicard.sam.DuplicationMetrics")
    assert rows[0][0] == "LIBRARY"
    assert rows[1] == ["Solexa-18483", "49", "1995", "0", "0", "14", "244", "183", "0.124288", "26305"]
    assert rows[2] == ["Solexa-18484", "50", "1859", "0", "0", "16", "287", "209", "0.156582", "16897"]


def test_library_size_solves_its_equation() -> None:
    size = estimate_library_size(1_000_000, 800_000)
    assert size is not None
    assert 800_000 / size == pytest.approx(1 - math.exp(-1_000_000 / size), abs=1e-6)
    assert [estimate_library_size(*counts) for counts in ((0, 0), (5, 5), (5, 0))] == [None] * 3


def test_histogram_of_group_sizes() -> None:
    sizes = {(1, 0): 10, (2, 0): 3, (2, 1): 4, (5, 2): 1}
    rows = table(duplication_report([ONE, OTHER], sizes, "", ""), "## HISTOGRAM\tjava.lang.Double")
    assert rows[0] == ["set_size", "all_sets", "optical_sets", "non_optical_sets"]
    assert rows[1:] == [
        ["1.0", "10", "0", "14"],
        ["2.0", "7", "4", "3"],
        ["3.0", "0", "1", "1"],
        ["5.0", "1", "0", "0"],
    ]


def test_columns_without_groups_are_left_out() -> None:
    none = replace(ONE, read_pair_duplicates=0, read_pair_optical_duplicates=0)
    rows = table(duplication_report([none], {(1, 0): 10}, "", ""), "## HISTOGRAM\tjava.lang.Double")
    assert rows == [["set_size", "all_sets", "non_optical_sets"], ["1.0", "10", "10"]]
    assert "HISTOGRAM" not in duplication_report([none], {}, "", "")


def test_return_of_more_sequencing_of_one_library() -> None:
    rows = table(duplication_report([ONE], {(1, 0): 10, (120, 0): 1}, "", ""), "## HISTOGRAM\tjava.lang.Double")
    assert rows[0] == ["BIN", "CoverageMult", "all_sets", "non_optical_sets"]
    assert [row[0] for row in rows[1:]] == [f"{x}.0" for x in [*range(1, 101), 120]]
    assert float(rows[1][1]) == pytest.approx(1.0968, abs=1e-3)
    assert float(rows[100][1]) == pytest.approx(26305 / 1751, rel=1e-2)
    assert rows[101][1] == "0"


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_duplication_metrics(path, [ONE], {(1, 0): 1}, command_line="megabolt align a")
    assert "# megabolt align a\n" in path.read_text()
    with pytest.raises(OutputError):
        write_duplication_metrics(tmp_path / "none" / "x.txt", [ONE], {})
