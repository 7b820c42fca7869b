# SPDX-License-Identifier: Apache-2.0
"""The aligner on small genomes whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megabolt.align.choose import FAST, PENALTY, STATUS, UNPLACED
from megabolt.align.engine import InsertSize, PairAligner
from megabolt.align.index import build_index, open_index
from megabolt.align.verify import GAP_EXTEND, GAP_OPEN
from megabolt.formats.bases import decode, encode, reverse_complement
from megabolt.testing.batches import pair_batch

INSERT = InsertSize(mean=400.0, sd=50.0, low=35, high=700)
LETTERS = "MIDNSHP=X"


def rc(text: str) -> str:
    return decode(reverse_complement(encode(text)))


def random_text(seed: int, n: int) -> str:
    return decode(np.random.default_rng(seed).integers(0, 4, n).astype(np.uint8))


def aligner_for(folder: Path, **contigs: str) -> PairAligner:
    path = folder / "ref.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    build_index(path)
    return PairAligner(open_index(path))


def cigar_of(alignments, r: int) -> str:
    words = alignments.cigar[r, : alignments.n_cigar[r]].tolist()
    return "".join(f"{w >> 4}{LETTERS[w & 15]}" for w in words)


@pytest.fixture(scope="module")
def genome() -> str:
    return random_text(1, 60_000)


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory, genome: str) -> PairAligner:
    return aligner_for(tmp_path_factory.mktemp("plain"), chr1=genome[:40_000], chr2=genome[40_000:], tiny="ACGTT" * 9)


def fragment(genome: str, start: int, insert: int = 400, length: int = 150) -> tuple[str, str]:
    return genome[start : start + length], rc(genome[start + insert - length : start + insert])


@pytest.mark.parametrize("length", [35, 50, 75, 101, 150, 250, 400])
def test_exact_pairs_of_any_length(aligner: PairAligner, genome: str, length: int) -> None:
    rng = np.random.default_rng(length)
    starts = rng.integers(0, 39_000, 60)
    pairs = [fragment(genome, s, 420, length) for s in starts]
    flip = rng.random(60) < 0.5
    batch = pair_batch(
        [b if f else a for (a, b), f in zip(pairs, flip)], [a if f else b for (a, b), f in zip(pairs, flip)]
    )
    got = aligner.align(batch, INSERT)
    first = starts
    second = starts + 420 - length
    assert got.mapped.all()
    assert got.proper.all()
    assert (got.contig == 0).all()
    assert (got.start[0::2] == np.where(flip, second, first)).all()
    assert (got.start[1::2] == np.where(flip, first, second)).all()
    assert (got.reverse[0::2] == flip).all()
    assert (got.reverse[1::2] == ~flip).all()
    assert (got.score == length).all()
    assert (got.mapq >= 30).all()
    assert {cigar_of(got, r) for r in range(120)} == {f"{length}M"}


def test_mates_of_different_lengths(aligner: PairAligner, genome: str) -> None:
    got = aligner.align(pair_batch([genome[500:650]], [rc(genome[800:876])]), INSERT)
    assert got.start.tolist() == [500, 800]
    assert got.proper.tolist() == [1]


@pytest.mark.parametrize("gap", [1, 4, 12, 25, 36])
def test_deletions_and_insertions(aligner: PairAligner, genome: str, gap: int) -> None:
    deleted = genome[1000:1070] + genome[1070 + gap : 1150 + gap]
    inserted = genome[3000:3070] + random_text(99, gap) + genome[3070 : 3150 - gap]
    mate1, mate2 = rc(genome[1250:1400]), rc(genome[3250:3400])
    got = aligner.align(pair_batch([deleted, inserted], [mate1, mate2]), INSERT)
    assert got.start.tolist() == [1000, 1250, 3000, 3250]
    cigars = cigar_of(got, 0), cigar_of(got, 2)
    assert f"{gap}D" in cigars[0]
    assert f"{gap}I" in cigars[1]
    assert got.score[0] == 150 - 6 - gap
    assert got.score[2] == 150 - gap - 6 - gap


@pytest.mark.parametrize("gap", [1, 4, 11])
def test_a_second_look_settles_a_short_gap(aligner: PairAligner, genome: str, gap: int) -> None:
    """One pair of a usual fragment, and one whose fragment could be as short as its reads: that is left to tier 2."""
    deleted = genome[1000:1070] + genome[1070 + gap : 1150 + gap]
    short = rc(genome[1000 + gap : 1150 + gap])
    batch = pair_batch([deleted, deleted], [rc(genome[1250:1400]), short])
    assert (aligner._place_by_a_few_seeds(batch, INSERT, plain=True).placed[:2, STATUS] == UNPLACED).all()
    placed = aligner._place_by_a_few_seeds(batch, INSERT, plain=False).placed[:2]
    assert placed[:, STATUS].tolist() == [FAST, UNPLACED]
    assert placed[0, PENALTY] == GAP_OPEN + gap * GAP_EXTEND
    got = aligner.align(batch, INSERT)
    assert got.start.tolist() == [1000, 1250, 1000, 1000 + gap]
    assert got.mapq.tolist() == [60, 60, 60, 60]
    assert f"{gap}D" in cigar_of(got, 0)


def test_adapter_is_soft_clipped(aligner: PairAligner, genome: str) -> None:
    read = genome[7000:7110] + random_text(4, 40)
    got = aligner.align(pair_batch([read], [rc(genome[7250:7400])]), INSERT)
    assert got.start[0] == 7000
    clip = cigar_of(got, 0)
    assert clip.endswith("S")
    assert abs(int(clip.split("M")[0]) - 110) <= 4


def test_reads_over_a_contig_end_are_clipped(aligner: PairAligner, genome: str) -> None:
    over = genome[39_920:40_000] + random_text(8, 70)
    got = aligner.align(pair_batch([genome[39_600:39_750]], [rc(over)]), INSERT)
    assert got.contig.tolist() == [0, 0]
    assert got.start[1] == 39_920
    assert cigar_of(got, 1).startswith("80M") or cigar_of(got, 1).startswith("8")
    assert got.start[1] + 80 <= 40_000 + 4
    start = aligner.align(pair_batch([random_text(9, 60) + genome[:90]], [rc(genome[250:400])]), INSERT)
    assert start.start[0] >= 0
    assert cigar_of(start, 0).endswith("M")
    assert "S" in cigar_of(start, 0)


def test_foreign_reads_stay_unmapped(aligner: PairAligner) -> None:
    foreign = [random_text(1000 + i, 150) for i in range(20)]
    got = aligner.align(pair_batch(foreign[:10], foreign[10:]), INSERT)
    assert not got.mapped.any()
    assert (got.contig == -1).all()
    assert not got.proper.any()


def test_a_lone_mate_is_placed(aligner: PairAligner, genome: str) -> None:
    got = aligner.align(pair_batch([genome[9000:9150]], [random_text(77, 150)]), INSERT)
    assert got.mapped.tolist() == [1, 0]
    assert got.start[0] == 9000
    assert not got.proper.any()


def test_mates_on_two_contigs(aligner: PairAligner, genome: str) -> None:
    got = aligner.align(pair_batch([genome[9000:9150]], [genome[50_000:50_150]]), INSERT)
    assert got.contig.tolist() == [0, 1]
    assert got.start.tolist() == [9000, 10_000]
    assert not got.proper.any()


def test_a_diverged_mate_is_found_beside_its_mate(aligner: PairAligner, genome: str) -> None:
    mate = list(genome[12_250:12_400])
    for i in range(5, 150, 12):  # no seed survives
        mate[i] = "ACGT"[("ACGT".index(mate[i]) + 1) % 4]
    got = aligner.align(pair_batch([genome[12_000:12_150]], [rc("".join(mate))]), INSERT)
    assert got.start.tolist() == [12_000, 12_250]
    assert got.proper.tolist() == [1]


def test_low_quality_and_n_cost_little(aligner: PairAligner, genome: str) -> None:
    read = genome[15_000:15_060] + "N" * 3 + genome[15_063:15_150]
    got = aligner.align(pair_batch([read], [rc(genome[15_250:15_400])]), INSERT)
    assert got.start[0] == 15_000
    assert got.mapq[0] >= 30


def test_empty_seeds_and_tiny_reads(aligner: PairAligner) -> None:
    got = aligner.align(pair_batch(["ACGT", "A" * 150], ["T", "T" * 150]), INSERT)
    assert not got.mapped[:2].any()


def test_an_exact_copy_has_no_confidence(tmp_path: Path) -> None:
    """A rival that is scored less carefully than the winner would make these confident."""
    block = random_text(11, 2000)
    text = random_text(12, 8000) + block + random_text(13, 8000) + block + random_text(14, 8000)
    aligner = aligner_for(tmp_path, chr1=text)
    rng = np.random.default_rng(2)
    reads1, reads2 = [], []
    for i in range(200):
        s = int(rng.integers(10, 1400))
        a, b = list(block[s : s + 160]), block[s + 300 : s + 450]
        k, gap = int(rng.integers(20, 120)), int(rng.integers(1, 10))
        if i % 2:
            del a[k : k + gap]
        else:
            a[k:k] = list(random_text(i, gap))
        for j in rng.integers(0, 140, 2):
            a[j] = "ACGT"[rng.integers(0, 4)]
        reads1.append("".join(a[:150]))
        reads2.append(rc(b))
    got = aligner.align(pair_batch(reads1, reads2), INSERT)
    assert got.mapped.all()
    assert (got.mapq == 0).all()
    first_copy = (got.start < 12_000).mean()
    assert 0.35 < first_copy < 0.65, "ties are drawn by lot"


def with_substitutions(text: str, places: list[int]) -> str:
    letters = list(text)
    for k in places:
        letters[k] = "ACGT"[("ACGT".index(letters[k]) + 1) % 4]
    return "".join(letters)


@pytest.mark.parametrize(("gap", "mapq"), [(0, 20), (1, 19)])
def test_a_gap_leaves_less_confidence_beside_a_copy(tmp_path: Path, gap: int, mapq: int) -> None:
    """Copies of a block one mismatch apart: the sample may have exchanged them, and a gap's price is less sure."""
    block = random_text(31, 2000)
    copy = with_substitutions(block, [1050])
    aligner = aligner_for(tmp_path, one=random_text(32, 9000) + block + random_text(33, 9000) + copy)
    read = block[940:1010] + block[1010 + gap : 1090 + gap]
    got = aligner.align(pair_batch([read], [rc(block[1200:1350])]), INSERT)
    assert got.start.tolist() == [9940, 10_200]
    assert got.mapq.tolist() == [mapq, mapq]


def test_batches_and_order_do_not_matter(aligner: PairAligner, genome: str) -> None:
    rng = np.random.default_rng(6)
    pairs = []
    for s in rng.integers(0, 59_000, 100):
        a, b = fragment(genome, int(s), 380)
        noisy = "".join(c if rng.random() > 0.04 else "ACGT"[rng.integers(0, 4)] for c in a)
        pairs.append((noisy, b))
    names = [f"n{i}" for i in range(100)]
    whole = aligner.align(pair_batch([a for a, _ in pairs], [b for _, b in pairs], names=names), INSERT)
    for i in rng.permutation(100)[:30]:
        one = aligner.align(pair_batch([pairs[i][0]], [pairs[i][1]], names=[names[i]]), INSERT)
        for field in ("mapped", "contig", "start", "reverse", "mapq", "score", "second_score", "n_cigar"):
            assert (getattr(one, field) == getattr(whole, field)[2 * i : 2 * i + 2]).all()
        assert [cigar_of(one, r) for r in (0, 1)] == [cigar_of(whole, 2 * i + r) for r in (0, 1)]


def test_insert_sizes_are_learnt(aligner: PairAligner, genome: str) -> None:
    rng = np.random.default_rng(7)
    pairs = [fragment(genome, int(s), int(rng.normal(350, 40))) for s in rng.integers(0, 39_000, 600)]
    learnt = aligner.learn_insert_size([pair_batch([a for a, _ in pairs], [b for _, b in pairs])])
    assert abs(learnt.mean - 350) < 6
    assert abs(learnt.sd - 40) < 6
    assert learnt.low <= 150
    assert 550 < learnt.high < 650


def test_too_few_pairs_teach_nothing(aligner: PairAligner, genome: str) -> None:
    a, b = fragment(genome, 100)
    assert aligner.learn_insert_size([pair_batch([a], [b])]) == InsertSize()
