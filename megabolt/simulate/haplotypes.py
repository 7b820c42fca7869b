# SPDX-License-Identifier: Apache-2.0
"""Two haplotypes from a reference and phased variants.

In: contigs and `PhasedVariant`s. Out: a `Source` of reads in the reference's coordinates. Next: reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import UsageError
from megabolt.formats.bases import encode
from megabolt.simulate.reads import Source

Contig = tuple[str, NDArray[np.uint8]]


@dataclass(frozen=True, order=True)
class PhasedVariant:
    """A site and which allele each haplotype has there (0 = ref, i = alts[i - 1])."""

    contig: int
    start: int
    ref: str
    alts: tuple[str, ...]
    genotype: tuple[int, int]

    @property
    def stop(self) -> int:
        return self.start + len(self.ref)


@dataclass(frozen=True)
class Edit:
    """Replace reference bases [start, stop) by `bases`."""

    start: int
    stop: int
    bases: str


def trimmed_edit(variant: PhasedVariant, allele: int) -> Edit:
    """The replacement that an allele stands for, without the bases it shares with ref at either end."""
    ref, alt = variant.ref, variant.alts[allele - 1]
    head = 0
    while head < min(len(ref), len(alt)) and ref[head] == alt[head]:
        head += 1
    tail = 0
    while tail < min(len(ref), len(alt)) - head and ref[-1 - tail] == alt[-1 - tail]:
        tail += 1
    return Edit(variant.start + head, variant.stop - tail, alt[head : len(alt) - tail])


def haplotype_edits(variants: Sequence[PhasedVariant], haplotype: int) -> list[Edit]:
    """What one haplotype (0 or 1) changes in one contig, in order.

    Raises
    ------
    UsageError
        Two variants of the same haplotype change the same bases: no such haplotype exists.
    """
    edits = []
    for variant in variants:
        allele = variant.genotype[haplotype]
        if allele and variant.alts[allele - 1] != "*":
            edits.append(trimmed_edit(variant, allele))
    edits.sort(key=lambda edit: (edit.start, edit.stop))
    for left, right in pairwise(edits):
        if right.start < left.stop:
            raise UsageError(
                f"two variants of haplotype {haplotype + 1} overlap at position {right.start + 1}",
                "Remove one of them from the phased VCF.",
            )
    return edits


def apply_edits(codes: NDArray[np.uint8], edits: Sequence[Edit]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The edited sequence and its anchors: int64 [n, 2], (its position, reference position): see `Source`."""
    pieces: list[NDArray[np.uint8]] = []
    anchors = [(0, 0)]
    done, length = 0, 0  # reference bases used; bases written
    for edit in edits:
        pieces += [codes[done : edit.start], encode(edit.bases)]
        length += edit.start - done + len(edit.bases)
        done = edit.stop
        anchors.append((length, done))
    pieces.append(codes[done:])
    anchors.append((length + len(codes) - done, len(codes)))
    return np.concatenate(pieces), np.array(anchors, np.int64)


def diploid_source(contigs: Sequence[Contig], variants: Sequence[PhasedVariant]) -> Source:
    """Both haplotypes of a reference under phased variants.

    Parameters
    ----------
    contigs
        Name and base codes of each contig of the reference.
    variants
        Sites in any order; `contig` counts the contigs.
    """
    by_contig: list[list[PhasedVariant]] = [[] for _ in contigs]
    for variant in variants:
        by_contig[variant.contig].append(variant)
    codes, anchors, starts = [], [], [0]
    for haplotype in (0, 1):
        for (_, sequence), sites in zip(contigs, by_contig):
            edited, places = apply_edits(sequence, haplotype_edits(sites, haplotype))
            places[:, 0] += starts[-1]
            codes.append(edited)
            anchors.append(places)
            starts.append(starts[-1] + len(edited))
    joined = np.concatenate(anchors)
    return Source(
        np.concatenate(codes),
        np.array(starts, np.int64),
        len(contigs),
        tuple(name for name, _ in contigs) * 2,
        np.ascontiguousarray(joined[:, 0]),
        np.ascontiguousarray(joined[:, 1]),
    )
