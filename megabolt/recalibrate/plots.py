# SPDX-License-Identifier: Apache-2.0
"""Reported against empirical quality, for the report: numbers for the JSON, and drawings of them.

`quality_data` goes into metrics.json; `quality_svg` draws it, before and, where reads were counted again, after
recalibration. Nothing of a person's sequence is in either: they are sums over all reads.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.recalibrate.counts import Counts
from megabolt.recalibrate.options import N_CONTEXTS, N_QUALITIES

#: Sets with fewer bases are too noisy to draw.
_FEWEST = 1000
_WIDTH, _HEIGHT, _MARGIN = 360, 260, 40
_COLOURS = {"before": "#b4643c", "after": "#3c78b4"}

Data = Mapping[str, Mapping[str, Sequence[Any]]]


def quality_data(counts: Counts) -> dict[str, dict[str, list[Any]]]:
    """Qualities by reported quality, cycle and context, over all read groups.

    Returns
    -------
    For each of "quality", "cycle" and "context": "value" (whole numbers, or two letters), "bases", "reported" (mean
    by error rate, Phred) and "empirical" (Phred, one error and one right base added), of sets with bases.
    """
    bases, errors = counts.by_cycle.sum(axis=0), counts.cycle_errors.sum(axis=0)
    contexts = [a + b for a in "ACGT" for b in "ACGT"]
    cycles = [k - counts.max_cycle for k in range(bases.shape[1])]
    wrong = np.power(10.0, np.arange(N_QUALITIES) / -10.0)
    return {
        "quality": _column(list(range(N_QUALITIES)), bases.sum(axis=1), wrong * bases.sum(axis=1), errors.sum(axis=1)),
        "cycle": _column(cycles, bases.sum(axis=0), wrong @ bases, errors.sum(axis=0)),
        "context": _column(
            contexts,
            counts.by_context[:, :, :N_CONTEXTS].sum(axis=(0, 1)),
            wrong @ counts.by_context[:, :, :N_CONTEXTS].sum(axis=0),
            counts.context_errors[:, :, :N_CONTEXTS].sum(axis=(0, 1)),
        ),
    }


def _column(
    values: Sequence[Any], bases: NDArray[np.int64], expected: NDArray[np.float64], errors: NDArray[np.float64]
) -> dict[str, list[Any]]:
    kept = [int(k) for k in np.flatnonzero(bases)]
    return {
        "value": [values[k] for k in kept],
        "bases": [int(bases[k]) for k in kept],
        "reported": [round(-10.0 * math.log10(expected[k] / bases[k]) + 0.0, 3) for k in kept],
        "empirical": [round(-10.0 * math.log10((errors[k] + 1.0) / (bases[k] + 2.0)), 3) for k in kept],
    }


def quality_svg(before: Data, after: Data | None = None) -> str:
    """Three drawings side by side, as one <svg> element for a page: empirical against reported quality, and the
    difference of the two by cycle and by context.

    Parameters
    ----------
    before, after
        From `quality_data`; sets of fewer than 1,000 bases are left out.
    """
    series = {"before": before} if after is None else {"before": before, "after": after}
    panels = [_against_reported(series), _by_cycle(series), _by_context(series)]
    key = "".join(
        f'<text x="{_MARGIN + 80 * k}" y="14" fill="{_COLOURS[name]}">\u25cf {name}</text>'
        for k, name in enumerate(series)
    )
    drawn = "".join(f'<g transform="translate({k * _WIDTH} 0)">{panel}</g>' for k, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * _WIDTH} {_HEIGHT}" width="100%"'
        f' font-family="system-ui, sans-serif" font-size="11" role="img" aria-label="Base qualities">{key}{drawn}</svg>'
    )


class _Axes:
    """A frame with scales from numbers to places on the drawing."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        low, high = self._x
        return _MARGIN + (value - low) / (high - low) * (_WIDTH - 1.5 * _MARGIN)

    def y(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _MARGIN - (value - low) / (high - low) * (_HEIGHT - 1.75 * _MARGIN)

    def frame(self, title: str, label: str, ticks_x: Sequence[tuple[float, str]], ticks_y: Sequence[float]) -> str:
        """Lines, numbers and titles."""
        (x0, x1), (y0, y1) = self._x, self._y
        left, right, top, bottom = self.x(x0), self.x(x1), self.y(y1), self.y(y0)
        parts = [
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
            ' fill="none" stroke="#cfd6df"/>',
            f'<text x="{(left + right) / 2:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(title)}</text>',
            f'<text transform="translate(10 {(top + bottom) / 2:.1f}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(label)}</text>",
        ]
        for value, text in ticks_x:
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{html.escape(text)}</text>'
            )
        for value in ticks_y:
            parts.append(f'<text x="{left - 4:.1f}" y="{self.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
        return "".join(parts)

    def line(self, start: tuple[float, float], stop: tuple[float, float]) -> str:
        """A grey line, for what would be right."""
        (x0, y0), (x1, y1) = start, stop
        return (
            f'<line x1="{self.x(x0):.1f}" y1="{self.y(y0):.1f}" x2="{self.x(x1):.1f}" y2="{self.y(y1):.1f}"'
            ' stroke="#8a94a0" stroke-dasharray="3 3"/>'
        )

    def dots(self, name: str, points: Sequence[tuple[float, float, int]]) -> str:
        """Circles at (x, y, bases): larger for more bases."""
        most = max((n for _, _, n in points), default=1)
        return "".join(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{1.2 + 2.8 * math.sqrt(n / most):.1f}"'
            f' fill="{_COLOURS[name]}" fill-opacity=".7"/>'
            for x, y, n in points
        )


def _points(
    data: Data, of: str, x: Callable[[int], float], y: Callable[[float, float], float]
) -> list[tuple[float, float, int]]:
    one = data[of]
    rows = enumerate(zip(one["bases"], one["reported"], one["empirical"]))
    return [(x(k), y(reported, empirical), n) for k, (n, reported, empirical) in rows if n >= _FEWEST]


def _against_reported(series: Mapping[str, Data]) -> str:
    drawn = {
        name: _points(data, "quality", lambda k, data=data: data["quality"]["value"][k], lambda _, found: found)  # type: ignore[misc]
        for name, data in series.items()
    }
    top = max([40.0, *(max(x, y) for points in drawn.values() for x, y, _ in points)])
    axes = _Axes((0.0, top), (0.0, top))
    ticks = [float(q) for q in range(0, int(top) + 1, 10)]
    parts = [axes.frame("reported quality", "empirical quality", [(q, f"{q:g}") for q in ticks], ticks)]
    parts.append(axes.line((0.0, 0.0), (top, top)))
    return "".join([*parts, *(axes.dots(name, points) for name, points in drawn.items())])


def _difference(series: Mapping[str, Data], of: str, x: Callable[[Data, int], float]) -> dict[str, Any]:
    return {
        name: _points(data, of, lambda k, data=data: x(data, k), lambda reported, found: found - reported)  # type: ignore[misc]
        for name, data in series.items()
    }


def _reach(drawn: Mapping[str, Sequence[tuple[float, float, int]]]) -> float:
    return math.ceil(max([5.0, *(abs(y) for points in drawn.values() for _, y, _ in points)]) / 5.0) * 5.0


def _by_cycle(series: Mapping[str, Data]) -> str:
    drawn = _difference(series, "cycle", lambda data, k: float(data["cycle"]["value"][k]))
    longest = max([10.0, *(abs(x) for points in drawn.values() for x, _, _ in points)])
    reach = _reach(drawn)
    axes = _Axes((-longest, longest), (-reach, reach))
    ticks = [(-longest, f"\u2212{longest:g}"), (0.0, "0"), (longest, f"{longest:g}")]
    title = "cycle (second reads: negative)"
    parts = [axes.frame(title, "empirical \u2212 reported", ticks, [-reach, 0.0, reach])]
    parts.append(axes.line((-longest, 0.0), (longest, 0.0)))
    return "".join([*parts, *(axes.dots(name, points) for name, points in drawn.items())])


def _by_context(series: Mapping[str, Data]) -> str:
    names = [a + b for a in "ACGT" for b in "ACGT"]
    drawn = _difference(series, "context", lambda data, k: float(names.index(data["context"]["value"][k])))
    reach = _reach(drawn)
    axes = _Axes((-0.5, 15.5), (-reach, reach))
    ticks = [(float(k), name) for k, name in enumerate(names)]
    title = "base before and base, as sequenced"
    parts = [axes.frame(title, "empirical \u2212 reported", ticks, [-reach, 0.0, reach])]
    parts.append(axes.line((-0.5, 0.0), (15.5, 0.0)))
    return "".join([*parts, *(axes.dots(name, points) for name, points in drawn.items())])
