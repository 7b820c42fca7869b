# SPDX-License-Identifier: Apache-2.0
"""Alleles of several samples on one site, from records written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from megabolt.errors import InputFormatError
from megabolt.formats.gvcf import GvcfVariant
from megabolt.joint.alleles import Site, left_aligned, make_sites


def variant(start: int, ref: str, *alts: str, pl: tuple[int, ...] = (), ploidy: int = 2) -> GvcfVariant:
    """A record with <NON_REF> as the last allele."""
    n = len(alts) + 2
    return GvcfVariant(
        start, ref, alts, tuple(range(n - 1)), n - 1, n, ploidy, 20,
        np.array(pl or [0] * (n * (n + 1) // 2), np.int32), np.array([], np.int32), 0.0, 0, ".",
    )  # fmt: skip


def masks_of(site: Site, sample: int) -> list[tuple[int, ...]]:
    return [one.masks for one in site.components if one.sample == sample]


def test_two_samples_with_one_snp_share_a_site() -> None:
    (site,) = make_sites([(0, variant(9, "A", "C")), (1, variant(9, "A", "C"))], 0, 100)
    assert (site.start, site.ref, site.alts) == (9, "A", ("C",))
    assert masks_of(site, 0) == masks_of(site, 1) == [(1, 2)]


def test_an_allele_that_a_sample_has_not_seen_is_its_non_ref() -> None:
    (site,) = make_sites([(0, variant(9, "A", "C")), (1, variant(9, "A", "T"))], 0, 100)
    assert site.alts == ("C", "T")
    assert masks_of(site, 0) == [(1, 2, 4)]
    assert masks_of(site, 1) == [(1, 4, 2)]


def test_deletions_of_different_length_get_the_longest_ref() -> None:
    (site,) = make_sites([(0, variant(9, "AT", "A")), (1, variant(9, "ATTG", "A", "ATTGG"))], 0, 100)
    assert site.ref == "ATTG"
    assert site.alts == ("A", "ATG", "ATTGG")
    assert masks_of(site, 0) == [(1, 4, 2, 4)]
    assert masks_of(site, 1) == [(1, 2, 8, 4)]


def test_a_deletion_spans_later_sites_as_star() -> None:
    sites = make_sites([(0, variant(9, "ATT", "A")), (1, variant(11, "T", "G"))], 0, 100)
    assert [(one.start, one.alts) for one in sites] == [(9, ("A",)), (11, ("G", "*"))]
    assert masks_of(sites[1], 0) == [(1, 4, 2)]
    assert masks_of(sites[1], 1) == [(1, 2, 4)]


def test_a_deletion_ends_before_the_base_behind_it() -> None:
    sites = make_sites([(0, variant(9, "ATT", "A")), (1, variant(12, "T", "G"))], 0, 100)
    assert sites[1].alts == ("G",)
    assert masks_of(sites[1], 0) == []


def test_alleles_that_do_not_delete_the_base_count_as_reference() -> None:
    sites = make_sites([(0, variant(9, "ATT", "A", "AT")), (1, variant(10, "T", "G"))], 0, 100)
    # A loses bases 10 and 11, AT only 11: at base 10 the second is like the reference
    assert sites[1].alts == ("G", "*")
    assert masks_of(sites[1], 0) == [(1 | 4, 8, 2)]


def test_a_snp_under_the_deletion_of_the_other_copy() -> None:
    sites = make_sites([(0, variant(9, "ATT", "A")), (0, variant(11, "T", "G"))], 0, 100)
    assert sites[1].alts == ("G", "*")
    # each record takes what only the other one has seen for the reference
    assert masks_of(sites[1], 0) == [(1, 2, 1), (1, 1, 2)]


def test_a_record_that_has_star_itself_is_not_joined_by_the_deletion() -> None:
    sites = make_sites([(0, variant(9, "ATT", "A")), (0, variant(11, "T", "G", "*"))], 0, 100)
    assert sites[1].alts == ("G", "*")
    assert masks_of(sites[1], 0) == [(1, 2, 4)]


def test_snp_and_insertion_of_one_sample_are_two_sites() -> None:
    sites = make_sites(
        [(0, variant(9, "A", "C")), (0, variant(9, "A", "AG")), (1, variant(9, "A", "AG"))], 0, 100
    )  # fmt: skip
    assert [one.alts for one in sites] == [("C",), ("AG",)]
    # sample 1 has no record of a SNP: its insertion counts as the reference there
    assert masks_of(sites[0], 1) == [(1 | 2, 4)]
    assert masks_of(sites[1], 0) == [(1, 2)]


def test_two_deletions_of_one_sample_at_one_base_exclude_each_other() -> None:
    (site,) = make_sites([(0, variant(9, "ATT", "A")), (0, variant(9, "AT", "A"))], 0, 100)
    assert (site.ref, site.alts) == ("ATT", ("A", "AT"))
    assert sorted(masks_of(site, 0)) == [(1, 1, 2), (1, 2, 1)]


def test_only_sites_that_begin_inside_are_made() -> None:
    both = [(0, variant(9, "ATT", "A")), (1, variant(11, "T", "G"))]
    assert [one.start for one in make_sites(both, 10, 100)] == [11]
    assert make_sites(both, 10, 100)[0].alts == ("G", "*")
    assert [one.start for one in make_sites(both, 0, 11)] == [9]


def test_different_references_are_refused() -> None:
    with pytest.raises(InputFormatError, match="REF is"):
        make_sites([(0, variant(9, "AT", "A")), (1, variant(9, "ACC", "A"))], 0, 100)


def test_the_order_of_samples_does_not_change_the_alleles() -> None:
    one, two = variant(9, "AT", "A"), variant(9, "ATTG", "A", "C")
    assert make_sites([(0, one), (1, two)], 0, 50)[0].alts == make_sites([(0, two), (1, one)], 0, 50)[0].alts


def test_left_alignment() -> None:
    sequence = "GCATATATC"  # deleting the last AT is the same as deleting the first
    moved = left_aligned(variant(5, "TAT", "T"), sequence.__getitem__)
    assert (moved.start, moved.ref, moved.alts) == (1, "CAT", ("C",))
    longer = left_aligned(variant(1, "CATAT", "CAT"), sequence.__getitem__)
    assert (longer.start, longer.ref, longer.alts) == (1, "CAT", ("C",))
    front = left_aligned(variant(1, "CAT", "CAG"), sequence.__getitem__)
    assert (front.start, front.ref, front.alts) == (3, "T", ("G",))
    for still in (variant(1, "C", "G"), variant(1, "CAT", "C"), variant(1, "CAT", "*"), variant(1, "C", "CG", "T")):
        assert left_aligned(still, sequence.__getitem__) is still


def test_left_alignment_stops_at_the_first_base() -> None:
    moved = left_aligned(variant(2, "AA", "A"), "AAAA".__getitem__)
    assert (moved.start, moved.ref, moved.alts) == (0, "AA", ("A",))
