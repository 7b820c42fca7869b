# SPDX-License-Identifier: Apache-2.0
"""The comparison of clusters: hand-made cases, and a search through all subsets as the oracle."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from megabolt.compare import match as match_module
from megabolt.compare.clusters import make_clusters
from megabolt.compare.job import Comparison, compare_sets
from megabolt.compare.match import best_match, phases
from megabolt.compare.variants import Replacement, Selection, Variant, VariantClass, VariantSet, collect
from megabolt.formats.vcf import VcfRecord

#              0         1         2         3         4         5
#              0123456789012345678901234567890123456789012345678901234567
SEQUENCE = b"GATCCAGTTCAAAAAAAAGCTGACACACACACTTGCCATGTCAGTCCGATACGTTGA"


def site(text: str) -> VcfRecord:
    """A record from "start ref alt genotype", start 0-based: "12 A G 0/1"."""
    start, ref, alts, genotype = text.split()
    return VcfRecord("c", int(start), ref, tuple(alts.split(",")), 50.0, "PASS", {}, {"GT": genotype})


def sites(*texts: str, sequence: bytes = SEQUENCE) -> VariantSet:
    return collect(Path("test.vcf"), [site(text) for text in texts], {"c": sequence}, Selection())


def compare(truth: list[str], calls: list[str]) -> Comparison:
    return compare_sets(sites(*truth), sites(*calls), {"c": SEQUENCE})


def figures(result: Comparison, variant_class: VariantClass) -> tuple[int, int, int, int]:
    counts = result.counts[variant_class]
    return counts.tp_truth, counts.tp_calls, counts.fp, counts.fn


SNP, INDEL = VariantClass.SNP, VariantClass.INDEL


def test_the_same_record_matches() -> None:
    assert figures(compare(["3 C T 0/1"], ["3 C T 1|0"]), SNP) == (1, 1, 0, 0)


def test_indel_shifted_in_a_homopolymer() -> None:
    # CAAAAAAAAG: the deletion of one A, at the left end and at the right end of the run
    assert figures(compare(["9 CA C 0/1"], ["16 AA A 0/1"]), INDEL) == (1, 1, 0, 0)


def test_unit_shifted_in_a_dinucleotide_repeat() -> None:
    # GACACACACACTT: insertion of AC before and behind the repeat
    assert figures(compare(["21 G GAC 1/1"], ["31 C CAC 1/1"]), INDEL) == (1, 1, 0, 0)


def test_shifted_indels_of_different_length_differ() -> None:
    result = compare(["9 CA C 0/1"], ["15 AAA A 0/1"])
    assert figures(result, INDEL) == (0, 0, 1, 1)


def test_one_mnp_is_two_snps() -> None:
    # TC -> CG; recall counts the one record, precision the two
    assert figures(compare(["2 TC CG 0/1"], ["2 T C 0/1", "3 C G 0/1"]), SNP) == (1, 2, 0, 0)


def test_snps_on_opposite_haplotypes_are_not_excluded_by_missing_phase() -> None:
    # Unphased calls could be an MNP or trans: either way they match, in the phase that fits.
    assert figures(compare(["2 T C 0|1", "3 C G 1|0"], ["2 T C 0/1", "3 C G 0/1"]), SNP) == (2, 2, 0, 0)


def test_an_mnp_does_not_match_homozygous_snps() -> None:
    assert figures(compare(["2 TC CG 0/1"], ["2 T C 1/1", "3 C G 1/1"]), SNP) == (0, 0, 2, 1)


def test_wrong_genotype_is_an_error_that_shares_the_allele() -> None:
    result = compare(["3 C T 1/1", "40 T A 0/1"], ["3 C T 0/1", "40 T A 0/1"])
    assert figures(result, SNP) == (1, 1, 1, 1)
    assert result.counts[SNP].allele_truth == 1
    assert result.counts[SNP].allele_calls == 1


def test_one_wrong_allele_of_two() -> None:
    result = compare(["9 CA C,CAA 1/2"], ["9 CA C 0/1"])
    assert figures(result, INDEL) == (0, 0, 1, 1)
    assert result.counts[INDEL].allele_calls == 1


def test_multiallelic_site_split_over_two_records() -> None:
    assert figures(compare(["3 C A,T 1/2"], ["3 C A 0/1", "3 C T 0/1"]), SNP) == (1, 2, 0, 0)


def test_indel_next_to_a_snp_written_as_one_block() -> None:
    # CA -> C and A -> T further on, against one replacement of the whole stretch
    truth = ["9 CA C 0|1", "16 A T 0|1"]
    assert figures(compare(truth, ["9 CAAAAAAAA CAAAAATA 0/1"]), INDEL)[1:] == (1, 0, 0)


def test_spanning_deletion_allele_leaves_the_site_alone() -> None:
    # A deletion on one haplotype, a SNP inside it on the other, written with '*'
    calls = ["9 CAAA C 0/1", "11 A *,G 1/2"]
    assert figures(compare(["9 CAAA C 0/1", "11 A G 1/0"], calls), SNP) == (1, 1, 0, 0)


def test_overlapping_variants_of_one_haplotype_cannot_both_match() -> None:
    # Both records are homozygous and overlap: no person has both.
    result = compare(["9 CAAA C 1/1", "11 A G 1/1"], ["9 CAAA C 1/1", "11 A G 1/1"])
    total = [sum(figures(result, c)[i] for c in (SNP, INDEL)) for i in range(4)]
    assert total == [1, 1, 1, 1]


def test_overlap_that_trimming_at_the_right_end_resolves() -> None:
    # The deletion, trimmed at the left, would sit on the SNP at 17; trimmed at the right it does not.
    records = ["9 CAAAAAAAA CAAAAAAA 0/1", "17 A T 0/1"]
    result = compare(["9 CA C 0/1", "17 A T 0/1"], records)
    assert figures(result, SNP) == (1, 1, 0, 0)
    assert figures(result, INDEL) == (1, 1, 0, 0)


def test_half_call_and_haploid_call() -> None:
    assert figures(compare(["3 C T 0/1"], ["3 C T ./1"]), SNP) == (1, 1, 0, 0)
    assert figures(compare(["3 C T 1/1"], ["3 C T 1"]), SNP) == (1, 1, 0, 0)


def test_calls_that_cancel_each_other_are_wrong() -> None:
    # An insertion and a deletion of one A in the same run: the reference again, but two records too many.
    assert figures(compare([], ["9 C CA 0/1", "16 AA A 0/1"]), INDEL) == (0, 0, 2, 0)
    assert figures(compare(["40 T A 0/1"], ["9 C CA 1/1", "16 AA A 1/1"]), INDEL) == (0, 0, 2, 0)


def test_clusters_part_where_nothing_repeats() -> None:
    variants = sites("9 CA C 0/1", "20 T G 0/1").by_contig["c"]
    assert len(make_clusters(SEQUENCE, variants, [])) == 2
    shifted = sites("9 CA C 0/1").by_contig["c"], sites("16 AA A 0/1").by_contig["c"]
    assert len(make_clusters(SEQUENCE, *shifted)) == 1


def test_a_search_that_is_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_module, "MOST_STATES", 2)
    truth = sites("9 CA C 0/1", "12 A C 0/1", "14 A G 0/1").by_contig["c"]
    calls = sites("9 CA C 0/1", "12 A C 0/1", "16 AA A 0/1").by_contig["c"]
    (cluster,) = make_clusters(SEQUENCE, truth, calls)
    assert best_match(SEQUENCE, cluster).approximate


def test_a_search_that_is_cut_short_still_finds_what_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    # Unlike units are lost along one long repeat, so all of it is one cluster; the calls lack one of the losses.
    monkeypatch.setattr(match_module, "MOST_STATES", 40)
    sequence = b"GT" + b"AC" * 200 + b"GT"
    places = range(3, 380, 16)
    truth = sites(*(f"{p} CAC{'AC' * (i % 3)} C 0/1" for i, p in enumerate(places)), sequence=sequence)
    calls = sites(*(f"{p} CAC{'AC' * (i % 3)} C 0/1" for i, p in enumerate(places) if i != 9), sequence=sequence)
    (cluster,) = make_clusters(sequence, truth.by_contig["c"], calls.by_contig["c"])
    found = best_match(sequence, cluster)
    assert found.approximate
    assert sum(found.truth) + sum(found.calls) >= 0.8 * (2 * len(places) - 2)


# The oracle: try every subset in every phase, build the haplotypes, compare them.


def play(sequence: bytes, alleles: list[Replacement]) -> bytes | None:
    """The haplotype, or None if alleles overlap; alleles in the order of their records."""
    out, at = b"", 0
    for start, stop, bases in alleles:
        if start < at:
            return None
        out += sequence[at:start] + bases
        at = stop
    return out + sequence[at:]


def all_plays(sequence: bytes, variants: list[Variant]) -> dict[tuple[bytes, bytes], int]:
    """Haplotype pairs that subsets of the variants can give, with the most variants that do."""
    found: dict[tuple[bytes, bytes], int] = {}
    choices = [[None, *phases(variant, 2)] for variant in variants]
    for chosen in itertools.product(*choices):
        played = [phase for phase in chosen if phase is not None]
        pair = [play(sequence, [p[h] for p in played if p[h] is not None]) for h in (0, 1)]
        if pair[0] is not None and pair[1] is not None:
            key = (pair[0], pair[1])
            found[key] = max(found.get(key, 0), len(played))
    return found


def random_variants(rng: np.random.Generator, sequence: bytes, kind: str, n: int) -> VariantSet:
    records = []
    for start in sorted(rng.choice(len(sequence) - 5, n, replace=False).tolist()):
        length = int(rng.integers(1, 3))
        if kind == "mixed":
            deletes = rng.random() < 0.5
        else:
            deletes = kind == "deletions"
        here = sequence[start : start + 1].decode()
        if rng.random() < 0.2:
            other = "ACGT".replace(here, "")[int(rng.integers(3))]
            ref, alt = here, other
        elif deletes:
            ref, alt = sequence[start : start + 1 + length].decode(), here
        else:
            ref, alt = here, here + "A" * length
        genotype = ("0/1", "1/1")[int(rng.random() < 0.3)]
        records.append(site(f"{start} {ref} {alt} {genotype}"))
    return collect(Path("test.vcf"), records, {"c": sequence}, Selection())


@pytest.mark.parametrize("kind", ["insertions", "deletions", "mixed"])
def test_against_all_subsets(kind: str) -> None:
    rng = np.random.default_rng(20)
    n_matched = 0
    for _ in range(120):
        letters = rng.choice(np.frombuffer(b"AAAAAAAC", np.uint8), 20)
        sequence = b"GTG" + letters.tobytes() + b"GTGTTG"
        sets = [random_variants(rng, sequence, kind, int(rng.integers(1, 4))) for _ in range(2)]
        truth, calls = (one.by_contig.get("c", []) for one in sets)
        truth_plays, calls_plays = all_plays(sequence, truth), all_plays(sequence, calls)
        best = max(truth_plays[key] + calls_plays[key] for key in truth_plays.keys() & calls_plays.keys())
        found = 0
        for cluster in make_clusters(sequence, truth, calls):
            match = best_match(sequence, cluster)
            found += sum(match.truth) + sum(match.calls)
            chosen = [[v for v, used in zip(vs, flags) if used] for vs, flags in
                      ((cluster.truth, match.truth), (cluster.calls, match.calls))]  # fmt: skip
            ours, theirs = (all_plays(sequence, side) for side in chosen)
            complete = [{key for key, n in plays.items() if n == len(side)} for plays, side in
                        ((ours, chosen[0]), (theirs, chosen[1]))]  # fmt: skip
            assert complete[0] & complete[1], "the variants that match do not give the same haplotypes"
        # Variants of one side may cancel each other out only if lengths change in both directions.
        assert found <= best
        if kind != "mixed":
            assert found == best
        n_matched += found > 0
    assert n_matched > 10
