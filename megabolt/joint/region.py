# SPDX-License-Identifier: Apache-2.0
"""One region of a cohort: gVCFs in, lines of the VCF out.

In: `GvcfFile`s, reference. Out: bytes, in order. Next: `workflow/joint_job.py` writes them.

A site belongs to the region that holds its first base and is decided from records that touch it only: however the
genome is cut into regions, the same lines come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InputFormatError
from megabolt.formats.bases import ASCII_OF_CODE, CODE_OF_ASCII, N, decode
from megabolt.formats.fasta import Reference
from megabolt.formats.gvcf import GvcfFile, GvcfRegion, GvcfVariant
from megabolt.joint.alleles import MAX_OWN, MAX_SHIFT, SPANNED, Site, left_aligned, make_sites
from megabolt.joint.genotype import Called, call_site
from megabolt.joint.likelihood import SiteData, join_blocks, site_data, subset
from megabolt.joint.text import site_line
from megabolt.joint.trio import Family, refine

_OTHER_REFERENCE = "It was called on another reference."
#: Genotypes of a site beyond this many alleles would be too many to hold: the rarest alleles are left out.
MAX_ALLELES = 12


@dataclass(frozen=True)
class JointOptions:
    """min_qual: sites below are not written. low_qual: sites below carry the filter LowQual. new_mutations: rate per
    copy passed on. families: of the samples, in the order of the files."""

    min_qual: float = 3.0
    low_qual: float = 20.0
    new_mutations: float = 1e-6
    families: tuple[Family, ...] = ()
    refine: bool = False


@dataclass
class RegionCalls:
    """The lines of a region and how many there are; records that begin in it but say nothing of genotypes (PL)."""

    text: bytes
    n_sites: int
    n_new_mutations: int
    n_without_pl: int


def call_region(
    files: Sequence[GvcfFile],
    samples: Sequence[str],
    reference: Reference,
    contig: int,
    start: int,
    stop: int,
    options: JointOptions,
    targets: NDArray[np.int64] | None = None,
) -> RegionCalls:
    """The sites that begin in [start, stop) of a contig, and touch a target if there are any.

    Raises
    ------
    InputFormatError
        A gVCF is damaged, or is not one of this reference.
    """
    name = reference.contigs[contig].name
    length = reference.contigs[contig].length
    regions = [one.read(name, start, stop, MAX_SHIFT) for one in files]
    sequence = _Letters(reference, contig)
    variants = []
    codes = reference.fetch(contig, start, stop)
    for k, region in enumerate(regions):
        _check_blocks(files[k], name, start, region, codes)
        for variant in region.variants:
            _check_ref(files[k], name, length, variant, sequence)
            variants.append((k, left_aligned(variant, sequence.base)))
    blocks = join_blocks(regions)
    lines, n_new = [], 0
    for site in make_sites(variants, start, stop):
        if not _on_target(site.start, site.start + len(site.ref), targets):
            continue
        found = _call(_few_alleles(site), site_data, blocks)
        if found is None or found[2].qual < options.min_qual:
            continue
        site, data, called = found
        refined = refine(data, called, options.families, options.new_mutations) if options.refine else None
        if refined is not None:
            n_new += len(refined.sure) + len(refined.likely)
        lines.append(site_line(name, site, data, called, refined, samples, options.low_qual))
    n_without_pl = sum(start <= one < stop for region in regions for one in region.without_pl)
    return RegionCalls(b"".join(lines), len(lines), n_new, n_without_pl)


def _call(site: Site, likelihoods, blocks) -> tuple[Site, SiteData, Called] | None:  # type: ignore[no-untyped-def]
    """Genotypes of a site, without the alleles that nobody has; None if that leaves none."""
    data: SiteData = likelihoods(site, blocks)
    called = call_site(data, site.ref, site.alts)
    while True:
        counts = called.counts(1 + len(site.alts))
        kept = [0, *(k for k in range(1, len(counts)) if counts[k])]
        if all(site.alts[k - 1] == SPANNED for k in kept[1:]):
            return None
        if len(kept) == len(counts):
            return site, data, called
        site = _with_alleles(site, [site.alts[k - 1] for k in kept[1:]])
        data = subset(data, kept)
        called = call_site(data, site.ref, site.alts)


def _with_alleles(site: Site, alts: list[str]) -> Site:
    """The site with some of its alternative alleles, REF no longer than they need."""
    ref = site.ref
    plain = [one for one in alts if one.isalpha()]
    if len(plain) + alts.count(SPANNED) == len(alts):
        while len(ref) > 1 and all(len(one) > 1 and one[-1] == ref[-1] for one in plain):
            ref, plain = ref[:-1], [one[:-1] for one in plain]
        alts = plain + [SPANNED] * alts.count(SPANNED)
    return Site(site.start, ref, tuple(alts), site.components)


def _few_alleles(site: Site) -> Site:
    """The site with at most MAX_ALLELES: those that most samples' records name."""
    if len(site.alts) < MAX_ALLELES:
        return site
    named = [sum(one.masks[k] != 1 << one.variant.unseen for one in site.components) for k in range(1 + len(site.alts))]
    ranked = sorted(range(1, len(named)), key=lambda k: (-named[k], k))[: MAX_ALLELES - 1]
    kept = [0, *sorted(ranked)]
    lost = [k for k in range(1, len(named)) if k not in kept]
    components = []
    for one in site.components:
        masks = [one.masks[k] for k in kept]
        unseen = 1 << one.variant.unseen
        for k in lost:
            masks[0] |= one.masks[k] & ~unseen
        components.append(type(one)(one.sample, one.variant, tuple(masks)))
    return Site(site.start, site.ref, tuple(site.alts[k - 1] for k in kept[1:]), components)


class _Letters:
    """The reference's letters around a place, fetched in pieces."""

    _PIECE = 1 << 14

    def __init__(self, reference: Reference, contig: int) -> None:
        self._reference, self._contig = reference, contig
        self._length = reference.contigs[contig].length
        self._pieces: dict[int, str] = {}

    def base(self, place: int) -> str:
        return self.text(place, place + 1)

    def text(self, start: int, stop: int) -> str:
        parts = []
        for k in range(start // self._PIECE, (max(start, stop - 1)) // self._PIECE + 1):
            if k not in self._pieces:
                low, high = k * self._PIECE, min(self._length, (k + 1) * self._PIECE)
                self._pieces[k] = decode(self._reference.fetch(self._contig, low, high))
            low = k * self._PIECE
            parts.append(self._pieces[k][max(0, start - low) : stop - low])
        return "".join(parts)


def _check_blocks(file: GvcfFile, name: str, start: int, region: GvcfRegion, codes: NDArray[np.uint8]) -> None:
    """REF of the blocks that begin in a region, against the bases of the reference from `start` on."""
    at = region.block_start - start
    inside = np.flatnonzero((at >= 0) & (at < len(codes)))
    there, named = codes[at[inside]], CODE_OF_ASCII[region.block_ref[inside]]
    wrong = np.flatnonzero((there != named) & (there < N) & (named < N))
    if len(wrong):
        k = inside[wrong[0]]
        why = f"REF is {chr(region.block_ref[k])}, but the reference has {chr(ASCII_OF_CODE[there[wrong[0]]])}"
        raise InputFormatError(file.path, f"{name}:{region.block_start[k] + 1}", why, _OTHER_REFERENCE)


def _check_ref(file: GvcfFile, name: str, length: int, variant: GvcfVariant, sequence: _Letters) -> None:
    where = f"{name}:{variant.start + 1}"
    if variant.stop > length:
        raise InputFormatError(
            file.path, where, f"behind the end of {name} ({length} bases)", "Is it one of --reference?"
        )
    if variant.n_alleles > MAX_OWN:
        raise InputFormatError(
            file.path, where, f"{variant.n_alleles} alleles in one record", "Call this sample again."
        )
    there = sequence.text(variant.start, variant.stop)
    if there != variant.ref and any(a != b and a in "ACGT" and b in "ACGT" for a, b in zip(there, variant.ref)):
        why = f"REF is {variant.ref[:20]}, but the reference has {there[:20]}"
        raise InputFormatError(file.path, where, why, _OTHER_REFERENCE)


def _on_target(start: int, stop: int, targets: NDArray[np.int64] | None) -> bool:
    if targets is None:
        return True
    k = int(np.searchsorted(targets[:, 1], start, side="right"))
    return k < len(targets) and int(targets[k, 0]) < stop
