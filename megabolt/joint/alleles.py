# SPDX-License-Identifier: Apache-2.0
"""Alleles of many samples brought together: left-aligned, on one REF per site, with `*` where a deletion spans it.

In: variant records of all samples in a region. Out: `Site`s; per sample the records that speak about the site, each
with the alleles of its own that stand for each allele of the site.

Records that begin at one base make one site. If a sample has a SNP and an indel there in records of their own (an
indel is anchored at the base before it, which may differ too), the site is split: SNPs and the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from megabolt.errors import InputFormatError
from megabolt.formats.gvcf import GvcfVariant

SPANNED = "*"
#: Indels are moved left by at most so many bases; further than any read could show.
MAX_SHIFT = 1000
#: Alleles of one record, of which each takes a bit.
MAX_OWN = 62


@dataclass(frozen=True, slots=True)
class Component:
    """A record of a sample and what it says about a site.

    masks: for the reference and each alternative allele of the site, the record's own alleles that stand for it, as
    bits. Alleles the record has not seen are stood for by its <NON_REF>.
    """

    sample: int
    variant: GvcfVariant
    masks: tuple[int, ...]


@dataclass(slots=True)
class Site:
    """start: 0-based. alts: sorted, `*` last. components: records by sample; samples without have a reference block or
    nothing."""

    start: int
    ref: str
    alts: tuple[str, ...]
    components: list[Component] = field(default_factory=list)


def left_aligned(variant: GvcfVariant, base_before: Callable[[int], str]) -> GvcfVariant:
    """The record without what all its alleles share on the right, moved left as far as it goes.

    base_before: the reference's base at a position. Records with `*` or symbolic alleles stay as they are.
    """
    alleles = [variant.ref, *variant.alts]
    if len(alleles) == 1 or any(not one.isalpha() for one in alleles):
        return variant
    last = alleles[0][-1]
    if (len(alleles[0]) == 1 and all(len(one) == 1 for one in alleles)) or any(one[-1] != last for one in alleles):
        return variant if min(map(len, alleles)) == 1 else _without_shared_front(variant, alleles, variant.start)
    start = variant.start
    while True:
        last = alleles[0][-1]
        if any(one[-1] != last for one in alleles):
            break
        if min(map(len, alleles)) == 1:
            if start == 0 or variant.start - start >= MAX_SHIFT:
                break
            start -= 1
            base = base_before(start)
            alleles = [base + one for one in alleles]
        alleles = [one[:-1] for one in alleles]
    return _without_shared_front(variant, alleles, start)


def _without_shared_front(variant: GvcfVariant, alleles: list[str], start: int) -> GvcfVariant:
    while min(map(len, alleles)) > 1 and all(one[0] == alleles[0][0] for one in alleles):
        alleles = [one[1:] for one in alleles]
        start += 1
    if start == variant.start and alleles[0] == variant.ref:
        return variant
    return replace(variant, start=start, ref=alleles[0], alts=tuple(alleles[1:]))


def make_sites(variants: Sequence[tuple[int, GvcfVariant]], start: int, stop: int) -> list[Site]:
    """Sites that begin in [start, stop), in order, from (sample, record) pairs in any order.

    Raises
    ------
    InputFormatError
        Two records disagree about the reference's bases.
    """
    by_start: dict[int, list[tuple[int, GvcfVariant]]] = defaultdict(list)
    for sample, variant in variants:
        by_start[variant.start].append((sample, variant))
    sites: list[Site] = []
    for place in sorted(by_start):
        if start <= place < stop:
            members = sorted(by_start[place], key=lambda one: (one[0], one[1].ref, one[1].alts))
            for group in _groups(members):
                sites.append(_site(place, group, members))
    _add_spanning(sites, variants)
    return [site for site in sites if site.alts]


def _is_snp(variant: GvcfVariant) -> bool:
    return len(variant.ref) == 1 and all(len(one) == 1 for one in variant.alts)


def _groups(members: list[tuple[int, GvcfVariant]]) -> list[list[tuple[int, GvcfVariant]]]:
    """One group, or SNPs and the rest if a sample has records of both kinds."""
    kinds: dict[int, set[bool]] = defaultdict(set)
    for sample, variant in members:
        kinds[sample].add(_is_snp(variant))
    if all(len(one) == 1 for one in kinds.values()):
        return [members]
    return [[m for m in members if _is_snp(m[1])], [m for m in members if not _is_snp(m[1])]]


def _site(place: int, group: list[tuple[int, GvcfVariant]], members: list[tuple[int, GvcfVariant]]) -> Site:
    ref = max((variant.ref for _, variant in group), key=len)
    alts: set[str] = set()
    for _, variant in group:
        if not ref.startswith(variant.ref):
            raise InputFormatError(
                f"position {place + 1}", "", f"REF is {variant.ref} in one gVCF and {ref} in another",
                "All gVCFs must be of one reference.",
            )  # fmt: skip
        alts |= {_extended(one, variant.ref, ref) for one in variant.alts}
    has_spanned = SPANNED in alts
    ordered = tuple(sorted(alts - {SPANNED}, key=lambda one: (len(one), one)))
    site = Site(place, ref, ordered + ((SPANNED,) if has_spanned else ()))
    in_group = {id(variant) for _, variant in group}
    at_site = {sample for sample, _ in group}
    for sample, variant in members:
        if id(variant) in in_group or sample not in at_site:
            site.components.append(Component(sample, variant, _masks(variant, site)))
    _make_exclusive(site)
    return site


def _extended(alt: str, ref: str, longest: str) -> str:
    return alt + longest[len(ref) :] if alt.isalpha() else alt


def _masks(variant: GvcfVariant, site: Site) -> tuple[int, ...]:
    """Own alleles by allele of the site; own alleles that the site lacks count as the reference."""
    place = {one: k for k, one in enumerate(site.alts, 1)}
    masks = [1] + [0] * len(site.alts)
    for own, alt in zip(variant.own[1:], variant.alts):
        known = variant.ref == site.ref or site.ref.startswith(variant.ref)
        masks[place.get(_extended(alt, variant.ref, site.ref), 0) if known else 0] |= 1 << own
    return tuple(mask or 1 << variant.unseen for mask in masks)


def _make_exclusive(site: Site) -> None:
    """Of several records of a sample, each takes the alleles of the others for the reference."""
    by_sample: dict[int, list[int]] = defaultdict(list)
    for k, one in enumerate(site.components):
        by_sample[one.sample].append(k)
    for several in by_sample.values():
        for k in several if len(several) > 1 else ():
            one = site.components[k]
            unseen = 1 << one.variant.unseen
            seen = [any(_seen(site.components[j], a) for j in several if j != k) for a in range(len(one.masks))]
            masks = tuple(one.masks[0] if m == unseen and s else m for m, s in zip(one.masks, seen))
            site.components[k] = Component(one.sample, one.variant, masks)


def _seen(one: Component, allele: int) -> bool:
    return allele > 0 and one.masks[allele] != 1 << one.variant.unseen


def _add_spanning(sites: list[Site], variants: Sequence[tuple[int, GvcfVariant]]) -> None:
    """Deletions that begin before a site and reach over it become its allele `*`."""
    starts = [site.start for site in sites]
    reaching: dict[int, list[tuple[int, GvcfVariant]]] = defaultdict(list)
    for sample, variant in variants:
        if len(variant.ref) > 1 and any(one.isalpha() and len(one) < len(variant.ref) for one in variant.alts):
            k = _after(starts, variant.start)
            while k < len(sites) and starts[k] < variant.stop:
                reaching[k].append((sample, variant))
                k += 1
    for k, spanning in reaching.items():
        _span(sites[k], sorted(spanning, key=lambda one: (one[0], one[1].start, one[1].ref, one[1].alts)))


def _after(starts: list[int], place: int) -> int:
    from bisect import bisect_right

    return bisect_right(starts, place)


def _span(site: Site, spanning: list[tuple[int, GvcfVariant]]) -> None:
    spans = [(sample, variant, _deleting(variant, site.start)) for sample, variant in spanning]
    if not any(deleting for _, _, deleting in spans):
        return
    if SPANNED not in site.alts:
        site.alts = (*site.alts, SPANNED)
        site.components = [
            Component(one.sample, one.variant, (*one.masks, 1 << one.variant.unseen)) for one in site.components
        ]
    own_star = {one.sample for one in site.components if SPANNED in one.variant.alts}
    for sample, variant, deleting in spans:
        if deleting and sample not in own_star:
            masks = [1 << variant.unseen] * (1 + len(site.alts))
            masks[0] = 1 | sum(1 << own for own in variant.own[1:] if not deleting >> own & 1)
            masks[-1] = deleting
            site.components.append(Component(sample, variant, tuple(masks)))
    _make_exclusive(site)


def _deleting(variant: GvcfVariant, place: int) -> int:
    """Own alleles, as bits, that delete the base at `place`."""
    bits = 0
    for own, alt in zip(variant.own[1:], variant.alts):
        # minimal left-aligned deletions keep their first bases and lose the rest
        if alt.isalpha() and variant.start + len(alt) <= place < variant.stop and len(alt) < len(variant.ref):
            bits |= 1 << own
    return bits
