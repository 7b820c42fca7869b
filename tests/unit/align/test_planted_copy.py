# SPDX-License-Identifier: Apache-2.0
"""A block that the genome holds twice: whatever is in a read, nobody can tell which copy it comes from.

Indels are what tempts an aligner: a rival that is scored less carefully than the winner looks worse than it is.
"""

from __future__ import annotations

import numpy as np
import pysam
import pytest
from numpy.typing import NDArray

from megabolt.cli import main as cli
from megabolt.formats.bases import decode, reverse_complement

LENGTH, INSERT, BLOCK = 150, 420, 2000
SIZES = (1, 2, 3, 5, 8, 12, 13, 16, 20, 25, 30)


def random_codes(rng: np.random.Generator, n: int) -> NDArray[np.uint8]:
    return rng.integers(0, 4, n).astype(np.uint8)


def with_indel(codes: NDArray[np.uint8], at: int, change: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Insert (change > 0) or delete bases at a place."""
    if change > 0:
        return np.concatenate([codes[:at], random_codes(rng, change), codes[at:]])
    return np.concatenate([codes[:at], codes[at - change :]])


@pytest.fixture(scope="module", params=["same strand", "other strand"])
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[pysam.AlignedSegment]:
    """Primary records of pairs from inside the block (names b...) and of pairs from elsewhere (u...)."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(17)
    block = random_codes(rng, BLOCK)
    copy = block if request.param == "same strand" else reverse_complement(block)
    one = np.concatenate([random_codes(rng, 20_000), block, random_codes(rng, 20_000)])
    two = np.concatenate([random_codes(rng, 9_000), copy, random_codes(rng, 9_000)])
    reference = folder / "ref.fa"
    reference.write_text(f">one\n{decode(one)}\n>two\n{decode(two)}\n")
    texts: list[list[str]] = [[], []]

    def put(name: str, fragment: NDArray[np.uint8]) -> None:
        ends = [fragment[:LENGTH], reverse_complement(fragment)[:LENGTH]]
        for text, bases in zip(texts, ends if rng.random() < 0.5 else ends[::-1]):
            text.append(f"@{name}\n{decode(bases)}\n+\n{'F' * LENGTH}\n")

    for k in range(1200):
        size = SIZES[k % len(SIZES)] * (1 if k // len(SIZES) % 2 else -1)
        piece = INSERT + 40 + int(rng.normal(0, 30))
        start = int(rng.integers(0, BLOCK - piece))
        fragment = with_indel(block[start : start + piece], int(rng.integers(5, LENGTH - 5)), size, rng)
        put(f"b{k}_{size}", fragment if k % 2 else reverse_complement(fragment))
    for k in range(1200):
        start = int(rng.integers(0, 20_000 - INSERT - 100))
        put(f"u{k}", one[start : start + INSERT + int(rng.normal(0, 30))])
    for mate, text in enumerate(texts, 1):
        (folder / f"R{mate}.fastq").write_text("".join(text))
    assert cli.main(["index", "-q", str(reference)]) == 0
    arguments = ["align", "-q", "--reference", str(reference), "--sample", "S", "--threads", "2"]
    arguments += ["-1", str(folder / "R1.fastq"), "-2", str(folder / "R2.fastq"), "-o", str(folder / "out.bam")]
    assert cli.main([*arguments, "--open-data", "simulated for a test"]) == 0
    with pysam.AlignmentFile(str(folder / "out.bam")) as file:
        found = [record for record in file.fetch(until_eof=True) if record.flag & 0x900 == 0]
    assert len(found) == 4800
    return found


def test_reads_of_the_copy_have_mapq_0(records: list[pysam.AlignedSegment]) -> None:
    wrong = [
        f"{record.query_name} {record.reference_name}:{record.reference_start} {record.cigarstring}"
        f" MAPQ {record.mapping_quality}"
        for record in records
        if record.query_name.startswith("b") and record.mapping_quality > 0
    ]
    assert wrong == []


def test_both_copies_are_chosen_equally_often(records: list[pysam.AlignedSegment]) -> None:
    placed = [record.reference_name for record in records if record.query_name.startswith("b")]
    assert None not in placed
    assert 0.42 < placed.count("one") / len(placed) < 0.58


def test_mates_lie_on_the_same_copy(records: list[pysam.AlignedSegment]) -> None:
    assert all(
        record.reference_id == record.next_reference_id for record in records if record.query_name.startswith("b")
    )


def test_elsewhere_reads_are_sure(records: list[pysam.AlignedSegment]) -> None:
    elsewhere = [record.mapping_quality for record in records if record.query_name.startswith("u")]
    assert np.mean([quality >= 50 for quality in elsewhere]) > 0.995
