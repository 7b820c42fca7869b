# SPDX-License-Identifier: Apache-2.0
"""Plants the variants of one person into a reference: seeded, left-aligned, phased.

In: contigs. Out: sorted `PhasedVariant`s of which no two overlap. Next: haplotypes.

Rates are those of a human against GRCh38: an SNP every 850 bases, one indel for every six SNPs, half of the
indels in tandem repeats (where they change the number of units), two transitions for a transversion, some
variants in clusters, and sites with two different alternative alleles in tandem repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import UsageError
from megabolt.formats.bases import N, decode
from megabolt.simulate.haplotypes import Contig, PhasedVariant

#: The transition partner of each base: A<->G, C<->T.
TRANSITION = (2, 3, 0, 1)


@dataclass(frozen=True)
class VariantOptions:
    """Rates per base of the reference, and shares.

    Parameters
    ----------
    snp_rate, indel_rate
        Sites per base.
    transitions
        Transitions per transversion.
    homozygous
        Share of sites where both haplotypes carry the variant.
    clustered
        Share of SNPs that bring another one along, 10 bases away on average.
    repeat_indels
        Share of indels that change the number of units of a tandem repeat, where there is one.
    two_alleles
        Share of heterozygous repeat indels whose other haplotype carries another alternative allele.
    longest
        Longest indel, bases.
    """

    snp_rate: float = 0.00118
    indel_rate: float = 0.0002
    transitions: float = 2.1
    homozygous: float = 0.38
    clustered: float = 0.06
    repeat_indels: float = 0.5
    two_alleles: float = 0.15
    longest: int = 50

    def __post_init__(self) -> None:
        for name in ("snp_rate", "indel_rate", "homozygous", "clustered", "repeat_indels", "two_alleles"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"the share {name} = {getattr(self, name)} is not in [0, 1]")
        if self.transitions < 0 or self.longest < 1:
            raise UsageError("transitions must be at least 0 and the longest indel at least 1 base")


@dataclass(frozen=True)
class TandemRepeat:
    """Reference bases [start, stop) that repeat with this period."""

    start: int
    stop: int
    period: int


def plant_variants(contigs: Sequence[Contig], options: VariantOptions, seed: int) -> list[PhasedVariant]:
    """The variants of a seed, sorted by contig and start; none touches an N or another variant."""
    planted: list[PhasedVariant] = []
    for number, (_, codes) in enumerate(contigs):
        rng = np.random.default_rng([seed, 2, number])
        sites = list(_snps(number, codes, options, rng)) + list(_indels(number, codes, options, rng))
        last = 0
        for site in sorted(sites):
            if site.start < last or N in codes[site.start : site.stop]:
                continue
            planted.append(site)
            last = site.stop
    return planted


def left_aligned(codes: NDArray[np.uint8], start: int, deleted: int, inserted: NDArray[np.uint8]) -> PhasedVariant:
    """An indel with the base before it, moved as far left as its sequence allows (contig 0, genotype 0|1).

    `start` is the first base deleted, or the base before which `inserted` goes; one of the two is empty.
    """
    moved = codes[start : start + deleted] if deleted else inserted
    shift = 0
    size = len(moved)
    while (
        start - shift > 1
        and codes[start - shift - 1] == moved[(size - 1 - shift) % size]
        and codes[start - shift - 1] < N
    ):
        shift += 1
    start -= shift
    moved = np.roll(moved, shift % size)
    anchor = decode(codes[start - 1 : start])
    text = decode(np.ascontiguousarray(moved))
    ref, alt = (anchor + text, anchor) if deleted else (anchor, anchor + text)
    return PhasedVariant(0, start - 1, ref, (alt,), (0, 1))


def tandem_repeats(codes: NDArray[np.uint8], *, longest_period: int = 6) -> list[TandemRepeat]:
    """Homopolymers of 6 bases or more and tandem repeats of at least three and a half units."""
    found = []
    for period in range(1, longest_period + 1):
        same = np.zeros(len(codes) - period + 2, np.bool_)
        same[1:-1] = (codes[period:] == codes[:-period]) & (codes[period:] < N)
        edges = np.flatnonzero(same[1:] != same[:-1])
        starts, stops = edges[::2], edges[1::2] + period
        enough = stops - starts >= max(6, 3.5 * period)
        for start, stop in zip(starts[enough].tolist(), stops[enough].tolist()):
            if not any(period % p == 0 and _has_period(codes[start : start + period * 2], p) for p in range(1, period)):
                found.append(TandemRepeat(start, stop, period))
    return found


def _has_period(codes: NDArray[np.uint8], period: int) -> bool:
    return bool((codes[period:] == codes[:-period]).all())


def _genotype(options: VariantOptions, rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < options.homozygous:
        return (1, 1)
    return (0, 1) if rng.random() < 0.5 else (1, 0)


def _snps(
    contig: int, codes: NDArray[np.uint8], options: VariantOptions, rng: np.random.Generator
) -> Iterator[PhasedVariant]:
    places = rng.integers(0, len(codes), rng.poisson(options.snp_rate * len(codes)))
    companions = places[rng.random(len(places)) < options.clustered]
    companions = companions + rng.geometric(0.1, len(companions))
    for place in np.concatenate([places, companions]).tolist():
        if place >= len(codes) or codes[place] >= N:
            continue
        ref = int(codes[place])
        alt = TRANSITION[ref]
        if rng.random() * (1 + options.transitions) >= options.transitions:
            alt = int(rng.choice([base for base in range(4) if base not in (ref, TRANSITION[ref])]))
        yield PhasedVariant(contig, place, "ACGT"[ref], ("ACGT"[alt],), _genotype(options, rng))


def _indels(
    contig: int, codes: NDArray[np.uint8], options: VariantOptions, rng: np.random.Generator
) -> Iterator[PhasedVariant]:
    repeats = tandem_repeats(codes)
    # Longer repeats slip more: weight by the number of units, squared (running sum).
    weight = np.cumsum([((r.stop - r.start) / r.period) ** 2 for r in repeats])
    for _ in range(int(rng.poisson(options.indel_rate * len(codes)))):
        if repeats and rng.random() < options.repeat_indels:
            repeat = repeats[int(np.searchsorted(weight, rng.random() * weight[-1]))]
            site = _repeat_indel(codes, repeat, options, rng)
        else:
            site = _random_indel(codes, options, rng)
        if site is not None:
            yield PhasedVariant(contig, site.start, site.ref, site.alts, site.genotype)


def _random_indel(codes: NDArray[np.uint8], options: VariantOptions, rng: np.random.Generator) -> PhasedVariant | None:
    length = min(int(rng.geometric(0.35)), options.longest)
    start = int(rng.integers(1, max(2, len(codes) - length)))
    if rng.random() < 0.5:
        inserted = codes[start : start + length] if rng.random() < 0.4 else rng.integers(0, 4, length)
        inserted = np.ascontiguousarray(inserted, dtype=np.uint8)
        deleted = 0
    else:
        inserted, deleted = np.empty(0, np.uint8), length
    window = codes[start - 1 : start + length + 1]
    if len(window) < length + 2 or (window >= N).any() or (inserted >= N).any():
        return None
    site = left_aligned(codes, start, deleted, inserted)
    return PhasedVariant(0, site.start, site.ref, site.alts, _genotype(options, rng))


def _repeat_indel(
    codes: NDArray[np.uint8], repeat: TandemRepeat, options: VariantOptions, rng: np.random.Generator
) -> PhasedVariant | None:
    """Gain or loss of whole units; with two alternative alleles, each haplotype has its own."""
    if repeat.start < 1 or codes[repeat.start - 1] >= N:
        return None
    most = (repeat.stop - repeat.start) // repeat.period - 1
    wanted = 2 if rng.random() < options.two_alleles else 1
    changes: list[int] = []
    for _ in range(20):
        units = int(rng.geometric(0.55)) * (1 if rng.random() < 0.5 else -1)
        if units not in changes and -units <= most and abs(units) * repeat.period <= options.longest:
            changes.append(units)
        if len(changes) == wanted:
            break
    if len(changes) < wanted:
        return None
    lost = max(0, -min(changes)) * repeat.period
    anchor = repeat.start - 1
    ref = decode(codes[anchor : anchor + 1 + lost])
    unit = decode(codes[repeat.start : repeat.start + repeat.period])
    alts = tuple(ref[0] + _resized(ref[1:], unit, units) for units in changes)
    if wanted == 1:
        return PhasedVariant(0, anchor, ref, alts, _genotype(options, rng))
    return PhasedVariant(0, anchor, ref, alts, (1, 2) if rng.random() < 0.5 else (2, 1))


def _resized(repeat: str, unit: str, units: int) -> str:
    """The start of a repeat with units added (in front) or removed."""
    return unit * units + repeat if units > 0 else repeat[-units * len(unit) :]
