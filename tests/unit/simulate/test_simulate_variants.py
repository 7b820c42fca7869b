# SPDX-License-Identifier: Apache-2.0
"""Planted variants: consistent with the reference, left-aligned, in realistic proportions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from megabolt.errors import UsageError
from megabolt.formats.bases import N, decode, encode
from megabolt.simulate.genome import GenomeOptions, make_genome
from megabolt.simulate.haplotypes import Contig, PhasedVariant
from megabolt.simulate.variants import TandemRepeat, VariantOptions, left_aligned, plant_variants, tandem_repeats


@pytest.fixture(scope="module")
def contigs() -> list[Contig]:
    genome = make_genome(GenomeOptions(size=600_000, n_contigs=2), 3)
    return list(zip(genome.names, genome.sequences))


@pytest.fixture(scope="module")
def planted(contigs: list[Contig]) -> list[PhasedVariant]:
    return plant_variants(contigs, VariantOptions(), 11)


def test_same_seed_same_variants(contigs: list[Contig], planted: list[PhasedVariant]) -> None:
    assert plant_variants(contigs, VariantOptions(), 11) == planted
    assert plant_variants(contigs, VariantOptions(), 12) != planted


def test_ref_is_what_the_reference_has(contigs: list[Contig], planted: list[PhasedVariant]) -> None:
    for variant in planted:
        codes = contigs[variant.contig][1][variant.start : variant.stop]
        assert decode(codes) == variant.ref
        assert not (codes == N).any()
        assert variant.ref not in variant.alts
        assert len(set(variant.alts)) == len(variant.alts)
        assert set(variant.genotype) | {0} == set(range(len(variant.alts) + 1))


def test_no_two_overlap(planted: list[PhasedVariant]) -> None:
    for left, right in pairwise(planted):
        assert (left.contig, left.stop) <= (right.contig, right.start) or left.contig < right.contig


def shifted_left(codes: NDArray[np.uint8], variant: PhasedVariant) -> tuple[int, str, str]:
    """Tan, Abecasis and Kang's normalisation, written plainly, of a variant with one alternative allele."""
    start, ref, alt = variant.start, variant.ref, variant.alts[0]
    while ref[-1] == alt[-1] and (len(ref) > 1 or len(alt) > 1 or start > 0):
        ref, alt = ref[:-1], alt[:-1]
        if not ref or not alt:
            start -= 1
            ref, alt = decode(codes[start : start + 1]) + ref, decode(codes[start : start + 1]) + alt
    while len(ref) > 1 and len(alt) > 1 and ref[0] == alt[0]:
        start, ref, alt = start + 1, ref[1:], alt[1:]
    return start, ref, alt


def test_all_are_left_aligned(contigs: list[Contig], planted: list[PhasedVariant]) -> None:
    indels = [v for v in planted if len(v.alts) == 1 and len(v.ref) != len(v.alts[0])]
    assert len(indels) > 60
    for variant in indels:
        codes = contigs[variant.contig][1]
        assert shifted_left(codes, variant) == (variant.start, variant.ref, variant.alts[0])


def test_proportions(planted: list[PhasedVariant]) -> None:
    snps = [v for v in planted if len(v.ref) == 1 and all(len(alt) == 1 for alt in v.alts)]
    transitions = sum((v.ref + v.alts[0]) in ("AG", "GA", "CT", "TC") for v in snps)
    assert transitions / (len(snps) - transitions) == pytest.approx(2.1, rel=0.25)
    assert 0.10 < 1 - len(snps) / len(planted) < 0.22
    homozygous = sum(v.genotype == (1, 1) for v in planted) / len(planted)
    assert homozygous == pytest.approx(0.38, abs=0.06)
    assert any(set(v.genotype) == {1, 2} for v in planted)
    lengths = [len(v.alts[0]) - len(v.ref) for v in planted if len(v.alts[0]) != len(v.ref)]
    assert min(lengths) < -2
    assert max(lengths) > 2


def test_indels_prefer_repeats(contigs: list[Contig], planted: list[PhasedVariant]) -> None:
    starts = {(k, repeat.start - 1) for k, (_, codes) in enumerate(contigs) for repeat in tandem_repeats(codes)}
    indels = [v for v in planted if any(len(alt) != len(v.ref) for alt in v.alts)]
    in_repeats = sum((v.contig, v.start) in starts for v in indels)
    assert 0.35 < in_repeats / len(indels) < 0.75


def test_left_alignment_by_hand() -> None:
    codes = encode("GATTTTACACACACG")
    deletion = left_aligned(codes, 5, 1, np.empty(0, np.uint8))
    assert (deletion.start, deletion.ref, deletion.alts) == (1, "AT", ("A",))
    insertion = left_aligned(codes, 14, 0, encode("AC"))
    assert (insertion.start, insertion.ref, insertion.alts) == (5, "T", ("TAC",))


def test_tandem_repeats_by_hand() -> None:
    codes = encode("GCAAAAAAACGTGTGTGTGTAACCGTTAGTTAGTTAGTTAGC")
    assert tandem_repeats(codes) == [
        TandemRepeat(2, 9, 1),
        TandemRepeat(10, 20, 2),
        TandemRepeat(24, 41, 4),
    ]


def test_no_variants_on_demand(contigs: list[Contig]) -> None:
    assert plant_variants(contigs, VariantOptions(snp_rate=0, indel_rate=0), 1) == []


@pytest.mark.parametrize("wrong", [{"snp_rate": -1.0}, {"two_alleles": 1.5}, {"longest": 0}])
def test_impossible_options(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        VariantOptions(**wrong)  # type: ignore[arg-type]
