# SPDX-License-Identifier: Apache-2.0
"""The report: complete, self-contained, harmless."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import pytest

from megabolt.errors import InputFormatError, UsageError
from megabolt.workflow.report import f1_scores, write_report

METRICS = {
    "schema_version": 1,
    "sample": "S",
    "reads": {"pairs": 12345, "mapped_fraction": 0.9912},
    "depth": {"mean": 30.25},
    "stages": [{"name": "align", "wall_seconds": 3.0, "cpu_seconds": 5.5}],
    "note": "<script>alert(1)</script>",
}
COMPARISON = {"classes": {"SNP": {"tp_truth": 90, "f1": 0.9876}, "indel": {"tp_truth": 9, "f1": 0.95}}}


class Page(html.parser.HTMLParser):
    """Collects what a page would load, and checks that tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag in ("script", "link", "iframe", "img"):
            self.loads.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    (tmp_path / "S.metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / "S.compare.json").write_text(json.dumps(COMPARISON))
    (tmp_path / "S.vcf.gz").write_bytes(b"x" * 77)
    return tmp_path


def test_the_page_shows_the_samples_and_loads_nothing(sample: Path) -> None:
    write_report([sample / "S.metrics.json"], [sample / "S.compare.json"], sample / "report.html")
    text = (sample / "report.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert page.open == []
    for words in (
        "12,345",
        "0.9912",
        "30.25",
        "0.9876",
        "0.9500",
        "align",
        "S.vcf.gz",
        "77",
        "&lt;script&gt;",
    ):
        assert words in text


def test_the_json_has_the_same(sample: Path) -> None:
    write_report([sample / "S.metrics.json"], [], sample / "report.html", sample / "report.json")
    data = json.loads((sample / "report.json").read_text())
    assert data["schema_version"] == 1
    (one,) = data["samples"]
    assert one["sample"] == "S"
    assert one["metrics"] == METRICS
    assert one["accuracy"] == {}
    assert one["files"]["S.vcf.gz"] == 77


def test_scores() -> None:
    assert f1_scores(COMPARISON) == (0.9876, 0.95)
    assert f1_scores({}) == (None, None)


def test_damaged_metrics(sample: Path) -> None:
    (sample / "S.metrics.json").write_text('{"reads"')
    with pytest.raises(InputFormatError, match=r"S\.metrics\.json: not JSON"):
        write_report([sample / "S.metrics.json"], [], sample / "report.html")
    assert not (sample / "report.html").exists()


def test_a_comparison_without_its_sample(sample: Path) -> None:
    (sample / "T.compare.json").write_text("{}")
    with pytest.raises(UsageError, match="comparison of T"):
        write_report([sample / "S.metrics.json"], [sample / "T.compare.json"], sample / "report.html")
