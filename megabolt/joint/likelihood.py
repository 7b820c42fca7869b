# SPDX-License-Identifier: Apache-2.0
"""Genotype likelihoods of all samples at a site, on the alleles of the site.

In: a `Site`, the reference blocks of all samples. Out: phred likelihoods by sample and genotype, AD, DP.

A record's alleles stand for the site's by bit masks (`alleles.Component`): a genotype of the site is as likely as the
likeliest genotype of the record that stands for it; records of one sample, which exclude each other on a copy, add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import kernel
from megabolt.formats.gvcf import GvcfRegion
from megabolt.joint.alleles import SPANNED, Component, Site

#: Phred of what cannot be told from impossible.
FAR = 99999.0


@dataclass(frozen=True)
class Blocks:
    """Reference blocks of all samples in a region, one after another.

    offset: int64 [n_samples + 1]. Others as in `GvcfRegion`. cursor: int64 [n_samples], moved on from site to site.
    """

    offset: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    depth: NDArray[np.int32]
    ploidy: NDArray[np.int32]
    pl: NDArray[np.int32]
    cursor: NDArray[np.int64]


@dataclass(frozen=True)
class SiteData:
    """What is known at a site.

    phred: float64 [n_samples, n_genotypes] in VCF's order, best 0; of haploid samples the first n_alleles. ploidy:
    int32 [n_samples], 0 without data. depth: int32, -1 unknown. ad: int32 [n_samples, n_alleles], -1 unknown.
    """

    phred: NDArray[np.float64]
    ploidy: NDArray[np.int32]
    depth: NDArray[np.int32]
    ad: NDArray[np.int32]


def join_blocks(regions: Sequence[GvcfRegion]) -> Blocks:
    """The blocks of all samples as one table."""
    offset = np.concatenate([[0], np.cumsum([len(one.block_start) for one in regions])]).astype(np.int64)
    pl = np.concatenate([one.block_pl for one in regions])
    return Blocks(
        offset,
        np.concatenate([one.block_start for one in regions]),
        np.concatenate([one.block_stop for one in regions]),
        np.concatenate([one.block_depth for one in regions]),
        np.concatenate([one.block_ploidy for one in regions]),
        np.ascontiguousarray(pl, np.int32),
        offset[:-1].copy(),
    )


def n_genotypes(n_alleles: int) -> int:
    """Of a diploid."""
    return n_alleles * (n_alleles + 1) // 2


def site_data(site: Site, blocks: Blocks) -> SiteData:
    """Likelihoods of a site; sites must come in ascending order."""
    n_samples, n_alleles = len(blocks.cursor), 1 + len(site.alts)
    data = SiteData(
        np.zeros((n_samples, n_genotypes(n_alleles))),
        np.zeros(n_samples, np.int32),
        np.full(n_samples, -1, np.int32),
        np.full((n_samples, n_alleles), -1, np.int32),
    )
    numbers, masks, pool = _tables(_spans_joined(site), n_alleles)
    add_components(numbers, masks, pool, data.phred, data.ploidy, data.depth, data.ad)
    add_blocks(
        site.start, blocks.offset, blocks.start, blocks.stop, blocks.depth, blocks.ploidy, blocks.pl, blocks.cursor,
        data.phred, data.ploidy, data.depth, data.ad,
    )  # fmt: skip
    return data


def _spans_joined(site: Site) -> list[Component]:
    """The components of a site, with one for all deletions of a sample that span it.

    Two deletions on different copies make the genotype */*: as alleles of their own they exclude each other, and `*` is
    either of them.
    """
    if site.alts[-1] != SPANNED:
        return site.components
    by_sample: dict[int, list[Component]] = {}
    for one in site.components:
        if one.masks[-1] not in (1 << one.variant.unseen, one.masks[0]) and one.variant.ploidy == 2:
            by_sample.setdefault(one.sample, []).append(one)
    components = site.components
    for sample, spans in by_sample.items():
        if len(spans) > 1 and all(len(one.variant.pl) for one in spans):
            components = [one for one in components if not any(one is span for span in spans)]
            components.append(_one_span(sample, spans, len(site.alts)))
    return components


def _one_span(sample: int, spans: Sequence[Component], n_alts: int) -> Component:
    """A record of the alleles reference, `*` and unseen from several with a deletion each."""
    n = len(spans)
    several = []
    for k, one in enumerate(spans):
        deletions = [one.masks[-1] if j == k else one.masks[0] for j in range(n)]
        unseen = 1 << one.variant.unseen if k == 0 else one.masks[0]
        several.append(Component(0, one.variant, (one.masks[0], *deletions, unseen)))
    phred, ad = component_data(several, n + 2)
    groups = [range(1), range(1, n + 1), range(n + 1, n + 2)]
    pl = [
        min(phred[max(i, j) * (max(i, j) + 1) // 2 + min(i, j)] for i in groups[a] for j in groups[b])
        for b in range(3)
        for a in range(b + 1)
    ]
    depths = [max(0, ad[0]), sum(max(0, ad[k]) for k in groups[1]), 0]
    first = spans[0]
    variant = replace(
        first.variant, alts=(SPANNED,), own=(0, 1), unseen=2, n_alleles=3,
        depth=max(one.variant.depth for one in spans), pl=np.array(pl, np.int32), ad=np.array(depths, np.int32),
    )  # fmt: skip
    masks = [1] + [1 if first.masks[a] == first.masks[0] else 4 for a in range(1, n_alts)] + [2]
    return Component(sample, variant, tuple(masks))


def component_data(components: Sequence[Component], n_alleles: int) -> tuple[list[float], list[int]]:
    """Phred likelihoods and AD of one diploid sample from its records; the sample's number in them must be 0."""
    phred, ad = np.zeros((1, n_genotypes(n_alleles))), np.full((1, n_alleles), -1, np.int32)
    numbers, masks, pool = _tables(components, n_alleles)
    add_components(numbers, masks, pool, phred, np.zeros(1, np.int32), np.full(1, -1, np.int32), ad)
    return [float(one) for one in phred[0]], [int(one) for one in ad[0]]


def _tables(
    components: Sequence[Component], n_alleles: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """numbers: int64 [n, 8]: sample, ploidy, depth, alleles, place and count of PL, of AD; masks; pool of PL and AD."""
    numbers = np.empty((len(components), 8), np.int64)
    masks = np.empty((len(components), n_alleles), np.int64)
    parts, at = [np.empty(0, np.int32)], 0
    for k, one in enumerate(components):
        v = one.variant
        numbers[k] = one.sample, v.ploidy, v.depth, v.n_alleles, at, len(v.pl), at + len(v.pl), len(v.ad)
        masks[k] = one.masks
        parts += [v.pl, v.ad]
        at += len(v.pl) + len(v.ad)
    return numbers, masks, np.concatenate(parts)


@kernel("void(int64[:, ::1], int64[:, ::1], int32[::1], float64[:, ::1], int32[::1], int32[::1], int32[:, ::1])")
def add_components(numbers: Any, masks: Any, pool: Any, phred: Any, ploidy: Any, depth: Any, ad: Any) -> None:
    """Add the records at a site to the likelihoods of their samples; see `site_data`."""
    n_alleles = masks.shape[1]
    for k in range(len(numbers)):
        s, copies, own, pl_at, n_pl = numbers[k, 0], numbers[k, 1], numbers[k, 3], numbers[k, 4], numbers[k, 5]
        if n_pl == 0 or (ploidy[s] != 0 and ploidy[s] != copies):
            continue
        ploidy[s] = copies
        depth[s] = max(depth[s], np.int32(numbers[k, 2]))
        for b in range(n_alleles):
            for a in range(b + 1 if copies == 2 else 1):
                least = 1e9
                for j in range(own):
                    if not masks[k, b] >> j & 1:
                        continue
                    if copies == 1:
                        least = min(least, np.float64(pool[pl_at + j]))
                        continue
                    for i in range(own):
                        if masks[k, a] >> i & 1:
                            low, high = min(i, j), max(i, j)
                            least = min(least, np.float64(pool[pl_at + high * (high + 1) // 2 + low]))
                at = b if copies == 1 else b * (b + 1) // 2 + a
                phred[s, at] += least
        if numbers[k, 7] > 0:
            for a in range(n_alleles):
                # an allele that a record has not seen, or leaves to another record, says nothing about AD
                if a > 0 and (masks[k, a] == masks[k, 0]):
                    continue
                total = 0
                for i in range(own):
                    if masks[k, a] >> i & 1:
                        total += pool[numbers[k, 6] + i]
                if a > 0 or ad[s, 0] < 0:
                    ad[s, a] = max(ad[s, a], np.int32(total))
                else:
                    ad[s, 0] = min(ad[s, 0], np.int32(total))
    for k in range(len(numbers)):
        s = numbers[k, 0]
        n = n_alleles if ploidy[s] == 1 else n_alleles * (n_alleles + 1) // 2
        least = phred[s, 0]
        for g in range(n):
            least = min(least, phred[s, g])
        for g in range(n):
            phred[s, g] -= least


@kernel(
    "void(int64, int64[::1], int64[::1], int64[::1], int32[::1], int32[::1], int32[:, ::1], int64[::1],"
    " float64[:, ::1], int32[::1], int32[::1], int32[:, ::1])"
)
def add_blocks(
    place: Any,
    offset: Any,
    start: Any,
    stop: Any,
    block_depth: Any,
    block_ploidy: Any,
    pl: Any,
    cursor: Any,
    phred: Any,
    ploidy: Any,
    depth: Any,
    ad: Any,
) -> None:
    """Samples without a record take the reference block over the site: every other allele is as likely as any."""
    n_alleles = ad.shape[1]
    for s in range(len(cursor)):
        k = cursor[s]
        while k < offset[s + 1] and stop[k] <= place:
            k += 1
        cursor[s] = k
        if ploidy[s] != 0 or k == offset[s + 1] or start[k] > place:
            continue
        copies = block_ploidy[k]
        if copies == 1:
            if pl[k, 0] == pl[k, 1]:
                continue
            for a in range(n_alleles):
                phred[s, a] = pl[k, 0 if a == 0 else 1]
        else:
            depth[s] = block_depth[k]
            if pl[k, 0] == pl[k, 1] and pl[k, 0] == pl[k, 2]:
                continue
            for b in range(n_alleles):
                for a in range(b + 1):
                    phred[s, b * (b + 1) // 2 + a] = pl[k, 0 if b == 0 else (1 if a == 0 else 2)]
        ploidy[s], depth[s] = copies, block_depth[k]
        for a in range(n_alleles):
            ad[s, a] = max(0, block_depth[k]) if a == 0 else 0


def subset(data: SiteData, kept: Sequence[int]) -> SiteData:
    """The data of some alleles, the reference's (0) first; likelihoods are set to 0 for the best again."""
    at = [kept[b] * (kept[b] + 1) // 2 + kept[a] for b in range(len(kept)) for a in range(b + 1)]
    phred = data.phred[:, at].copy()
    for one in np.flatnonzero(data.ploidy == 1).tolist():
        row = data.phred[one, list(kept)]
        phred[one] = FAR
        phred[one, : len(kept)] = row
    phred -= phred.min(axis=1, keepdims=True)
    return SiteData(phred, data.ploidy, data.depth, np.ascontiguousarray(data.ad[:, list(kept)]))
