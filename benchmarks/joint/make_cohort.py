# SPDX-License-Identifier: Apache-2.0
"""Simulated gVCFs of a cohort, without reads: for measuring `megabolt joint`.

    python benchmarks/joint/make_cohort.py OUTDIR --samples 200 --bases 1000000 --seed 1

Writes ref.fa (with .fai) and S0001.g.vcf.gz ... with their indexes. Sites follow the neutral frequency spectrum at a
heterozygosity of 1e-3, a seventh are indels, some sites have two alternative alleles, deletions span other sites.
Reference blocks are as dense as those of real 30x gVCFs: one every 17 bases. Likelihoods are those of Poisson depth
and binomial reads, so genotypes can be wrong where depth is low. truth.tsv has the genotypes (position, ref, alts, and
one column per sample).
"""

from __future__ import annotations

import argparse
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from math import log10
from pathlib import Path

import numpy as np
import pysam
from numpy.typing import NDArray

from megabolt.formats.fasta import Contig, read_fasta
from megabolt.formats.vcf import header_text, write_vcf_text
from megabolt.privacy.consent import authorize

DEPTH, ERROR, HETEROZYGOSITY, BLOCK = 30, 0.002, 1e-3, 17.0
#: Samples take turns in so many profiles of coverage.
PROFILES = 8
LETTERS = np.frombuffer(b"ACGT", np.uint8)


@dataclass(frozen=True)
class Site:
    """start: 0-based. genotypes: int8 [n_samples, 2]."""

    start: int
    ref: str
    alts: tuple[str, ...]
    genotypes: NDArray[np.int8]


def make_sites(sequence: str, n_samples: int, rng: np.random.Generator) -> list[Site]:
    """Sites at least a base apart, deletions may reach over others."""
    n_copies = 2 * n_samples
    spectrum = 1 / np.arange(1, n_copies)
    n_sites = rng.poisson(HETEROZYGOSITY * len(sequence) * spectrum.sum())
    starts = np.unique(rng.integers(100, len(sequence) - 100, n_sites))
    counts = rng.choice(np.arange(1, n_copies), len(starts), p=spectrum / spectrum.sum())
    sites = []
    for start, count in zip(starts.tolist(), counts.tolist()):
        ref, alts = _alleles(sequence, start, rng)
        copies = np.zeros(n_copies, np.int8)
        carriers = rng.choice(n_copies, count, replace=False)
        copies[carriers] = rng.integers(1, len(alts) + 1, count)
        sites.append(Site(start, ref, alts, copies.reshape(n_samples, 2)))
    return sites


def _alleles(sequence: str, start: int, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    base = sequence[start]
    others = [one for one in "ACGT" if one != base]
    kind = rng.random()
    if kind < 0.85:
        n = 2 if rng.random() < 0.02 else 1
        return base, tuple(rng.choice(others, n, replace=False).tolist())
    size = int(min(40, rng.geometric(0.3)))
    # left-aligned: what is added or lost does not end like the base before it
    if kind < 0.92:
        added = [str(one) for one in rng.choice(list("ACGT"), size)]
        added[-1] = str(rng.choice(others))
        return base, (base + "".join(added),)
    while sequence[start + size] == base:
        size += 1
    return sequence[start : start + size + 1], (base,)


def _phred(reads: NDArray[np.int64]) -> list[int]:
    """PL of all diploid genotypes from reads by allele."""
    n, counts = len(reads), reads.tolist()
    values = []
    for b in range(n):
        for a in range(b + 1):
            p = [ERROR / n + 0.5 * (1 - ERROR) * ((k == a) + (k == b)) for k in range(n)]
            values.append(-10 * sum(count * log10(one) for count, one in zip(counts, p)))
    least = min(values)
    return [min(9999, round(one - least)) for one in values]


def sample_lines(
    contig: str, sequence: str, coverage: Coverage, sites: list[Site], sample: int, rng: np.random.Generator
) -> Iterator[bytes]:
    """The records of one sample: variants where it has one, reference blocks elsewhere."""
    lines: list[str] = []
    at = 0
    carried = np.flatnonzero(np.stack([site.genotypes[sample] for site in sites]).any(axis=1)).tolist()
    for site in (sites[k] for k in carried):
        pair = site.genotypes[sample]
        if site.start < at:
            continue  # under a deletion of its own
        lines += _block_lines(contig, sequence, coverage, at, site.start)
        alleles = (site.ref, *(site.alts[k - 1] for k in sorted(set(pair.tolist()) - {0})))
        chances = np.full(len(alleles) + 1, ERROR / (len(alleles) + 1))
        for one in pair.tolist():
            allele = site.ref if one == 0 else site.alts[one - 1]
            chances[alleles.index(allele)] += 0.5 * (1 - ERROR)
        reads = rng.multinomial(rng.poisson(DEPTH) + 1, chances / chances.sum())
        reads[-1] = 0
        pl = _phred(reads)
        best = pl.index(0)
        b = int((np.sqrt(8 * best + 1) - 1) / 2)
        gq = min(99, sorted(pl)[1])
        lines.append(
            f"{contig}\t{site.start + 1}\t.\t{site.ref}\t{','.join(alleles[1:])},<NON_REF>\t{max(3, pl[0])}\t.\t"
            f"DP={reads.sum()};MQ=60\tGT:AD:DP:GQ:PL\t{best - b * (b + 1) // 2}/{b}:{','.join(map(str, reads))}:"
            f"{reads.sum()}:{gq}:{','.join(map(str, pl))}\n"
        )
        at = site.start + len(site.ref)
    lines += _block_lines(contig, sequence, coverage, at, len(sequence))
    for k in range(0, len(lines), 1 << 14):
        yield "".join(lines[k : k + (1 << 14)]).encode()


@dataclass(frozen=True)
class Coverage:
    """Reference blocks of a sample without a variant: where each begins, its depth, its line, its end (last: the end of
    the contig)."""

    cuts: list[int]
    depths: list[int]
    lines: list[str]


def make_coverage(contig: str, sequence: str, rng: np.random.Generator) -> Coverage:
    """Blocks of exponential length and Poisson depth over the whole contig."""
    n_cuts = int(len(sequence) / BLOCK)
    cuts = np.unique(np.concatenate([[0, len(sequence)], rng.integers(0, len(sequence), n_cuts)])).tolist()
    depths = np.maximum(1, rng.poisson(DEPTH, len(cuts))).tolist()
    lines = [_block(contig, sequence, a, b, d) for a, b, d in zip(cuts, cuts[1:], depths)]
    return Coverage(cuts, depths, lines)


def _block(contig: str, sequence: str, start: int, stop: int, depth: int) -> str:
    return (
        f"{contig}\t{start + 1}\t.\t{sequence[start]}\t<NON_REF>\t.\t.\tEND={stop}\tGT:DP:GQ:MIN_DP:PL\t"
        f"0/0:{depth}:{min(99, 3 * depth)}:{depth}:0,{3 * depth},{27 * depth}\n"
    )


def _block_lines(contig: str, sequence: str, coverage: Coverage, start: int, stop: int) -> list[str]:
    """Blocks of [start, stop): those of the coverage, cut at both ends."""
    if start >= stop:
        return []
    first = bisect_right(coverage.cuts, start) - 1
    last = bisect_right(coverage.cuts, stop - 1) - 1
    if first == last:
        return [_block(contig, sequence, start, stop, coverage.depths[first])]
    head = _block(contig, sequence, start, coverage.cuts[first + 1], coverage.depths[first])
    tail = _block(contig, sequence, coverage.cuts[last], stop, coverage.depths[last])
    return [head, *coverage.lines[first + 1 : last], tail]


def make_cohort(outdir: Path, n_samples: int, n_bases: int, seed: int) -> list[Path]:
    """All files of a cohort; returns the gVCFs."""
    rng = np.random.default_rng(seed)
    outdir.mkdir(parents=True, exist_ok=True)
    sequence = LETTERS[rng.integers(0, 4, n_bases)].tobytes().decode()
    fasta = outdir / "ref.fa"
    with open(fasta, "w") as file:
        file.write(">sim1\n")
        file.writelines(sequence[k : k + 60] + "\n" for k in range(0, n_bases, 60))
    pysam.faidx(str(fasta))
    contigs: tuple[Contig, ...] = read_fasta(fasta).contigs
    sites = make_sites(sequence, n_samples, rng)
    names = [f"S{k + 1:04d}" for k in range(n_samples)]
    with open(outdir / "truth.tsv", "w") as file:
        for site in sites:
            pairs = "\t".join("/".join(map(str, sorted(pair))) for pair in site.genotypes.tolist())
            file.write(f"{site.start + 1}\t{site.ref}\t{','.join(site.alts)}\t{pairs}\n")
    coverages = [make_coverage("sim1", sequence, rng) for _ in range(min(PROFILES, n_samples))]
    paths = []
    for k, name in enumerate(names):
        permit = authorize(name, "simulation", open_data="benchmark: simulated genotypes")
        paths.append(outdir / f"{name}.g.vcf.gz")
        header = header_text(contigs, name, reference_name="ref.fa", source="make_cohort", gvcf=True)
        write_vcf_text(
            paths[-1], header, sample_lines("sim1", sequence, coverages[k % PROFILES], sites, k, rng), contigs, [permit]
        )
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--bases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(f"{len(make_cohort(args.outdir, args.samples, args.bases, args.seed))} gVCFs in {args.outdir}")


if __name__ == "__main__":
    main()
