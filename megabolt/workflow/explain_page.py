# SPDX-License-Identifier: Apache-2.0
"""An explanation as one HTML page that needs nothing but itself: reads drawn base by base, haplotypes, tables.

In: `Explanation`. Out: the text of the page. Drawings are inline SVG; there is no script and nothing is loaded.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megabolt import __version__
from megabolt.call.explained import Explanation, HaplotypeView, WindowView
from megabolt.call.site_reads import SiteRead
from megabolt.formats.bases import decode
from megabolt.workflow.explain_text import Section, headline, sections_of

#: Reads drawn at most, used ones first.
MAX_READS = 250
_COLUMN, _ROW, _MARGIN = 9, 11, 10
_COLOURS = {"A": "#2e9e4f", "C": "#2f6fc4", "G": "#c98a12", "T": "#c8372d", "N": "#888888"}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1c2430; }
h1 { margin-bottom: 0; font-size: 1.5rem; } h2 { margin: 1.8rem 0 .4rem; border-bottom: 1px solid #cfd6df;
font-size: 1.1rem; } p { margin: .3rem 0; } .verdict { font-size: 1.08rem; } .quiet { color: #56606d; }
table { border-collapse: collapse; margin: .5rem 0 1rem; } th, td { padding: .15rem 1.2rem .15rem 0; text-align: left; }
tbody tr:nth-child(odd) { background: #f4f6f9; } .mono { font-family: ui-monospace, monospace; font-size: .85rem; }
.wide { overflow-x: auto; } svg { font: 9px ui-monospace, monospace; }
"""


@dataclass(frozen=True)
class _Canvas:
    """Columns of bases: x of a contig position within the view."""

    start: int
    n: int

    def x(self, position: int) -> int:
        return _MARGIN + (position - self.start) * _COLUMN

    @property
    def width(self) -> int:
        return 2 * _MARGIN + self.n * _COLUMN


def page_of(found: Explanation, sample: str) -> str:
    """The page."""
    title = html.escape(headline(found, sample))
    sections = sections_of(found)
    body = [f"<h1>{title}</h1>", *(_section(one) for one in sections[:1])]
    body.append(f'<h2>Drawing</h2><div class="wide">{_drawing(found)}</div>{_legend(found)}')
    body += [_section(one) for one in sections[1:]]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + f'\n<p class="quiet">megabolt {__version__}, '
        "the caller's own work at this site. Research use.</p>\n</body></html>\n"
    )


def _section(section: Section) -> str:
    kind = {"Verdict": "verdict", "Records": "mono"}.get(section.title, "")
    lines = "".join(f'<p class="{kind}">{html.escape(line)}</p>' for line in section.lines)
    return f"<h2>{html.escape(section.title)}</h2>{lines}{_table(section)}"


def _table(section: Section) -> str:
    if not section.rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in section.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in section.rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def _legend(found: Explanation) -> str:
    letters = " ".join(f'<b style="color:{_COLOURS[base]}">{base}</b>' for base in "ACGT")
    words = (
        f"Mismatches: {letters}, paler where the base quality is low. Purple: bases inserted before a column; lines:"
        " deleted. Blue-grey reads lie forward, brown ones reverse; hollow ones were left out (point at a read for its"
        " name and the reason). Yellow: the site; blue: its window."
    )
    cut = f" {MAX_READS} of {len(found.reads)} records are drawn." if len(found.reads) > MAX_READS else ""
    return f'<p class="quiet">{words}{cut}</p>'


# --- the drawing ---


def _drawing(found: Explanation) -> str:
    canvas = _Canvas(found.view_start, len(found.view))
    parts, y = [], _MARGIN + _ROW
    parts.append(_ruler(found, canvas, y))
    y += 2 * _ROW
    parts.append(_letters(found.view, canvas.x(found.view_start), y, colour="#1c2430"))
    y += _ROW // 2
    for window in found.windows[:1]:
        for number, haplotype in _shown_haplotypes(window):
            y += _ROW + 2
            parts.append(_haplotype(found, window, number, haplotype, canvas, y))
    y += _ROW
    for group in _groups(found):
        for read in group:
            parts.append(_read(found, read, canvas, y))
            y += _ROW
        y += _ROW // 2
    height = y + _MARGIN
    behind = "".join(
        _box(canvas, one.start, one.stop, height, "#dfeaf8", "its window") for one in found.windows[:1]
    ) + _box(canvas, found.site, found.site + 1, height, "#fff3a8", "the site")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{canvas.width}" height="{height}"'
        f' viewBox="0 0 {canvas.width} {height}" role="img" aria-label="reads over the site">'
        + behind
        + "".join(parts)
        + "</svg>"
    )


def _box(canvas: _Canvas, start: int, stop: int, height: int, colour: str, name: str) -> str:
    low, high = max(start, canvas.start), min(stop, canvas.start + canvas.n)
    if low >= high:
        return ""
    width = (high - low) * _COLUMN
    place = f'x="{canvas.x(low)}" y="0" width="{width}" height="{height}"'
    return f'<rect {place} fill="{colour}"><title>{name}</title></rect>'


def _ruler(found: Explanation, canvas: _Canvas, y: int) -> str:
    marks = []
    for position in range(canvas.start, canvas.start + canvas.n):
        if (position + 1) % 20 == 0:
            x = canvas.x(position) + _COLUMN // 2
            marks.append(f'<text x="{x}" y="{y}" text-anchor="middle" fill="#56606d">{position + 1}</text>')
            marks.append(f'<line x1="{x}" x2="{x}" y1="{y + 2}" y2="{y + 6}" stroke="#56606d"/>')
    return "".join(marks)


def _letters(text: str, x: int, y: int, colour: str) -> str:
    return "".join(
        f'<text x="{x + i * _COLUMN + _COLUMN // 2}" y="{y}" text-anchor="middle" fill="{colour}">{letter}</text>'
        for i, letter in enumerate(text)
    )


def _shown_haplotypes(window: WindowView) -> list[tuple[int, HaplotypeView]]:
    """Those of the best genotype, and the reference."""
    return [(h, one) for h, one in enumerate(window.haplotypes) if h == 0 or one.copies][:6]


def _haplotype(found: Explanation, window: WindowView, number: int, one: HaplotypeView, canvas: _Canvas, y: int) -> str:
    """A lane with the differences from the reference."""
    low, high = max(window.read_start, canvas.start), min(window.read_stop, canvas.start + canvas.n)
    names = ", ".join(found.names[event] for event in one.events) or "reference"
    copies = f", {one.copies} in the best genotype" if one.copies else ""
    parts = [
        f"<title>h{number}: {html.escape(names)}{copies}</title>",
        f'<rect x="{canvas.x(low)}" y="{y - 6}" width="{max(0, high - low) * _COLUMN}" height="5" fill="#5d6b7e"/>',
        f'<text x="{canvas.x(low) - 2}" y="{y}" text-anchor="end" fill="#1c2430">h{number}</text>',
    ]
    for start, stop, kind, bases in one.events:
        if kind == 0 and canvas.start <= start < canvas.start + canvas.n:
            parts.append(_base(decode(np.frombuffer(bases, np.uint8)), canvas.x(start), y, 60))
        elif kind == 2:
            parts.append(_gap(canvas, start, stop, y, "#1c2430"))
        elif kind == 1:
            parts.append(_insertion(canvas, start, len(bases), y))
    return f"<g>{''.join(parts)}</g>"


def _groups(found: Explanation) -> Iterator[list[SiteRead]]:
    """Reads by allele, the reference's last, then those that are left out; `MAX_READS` of them in all."""
    order = dict.fromkeys(found.reads, -1)
    for number, allele in enumerate(found.alleles):
        for read in (*allele.used, *allele.left_out):
            if order[read] < 0 or allele.event is None:
                order[read] = number or len(found.alleles)
    last = len(found.alleles) + 1

    def group(read: SiteRead) -> tuple[bool, int]:
        return bool(read.why), order[read] if order[read] > 0 else last

    ordered = sorted(found.reads, key=lambda read: (*group(read), read.start, read.name))
    for _, members in itertools.groupby(ordered[:MAX_READS], key=group):
        yield list(members)


def _read(found: Explanation, read: SiteRead, canvas: _Canvas, y: int) -> str:
    colour = "#c9a287" if read.reverse else "#9fb2c8"
    style = f'fill="none" stroke="{colour}"' if read.why else f'fill="{colour}" fill-opacity="0.75"'
    state = f"left out: {read.why}" if read.why else "used"
    strand = "reverse" if read.reverse else "forward"
    quality = f", base quality {read.quality}" if read.quality >= 0 else ""
    parts = [f"<title>{html.escape(read.name)}: {strand}, MAPQ {read.mapq}{quality}, {state}</title>"]
    marks: list[str] = []
    p, q = read.start, 0
    for op, n in read.cigar:
        if op in (0, 7, 8):
            low, high = max(p, canvas.start), min(p + n, canvas.start + canvas.n)
            if low < high:
                size = (high - low) * _COLUMN
                parts.append(f'<rect x="{canvas.x(low)}" y="{y}" width="{size}" height="{_ROW - 3}" {style}/>')
                marks += _mismatches(found, read, canvas, low, high, q + low - p, y)
            p, q = p + n, q + n
        elif op == 1:
            marks.append(_insertion(canvas, p, n, y + _ROW - 3))
            q += n
        elif op in (2, 3):
            parts.append(_gap(canvas, p, p + n, y + _ROW - 3, "#56606d"))
            p += n
        elif op == 4:
            q += n
    return f"<g>{''.join(parts + marks)}</g>"


def _mismatches(
    found: Explanation, read: SiteRead, canvas: _Canvas, low: int, high: int, query: int, y: int
) -> list[str]:
    marks = []
    text = decode(read.bases[query : query + high - low])
    for i, base in enumerate(text):
        if base != found.view[low + i - found.view_start]:
            marks.append(_base(base, canvas.x(low + i), y + _ROW - 3, int(read.qualities[query + i])))
    return marks


def _base(base: str, x: int, y: int, quality: int) -> str:
    opacity = max(0.2, min(1.0, quality / 30))
    letter = "#ffffff" if opacity > 0.6 else "#1c2430"
    return (
        f'<rect x="{x}" y="{y - _ROW + 3}" width="{_COLUMN}" height="{_ROW - 3}" fill="{_COLOURS[base]}"'
        f' fill-opacity="{opacity:.2f}"/>'
        f'<text x="{x + _COLUMN // 2}" y="{y}" text-anchor="middle" fill="{letter}">{base}</text>'
    )


def _gap(canvas: _Canvas, start: int, stop: int, y: int, colour: str) -> str:
    low, high = max(start, canvas.start), min(stop, canvas.start + canvas.n)
    if low >= high:
        return ""
    middle = y - (_ROW - 3) // 2
    return (
        f'<rect x="{canvas.x(low)}" y="{y - _ROW + 3}" width="{(high - low) * _COLUMN}" height="{_ROW - 3}"'
        f' fill="#ffffff"/><line x1="{canvas.x(low)}" x2="{canvas.x(high)}" y1="{middle}" y2="{middle}"'
        f' stroke="{colour}" stroke-width="2"/>'
    )


def _insertion(canvas: _Canvas, position: int, n: int, y: int) -> str:
    if not canvas.start <= position < canvas.start + canvas.n:
        return ""
    x = canvas.x(position)
    return (
        f'<rect x="{x - 1}" y="{y - _ROW + 2}" width="2" height="{_ROW - 1}" fill="#7a3db8"/>'
        f'<text x="{x + 2}" y="{y}" fill="#7a3db8">{n}<title>{n} bases inserted</title></text>'
    )
