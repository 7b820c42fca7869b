# SPDX-License-Identifier: Apache-2.0
"""Explain a site: the chunk that holds it is called as `call` does it, with a trace.

In: plain arguments. Out: `Explanation`, the sample's name; a page, if one is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megabolt.align.engine import PairAligner
from megabolt.align.index import open_index
from megabolt.call.engine import CallOptions, call_chunk
from megabolt.call.explain import decided_before, explain
from megabolt.call.explained import Explanation
from megabolt.call.known import Event, event_of
from megabolt.call.sex import is_x, is_y
from megabolt.call.trace import Trace
from megabolt.compute.backend import Backend
from megabolt.errors import UsageError
from megabolt.formats.bam import check_contigs, open_reads
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import decode
from megabolt.formats.fasta import Contig, Reference
from megabolt.formats.output import atomic_output
from megabolt.paralogs.settle import Moves
from megabolt.privacy.consent import GERMLINE_CALLING, authorize
from megabolt.reads.bins import HALO
from megabolt.workflow.call_job import CHUNK_BASES, Chunk, moves_in
from megabolt.workflow.call_request import DEFAULT_REQUEST, CallRequest
from megabolt.workflow.copies import FILE_WINDOW_BASES, FILE_WINDOWS, counts_of_file, resolve
from megabolt.workflow.explain_page import page_of
from megabolt.workflow.file_chunks import FileChunks
from megabolt.workflow.germline import sample_of
from megabolt.workflow.indel_learning import learn_indel_errors

#: Threads that read what the library's indel errors are learnt from.
_THREADS = 2
#: Windows that come so near the site are called: those of alleles left-aligned within it, and its neighbours.
_AROUND = 1200
_SITE = re.compile(r"(?P<contig>.+):(?P<position>[0-9][0-9,]*)\Z")
_ALLELE = re.compile(r"(?P<ref>[ACGTNacgtn]+)>(?P<alt>[ACGTacgt]+)\Z")


@dataclass(frozen=True)
class SiteQuestion:
    """A place and, if one is meant, an allele there. position: 0-based."""

    contig: str
    position: int
    ref: str = ""
    alt: str = ""


def read_question(site: str, allele: str | None = None) -> SiteQuestion:
    """A question from chr:position (1-based) and REF>ALT.

    Raises
    ------
    UsageError
        Another form.
    """
    place = _SITE.match(site)
    if place is None or int(place["position"].replace(",", "")) < 1:
        raise UsageError(f"--site {site}: not a place", "Write chr:position, as chr20:10001436; the first base is 1.")
    start = int(place["position"].replace(",", "")) - 1
    if allele is None:
        return SiteQuestion(place["contig"], start)
    change = _ALLELE.match(allele)
    if change is None or change["ref"].upper() == change["alt"].upper():
        raise UsageError(f"--allele {allele}: not an allele", "Write REF>ALT in quotes, as 'A>G' or 'CAT>C'.")
    return SiteQuestion(place["contig"], start, change["ref"].upper(), change["alt"].upper())


def run_explain(
    *,
    reference: Path,
    bam: Path,
    question: SiteQuestion,
    page: Path | None = None,
    flank: int = 60,
    request: CallRequest = DEFAULT_REQUEST,
    open_data: str | None = None,
    audit_log: Path | None = None,
    backend: Backend = Backend.NUMBA,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Explanation, str]:
    """What `call` does at a site of a sorted, duplicate-marked, indexed BAM or CRAM, and the sample's name.

    Parameters
    ----------
    page
        HTML to write.
    flank
        Bases drawn on both sides.
    say
        Told how many copies of X and Y there are, where that matters.

    Raises
    ------
    UsageError
        A place outside the reference, or an allele that is not one there.
    InputFormatError
        Another reference's BAM, or one of several samples.
    """
    permit = authorize(bam.stem, GERMLINE_CALLING, open_data=open_data, audit_log=audit_log)
    genome = open_index(reference, for_lookup=True)
    contig = _contig_of(question, genome.contigs)
    asked = _asked(question, genome, contig)
    with open_reads(bam, permit, reference=reference) as reader:
        check_contigs(reader.header, genome.contigs, bam)
        sample = sample_of(reader.header, bam)
        if not (is_x(question.contig) or is_y(question.contig)):
            request = replace(request, sex="female")  # of no matter here: no reads are counted for it
        resolved = resolve(
            request, CallOptions(backend=backend), genome, counts_of_file(reader.fetch), targets=None,
            windows=FILE_WINDOWS, bases=FILE_WINDOW_BASES,
        )  # fmt: skip
        if is_x(question.contig) or is_y(question.contig):
            for note in resolved.notes:
                say(note)
        options = learn_indel_errors(
            resolved.options, genome, FileChunks(reader.fetch, budget=0).look, threads=_THREADS
        )
        trace, block, moves = _called(reader.fetch, genome, contig, question.position, options, PairAligner(genome))
    found = explain(trace, block, genome, contig, question.position, asked=asked, flank=flank)
    found = replace(
        found,
        came_from=_places_of(moves.was, moves.now, question.position),
        went_to=_places_of(moves.now, moves.was, question.position),
    )
    if page is not None:
        permit.record("open-write", page, format="html")
        with atomic_output(page) as temporary:
            temporary.write_text(page_of(found, sample), encoding="utf-8")
    return found, sample


def _places_of(wanted: NDArray[np.int64], over: NDArray[np.int64], site: int) -> tuple[int, ...]:
    """Starts of one of two spans of records, where the other one holds the site."""
    holds = (over[:, 0] <= site) & (site < over[:, 1])
    return tuple(np.sort(wanted[holds, 0]).tolist())


def _called(
    fetch: Callable[[int, int, int], RecordBlock],
    genome: Reference,
    contig: int,
    site: int,
    options: CallOptions,
    aligner: PairAligner | None,
) -> tuple[Trace, RecordBlock, Moves]:
    """The trace of the chunk that decides about a site, its records, and which of them were moved."""
    length = genome.contigs[contig].length
    near = np.array([[max(0, site - _AROUND), min(length, site + _AROUND)]], np.int64)
    regions = tuple(near if k == contig else near[:0] for k in range(len(genome.contigs)))
    start = site // CHUNK_BASES * CHUNK_BASES
    while True:
        stop = min(start + CHUNK_BASES, length)
        block = fetch(contig, max(0, start - HALO), stop + HALO)
        moves = moves_in([block].__iter__, Chunk(contig, start, stop), genome, options, aligner)
        block = moves.applied(block)
        trace = Trace()
        call_chunk(block, genome, contig, start, stop, replace(options, regions=regions), trace=trace)
        if start == 0 or not decided_before(trace, site):
            return trace, block, moves
        start -= CHUNK_BASES


def _contig_of(question: SiteQuestion, contigs: Sequence[Contig]) -> int:
    text = f"{question.contig}:{question.position + 1}"
    for k, contig in enumerate(contigs):
        if contig.name == question.contig:
            if question.position >= contig.length:
                why = f"--site {text}: {contig.name} has the places 1 to {contig.length}"
                raise UsageError(why, "Name a place inside it.")
            return k
    names = ", ".join(contig.name for contig in contigs[:4]) + ", .." * (len(contigs) > 4)
    raise UsageError(f"--site {text}: the reference has no contig {question.contig}", f"It has {names}.")


def _asked(question: SiteQuestion, genome: Reference, contig: int) -> list[Event]:
    """The allele in question as the caller knows it; several SNPs for one that replaces as many bases."""
    ref, alt, start = question.ref, question.alt, question.position
    if not ref:
        return []
    there = decode(genome.fetch(contig, start, start + len(ref)))
    if there != ref:
        raise UsageError(
            f"--allele {ref}>{alt}: the reference has {there[:40]} at {question.contig}:{start + 1}",
            "Give REF as the reference has it.",
        )
    parts = [(start, ref, alt)]
    if len(ref) == len(alt) > 1:
        parts = [(start + i, a, b) for i, (a, b) in enumerate(zip(ref, alt)) if a != b]
    events = [event_of(genome, contig, *part) for part in parts]
    if None in events:
        raise UsageError(
            f"--allele {ref[:40]}>{alt[:40]}: neither SNPs nor a plain insertion or deletion of up to 200 bases",
            "Ask for each of its parts.",
        )
    return [event for event in events if event is not None]
