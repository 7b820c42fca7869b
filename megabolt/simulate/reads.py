# SPDX-License-Identifier: Apache-2.0
"""Paired reads drawn from two haplotypes, with the truth of every pair in its name.

In: a `Source` (two haplotypes of any number of contigs); out: FASTQ of mate 1 and mate 2; next: any aligner.

Every random number of pair i comes from a generator seeded by (seed, i): the output does not depend on how
many pairs are made at a time, and pair i of a run of 1,000 is pair i of a run of 1,000,000.

A name says where both reads come from:

    sim<ordinal>_<haplotype>_<position 1><strand 1>_<position 2><strand 2>_<F or D>_<contig>

`ordinal` counts pairs from 0; `haplotype` is 1 or 2; a position is 1-based, the leftmost base of the read's
origin, in the coordinates of the reference (of the haplotype itself if haplotypes were given without a
reference); a strand is + or -; D marks a PCR duplicate of an earlier pair. `parse_name` reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabolt.compute.jit import inline, kernel
from megabolt.errors import UsageError
from megabolt.formats.bases import N
from megabolt.simulate.draws import draw, seed_for, uniform, waiting_time
from megabolt.simulate.slippage import (
    MAX_GROWTH,
    MAX_SLIPS,
    REACH,
    draw_slips,
    fill_template,
    library_named,
    sort_slips,
    tracts_of,
)

#: Levels of wear between a fresh and a worn-out cycle for which quality distributions are tabulated.
N_LEVELS = 64

#: Illumina TruSeq adapters that a read meets when its fragment is shorter than the read; poly-G follows.
ADAPTERS = (b"AGATCGGAAGAGCACACGTCTGAACTCCAGTCAC", b"AGATCGGAAGAGCGTCGTGTAGGGAAAGAGTGT")

U = np.uint64


@dataclass(frozen=True)
class QualityProfile:
    """Binned base qualities of an instrument: what a fresh and what a worn-out cycle looks like.

    Parameters
    ----------
    values
        Phred qualities in use, rising.
    fresh, worn
        Weight of each value at wear 0 and at wear 1; a cycle lies between them.
    """

    values: tuple[int, ...]
    fresh: tuple[float, ...]
    worn: tuple[float, ...]


#: Weights chosen so that 2 x 150 reads have 0.1 to 0.2 % wrong bases over all and 0.4 % in the last cycles,
#: much as ART's HiSeq X profile has. The bins are those of Illumina (eight levels, NovaSeq four).
PROFILES: dict[str, QualityProfile] = {
    "hiseqx": QualityProfile(
        (2, 6, 15, 22, 27, 33, 37, 40),
        (0.0, 0.0005, 0.002, 0.004, 0.008, 0.03, 0.16, 0.7955),
        (0.0, 0.020, 0.045, 0.055, 0.08, 0.14, 0.26, 0.40),
    ),
    "novaseq": QualityProfile((2, 12, 23, 37), (0.0, 0.002, 0.008, 0.99), (0.002, 0.07, 0.13, 0.798)),
}


@dataclass(frozen=True)
class ReadOptions:
    """How reads are drawn. Lengths in bases; rates per base; `duplicates` per pair; `library`: see `slippage`."""

    length: int = 150
    insert_mean: float = 420.0
    insert_sd: float = 90.0
    duplicates: float = 0.0
    substitution: float = 0.0
    insertion_error: float = 3e-5
    deletion_error: float = 3e-5
    profile: str = "hiseqx"
    library: str = "none"

    def __post_init__(self) -> None:
        if not 20 <= self.length <= 1000:
            raise UsageError(f"the read length {self.length} is not between 20 and 1000")
        if self.insert_mean <= 0 or self.insert_sd < 0:
            raise UsageError("the insert size needs a positive mean and a standard deviation of at least 0")
        for name in ("duplicates", "substitution", "insertion_error", "deletion_error"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"the rate {name} = {getattr(self, name)} is not in [0, 1)")
        if self.profile not in PROFILES:
            raise UsageError(f"unknown quality profile {self.profile!r}", f"Known: {', '.join(PROFILES)}.")
        library_named(self.library)


@dataclass(frozen=True)
class Source:
    """Two haplotypes to draw from, one contig after another: all of haplotype 1, then all of haplotype 2.

    Parameters
    ----------
    codes
        uint8 [total], base codes.
    contig_start
        int64 [n_contigs + 1], where each contig starts in `codes`.
    n_first
        How many of the contigs belong to haplotype 1.
    names
        Contig names as the read names shall say them.
    anchor, anchor_reference
        int64 [n_anchors], sorted: places in `codes`, and the reference position of each (0-based);
        bases between two anchors count up from the first, but never beyond the second (inserted bases).
    """

    codes: NDArray[np.uint8]
    contig_start: NDArray[np.int64]
    n_first: int
    names: tuple[str, ...]
    anchor: NDArray[np.int64]
    anchor_reference: NDArray[np.int64]

    @property
    def called_bases(self) -> int:
        """Bases other than N, both haplotypes together."""
        return int(np.count_nonzero(self.codes < N))


@dataclass(frozen=True)
class ReadOrigin:
    """What a simulated read's name says; `start` and `reverse` hold mate 1 and mate 2; start is 0-based."""

    ordinal: int
    haplotype: int
    start: tuple[int, int]
    reverse: tuple[bool, bool]
    duplicate: bool
    contig: str


def parse_name(name: str) -> ReadOrigin:
    """Read a simulated pair's origin back from its name (without '@' and anything behind a blank)."""
    ordinal, haplotype, first, second, kind, contig = name.split("_", 5)
    return ReadOrigin(
        int(ordinal.removeprefix("sim")),
        int(haplotype),
        (int(first[:-1]) - 1, int(second[:-1]) - 1),
        (first[-1] == "-", second[-1] == "-"),
        kind == "D",
        contig,
    )


def plain_source(haplotypes: Sequence[Sequence[tuple[str, NDArray[np.uint8]]]]) -> Source:
    """Source of two haplotypes (lists of name and codes) whose own coordinates are the truth."""
    contigs = [contig for haplotype in haplotypes for contig in haplotype]
    lengths = np.array([len(codes) for _, codes in contigs], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    anchor = np.stack([starts[:-1], starts[1:]], 1).reshape(-1)
    reference = np.stack([np.zeros_like(lengths), lengths], 1).reshape(-1)
    return Source(
        np.concatenate([codes for _, codes in contigs]),
        starts,
        len(haplotypes[0]),
        tuple(name for name, _ in contigs),
        anchor,
        reference,
    )


def quality_tables(
    profile: QualityProfile,
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Values, cumulative weights (float64 [N_LEVELS, n_values]) and P(wrong base) of each value."""
    wear = np.linspace(0, 1, N_LEVELS)[:, None]
    weights = (1 - wear) * np.array(profile.fresh) + wear * np.array(profile.worn)
    cumulative = np.cumsum(weights, 1) / weights.sum(1, keepdims=True)
    cumulative[:, -1] = 1.0
    values = np.array(profile.values, np.uint8)
    p_error = np.minimum(10.0 ** (-values.astype(np.float64) / 10), 0.75)
    return values, np.ascontiguousarray(cumulative), p_error


def simulate_reads(
    source: Source,
    n_pairs: int,
    seed: int,
    options: ReadOptions,
    *,
    pairs_per_batch: int = 20_000,
    places: NDArray[np.int64] | None = None,
) -> Iterator[tuple[memoryview, memoryview]]:
    """FASTQ text of mates 1 and 2, batch by batch.

    The views are valid until the next batch is asked for. Haplotypes take turns: pair i comes from haplotype
    i % 2 + 1 (a duplicate from that of its origin). Fragments lie inside one contig and their reads hold no N
    of the source; a genome without such a place raises `UsageError`.

    `places`, if given, is int64 [2, pairs_per_batch, length] and filled with each batch: where in `source.codes`
    the base of each cycle was read; -1 for inserted bases and adapter.
    """
    values, cumulative, p_error = quality_tables(PROFILES[options.profile])
    encoded = [name.encode() for name in source.names]
    names = np.frombuffer(b"".join(encoded), np.uint8).copy()
    name_offset = np.concatenate([[0], np.cumsum([len(name) for name in encoded])]).astype(np.int64)
    adapters = np.full((2, options.length), ord("G"), np.uint8)
    for mate, adapter in enumerate(ADAPTERS):
        text = np.frombuffer(adapter, np.uint8)[: options.length]
        adapters[mate, : len(text)] = text
    rates = np.array(
        [
            options.insert_mean,
            options.insert_sd,
            options.duplicates,
            options.substitution,
            options.insertion_error,
            options.deletion_error,
        ]
    )
    tracts = tracts_of(source.codes, source.contig_start, options.library)
    record = 100 + max(len(name) for name in encoded) + 2 * options.length
    out = np.empty((2, pairs_per_batch * record), np.uint8)
    size = np.zeros(2, np.int64)
    if places is None:
        places = np.empty((2, 0, 0), np.int64)
    for first in range(0, n_pairs, pairs_per_batch):
        n = min(pairs_per_batch, n_pairs - first)
        placed = fill_pairs(
            first,
            n,
            U(seed & 0xFFFFFFFFFFFFFFFF),
            source.codes,
            source.contig_start,
            source.n_first,
            names,
            name_offset,
            source.anchor,
            source.anchor_reference,
            options.length,
            rates,
            adapters,
            values,
            cumulative,
            p_error,
            tracts.start,
            tracts.period,
            tracts.units,
            tracts.hazard,
            tracts.steps,
            out,
            size,
            places,
        )
        if placed < n:
            raise UsageError(
                f"no fragment of about {options.insert_mean:.0f} bases without N fits into the haplotypes",
                "Use longer contigs, a shorter --read-length or a smaller --insert.",
            )
        yield out[0, : size[0]].data, out[1, : size[1]].data


def mean_error(profile: QualityProfile, wear: float) -> float:
    """Expected rate of wrong bases at one wear, for documentation and tests."""
    _, _, p_error = quality_tables(profile)
    weights = (1 - wear) * np.array(profile.fresh) + wear * np.array(profile.worn)
    return float((weights * p_error).sum() / weights.sum())


@inline
def _write_number(out: Any, at: Any, number: Any) -> Any:
    """Decimal digits of a number >= 0 at out[at:]; returns the place behind them."""
    digits = 1
    rest = number // 10
    while rest > 0:
        digits += 1
        rest //= 10
    for k in range(digits):
        out[at + digits - 1 - k] = 48 + number % 10
        number //= 10
    return at + digits


@inline
def _reference_position(anchor: Any, anchor_reference: Any, position: Any) -> Any:
    """Reference position of a base of the source."""
    i = np.searchsorted(anchor, position, side="right") - 1
    here = anchor_reference[i] + position - anchor[i]
    if i + 1 < len(anchor) and anchor[i + 1] > anchor[i]:
        here = min(here, anchor_reference[i + 1])
    return here


@inline
def _next_place(template: Any, k: Any) -> Any:
    """The place of the first base at or behind template[k] that is no gained one; gained ones precede a tract."""
    while template[k] < 0:
        k += 1
    return template[k]


@kernel(
    "int64(int64, int64, uint64, uint8[::1], int64[::1], int64, uint8[::1], int64[::1], int64[::1],"
    "int64[::1], int64, float64[::1], uint8[:, ::1], uint8[::1], float64[:, ::1], float64[::1],"
    "int64[::1], uint8[::1], int32[::1], float64[:, ::1], float64[:, ::1],"
    "uint8[:, ::1], int64[::1], int64[:, :, ::1])"
)
def fill_pairs(
    first: int,
    n: int,
    seed: Any,
    codes: NDArray[np.uint8],
    contig_start: NDArray[np.int64],
    n_first: int,
    names: NDArray[np.uint8],
    name_offset: NDArray[np.int64],
    anchor: NDArray[np.int64],
    anchor_reference: NDArray[np.int64],
    length: int,
    rates: NDArray[np.float64],
    adapters: NDArray[np.uint8],
    values: NDArray[np.uint8],
    cumulative: NDArray[np.float64],
    p_error: NDArray[np.float64],
    tract_start: NDArray[np.int64],
    period: NDArray[np.uint8],
    units: NDArray[np.int32],
    hazard: NDArray[np.float64],
    steps: NDArray[np.float64],
    out: NDArray[np.uint8],
    size: NDArray[np.int64],
    places: NDArray[np.int64],
) -> int:
    """Write pairs [first, first + n) to out[mate]; returns how many found a place (n if all is well).

    places: see `simulate_reads`; left alone if it has no rows.
    """
    # i: pair; t: base of the template as the mate reads it; c: cycle; rates: see simulate_reads
    insert_mean, insert_sd, duplicates, substitution = rates[0], rates[1], rates[2], rates[3]
    insertion, deletion = rates[4], rates[5]
    indel = insertion + deletion
    letters = np.array([65, 67, 71, 84, 78], np.uint8)
    state = np.zeros(1, np.uint64)
    slips = np.zeros((2 * MAX_SLIPS, 2), np.int64)
    template = np.zeros(int(insert_mean + 10.0 * insert_sd) + MAX_GROWTH + 1, np.int64)
    reach = length + (REACH if len(tract_start) else 0)
    place = np.zeros(2, np.int64)  # reference position of each mate's leftmost base
    size[0] = 0
    size[1] = 0
    n_contigs = len(contig_start) - 1
    for i in range(first, first + n):
        origin = i
        while duplicates > 0.0 and origin > 0:  # copies of copies lead back to the first one
            seed_for(state, seed, origin, 0)
            if uniform(state) >= duplicates:
                break
            origin -= 1 + int(uniform(state) * min(origin, 5000))
        seed_for(state, seed, origin, 1)
        haplotype = origin & 1
        low = contig_start[n_first] if haplotype == 1 else 0
        high = contig_start[n_contigs] if haplotype == 1 else contig_start[n_first]
        start, insert, contig, found = 0, 0, np.int64(0), False
        for _attempt in range(10000):
            normal = math.sqrt(-2.0 * math.log(uniform(state))) * math.cos(6.283185307179586 * uniform(state))
            insert = int(insert_mean + insert_sd * normal + 0.5)
            start = low + int(uniform(state) * (high - low))
            contig = np.int64(np.searchsorted(contig_start, start, side="right") - 1)
            if insert < 35 or start + insert > contig_start[contig + 1]:
                continue
            found = True
            for t in range(min(reach, insert)):
                if codes[start + t] > 3 or codes[start + insert - 1 - t] > 3:
                    found = False
                    break
            if found:
                break
        if not found:
            return i - first
        flip = np.int64(draw(state) & U(1))  # 0: mate 1 reads the forward strand
        n_slips = 0
        tract = np.int64(np.searchsorted(tract_start, start))
        tract_stop = np.int64(np.searchsorted(tract_start, start + insert))
        if len(tract_start):
            seed_for(state, seed, origin, 3)
            n_slips = draw_slips(state, tract, tract_stop, hazard[0], period, units, steps, n_slips, slips)
        seed_for(state, seed, i, 2)
        if len(tract_start):
            n_slips = draw_slips(state, tract, tract_stop, hazard[1], period, units, steps, n_slips, slips)
            n_slips = sort_slips(slips, n_slips)
        insert = fill_template(start, start + insert, tract_start, period, units, slips, n_slips, template)
        span = min(length, insert)
        left = _reference_position(anchor, anchor_reference, _next_place(template, 0))
        right = _reference_position(anchor, anchor_reference, _next_place(template, insert - span))
        place[0] = right if flip else left
        place[1] = left if flip else right
        for mate in range(2):
            reverse = (mate == 1) != (flip == 1)
            at = size[mate]
            text = out[mate]
            text[at] = 64  # @
            text[at + 1] = 115  # sim
            text[at + 2] = 105
            text[at + 3] = 109
            at = _write_number(text, at + 4, i)
            text[at] = 95
            text[at + 1] = 49 + haplotype
            text[at + 2] = 95
            at = _write_number(text, at + 3, place[0] + 1)
            text[at] = 45 if flip else 43  # - or +
            text[at + 1] = 95
            at = _write_number(text, at + 2, place[1] + 1)
            text[at] = 43 if flip else 45
            text[at + 1] = 95
            text[at + 2] = 68 if origin != i else 70  # D or F
            text[at + 3] = 95
            at += 4
            for k in range(name_offset[contig], name_offset[contig + 1]):
                text[at] = names[k]
                at += 1
            text[at] = 10
            at += 1
            quality_at = at + length + 3
            # Wear: a few reads are poor throughout, all get worse towards the end, mate 2 more so.
            wear = -0.04 * math.log(uniform(state))
            if uniform(state) < 0.015:
                wear += 0.7
            slope = 0.45 if mate == 0 else 0.65
            next_indel = waiting_time(state, indel)
            next_extra = waiting_time(state, substitution)
            t = 0
            q = len(values) - 1
            for c in range(length):
                bits = draw(state)
                if c == 0 or (bits & U(0xFFFF)) < U(22938):  # 35 % of cycles draw a new quality
                    share = (c + 1.0) / length
                    level = min(int((wear + slope * share * math.sqrt(share)) * N_LEVELS), N_LEVELS - 1)
                    u = float((bits >> U(16)) & U(0xFFFFFF)) * (1.0 / 16777216.0)
                    q = 0
                    while cumulative[level, q] <= u and q < len(values) - 1:
                        q += 1
                inserted = False
                if next_indel == 0:
                    if uniform(state) * indel < insertion:
                        inserted = True
                    else:
                        t += 1
                    next_indel = waiting_time(state, indel) + 1
                next_indel -= 1
                base = np.uint8(78)
                code = np.int64(4)
                there = np.int64(-1)
                if t < insert:
                    there = template[insert - 1 - t if reverse else t]
                if places.shape[1] > 0:
                    places[mate, i - first, c] = there if there >= 0 and not inserted else -1
                if inserted:
                    code = np.int64(draw(state) >> U(62))
                elif t < insert:
                    code = np.int64(codes[there if there >= 0 else -1 - there])
                    if code < 4 and reverse:
                        code = 3 - code
                    t += 1
                else:
                    base = adapters[mate, min(t - insert, length - 1)]
                    t += 1
                if next_extra == 0:
                    if code < 4:
                        code = (code + 1 + int(uniform(state) * 3)) & 3
                    next_extra = waiting_time(state, substitution) + 1
                next_extra -= 1
                if code < 4:
                    if uniform(state) < p_error[q]:
                        code = (code + 1 + int(uniform(state) * 3)) & 3
                    base = letters[code]
                text[at + c] = base
                text[quality_at + c] = 33 + values[q]
            text[at + length] = 10
            text[at + length + 1] = 43
            text[at + length + 2] = 10
            text[quality_at + length] = 10
            size[mate] = quality_at + length + 1
    return n
