# SPDX-License-Identifier: Apache-2.0
"""The drawings of base qualities: the numbers behind them, and that the page can show them."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import pytest

from megabolt.recalibrate import Counts
from megabolt.recalibrate.plots import quality_data, quality_svg


def counts_of(errors: int) -> Counts:
    counts = Counts.empty(2, 100)
    for row, quality, cycle, context, bases in ((0, 30, 101, 16, 5000), (1, 30, 102, 6, 3000), (1, 20, 99, 0, 500)):
        counts.by_cycle[row, quality, cycle] = bases
        counts.by_context[row, quality, context] = bases
        counts.cycle_errors[row, quality, cycle] = errors
        counts.context_errors[row, quality, context] = errors
    return counts


def test_numbers() -> None:
    data = quality_data(counts_of(10))
    assert json.loads(json.dumps(data)) == data
    assert data["quality"]["value"] == [20, 30]
    assert data["quality"]["bases"] == [500, 8000]
    assert data["quality"]["reported"] == [20.0, 30.0]
    assert data["quality"]["empirical"][1] == pytest.approx(-10 * math.log10(21 / 8002), abs=1e-3)
    assert data["cycle"]["value"] == [-1, 1, 2]
    assert data["context"]["value"] == ["AA", "CG"]


def test_drawing() -> None:
    before, after = quality_data(counts_of(10)), quality_data(counts_of(5))
    svg = ElementTree.fromstring(quality_svg(before, after))
    circles = [one for one in svg.iter() if one.tag.endswith("circle")]
    assert len(circles) == 2 * (1 + 2 + 1)  # sets of 1,000 bases or more
    assert all(0 <= float(one.get("cx", "-1")) <= 360 for one in circles)
    assert all(0 <= float(one.get("cy", "-1")) <= 260 for one in circles)
    texts = [one.text for one in svg.iter() if one.text]
    assert "\u25cf before" in texts
    assert "\u25cf after" in texts


def test_drawing_of_nothing() -> None:
    svg = quality_svg(quality_data(Counts.empty(1, 100)))
    assert "circle" not in svg
    assert "after" not in svg
    ElementTree.fromstring(svg)
