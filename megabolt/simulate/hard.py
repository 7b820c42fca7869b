# SPDX-License-Identifier: Apache-2.0
"""A random genome that is hard to map to: young repeats, recent duplications, alpha satellite; and a map of them.

In: `HardGenomeOptions`. Out: `SimulatedGenome` with the class of every base. Next: variants, haplotypes, reads.

Order of construction: base composition, interspersed repeat families, tandem repeats, satellite arrays, segmental
duplications (of anything but satellite), runs of N. Satellites, duplications and their origins stay as they are
once made, so that an exact copy is exact in the end. Shares are near those of the human genome; divergences are
those of its youngest parts, where mapping is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import UsageError
from megabolt.formats.bases import N, reverse_complement
from megabolt.simulate.genome import (
    Codes,
    RepeatFamily,
    SimulatedGenome,
    background,
    contig_bounds,
    mutate,
    random_bases,
    tandem_repeat,
)

#: Classes of bases; a base's code in `SimulatedGenome.classes` is the place of its class here.
CLASS_NAMES = ("unique", "interspersed", "segdup", "satellite", "tandem")
UNIQUE, INTERSPERSED, SEGDUP, SATELLITE, TANDEM = range(5)

#: LINE-1-like, Alu-like, and older DNA/LTR elements.
YOUNG_FAMILIES = (
    RepeatFamily(6000, 12, 0.15, (0.01, 0.15), True),
    RepeatFamily(300, 16, 0.106, (0.01, 0.15), False),
    RepeatFamily(1500, 40, 0.05, (0.05, 0.15), True),
)

_MONOMER = 171  # bases of an alpha-satellite monomer
_TRIES = 200  # random places looked at before a piece is given up


@dataclass(frozen=True)
class HardGenomeOptions:
    """What the genome looks like.

    Parameters
    ----------
    size
        Bases, N included.
    duplication_share
        Fraction of the genome covered by copies of segmental duplications; their origins come on top.
    duplication_divergence
        Lowest and highest rate of substitutions of a copy that is not exact.
    exact_share
        Fraction of the duplications that are exact copies.
    satellite_share
        Fraction of the genome in alpha-satellite arrays, about one a contig.
    monomer_divergence
        Lowest and highest difference between two monomers of a higher-order repeat.
    copy_divergence
        Lowest and highest difference between two copies of a higher-order repeat.
    tandem_spacing
        Bases for each microsatellite; every tenth of them is a minisatellite.
    """

    size: int = 1_000_000
    n_contigs: int = 3
    families: tuple[RepeatFamily, ...] = YOUNG_FAMILIES
    duplication_share: float = 0.05
    duplication_divergence: tuple[float, float] = (0.001, 0.03)
    exact_share: float = 0.2
    satellite_share: float = 0.03
    monomer_divergence: tuple[float, float] = (0.2, 0.4)
    copy_divergence: tuple[float, float] = (0.0, 0.02)
    tandem_spacing: int = 1500
    n_share: float = 0.005
    name: str = "sim"

    def __post_init__(self) -> None:
        if self.n_contigs < 1 or self.size < 100_000 * self.n_contigs:
            raise UsageError(
                f"a hard genome of {self.size} bases cannot have {self.n_contigs} contigs",
                "Each contig needs at least 100,000 bases: raise --genome-size or lower --contigs.",
            )


@dataclass(frozen=True)
class _Canvas:
    """A genome in the making; `taken` bases are not overwritten any more."""

    codes: Codes
    mask: NDArray[np.bool_]
    classes: NDArray[np.uint8]
    taken: NDArray[np.bool_]
    rng: np.random.Generator

    def free_place(self, length: int) -> int | None:
        """A random place where `length` bases are not taken; None if none was found."""
        for _ in range(_TRIES):
            start = int(self.rng.integers(0, len(self.codes) - length + 1))
            if not self.taken[start : start + length].any():
                return start
        return None

    def paste(self, start: int, piece: Codes, label: int) -> None:
        stop = start + len(piece)
        self.codes[start:stop] = piece
        self.mask[start:stop] = label != SEGDUP
        self.classes[start:stop] = label

    def scatter(self, piece: Codes, label: int) -> int:
        """Put a piece, on a random strand, anywhere that is free; returns the bases covered."""
        start = self.free_place(len(piece))
        if start is not None:
            self.paste(start, self._either_strand(piece), label)
        return len(piece)

    def _either_strand(self, piece: Codes) -> Codes:
        return reverse_complement(piece) if self.rng.random() < 0.5 else piece


def make_hard_genome(options: HardGenomeOptions, seed: int) -> SimulatedGenome:
    """The hard genome of a seed, with `classes`."""
    rng = np.random.default_rng([seed, 2])
    size = options.size
    bounds = contig_bounds(size, options.n_contigs)
    canvas = _Canvas(
        background(size, rng), np.zeros(size, np.bool_), np.zeros(size, np.uint8), np.zeros(size, np.bool_), rng
    )
    gaps = _reserve_gaps(canvas, bounds, options.n_share)
    for family in options.families:
        _scatter_family(canvas, family)
    for i in range(size // options.tandem_spacing):
        canvas.scatter(minisatellite(rng) if i % 10 == 9 else tandem_repeat(rng), TANDEM)
    _plant_satellites(canvas, bounds, options)
    _duplicate_segments(canvas, options)
    for start, stop in gaps:
        canvas.codes[start:stop] = N
        canvas.mask[start:stop] = False
        canvas.classes[start:stop] = UNIQUE
    pieces = list(pairwise(bounds))
    return SimulatedGenome(
        tuple(f"{options.name}{i + 1}" for i in range(options.n_contigs)),
        tuple(canvas.codes[start:stop].copy() for start, stop in pieces),
        tuple(canvas.mask[start:stop].copy() for start, stop in pieces),
        tuple(canvas.classes[start:stop].copy() for start, stop in pieces),
    )


def minisatellite(rng: np.random.Generator) -> Codes:
    """A unit of 10 to 60 bases, 5 to 30 times, copies up to 5 % apart from the first."""
    unit = random_bases(int(rng.integers(10, 61)), rng)
    age = rng.uniform(0.0, 0.05)
    return np.concatenate([mutate(unit, age, 0.05 * age, rng) for _ in range(int(rng.integers(5, 31)))])


def higher_order_repeat(ancestor: Codes, divergence: tuple[float, float], rng: np.random.Generator) -> Codes:
    """Five to sixteen monomers that differ from each other by about these rates, one behind the other.

    Each is mutated from the ancestor at such a rate x that two of them differ at x + y of their bases, less the
    places where both changed and now agree: 2 x - 4/3 x^2 for equal rates.
    """
    pieces = []
    for _ in range(int(rng.integers(5, 17))):
        x = 0.75 * (1.0 - np.sqrt(1.0 - 4.0 / 3.0 * rng.uniform(*divergence)))
        pieces.append(mutate(ancestor, x, 0.002, rng))
    return np.concatenate(pieces)


def _reserve_gaps(canvas: _Canvas, bounds: list[int], share: float) -> list[tuple[int, int]]:
    """Places of N: half of them at the contig's start, half inside. Contig ends are kept from being crossed."""
    gaps = []
    for start, stop in pairwise(bounds):
        half = int((stop - start) * share / 2)
        inside = int(canvas.rng.integers(start + (stop - start) // 4, stop - (stop - start) // 4))
        gaps += [(start, start + half), (inside, inside + half)]
    for start, stop in gaps:
        canvas.taken[start:stop] = True
    canvas.taken[bounds[1:-1]] = True
    return gaps


def _scatter_family(canvas: _Canvas, family: RepeatFamily) -> None:
    rng = canvas.rng
    ancestor = background(family.length, rng)
    consensus = [mutate(ancestor, 0.05, 0.002, rng) for _ in range(family.n_subfamilies)]
    covered = 0
    while covered < family.share * len(canvas.codes):
        copy = consensus[int(rng.integers(len(consensus)))]
        if family.truncated:
            copy = copy[-int(min(len(copy), max(100, rng.exponential(900)))) :]
        age = rng.uniform(*family.divergence)
        covered += canvas.scatter(mutate(copy, 0.95 * age, 0.05 * age, rng), INTERSPERSED)


def _plant_satellites(canvas: _Canvas, bounds: list[int], options: HardGenomeOptions) -> None:
    """One array a contig, its length in proportion; the first two contigs share their higher-order repeat."""
    rng = canvas.rng
    ancestor = background(_MONOMER, rng)
    repeat = higher_order_repeat(ancestor, options.monomer_divergence, rng)
    for i, (start, stop) in enumerate(pairwise(bounds)):
        if i > 1:
            repeat = higher_order_repeat(ancestor, options.monomer_divergence, rng)
        length = int((stop - start) * options.satellite_share)
        pieces, made = [], 0
        while made < length:
            age = rng.uniform(*options.copy_divergence) / 2  # from the common origin: half of the difference
            pieces.append(mutate(repeat, 0.98 * age, 0.02 * age, rng))
            made += len(pieces[-1])
        array = np.concatenate(pieces)[:length] if pieces else np.empty(0, np.uint8)
        for _ in range(_TRIES):
            place = int(rng.integers(start, stop - length + 1))
            if not canvas.taken[place : place + length].any():
                canvas.paste(place, array, SATELLITE)
                canvas.taken[place : place + length] = True
                break


def _duplicate_segments(canvas: _Canvas, options: HardGenomeOptions) -> None:
    """Copies of 5 to 60 kb on any contig and strand, some of them several times, some exact."""
    rng = canvas.rng
    size = len(canvas.codes)
    longest = min(60_000, size // 100)
    shortest = min(5_000, longest // 2)
    covered = 0
    while covered < options.duplication_share * size:
        length = int(rng.integers(shortest, longest + 1))
        origin = canvas.free_place(length)
        if origin is None:
            return
        canvas.taken[origin : origin + length] = True
        source = canvas.codes[origin : origin + length].copy()
        n_copies = min(int(rng.geometric(0.75)), 4)
        for _ in range(n_copies):
            age = 0.0 if rng.random() < options.exact_share else rng.uniform(*options.duplication_divergence)
            copy = mutate(source, 0.98 * age, 0.02 * age, rng)
            if rng.random() < 0.5:
                copy = reverse_complement(copy)
            place = canvas.free_place(len(copy))
            if place is None:
                return
            canvas.paste(place, copy, SEGDUP)
            canvas.taken[place : place + len(copy)] = True
            covered += len(copy)
        canvas.classes[origin : origin + length] = SEGDUP
