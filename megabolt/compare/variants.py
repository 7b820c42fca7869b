# SPDX-License-Identifier: Apache-2.0
"""Variants as a comparison sees them: what each of a genotype's two alleles replaces in the reference.

In: `VcfRecord`s. Out: `Variant`s per contig. Next: clusters.

Conventions follow RTG vcfeval with --ref-overlap, so that figures can be put side by side: alleles lose the
bases they share with REF (first at the left, then at the right), a missing allele and '*' leave their
haplotype alone, a haploid genotype counts as homozygous, records without a called alternative allele take
no part.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabolt.errors import InputFormatError
from megabolt.formats.vcf import VcfRecord

#: Alleles beyond this length are left out, as in vcfeval: replaying them proves little and costs much.
LONGEST_ALLELE = 1000


class VariantClass(enum.Enum):
    """An indel has an alternative allele of another length than REF; everything else counts as SNP."""

    SNP = "SNP"
    INDEL = "indel"


class Replacement(NamedTuple):
    """Reference bases [start, stop) become `bases`; one of the two may be empty, not both."""

    start: int
    stop: int
    bases: bytes


#: What haplotype 1 and haplotype 2 have at a site; None: the reference, or not known.
Alleles = tuple[Replacement | None, Replacement | None]


@dataclass(slots=True)
class Variant:
    """A called site of one sample.

    Parameters
    ----------
    record
        Ordinal of the VCF record in its file, from 0.
    inside
        Whether it is counted (it lies in the regions of interest); outside ones still take part in matching.
    placements
        One pair of alleles, or two if an overlapped record can be trimmed in two ways.
    start, stop
        Reference bases that the placements touch; equal for an insertion.
    """

    record: int
    variant_class: VariantClass
    inside: bool
    placements: tuple[Alleles, ...]
    start: int = 0
    stop: int = 0

    def __post_init__(self) -> None:
        self.bound()

    def bound(self) -> None:
        """Recompute start and stop from the placements."""
        alleles = [allele for placement in self.placements for allele in placement if allele is not None]
        self.start = min(allele.start for allele in alleles)
        self.stop = max(allele.stop for allele in alleles)

    @property
    def length_changes(self) -> set[int]:
        """By how many bases its alleles are longer (or, negative, shorter) than what they replace; never 0."""
        changes = {len(a.bases) - (a.stop - a.start) for a in self.placements[0] if a is not None}
        return changes - {0}

    @property
    def identity(self) -> Alleles:
        """The alleles in an order that does not depend on phase, for equality."""
        first, second = self.placements[0]
        if first is None or (second is not None and second < first):
            return second, first
        return first, second


@dataclass(frozen=True)
class Selection:
    """Which records take part. `regions`: sorted intervals per contig name; None: everywhere counts."""

    passing_only: bool = True
    min_qual: float | None = None
    regions: Mapping[str, NDArray[np.int64]] | None = None


@dataclass
class VariantSet:
    """Variants per contig, sorted by start, and how many records were left out for which reason."""

    by_contig: dict[str, list[Variant]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    n_records: int = 0

    def skip(self, reason: str) -> None:
        """Count a record that takes no part."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def collect(
    path: Path, records: Iterable[VcfRecord], sequences: Mapping[str, bytes], selection: Selection
) -> VariantSet:
    """Variants of a VCF's chosen sample.

    Raises
    ------
    InputFormatError
        A contig that the reference lacks, a REF that disagrees with it, or an allele number out of range.
    """
    found = VariantSet()
    for number, record in enumerate(records):
        found.n_records += 1
        reason = _reason_to_skip(record, selection)
        if reason is not None:
            found.skip(reason)
            continue
        alleles = _called_alleles(path, number, record)
        if alleles is None:
            found.skip("no called alternative allele")
            continue
        if len(alleles) != 2:
            found.skip("neither haploid nor diploid")
            continue
        _check_reference(path, number, record, sequences)
        inside = selection.regions is None or _overlaps(selection.regions.get(record.contig), record)
        placements = _placements(record, alleles)
        if placements[0] == (None, None):
            found.skip("no called alternative allele")
            continue
        variant = Variant(number, classify(record), inside, placements)
        found.by_contig.setdefault(record.contig, []).append(variant)
    for variants in found.by_contig.values():
        _choose_placements(variants)
        variants.sort(key=lambda variant: (variant.start, variant.stop, variant.record))
    return found


def classify(record: VcfRecord) -> VariantClass:
    """SNP or indel, by the record's alternative alleles other than '*' and symbolic ones."""
    if any(len(alt) != len(record.ref) for alt in record.alts if _is_sequence(alt)):
        return VariantClass.INDEL
    return VariantClass.SNP


def trim(start: int, ref: bytes, alt: bytes, *, left_first: bool) -> Replacement | None:
    """What an allele changes, without the bases it shares with REF; None if it changes nothing."""
    if ref == alt:
        return None
    shorter = min(len(ref), len(alt))
    head = tail = 0
    for at_head in (left_first, not left_first):
        if at_head:
            while head < shorter - tail and ref[head] == alt[head]:
                head += 1
        else:
            while tail < shorter - head and ref[-1 - tail] == alt[-1 - tail]:
                tail += 1
    return Replacement(start + head, start + len(ref) - tail, alt[head : len(alt) - tail])


def _is_sequence(alt: str) -> bool:
    return alt not in ("*", ".") and alt[0] != "<" and "[" not in alt and "]" not in alt


def _reason_to_skip(record: VcfRecord, selection: Selection) -> str | None:
    if not any(_is_sequence(alt) for alt in record.alts):
        return "no alternative allele"
    if selection.passing_only and record.filter not in ("PASS", "."):
        return "filtered"
    if selection.min_qual is not None and (record.qual is None or record.qual < selection.min_qual):
        return "QUAL too low"
    if max(len(record.ref), *(len(alt) for alt in record.alts)) > LONGEST_ALLELE:
        return f"allele of more than {LONGEST_ALLELE} bases"
    return None


def _called_alleles(path: Path, number: int, record: VcfRecord) -> tuple[int | None, ...] | None:
    """Allele numbers of the genotype, a haploid one doubled; None if no alternative sequence is called."""
    text = str(record.genotype.get("GT", "."))
    numbers = [None if one in (".", "") else int(one) for one in text.replace("|", "/").split("/")]
    if any(one is not None and one > len(record.alts) for one in numbers):
        raise InputFormatError(
            path,
            f"record {number + 1}",
            f"genotype {text} names an allele that is not there",
            "Repair the VCF.",
        )
    if not any(one and _is_sequence(record.alts[one - 1]) for one in numbers):
        return None
    return (numbers[0], numbers[0]) if len(numbers) == 1 else tuple(numbers)


def _placements(record: VcfRecord, alleles: Sequence[int | None]) -> tuple[Alleles, ...]:
    left = _placement(record, alleles, True)
    if len(record.ref) == 1:
        return (left,)  # an SNP or an insertion: no bases of REF that another record could need
    right = _placement(record, alleles, False)
    return (left,) if left == right else (left, right)


def _placement(record: VcfRecord, alleles: Sequence[int | None], left_first: bool) -> Alleles:
    ref = record.ref.upper().encode()
    pair: list[Replacement | None] = []
    for allele in alleles:
        if not allele or not _is_sequence(record.alts[allele - 1]):
            pair.append(None)
        else:
            pair.append(trim(record.start, ref, record.alts[allele - 1].upper().encode(), left_first=left_first))
    return pair[0], pair[1]


def _check_reference(path: Path, number: int, record: VcfRecord, sequences: Mapping[str, bytes]) -> None:
    sequence = sequences.get(record.contig)
    where = f"record {number + 1}"
    if sequence is None:
        why = f"the reference has no contig {record.contig}"
        raise InputFormatError(path, where, why, "Compare against the reference the calls were made with.")
    ref = record.ref.upper().encode()
    there = sequence[record.start : record.start + len(ref)]
    if there == ref:
        return
    if len(there) < len(ref) or any(a != b and a in b"ACGT" and b in b"ACGT" for a, b in zip(ref, there)):
        why = f"REF at {record.contig}:{record.start + 1} is not what the reference has there"
        raise InputFormatError(path, where, why, "Compare against the reference the calls were made with.")


def _overlaps(intervals: NDArray[np.int64] | None, record: VcfRecord) -> bool:
    """Whether the record, less the base that all its alleles share in front, overlaps an interval.

    An insertion between two bases is inside if both are (vcfeval's rule for --evaluation-regions).
    """
    if intervals is None or len(intervals) == 0:
        return False
    alts = [alt for alt in record.alts if alt[0] != "*"]
    padded = bool(alts) and all(alt[0] == record.ref[0] for alt in alts)
    start, stop = record.start + padded, record.start + len(record.ref)
    i = bisect_left(intervals[:, 0], stop) - 1  # the last interval that begins before `stop`
    return i >= 0 and start < int(intervals[i, 1])


def _choose_placements(variants: list[Variant]) -> None:
    """Keep the second way of trimming only where a record overlaps another one of its own file.

    Elsewhere both ways give the same haplotypes.
    """
    variants.sort(key=lambda variant: (variant.start, variant.stop))
    furthest = -1
    for i, variant in enumerate(variants):
        next_start = variants[i + 1].start if i + 1 < len(variants) else variant.stop + 1
        alone = variant.start > furthest and variant.stop < next_start
        furthest = max(furthest, variant.stop)
        if alone and len(variant.placements) > 1:
            variant.placements = variant.placements[:1]
            variant.bound()
