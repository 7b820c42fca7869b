# SPDX-License-Identifier: Apache-2.0
"""Counts of calls by hand, and the file of metrics."""

from __future__ import annotations

import json
from pathlib import Path

from megabolt.formats.vcf import NON_REF, VcfRecord
from megabolt.workflow.metrics import (
    CallCounts,
    write_metrics,
)


def test_calls_are_counted_by_class() -> None:
    counts = CallCounts()
    made = [("A", ("G",), "0/1"), ("A", ("C",), "1/1"), ("A", ("C", "G"), "1|2"), ("AT", ("A",), "0/1")]
    made += [("A", ("AT", "ATT"), "1/2"), ("ATT", ("A", "ATTT"), "1/2"), ("C", ("T", NON_REF), "0|1")]
    counts.add(VcfRecord("c", k, ref, alts, 30.0, "PASS", {}, {"GT": gt}) for k, (ref, alts, gt) in enumerate(made))
    counts.add([VcfRecord("c", 99, "G", ("A",), 5.0, "LowQual", {}, {"GT": "0/1"})])
    assert counts.section() == {
        "total": 8, "passed": 7, "snps": 5, "indels": 2, "insertions": 1, "deletions": 1, "others": 1,
        "multiallelic": 3, "ti_tv": 2.0, "het_hom": 7.0,
    }  # fmt: skip


def test_the_file_carries_its_schema_version(tmp_path: Path) -> None:
    write_metrics(tmp_path / "s.metrics.json", {"reads": {"total": 4}})
    assert json.loads((tmp_path / "s.metrics.json").read_text()) == {"schema_version": 1, "reads": {"total": 4}}
