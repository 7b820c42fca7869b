# SPDX-License-Identifier: Apache-2.0
"""An explanation in sections of sentences and tables, and these as plain text.

In: `Explanation`. Out: `Section`s, which `explain_page.py` draws too; text for a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from megabolt.call.candidates import LONG_INDEL, MIN_READS
from megabolt.call.explained import AlleleView, Explanation, HaplotypeView, WindowView, shortened
from megabolt.call.fate import by_reason, needed, shown_alleles, verdict
from megabolt.call.known import Event
from megabolt.formats.bases import decode
from megabolt.formats.vcf import VcfRecord

#: Haplotypes shown of a window.
_HAPLOTYPES = 12
#: Genotypes of a window that are shown.
_GENOTYPES = 6
#: Sentences are folded here.
_WIDTH = 110
#: Tandem repeats of so many bases are worth a word.
_TRACT = 6


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table: names of columns, rows of texts."""

    title: str
    lines: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def sections_of(found: Explanation) -> list[Section]:
    """All that is to be said, the answer first."""
    result = [Section("Verdict", tuple(verdict(found))), _reads(found), _evidence(found)]
    if not found.mixture:
        result += _windows(found)
    return [*result, _records(found), _thresholds(found)]


def text_of(found: Explanation, sample: str) -> str:
    """The explanation as plain text, with a line end at its end."""
    parts = [headline(found, sample)]
    for section in sections_of(found):
        first, _, rest = section.title.partition(" ")
        parts += ["", f"{first.upper()} {rest}".rstrip()]
        for line in section.lines:
            parts += (
                [f"  {line}"]
                if section.title == "Records"
                else wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
            )
        if section.rows:
            parts += _table(section.head, section.rows)
    return "\n".join(parts) + "\n"


def headline(found: Explanation, sample: str) -> str:
    """chr20:10001436, reference A, sample HG002, 2 copies"""
    copies = "a mixture of genomes" if found.mixture else _plural(found.copies, "copy", "copies")
    return f"{place(found, found.site)}, reference {found.base}, sample {sample}, {copies}"


def place(found: Explanation, position: int) -> str:
    """A 0-based position as people write it."""
    return f"{found.contig}:{position + 1}"


def _plural(n: int, one: str, many: str = "") -> str:
    return f"{n} {one}" if n == 1 else f"{n} {many or one + 's'}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: columns of figures are flush right."""
    figures = [all(_is_figure(row[k]) for row in rows) for k in range(len(head))]
    widths = [max(len(head[k]), *(len(row[k]) for row in rows)) for k in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = (cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, figures))
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _is_figure(text: str) -> bool:
    return text == "" or text.lstrip("-+<").replace(".", "", 1).replace("%", "").strip().isdigit()


# --- reads ---


def _reads(found: Explanation) -> Section:
    used = [read for read in found.reads if not read.why]
    n_out = len(found.reads) - len(used)
    if not found.reads:
        return Section("Reads", ("No record overlaps the site.", *_moved(found)))
    words = f"{_plural(len(found.reads), 'record')} over the site: {len(used)} used"
    if n_out:
        words += f", {n_out} left out ({by_reason(tuple(read for read in found.reads if read.why))})"
    lines = [words + ".", *_moved(found)]
    numbered = {read.index: read for read in used}
    pairs = [(read, numbered[read.mate]) for read in used if read.mate > read.index and read.mate in numbered]
    if pairs:
        differ = sum(a.base >= 0 and b.base >= 0 and a.base != b.base for a, b in pairs)
        words = f"{_plural(len(pairs), 'pair')} of mates {'overlaps' if len(pairs) == 1 else 'overlap'} here: one"
        words += f" observation each; agreeing bases count as Q{found.options.overlap_quality} at most"
        lines.append(words + (f", {differ} disagree (Q0)." if differ else "."))
    rows = [_allele_row(found, allele) for allele in found.alleles[:1]]
    chosen = shown_alleles(found)
    rows += [_allele_row(found, allele) for allele in chosen]
    rest = len(found.alleles) - 1 - len(chosen)
    if rest > 0:
        lines.append(f"{_plural(rest, 'further allele')} of few reads.")
    short = _ends_inside(found)
    if short:
        lines.append(
            f"{_plural(short, 'read')} that {'shows' if short == 1 else 'show'} the reference here"
            f" {'ends' if short == 1 else 'end'} inside the window: seen alone, they fit other lengths as well."
        )
    none = [read for read in used if read.base < 0 and not read.indels]
    if none:
        lines.append(f"{_plural(len(none), 'usable record')} without a base there.")
    head = ("allele", "used", "forward", "reverse", "base quality", "after mates", "MAPQ", "left out")
    return Section("Reads", tuple(lines), head, tuple(rows))


def _moved(found: Explanation) -> list[str]:
    """What is to be said of records that were moved between two copies of a sequence."""
    lines = []
    for starts, which, verb in (
        (found.came_from, "of these", "were moved here from"),
        (found.went_to, "more that the file has here", "were moved to"),
    ):
        if starts:
            near = place(found, starts[len(starts) // 2])
            lines.append(
                f"{_plural(len(starts), 'record')} {which} {verb} a copy of the sequence near {near}: the person's"
                " haplotypes of both copies explain all their reads better so."
            )
    return lines


def _ends_inside(found: Explanation) -> int:
    """Reads that show the reference, but do not span the window of an indel."""
    wide = [one for one in found.windows if any(event[2] != 0 for event in one.candidates)]
    reads = found.alleles[0].used
    return sum(any(read.start > one.start or read.stop < one.stop for one in wide) for read in reads)


def _allele_row(found: Explanation, allele: AlleleView) -> tuple[str, ...]:
    reads = allele.used
    forward = sum(not read.reverse for read in reads)
    name = f"{found.base} (reference)" if allele.event is None else allele_name(found, allele.event)
    return (
        name,
        str(len(reads)),
        str(forward),
        str(len(reads) - forward),
        _spread([read.quality for read in reads]),
        _spread([read.trusted for read in reads]),
        _spread([read.mapq for read in reads]),
        by_reason(allele.left_out),
    )


def _spread(values: Sequence[int]) -> str:
    """Median and range of those that are not missing."""
    known = [value for value in values if value >= 0]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{np.median(known):.0f} ({low}-{high})"


def allele_name(found: Explanation, event: Event) -> str:
    """G, +AT, -3: what an event puts there; its position, if that is another one."""
    start, stop, kind, bases = event
    put = shortened(decode(np.frombuffer(bases, np.uint8)))
    if kind == 0:
        name, at = put, start
    else:
        name, at = (f"+{put}" if bases else f"-{_plural(stop - start, 'base')}"), start - 1
    return name if at == found.site else f"{name} at {at + 1}"


def _evidence(found: Explanation) -> Section:
    activity = found.activity
    words = f"Depth {_plural(activity.depth, 'read')}, {_plural(activity.templates, 'template')};"
    words += f" {_plural(activity.clips, 'soft clip')} within 30 bases."
    lines = [words]
    if activity.period and activity.tract >= _TRACT:
        units = activity.tract / activity.period
        unit = _plural(activity.period, "base")
        lines.append(f"Tandem repeat of the reference: {activity.tract} bases, a unit of {unit} {units:.3g} times.")
    rows = []
    for allele in shown_alleles(found):
        if allele.event is None:
            continue
        is_snp = allele.event[2] == 0
        least_share = found.options.min_snp_fraction if is_snp else found.options.min_indel_fraction
        share = f"{allele.counted / allele.depth:.1%}" if allele.depth else ""
        rows.append(
            (
                f"{allele.start + 1} {shortened(allele.ref)}>{shortened(allele.alt)}",
                str(allele.counted),
                str(allele.depth),
                share,
                f"{_plural(needed(allele), 'read')}, {least_share:.0%}",
                "from " + ", ".join(allele.sources) if allele.candidate >= 0 else "no",
                "" if found.mixture else f"1 in {10**-allele.log10_prior:,.0f}",
            )
        )
    head = ("allele", "counted", "depth", "share", "needed", "candidate", "prior")
    return Section("Evidence", tuple(lines), head, tuple(rows))


# --- windows ---


def _windows(found: Explanation) -> list[Section]:
    if found.windows:
        return [section for window in found.windows for section in _window(found, window)]
    near = [position for position in found.nearest if abs(position - found.site) <= 1000]
    words = "None: no candidate at the site, so nothing was weighed here."
    if near:
        words += f" Nearest candidates: {', '.join(str(position + 1) for position in near)}."
    return [Section("Window", (words,))]


def _window(found: Explanation, window: WindowView) -> list[Section]:
    title = f"Window {found.contig}:{window.start + 1}-{window.stop}"
    lines = [_why_so_wide(found, window)]
    if not window.decided:
        lines.append("Nothing is called in it: the genome has no copy of it." if found.copies == 0 else "Not reached.")
        return [Section(title, tuple(lines))]
    if window.isolated:
        lines.append(
            "A lone SNP without indel, tandem repeat or pile-up of clips near it: genotyped from the pileup, on the"
            " scale of the pair-HMM."
        )
        head = ("genotype", "log10 likelihood", "log10 prior", "share of the posterior")
        return [Section(title, tuple(lines)), Section("Genotypes", (), head, _genotype_rows(window, "/"))]
    if [event[2] for event in window.candidates] == [0]:
        lines.append("A lone SNP, but an indel, a tandem repeat or a pile-up of clips is near it: it needs haplotypes.")
    lines.append(
        f"{_plural(window.over, 'read')} touch it"
        + (f", of which {window.listed} were taken (a fixed sample of the templates)" * (window.listed < window.over))
        + f"; {window.scored} have enough bases in {window.read_start + 1}-{window.read_stop}, to which they are cut:"
        f" {_plural(window.templates, 'template')}."
    )
    return [Section(title, tuple(lines)), *_haplotypes(found, window)]


def _why_so_wide(found: Explanation, window: WindowView) -> str:
    options = found.options
    n = len(window.candidates)
    words = _plural(n, "candidate") + f" no further than {options.window_gap} bases apart" * (n > 1)
    if any(event[2] != 0 for event in window.candidates):
        words += ", with the stretch over which " + ("the indel could stand" if n == 1 else "each indel could stand")
    widened = max(window.start - window.read_start, window.read_stop - window.stop) - options.pad
    if widened > 0:
        words += f"; {widened} bases of pad more than {options.pad}, so that its edges are outside tandem repeats"
    return words + f". {window.stop - window.start} bases."


def _haplotypes(found: Explanation, window: WindowView) -> list[Section]:
    numbered = list(enumerate(window.haplotypes))
    if not numbered:
        return [Section("Haplotypes", ("None were made: an N of the reference, no reads, or too long.",))]
    if not window.genotypes:
        return [Section("Haplotypes", ("None but the reference, or no read with enough bases: not scored.",))]
    order = sorted(numbered, key=lambda one: (one[0] != 0, not one[1].combined, -one[1].copies, -one[1].log10))
    rows = tuple(_haplotype_row(found, number, one) for number, one in order[:_HAPLOTYPES])
    n = sum(one.combined for one in window.haplotypes)
    lines = [f"{len(numbered)} tried, {n} combined to genotypes. Favoured: templates that fit it clearly better."]
    if len(order) > _HAPLOTYPES:
        lines.append(f"{len(order) - _HAPLOTYPES} less likely ones are not shown.")
    head = ("haplotype", "differences", "from", "spanning reads", "favoured", "log10 likelihood", "copies")
    genotypes = Section(
        "Genotypes",
        ("Of haplotypes; likelihoods relative to the best one.",),
        ("haplotypes", "log10 likelihood", "log10 prior", "share of the posterior"),
        _genotype_rows(window, " + "),
    )
    return [Section("Haplotypes", tuple(lines), head, rows), genotypes]


def _haplotype_row(found: Explanation, number: int, one: HaplotypeView) -> tuple[str, ...]:
    names = [found.names[event] for event in one.events]
    shown = ", ".join(names[:6]) + f", .. {len(names)} in all" * (len(names) > 6)
    return (
        f"h{number}",
        shown or "none: the reference",
        ", ".join(one.sources),
        str(one.spanning),
        str(one.favoured) if one.combined else "",
        f"{one.log10:.1f}" if one.combined else "",
        str(one.copies) if one.copies else "",
    )


def _genotype_rows(window: WindowView, between: str) -> tuple[tuple[str, ...], ...]:
    mark = "" if between == "/" else "h"
    return tuple(
        (
            between.join(f"{mark}{copy}" for copy in one.copies),
            f"{one.log10_likelihood:.2f}",
            f"{one.log10_prior:.2f}",
            f"{one.share:.4%}",
        )
        for one in window.genotypes[:_GENOTYPES]
        if one.share > 1e-12 or one is window.genotypes[0] or one is window.genotypes[1]
    )


# --- records, thresholds ---


def _records(found: Explanation) -> Section:
    near = [record for record in found.records if record.start <= found.site < max(record.stop, record.start + 1)]
    held = [a.record for a in found.alleles if a.record is not None and a.written and a.record not in near]
    written: list[VcfRecord] = list(near)
    for record in held:
        if record not in written:
            written.append(record)
    tried = []
    for allele in found.alleles:
        if allele.record is not None and not allele.written and allele.record not in tried:
            tried.append(allele.record)
    lines = [_line(record) for record in written] or ["No record holds the site."]
    lines += [f"had it been asked for: {_line(record)}" for record in tried]
    return Section("Records", tuple(lines))


def _line(record: VcfRecord) -> str:
    return record.line().rstrip("\n").replace("\t", "  ")


def _thresholds(found: Explanation) -> Section:
    options, limits = found.options, found.options.thresholds
    return Section(
        "Thresholds",
        (
            f"Reads: MAPQ {options.min_mapq}, no duplicates, secondary, supplementary or failed ones;"
            f" bases count up to Q{options.overlap_quality} where mates overlap; at most {options.max_reads} a window.",
            f"Candidates: {MIN_READS} reads with base quality {options.min_base_quality}, one for indels of"
            f" {LONG_INDEL} and more bases; {options.min_snp_fraction:.0%} (SNP),"
            f" {options.min_indel_fraction:.0%} (indel) of the depth.",
            f"Calls: QUAL {options.min_qual:g} to be written; LowQual below {limits.low_qual:g}, LowDepth below"
            f" {limits.low_depth} templates, StrandBias above FS {limits.snp_strand:g} (SNP),"
            f" {limits.indel_strand:g} (indel).",
        ),
    )
