# SPDX-License-Identifier: Apache-2.0
"""Real reads with truth: NA12878 at 52x and HG002 at 30x, 100 kb each, as their published BAMs align them.

Compared by trimmed alleles (position, ref, alt) without genotypes: simple, and a little stricter than a
haplotype-aware comparison where truth writes a complex variant differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pysam
import pytest
from numpy.typing import NDArray

from megabolt.call.engine import CallOptions, call_chunk
from megabolt.formats.bam import read_records
from megabolt.formats.fasta import Contig, FastaReference, read_fasta
from megabolt.formats.vcf import VcfRecord, read_vcf
from megabolt.privacy.consent import Permit, authorize

Allele = tuple[int, str, str]
START, STOP = 10_000_000, 10_100_000
#: The mini reference begins here on chromosome 20 (0-based).
ORIGIN = 9_995_000


@dataclass(frozen=True)
class SliceReference:
    """The mini reference in chromosome coordinates, with the contigs of a BAM header."""

    contigs: tuple[Contig, ...]
    slice: FastaReference
    path: Path

    def fetch(self, contig: int, start: int, stop: int) -> NDArray[np.uint8]:
        return self.slice.fetch(0, start - ORIGIN, stop - ORIGIN)


@dataclass(frozen=True)
class RealSet:
    folder: str
    bam: str
    contig: str
    truth: str
    confident: str
    n_snps: int
    n_indels: int


SETS = [
    RealSet(
        "na12878_chr20_10.0M_platinum52x_hg19",
        "NA12878_S1.chr20.10_10p1mb.bam",
        "chr20",
        "truth.HG001_v3.3.2.chr20_10.0-10.1M.vcf.gz",
        "truth.giab.chr20_10.0-10.1M.confident.bed",
        n_snps=45,
        n_indels=4,
    ),
    RealSet(
        "hg002_chr20_10.0M_nist30x_hg19",
        "HG002.chr20_10.0-10.1M.bam",
        "20",
        "truth.HG002_v4.2.1_lifted.20_10.0-10.1M.orig.vcf.gz",
        "truth.HG002_v4.2.1_lifted.20_10.0-10.1M.orig.confident.bed",
        n_snps=206,
        n_indels=28,
    ),
]


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    return authorize("GIAB", "test", open_data="test suite: GIAB, open consent", audit_log=tmp_path / "audit.jsonl")


def alleles(records: list[VcfRecord], regions: list[tuple[int, int]], min_qual: float = 0.0) -> set[Allele]:
    """Called alternative alleles inside the regions, trimmed to what they change."""
    found = set()
    for r in records:
        called = {int(a) for a in r.genotype["GT"].replace("|", "/").split("/") if a not in ".0"}
        for a in called:
            start, ref, alt = r.start, r.ref, r.alts[a - 1]
            if alt == "*":
                continue
            while len(ref) > 1 and len(alt) > 1 and ref[-1] == alt[-1]:
                ref, alt = ref[:-1], alt[:-1]
            while len(ref) > 1 and len(alt) > 1 and ref[0] == alt[0]:
                start, ref, alt = start + 1, ref[1:], alt[1:]
            if (r.qual or 0) >= min_qual and any(s <= start and start + len(ref) <= e for s, e in regions):
                found.add((start, ref, alt))
    return found


def is_snp(allele: Allele) -> bool:
    return len(allele[1]) == len(allele[2]) == 1


@pytest.mark.parametrize("case", SETS, ids=lambda c: c.folder.split("_")[0])
def test_recall_and_precision(case: RealSet, shared_data: Path, permit: Permit) -> None:
    folder = shared_data / case.folder
    with pysam.AlignmentFile(str(folder / case.bam)) as bam:
        contigs = tuple(Contig(n, length, "") for n, length in zip(bam.references, bam.lengths))
        contig = bam.references.index(case.contig)
    reference = SliceReference(contigs, read_fasta(folder / "ref.20_9995001_11095000.mini.fa"), folder)
    block = read_records(folder / case.bam, permit)
    records = call_chunk(block, reference, contig, START, STOP, CallOptions()).variants

    with open(folder / case.confident) as bed:
        regions = [(int(c[1]), int(c[2])) for c in (line.split() for line in bed) if len(c) >= 3]
    truth = alleles(list(read_vcf(folder / case.truth, permit)), regions)
    called = alleles(records, regions, min_qual=20)
    assert sum(map(is_snp, truth)) >= 0.97 * case.n_snps  # the truth was read at all

    missed, spurious = truth - called, called - truth
    assert sum(map(is_snp, missed)) <= 0.02 * case.n_snps, sorted(missed)
    assert sum(not is_snp(a) for a in missed) <= 0.10 * case.n_indels, sorted(missed)
    assert len(spurious) <= 0.02 * len(truth), sorted(spurious)
