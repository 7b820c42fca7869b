# SPDX-License-Identifier: Apache-2.0
"""What the caller is asked for beyond its thresholds: where, which alleles, how many copies of the genome.

In: plain arguments (`CallRequest`), contigs, reads that begin in places of the genome. Out: `CallOptions`, and words
for log, header and metrics.

The sex is inferred from reads with MAPQ 20 or more that begin in evenly spaced windows of the autosomes, of X and of Y
outside the PAR, whatever the targets are; where there are too few reads, from those in the targets of such windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from megabolt.call.engine import CallOptions
from megabolt.call.known import KnownIds, read_alleles
from megabolt.call.sex import (
    Coverage,
    SexCopies,
    copies_of,
    has_sex_chromosomes,
    infer_copies,
    is_autosome,
    is_x,
    is_y,
    par_of,
    ploidy_of,
)
from megabolt.errors import UsageError
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import N
from megabolt.formats.bed import read_bed
from megabolt.formats.fasta import Contig, Reference
from megabolt.reads.bins import BIN_BASES, BinStore
from megabolt.workflow.call_request import MITO_NAMES, CallRequest

#: Counts the reads that begin in intervals (int64 [n, 2]) of a contig.
ReadCounter = Callable[[int, NDArray[np.int64]], int]
Places = tuple[NDArray[np.int64], ...]

#: Windows looked at per class (autosomes, X, Y), and their bases: of a file, and of bins.
FILE_WINDOWS, FILE_WINDOW_BASES = 60, 10_000
BIN_WINDOWS = 8
_MIN_MAPQ = 20
_UNUSABLE = 0xF04  # unmapped, secondary, failed, duplicate, supplementary
_REGION = re.compile(r"(?P<contig>.+?)(?::(?P<start>[0-9,]+)(?:-(?P<stop>[0-9,]+))?)?\Z")


@dataclass(frozen=True)
class ResolvedRequest:
    """A request with its files read.

    notes: for the log and the header. section: for the metrics.
    """

    options: CallOptions
    ids: KnownIds | None
    notes: tuple[str, ...]
    section: dict[str, object] = field(default_factory=dict)


def resolve(
    request: CallRequest,
    options: CallOptions,
    reference: Reference,
    count: ReadCounter,
    *,
    targets: Places | None,
    windows: int,
    bases: int,
) -> ResolvedRequest:
    """Options of the caller for a request.

    Parameters
    ----------
    count
        Counts reads, to infer the sex.
    targets
        Without padding.
    windows, bases
        How many windows of each class are counted, and their size.
    """
    contigs, notes = reference.contigs, []
    mixture = _mixture_contigs(request, contigs)
    par = read_bed(request.par, contigs) if request.par is not None else par_of(contigs)
    copies: SexCopies | None = None
    if has_sex_chromosomes(contigs):
        copies = _copies(request, reference, targets, par, count, windows, bases)
        notes.append(_say_copies(copies, par))
    if mixture:
        named = ", ".join(contigs[k].name for k in sorted(mixture))
        notes.append(f"{named}: called as a mixture, with the share of each allele (AF)")
    plain = copies or SexCopies(2, 2, "")
    options = replace(
        options,
        ploidy=ploidy_of(contigs, plain, par if copies is not None else None, sorted(mixture)),
        mixture=mixture,
        regions=read_regions(request.regions, contigs) if request.regions else None,
    )
    if request.alleles is not None:
        forced, left_out = read_alleles(request.alleles, reference)
        options = replace(options, forced=forced)
        notes += left_out[:10] + [f"{len(left_out)} alleles of {request.alleles.name} left out"] * bool(left_out)
    ids = KnownIds(request.dbsnp, reference) if request.dbsnp is not None else None
    section = {} if copies is None else {"sex": copies.name, "copies_of_x": copies.x, "copies_of_y": copies.y}
    return ResolvedRequest(options, ids, tuple(notes), section)


def padded(targets: Sequence[NDArray[np.int64]], padding: int, contigs: Sequence[Contig]) -> Places:
    """Targets with `padding` bases on both sides, merged, within their contigs."""
    result = []
    for own, contig in zip(targets, contigs):
        merged: list[list[int]] = []
        for start, stop in own.tolist():
            start, stop = max(0, start - padding), min(contig.length, stop + padding)
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], stop)
            else:
                merged.append([start, stop])
        result.append(np.array(merged, np.int64).reshape(-1, 2))
    return tuple(result)


def read_regions(texts: Sequence[str], contigs: Sequence[Contig]) -> Places:
    """Regions as int64 [n, 2] by contig, from chr, chr:start or chr:start-stop (1-based, inclusive).

    Raises
    ------
    UsageError
        Another form, a contig the reference lacks, or a place outside it.
    """
    ordinal = {contig.name: k for k, contig in enumerate(contigs)}
    found: list[list[tuple[int, int]]] = [[] for _ in contigs]
    for text in texts:
        match = _REGION.match(text)
        name, first, last = (text, None, None) if text in ordinal or match is None else match.groups()
        k = ordinal.get(name)
        if k is None:
            raise UsageError(f"--region {text}: the reference has no contig {name}", "Write chr:start-stop.")
        start = int(first.replace(",", "")) if first else 1
        stop = int(last.replace(",", "")) if last else contigs[k].length
        if not 1 <= start <= stop <= contigs[k].length:
            raise UsageError(
                f"--region {text}: {name} has the places 1 to {contigs[k].length}", "Write chr:start-stop, in order."
            )
        found[k].append((start - 1, stop))
    return padded([np.array(sorted(own), np.int64).reshape(-1, 2) for own in found], 0, contigs)


def counts_of_file(fetch: Callable[[int, int, int], RecordBlock]) -> ReadCounter:
    """Counts reads of an indexed file."""

    def count(contig: int, intervals: NDArray[np.int64]) -> int:
        block = fetch(contig, int(intervals[0, 0]), int(intervals[-1, 1]))
        return reads_beginning(block, contig, intervals)

    return count


def counts_of_bins(store: BinStore) -> ReadCounter:
    """Counts reads of filled bins; intervals must lie in one window of `BIN_BASES`."""

    def count(contig: int, intervals: NDArray[np.int64]) -> int:
        k = int(store.layout.first_bin[contig]) + int(intervals[0, 0]) // BIN_BASES
        return sum(reads_beginning(block, contig, intervals) for block in store.records_of(k))

    return count


def reads_beginning(block: RecordBlock, contig: int, intervals: NDArray[np.int64]) -> int:
    """Primary reads, no duplicates, of MAPQ 20 or more that begin in the intervals (int64 [n, 2], ascending)."""
    at = block.offsets[:-1].astype(np.int64)
    if len(at) == 0:
        return 0
    words = np.ascontiguousarray(block.data[at[:, None] + np.arange(4, 20)]).view("<i4").reshape(-1, 4)
    begin = words[:, 1].astype(np.int64)
    good = (words[:, 0] == contig) & (((words[:, 2] >> 8) & 255) >= _MIN_MAPQ)
    good &= ((words[:, 3] >> 16) & _UNUSABLE) == 0
    k = np.searchsorted(intervals[:, 0], begin, side="right") - 1
    good &= (k >= 0) & (begin < intervals[np.maximum(k, 0), 1])
    return int(good.sum())


def _mixture_contigs(request: CallRequest, contigs: Sequence[Contig]) -> frozenset[int]:
    if request.mito_contig is None:
        return frozenset(k for k, one in enumerate(contigs) if one.name in MITO_NAMES)
    found = frozenset(k for k, one in enumerate(contigs) if one.name == request.mito_contig)
    if not found:
        why = f"--mito-contig {request.mito_contig}: the reference has no such contig"
        raise UsageError(why, "Name the mitochondrial contig of the reference.")
    return found


def _say_copies(copies: SexCopies | None, par: Places | None) -> str:
    if copies is None:
        return "sex: too few reads on autosomes and X to tell; X and Y are called with two copies (say --sex)"
    x = "X with one copy" if copies.x == 1 else "X with two copies"
    y = "Y with one copy" if copies.y == 1 else "Y is not called"
    where = (
        "" if copies.y == 0 and copies.x == 2 else ", PAR with two copies" if par is not None else ", no PAR is known"
    )
    return f"sex: {copies.name} ({copies.why}): {x}, {y}{where}"


def _copies(
    request: CallRequest,
    reference: Reference,
    targets: Places | None,
    par: Places | None,
    count: ReadCounter,
    windows: int,
    bases: int,
) -> SexCopies | None:
    if request.sex != "auto":
        return copies_of(request.sex)
    found = None
    for places in (None, targets):
        coverage = []
        for belongs in (is_autosome, is_x, is_y):
            chosen = _windows(reference, belongs, places, par, windows, bases)
            reads = sum(count(contig, intervals) for contig, intervals, _ in chosen)
            coverage.append(Coverage(reads, sum(known for _, _, known in chosen)))
        found = infer_copies(coverage[0], coverage[1], coverage[2])
        if found is not None or targets is None:
            break
    return found


def _windows(
    reference: Reference,
    belongs: Callable[[str], bool],
    targets: Places | None,
    par: Places | None,
    n: int,
    bases: int,
) -> list[tuple[int, NDArray[np.int64], int]]:
    """Evenly spaced windows of a class: contig, intervals to count in, bases there that are not N."""
    grid = []
    for k, contig in enumerate(reference.contigs):
        if not belongs(contig.name):
            continue
        starts = np.arange(0, contig.length, bases)
        if targets is not None:
            starts = np.unique(targets[k][:, 0] // bases * bases) if len(targets[k]) else starts[:0]
        for start in starts.tolist():
            stop = min(start + bases, contig.length)
            if par is None or not ((par[k][:, 0] < stop) & (par[k][:, 1] > start)).any():
                grid.append((k, start, stop))
    chosen: list[tuple[int, NDArray[np.int64], int]] = []
    # twice as many as wanted: windows of N are passed over
    step = max(1.0, len(grid) / (2 * n))
    for x in range(min(len(grid), 2 * n)):
        k, start, stop = grid[int(x * step)]
        intervals = np.array([[start, stop]], np.int64)
        if targets is not None:
            own = targets[k][(targets[k][:, 0] < stop) & (targets[k][:, 1] > start)]
            intervals = np.clip(own, start, stop)
        known = sum(int((reference.fetch(k, a, b) != N).sum()) for a, b in intervals.tolist())
        if 2 * known >= int((intervals[:, 1] - intervals[:, 0]).sum()):
            chosen.append((k, intervals, known))
    return chosen[:: max(1, len(chosen) // n)][: n + n // 2]
