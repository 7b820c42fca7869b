# SPDX-License-Identifier: Apache-2.0
"""Why a site is called as it is: what the caller had and did there, step by step.

In: a `Trace` that `engine.call_chunk` has filled, the records it was given. Out: `Explanation`. Next: `fate.py` says
which step decided, `workflow/explain_text.py` and `workflow/explain_page.py` show it.

Nothing is decided here. What the caller left behind is looked up; records of alleles that it did not write are made by
its own code, which is asked for them as for known alleles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from megabolt.call.emit import pileup_records, window_records
from megabolt.call.evidence import INSERTION, SNP
from megabolt.call.explain_windows import event_of_candidate, window_view
from megabolt.call.explained import Activity, AlleleView, Explanation, WindowView, shortened
from megabolt.call.known import Event, event_of
from megabolt.call.mixture import mixture_records
from megabolt.call.site_reads import SiteRead, allele_text, reach, read_site
from megabolt.call.trace import Trace
from megabolt.errors import InternalError
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import decode
from megabolt.formats.fasta import Reference
from megabolt.formats.vcf import VcfRecord

if TYPE_CHECKING:
    from megabolt.call.engine import _Chunk


def decided_before(trace: Trace, site: int) -> bool:
    """Whether a window over the site begins before the chunk: then the chunk before decides about it."""
    chunk = _chunk_of(trace)
    here = site - chunk.origin
    over = (chunk.windows.start <= here) & (chunk.windows.stop > here)
    return bool((chunk.windows.start[over] + chunk.origin < chunk.start).any())


def explain(
    trace: Trace,
    block: RecordBlock,
    reference: Reference,
    contig: int,
    site: int,
    *,
    asked: Sequence[Event] = (),
    flank: int = 60,
) -> Explanation:
    """What the caller did at a site.

    Parameters
    ----------
    trace
        Filled by `call_chunk`, which was given `block` and a chunk that holds the site, or the one before it
        (`decided_before`).
    site
        0-based position in the contig.
    asked
        Alleles to follow whether or not reads show them (`known.event_of`), contig coordinates.
    flank
        Bases shown on both sides.
    """
    chunk, options = _chunk_of(trace), trace.options
    if options is None:
        raise InternalError("a trace without options")
    length = reference.contigs[contig].length
    reads = tuple(read_site(block, chunk, options, length, site))
    here = site - chunk.origin
    numbers = np.flatnonzero((chunk.windows.start <= here) & (chunk.windows.stop > here)).tolist()
    for event in asked:
        numbers += [w for w in _windows_of(chunk, _number_of(chunk, event)) if w not in numbers]
    windows = tuple(window_view(trace, chunk, w) for w in numbers)
    copies = -1 if contig in options.mixture else int(options.ploidy.at(contig, np.array([site]))[0])
    low, high = max(0, site - flank), min(length, site + flank + 1)
    touched = [r for r in trace.records if r.start < high and r.stop > low]
    return Explanation(
        contig=reference.contigs[contig].name,
        site=site,
        base=decode(chunk.ref[here : here + 1]),
        copies=copies,
        options=options,
        activity=_activity(chunk, here),
        reads=reads,
        alleles=tuple(_alleles(trace, chunk, reference, reads, windows, asked, site)),
        asked=tuple(asked),
        windows=windows,
        records=tuple(touched),
        nearest=_nearest(chunk, here),
        names={event: _name(event, chunk) for window in windows for event in window.candidates},
        view_start=low,
        view=decode(reference.fetch(contig, low, high)),
    )


def _chunk_of(trace: Trace) -> _Chunk:
    if trace.chunk is None:
        raise InternalError("a trace that was not filled")
    return trace.chunk


def _activity(chunk: _Chunk, here: int) -> Activity:
    evidence = chunk.evidence
    near = slice(max(0, here - 30), here + 31)
    # an indel's record begins one base before what it changes
    at = here if here + 1 >= chunk.n_ref or chunk.tract[here] >= chunk.tract[here + 1] else here + 1
    return Activity(
        int(evidence.depth[here]), int(evidence.fragments[here]), int(evidence.clips[near].sum()),
        int(chunk.tract[at]), int(chunk.period[at]),
    )  # fmt: skip


def _nearest(chunk: _Chunk, here: int) -> tuple[int, ...]:
    """Contig positions of the nearest candidate before and after the site."""
    starts = np.unique(chunk.candidates.start)
    k = int(np.searchsorted(starts, here))
    return tuple(int(p) + chunk.origin for p in starts[max(0, k - 1) : k + 1])


def _name(event: Event, chunk: _Chunk) -> str:
    start, ref, alt = allele_text(event, chunk)
    return f"{start + 1} {shortened(ref)}>{shortened(alt)}"


# --- alleles ---


def _number_of(chunk: _Chunk, event: Event) -> int:
    """Number of the candidate that is this event, -1 for none."""
    starts = chunk.candidates.start
    first, last = np.searchsorted(starts, [event[0] - chunk.origin, event[0] - chunk.origin + 1]).tolist()
    return next((c for c in range(first, last) if event_of_candidate(chunk, c) == event), -1)


def _windows_of(chunk: _Chunk, candidate: int) -> list[int]:
    """The window that holds a candidate."""
    at = np.flatnonzero(chunk.windows.candidate == candidate)
    return (np.searchsorted(chunk.windows.candidate_offset, at, side="right") - 1).tolist()  # type: ignore[no-any-return]


def _shown(read: SiteRead, chunk: _Chunk, site: int) -> set[Event | None]:
    """Alleles that a read shows at the site; None is the reference."""
    shown: set[Event | None] = {_pooled(event, read, chunk) for event in read.indels}
    ref = int(chunk.ref[site - chunk.origin])
    if 0 <= read.base < 4 and read.base != ref:
        shown.add((site, site + 1, SNP, bytes([read.base])))
    if not shown and read.base >= 0 and read.base == ref:
        shown.add(None)
    return shown


def _pooled(event: Event, read: SiteRead, chunk: _Chunk) -> Event:
    """The candidate that the caller counts a read's insertion for: one of the same place and length."""
    if event[2] != INSERTION or read.index < 0:
        return event
    candidates = chunk.candidates
    first, last = np.searchsorted(candidates.start, [event[0] - chunk.origin, event[0] - chunk.origin + 1]).tolist()
    for c in range(first, last):
        of_reads = candidates.read[candidates.read_offset[c] : candidates.read_offset[c + 1]]
        if candidates.kind[c] == INSERTION and candidates.length[c] == len(event[3]) and read.index in of_reads:
            return event_of_candidate(chunk, c)
    return event


def _alleles(
    trace: Trace,
    chunk: _Chunk,
    reference: Reference,
    reads: Sequence[SiteRead],
    windows: Sequence[WindowView],
    asked: Sequence[Event],
    site: int,
) -> Iterable[AlleleView]:
    """The reference, then alleles by the reads that show them."""
    shown: dict[Event | None, list[SiteRead]] = {None: []}
    for read in reads:
        for key in _shown(read, chunk, site):
            shown.setdefault(key, []).append(read)
    for event in asked:
        shown.setdefault(event, [])
    for window in windows:
        for event in window.candidates:
            low, high = reach(event, chunk)
            if low <= site < high:
                shown.setdefault(event, [])
    base = decode(chunk.ref[site - chunk.origin : site - chunk.origin + 1])
    order = sorted(
        (event for event in shown if event is not None),
        key=lambda event: (-sum(not r.why for r in shown[event]), -len(shown[event]), event),
    )
    yield AlleleView(None, site, base, base, *_parted(shown[None]))
    for event in order:
        yield _allele(trace, chunk, reference, event, shown[event])


def _parted(reads: Sequence[SiteRead]) -> tuple[tuple[SiteRead, ...], tuple[SiteRead, ...]]:
    return tuple(r for r in reads if not r.why), tuple(r for r in reads if r.why)


def _allele(trace: Trace, chunk: _Chunk, reference: Reference, event: Event, reads: Sequence[SiteRead]) -> AlleleView:
    c = _number_of(chunk, event)
    start, ref, alt = allele_text(event, chunk)
    counted, depth = _counted(chunk, event)
    window = next(iter(_windows_of(chunk, c)), -1) if c >= 0 else -1
    view = AlleleView(
        event, start, ref, alt, *_parted(reads), counted=counted, depth=depth, candidate=c,
        sources=_sources(chunk, c) if c >= 0 else (), window=window, log10_prior=_prior(trace, c, event),
        reach=reach(event, chunk),
    )  # fmt: skip
    if c < 0:
        return view
    for written, records in ((True, trace.records), (False, _asked_for(trace, chunk, c, window))):
        for record in records:
            for number, one in enumerate(record.alts, 1):
                if event_of(reference, chunk.contig, record.start, record.ref, one) == event:
                    return replace(view, record=record, written=written, allele=number)
    return view


def _counted(chunk: _Chunk, event: Event) -> tuple[int, int]:
    """Reads that the caller counts for an event, and the depth it compares them with."""
    evidence, p = chunk.evidence, event[0] - chunk.origin
    depth = int(evidence.depth[p])
    if event[2] == SNP:
        return int(evidence.snp_count[4 * p + event[3][0]]), depth
    size = len(event[3]) or event[1] - event[0]
    rows = evidence.indels
    return int(((rows[:, 0] == p) & (rows[:, 1] == event[2]) & (rows[:, 2] == size)).sum()), depth


def _sources(chunk: _Chunk, c: int) -> tuple[str, ...]:
    assembled = chunk.together[: len(chunk.together) - len(chunk.forced)]
    found = []
    if chunk.candidates.read_offset[c + 1] > chunk.candidates.read_offset[c]:
        found.append("reads")
    if any(c in one for one in assembled):
        found.append("assembly")
    if c in chunk.forced:
        found.append("known")
    return tuple(found)


def _prior(trace: Trace, c: int, event: Event) -> float:
    """log10 P(a copy of the genome has the event)."""
    if trace.chunk is None or trace.options is None:
        return 0.0
    if c >= 0:
        return float(trace.chunk.priors.event[c])
    return math.log10(trace.options.snp_prior if event[2] == SNP else trace.options.indel_prior)


def _asked_for(trace: Trace, chunk: _Chunk, c: int, window: int) -> list[VcfRecord]:
    """Records as the caller makes them if candidate `c` is to be written in any case."""
    if trace.options is not None and trace.context is not None and chunk.contig in trace.options.mixture:
        return mixture_records(
            chunk.candidates, chunk.reads, chunk.tract, replace(trace.context, forced=frozenset([c]))
        )
    for pileup in trace.pileups:
        if window in pileup.which:
            return pileup_records(pileup.snps, chunk.candidates, replace(pileup.context, forced=frozenset([c])))
    for scored in trace.scored:
        for k in np.flatnonzero(scored.which == window).tolist():
            return window_records(
                k, window, chunk.windows, chunk.candidates, scored.haplotypes, scored.genotypes,
                replace(scored.context, forced=frozenset([c])),
            )  # fmt: skip
    return []
