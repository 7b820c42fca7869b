# SPDX-License-Identifier: Apache-2.0
"""The figures of one set as a dictionary, as lines for a terminal, as Markdown and as a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
from mapping_judge import (
    BEATEN,
    ONLY_BEST,
    Classes,
    calibration,
    paired_difference,
    right_bases,
    right_by_place,
    rivals,
    roc,
    roc_versus,
    wilson,
)
from mapping_reads import Genome, Placed, Reads
from numpy.typing import NDArray

Rows = NDArray[np.bool_]

COLORS = ("#c1121f", "#1d3557", "#2a9d8f", "#e9a23b", "#7b2cbf", "#6c757d", "#386641", "#a98467")
#: A class with fewer reads has no row of its own.
SMALL = 200


def judge_set(
    name: str, reads: Reads, genome: Genome, placements: dict[str, Placed], classes: Classes, base: str
) -> dict[str, Any]:
    """Everything about one set; `base` is the aligner that the others are compared with."""
    in_use = reads.length > 0
    state = rivals(reads, genome, list(placements.values()))
    tied = state != ONLY_BEST
    best = in_use & ~tied
    groups = {"all classes": best}
    for k, label in enumerate(classes.names):
        groups[label] = best & (classes.of_row == k)
    right = {tool: right_by_place(placed, reads) & in_use for tool, placed in placements.items()}
    result: dict[str, Any] = {
        "set": name,
        "base": base if base in placements else None,
        "reads": int(in_use.sum()),
        "not_only_best": int(tied.sum()),
        "beaten": int((state == BEATEN).sum()),
        "classes": {
            label: {
                "reads": int((in_use & (classes.of_row == k)).sum()),
                "not_only_best": int((tied & (classes.of_row == k)).sum()),
            }
            for k, label in enumerate(classes.names)
        },
        "tools": {},
    }
    for tool, placed in placements.items():
        bases = right_bases(placed, reads)
        entry: dict[str, Any] = {"groups": {}}
        for label, rows in groups.items():
            if label == "all classes" or rows.sum() >= SMALL:
                entry["groups"][label] = _group(placed, right[tool], bases, rows)
                if base in placements and tool != base:
                    entry["groups"][label]["versus"] = _versus(placed, right[tool], placements[base], right[base], rows)
        entry["with_ties"] = _group(placed, right[tool], bases, in_use)
        judged = in_use & placed.mapped
        entry["calibration"] = calibration(placed.mapq[judged], right[tool][judged], (state == BEATEN)[judged])
        only = best & placed.mapped
        entry["roc"] = roc(placed.mapq[only], right[tool][only], int(best.sum()))
        result["tools"][tool] = entry
    for tool, entry in result["tools"].items():
        others = [(other, told["roc"]) for other, told in result["tools"].items() if other != tool]
        entry["roc_versus"] = {other: roc_versus(entry["roc"], points) for other, points in others}
    return result


def _group(placed: Placed, right: Rows, bases: Any, rows: Rows) -> dict[str, Any]:
    n = int(rows.sum())
    k = int((right & rows).sum())
    wrong = rows & placed.mapped & ~right
    sure = int((rows & placed.mapped & (placed.mapq >= 20)).sum())
    told: dict[str, Any] = {
        "n": n,
        "right": k / max(n, 1),
        "right_interval": wilson(k, n),
        "unmapped": int((rows & ~placed.mapped).sum()),
        "at20": sure / max(n, 1),
        "at20_interval": wilson(sure, n),
        "wrong20": int((wrong & (placed.mapq >= 20)).sum()),
        "wrong1": int((wrong & (placed.mapq >= 1)).sum()),
        "wrong": int(wrong.sum()),
    }
    told["wrong20_interval"] = wilson(told["wrong20"], n)
    if bases is not None:
        told["right_bases"] = int(bases[0][rows].sum()) / max(int(bases[1][rows].sum()), 1)
    return told


def _versus(placed: Placed, right: Rows, other: Placed, other_right: Rows, rows: Rows) -> dict[str, Any]:
    sure, other_sure = ((p.mapped & (p.mapq >= 20))[rows] for p in (placed, other))
    return {
        "right": paired_difference(right[rows], other_right[rows]),
        "at20": paired_difference(sure, other_sure),
        "wrong20": paired_difference(sure & ~right[rows], other_sure & ~other_right[rows]),
    }


def _percent(x: float, digits: int = 3) -> str:
    return f"{100 * x:.{digits}f}"


def compact(result: dict[str, Any]) -> Iterator[str]:
    """The table for a terminal."""
    n, tied, base = result["reads"], result["not_only_best"], result["base"]
    share = _percent(tied / max(n, 1), 2)
    yield f"{result['set']}: {n} reads; apart: {tied} ({share} %) not only best, {result['beaten']} of them beaten"
    head = f"{'class':<14} {'aligner':<16} {'n':>8} {'right %':>9} {'vs ' + str(base):>8} {'95 % interval':>16}"
    yield f"{head} {'bases %':>8} {'MAPQ>=20':>9} {'vs ' + str(base):>8} {'w@20':>5} {'w@1':>6} {'unm.':>6}"
    labels = list(dict.fromkeys(label for entry in result["tools"].values() for label in entry["groups"]))
    for label in labels:
        for tool, entry in result["tools"].items():
            told = entry["groups"].get(label)
            if told is not None:
                yield _row(label, tool, told)
    for tool, entry in result["tools"].items():
        yield _row("(with ties)", tool, entry["with_ties"])
    for tool, entry in result["tools"].items():
        bad = [row for row in entry["calibration"] if row["over"]]
        if bad:
            yield f"calibration of {tool}, more than twice the promised error:"
            yield from _calibration_rows(bad)
    for tool, entry in result["tools"].items():
        for line in _roc_rows(entry):
            yield f"ROC at MAPQ >= 1: {tool} {line}"


def _roc_rows(entry: dict[str, Any]) -> Iterator[str]:
    if not any(told["below"] for told in entry["roc_versus"].values()):
        yield "on or above every other"
    for other, told in entry["roc_versus"].items():
        if not told["below"]:
            continue
        worst = told["worst"]
        needed = "never as many right" if worst["needed"] is None else f"{worst['needed']:.1f}"
        yield (
            f"below {other} at {told['below']} of {told['points']} points, {told['certain']} certainly; worst where"
            f" {other} has {worst['theirs']:.0f} wrong at MAPQ >= {worst['mapq']:.0f}: {needed}"
        )


def _row(label: str, tool: str, told: dict[str, Any]) -> str:
    versus = told.get("versus")
    right = at20 = interval = ""
    if versus:
        right = f"{100 * versus['right'][0]:+.4f}"
        interval = f"{100 * versus['right'][1]:+.4f} {100 * versus['right'][2]:+.4f}"
        at20 = f"{100 * versus['at20'][0]:+.3f}"
    bases = _percent(told["right_bases"]) if "right_bases" in told else "-"
    return (
        f"{label:<14} {tool:<16} {told['n']:>8} {_percent(told['right'], 4):>9} {right:>8} {interval:>16} {bases:>8}"
        f" {_percent(told['at20']):>9} {at20:>8} {told['wrong20']:>5} {told['wrong1']:>6} {told['unmapped']:>6}"
    )


def _calibration_rows(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        mark = "  << certainly" if row["sure"] else ("  << by the count" if row["over"] else "")
        yield (
            f"  MAPQ {row['low']:>2}-{row['high']:<3} n {row['n']:>8} wrong {row['wrong']:>6}"
            f" observed {row['observed']:.2e} promised {row['promised']:.2e}; beaten {row['beaten']},"
            f" wrong {row['wrong_beaten']}, observed with them {row['observed_all']:.2e}{mark}"
        )


def markdown(result: dict[str, Any]) -> str:
    """The report of one set."""
    n, tied, base = result["reads"], result["not_only_best"], result["base"]
    lines = [
        f"## {result['set']}",
        "",
        f"{n} reads. {tied} of them ({_percent(tied / max(n, 1), 2)} %) have a true place that is not the only best"
        f" one (for {result['beaten']} another place is better); they are left out of all rows but the last. Intervals"
        " are 95 %; those of differences are paired.",
        "",
        f"| class | aligner | reads | right % | interval | minus {base} | interval | bases right % | MAPQ >= 20 % |"
        f" minus {base} | interval | wrong >= 20 | wrong >= 1 | unmapped |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    labels = list(dict.fromkeys(label for entry in result["tools"].values() for label in entry["groups"]))
    rows = [(label, tool, entry["groups"].get(label)) for label in labels for tool, entry in result["tools"].items()]
    rows += [("all, ties too", tool, entry["with_ties"]) for tool, entry in result["tools"].items()]
    for label, tool, told in rows:
        if told is None:
            continue
        right = at20 = ("", "")
        if "versus" in told:
            right, at20 = (_difference(told["versus"][key]) for key in ("right", "at20"))
        cells = [
            label,
            tool,
            str(told["n"]),
            _percent(told["right"], 4),
            _interval(told["right_interval"]),
            *right,
            _percent(told["right_bases"]) if "right_bases" in told else "-",
            _percent(told["at20"]),
            *at20,
            str(told["wrong20"]),
            str(told["wrong1"]),
            str(told["unmapped"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "### Calibration", ""]
    lines += [
        "| aligner | MAPQ | reads | wrong | observed error | promised | | beaten reads | wrong | observed with them |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for tool, entry in result["tools"].items():
        for row in entry["calibration"]:
            mark = "more than twice" if row["sure"] else ("more than twice, by the count" if row["over"] else "")
            span = f"{row['low']}" if row["low"] == row["high"] else f"{row['low']}-{row['high']}"
            lines.append(
                f"| {tool} | {span} | {row['n']} | {row['wrong']} | {row['observed']:.2e} | {row['promised']:.2e} |"
                f" {mark} | {row['beaten']} | {row['wrong_beaten']} | {row['observed_all']:.2e} |"
            )
    lines += ["", "### ROC over MAPQ, reads whose true place is the only best one", ""]
    lines += [
        "| aligner | MAPQ at least | placed % | right % | wrong | wrong per million |",
        "|---|---|---|---|---|---|",
    ]
    for tool, entry in result["tools"].items():
        for point in _thinned(entry["roc"]):
            lines.append(
                f"| {tool} | {point['mapq']} | {_percent(point['placed'])} | {_percent(point['right'])} |"
                f" {point['n_wrong']} | {1e6 * point['wrong']:.1f} |"
            )
    lines += ["", "### ROC at MAPQ >= 1 against each other", ""]
    for tool, entry in result["tools"].items():
        lines += [f"- {tool} lies {line}" for line in _roc_rows(entry)]
    return "\n".join(lines) + "\n"


def _difference(difference: Sequence[float]) -> tuple[str, str]:
    return f"{100 * difference[0]:+.4f}", f"{100 * difference[1]:+.4f} to {100 * difference[2]:+.4f}"


def _interval(interval: Sequence[float]) -> str:
    return f"{_percent(interval[0], 4)}-{_percent(interval[1], 4)}"


def _thinned(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """The points at round qualities and those at which wrong reads begin."""
    kept: list[dict[str, float]] = []
    for i, point in enumerate(points):
        first = point["n_wrong"] > 0 and (i == 0 or points[i - 1]["n_wrong"] == 0)
        if i in (0, len(points) - 1) or point["mapq"] % 10 == 0 or point["mapq"] in (1, 3, 5) or first:
            kept.append(point)
    return kept


def svg(result: dict[str, Any]) -> str:
    """ROC over MAPQ of every aligner: fraction placed right against wrong reads per million, logarithmic."""
    width, height, left, bottom, top, margin = 760, 480, 80, 56, 40, 190
    best = max(result["reads"] - result["not_only_best"], 1)
    floor = 0.5 / best  # where no wrong read is drawn
    curves = {
        tool: [(max(p["wrong"], floor), p["right"]) for p in entry["roc"] if p["mapq"] >= 1]
        for tool, entry in result["tools"].items()
    }
    points = [point for curve in curves.values() for point in curve]
    if not points:
        points = [(floor, 0.0), (1.0, 1.0)]
    x0 = math.floor(math.log10(floor))
    x1 = max(math.ceil(math.log10(max(x for x, _ in points))), x0 + 1)
    high = max(y for _, y in points)
    low = min(min(curve, key=lambda p: -p[1])[1] for curve in curves.values() if curve) if any(curves.values()) else 0
    low = max(0.0, low - max(0.02, 2 * (high - low)))
    high = min(1.0, high + 0.05 * (high - low) + 1e-6)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x0) / (x1 - x0)
        up = (max(y, low) - low) / (high - low)
        return left + across * (width - left - margin), height - bottom - up * (height - bottom - top)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="22" font-size="14">{escape(result["set"])}: ROC over MAPQ, {best} reads with one best'
        " place</text>",
    ]
    for decade in range(x0, x1 + 1):
        x, y = at(10.0**decade, low)
        out.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{top}" stroke="#ddd"/>')
        text = f"{10.0 ** (decade + 6):g}"
        out.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{text}</text>')
    for k in range(6):
        value = low + k * (high - low) / 5
        x, y = at(10.0**x0, value)
        out.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{width - margin}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.2f}</text>')
    out.append(
        f'<text x="{(left + width - margin) / 2}" y="{height - 14}" text-anchor="middle">wrong reads per million'
        " (leftmost: none)</text>"
    )
    middle = (top + height - bottom) / 2
    out.append(
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">placed right %, MAPQ at'
        " least that of the point</text>"
    )
    for k, (tool, curve) in enumerate(curves.items()):
        color = COLORS[k % len(COLORS)]
        places = [at(max(x, 10.0**x0), y) for x, y in curve if y >= low]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{color}"/>' for x, y in places]
        y = top + 14 + 18 * k
        out.append(f'<rect x="{width - margin + 16}" y="{y - 9}" width="12" height="10" fill="{color}"/>')
        out.append(f'<text x="{width - margin + 34}" y="{y}">{escape(tool)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
