# SPDX-License-Identifier: Apache-2.0
"""A small sample for tests of whole jobs: a reference of three contigs, reads with planted SNPs in two lanes."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megabolt.align.index import build_index
from megabolt.formats.bases import decode, reverse_complement
from megabolt.formats.lane import FastqLane
from megabolt.reads.bins import BIN_BASES
from megabolt.workflow.read_groups import ReadGroup, read_groups
from megabolt.workflow.read_input import FastqInput

OPEN = "T. Tester: simulated for a test"
MEMORY = 2 << 30
LENGTHS = {"big": BIN_BASES + 30_000, "small": 20_000, "tiny": 12_000}
#: Where reads come from: the contig, start, stop. One stretch lies across the border of two bins.
COVERED = [
    ("big", 0, 20_000),
    ("big", BIN_BASES - 15_000, BIN_BASES + 15_000),
    ("small", 0, 20_000),
    ("tiny", 0, 12_000),
]
N_COPIES = 40


@dataclass
class ToySample:
    """A reference, its reads in two lanes, the planted SNPs: contig -> {0-based place: alternative}."""

    reference: Path
    lanes: list[FastqLane]
    snps: dict[str, dict[int, str]]
    n_pairs: int


def _fastq_record(rng: np.random.Generator, name: str, codes: Any) -> str:
    return f"@{name}\n{decode(codes)}\n+\n{''.join(chr(33 + q) for q in rng.choice([37, 25], len(codes)))}\n"


def _make_pairs(rng: np.random.Generator, genome: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    pairs: list[tuple[str, Any, Any]] = []
    for contig, first, last in COVERED:
        for _ in range((last - first) // 15):  # 20x
            start = int(rng.integers(first, last - 500))
            stop = start + int(rng.normal(400, 40))
            ends = genome[contig][start : start + 150], reverse_complement(genome[contig][stop - 150 : stop])
            pairs.append((f"p{len(pairs)}", *(ends if rng.random() < 0.5 else ends[::-1])))
    noise = rng.integers(0, 4, (40, 150)).astype(np.uint8)
    pairs += [(f"lone{k}", pairs[50 * k][1], noise[k]) for k in range(20)]
    pairs += [(f"none{k}", noise[20 + k], noise[k]) for k in range(20)]
    rng.shuffle(pairs)
    pairs += [(f"copy{k}", *pairs[7 * k][1:]) for k in range(N_COPIES)]
    return pairs


def make_sample(folder: Path) -> ToySample:
    """Write the reference, its index and the reads."""
    rng = np.random.default_rng(11)
    genome = {name: rng.integers(0, 4, length).astype(np.uint8) for name, length in LENGTHS.items()}
    reference = folder / "ref.fa"
    reference.write_text("".join(f">{name}\n{decode(codes)}\n" for name, codes in genome.items()))
    build_index(reference)
    snps: dict[str, dict[int, str]] = {}
    for contig, first, last in COVERED:
        for place in range(first + 700, last - 700, 900):
            genome[contig][place] ^= 1 + place % 3
            snps.setdefault(contig, {})[place] = decode(genome[contig][place : place + 1])
    pairs = _make_pairs(rng, genome)
    paths: list[list[Path]] = [[], []]
    half = len(pairs) // 2
    for lane, part in enumerate((pairs[:half], pairs[half:])):
        for mate in (1, 2):
            path = folder / f"L{lane}_R{mate}.fastq.gz"
            with gzip.open(path, "wt", compresslevel=1) as file:
                file.write("".join(_fastq_record(rng, f"{pair[0]}/{mate}", pair[mate]) for pair in part))
            paths[mate - 1].append(path)
    return ToySample(reference, [FastqLane(*lane) for lane in zip(*paths)], snps, len(pairs))


GROUPS = read_groups("s", [f"@RG\\tID:lane{k}\\tLB:lib" for k in (1, 2)], 2)


def fastq(
    sample: ToySample, lanes: Sequence[FastqLane] = (), groups: Sequence[ReadGroup] = GROUPS, umi: str | None = None
) -> FastqInput:
    """The sample's reads, or others."""
    return FastqInput(tuple(lanes or sample.lanes), tuple(groups), umi)


def arguments(sample: ToySample, **changes: Any) -> dict[str, Any]:
    """Of `run_align` and its like."""
    given = {
        "reference": sample.reference, "reads": fastq(sample), "sample": "s",
        "threads": 2, "memory": MEMORY, "open_data": OPEN,
    }  # fmt: skip
    return given | changes
