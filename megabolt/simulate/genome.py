# SPDX-License-Identifier: Apache-2.0
"""A random genome with the repeats that make real genomes hard: seeded, any size.

In: `GenomeOptions`. Out: `SimulatedGenome` (names, base codes, soft mask). Next: variants, haplotypes, reads.

Order of construction, later steps overwriting earlier ones: base composition (neighbour-dependent, few CG, GC
drifting along the genome), interspersed repeat families, segmental duplications, tandem repeats, runs of N.
Shares and divergences are those of the human genome, rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import kernel
from megabolt.errors import UsageError
from megabolt.formats.bases import N, reverse_complement

Codes = NDArray[np.uint8]

#: P(next base | base), rows and columns A C G T: human-like, CG rare.
TRANSITIONS = np.array(
    [[0.30, 0.20, 0.28, 0.22], [0.33, 0.28, 0.06, 0.33], [0.27, 0.23, 0.27, 0.23], [0.20, 0.22, 0.28, 0.30]]
)
#: Bases over which the GC content stays the same.
ISOCHORE = 200_000


@dataclass(frozen=True)
class RepeatFamily:
    """A family of interspersed repeats.

    Parameters
    ----------
    length
        Bases of the consensus.
    n_subfamilies
        Consensus sequences, 5 % apart.
    share
        Fraction of the genome that is covered.
    divergence
        Lowest and highest rate of substitutions of a copy.
    truncated
        Copies lose their 5' part, as retrotransposed LINEs do.
    """

    length: int
    n_subfamilies: int
    share: float
    divergence: tuple[float, float]
    truncated: bool


#: LINE-1-like, Alu-like, and old DNA/LTR elements.
FAMILIES = (
    RepeatFamily(6000, 12, 0.17, (0.02, 0.22), True),
    RepeatFamily(300, 12, 0.106, (0.03, 0.17), False),
    RepeatFamily(1500, 60, 0.10, (0.08, 0.25), True),
)


@dataclass(frozen=True)
class GenomeOptions:
    """What the genome looks like; `size` in bases, N included."""

    size: int = 1_000_000
    n_contigs: int = 3
    families: tuple[RepeatFamily, ...] = FAMILIES
    duplication_share: float = 0.04
    duplication_divergence: tuple[float, float] = (0.002, 0.06)
    tandem_spacing: int = 1500
    n_share: float = 0.01
    name: str = "sim"

    def __post_init__(self) -> None:
        if self.n_contigs < 1 or self.size < 2000 * self.n_contigs:
            raise UsageError(
                f"a genome of {self.size} bases cannot have {self.n_contigs} contigs",
                "Each contig needs at least 2,000 bases: raise --genome-size or lower --contigs.",
            )


@dataclass(frozen=True)
class SimulatedGenome:
    """Contigs of a genome: base codes (uint8) and soft mask (bool: lower case in FASTA), one array each.

    `classes` (uint8, see `hard.CLASS_NAMES`) is empty unless the genome was made with a map of its repeats.
    """

    names: tuple[str, ...]
    sequences: tuple[Codes, ...]
    masks: tuple[NDArray[np.bool_], ...]
    classes: tuple[NDArray[np.uint8], ...] = ()


def make_genome(options: GenomeOptions, seed: int) -> SimulatedGenome:
    """The genome of a seed."""
    rng = np.random.default_rng([seed, 1])
    genome = background(options.size, rng)
    mask = np.zeros(options.size, np.bool_)
    for family in options.families:
        _scatter_family(genome, mask, family, rng)
    _duplicate_segments(genome, options, rng)
    _scatter_tandem_repeats(genome, mask, options.tandem_spacing, rng)
    bounds = contig_bounds(options.size, options.n_contigs)
    for start, stop in pairwise(bounds):
        _place_gaps(genome, start, stop, options.n_share, rng)
    mask[genome == N] = False
    pieces = list(pairwise(bounds))
    return SimulatedGenome(
        tuple(f"{options.name}{i + 1}" for i in range(options.n_contigs)),
        tuple(genome[start:stop].copy() for start, stop in pieces),
        tuple(mask[start:stop].copy() for start, stop in pieces),
    )


def mutate(sequence: Codes, substitution: float, indel: float, rng: np.random.Generator) -> Codes:
    """A copy with substitutions and short insertions and deletions at these rates per base."""
    copy = sequence.copy()
    hit = np.flatnonzero(rng.random(len(copy)) < substitution)
    copy[hit] = (copy[hit] + rng.integers(1, 4, len(hit)).astype(np.uint8)) & 3
    places = np.flatnonzero(rng.random(len(copy)) < indel)
    if not len(places):
        return copy
    pieces, done = [], 0
    for place in places.tolist():
        if place < done:
            continue
        pieces.append(copy[done:place])
        length = int(rng.geometric(0.4))
        if rng.random() < 0.5:
            pieces.append(random_bases(length, rng))
            done = place
        else:
            done = place + length
    pieces.append(copy[done:])
    return np.concatenate(pieces)


def background(size: int, rng: np.random.Generator) -> Codes:
    """Sequence without repeats: neighbour-dependent, few CG, GC drifting along it."""
    out = np.empty(size, np.uint8)
    drift = (rng.random(size // ISOCHORE + 1) - 0.5) * 0.4
    step = 1 << 22  # random numbers at a time: bounds the memory
    previous = 0
    for start in range(0, size, step):
        part = out[start : start + step]
        previous = fillbackground(part, rng.random(len(part)), start, drift, TRANSITIONS, previous)
    return out


@kernel("int64(uint8[::1], float64[::1], int64, float64[::1], float64[:, ::1], int64)")
def fillbackground(
    out: Codes,
    uniform: NDArray[np.float64],
    offset: int,
    drift: NDArray[np.float64],
    transitions: NDArray[np.float64],
    previous: int,
) -> int:
    """A Markov chain of bases whose C and G weights drift; returns the last base."""
    for i in range(len(out)):
        gc = drift[(offset + i) // 200_000]
        a = transitions[previous, 0] * (1.0 - gc)
        c = transitions[previous, 1] * (1.0 + gc)
        g = transitions[previous, 2] * (1.0 + gc)
        t = transitions[previous, 3] * (1.0 - gc)
        u = uniform[i] * (a + c + g + t)
        previous = 0 if u < a else (1 if u < a + c else (2 if u < a + c + g else 3))
        out[i] = previous
    return previous


def random_bases(length: int, rng: np.random.Generator) -> Codes:
    """Bases drawn evenly."""
    return rng.integers(0, 4, length).astype(np.uint8)


def _paste(genome: Codes, mask: NDArray[np.bool_] | None, copy: Codes, rng: np.random.Generator) -> int:
    """Put a sequence, on a random strand, at a random place; returns the bases covered."""
    copy = copy[: max(1, len(genome) // 4)]
    if rng.random() < 0.5:
        copy = reverse_complement(copy)
    start = int(rng.integers(0, len(genome) - len(copy) + 1))
    genome[start : start + len(copy)] = copy
    if mask is not None:
        mask[start : start + len(copy)] = True
    return len(copy)


def _scatter_family(genome: Codes, mask: NDArray[np.bool_], family: RepeatFamily, rng: np.random.Generator) -> None:
    ancestor = background(family.length, rng)
    consensus = [mutate(ancestor, 0.05, 0.002, rng) for _ in range(family.n_subfamilies)]
    covered = 0
    while covered < family.share * len(genome):
        copy = consensus[int(rng.integers(len(consensus)))]
        if family.truncated:
            copy = copy[-int(min(len(copy), max(100, rng.exponential(900)))) :]
        age = rng.uniform(*family.divergence)
        covered += _paste(genome, mask, mutate(copy, 0.9 * age, 0.05 * age, rng), rng)


def _duplicate_segments(genome: Codes, options: GenomeOptions, rng: np.random.Generator) -> None:
    longest = min(60_000, len(genome) // 50)
    shortest = min(5_000, longest // 2)
    covered = 0
    while covered < options.duplication_share * len(genome):
        length = int(rng.integers(shortest, longest + 1))
        start = int(rng.integers(0, len(genome) - length + 1))
        age = rng.uniform(*options.duplication_divergence)
        covered += _paste(genome, None, mutate(genome[start : start + length], age, 2e-4, rng), rng)


def tandem_repeat(rng: np.random.Generator) -> Codes:
    """A homopolymer (mostly A/T), a dinucleotide or a longer unit, of realistic length; some interrupted."""
    kind = rng.random()
    if kind < 0.45:
        unit = np.array([0 if rng.random() < 0.85 else 1], np.uint8)  # the strand is drawn later: A = T, C = G
        copies = min(6 + int(rng.geometric(0.14)), 40)
    elif kind < 0.70:
        unit = np.array([(0, 1), (0, 3), (0, 2)][int(rng.choice(3, p=[0.55, 0.25, 0.2]))], np.uint8)
        copies = min(4 + int(rng.geometric(0.12)), 32)
    else:
        unit = random_bases(int(rng.integers(3, 7)), rng)
        copies = min(3 + int(rng.geometric(0.22)), 24)
    repeat = np.tile(unit, copies)
    if rng.random() < 0.2:
        place = int(rng.integers(len(repeat)))
        repeat[place] = (repeat[place] + 1 + rng.integers(3)) & 3
    return repeat


def _scatter_tandem_repeats(genome: Codes, mask: NDArray[np.bool_], spacing: int, rng: np.random.Generator) -> None:
    for _ in range(len(genome) // spacing):
        _paste(genome, mask, tandem_repeat(rng), rng)


def contig_bounds(size: int, n_contigs: int) -> list[int]:
    """Contig ends: like chromosomes, each shorter than the one before."""
    weight = 1.0 / np.sqrt(np.arange(1, n_contigs + 1))
    spare = size - 1000 * n_contigs
    lengths = 1000 + (spare * weight / weight.sum()).astype(np.int64)
    lengths[0] += size - int(lengths.sum())
    return [0, *np.cumsum(lengths).tolist()]


def _place_gaps(genome: Codes, start: int, stop: int, share: float, rng: np.random.Generator) -> None:
    """Half of the N at the contig's start, where telomeres are unsequenced, half somewhere inside."""
    half = int((stop - start) * share / 2)
    if half == 0:
        return
    genome[start : start + half] = N
    inside = int(rng.integers(start + half, stop - half))
    genome[inside : inside + half] = N
