# SPDX-License-Identifier: Apache-2.0
"""The hard genome: seeded, with the shares and divergences of repeats that it promises, and a true map of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megabolt.cli import main as cli
from megabolt.errors import UsageError
from megabolt.formats.bases import N, reverse_complement
from megabolt.formats.fasta import read_fasta
from megabolt.simulate.genome import SimulatedGenome, background
from megabolt.simulate.hard import (
    CLASS_NAMES,
    INTERSPERSED,
    SATELLITE,
    SEGDUP,
    TANDEM,
    UNIQUE,
    HardGenomeOptions,
    higher_order_repeat,
    make_hard_genome,
    minisatellite,
)

OPTIONS = HardGenomeOptions(size=2_000_000, n_contigs=3)


@pytest.fixture(scope="module")
def genome() -> SimulatedGenome:
    return make_hard_genome(OPTIONS, 7)


def words(codes: np.ndarray, k: int = 24) -> np.ndarray:
    """Canonical k-mers; -1 where there is an N."""
    n = len(codes) - k + 1
    forward, backward = np.zeros(n, np.int64), np.zeros(n, np.int64)
    unknown = np.zeros(n, np.bool_)
    for i in range(k):
        piece = codes[i : i + n].astype(np.int64)
        forward = forward * 4 + (piece & 3)
        backward |= (3 - (piece & 3)) << (2 * i)
        unknown |= piece == N
    return np.where(unknown, -1, np.minimum(forward, backward))


def repeated(genome: SimulatedGenome, label: int) -> float:
    """Share of the 24-mers of a class that occur again somewhere."""
    all_words = np.concatenate([words(codes) for codes in genome.sequences])
    labels = np.concatenate([classes[: len(classes) - 23] for classes in genome.classes])
    _, inverse, counts = np.unique(all_words, return_inverse=True, return_counts=True)
    mine = (labels == label) & (all_words >= 0)
    return float((counts[inverse[mine]] > 1).mean())


def test_shares(genome: SimulatedGenome) -> None:
    assert [len(codes) for codes in genome.sequences] == [len(classes) for classes in genome.classes]
    assert sum(len(codes) for codes in genome.sequences) == OPTIONS.size
    share = np.bincount(np.concatenate(genome.classes), minlength=5) / OPTIONS.size
    assert share[SATELLITE] == pytest.approx(0.03, abs=0.001)
    assert 0.05 < share[SEGDUP] < 0.15  # the copies, 5 %, and their origins
    assert 0.1 < share[INTERSPERSED] < 0.3
    assert 0.02 < share[TANDEM] < 0.08
    assert share[UNIQUE] > 0.5
    assert all((classes == SATELLITE).any() for classes in genome.classes)


def test_repeats_are_where_the_map_says(genome: SimulatedGenome) -> None:
    assert repeated(genome, UNIQUE) < 0.03
    assert repeated(genome, SEGDUP) > 0.6
    assert repeated(genome, SATELLITE) > 0.8
    assert 0.03 < repeated(genome, INTERSPERSED) < repeated(genome, SATELLITE)


def test_exact_copies_stay_exact_on_both_strands() -> None:
    """Only exact duplications: every stretch of the class is found again, whole, some of them reversed."""
    options = HardGenomeOptions(size=600_000, n_contigs=2, exact_share=1.0)
    genome = make_hard_genome(options, 3)
    text = [codes.tobytes() for codes in genome.sequences]
    found = {"forward": 0, "reverse": 0}
    for codes, classes in zip(genome.sequences, genome.classes):
        edges = np.flatnonzero(np.diff((classes == SEGDUP).astype(np.int8), prepend=0, append=0))
        for start, stop in zip(edges[::2], edges[1::2]):
            piece = codes[start + 50 : start + 1050]  # the first of a stretch may be two that touch
            assert stop - start >= 2000
            forward = sum(t.count(piece.tobytes()) for t in text)
            reverse = sum(t.count(reverse_complement(piece).tobytes()) for t in text)
            assert forward + reverse >= 2
            found["forward"] += forward > 1
            found["reverse"] += reverse > 0
    assert min(found.values()) > 0


def test_monomers_and_copies_are_as_far_apart_as_promised() -> None:
    rng = np.random.default_rng(5)
    differences = []
    for _ in range(20):
        ancestor = background(171, rng)
        repeat = higher_order_repeat(ancestor, (0.3, 0.3), rng)
        pair = repeat[:171], repeat[171:342]
        differences.append(min(float((pair[0] != np.roll(pair[1], shift)).mean()) for shift in range(-4, 5)))
    assert 0.2 < float(np.median(differences)) < 0.42


def test_a_minisatellite_repeats_its_unit() -> None:
    piece = minisatellite(np.random.default_rng(2))
    assert len(piece) >= 50
    shares = [float((piece[p:] == piece[:-p]).mean()) for p in range(10, 61) if p < len(piece) - 20]
    assert max(shares) > 0.6


def test_same_seed_same_genome(genome: SimulatedGenome) -> None:
    again = make_hard_genome(OPTIONS, 7)
    other = make_hard_genome(OPTIONS, 8)
    assert all(np.array_equal(a, b) for a, b in zip(genome.sequences, again.sequences))
    assert all(np.array_equal(a, b) for a, b in zip(genome.classes, again.classes))
    assert not np.array_equal(genome.sequences[0], other.sequences[0])


def test_a_genome_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot have 3 contigs"):
        HardGenomeOptions(size=200_000)


def test_command_writes_the_map(tmp_path: Path) -> None:
    arguments = ["simulate", "--hard", "--outdir", str(tmp_path), "--genome-size", "400000", "--contigs", "2"]
    assert cli.main([*arguments, "--pairs", "10"]) == 0
    fasta = read_fasta(tmp_path / "ref.fa")
    lines = [line.split("\t") for line in (tmp_path / "classes.bed").read_text().splitlines()]
    assert {line[3] for line in lines} == set(CLASS_NAMES)
    for i, contig in enumerate(fasta.contigs):
        covered = np.zeros(contig.length, np.int64)
        for name, start, stop, _ in lines:
            if name == contig.name:
                covered[int(start) : int(stop)] += 1
        assert np.array_equal(covered == 1, fasta.fetch(i, 0, contig.length) < N)
        assert covered.max() == 1


def test_command_refuses_a_given_reference(tmp_path: Path) -> None:
    (tmp_path / "ref.fa").write_text(">a\nACGT\n")
    arguments = ["simulate", "--hard", "--outdir", str(tmp_path / "out"), "--reference", str(tmp_path / "ref.fa")]
    assert cli.main(arguments) == 2
    assert not (tmp_path / "out" / "R1.fastq.gz").exists()
