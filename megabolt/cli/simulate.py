# SPDX-License-Identifier: Apache-2.0
"""Simulate a person's reads with known truth: genome, variants, FASTQ pairs.

Three ways to begin:
  --genome-size N       make a random genome with realistic repeats (the default, 1 Mb), plant variants; with
                        --hard one that tests mapping: young repeats, exact and near-exact segmental
                        duplications, alpha satellite, and their places in classes.bed;
  --reference REF.fa    plant variants into a given reference, or take those of a phased VCF (--variants);
  --haplotypes H1 H2    reads only, from two given haplotypes.

Order of operations:
  1. genome, or read the FASTA given;
  2. variants: SNPs, indels (half of them in tandem repeats), sites with two alternative alleles;
  3. two haplotypes, and reads drawn from them in turn;
  4. whole units gained or lost in tandem repeats of the fragment (--library), as often as was measured;
  5. errors according to the base qualities, which decay along the read.

Writes ref.fa (if made), classes.bed (--hard), truth.vcf.gz, truth.bed (all but N), R1.fastq.gz, R2.fastq.gz and
simulation.json. A read's name says where it comes from:
  sim<ordinal>_<haplotype>_<position><strand>_<position><strand>_<F or D>_<contig>
mate 1 first, positions 1-based, D for a PCR duplicate. truth.bam (--truth-bam) says it base by base. The same
seed and options give the same files, with truth.bam or without.

Example:
  megabolt simulate --outdir sim --genome-size 2000000 --depth 30 --seed 7
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from megabolt.cli import _options
from megabolt.errors import UsageError

log = logging.getLogger("megabolt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--outdir", type=Path, required=True, metavar="DIR", help="folder for all outputs")
    begin = parser.add_argument_group("what to begin with")
    begin.add_argument("--reference", type=Path, metavar="REF.fa", help="FASTA to plant variants into")
    begin.add_argument(
        "--variants",
        type=Path,
        metavar="VCF",
        help="phased variants to plant into --reference (a person's: --open-data)",
    )
    begin.add_argument(
        "--haplotypes",
        type=Path,
        nargs=2,
        metavar=("H1.fa", "H2.fa"),
        help="two haplotypes (a person's: --open-data)",
    )
    begin.add_argument("--genome-size", type=int, default=1_000_000, metavar="N", help="bases (default: 1000000)")
    begin.add_argument("--contigs", type=int, default=3, metavar="N", help="contigs of a made genome (default: 3)")
    begin.add_argument("--hard", action="store_true", help="a made genome that is hard to map to")
    amount = parser.add_argument_group("how much")
    amount.add_argument("--depth", type=float, default=30.0, metavar="X", help="mean depth (default: 30)")
    amount.add_argument("--pairs", type=int, metavar="N", help="number of read pairs, instead of --depth")
    amount.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same data (default: 1)")
    amount.add_argument("--sample", default="simulated", metavar="S", help="sample name (default: simulated)")
    reads = parser.add_argument_group("reads")
    reads.add_argument("--read-length", type=int, default=150, metavar="N", help="bases a read (default: 150)")
    reads.add_argument(
        "--insert", type=float, nargs=2, default=(420.0, 90.0), metavar=("MEAN", "SD"), help="default: 420 90"
    )
    reads.add_argument(
        "--duplicates", type=float, default=0.0, metavar="P", help="share of PCR duplicates (default: 0)"
    )
    reads.add_argument(
        "--substitution",
        type=float,
        default=0.0,
        metavar="P",
        help="extra wrong bases, whatever the quality says (default: 0)",
    )
    reads.add_argument("--profile", default="hiseqx", metavar="NAME", help="qualities: hiseqx (default) or novaseq")
    reads.add_argument(
        "--library",
        default="none",
        metavar="NAME",
        help="indel errors in tandem repeats: none (default), pcr-free or pcr (shared by duplicates)",
    )
    parser.add_argument("--truth-bam", action="store_true", help="also write truth.bam: each read's true alignment")
    _options.add_consent(parser)


def main(args: argparse.Namespace) -> int:
    for path in (args.reference, args.variants, *(args.haplotypes or ())):
        if path is not None:
            _options.check_readable(path, "input")
    _options.check_folder(args.outdir)
    from megabolt.privacy.consent import authorize
    from megabolt.simulate.genome import GenomeOptions
    from megabolt.simulate.hard import HardGenomeOptions
    from megabolt.simulate.job import SimulationRequest, run_simulate, run_simulate_from
    from megabolt.simulate.reads import ReadOptions
    from megabolt.simulate.slippage import outside_tracts

    if args.hard and (args.reference is not None or args.haplotypes is not None):
        raise UsageError("--hard is for a made genome", "Leave out --reference and --haplotypes.")
    kind = HardGenomeOptions if args.hard else GenomeOptions
    mean, sd = args.insert
    indel = outside_tracts(args.library) / 2
    request = SimulationRequest(
        outdir=args.outdir,
        seed=args.seed,
        depth=args.depth,
        pairs=args.pairs,
        sample=args.sample,
        reference=args.reference,
        phased=args.variants,
        haplotypes=tuple(args.haplotypes) if args.haplotypes else None,
        genome=kind(size=args.genome_size, n_contigs=args.contigs),
        reads=ReadOptions(
            length=args.read_length,
            insert_mean=mean,
            insert_sd=sd,
            duplicates=args.duplicates,
            substitution=args.substitution,
            insertion_error=indel,
            deletion_error=indel,
            profile=args.profile,
            library=args.library,
        ),
        truth_bam=args.truth_bam,
    )
    if request.phased is not None or request.haplotypes is not None:
        permit = authorize(args.sample, "simulate", open_data=args.open_data, audit_log=args.audit_log)
        summary = run_simulate_from(request, permit)
    else:
        if args.open_data is not None:
            raise UsageError(
                "--open-data is for --variants and --haplotypes only", "Leave it out: nothing is anyone's."
            )
        summary = run_simulate(request, args.audit_log)
    log.info("%d pairs, %d variants in %s", summary.n_pairs, summary.n_variants, args.outdir)
    return 0
