# SPDX-License-Identifier: Apache-2.0
"""Haplotypes: the reference with its variants applied, and where each of their bases comes from."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.errors import UsageError
from megabolt.formats.bases import decode, encode
from megabolt.simulate.genome import GenomeOptions, make_genome
from megabolt.simulate.haplotypes import Edit, PhasedVariant, apply_edits, diploid_source, haplotype_edits, trimmed_edit
from megabolt.simulate.variants import VariantOptions, plant_variants


def applied(reference: str, variants: list[PhasedVariant], haplotype: int) -> str:
    """A haplotype by string slicing, from the right so that positions stay valid."""
    for variant in sorted(variants, reverse=True):
        allele = variant.genotype[haplotype]
        if allele:
            reference = reference[: variant.start] + variant.alts[allele - 1] + reference[variant.stop :]
    return reference


def test_haplotypes_are_the_reference_with_the_variants() -> None:
    genome = make_genome(GenomeOptions(size=150_000, n_contigs=2), 4)
    contigs = list(zip(genome.names, genome.sequences))
    variants = plant_variants(contigs, VariantOptions(snp_rate=0.003, indel_rate=0.001), 4)
    source = diploid_source(contigs, variants)
    assert source.names == ("sim1", "sim2", "sim1", "sim2")
    for k in range(4):
        mine = [v for v in variants if v.contig == k % 2]
        expected = applied(decode(contigs[k % 2][1]), mine, k // 2)
        assert decode(source.codes[source.contig_start[k] : source.contig_start[k + 1]]) == expected


def test_anchors_lead_back_to_the_reference() -> None:
    reference = encode("ACGTACGTACGTACGTACGT")
    edited, anchors = apply_edits(reference, [Edit(3, 4, "A"), Edit(6, 6, "GGG"), Edit(10, 14, "")])
    assert decode(edited) == "ACGAACGGGGTACACGTACGT"[:3] + "AAC" + "GGG" + "GTAC" + "GTACGT"
    assert anchors.tolist() == [[0, 0], [4, 4], [9, 6], [13, 14], [19, 20]]


@pytest.mark.parametrize(
    ("ref", "alt", "expected"),
    [
        ("A", "C", Edit(5, 6, "C")),
        ("AT", "A", Edit(6, 7, "")),
        ("A", "AGG", Edit(6, 6, "GG")),
        ("ACA", "ATA", Edit(6, 7, "T")),
        ("ATTT", "ATT", Edit(8, 9, "")),
    ],
)
def test_trimmed_edit(ref: str, alt: str, expected: Edit) -> None:
    assert trimmed_edit(PhasedVariant(0, 5, ref, (alt,), (0, 1)), 1) == expected


def test_an_insertion_behind_a_deletion_is_no_overlap() -> None:
    # The insertion's padding base is the last one deleted: only the padding overlaps.
    variants = [PhasedVariant(0, 2, "GTA", ("G",), (1, 0)), PhasedVariant(0, 4, "A", ("ATT",), (1, 0))]
    edits = haplotype_edits(variants, 0)
    assert decode(apply_edits(encode("ACGTACGT"), edits)[0]) == "ACGTTCGT"


def test_overlap_is_refused() -> None:
    variants = [PhasedVariant(0, 2, "GTA", ("G",), (1, 0)), PhasedVariant(0, 3, "T", ("C",), (1, 0))]
    with pytest.raises(UsageError, match="haplotype 1 overlap at position 4"):
        haplotype_edits(variants, 0)
    assert haplotype_edits(variants, 1) == []


def test_spanning_deletion_allele_changes_nothing() -> None:
    assert haplotype_edits([PhasedVariant(0, 3, "T", ("*", "C"), (1, 2))], 0) == []


def test_source_without_variants_is_the_reference_twice() -> None:
    reference = encode("ACGTACGTAC")
    source = diploid_source([("c", reference)], [])
    assert np.array_equal(source.codes, np.tile(reference, 2))
    assert source.called_bases == 20
