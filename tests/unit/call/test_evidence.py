# SPDX-License-Identifier: Apache-2.0
"""Events of single reads, and the candidates made of them."""

from __future__ import annotations

import numpy as np

from megabolt.call.candidates import Candidates, find_candidates
from megabolt.call.evidence import DELETION, INSERTION, SNP, Evidence, collect_evidence
from megabolt.call.reads import Reads, decode_reads
from megabolt.compute.bits import PADDING
from megabolt.formats.bases import decode, encode
from megabolt.testing.records import FIRST, PAIRED, SECOND, HandRead, draw, make_block


def gather(reference: str, reads: list[HandRead]) -> tuple[Evidence, Reads]:
    n = len(reference)
    ref = np.full(n + PADDING, 4, np.uint8)
    ref[:n] = encode(reference)
    decoded = decode_reads(make_block(reads), 0, 0, n, 0, n, min_mapq=5, overlap_cap=20)
    return collect_evidence(decoded, ref, n, min_base_quality=10), decoded


def candidates_of(reference: str, reads: list[HandRead]) -> list[tuple[int, int, int, str]]:
    evidence, decoded = gather(reference, reads)
    found: Candidates = find_candidates(evidence, decoded, min_snp_fraction=0.1, min_indel_fraction=0.05)
    return [
        (int(found.start[i]), int(found.stop[i]), int(found.kind[i]), decode(found.bases(i))) for i in range(len(found))
    ]


def test_reads_that_make_a_candidate() -> None:
    """Two; of indels of two and more bases one, if it is share enough of the depth."""
    reference = "ACGTACGTTGCATGCAACGT"
    plain = "....................\n"
    for change, reads in (("A", 2), ("-", 2), ("--", 1), ("[TT]", 1), ("[T]", 2)):
        kept = 20 - (0 if "[" in change else len(change))
        picture = "." * 10 + change + "." * (kept - 10)
        for n in (1, 2):
            found = candidates_of(reference, draw(reference, plain * 5 + f"{picture}\n" * n))
            assert len(found) == (n >= reads), (change, n)
    picture = "." * 10 + "--" + "." * 8
    assert candidates_of(reference, draw(reference, plain * 25 + f"{picture}\n")) == []


def test_depth_and_mismatches() -> None:
    reference = "ACGTACGTACGT"
    evidence, _ = gather(reference, draw(reference, "..T.........\n  ..........\n   ....--...\n"))
    assert evidence.depth.tolist() == [1, 1, 2, 3, 3, 3, 3, 2, 2, 3, 3, 3]
    assert evidence.snp_count[4 * 2 + 3] == 1
    assert evidence.snp_count.sum() == 1


def test_poor_bases_are_no_mismatches() -> None:
    evidence, _ = gather("ACGTACGT", [HandRead(0, "4M", "TCGA", quality=(9, 30, 30, 10))])
    assert evidence.mismatches.tolist() == [[0, 4 * 3 + 0]]


def test_long_blocks_find_every_mismatch() -> None:
    """Eight bases are compared at a time: mismatches in every lane and in the rest behind them."""
    reference = "A" * 61
    evidence, _ = gather(reference, [HandRead(0, "61M", "C" * 61)])
    assert evidence.snp_count.reshape(-1, 4)[:, 1].tolist() == [1] * 61


def test_templates_count_once() -> None:
    reference = "ACGTACGTACGT"
    reads = [
        HandRead(0, "6M", "ACGTAC", "p", flag=PAIRED | FIRST),
        HandRead(4, "6M", "ACGTAC", "p", flag=PAIRED | SECOND),
        HandRead(2, "2M", "GT", "q", flag=PAIRED | FIRST),
    ]
    evidence, _ = gather(reference, reads)
    assert evidence.fragments.tolist() == [1, 1, 2, 2, 1, 1, 1, 1, 1, 1, 0, 0]


def test_contained_mate_adds_no_depth() -> None:
    reads = [
        HandRead(0, "8M", "ACGTACGT", "p", flag=PAIRED | FIRST),
        HandRead(2, "4M", "GTAC", "p", flag=PAIRED | SECOND),
    ]
    evidence, _ = gather("ACGTACGTACGT", reads)
    assert evidence.fragments.tolist() == [1] * 8 + [0] * 4


def test_indels_are_left_aligned() -> None:
    """GCAAAAT: a deletion of an A is the first A's, wherever the aligner put it; so is an insertion."""
    reference = "TTGCAAAATCGG"
    picture = ".......-....\n....-.......\n......[A]......\n"
    evidence, _ = gather(reference, draw(reference, picture))
    events = {(int(p), int(kind), int(length)) for p, kind, length, *_ in evidence.indels}
    assert events == {(4, DELETION, 1), (4, INSERTION, 1)}


def test_indels_keep_a_base_in_front() -> None:
    evidence, _ = gather("AAAAAACGTC", draw("AAAAAACGTC", "....-.....\n....[A]......\n"))
    assert evidence.indels[:, 0].tolist() == [1, 1]


def test_rotated_insertions_pool() -> None:
    """TCACAG with AC more: CA at one place is AC at the other; both are one candidate, written leftmost."""
    reference = "GGTCACAGTT"
    picture = "...[CA].......\n....[AC]......\n.......[CA]...\n"
    assert candidates_of(reference, draw(reference, picture)) == [(3, 3, INSERTION, "CA")]


def test_insertions_with_errors_make_a_consensus() -> None:
    reference = "GGTCTTACGTAAGC"
    inserted = "ACGGTCATTGCAACTG"
    wrong = "ACGGTCATTGCAACTC"
    wrong2 = "TCGGTCATTGCAACTG"
    picture = "".join(f"......[{one}]........\n" for one in (inserted, inserted, wrong, wrong2))
    assert candidates_of(reference, draw(reference, picture)) == [(6, 6, INSERTION, inserted)]


def test_different_insertions_stay_apart() -> None:
    reference = "GGTCTTACGTAAGC"
    picture = "......[GGG]........\n" * 2 + "......[CCC]........\n" * 2
    assert candidates_of(reference, draw(reference, picture)) == [(6, 6, INSERTION, "CCC"), (6, 6, INSERTION, "GGG")]


def test_candidates_need_two_reads_and_a_share() -> None:
    reference = "ACGTACGTACGT"
    background = "............\n"
    one = draw(reference, "..T.........\n" + background)
    assert candidates_of(reference, one) == []
    two_of_twenty = draw(reference, "..T.........\n" * 2 + background * 18)
    assert candidates_of(reference, two_of_twenty) == [(2, 3, SNP, "T")]
    two_of_thirty = draw(reference, "..T.........\n" * 2 + background * 28)
    assert candidates_of(reference, two_of_thirty) == []
    deletion = draw(reference, ".....-......\n" * 2 + background * 28)
    assert candidates_of(reference, deletion) == [(5, 6, DELETION, "")]


def test_clips_and_end_gaps() -> None:
    reference = "ACGTACGTACGTACGTACGT"
    reads = [HandRead(5, "6S4M", "TTTTTTCGTA"), HandRead(5, "5S4M", "TTTTTCGTA"), HandRead(5, "4M6S", "CGTATTTTTT")]
    evidence, _ = gather(reference, reads)
    assert evidence.clips[5] == 1
    assert evidence.clips[9] == 1


def test_many_events_grow_the_room() -> None:
    reference = "A" * 200
    reads = [HandRead(0, "200M", "C" * 200) for _ in range(60)]
    evidence, _ = gather(reference, reads)
    assert len(evidence.mismatches) == 12000
