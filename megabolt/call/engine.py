# SPDX-License-Identifier: Apache-2.0
"""The germline caller: sorted records of a chunk in, variants (and reference blocks) out.

In: `RecordBlock` and `Reference`. Out: `ChunkCalls`. Next: `formats/vcf.py` writes them.

Order of work: decode reads and reconcile mates; collect evidence; find candidates, also by assembly where reads
are clipped; group them into windows;
isolated SNPs from the pileup, all other windows through haplotypes, pair-HMM and genotyping; emit.

Each window belongs to the chunk that holds its first base, and is decided from the data around it only: however
the genome is cut into chunks, the same records come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.call.assembly import add_assembled, assemble_sites
from megabolt.call.candidates import Candidates, find_candidates
from megabolt.call.emit import EmitContext, pileup_records, window_records
from megabolt.call.evidence import Evidence, collect_evidence
from megabolt.call.filters import Thresholds
from megabolt.call.genotype import genotype_windows
from megabolt.call.haplotypes import enumerate_haplotypes, reads_of_windows
from megabolt.call.indel_priors import EventPriors, event_priors
from megabolt.call.isolated import pileup_snps
from megabolt.call.known import Alleles
from megabolt.call.likelihood import score_windows
from megabolt.call.mixture import MIN_BASE_QUALITY, MIN_INDEL_FRACTION, MIN_SNP_FRACTION, mixture_records
from megabolt.call.ploidy import ALL_DIPLOID, PloidyMap
from megabolt.call.reads import MAX_SPAN, Reads, decode_reads
from megabolt.call.reference_confidence import reference_blocks
from megabolt.call.str_model import tandem_tracts
from megabolt.call.trace import Pileup, Scored, Trace
from megabolt.call.windows import Windows, build_windows
from megabolt.compute.backend import Backend
from megabolt.compute.bits import PADDING
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.bases import N
from megabolt.formats.fasta import Reference
from megabolt.formats.vcf import VcfRecord

#: A chunk's records must reach this far beyond it on both sides: what can influence a window of the chunk.
MARGIN = 2048
#: Windows that begin this far before a gVCF chunk may still cover its first bases with a record.
_LOOK_BACK = 900
DEFAULT_THRESHOLDS = Thresholds()
#: Positions whose records are made at once.
_SITES_AT_ONCE = 4096
#: What makes a candidate in mitochondria.
MIXTURE_CANDIDATES: dict[str, Any] = {
    "min_snp_fraction": MIN_SNP_FRACTION,
    "min_indel_fraction": MIN_INDEL_FRACTION,
    "min_base_quality": MIN_BASE_QUALITY,
}


@dataclass(frozen=True)
class CallOptions:
    """Thresholds of the caller. The defaults were chosen by measurement on reads with known truth.

    Attributes
    ----------
    min_mapq
        Reads below are not used. Low ones are: their weight is limited by their MAPQ.
    min_base_quality
        Mismatches below make no candidate (Phred).
    overlap_quality
        Agreeing bases of overlapping mates keep at most this quality each; disagreeing ones keep none.
    min_snp_fraction, min_indel_fraction
        Share of the depth that makes a candidate; for the number of reads see `candidates.reads_needed`.
    window_gap, max_window
        Candidates at most `window_gap` bases apart are explained together, up to `max_window` bases.
    pad, max_pad
        Bases around a window that its reads keep; the second is the limit when edges leave tandem repeats.
    max_reads
        Reads of one window; beyond it a fixed sample of the templates is taken.
    assemble
        Local assembly where soft clips pile up: finds long insertions and deletions.
    open_by_tract
        How often the library's reads slip in repeats (`indel_errors.learn_open_table`); None: as PCR-free ones do.
    snp_prior, indel_prior, further_prior, same_site_prior
        P(a copy differs so from the reference); of each further event in a window; of a second allele of an indel
        site outside repeats.
    min_qual
        Calls below are not written.
    thresholds
        Limits of the filters; calls that fail one are written with its name.
    gq_bands
        Lower limits of the bands of gVCF blocks.
    targets
        Per contig int64 [n, 2], sorted half-open intervals (`formats.bed.read_bed`): only records that touch
        are written. None: everything.
    regions
        As `targets`, but a record belongs to the region in which it begins: records of regions that lie side by side
        are those of both together, each once.
    ploidy
        Copies of the genome, by region.
    mixture
        Ordinals of contigs that are mixtures of genomes: mitochondria.
    forced
        By ordinal of the contig, alleles (`known.read_alleles`) that are candidates and written in any case.
    backend
        Where the pair-HMM runs.
    """

    min_mapq: int = 5
    min_base_quality: int = 10
    overlap_quality: int = 20
    min_snp_fraction: float = 0.10
    min_indel_fraction: float = 0.05
    window_gap: int = 30
    max_window: int = 200
    pad: int = 25
    max_pad: int = 80
    max_reads: int = 400
    assemble: bool = True
    open_by_tract: NDArray[np.float64] | None = None
    snp_prior: float = 1e-3
    indel_prior: float = 1e-4
    further_prior: float = 1e-2
    same_site_prior: float = 1e-1
    min_qual: float = 3.0
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    gq_bands: tuple[int, ...] = (0, 5, 10, 20, 30, 40, 50, 60, 99)
    targets: tuple[NDArray[np.int64], ...] | None = None
    regions: tuple[NDArray[np.int64], ...] | None = None
    ploidy: PloidyMap = ALL_DIPLOID
    mixture: frozenset[int] = frozenset()
    forced: Mapping[int, Alleles] = field(default_factory=dict)
    backend: Backend = Backend.NUMBA


@dataclass
class ChunkCalls:
    """What a chunk gives.

    variants: in file order; the last ones may begin a little beyond the chunk's end, so sort after joining
    chunks (`formats.vcf.sort_records`). reference_blocks: gVCF only; join over chunks with
    `reference_confidence.join_reference_blocks`. sites: on request, makes a record without ALT for each other
    position of [start, stop), as lazily as they are asked for: they are many. stats: counts of what was looked at.
    """

    variants: list[VcfRecord]
    reference_blocks: list[VcfRecord] = field(default_factory=list)
    sites: Callable[[int, int], Iterator[VcfRecord]] | None = None
    stats: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Chunk:
    """One chunk's data in local coordinates."""

    contig: int
    start: int
    stop: int
    origin: int
    n_ref: int
    ref: NDArray[np.uint8]
    tract: NDArray[np.int32]
    period: NDArray[np.uint8]
    reads: Reads
    evidence: Evidence
    candidates: Candidates
    together: list[NDArray[np.int64]]
    forced: frozenset[int]
    windows: Windows
    priors: EventPriors
    trace: Trace | None = None


def call_chunk(
    block: RecordBlock,
    reference: Reference,
    contig: int,
    start: int,
    stop: int,
    options: CallOptions,
    *,
    sample: str = "",
    gvcf: bool = False,
    all_sites: bool = False,
    trace: Trace | None = None,
) -> ChunkCalls:
    """Call the germline variants of [start, stop) of one contig.

    Parameters
    ----------
    block
        RecordBlock with at least the records that overlap [start - MARGIN, stop + MARGIN), sorted by coordinate,
        duplicates flagged; more is allowed.
    contig
        Ordinal of the contig, the same in `reference` and in the records.
    sample
        Unused here; names the column when the records are written.
    gvcf
        Add <NON_REF> to all records, and reference blocks for the rest of the chunk.
    all_sites
        Make a record for each position of the rest of the chunk.
    trace
        Keeps what the steps leave behind, for `explain.py`.
    """
    stop = min(stop, reference.contigs[contig].length)
    if start >= stop:
        return ChunkCalls([])
    mixed = contig in options.mixture
    if mixed:
        options = replace(options, assemble=False, open_by_tract=None, **MIXTURE_CANDIDATES)
    chunk = replace(_prepare(block, reference, contig, start, stop, options), trace=trace)
    context = EmitContext(
        contig=reference.contigs[contig].name,
        origin=chunk.origin,
        ref=chunk.ref,
        tract=chunk.tract,
        fragments=chunk.evidence.fragments,
        min_qual=options.min_qual,
        thresholds=options.thresholds,
        gvcf=gvcf,
        snp_prior=float(np.log10(options.snp_prior)),
        forced=chunk.forced,
    )
    called, stats = _call_mixture(chunk, context) if mixed else _call_copies(chunk, context, options, gvcf or all_sites)
    called.sort(key=lambda pair: (pair[1].start, pair[1].ref, pair[1].alts))
    if trace is not None:
        trace.keep(chunk, options, context, [r for begin, r in called if begin >= start])
    stats += Counter(reads=len(chunk.reads), candidates=len(chunk.candidates))
    targets = None if options.targets is None else options.targets[contig]
    regions = None if options.regions is None else options.regions[contig]
    records = [r for _, r in called]
    limits = (targets, regions)
    blocks = _blocks(chunk, context.contig, records, limits, options, (start, stop)) if gvcf else []
    variants = [
        r for begin, r in called
        if begin >= start and _touches(r.start, r.stop, targets) and _touches(r.start, r.start + 1, regions)
    ]  # fmt: skip
    if not all_sites:
        return ChunkCalls(variants, blocks, None, dict(stats))

    def sites(first: int, last: int) -> Iterator[VcfRecord]:
        for at in range(first, last, _SITES_AT_ONCE):
            stretch = (at, min(at + _SITES_AT_ONCE, last))
            near = [r for r in records if r.stop > stretch[0] and r.start < stretch[1]]
            blocks = _blocks(chunk, context.contig, near, limits, options, stretch, each=True)
            yield from map(_site, blocks)

    return ChunkCalls(variants, blocks, sites, dict(stats))


def _site(block: VcfRecord) -> VcfRecord:
    """The record of a single position without a variant, from its reference block."""
    fields = {name: block.genotype[name] for name in ("GT", "DP", "GQ")}
    return replace(block, alts=(), info={"AN": fields["GT"].count("0"), "DP": fields["DP"]}, genotype=fields)


def _call_mixture(chunk: _Chunk, context: EmitContext) -> tuple[list[tuple[int, VcfRecord]], Counter[str]]:
    """Records of a chunk of mitochondria, each with its position; those of this chunk and before."""
    records = mixture_records(chunk.candidates, chunk.reads, chunk.tract, context)
    return [(r.start, r) for r in records if r.start < chunk.stop], Counter()


def _call_copies(
    chunk: _Chunk, context: EmitContext, options: CallOptions, look_back: bool
) -> tuple[list[tuple[int, VcfRecord]], Counter[str]]:
    """Records of a chunk, each with the position where its window begins: windows of one ploidy at a time."""
    which = _windows_to_call(chunk, options, look_back)
    called: list[tuple[int, VcfRecord]] = []
    stats = Counter[str]()
    copies = options.ploidy.at(chunk.contig, chunk.windows.start[which] + chunk.origin)
    for ploidy in np.unique(copies[copies > 0]).tolist():
        found, counted = _call_windows(chunk, which[copies == ploidy], replace(context, ploidy=ploidy), options)
        called += found
        stats += counted
    return called, stats


def _prepare(block: Any, reference: Reference, contig: int, start: int, stop: int, options: CallOptions) -> _Chunk:
    """Reference segment, reads, evidence, candidates and windows."""
    length = reference.contigs[contig].length
    low, high = max(0, start - MARGIN), min(length, stop + MARGIN)
    # reads that overlap the margin may reach beyond it, but never by more than their longest span
    origin, end = max(0, low - MAX_SPAN), min(length, high + MAX_SPAN)
    n_ref = end - origin
    ref = np.full(n_ref + PADDING, N, np.uint8)
    ref[:n_ref] = reference.fetch(contig, origin, end)
    tract, period = np.zeros(n_ref, np.int32), np.zeros(n_ref, np.uint8)
    tandem_tracts(ref[:n_ref], 0, n_ref, period, tract)
    reads = decode_reads(
        block, contig, low, high, origin, n_ref, min_mapq=options.min_mapq, overlap_cap=options.overlap_quality
    )
    evidence = collect_evidence(reads, ref, n_ref, min_base_quality=options.min_base_quality)
    candidates = find_candidates(
        evidence,
        reads,
        min_snp_fraction=options.min_snp_fraction,
        min_indel_fraction=options.min_indel_fraction,
    )
    assembled = (
        assemble_sites(evidence, candidates, reads, ref, n_ref, origin, backend=options.backend)
        if options.assemble
        else []
    )
    known = options.forced[contig].within(origin, n_ref) if contig in options.forced else []
    candidates, together = add_assembled(candidates, [*assembled, *([event] for event in known)])
    forced = frozenset(int(one[0]) for one in together[len(assembled) :])
    windows = build_windows(
        candidates, ref, n_ref, origin, evidence.indels, evidence.depth, evidence.clips, tract,
        gap=options.window_gap, max_width=options.max_window, pad=options.pad, max_pad=options.max_pad,
    )  # fmt: skip
    return _Chunk(
        contig,
        start,
        stop,
        origin,
        n_ref,
        ref,
        tract,
        period,
        reads,
        evidence,
        candidates,
        together,
        forced,
        windows,
        event_priors(
            candidates,
            period,
            tract,
            snp_prior=options.snp_prior,
            indel_prior=options.indel_prior,
            same_site_prior=options.same_site_prior,
        ),
    )


def _windows_to_call(chunk: _Chunk, options: CallOptions, look_back: bool) -> NDArray[np.int64]:
    """Numbers of the windows that begin in the chunk (or may reach into it) and can touch a target."""
    begin = chunk.windows.start + chunk.origin
    wanted = (begin >= chunk.start - (_LOOK_BACK if look_back else 0)) & (begin < chunk.stop)
    end = chunk.windows.stop + chunk.origin
    for limits in (options.targets, options.regions):
        if limits is not None:
            places = limits[chunk.contig]
            nearest = np.searchsorted(places[:, 1], begin - 1, side="right")
            after = np.append(places[:, 0], np.iinfo(np.int64).max)
            wanted &= after[nearest] <= end + 1
    return np.flatnonzero(wanted)


def _call_windows(
    chunk: _Chunk, which: NDArray[np.int64], context: EmitContext, options: CallOptions
) -> tuple[list[tuple[int, VcfRecord]], Counter[str]]:
    """Records of the windows `which`, all of the context's ploidy, each with the position where its window begins."""
    isolated = chunk.windows.isolated[which]
    lone = chunk.windows.candidate[chunk.windows.candidate_offset[which[isolated]]]
    snps = pileup_snps(lone, chunk.candidates, chunk.reads, chunk.ref, ploidy=context.ploidy)
    called = [(r.start, r) for r in pileup_records(snps, chunk.candidates, context)]
    if chunk.trace is not None:
        chunk.trace.pileups.append(Pileup(which[isolated], snps, context))
    complex_calls, stats = _call_complex(chunk, which[~isolated], context, options)
    stats["isolated_windows"] = int(isolated.sum())
    return called + complex_calls, stats


def _call_complex(
    chunk: _Chunk, which: NDArray[np.int64], context: EmitContext, options: CallOptions
) -> tuple[list[tuple[int, VcfRecord]], Counter[str]]:
    """Records of the windows `which`, each with the contig position where its window begins."""
    window_reads = reads_of_windows(chunk.reads, chunk.windows, which, max_reads=options.max_reads)
    haplotypes = enumerate_haplotypes(
        chunk.windows, which, chunk.candidates, chunk.reads, window_reads, chunk.ref, chunk.together
    )
    likelihoods = score_windows(
        chunk.windows, which, window_reads, haplotypes, chunk.reads, backend=options.backend,
        open_by_tract=options.open_by_tract,
    )  # fmt: skip
    genotypes = genotype_windows(
        chunk.windows, which, chunk.candidates, chunk.reads, haplotypes, likelihoods,
        priors=chunk.priors, further_prior=options.further_prior, ploidy=context.ploidy,
    )  # fmt: skip
    if chunk.trace is not None:
        scored = Scored(which, window_reads, haplotypes, likelihoods, genotypes, context)
        chunk.trace.scored.append(scored)
    called = []
    wanted = (genotypes.n_haps > 0) & (genotypes.best.max(axis=1) > 0)
    if context.forced:
        held = np.isin(chunk.windows.candidate, list(context.forced))
        wanted |= np.add.reduceat(held, chunk.windows.candidate_offset[:-1], dtype=np.int64)[which] > 0
    for k in np.flatnonzero(wanted).tolist():
        window = int(which[k])
        begin = int(chunk.windows.start[window]) + chunk.origin
        records = window_records(k, window, chunk.windows, chunk.candidates, haplotypes, genotypes, context)
        called += [(begin, record) for record in records]
    stats = Counter(windows=len(which), haplotypes=len(haplotypes.mask), read_haplotype_pairs=len(likelihoods.log10))
    return called, stats


def _blocks(
    chunk: _Chunk,
    contig: str,
    records: list[VcfRecord],
    limits: tuple[NDArray[np.int64] | None, ...],
    options: CallOptions,
    stretch: tuple[int, int],
    *,
    each: bool = False,
) -> list[VcfRecord]:
    """Reference blocks of a stretch of the chunk, or of what of it all of the `limits` leave."""
    covered = [(r.start, r.stop) for r in records]
    pieces = [stretch]
    for places in limits:
        if places is not None:
            cut = ((max(a, x), min(b, y)) for a, b in pieces for x, y in places.tolist() if x < b and y > a)
            pieces = list(cut)
    blocks: list[VcfRecord] = []
    for a, b, copies in (part for piece in pieces for part in options.ploidy.within(chunk.contig, *piece)):
        if copies > 0:
            blocks += reference_blocks(
                chunk.reads, chunk.evidence, chunk.ref, chunk.tract, contig, chunk.origin, a, b, covered,
                options.gq_bands, ploidy=copies, each=each,
            )  # fmt: skip
    return blocks


def _touches(start: int, stop: int, targets: NDArray[np.int64] | None) -> bool:
    if targets is None:
        return True
    i = int(np.searchsorted(targets[:, 1], start, side="right"))
    return i < len(targets) and int(targets[i, 0]) < stop
