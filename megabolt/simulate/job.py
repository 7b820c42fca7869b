# SPDX-License-Identifier: Apache-2.0
"""A whole simulation: genome or haplotypes, variants, reads, and a summary of what was made.

In: plain arguments. Out: files in one folder and a `SimulationSummary`. Next: `megabolt germline`, `compare`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megabolt import __version__
from megabolt.errors import OutputError, UsageError
from megabolt.formats.fasta import read_fasta
from megabolt.formats.output import atomic_output, output_error
from megabolt.privacy.consent import Permit, authorize
from megabolt.simulate import files
from megabolt.simulate.genome import GenomeOptions, make_genome
from megabolt.simulate.haplotypes import Contig, PhasedVariant, diploid_source
from megabolt.simulate.hard import HardGenomeOptions, make_hard_genome
from megabolt.simulate.reads import ReadOptions, Source, plain_source, simulate_reads
from megabolt.simulate.truth import reads_with_truth
from megabolt.simulate.variants import VariantOptions, plant_variants

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SimulationRequest:
    """What to simulate. At most one of `reference` and `haplotypes`; neither: a genome is made.

    Parameters
    ----------
    outdir
        Where the files go; made if need be.
    reference
        FASTA to plant variants into.
    phased
        With `reference`: take the variants of this phased VCF instead of planting random ones.
    haplotypes
        FASTA of haplotype 1 and of haplotype 2: reads only, in the haplotypes' own coordinates.
    depth
        Mean depth over the bases that are not N; ignored if `pairs` is given.
    pairs
        Number of read pairs.
    truth_bam
        Write truth.bam, the true alignment of every read.
    """

    outdir: Path
    seed: int = 1
    depth: float = 30.0
    pairs: int | None = None
    sample: str = "simulated"
    reference: Path | None = None
    phased: Path | None = None
    haplotypes: tuple[Path, Path] | None = None
    genome: GenomeOptions | HardGenomeOptions = field(default_factory=GenomeOptions)
    variants: VariantOptions = field(default_factory=VariantOptions)
    reads: ReadOptions = field(default_factory=ReadOptions)
    truth_bam: bool = False

    def __post_init__(self) -> None:
        if self.reference is not None and self.haplotypes is not None:
            raise UsageError("--reference and --haplotypes exclude each other", "Give one of them.")
        if self.phased is not None and self.reference is None:
            raise UsageError("--variants needs --reference", "Name the FASTA that the VCF belongs to.")
        if self.truth_bam and self.haplotypes is not None:
            raise UsageError("--truth-bam needs a reference", "Give --reference and --variants, not --haplotypes.")
        if self.seed < 0:
            raise UsageError(f"the seed {self.seed} is negative", "Give a whole number of 0 or more.")
        if self.pairs is not None and self.pairs < 1:
            raise UsageError(f"{self.pairs} pairs cannot be made", "Give a number of at least 1.")
        if self.pairs is None and not 0 < self.depth <= 100_000:
            raise UsageError(f"the depth {self.depth} is not above 0", "30 is usual.")
        if not self.sample or any(letter.isspace() for letter in self.sample):
            raise UsageError(f"the sample name {self.sample!r} is empty or has blanks in it")


@dataclass(frozen=True)
class SimulationSummary:
    """What was made: paths by role, the number of pairs and of variants."""

    files: dict[str, Path]
    n_pairs: int
    n_variants: int


def run_simulate(request: SimulationRequest, audit_log: Path | None = None) -> SimulationSummary:
    """Simulate and write everything into `request.outdir`.

    The permit is the simulation's own: what is made here is nobody's data. A phased VCF or haplotypes
    that are given may be somebody's; `run_simulate_from` takes the permit for them.
    """
    if request.phased is not None or request.haplotypes is not None:
        raise UsageError("given haplotypes or variants need a declaration", "Give --open-data.")
    declaration = f"simulated by megabolt simulate, seed {request.seed}"
    permit = authorize(request.sample, "simulate", open_data=declaration, audit_log=audit_log)
    return run_simulate_from(request, permit)


def run_simulate_from(request: SimulationRequest, permit: Permit) -> SimulationSummary:
    """Simulate under a permit for the sequences the request names."""
    _make_folder(request.outdir)
    paths: dict[str, Path] = {}
    variants: list[PhasedVariant] = []
    if request.haplotypes is not None:
        source = plain_source([_read_haplotype(path, permit) for path in request.haplotypes])
    else:
        contigs = _reference(request, paths)
        if request.phased is not None:
            variants = files.read_phased_variants(request.phased, contigs, permit)
        else:
            variants = plant_variants(contigs, request.variants, request.seed)
        source = diploid_source(contigs, variants)
        paths["truth"] = request.outdir / "truth.vcf.gz"
        files.write_truth(paths["truth"], contigs, variants, request.sample, permit)
        paths["regions"] = request.outdir / "truth.bed"
        files.write_called_regions(paths["regions"], contigs)
    n_pairs = request.pairs or pairs_for_depth(source, request.depth, request.reads.length)
    paths["mate1"], paths["mate2"] = (request.outdir / f"R{mate}.fastq.gz" for mate in (1, 2))
    if request.truth_bam:
        paths["alignments"] = request.outdir / "truth.bam"
        reference = paths.get("reference", request.reference)
        assert reference is not None  # SimulationRequest refuses haplotypes with truth_bam
        batches = reads_with_truth(
            source, n_pairs, request.seed, request.reads, read_fasta(reference).contigs, paths["alignments"], permit
        )
    else:
        batches = simulate_reads(source, n_pairs, request.seed, request.reads)
    files.write_fastq_pair(paths["mate1"], paths["mate2"], batches, permit)
    summary = SimulationSummary(paths, n_pairs, len(variants))
    _write_summary(request, summary)
    return summary


def pairs_for_depth(source: Source, depth: float, length: int) -> int:
    """Pairs that give this mean depth; a base of the genome is two bases of the source."""
    return max(1, round(depth * source.called_bases / 2 / (2 * length)))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder} is a file", "Choose another folder for --outdir.") from error
    except OSError as error:
        raise output_error(folder, error) from error


def _contigs_of(path: Path) -> list[Contig]:
    fasta = read_fasta(path)
    return [(contig.name, fasta.fetch(i, 0, contig.length)) for i, contig in enumerate(fasta.contigs)]


def _read_haplotype(path: Path, permit: Permit) -> Sequence[Contig]:
    permit.record("open-read", path)
    return _contigs_of(path)


def _reference(request: SimulationRequest, paths: dict[str, Path]) -> list[Contig]:
    if request.reference is not None:
        return _contigs_of(request.reference)
    if isinstance(request.genome, HardGenomeOptions):
        genome = make_hard_genome(request.genome, request.seed)
        paths["classes"] = request.outdir / "classes.bed"
        files.write_classes(paths["classes"], genome)
    else:
        genome = make_genome(request.genome, request.seed)
    paths["reference"] = request.outdir / "ref.fa"
    files.write_genome(paths["reference"], genome)
    return list(zip(genome.names, genome.sequences))


def _write_summary(request: SimulationRequest, summary: SimulationSummary) -> None:
    """simulation.json: enough to make the same files again."""
    options = asdict(request)
    del options["outdir"]
    report = {
        "schema_version": SCHEMA_VERSION,
        "megabolt": __version__,
        "request": options,
        "files": {role: path.name for role, path in summary.files.items()},
        "n_pairs": summary.n_pairs,
        "n_variants": summary.n_variants,
    }
    with atomic_output(request.outdir / "simulation.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
